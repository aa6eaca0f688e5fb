r"""Each kind of schedule, the prior and each kind of grid against its paper's own formula, not against itself.

A schedule may be monotone, invertible and differentiable and still not be the one that it is named after. The formulas
here go through α² or σ where the kinds of :mod:`unidiff.core.schedule_kinds` go through λ and the nearer end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from unidiff.core.grid import TimeGrid
from unidiff.core.schedule_kinds import Cosine, FromBetas, Karras, Linear, Polynomial, Sigmoid
from unidiff.core.schedule_learned import Learned
from unidiff.identities.case import Case
from unidiff.identities.laws import Algebraic, Sides
from unidiff.identities.registry import register


def _linear(schedule: Linear, t: Tensor) -> Tensor:
    """α² = exp(−t β(t/2)): a linear rate's mean is the rate in the middle (Song et al. 2021, eq. 32)."""
    total = t * (schedule.beta_min * (1 - t / 2) + schedule.beta_max * t / 2)
    return -total - torch.log(-torch.expm1(-total))


def _cosine(schedule: Cosine, t: Tensor) -> Tensor:
    """α = cos, σ = sin of an angle that is linear between the cuts (Nichol & Dhariwal 2021, eq. 17, without offset)."""
    first, last = (math.atan2(math.exp(-v / 2), 1.0) for v in (schedule.log_snr_max, schedule.log_snr_min))
    angle = first + (last - first) * t
    return 2 * (angle.cos() / angle.sin()).log()


def _sigmoid(schedule: Sigmoid, t: Tensor) -> Tensor:
    """γ(x) = (S(e) − S(x))/(S(e) − S(a)), S the sigmoid and a, e = start/τ, end/τ (Jabri et al. 2023, algorithm 1)."""
    low, high = (torch.tensor(v / schedule.tau, dtype=t.dtype, device=t.device) for v in (schedule.start, schedule.end))
    ends = torch.tensor([schedule.log_snr_max, schedule.log_snr_min], dtype=t.dtype, device=t.device)
    whole = high.sigmoid() - low.sigmoid()
    first, last = torch.logit(low.sigmoid() + torch.sigmoid(-ends) * whole).unbind()
    x = first + (last - first) * t
    return (high.sigmoid() - x.sigmoid()).log() - (x.sigmoid() - low.sigmoid()).log()


def _polynomial(schedule: Polynomial, t: Tensor) -> Tensor:
    """The two ends, weighted by 1 − t^p and t^p (Kingma et al. 2021, appendix H, at p = 1)."""
    share = (schedule.power * t.log()).exp()
    return (1 - share) * schedule.log_snr_max + share * schedule.log_snr_min


def _karras(schedule: Karras, t: Tensor) -> Tensor:
    """σ = ((1 − t) σ_min^{1/ρ} + t σ_max^{1/ρ})^ρ (Karras et al. 2022, eq. 5)."""
    ends = (math.exp(math.log(v) / schedule.rho) for v in (schedule.sigma_min, schedule.sigma_max))
    first, last = ends
    return -2 * (((1 - t) * first + t * last) ** schedule.rho).log()


def _from_betas(schedule: FromBetas, t: Tensor) -> Tensor:
    """ᾱ_i = Π(1 − β_j) at i/T, its logarithm linear between (Ho et al. 2020, eq. 4)."""
    betas = torch.as_tensor(schedule.betas, dtype=t.dtype, device=t.device)
    return _between(betas, t)


def _between(betas: Tensor, t: Tensor) -> Tensor:
    bar = torch.cat([torch.ones(1, dtype=t.dtype, device=t.device), torch.cumprod(1 - betas, 0)])
    place = t * betas.numel()
    left = place.floor().clamp(0, betas.numel() - 1).long()
    log_bar = torch.lerp(bar[left].log(), bar[left + 1].log(), place - left)
    return log_bar - torch.log(-torch.expm1(log_bar))


def _learned(schedule: Learned, t: Tensor) -> Tensor:
    """λ_max − (λ_max − λ_min) h, h the share of a sum of rising tanh's passed (Kingma et al. 2021, appendix H)."""
    weight, rate = (torch.log1p(v.detach().exp()) for v in (schedule.raw_weight, schedule.raw_rate))
    center = schedule.center.detach()
    ends = torch.tensor([0.0, 1.0], dtype=t.dtype, device=t.device)
    risen = [v + 0.5 * (weight * (rate * (v[:, None] - center) / 2).tanh()).sum(1) for v in (t, ends)]
    share = (risen[0] - risen[1][0]) / (risen[1][1] - risen[1][0])
    return schedule.log_snr_max.detach() - schedule.log_span.detach().exp() * share


_FORMULAS: dict[type, Callable[..., Tensor]] = {
    Linear: _linear,
    Cosine: _cosine,
    Sigmoid: _sigmoid,
    Polynomial: _polynomial,
    Karras: _karras,
    FromBetas: _from_betas,
    Learned: _learned,
}


@register
class ScheduleDefinition(Algebraic):
    """λ(t) by the paper's formula in α² or σ. The schedule called ddpm is also that of Ho et al.'s own table.

    κ: 1 + |λ|, and in float64, |λ'| for the formulas' absolute rounding of t (and of T products for betas).
    """

    name = "schedule-definition"
    statement = (
        r"\alpha^2=e^{-\int\beta},\ \alpha=\cos\frac{\pi u}{2},\ \alpha^2=\frac{S(e)-S(x)}{S(e)-S(a)},\ "
        r"\lambda=\lambda_0+(\lambda_1-\lambda_0)t^p,\ \sigma^{1/\rho}\ \mathrm{linear},\ \bar\alpha_i=\prod(1-\beta_j)"
    )
    views = ("core",)
    source = "each kind's own paper; see the formulas"
    conditions = "a schedule of one of the seven kinds"
    subject = "schedule"
    worldless = True

    def applies(self, case: Case) -> bool:
        return type(case.schedule) in _FORMULAS

    def sides(self, case: Case) -> Iterable[Sides]:
        t, schedule = case.t, case.schedule
        own, slope = schedule.log_snr(t).detach(), schedule.log_snr_derivative(t).detach().abs()
        products = schedule.steps if isinstance(schedule, FromBetas) else 1
        lost = torch.finfo(torch.float64).eps / case.eps * (slope + products / torch.sigmoid(-own))
        kappa = 1 + own.abs() + lost
        yield Sides(own.to(case.dtype), _FORMULAS[type(schedule)](schedule, t).to(case.dtype), kappa)
        if case.schedule_name == "ddpm":
            table = 1e-4 + (0.02 - 1e-4) * torch.arange(1000, dtype=torch.float64, device=case.device) / 999
            yield Sides(own.to(case.dtype), _between(table, t).to(case.dtype), kappa)


@register
class BetasLeftSlope(Algebraic):
    """At a knot i/T of a schedule from betas, where λ bends, λ' is the slope from the left: −T log(1 − β_i)'s share.

    κ: the slope, at the condition of ᾱ_i, a product of i factors, in 1 − ᾱ_i.
    """

    name = "betas-left-slope"
    statement = r"\lambda'(i/T)=\frac{T\log(1-\beta_i)}{1-\bar\alpha_i}"
    views = ("core",)
    source = "Ho et al. 2020, eq. 4; the bend's side is a convention"
    conditions = "a schedule from betas"
    subject = "schedule"

    def applies(self, case: Case) -> bool:
        return isinstance(case.schedule, FromBetas)

    def sides(self, case: Case) -> Iterable[Sides]:
        assert isinstance(case.schedule, FromBetas)
        betas = torch.as_tensor(case.schedule.betas, dtype=torch.float64, device=case.device)
        steps = betas.numel()
        knots = torch.arange(1, steps + 1, dtype=torch.float64, device=case.device) / steps
        lost = 1 - torch.cumprod(1 - betas, 0)
        slope = steps * (1 - betas).log() / lost
        own = case.schedule.log_snr_derivative(knots).detach()
        kappa = slope.abs() * (1 + torch.finfo(torch.float64).eps / case.eps * steps / torch.minimum(lost, betas))
        yield Sides(own.to(case.dtype), slope.to(case.dtype), kappa)


@register
class PriorScale(Algebraic):
    """The prior is q(x_1|x_0 = 0) when VE and α₁² + σ₁² = 1 when VP, and its draws have that scale. κ: 1 + |log σ₁²|."""

    name = "prior-scale"
    statement = (
        r"x_1\sim N(0,\sigma_p^2I),\quad \sigma_p^2=\alpha_1^2+\sigma_1^2\ \mathrm{(VP)},\ \sigma_1^2\ \mathrm{(VE)}"
    )
    views = ("core", "vae")
    source = "Song et al. 2021 (SDE), appendix C; Karras et al. 2022, section 2"
    subject = "schedule"

    def sides(self, case: Case) -> Iterable[Sides]:
        last = case.process.marginal(torch.zeros_like(case.x0, dtype=torch.float64), 1.0)
        var = last.var.detach()
        if case.schedule.variance_preserving:
            var = var + case.schedule.alpha(1.0).detach().square()
        noise = torch.randn(case.x0.shape, generator=case.generator("prior"), dtype=case.dtype, device=case.device)
        own = case.core.prior(case.batch, case.generator("prior"), like=case.x0)
        kappa = var.sqrt() * noise.abs() * (1 + last.log_var.detach().abs())
        yield Sides(own, var.sqrt() * noise, kappa)


@register
class GridDefinition(Algebraic):
    """Each kind of grid is even in what it says: t, √t, (σ/α)^{1/ρ}, λ.

    κ: the value, and in float64 what λ and the grid's t, spaced by eps·t, lose: |λ| + |λ'|t, over 2ρ for σ/α's root.
    """

    name = "grid-definition"
    statement = r"t_i,\ \sqrt{t_i},\ (\sigma_i/\alpha_i)^{1/\rho},\ \lambda_i\ \mathrm{linear\ in}\ i"
    views = ("core", "paths")
    source = "Song et al. 2021 (DDIM), appendix D.2; Karras et al. 2022, eq. 5; Lu et al. 2022, section 4.4"
    conditions = "a finite last log-SNR"
    subject = "schedule"
    worldless = True

    def applies(self, case: Case) -> bool:
        return math.isfinite(float(case.schedule.log_snr(1.0).detach()))

    def sides(self, case: Case) -> Iterable[Sides]:
        steps, schedule = 9, case.schedule
        first = float(schedule.time(case.log_snr_range[1]).detach())
        plain, quadratic = TimeGrid.uniform(steps, first).times, TimeGrid.quadratic(steps, first).times
        yield self._even(case, plain, 1 + plain)
        yield self._even(case, quadratic.sqrt(), 1 + quadratic.sqrt())
        for rho in (7.0, 3.0):
            times = TimeGrid.karras(steps, schedule, rho, first).times
            root = (schedule.sigma(times) / schedule.alpha(times)).detach().log().div(rho).exp()
            yield self._even(case, root, root * (1 + self._lost(case, times) / (2 * rho)))
        times = TimeGrid.uniform_log_snr(steps, schedule, first).times
        yield self._even(case, schedule.log_snr(times).detach(), 1 + self._lost(case, times))

    @staticmethod
    def _lost(case: Case, times: Tensor) -> Tensor:
        slope = case.schedule.log_snr_derivative(times).detach().abs()
        lost = case.schedule.log_snr(times).detach().abs() + times * slope
        return torch.finfo(torch.float64).eps / case.eps * lost

    @staticmethod
    def _even(case: Case, value: Tensor, kappa: Tensor) -> Sides:
        share = torch.linspace(0, 1, value.numel(), dtype=torch.float64, device=value.device)
        even = (1 - share) * value[0] + share * value[-1]
        size = kappa + (1 - share) * kappa[0] + share * kappa[-1]
        return Sides(value.to(case.dtype), even.to(case.dtype), size)
