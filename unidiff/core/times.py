r"""Times for training: stratified, one uniform draw for a whole batch (Kingma et al. 2021, appendix I.1).

    t_i = (u + i/B) mod 1,   u ~ U[0, 1),   i = 0 … B − 1

Each t_i alone is uniform, so the loss stays unbiased; together they fall one to each interval of length 1/B, so the
estimate's variance over t is that of a shifted lattice rather than of B independent draws.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unidiff.core.boundary import check_count
from unidiff.core.schedule import Schedule

MARGIN = 1e-5
"""How far to stay from an end at which λ is infinite (Song et al. 2021, appendix C, for t → 0)."""


def antithetic_times(
    n: int,
    generator: torch.Generator | None = None,
    *,
    span: tuple[float, float] = (0.0, 1.0),
    device: torch.device | str | None = None,
) -> Tensor:
    """The t_i ``[n]``, float64, scaled to ``span``; in order of i, so shuffle neither them nor the data by t.

    Raises:
        ValueError: n below 1, or span not 0 ≤ first < last ≤ 1.
    """
    check_count("n", n)
    first, last = span
    if not 0.0 <= first < last <= 1.0:
        raise ValueError(f"span must be 0 <= first < last <= 1, got {span}")
    if device is None:
        device = "cpu" if generator is None else generator.device
    start = torch.rand((), generator=generator, dtype=torch.float64, device=device)
    t = (start + torch.arange(n, dtype=torch.float64, device=device) / n) % 1.0
    return first + (last - first) * t


def finite_span(schedule: Schedule) -> tuple[float, float]:
    """[0, 1], less :data:`MARGIN` at an end where the schedule's λ is infinite (linear β and DDPM have one at t = 0)."""
    ends = schedule.log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64)).detach()
    first, last = torch.isfinite(ends).tolist()
    return (0.0 if first else MARGIN), (1.0 if last else 1.0 - MARGIN)
