r"""How far the one step from data to t_0 is off, measured beyond t_0, where the flow can be walked instead.

With r = σ²/α² the step from 0 to r leaves an error e(r) ≈ c r² in log p(x). One step to 2r, against one step to r and the
flow from there on, are two ways to one place:

    log p(x) = log p(y_A) + J_A + e(2r) = log p(y_B) + J_B + e(r),   log p(y_A) − log p(y_B) = ∫ s·dy from y_B to y_A,

so that what they disagree by is d_2 = e(2r) − e(r) ≈ 3 e(r); it is reported whole, displacement and volume by their absolute
values, which do not cancel where e crosses zero. Where r is no longer small e grows less than fourfold a doubling, and
the difference misses what both have in common. A second doubling, d_4 = e(4r) − e(r), tells: the growth is ρ = d_4/d_2 − 1,
and if the doublings below r went on alike they would add up to e(r) = d_2/(ρ − 1). So

    entry error = d_2 / clamp(ρ − 1, 1/10, 1).

Where ρ − 1 is below a tenth the doublings do not shrink, and how many there are below r is not in them: a law narrower
than the noise of t_0 by a factor u^{1/2} in a direction has log u of them, each of ½ log 2. There the volume is had from
the denoiser's Jacobian J = ∂x̂_0/∂x instead. A locally Gaussian law of covariance C has J = C (C + r)^{-1}, so that the flow
from 0 to r stretches by −½ log det J and the step says ½ tr(I − J): the entry error is then at least

    v = ½ Σ_i (J_i − 1 − log J_i),   J_i the eigenvalues of J.

It is infinite, unknown, where J is not had whole (probes, or many dimensions), or has an eigenvalue that rounding hides.
What is finer than that Gaussian can be heard at no level from t_0 on, and is no part of what is told.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from unidiff.core.level import NoiseLevel
from unidiff.score.derivatives import jacobian
from unidiff.score.flow import state_scale
from unidiff.score.volume import VolumePath

_STEPS = 2
"""Of Dormand and Prince's method in a doubling of the variance: 1e-4 of the difference, at the worst."""
_SHRINKS = 0.1
_MOST_NUMBERS = 2**24
"""Of the Jacobians of a batch."""


def entry_error(path: VolumePath) -> Tensor:
    """The step's error in log p(x), ``[B]``, in nats, over-estimated about threefold where σ_0/α_0 is small.

    Where it is not small beside the data's own scale it tells the size, not the number, or is infinite. 0 where the flow
    does not go to the data; infinite where the schedule ends within two doublings of t_0, and there is no room to measure.
    """
    flow, rows = path.flow, path.x.shape[0]
    if not flow.to_data:
        return path.x.new_zeros(rows)
    high, low = flow.ends.log_snr.tolist()
    if high - 2 * math.log(2.0) < low:
        return path.x.new_full((rows,), math.inf)
    once, twice = flow.levels_at([high - math.log(2.0), high - 2 * math.log(2.0)], path.x)
    angles = [math.atan(math.exp(-0.5 * (high - k * math.log(2.0)))) for k in range(3)]
    there = path.walk(path.start, angles[0], angles[1], "dopri5", _STEPS, None)
    two = _disagreement(path, once, there)
    four = _disagreement(path, twice, path.walk(there, angles[1], angles[2], "dopri5", _STEPS, None))
    growth = torch.where(two > 0, four / two - 1, 2.0)
    told, endless = two / (growth - 1).clamp(_SHRINKS, 1.0), growth - 1 < _SHRINKS
    if bool(endless.any()):
        told = torch.where(endless, torch.maximum(told, _unresolved(path)), told)
    return told


def _unresolved(path: VolumePath) -> Tensor:
    """v, ``[B]``: the volume that the step misses of a locally Gaussian law; infinite where it is not known."""
    flow, x, dim = path.flow, path.x, path.x[0].numel()
    if path.probes is not None or x.numel() * dim > _MOST_NUMBERS:
        return x.new_full((x.shape[0],), math.inf)
    path.evaluations += 1
    slope = jacobian(flow.denoiser_at(flow.ends[0].to(x)), x)[1]
    values = torch.linalg.eigvalsh(0.5 * (slope + slope.mT))
    hidden = values[:, 0] <= dim * torch.finfo(x.dtype).eps * values[:, -1]
    return torch.where(hidden, math.inf, 0.5 * (values - 1 - values.log()).sum(1))


def _disagreement(path: VolumePath, level: NoiseLevel, walked: Tensor) -> Tensor:
    """Between one step to ``level`` and what was walked there, ``[B]``."""
    (stepped, own), (walked, stretch) = path.parts(path.step(level)), path.parts(walked)
    way = stepped - walked
    # Simpson's rule along the straight line between the two places.
    slope = sum(
        weight * _slope(path, level, walked + share * way) for share, weight in ((0, 1 / 6), (0.5, 2 / 3), (1, 1 / 6))
    )
    return (own - stretch).mean(1).abs() + (slope * way).flatten(1).sum(1).abs()


def _slope(path: VolumePath, level: NoiseLevel, y: Tensor) -> Tensor:
    """∇_y of the log-density that the flow carries, ``[B, *E]``: ρ s."""
    path.evaluations += 1
    scale = state_scale(level)
    return scale * path.flow.prediction(scale * y, level).score
