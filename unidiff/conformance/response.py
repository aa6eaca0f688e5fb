r"""What a sampler's states answer to: the affine map of (start, x̂_0's, draws) that one walk is.

With x̂_0 independent of the state, x_k = a_k x_T + Σ_j b_kj x̂_0^{(j)} + Σ_j c_kj ε_j. Rows of the batch: the start alone,
then each call of the network alone, then each draw alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unidiff.conformance.draws import Draws
from unidiff.conformance.target import Target, Walk


@dataclass(frozen=True)
class Response:
    """Coefficients of each state, float64.

    Attributes:
        walk: whose.
        start: a ``[K + 1]``.
        answers: b ``[K + 1, C]``.
        draws: c ``[K + 1, J]``.
    """

    walk: Walk
    start: Tensor
    answers: Tensor
    draws: Tensor


def response(target: Target, steps: int) -> Response:
    """One walk counts calls and draws, a second is fed unit vectors."""
    calls = 0

    def zeros(x: Tensor, alpha: float, sigma: float) -> Tensor:
        nonlocal calls
        calls += 1
        return torch.zeros_like(x)

    with torch.no_grad(), torch.random.fork_rng(devices=[]), Draws() as counted:
        target.walk(zeros, lambda alpha, sigma: torch.zeros(1, 1, dtype=torch.float64), steps)
    asked, drawn = calls, counted.count
    start = torch.zeros(1 + asked + drawn, 1, dtype=torch.float64)
    start[0] = 1.0
    calls = 0

    def units(x: Tensor, alpha: float, sigma: float) -> Tensor:
        nonlocal calls
        answer = torch.zeros_like(x)
        calls += 1
        answer[calls] = 1.0
        return answer

    with torch.no_grad(), torch.random.fork_rng(devices=[]), Draws(first=1 + asked, rows=len(start)):
        walk = target.walk(units, lambda alpha, sigma: start.clone(), steps)
    rows = walk.states[..., 0].to(torch.float64)
    return Response(walk, rows[:, 0], rows[:, 1 : 1 + asked], rows[:, 1 + asked :])


def law(target: Target, mean: float, variance: float, steps: int) -> tuple[Walk, Tensor, Tensor]:
    """The walk's law on N(mean, variance) with its exact denoiser: (walk, mean ``[K + 1]``, variance ``[K + 1]``)."""

    def exact(x: Tensor, alpha: float, sigma: float) -> Tensor:
        # E[x_0 | x_t] of a Gaussian; the conformance of worlds.Gaussian is another matter and another test.
        return mean + variance * alpha / (alpha**2 * variance + sigma**2) * (x - alpha * mean)

    def walked(rows: int) -> tuple[Walk, int]:
        def start(alpha: float, sigma: float) -> Tensor:
            x = torch.full((rows, 1), alpha * mean, dtype=torch.float64)
            x[1] += (alpha**2 * variance + sigma**2) ** 0.5
            return x

        with torch.no_grad(), torch.random.fork_rng(devices=[]), Draws(first=2, rows=rows) as draws:
            return target.walk(exact, start, steps), draws.count

    walk, drawn = walked(2)
    if drawn:
        walk, _ = walked(2 + drawn)
    rows = walk.states[..., 0].to(torch.float64)
    return walk, rows[:, 0], (rows[:, 1:] - rows[:, :1]).square().sum(1)
