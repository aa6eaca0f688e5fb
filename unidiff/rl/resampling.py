r"""Resampling: n particles of weights W_i (Σ W_i = 1) become particles of equal weight, each with N_i copies,

    E[N_i] = m W_i     for m draws,

which is all that the unbiasedness of Ẑ asks of a scheme (Del Moral 2004, section 2.4; Douc, Cappé & Moulines 2005). All
three schemes read the inverse of the weights' distribution function at m points of [0, 1):

    multinomial   m independent uniforms
    stratified    one uniform in each m-th of [0, 1)
    systematic    one uniform for all: (i + u)/m, so that N_i is ⌊m W_i⌋ or ⌈m W_i⌉
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

Scheme = Literal["systematic", "stratified", "multinomial"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)


def ancestors(
    log_weights: Tensor, draws: int, scheme: Scheme = "systematic", generator: torch.Generator | None = None
) -> Tensor:
    """Whom each draw copies, ``[R, draws]``, for the particles of R independent runs. Arguments are trusted.

    Args:
        log_weights: ``[R, n]``, float64, finite, up to a constant for each run.
        draws: m.
        scheme: how the m points are drawn.
        generator: on the weights' device.
    """
    runs = len(log_weights)
    width = 1 if scheme == "systematic" else draws
    points = torch.rand(runs, width, generator=generator, dtype=torch.float64, device=log_weights.device)
    if scheme != "multinomial":
        points = (torch.arange(draws, dtype=torch.float64, device=log_weights.device) + points) / draws
    heights = torch.softmax(log_weights, 1).cumsum(1)
    # The last height is 1 and the last point below it, whatever the sums round to: no particle past the end is drawn.
    heights = heights / heights[:, -1:]
    return torch.searchsorted(heights, points.clamp(max=1 - torch.finfo(torch.float64).eps), right=True)
