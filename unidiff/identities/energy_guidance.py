"""An energy added to a frozen core: Bayes' rule where it is a class's, and the posterior covariance where it is linear."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from unidiff.ebm import EnergyModel, guided
from unidiff.identities.case import Case, sampled
from unidiff.identities.chains import denoiser_kappa
from unidiff.identities.laws import Algebraic, Sides
from unidiff.identities.registry import register
from unidiff.identities.scores import jacobian_kappa
from unidiff.worlds import GaussianMixture

TAU = 0.6


@register
class EnergyGuidance(Algebraic):
    """Item 57 by an energy: −τ log p(y|x_t) turns a mixture's core into the component's; twice it, and it is a power.

    And an energy aᵀx_0 without time, asked of the denoised state, moves x̂_0 by −w Cov[x_0|x_t] a/τ. κ: x̂_0's, σ²/α times
    the score's, and the covariance's along (u, a).
    """

    name = "energy-guidance"
    statement = (
        r"\hat x_0-\frac{w\sigma^2}{\alpha\tau}\nabla E(x_t)=E[x_0|x_t,y],\quad"
        r"\frac{\sigma^2}{\alpha}\nabla\,a^\top\hat x_0=\mathrm{Cov}[x_0|x_t]\,a"
    )
    views = ("ebm", "score", "core")
    source = "Dhariwal & Nichol 2021, eq. 10; Chung et al. 2023, eq. 11; item 57"
    conditions = "a mixture, its exact denoiser"
    subject = "optimal"

    def applies(self, case: Case) -> bool:
        return case.exact and isinstance(case.world, GaussianMixture) and sampled(case)

    def sides(self, case: Case) -> Iterable[Sides]:
        case = case.heard
        world, schedule = case.world, case.schedule
        assert isinstance(world, GaussianMixture)
        some = slice(None, 16)
        z, t, level = case.xt[some], case.t[some], case.level[some]
        label = torch.arange(len(z), device=z.device) % world.num_classes
        own = world.given(label)

        def energy(x: Tensor, at: Tensor) -> Tensor:
            there = schedule.level(at, x)
            noised = [law.diffuse(there.alpha, there.sigma).log_prob(x, check=False) for law in (own, world)]
            return -TAU * (noised[0] - noised[1])

        timed = EnergyModel(energy, case.core.event_shape, schedule=schedule, tau=TAU)
        plain = case.core.predict(z, t).x0
        known = own.posterior_mean(z, level.alpha, level.sigma)
        alpha = level.alpha[:, None]
        each = denoiser_kappa(case, z, level)
        size = each + (z.flatten(1).norm(dim=1, keepdim=True) + alpha * each) / alpha
        for weight in (1.0, 2.0):
            found = guided(case.core, timed, weight).predict(z, t).x0
            yield Sides(found, plain + weight * (known - plain), 4 * weight * size)
        slope, along = case.normal("guide", case.dim), case.normal("guided along", *z.shape)
        flat = EnergyModel(lambda x: x @ slope, case.core.event_shape, tau=TAU)
        moved = guided(case.core, flat, 0.8).predict(z, t).x0 - plain
        covariance = world.posterior(z, level.alpha, level.sigma).covariance
        wide = slope.expand_as(z)
        share = -0.8 / TAU * torch.einsum("bi,bij,bj->b", along, covariance, wide)
        gain = level.sigma.square() / level.alpha / TAU
        bound = gain * jacobian_kappa(case, z, level, along, wide) + (along.abs() * each).sum(1)
        yield Sides((along * moved).sum(1), share, bound)
