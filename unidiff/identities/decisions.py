"""The chain as a decision process: where an action leads, what a walk's law is, and what leaving the reference costs."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from unidiff.core.gaussian import Gaussian
from unidiff.identities.case import Case
from unidiff.identities.chains import denoiser_kappa, grid_of
from unidiff.identities.kernels import density_kappa
from unidiff.identities.laws import Algebraic, Sides
from unidiff.identities.registry import register
from unidiff.rl import DenoisingMDP, Outcome, State

_BETA = 0.7


class _OnWalk(Algebraic):
    """A walk of four decisions by residuals that are drawn here, from the case's own start."""

    conditions = "any core, a last level with some signal; in float32 where data and noise are both heard"

    def applies(self, case: Case) -> bool:
        return not case.reaches_zero_snr

    @staticmethod
    def walk(case: Case, purpose: str) -> tuple[DenoisingMDP, list[State], list[Tensor], list[Outcome]]:
        """The process, its states, the residuals and what they led to."""
        mdp = DenoisingMDP(case.core.chain(grid_of(case, 4)), lambda x0: x0.flatten(1).sum(1), beta=_BETA)
        state = mdp.start(len(case.x0), case.generator(purpose), like=case.x0)
        states, residuals, outcomes = [state], [], []
        for k in range(mdp.horizon):
            residuals.append(case.normal(f"{purpose} {k}", *case.x0.shape))
            outcomes.append(mdp.step(state, residuals[-1]))
            state = outcomes[-1].state
            states.append(state)
        return mdp, states, residuals, outcomes


def _book(case: Case, mdp: DenoisingMDP, state: State) -> tuple[Gaussian, Tensor]:
    """q(x_s|x_t, x̂_0) by the forward process, the reference's step by its definition; and what x̂_0 rounds as."""
    times = mdp.chain.grid.times
    s, t = float(times[state.k - 1]), float(times[state.k])
    guess = case.core.predict(state.x, t).x0.detach()
    rounding = denoiser_kappa(case, state.x, case.schedule.level(t, case.x0))
    return case.process.posterior(state.x, guess, s, t), rounding


@register
class ActionLeads(_OnWalk):
    """A residual leads where the forward process's posterior says, and taken as a state it costs the same.

    κ: the mean's terms, with x̂_0's own, and the noise with its stored log; of the charge each divided by σ, times a.
    """

    name = "action-leads"
    statement = r"x_{t_{k-1}}=\mu_{\mathrm{ref}}(x_{t_k})+\sigma_{\mathrm{ref}}\,a"
    views = ("rl", "core")
    source = "Black et al. 2024, eq. 3; Ho et al. 2020, eq. 7"

    def sides(self, case: Case) -> Iterable[Sides]:
        case = case.legible
        mdp, states, residuals, outcomes = self.walk(case, "action leads")
        plain = DenoisingMDP(mdp.chain, beta=_BETA, action="state")
        for state, after, a, outcome in zip(states, states[1:], residuals, outcomes, strict=False):
            law, rounding = _book(case, mdp, state)
            noise = law.std * a
            size = law.mean.abs() + state.x.abs() + rounding
            size = size + noise.abs() * (1 + law.log_var.abs())
            yield Sides(after.x, law.mean + noise, size)
            again = plain.step(state, after.x).charge
            reach = (size / law.std * a.abs()).flatten(1).sum(1) + a.square().flatten(1).sum(1)
            yield Sides(again, outcome.charge, _BETA * reach)


@register
class TrajectoryLaw(_OnWalk):
    """Item 49: the walk's density from its residuals, sums over D, is that of the chain's steps at its states.

    κ: of each density. Where the residual is known no state is subtracted.
    """

    name = "trajectory-law"
    statement = (
        r"\log p(x_{t_{0:N}})=\log p(x_{t_N})+\sum_k\log\pi(x_{t_{k-1}}|x_{t_k})"
        r"=\log p(x_{t_N})-\sum_k\left[\frac{1}{2}\|a_k\|^2+D\log\sqrt{2\pi}\,\sigma_k\right]"
    )
    views = ("rl", "vae")
    source = "Black et al. 2024, eq. 3"

    def sides(self, case: Case) -> Iterable[Sides]:
        case = case.legible
        mdp, states, residuals, _ = self.walk(case, "trajectory law")
        own, told, kappa = (torch.zeros(len(case.x0), dtype=torch.float64, device=case.device) for _ in range(3))
        for state, after, a in zip(states, states[1:], residuals, strict=False):
            law, rounding = _book(case, mdp, state)
            half = 0.5 * a.double().square() + 0.5 * math.log(2 * math.pi) + 0.5 * law.log_var.double()
            own = own - half.flatten(1).sum(1)
            step = mdp.chain.step(state.x, state.k)
            told = told + step.log_prob(after.x).detach().double()
            spread = rounding * a.abs() / law.std
            kappa = kappa + density_kappa(step, after.x).detach().double() + spread.double().flatten(1).sum(1)
        yield Sides(told, own, kappa)


@register
class ChargeIsKL(_OnWalk):
    """Item 58: a policy N(u, I) of residuals is N(μ + σu, σ²) of states, and its KL to the reference is ½‖u‖².

    What a walk earns is its data's reward less β times those.

    κ: u² and what the means' rounding is in units of σ.
    """

    name = "charge-is-kl"
    statement = r"\beta\,\mathrm{KL}(N(\mu+\sigma u,\sigma^2)\,\|\,N(\mu,\sigma^2))=\frac{\beta}{2}\|u\|^2"
    views = ("rl", "vae")
    source = "Fan et al. 2023 (DPOK), eq. 7; Levine 2018, section 2"

    def sides(self, case: Case) -> Iterable[Sides]:
        case = case.legible
        mdp, states, residuals, outcomes = self.walk(case, "charge is kl")
        paid, size = states[-1].x.flatten(1).sum(1), states[-1].x.abs().flatten(1).sum(1)
        for state, u, outcome in zip(states, residuals, outcomes, strict=False):
            law = mdp.reference(state)
            moved = Gaussian(law.mean + law.std * u, law.log_var)
            rounding = (law.mean.abs() + moved.mean.abs()) / law.std * u.abs()
            kappa = (u.square() * (1 + law.log_var.abs()) + rounding).flatten(1).sum(1)
            cost = _BETA * moved.kl(law)
            yield Sides(cost, outcome.charge, _BETA * kappa)
            paid, size = paid - cost, size + _BETA * kappa
        yield Sides(torch.stack([outcome.reward for outcome in outcomes]).sum(0), paid, size)
