r"""Uniform dequantisation (Theis et al. 2016, eq. 4): x + w·u, u ~ U[−½, ½)^D, for data on levels w apart.

    log P(x) = log ∫ p(x + w u) w^D du ≥ E_u log p(x + w u) + D log w

so the density's mean, in bits of the raw data (``scale=w``), bounds the bits of the levels from above.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unidiff.core.boundary import check_generator, check_state
from unidiff.core.decoders import Levels, check_levels


def dequantise(x0: Tensor, levels: Levels, generator: torch.Generator | None = None) -> Tensor:
    """x_0 ``[B, *E]`` spread evenly over its cells.

    Raises:
        TypeError, ValueError: x0 is no state, or holds numbers that are not on the levels; levels are none.
    """
    check_state("x0", x0)
    check_generator(generator, x0.device)
    check_levels(levels).index(x0)
    u = torch.rand(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
    return x0 + levels.width * (u - 0.5)
