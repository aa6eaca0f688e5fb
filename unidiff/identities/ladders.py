r"""The ladder and the weight of a path: all steps at once, against the forward and the reverse kernels one by one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch

from unidiff.core.chain import Variance
from unidiff.core.decoders import ContinuousDecoder
from unidiff.core.gaussian import Gaussian
from unidiff.core.ladder import draw_ladder
from unidiff.core.trajectory import path_weights
from unidiff.identities.case import Case
from unidiff.identities.chains import denoiser_kappa, grid_of
from unidiff.identities.kernels import density_kappa
from unidiff.identities.laws import Algebraic, Sides
from unidiff.identities.registry import register


@register
class LadderLaw(Algebraic):
    """The ladder's mean and covariance, from unit vectors, against the forward chain's. κ: the covariance's own size.

    With j < k, x_k = α_{k|j} x_j + …, so Cov[x_j, x_k] = α_{k|j} σ_j².
    """

    name = "ladder-law"
    statement = r"\mathrm{E}[x_k|x_0]=\alpha_kx_0,\quad \mathrm{Cov}[x_j,x_k|x_0]=\alpha_{k|j}\sigma_j^2\ (j\leq k)"
    views = ("core", "vae")
    source = "Kingma et al. 2021, appendix A; item 1"
    conditions = "some signal at t = 1"
    subject = "schedule"

    def applies(self, case: Case) -> bool:
        return not case.reaches_zero_snr

    def sides(self, case: Case) -> Iterable[Sides]:
        grid, steps = grid_of(case), grid_of(case).steps
        # Row r of the batch hears draw r alone; the last row hears none.
        noise = torch.cat([torch.eye(steps + 1), torch.zeros(steps + 1, 1)], 1)[..., None].to(case.x0)
        zero = torch.zeros(steps + 2, 1).to(case.x0)
        states = draw_ladder(case.schedule, zero, grid, noise=noise).states[..., 0]
        times = grid.times
        alpha, var = case.schedule.alpha(times).detach(), case.schedule.sigma(times).detach().square()
        ratio = alpha[None] / alpha[:, None]
        upper = torch.triu(ratio * var[:, None])
        expected = (upper + torch.triu(upper, 1).T).to(case.x0)
        size = var.sqrt().outer(var.sqrt()).to(case.x0)
        stored = 1 + case.schedule.log_snr(times).detach().abs().max().to(case.x0)
        yield Sides(states[:, :-1] @ states[:, :-1].T, expected, size * stored)
        moved = draw_ladder(case.schedule, case.x0, grid, noise=torch.zeros(steps + 1, *case.x0.shape).to(case.x0))
        wide = alpha.to(case.x0).reshape(-1, *[1] * case.x0.ndim) * case.x0
        yield Sides(moved.states, wide, wide.abs())


@register
class PathWeight(Algebraic):
    """The weight of a path from its noises, against the kernels at its states: forward transitions and chain's steps.

    κ: the sum of all the log-densities' conditions, the denoiser's error carried through the steps' means.
    """

    name = "path-weight"
    statement = (
        r"\log w=\log\frac{p(x_N)\,\prod_kp_\theta(x_{k-1}|x_k)\,p(x_0|x_{t_0})}"
        r"{q(x_{t_0}|x_0)\,\prod_kq(x_k|x_{k-1})}"
    )
    views = ("core", "vae", "thermo")
    source = "Sohl-Dickstein et al. 2015, eq. 9 to 11; Burda et al. 2016, eq. 8"
    conditions = "any core; where data and noise are both heard"

    def applies(self, case: Case) -> bool:
        return not case.reaches_zero_snr

    def sides(self, case: Case) -> Iterable[Sides]:
        case = replace(case.heard, batch=16)
        grid, x0, decoder = grid_of(case), case.x0, ContinuousDecoder(mean="state")
        noise = case.normal("path", grid.steps + 1, *x0.shape)
        ladder = draw_ladder(case.schedule, x0, grid, noise=noise)
        x, q = ladder.states, case.process
        rules: tuple[Variance, ...] = ("posterior", "prior")
        for rule in rules:
            chain = case.core.chain(grid, rule)
            found = path_weights(chain, decoder, ladder, rows=100)
            prior = Gaussian(
                torch.zeros_like(x0), 2 * torch.tensor(case.schedule.prior_std, dtype=torch.float64).log().to(x0)
            )
            first = q.marginal(x0, grid.times[0])
            laws = [(prior, x[-1], 1.0), (first, x[0], -1.0)]
            lost = torch.zeros_like(found.prior)
            for k in range(1, grid.steps + 1):
                own = chain.step(x[k], k)
                forward = q.transition(x[k - 1], grid.times[k - 1], grid.times[k])
                laws += [(own, x[k - 1], 1.0), (forward, x[k], -1.0)]
                level = case.schedule.level(grid.times[k], x0)
                size = chain.table.on_x0[k - 1].to(x0) * denoiser_kappa(case, x[k], level)
                size = size + chain.table.on_xt[k - 1].to(x0) * x[k].abs()
                lost = lost + ((x[k - 1] - own.mean).abs() * size / own.var).flatten(1).sum(1)
            total = torch.stack([sign * law.log_prob(at) for law, at, sign in laws]).sum(0)
            kappa = torch.stack([density_kappa(law, at) for law, at, _ in laws]).sum(0) + lost
            alpha, sigma = (v(grid.times[0]).detach().to(x0) for v in (case.schedule.alpha, case.schedule.sigma))
            last = Gaussian(x[0] / alpha, 2 * (sigma / alpha).log())
            total = total + last.log_prob(x0)
            yield Sides(found.total, total.detach(), (kappa + density_kappa(last, x0)).detach())
