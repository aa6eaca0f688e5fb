r"""Items 2 to 4: the posterior is Bayes' rule, the textbook's closed form, and one member of a family.

A Gaussian stores log σ², so rounding it moves σ² by |log σ²| eps; and a log-density's z = (x − m)/σ inherits the
rounding of x and m as (|x| + |m|)/σ. ``density_kappa`` is what those do to log N(x; m, σ²).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from unidiff.core.gaussian import Gaussian
from unidiff.core.process import ForwardProcess, bridge
from unidiff.core.schedule import Schedule
from unidiff.identities.case import Case
from unidiff.identities.laws import Algebraic, Sides
from unidiff.identities.registry import register


def density_kappa(law: Gaussian, x: Tensor) -> Tensor:
    """The condition of ``law.log_prob(x)``, ``[B]``: Σ ½z²(1 + |log σ²|) + |z|(|x| + |m|)/σ + |log σ²| + 1."""
    z = (x - law.mean).abs() / law.std
    stored = law.log_var.abs().expand_as(z)
    terms = 0.5 * z.square() * (1 + stored) + z * (x.abs() + law.mean.abs()) / law.std + stored + 1
    return terms.flatten(1).sum(1)


@register
class BayesPosterior(Algebraic):
    """The posterior against the product of q(x_s|x_0) and the likelihood of x_t as a Gaussian in x_s.

    κ: the product's mean m + w(m' − m) rounds as |m| + w(|m| + |m'|)(1 + stored logs); its variance as 1 + stored logs.
    """

    name = "bayes-posterior"
    statement = r"q(x_s|x_t,x_0) \propto q(x_t|x_s)\,q(x_s|x_0)"
    views = ("core", "vae", "rl")
    source = "Ho et al. 2020, eq. 6-7; Kingma et al. 2021, appendix A.2"
    subject = "schedule"

    def sides(self, case: Case) -> Iterable[Sides]:
        q = case.process
        own = q.posterior(case.xt, case.x0, case.s, case.t)
        before = q.marginal(case.x0, case.s)
        alpha_ts, log_var = (case.expand(v.detach()) for v in q.transition_coefficients(case.s, case.t))
        likelihood = Gaussian(case.xt / alpha_ts, log_var - 2 * alpha_ts.log())
        both, _ = before.product(likelihood)
        stored = 1 + before.log_var.abs() + likelihood.log_var.abs() + alpha_ts.log().abs()
        weight = before.var / (before.var + likelihood.var)
        kappa = before.mean.abs() + weight * (before.mean.abs() + likelihood.mean.abs()) * stored
        yield Sides(own.mean, both.mean, kappa)
        yield Sides(own.var, both.var, both.var * stored)


@register
class BayesDensity(Algebraic):
    """Bayes' rule as log-densities at a drawn x_s. κ: the sum of the four log-densities' conditions."""

    name = "bayes-log-density"
    statement = r"\log q(x_s|x_t,x_0) = \log q(x_t|x_s) + \log q(x_s|x_0) - \log q(x_t|x_0)"
    views = ("core", "vae", "rl")
    source = "Sohl-Dickstein et al. 2015, section 2.3"
    subject = "schedule"

    def sides(self, case: Case) -> Iterable[Sides]:
        q, xs, xt = case.process, case.xs, case.xt
        posterior, moved = q.posterior(xt, case.x0, case.s, case.t), q.transition(xs, case.s, case.t)
        at_s, at_t = q.marginal(case.x0, case.s), q.marginal(case.x0, case.t)
        kappa = (
            density_kappa(posterior, xs) + density_kappa(moved, xt) + density_kappa(at_s, xs) + density_kappa(at_t, xt)
        )
        right = moved.log_prob(xt) + at_s.log_prob(xs) - at_t.log_prob(xt)
        yield Sides(posterior.log_prob(xs), right, kappa)


@register
class DdpmClosedForm(Algebraic):
    """Item 3: μ̃ and β̃ in β and ᾱ, on betas linear, cosine and random, and on those read off the schedule at i/T.

    κ: the textbook's 1 − ᾱ_{i−1} loses 1/(1 − ᾱ_{i−1}) in float64; the kernel's variance is stored as its log.
    """

    name = "ddpm-closed-form"
    statement = (
        r"\tilde\mu = \frac{\sqrt{\bar\alpha_{s}}\,\beta_t}{1-\bar\alpha_t}x_0"
        r"+\frac{\sqrt{1-\beta_t}(1-\bar\alpha_{s})}{1-\bar\alpha_t}x_t,\quad"
        r"\tilde\beta=\frac{1-\bar\alpha_{s}}{1-\bar\alpha_t}\beta_t"
    )
    views = ("core", "vae", "rl")
    source = "Ho et al. 2020, eq. 7; Nichol & Dhariwal 2021, eq. 17"
    subject = "schedule"

    def sides(self, case: Case) -> Iterable[Sides]:
        times = torch.linspace(0, 1, case.batch + 2, dtype=torch.float64, device=case.device)[1:]
        log_bar = 2 * case.schedule.as_vp().log_alpha(times).detach()
        jumps = torch.cat([log_bar[:1], log_bar.diff()])
        linear = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64, device=case.device)
        angle = 0.5 * torch.pi * (torch.linspace(0, 1, 401, dtype=torch.float64, device=case.device) + 0.008) / 1.008
        cosine = 1 - (angle[1:].cos() / angle[:-1].cos()).square()
        for betas in (-torch.expm1(jumps), linear, cosine.clamp(max=0.999), 0.3 * case.uniform("betas", 200)):
            yield from self._on(case, betas.clamp(1e-12, 1 - 1e-12))

    @staticmethod
    def _on(case: Case, betas: Tensor) -> Iterable[Sides]:
        steps = betas.numel()
        q = ForwardProcess(Schedule.from_betas(betas))
        i = torch.linspace(2, steps, case.batch, dtype=torch.float64, device=case.device).round()
        own = q.posterior(case.xt, case.x0, (i - 1) / steps, i / steps)
        bar = torch.cumprod(1 - betas, 0)
        index = i.long() - 1
        beta, bar_t, bar_s = betas[index], bar[index], bar[index - 1]
        on_x0, on_xt = bar_s.sqrt() * beta / (1 - bar_t), (1 - beta).sqrt() * (1 - bar_s) / (1 - bar_t)
        mean = case.expand(on_x0) * case.x0 + case.expand(on_xt) * case.xt
        # (1 - beta) loses 1/(1 - beta) for a beta near one, in 1 - bar and in the product both; and 1 - beta loses beta.
        lost = steps / (1 - bar_s) + 1 / (1 - beta) + 1 / beta
        condition = 1 + case.expand(torch.finfo(torch.float64).eps / case.eps * lost)
        size = case.expand(on_x0) * case.x0.abs() + case.expand(on_xt) * case.xt.abs()
        yield Sides(own.mean, mean, size * condition)
        var = case.expand(beta * (1 - bar_s) / (1 - bar_t))
        yield Sides(own.var, var, var * (condition + own.log_var.abs()))


@register
class DdimMarginals(Algebraic):
    """Item 4 for a random η in [0, 1] for each step. κ: the terms."""

    name = "ddim-family"
    statement = (
        r"N\!\left(\alpha_s x_0+\sqrt{\sigma_s^2-\varsigma^2}\,\tfrac{x_t-\alpha_t x_0}{\sigma_t},\varsigma^2\right)"
        r"\ \mathrm{keeps}\ q(x_s|x_0)"
    )
    views = ("core", "score")
    source = "Song et al. 2021 (DDIM), eq. 7 and lemma 1"
    conditions = "ς² = η²σ_s²c with η in [0, 1]: what the core offers of the family's 0 ≤ ς² ≤ σ_s²"
    subject = "schedule"

    def sides(self, case: Case) -> Iterable[Sides]:
        eta = case.uniform("eta", case.batch)
        step = bridge(case.schedule, case.s, case.t, eta)
        on_xt, on_x0, var = (v.detach().to(case.dtype) for v in (step.on_xt, step.on_x0, step.log_var.exp()))
        at_t, at_s = case.level, case.level_s
        yield Sides(on_xt * at_t.alpha + on_x0, at_s.alpha, at_s.alpha)
        yield Sides(on_xt.square() * at_t.sigma.square() + var, at_s.sigma.square(), at_s.sigma.square())
        plain = eta.square() * -torch.expm1(at_t.log_snr.to(torch.float64) - at_s.log_snr) * at_s.sigma.square()
        widest = eta.square() * at_s.sigma.square() * (1 + at_t.log_snr.abs() + at_s.log_snr.abs())
        yield Sides(var, plain.to(case.dtype), widest)


@register
class DdimEnds(Algebraic):
    """η = 1 of the family is the posterior; η = 0 carries x_t's own noise to s. κ: the terms of the mean."""

    name = "ddim-ends"
    statement = r"\eta=1:\ q(x_s|x_t,x_0);\qquad \eta=0:\ x_s=\alpha_s x_0+\sigma_s\varepsilon"
    views = ("core", "score")
    source = "Song et al. 2021 (DDIM), section 4.1"
    subject = "schedule"

    def sides(self, case: Case) -> Iterable[Sides]:
        random = bridge(case.schedule, case.s, case.t, 1.0)
        own = case.process.posterior(case.xt, case.x0, case.s, case.t)
        # The textbook's precision-weighted mean, formed in float64.
        schedule = case.schedule
        var_s, var_t = (schedule.sigma(v).detach().square() for v in (case.s, case.t))
        ratio = (schedule.alpha(case.t) / schedule.alpha(case.s)).detach()
        _, log_ts = case.process.transition_coefficients(case.s, case.t)
        on_xt, on_x0 = ratio * var_s / var_t, schedule.alpha(case.s).detach() * log_ts.exp().detach() / var_t
        mean = case.expand(on_xt) * case.xt + case.expand(on_x0) * case.x0
        size = case.expand(on_xt) * case.xt.abs() + case.expand(on_x0) * case.x0.abs()
        yield Sides(own.mean, mean, size)
        yield Sides(case.expand(random.on_xt.detach()), case.expand(on_xt), case.expand(on_xt))
        still = bridge(schedule, case.s, case.t, 0.0)
        moved = case.expand(still.on_xt.detach()) * case.xt + case.expand(still.on_x0.detach()) * case.x0
        expected = case.expand(case.level_s.alpha) * case.x0 + case.expand(case.level_s.sigma) * case.noise
        size = (
            case.expand(still.on_xt.detach()) * (case.xt.abs() + case.expand(case.level.alpha) * case.x0.abs())
            + case.expand(case.level_s.alpha) * case.x0.abs()
        )
        yield Sides(moved, expected, size)
