r"""Denoising score matching of an energy: −∇E/τ towards the score of the noised law, without a chain.

    L = E ‖ε + σ ŝ(x_t)‖²,   ŝ = −∇E/τ,   x_t = αx_0 + σε         (Vincent 2011, eq. 11, times σ²)

ε = (x_t − αx_0)/σ points from data to noise, uphill in energy, so that ε̂ = +σ∇E/τ: with the other sign the energy is
learned upside down. Its gradient in θ is that of explicit score matching, E‖σŝ − σ∇log q_t‖². At one noise level an energy
learns the *noised* law's energy, wider than the data's by σ²; what it is between far modes it is hardly told.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unidiff.core.boundary import check_positive, right_expand
from unidiff.core.level import NoiseLevel
from unidiff.core.networks.gradient import descent
from unidiff.core.times import antithetic_times, finite_span
from unidiff.ebm.learning.method import (
    EnergyLearner,
    EnergyMethod,
    check_energies,
    check_timed,
    check_timeless,
    check_times_told,
    known_levels,
)
from unidiff.ebm.model import EnergyModel


@dataclass(frozen=True)
class DenoisingScoreMatching(EnergyMethod):
    """Denoising score matching, at one noise or over a schedule's levels.

    Attributes:
        sigma: for an energy without a schedule, σ in units of x (α is 1).
        times: for one with a schedule, times of which each datum gets one; None is all of [0, 1], stratified.

    Raises:
        TypeError, ValueError: naming the option; both given.
    """

    name: ClassVar[str] = "dsm"
    source: ClassVar[str] = "Vincent 2011, eq. 11"

    sigma: float | None = None
    times: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.sigma is not None:
            check_positive("sigma", self.sigma)
            if self.times is not None:
                raise ValueError(f"sigma and times must not both be given, got {self.sigma} and {self.times}")
        if self.times is not None:
            check_times_told(self.times, 1)

    def learner(self, model: EnergyModel) -> DenoisingLearner:
        """What runs. Raises ValueError for an energy with a schedule and a sigma, or without both."""
        return DenoisingLearner(model, self)


class DenoisingLearner(EnergyLearner):
    """Denoising score matching at work; see :class:`DenoisingScoreMatching`."""

    def __init__(self, model: EnergyModel, method: DenoisingScoreMatching) -> None:
        super().__init__(model)
        self.method = method
        if method.sigma is not None:
            check_timeless("sigma, one noise for all", model)
        else:
            check_timed("levels of noise; give sigma for one without", model)

    def _loss(self, x: Tensor, generator: torch.Generator | None, progress: float) -> Tensor:
        level = self._level(x, generator)
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        error = denoising_errors(self.model, x, noise, level, timed=self.method.sigma is None)
        check_energies(**{"data: their gradient": error})
        return error.mean()

    def _level(self, x: Tensor, generator: torch.Generator | None) -> NoiseLevel:
        if self.method.sigma is not None:
            sigma = torch.full((), self.method.sigma, dtype=x.dtype, device=x.device)
            return NoiseLevel(torch.zeros_like(sigma), -2 * sigma.log(), torch.ones_like(sigma), sigma)
        schedule = check_timed(self.method.name, self.model)
        if self.method.times is not None:
            known = known_levels(self.model, schedule, self.method.times, x)
            return known[torch.randint(len(self.method.times), x.shape[:1], generator=generator, device=x.device)]
        t = antithetic_times(x.shape[0], generator, span=finite_span(schedule), device=x.device)
        level = schedule.level(t)
        return NoiseLevel(*(v.detach() for v in (level.t, level.log_snr, level.alpha, level.sigma))).to(x)


def denoising_errors(model: EnergyModel, x: Tensor, noise: Tensor, level: NoiseLevel, timed: bool = True) -> Tensor:
    """‖ε + σŝ(αx + σε)‖² of each datum, ``[B]``, differentiable in θ; arguments are trusted.

    Args:
        model: the energy.
        x: data, ``[B, *E]``.
        noise: ε, ``[B, *E]``.
        level: one, or ``[B]``, in x's dtype.
        timed: whether the energy is asked at the level's time.
    """
    alpha, sigma = right_expand(level.alpha, x), right_expand(level.sigma, x)
    at = level if timed else None
    score = descent(lambda z: model.at(z, at) / model.tau, alpha * x + sigma * noise)
    return (noise + sigma * score).flatten(1).square().sum(1)
