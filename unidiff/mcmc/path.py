r"""A difference of log-densities from the score alone: the fundamental theorem along a straight path.

    log π(y) − log π(x) = ∫_0^1 s(x + u (y − x))·(y − x) du

by the five-point Gauss–Lobatto rule on each of P equal panels of [0, 1]: exact for a log-density that is a polynomial
of degree 8 along the path, error O(P⁻⁸) for a smooth one. Lobatto, not Gauss–Legendre, because a Metropolis step has
both end points' scores anyway: 4P − 1 new evaluations. The three-point rule (Simpson's) on the same panels shares all
its nodes; the difference of the two estimates Simpson's error, of order P⁻⁴, and stands in for the five-point rule's,
which is smaller where both have begun to converge (Abramowitz & Stegun 1964, 25.4.32; Davis & Rabinowitz 1984, section
4.9). It is an estimate, no bound. On a mixture of scales 0.15 to 0.55, at one panel, the true error exceeds it in none
of 20 000 moves of 0.2 an axis, in 0.2% of moves of 0.5, 2% of 1 and 12% of 3. It is to be believed on paths no longer
than the law's scales, where it is a tenth of a nat or less; beyond, take more panels or shorter moves.

The value is antisymmetric, log π(y) − log π(x) = −(log π(x) − log π(y)), node by node. For a learned score that is no
gradient field it depends on the path: detailed balance then holds pair by pair with the straight path's work, and the
law that is kept is only as well defined as the field is conservative.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

_OFFSET = math.sqrt(3 / 7)
# Nodes on [0, 1] and the weights of the five- and of the three-point rule, each of sum 1.
_NODES = (0.0, 0.5 - 0.5 * _OFFSET, 0.5, 0.5 + 0.5 * _OFFSET, 1.0)
_FIVE = (1 / 20, 49 / 180, 16 / 45, 49 / 180, 1 / 20)
_THREE = (1 / 6, 0.0, 2 / 3, 0.0, 1 / 6)


def log_ratio(
    score: Callable[[Tensor], Tensor], x: Tensor, at_x: Tensor, y: Tensor, at_y: Tensor, panels: int = 1
) -> tuple[Tensor, Tensor]:
    """log π(y) − log π(x) in nats, ``[B]``, and the estimate of its error ``[B]``, signed.

    Args:
        score: ``[B, *E] -> [B, *E]``, in units of 1/x.
        x, y: the ends of the path, ``[B, *E]``.
        at_x, at_y: the score there, already known, ``[B, *E]``.
        panels: P ≥ 1; the cost is 4P − 1 evaluations.
    """
    along = y - x
    total, coarse = x.new_zeros(x.shape[0]), x.new_zeros(x.shape[0])
    slope = _along(at_x, along)
    for panel in range(panels):
        for node, five, three in zip(_NODES, _FIVE, _THREE, strict=True):
            if node > 0:
                u = (panel + node) / panels
                slope = _along(at_y if u == 1 else score(torch.add(x, along, alpha=u)), along)
            total = torch.add(total, slope, alpha=five / panels)
            coarse = torch.add(coarse, slope, alpha=three / panels)
    return total, total - coarse


def _along(score: Tensor, direction: Tensor) -> Tensor:
    return (score * direction).flatten(1).sum(1)
