r"""Items 21 to 23: the nats of one path, one term and all the terms of the variational bound."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from unidiff.core.grid import TimeGrid
from unidiff.core.level import NoiseLevel
from unidiff.identities.case import Case, sampled, smooth
from unidiff.identities.chains import grid_of
from unidiff.identities.kernels import density_kappa
from unidiff.identities.laws import Algebraic, MonteCarlo, Order, Sides
from unidiff.identities.orders import smooth_time
from unidiff.identities.registry import register


@register
class Telescoping(Algebraic):
    """Item 21 on paths drawn forward along a grid. κ: the sum of all the log-densities' conditions."""

    name = "telescoping"
    statement = r"\sum_{k}\log\frac{q(x_{k-1}|x_k,x_0)}{q(x_k|x_{k-1})}=\log q(x_{t_0}|x_0)-\log q(x_{t_N}|x_0)"
    views = ("vae", "thermo")
    source = "Sohl-Dickstein et al. 2015, appendix B; Ho et al. 2020, appendix A"
    subject = "schedule"

    def sides(self, case: Case) -> Iterable[Sides]:
        q, x0, grid = case.process, case.x0, grid_of(case)
        times = grid.times
        first = q.marginal(x0, times[0])
        earlier = first.mean.detach() + first.std.detach() * case.normal("path 0", *x0.shape)
        total, kappa = torch.zeros_like(x0.flatten(1)[:, 0]), density_kappa(first, earlier)
        start = first.log_prob(earlier)
        for k in range(1, grid.steps + 1):
            forward = q.transition(earlier, times[k - 1], times[k])
            later = (forward.mean + forward.std * case.normal(f"path {k}", *x0.shape)).detach()
            backward = q.posterior(later, x0, times[k - 1], times[k])
            total = total + backward.log_prob(earlier) - forward.log_prob(later)
            kappa = kappa + density_kappa(forward, later) + density_kappa(backward, earlier)
            earlier = later
        last = q.marginal(x0, times[-1])
        yield Sides(total, start - last.log_prob(earlier), kappa + density_kappa(last, earlier))


class _Term:
    """One step of a chain at states drawn from q_t: the KL by the kernels, and what it is made of."""

    def __init__(self, case: Case, grid: TimeGrid, k: int) -> None:
        self.s, self.t = grid.times[k - 1], grid.times[k]
        level = case.schedule.level(self.t, case.x0)
        self.level = NoiseLevel(*(v.detach() for v in (level.t, level.log_snr, level.alpha, level.sigma)))
        xt = self.level.alpha * case.x0 + self.level.sigma * case.noise
        self.prediction = case.core.predict(xt, self.t)
        self.x0 = self.prediction.x0.detach()
        self.eps = self.prediction.eps.detach()
        self.posterior = case.process.posterior(xt, case.x0, self.s, self.t)
        self.step = case.core.chain(grid).kernel(xt, k, self.prediction)
        self.kl = self.posterior.kl(self.step).detach()
        self.snr_s, self.snr_t = (case.schedule.log_snr(v).detach().exp() for v in (self.s, self.t))
        # Both means round at the size of their terms, and their difference is divided by the posterior's variance.
        size = self.posterior.mean.abs() + self.step.mean.abs() + xt.abs() * (self.snr_t / self.snr_s).sqrt().to(xt)
        difference = (self.posterior.mean - self.step.mean).abs()
        stored = 1 + self.posterior.log_var.abs()
        part = difference.square() * stored + 2 * difference * size + size.square() * case.eps
        self.kappa = (part / self.posterior.var).flatten(1).sum(1).detach() + case.dim

    def by_x0(self, case: Case) -> Tensor:
        """½(SNR_s − SNR_t)‖x_0 − x̂_0‖², ``[B]``."""
        return 0.5 * (self.snr_s - self.snr_t).to(case.x0) * (case.x0 - self.x0).flatten(1).square().sum(1)

    def by_eps(self, case: Case) -> Tensor:
        """½ expm1(γ_t − γ_s)‖ε − ε̂‖², ``[B]``."""
        gain = torch.expm1(self.snr_s.log() - self.snr_t.log()).to(case.x0)
        return 0.5 * gain * (case.noise - self.eps).flatten(1).square().sum(1)

    def eps_kappa(self, case: Case) -> Tensor:
        """κ of :meth:`by_eps`: ε̂ and ε are had from x_t, and round at the size α|x_0|/σ too."""
        gain = torch.expm1(self.snr_s.log() - self.snr_t.log()).to(case.x0)
        difference = (case.noise - self.eps).abs()
        size = case.noise.abs() + self.eps.abs() + self.level.alpha / self.level.sigma * (case.x0.abs() + self.x0.abs())
        part = difference.square() + 2 * difference * size + size.square() * case.eps
        return gain * part.flatten(1).sum(1)


@register
class TermKl(Algebraic):
    """Item 22, for the chain's own kernel. κ: the means' difference at the size of the means, over the variance."""

    name = "elbo-term"
    statement = (
        r"\mathrm{KL}(q(x_s|x_t,x_0)\,\|\,p_\theta(x_s|x_t))=\frac12(\mathrm{SNR}_s-\mathrm{SNR}_t)\|x_0-\hat x_0\|^2"
        r"=\frac12\mathrm{expm1}(\gamma_t-\gamma_s)\|\varepsilon-\hat\varepsilon\|^2"
    )
    views = ("core", "vae", "score")
    source = "Kingma et al. 2021, eq. 13 and 14"
    conditions = "shared (posterior) variance; in float32 where data and noise are both heard"

    def sides(self, case: Case) -> Iterable[Sides]:
        case = case.legible
        grid = grid_of(case)
        for k in range(2, grid.steps + 1 - case.reaches_zero_snr):
            term = _Term(case, grid, k)
            by_x0, by_eps = term.by_x0(case), term.by_eps(case)
            yield Sides(term.kl, by_x0, term.kappa + by_x0)
            yield Sides(by_x0, by_eps, by_x0 + term.eps_kappa(case))


@register
class DiscreteLoss(MonteCarlo):
    """Item 23: with i drawn, T times the weighted error of one step is the sum of all the steps' KLs, by the kernels.

    Size: the sum. Data and noise are the same on both sides, so that only the choice of i is left to chance; the steps
    are even in √SNR, which makes the terms alike and a wrong one heard.
    """

    name = "discrete-loss"
    statement = (
        r"\sum_{i=1}^{T}\mathrm{KL}_i=\frac T2\,E_{i\sim U\{1..T\}}"
        r"\left[\mathrm{expm1}(\gamma_t-\gamma_s)\|\varepsilon-\hat\varepsilon\|^2\right]"
    )
    views = ("vae", "score")
    source = "Kingma et al. 2021, eq. 14"
    conditions = "shared (posterior) variance; data that are more than one point, a data set under one schedule"
    bound = 0.25

    def applies(self, case: Case) -> bool:
        return case.has_spread and (smooth(case) or sampled(case) or not case.exact)

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        heard = case.heard
        ends = (0.5 * torch.tensor(heard.log_snr_range, dtype=torch.float64)).exp()
        marks = 2 * torch.linspace(float(ends[1]), float(ends[0]), 6, dtype=torch.float64).log()[:-1]
        times = heard.schedule.time(marks.to(case.device)).detach()
        grid = TimeGrid([*times.tolist(), 1.0])
        # A random network's terms have heavy tails, and are cheap.
        n = min(case.draws, 512 if case.dim > 16 else 4096 if case.exact else 16384)
        many = replace(heard, batch=n)
        terms = [_Term(many, grid, k) for k in range(1, grid.steps + 1)]
        total = torch.stack([term.kl for term in terms]).sum(0)
        drawn = (case.uniform("index", n) * grid.steps).long()
        each = torch.stack([term.by_eps(many) for term in terms])
        one = each.gather(0, drawn[None])[0]
        return total - grid.steps * one, total.mean().reshape(1)


@register
class TermRate(Order):
    """From terms to the continuous bound: a term is ½γ'‖ε − ε̂‖²Δt, up to Δt². The rate is the schedule's derivative."""

    name = "elbo-rate"
    statement = (
        r"\mathrm{KL}(q(x_s|x_t,x_0)\,\|\,p_\theta(x_s|x_t))"
        r"=\frac12\gamma'(t)\|\varepsilon-\hat\varepsilon\|^2\Delta t+O(\Delta t^2)"
    )
    views = ("vae", "score", "thermo")
    source = "Kingma et al. 2021, eq. 15 and appendix E"

    def applies(self, case: Case) -> bool:
        return case.dtype == torch.float64 and case.has_spread

    def errors(self, case: Case) -> tuple[list[float], list[float], float]:
        t, room = smooth_time(case.schedule, 0.5 * sum(case.window(-4.0, 4.0)))
        rate = -float(case.schedule.log_snr_derivative(t).detach())
        steps, errors = [], []
        for k in range(4):
            dt = min(0.05 / rate, room) / 2**k
            term = _Term(case, TimeGrid([t - dt, t, 1.0]), 1)
            error2 = (case.noise - term.eps).flatten(1).square().sum(1)
            steps.append(dt)
            errors.append(float((term.kl - 0.5 * rate * dt * error2).mean().abs()))
        return steps, errors, 2.0
