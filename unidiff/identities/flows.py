r"""Items 8, 15 and 17: how the noised law moves in time, and the likelihood that its flow carries."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from unidiff.core.gaussian import Gaussian
from unidiff.core.level import NoiseLevel
from unidiff.core.process import ForwardProcess
from unidiff.core.schedule import Schedule
from unidiff.identities.case import Case, affordable
from unidiff.identities.laws import Algebraic, Order, Quadrature, Sides
from unidiff.identities.registry import register
from unidiff.worlds.world import World


def divergence(world: World, z: Tensor, level: NoiseLevel) -> Tensor:
    r"""∇·s(z) = −D/σ² + (α²/σ⁴) tr Cov[x_0|z] (item 12, second order), ``[B]``."""
    trace = world.posterior(z, level.alpha, level.sigma, check=False).variance.flatten(1).sum(1)
    var = level.sigma.square()
    return -z[0].numel() / var + (level.alpha / var).square() * trace


def moving(case: Case, z: Tensor, t: Tensor, level: NoiseLevel) -> Tensor:
    """∂_t log q(z) per unit of λ, ``[B]``, through α and σ by automatic differentiation."""
    rate = -case.schedule.log_snr_derivative(t).detach()
    alpha, sigma = level.alpha.clone().requires_grad_(), level.sigma.clone().requires_grad_()
    log_q = case.world.diffuse(alpha, sigma).log_prob(z)
    by_alpha, by_sigma = torch.autograd.grad(log_q.sum(), (alpha, sigma))
    dot_alpha, dot_sigma = (_slope(f, t) / rate for f in (case.schedule.alpha, case.schedule.sigma))
    return by_alpha * dot_alpha.to(z) + by_sigma * dot_sigma.to(z)


def _slope(function, t: Tensor) -> Tensor:  # noqa: ANN001 - a schedule's α or σ
    t = t.clone().requires_grad_()
    value = function(t)
    if not value.requires_grad:  # a scale that does not move: α of a VE schedule
        return torch.zeros_like(t)
    (slope,) = torch.autograd.grad(value.sum(), t)
    return slope


def motion_kappa(case: Case, z: Tensor, level: NoiseLevel, f: Tensor, g2: Tensor, slope: Tensor) -> Tensor:
    """κ of the Fokker–Planck terms, ``[B]``: each with what the rounding of x̂_0 and of z does to it."""
    var = level.sigma.square()
    trace = case.world.posterior(z, level.alpha, level.sigma).variance.flatten(1).sum(1)
    size, steep = z.flatten(1).norm(dim=1), slope.norm(dim=1)
    mean = level.alpha * case.world.posterior(z, level.alpha, level.sigma).mean.flatten(1).norm(dim=1)
    logit = case.dim + size * case.dim**0.5 / level.sigma
    # What rounding leaves in σ² s: the difference αx̂_0 − z, and x̂_0's own.
    lost = size + mean + level.alpha * trace.sqrt() * logit
    drift = f.abs() * (case.dim + size * steep + size * lost / var)
    spread = case.dim / var + (level.alpha / var).square() * trace * (1 + logit)
    return drift + 0.5 * g2 * (spread + steep.square() + 2 * steep * lost / var)


@register
class FokkerPlanck(Algebraic):
    """Item 15, per unit of λ. ∂_t goes through α and σ by automatic differentiation; the other side is closed forms.

    κ: the terms, each with what the rounding of x̂_0 (‖std‖ times its logits' condition) and of z does to it.
    """

    name = "fokker-planck"
    statement = r"\partial_t\log q+fD+f\,z\cdot s-\frac12g^2\left(\nabla\cdot s+\|s\|^2\right)=0"
    views = ("score", "thermo")
    source = "Song et al. 2021 (SDE), appendix D.1"
    conditions = "any schedule; in float32 where data and noise are both heard"
    subject = "schedule"

    def sides(self, case: Case) -> Iterable[Sides]:
        case = case.legible
        few = slice(None, None, max(1, case.batch // 16))
        z, t, level = case.xt[few], case.t[few], case.level[few]
        rate = -case.schedule.log_snr_derivative(t).detach()
        moved = moving(case, z, t, level)

        f, g2 = case.schedule.drift(t).detach() / rate, case.schedule.diffusion2(t).detach() / rate
        f, g2 = f.to(z), g2.to(z)
        score = case.world.diffuse(level.alpha, level.sigma).score(z)
        flat, slope = z.flatten(1), score.flatten(1)
        along, square = (flat * slope).sum(1), slope.square().sum(1)
        spread = divergence(case.world, z, level)
        still = -(f * case.dim + f * along - 0.5 * g2 * (spread + square))
        yield Sides(moved, still, motion_kappa(case, z, level, f, g2, slope))


@register
class FlowLikelihood(Quadrature):
    """Item 17: the exact log-density at λ = 3 against the one at λ = −5 and the divergence met on the way (RK4 in λ)."""

    name = "flow-likelihood"
    statement = r"\log q_0(z_0)=\log q_1(z_1)+\int_0^1\nabla\cdot v\,\mathrm{d}t,\quad v=fz-\frac12g^2s"
    views = ("score", "thermo")
    source = "Song et al. 2021 (SDE), eq. 39"
    conditions = (
        "a world with a smooth density (a data set's flow is stiff where it chooses a point); float32 on Gaussian data"
    )
    subject = "schedule"
    refinements = (16, 32, 48, 64, 128, 256)
    tolerance = 1e-4

    def applies(self, case: Case) -> bool:
        return affordable(case)

    def values(self, case: Case, n: int) -> tuple[Tensor, Tensor]:
        road = _Road.of(case, *_span(case, 3.0, -5.0), n)
        first, last = road.level[0], road.level[-1]
        z = first.alpha * case.x0[:8] + first.sigma * case.noise[:8]
        before = case.world.diffuse(first.alpha, first.sigma).log_prob(z)
        carried = torch.cat([z, torch.zeros_like(before)[:, None]], 1)

        def velocity(state: Tensor, k: int) -> Tensor:
            now = state[:, :-1]
            spread = road.drift[k] * case.dim - 0.5 * road.diffusion2[k] * divergence(case.world, now, road.level[k])
            return torch.cat([road.flow(case.world, now, k), spread[:, None]], 1)

        carried = road.walk(velocity, carried)
        z, gained = carried[:, :-1], carried[:, -1]
        return before, case.world.diffuse(last.alpha, last.sigma).log_prob(z) + gained

    def rounding(self, case: Case) -> float:
        first, last = _span(case, 3.0, -5.0)
        # log q and ∇·v both round at their size per unit of λ, over the span.
        return case.eps * case.dim * (first - last) * 8


@register
class FlowMap(Quadrature):
    """Item 10's limit: dx/α = ε̂ d(σ/α), with ε̂ from the posterior mean, ends where the SDE's flow with its score does."""

    name = "flow-is-exponential-integral"
    statement = (
        r"\frac{x_s}{\alpha_s}=\frac{x_t}{\alpha_t}+\int\hat\varepsilon\;\mathrm{d}\!\left(\frac{\sigma}{\alpha}\right)"
    )
    views = ("core", "score", "paths")
    source = "Song et al. 2021 (DDIM), eq. 14"
    conditions = "a world with a smooth density; float32 on Gaussian data"
    subject = "schedule"
    refinements = (16, 32, 64, 128, 256)
    tolerance = 1e-4

    def applies(self, case: Case) -> bool:
        return affordable(case)

    def values(self, case: Case, n: int) -> tuple[Tensor, Tensor]:
        road = _Road.of(case, *_span(case, -3.0, 2.0), n)
        first, last = road.level[0], road.level[-1]
        z = first.alpha * case.x0[:8] + first.sigma * case.noise[:8]

        def scaled(y: Tensor, k: int) -> Tensor:
            level = road.level[k]
            x0 = case.world.posterior_mean(level.alpha * y, level.alpha, level.sigma, check=False)
            ratio = level.sigma / level.alpha
            return -0.5 * ratio * ((y - x0) / ratio)

        by_flow = road.walk(lambda x, k: road.flow(case.world, x, k), z)
        return by_flow, last.alpha * road.walk(scaled, z / first.alpha)

    def rounding(self, case: Case) -> float:
        return case.eps * 8 * float(case.x0.abs().max() + 3)


def _span(case: Case, first: float, last: float) -> tuple[float, float]:
    low, high = case.window(min(first, last), max(first, last))
    return (low, high) if first < last else (high, low)


@dataclass(frozen=True)
class _Road:
    """2n + 1 even nodes of λ, with the SDE's coefficients per unit of λ there, and Runge and Kutta's way along them."""

    level: NoiseLevel
    drift: Tensor
    diffusion2: Tensor
    step: float

    @staticmethod
    def of(case: Case, first: float, last: float, n: int) -> _Road:
        schedule = case.schedule
        nodes = torch.linspace(first, last, 2 * n + 1, dtype=torch.float64, device=case.device)
        level = schedule.level_at(nodes, case.x0)
        level = NoiseLevel(*(v.detach() for v in (level.t, level.log_snr, level.alpha, level.sigma)))
        t = schedule.time(nodes).detach()
        slope = schedule.log_snr_derivative(t)
        drift, diffusion2 = (
            v.detach().to(case.x0) for v in (schedule.drift(t) / slope, schedule.diffusion2(t) / slope)
        )
        return _Road(level, drift, diffusion2, (last - first) / n)

    def flow(self, world: World, z: Tensor, k: int) -> Tensor:
        """dz/dλ of the probability-flow ODE at node k."""
        score = world.diffuse(self.level.alpha[k], self.level.sigma[k]).score(z, check=False)
        return self.drift[k] * z - 0.5 * self.diffusion2[k] * score

    def walk(self, velocity: Callable[[Tensor, int], Tensor], x: Tensor) -> Tensor:
        """RK4 over every other node, ``velocity(state, node)`` per unit of λ."""
        h = self.step
        for k in range(0, self.drift.numel() - 1, 2):
            v1 = velocity(x, k)
            v2 = velocity(x + 0.5 * h * v1, k + 1)
            v3 = velocity(x + 0.5 * h * v2, k + 1)
            x = x + h / 6 * (v1 + 2 * v2 + 2 * v3 + velocity(x + h * v3, k + 2))
        return x


@register
class ForwardLimit(Order):
    """Item 8's limit: the prior's cost falls as α₁², the signal that is left. Measured on λ₁ = −6 … −14."""

    name = "forward-limit"
    statement = r"\mathrm{KL}(q(x_1|x_0)\,\|\,N(0,I))=O(\alpha_1^2)\to0"
    views = ("core", "vae", "thermo")
    source = "Ho et al. 2020, section 4; Kingma et al. 2021, eq. 12"
    conditions = "the schedule's λ, read variance preserving; as low as it goes, and at least to −4"
    subject = "schedule"

    def applies(self, case: Case) -> bool:
        low, high = case.log_snr_range
        return case.dtype == torch.float64 and low <= -4.0 and high >= low + 4.0

    def errors(self, case: Case) -> tuple[list[float], list[float], float]:
        schedule: Schedule = case.schedule.as_vp()
        process = ForwardProcess(schedule)
        low = max(float(schedule.log_snr(1.0).detach()), -14.0)
        steps, errors = [], []
        for log_snr in torch.linspace(low + 4, low, 5, dtype=torch.float64):
            t = schedule.time(log_snr).detach()
            law = process.marginal(case.x0, t)
            law = Gaussian(law.mean.detach(), law.log_var.detach())
            prior = Gaussian(torch.zeros_like(case.x0), torch.zeros_like(case.x0))
            steps.append(float(schedule.alpha(t).detach().square()))
            errors.append(float(law.kl(prior).mean()))
        return steps, errors, 1.0
