r"""Items 23 and 24: the bound in full, by a few of its terms, and in the limit of many steps."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from unidiff.core.chain import Variance
from unidiff.core.decoders import ContinuousDecoder
from unidiff.core.gaussian import Gaussian as Normal
from unidiff.core.grid import TimeGrid
from unidiff.identities.case import Case, sampled
from unidiff.identities.chains import denoiser_kappa, grid_of
from unidiff.identities.kernels import density_kappa
from unidiff.identities.laws import Algebraic, MonteCarlo, Sides
from unidiff.identities.registry import register
from unidiff.vae import MEASURES, SAMPLINGS, HierarchicalVAE
from unidiff.worlds import Gaussian

_RULES: tuple[Variance, ...] = ("posterior", "prior", "optimal")


@register
class LedgerIsKernels(Algebraic):
    """Every entry of the ledger, against the kernels at the same states: KL(q(x_s|x_t,x_0) ‖ step), the ends by density.

    The optimal rule has a table here. κ: the means' difference at the size of the means, over the variance, and 1.
    """

    name = "ledger-is-kernels"
    statement = (
        r"L_N=\mathrm{KL}(q(x_N|x_0)\,\|\,p),\quad L_k=\mathrm{KL}(q(x_{k-1}|x_k,x_0)\,\|\,p_\theta(x_{k-1}|x_k)),\quad "
        r"L_0=-\log p(x_0|x_{t_0})"
    )
    views = ("core", "vae")
    source = "Ho et al. 2020, eq. 5; Kingma et al. 2021, eq. 11"
    conditions = (
        "any core; where data and noise are both heard; in float32 of few numbers, where κ leaves something to see"
    )

    def applies(self, case: Case) -> bool:
        return not case.reaches_zero_snr and (case.dtype == torch.float64 or case.dim <= 16)

    def sides(self, case: Case) -> Iterable[Sides]:
        case = replace(case.heard, batch=16)
        grid, x0 = grid_of(case), case.x0
        noise = case.normal("ledger", grid.steps + 1, *x0.shape)
        table = 0.1 + case.uniform("spread", grid.steps).cpu()
        for rule in _RULES:
            spread = table if rule == "optimal" else None
            vae = HierarchicalVAE(case.core, ContinuousDecoder(std=0.3), rule, spread)
            found = vae.elbo(x0, grid, noise=noise, rows=37)
            chain = case.core.chain(grid, rule, spread)
            for k in range(1, grid.steps + 1):
                s, t = grid.times[k - 1], grid.times[k]
                level = case.schedule.level(t, x0)
                xt = (level.alpha * x0 + level.sigma * noise[k]).detach()
                own, step = case.process.posterior(xt, x0, s, t), chain.step(xt, k)
                size = own.mean.abs() + chain.table.on_xt[k - 1].to(x0) * xt.abs()
                size = size + chain.table.on_x0[k - 1].to(x0) * denoiser_kappa(case, xt, level)
                difference = (own.mean - step.mean).abs()
                part = difference.square() * (1 + step.log_var.abs()) + 2 * difference * size + size.square() * case.eps
                ratio = 1 + own.log_var.abs() + step.log_var.abs() + (own.log_var - step.log_var).exp()
                kappa = (part / step.var + ratio).flatten(1).sum(1).detach()
                yield Sides(found.diffusion[k - 1], own.kl(step).detach(), kappa)
            yield from self._ends(case, grid, found.prior, found.reconstruction, noise[0])

    @staticmethod
    def _ends(case: Case, grid: TimeGrid, prior: Tensor, reconstruction: Tensor, eps: Tensor) -> Iterable[Sides]:
        x0, last, first = case.x0, *(case.schedule.level(grid.times[k], case.x0) for k in (-1, 0))
        var = last.sigma.detach().square() / case.schedule.prior_std**2
        terms = var - 1 - var.log() + (last.alpha.detach() * x0 / case.schedule.prior_std).square()
        size = (1 + var.log().abs()) + (last.alpha.detach() * x0).square() / case.schedule.prior_std**2
        yield Sides(prior, 0.5 * terms.flatten(1).sum(1), size.flatten(1).sum(1))
        xt = (first.alpha * x0 + first.sigma * eps).detach()
        guess = case.core.predict(xt, grid.times[0]).x0.detach()
        law = Normal(guess, torch.full_like(x0[:1, :1], 2 * math.log(0.3)))
        reach = (denoiser_kappa(case, xt, first) * (x0 - guess).abs() / 0.09).flatten(1).sum(1)
        yield Sides(-reconstruction, law.log_prob(x0), density_kappa(law, x0) + reach.detach())


@register
class SampledBound(MonteCarlo):
    """A few terms of each example, by each way of choosing them, are the sum of all of them. Size: the sum.

    Repeats are what is independent; both sides draw their own noise on the same data.
    """

    name = "sampled-bound"
    statement = r"\mathrm{E}_{k\sim p}[L_k/p_k]=\sum_kL_k"
    views = ("vae",)
    source = "Kingma et al. 2021, eq. 14; Nichol & Dhariwal 2021, section 3.3"
    conditions = (
        "any core under three schedules, data that are more than one point, of few numbers or a network's; in float64"
    )

    def applies(self, case: Case) -> bool:
        small = case.dim <= 16 or not case.exact
        known = case.has_spread and small and not case.reaches_zero_snr and case.dtype == torch.float64
        return known and (sampled(case) or not case.exact)

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        repeats, own = 100, replace(case.heard, batch=48)
        # Steps even in √SNR, so that no term is too small to be heard.
        high, low = (0.5 * torch.tensor(own.log_snr_range, dtype=torch.float64).flip(0)).exp().tolist()
        marks = 2 * torch.linspace(high, low, 4, dtype=torch.float64).log()[:-1]
        grid = TimeGrid([*own.schedule.time(marks.to(own.device)).detach().tolist(), 1.0])
        # The prior rule: where the variances are one, a KL is the same both ways.
        vae, x0 = HierarchicalVAE(own.core, variance="prior"), own.x0
        many = x0.repeat(repeats, *[1] * (x0.ndim - 1))
        whole = vae.elbo(many, grid, generator=own.generator("whole"), rows=len(many)).diffusion.sum(0)
        whole = whole.reshape(repeats, -1).mean(1)
        columns = []
        for sampling in SAMPLINGS:
            proposal = torch.tensor([0.5, 0.2, 0.3]) if sampling == "importance" else None
            found = vae.sampled_elbo(
                x0,
                grid,
                draws=2,
                repeats=repeats,
                sampling=sampling,
                proposal=proposal,
                generator=own.generator(sampling),
            )
            columns.append(found.repeats.mean(1) - whole)
        return torch.stack(columns, 1), whole.mean().expand(len(columns))


@register
class ContinuousBound(MonteCarlo):
    """Item 24 and 31: the bound of infinitely many steps is the information that the path loses, however it is sampled.

    On Gaussian data, in closed form. Size: the information.
    """

    name = "continuous-bound"
    statement = (
        r"\frac12\,\mathrm{E}\int\gamma'(t)\,\|\varepsilon-\hat\varepsilon\|^2\,dt=I(x_0;x_{t_0})-I(x_0;x_1),\quad "
        r"I(x_0;x_t)=\frac12\log|I+\mathrm{SNR}\,C|"
    )
    views = ("vae", "thermo", "score")
    source = "Kingma et al. 2021, eq. 15 and 17; Guo, Shamai and Verdu 2005, theorem 1"
    conditions = "Gaussian data, the exact denoiser"
    subject = "optimal"

    def applies(self, case: Case) -> bool:
        return isinstance(case.world, Gaussian) and case.exact and not case.reaches_zero_snr

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        repeats, own = 256, replace(case.heard, batch=16)
        first = 0.1
        ends = own.schedule.log_snr(torch.tensor([first, 1.0], dtype=torch.float64)).detach()
        values = torch.linalg.eigvalsh(own.world.covariance.to(torch.float64))
        known = [0.5 * torch.log1p(end.exp() * values).sum() for end in ends]
        lost = known[0] - known[1]
        columns = []
        for measure in MEASURES:
            x0 = own.world.sample(16 * repeats, own.generator("information"))
            found = HierarchicalVAE(own.core).continuous_elbo(
                x0, first=first, draws=4, repeats=2, measure=measure, generator=own.generator(measure)
            )
            columns.append(found.diffusion.to(torch.float64) - lost)
        return torch.stack(columns, 1), lost.expand(len(columns))
