r"""Items 1 and 6: what makes a function a schedule, and its transitions a Markov chain."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.nn import functional as F

from unidiff.identities.case import Case
from unidiff.identities.laws import Algebraic, Bound, Sides
from unidiff.identities.registry import register


@register
class LogSnrDecreases(Bound):
    """On a fine grid, no step up."""

    name = "log-snr-decreases"
    statement = r"s < t \Rightarrow \lambda_s > \lambda_t"
    views = ("core",)
    source = "Kingma et al. 2021, section 3"
    subject = "schedule"
    worldless = True

    def excess(self, case: Case) -> tuple[float, float]:
        t = torch.linspace(1e-6, 1 - 1e-6, 4001, dtype=torch.float64, device=case.device)
        return float(case.schedule.log_snr(t).detach().diff().max()), -torch.finfo(torch.float64).tiny


@register
class LogSnrDerivative(Algebraic):
    """κ: |λ'| times the condition of λ in the distance to the nearer end, |λ'| min(t, 1 − t), and of one more ratio."""

    name = "log-snr-derivative"
    statement = r"\lambda'(t) = \frac{\mathrm{d}\lambda}{\mathrm{d}t}"
    views = ("core",)
    source = "Kingma et al. 2021, eq. 17"
    subject = "schedule"
    worldless = True

    def sides(self, case: Case) -> Iterable[Sides]:
        t = case.t.clone().requires_grad_()
        (slope,) = torch.autograd.grad(case.schedule.log_snr(t).sum(), t)
        own = case.schedule.log_snr_derivative(case.t).detach()
        kappa = own.abs() * (1 + torch.minimum(case.t, 1 - case.t) * own.abs())
        yield Sides(slope.to(case.dtype), own.to(case.dtype), kappa)


@register
class LogSnrInverse(Algebraic):
    """κ: t, plus what a rounding of λ moves t: |λ/λ'|."""

    name = "log-snr-inverse"
    statement = r"t(\lambda(t)) = t"
    views = ("core",)
    source = "Kingma et al. 2021, appendix A"
    subject = "schedule"
    worldless = True

    def sides(self, case: Case) -> Iterable[Sides]:
        log_snr = case.schedule.log_snr(case.t).detach()
        back = case.schedule.time(log_snr)
        slope = case.schedule.log_snr_derivative(case.t).detach().abs()
        yield Sides(back.to(case.dtype), case.t.to(case.dtype), 1 + (1 + log_snr.abs()) / slope)


@register
class ScaleFromLogSnr(Algebraic):
    """α, σ and λ agree, and α² + σ² = 1 (VP) or α = 1 (VE). κ: 1 + |λ|, since exp turns |λ|·eps into relative error."""

    name = "scale-from-log-snr"
    statement = r"\lambda = \log(\alpha^2/\sigma^2),\quad \alpha^2+\sigma^2=1\ \mathrm{(VP)}"
    views = ("core",)
    source = "Kingma et al. 2021, eq. 1-3"
    subject = "schedule"

    def sides(self, case: Case) -> Iterable[Sides]:
        level = case.level
        yield Sides(2 * (level.alpha / level.sigma).log(), level.log_snr, 2 + 2 * level.log_snr.abs())
        if case.schedule.variance_preserving:
            total = level.alpha.square() + level.sigma.square()
            yield Sides(total, torch.ones_like(total), 1 + level.log_snr.abs())
        else:
            yield Sides(level.alpha, torch.ones_like(level.alpha), torch.ones_like(level.alpha))


@register
class ForwardSde(Algebraic):
    """f and g² are those of the marginals: dα/dt = fα and dσ²/dt = 2fσ² + g², derivatives by autograd.

    κ: the terms themselves, times 1 + |λ'| min(t, 1 − t), the condition of λ at that time.
    """

    name = "forward-sde"
    statement = r"\dot\alpha = f\alpha,\quad \frac{\mathrm{d}\sigma^2}{\mathrm{d}t} = 2f\sigma^2 + g^2"
    views = ("core", "score")
    source = "Kingma et al. 2021, appendix B"
    subject = "schedule"
    worldless = True

    def sides(self, case: Case) -> Iterable[Sides]:
        schedule = case.schedule
        t = case.t.clone().requires_grad_()
        alpha, var = schedule.alpha(t), schedule.sigma(t).square()
        f, g2 = schedule.drift(case.t).detach(), schedule.diffusion2(case.t).detach()
        slope = schedule.log_snr_derivative(case.t).detach().abs()
        condition = 1 + slope * torch.minimum(case.t, 1 - case.t) + case.schedule.log_snr(case.t).detach().abs()
        if schedule.variance_preserving:
            (alpha_dot,) = torch.autograd.grad(alpha.sum(), t, retain_graph=True)
            yield Sides(alpha_dot.to(case.dtype), (f * alpha).to(case.dtype), (f * alpha).abs() * condition)
        else:
            yield Sides(f.to(case.dtype), torch.zeros_like(f).to(case.dtype), torch.ones_like(f))
        (var_dot,) = torch.autograd.grad(var.sum(), t)
        right = 2 * f * var + g2
        yield Sides(var_dot.to(case.dtype), right.to(case.dtype), ((2 * f * var).abs() + g2) * condition)


@register
class ChapmanKolmogorov(Algebraic):
    """Two transitions in a row are one. κ: the terms, times 1 + |log σ²| for the variance, which is stored as its log."""

    name = "chapman-kolmogorov"
    statement = (
        r"\alpha_{t|r}=\alpha_{t|s}\alpha_{s|r},\quad "
        r"\sigma^2_{t|r}=\sigma^2_{t|s}+\alpha^2_{t|s}\sigma^2_{s|r}"
    )
    views = ("core", "vae")
    source = "Kingma et al. 2021, appendix A.1"
    subject = "schedule"

    def sides(self, case: Case) -> Iterable[Sides]:
        q = case.process
        once = q.transition(case.x0, case.r, case.t)
        first = q.transition(case.x0, case.r, case.s)
        second = q.transition(first.mean, case.s, case.t)
        yield Sides(once.mean, second.mean, once.mean.abs())
        alpha_ts = case.expand(q.transition_coefficients(case.s, case.t)[0])
        total = second.var + alpha_ts.square() * first.var
        stored = 1 + once.log_var.abs() + first.log_var.abs() + second.log_var.abs()
        yield Sides(once.var, total, total * stored)


@register
class MarkovMarginal(Algebraic):
    """A transition from the marginal at s gives the marginal at t; the marginal's side never forms c. κ as above."""

    name = "markov-marginal"
    statement = r"\alpha_t=\alpha_{t|s}\alpha_s,\quad \sigma_t^2=\sigma^2_{t|s}+\alpha^2_{t|s}\sigma_s^2"
    views = ("core", "vae")
    source = "Ho et al. 2020, eq. 4"
    subject = "schedule"

    def sides(self, case: Case) -> Iterable[Sides]:
        q = case.process
        marginal, at_s = q.marginal(case.x0, case.t), q.marginal(case.x0, case.s)
        moved = q.transition(at_s.mean, case.s, case.t)
        yield Sides(marginal.mean, moved.mean, marginal.mean.abs())
        alpha_ts = (case.schedule.alpha(case.t) / case.schedule.alpha(case.s)).detach()
        total = moved.var + case.expand(alpha_ts).square() * at_s.var
        stored = 1 + marginal.log_var.abs() + at_s.log_var.abs() + moved.log_var.abs()
        yield Sides(marginal.var, total, total * stored)


@register
class TransitionFromMarginals(Algebraic):
    """σ²_{t|s} against σ_t² − α²_{t|s}σ_s² in float64, a difference: κ is its two terms over eps-ratio of the dtypes."""

    name = "transition-variance"
    statement = r"-\mathrm{expm1}(\lambda_t-\lambda_s)\,\sigma_t^2 = \sigma_t^2-\alpha^2_{t|s}\sigma_s^2"
    views = ("core", "vae")
    source = "Kingma et al. 2021, eq. 20"
    subject = "schedule"

    def sides(self, case: Case) -> Iterable[Sides]:
        schedule = case.schedule
        own = case.process.transition(case.x0, case.s, case.t)
        alpha_t, alpha_s = schedule.alpha(case.t).detach(), schedule.alpha(case.s).detach()
        var_t, var_s = schedule.sigma(case.t).detach().square(), schedule.sigma(case.s).detach().square()
        plain = var_t - (alpha_t / alpha_s).square() * var_s
        lost = torch.finfo(torch.float64).eps / case.eps * var_t * (1 + schedule.log_snr(case.t).detach().abs())
        kappa = case.expand(plain) * (1 + own.log_var.abs()) + case.expand(lost)
        yield Sides(own.var, case.expand(plain), kappa)


@register
class PriorKl(Algebraic):
    """Item 8. κ: α₁²‖x_0‖²/σ_p² and D times what the logarithm of a variance near one loses, |log σ₁²/σ_p²| + α₁²."""

    name = "prior-kl"
    statement = (
        r"\mathrm{KL}(q(x_1|x_0)\,\|\,N(0,I)) = "
        r"\frac12\left(\alpha_1^2\|x_0\|^2 + D(\mathrm{softplus}(\lambda_1) - \mathrm{sigmoid}(\lambda_1))\right)"
    )
    views = ("core", "vae")
    source = "Ho et al. 2020, eq. 5, the term L_T"
    subject = "schedule"

    def sides(self, case: Case) -> Iterable[Sides]:
        x0, schedule = case.x0, case.schedule
        t = case.t
        prior = type(case.process.marginal(x0, t))(torch.zeros_like(x0), torch.zeros_like(x0))
        own = case.process.marginal(x0, t).kl(prior)
        log_snr = schedule.log_snr(t).detach()
        norm2 = x0.to(torch.float64).flatten(1).square().sum(1)
        if schedule.variance_preserving:
            alpha2, spread = torch.sigmoid(log_snr), F.softplus(log_snr) - torch.sigmoid(log_snr)
        else:
            alpha2, spread = torch.ones_like(log_snr), (-log_snr).exp() - 1 + log_snr
        log_var = 2 * schedule.log_sigma(t).detach()
        kappa = alpha2 * norm2 + case.dim * ((1 + log_var.abs()) * log_var.exp() + log_var.abs() + alpha2)
        yield Sides(own, (0.5 * (alpha2 * norm2 + case.dim * spread)).to(case.dtype), kappa)
