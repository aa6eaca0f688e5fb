r"""Items 25 and 26: what the bound lacks, and what many paths give back; on Gaussian data p_θ is a formula."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from unidiff.core.chain import Variance
from unidiff.core.decoders import ContinuousDecoder
from unidiff.core.diffusion import Diffusion
from unidiff.core.grid import TimeGrid
from unidiff.identities.case import Case
from unidiff.identities.chains import grid_of
from unidiff.identities.laws import Algebraic, Bound, MonteCarlo, Sides
from unidiff.identities.registry import register
from unidiff.identities.variances import Book
from unidiff.vae import HierarchicalVAE
from unidiff.worlds import Gaussian, OracleDenoiser

_RULES: tuple[Variance, ...] = ("posterior", "prior", "optimal")


@register
class BoundGap(Algebraic):
    """Item 25 on Gaussian data: what the bound lacks is the encoder's distance from the decoder's own posterior.

    The ledger's expectation is exact: its terms are quadratic in ε, and ±√D e_i average a quadratic as N(0, I) does. The
    other side knows matrices only: the joint law of (x_0, x_{t_0}, …, x_{t_N}) under p_θ, conditioned by a Schur
    complement, and log p_θ(x_0) from its corner. κ: the log-densities' and the inverse's sizes.
    """

    name = "bound-gap"
    statement = r"\log p_\theta(x_0)-\mathrm{ELBO}=\mathrm{KL}(q(x_{t_0:1}|x_0)\,\|\,p_\theta(x_{t_0:1}|x_0))\geq0"
    views = ("vae", "thermo")
    source = "Kingma & Welling 2014, eq. 1; Sohl-Dickstein et al. 2015, eq. 13"
    conditions = "Gaussian data in their own axes, the exact denoiser; in float64"
    subject = "optimal"

    def applies(self, case: Case) -> bool:
        return isinstance(case.world, Gaussian) and case.exact and case.dtype == torch.float64

    def sides(self, case: Case) -> Iterable[Sides]:
        case = case.heard
        world = cast("Gaussian", case.world)
        data = torch.linalg.eigvalsh(world.covariance)
        own = Gaussian(world.mean, data.diag())
        core = Diffusion(case.schedule, OracleDenoiser(own))
        grid, dim = grid_of(case), case.dim
        x0 = own.sample(8, case.generator("bound gap"))
        points = dim**0.5 * torch.cat([torch.eye(dim), -torch.eye(dim)]).to(x0)
        many = x0.repeat_interleave(2 * dim, 0)
        noise = points.repeat(8, 1).expand(grid.steps + 1, -1, -1)
        for rule in _RULES:
            ledger = HierarchicalVAE(core, ContinuousDecoder(std=0.4), rule).elbo(many, grid, noise=noise)
            elbo = ledger.total.reshape(8, -1).mean(1)
            size = (ledger.prior + ledger.diffusion.sum(0) + ledger.reconstruction.abs()).reshape(8, -1).mean(1)
            log_p, gap, reach = self._by_matrices(case, grid, rule, world.mean, data, x0)
            yield Sides(log_p - elbo, gap, (size + reach) * dim * grid.steps)

    @staticmethod
    def _by_matrices(
        case: Case, grid: TimeGrid, rule: Variance, mean: Tensor, data: Tensor, x0: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(log p_θ(x_0), KL, κ), each ``[8]``, a sum over the axes: in each, one Gaussian of N + 2 numbers."""
        alpha, sigma = (v(grid.times).detach().to(x0) for v in (case.schedule.alpha, case.schedule.sigma))
        steps = grid.steps
        log_p, gap, reach = (torch.zeros_like(x0[:, 0]) for _ in range(3))
        for axis in range(case.dim):
            m, e = mean[axis], data[axis]
            # Upwards from x_N: every later variable is gain·(the one before) + shift + noise, x_0 the last.
            law_mean, cov = torch.zeros(1).to(x0), torch.full_like(x0[:1, :1], case.schedule.prior_std**2)
            chain = [(k, *axis_step(case, grid, rule, k, e)) for k in range(steps, 0, -1)]
            guess = alpha[0] * e / (alpha[0] ** 2 * e + sigma[0] ** 2)
            chain.append((0, guess, torch.full_like(e, 0.16)))
            for k, gain, var in chain:
                shift = (alpha[k - 1] if k else 1.0) * m - gain * alpha[k] * m
                law_mean = torch.cat([law_mean, (gain * law_mean[-1] + shift)[None]])
                row = gain * cov[-1]
                cov = torch.cat(
                    [torch.cat([cov, row[:, None]], 1), torch.cat([row, (gain * row[-1] + var)[None]])[None]]
                )
            datum, latent, cross = cov[-1, -1], cov[:-1, :-1], cov[:-1, -1]
            own = MultivariateNormal(torch.zeros(steps + 1).to(x0), latent - cross.outer(cross) / datum)
            down = torch.arange(steps, -1, -1)
            a, s = alpha[down], sigma[down]
            later = torch.minimum(down[:, None], down[None]), torch.maximum(down[:, None], down[None])
            encoder = alpha[later[1]] / alpha[later[0]] * sigma[later[0]] ** 2
            for i, x in enumerate(x0[:, axis]):
                told = law_mean[:-1] + cross / datum * (x - law_mean[-1])
                posterior = MultivariateNormal(told, own.covariance_matrix)
                gap[i] += kl_divergence(MultivariateNormal(a * x, encoder), posterior)
                log_p[i] += torch.distributions.Normal(law_mean[-1], datum.sqrt()).log_prob(x)
            values = torch.linalg.eigvalsh(own.covariance_matrix)
            reach += values[-1] / values[0] + 1 / (s[-1] ** 2)
        return log_p, gap, reach


def axis_step(case: Case, grid: TimeGrid, rule: Variance, k: int, e: Tensor) -> tuple[Tensor, Tensor]:
    """(gain, variance) of the step from t_k for one axis of centred Gaussian data of variance e, by the textbook."""
    book = Book(case, grid.times[k - 1], grid.times[k])
    noised = book.alpha**2 * e + book.var
    var = {
        "posterior": book.posterior,
        "prior": book.prior,
        "optimal": book.posterior + book.on_x0**2 * e * book.var / noised,
    }[rule]
    return book.on_xt + book.on_x0 * book.alpha * e / noised, var


@register
class ImportanceClimbs(Bound):
    """Item 26, path by path: the log of a mean of two is no less than the mean of their logs, so L_k ≤ L_2k."""

    name = "importance-climbs"
    statement = r"\mathrm{ELBO}=L_1\leq L_k\leq L_{2k}\leq\log\max_jw_j"
    views = ("vae",)
    source = "Burda et al. 2016, theorem 1"
    conditions = "any core"

    def applies(self, case: Case) -> bool:
        return not case.reaches_zero_snr

    def excess(self, case: Case) -> tuple[float, float]:
        own = replace(case.heard, batch=4)
        found = HierarchicalVAE(own.core).iwae(own.x0, grid_of(own, 3), 16, generator=own.generator("paths"))
        means = [found.first(k).mean(0) for k in (1, 2, 4, 8, 16)]
        means = [found.elbo, *means, found.bound, found.log_weights.amax(0)]
        worst = max(float((a - b).max()) for a, b in pairwise(means))
        scale = float(found.log_weights.abs().max()) + math.log(16)
        return worst, 64 * case.eps * scale


@register
class ImportanceIsLikelihood(MonteCarlo):
    """Items 26 and 36: the mean weight is p_θ(x_0), on Gaussian data by the chain's own marginal. Size: 1.

    Few steps of the optimal rule keep the weights' tails light enough to be heard.
    """

    name = "importance-is-likelihood"
    statement = r"\mathrm{E}_q\left[\frac{p_\theta(x_0,x_{t_0:1})}{q(x_{t_0:1}|x_0)}\right]=p_\theta(x_0)"
    views = ("vae", "thermo")
    source = "Burda et al. 2016, eq. 8; Jarzynski 1997"
    conditions = "Gaussian data in their own axes, the exact denoiser; in float64"
    subject = "optimal"
    bound = 0.25

    def applies(self, case: Case) -> bool:
        return isinstance(case.world, Gaussian) and case.exact and case.dtype == torch.float64

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        own, paths = case.heard, 8192
        data = torch.linalg.eigvalsh(own.world.covariance)
        # The law about a mean of its own size: a weight is no place for the rounding of a far one.
        mean = data.sqrt()
        core = Diffusion(own.schedule, OracleDenoiser(Gaussian(mean, data.diag())))
        grid = grid_of(own, 6)
        x0 = mean + data.sqrt() * torch.tensor([[-0.5], [0.5]]).to(data)
        vae = HierarchicalVAE(core, ContinuousDecoder(), "optimal")
        many = x0.repeat(paths, 1)
        log_w = vae.iwae(many, grid, 1, generator=own.generator("weights")).log_weights.reshape(paths, 2)
        truth = torch.stack([_marginal(own, grid, mean[i], data[i], x0[:, i]) for i in range(own.dim)]).sum(0)
        return (log_w - truth).expm1(), torch.ones(2).to(x0)


def _marginal(case: Case, grid: TimeGrid, mean: Tensor, e: Tensor, x: Tensor) -> Tensor:
    """log p_θ(x) of one axis under the optimal rule and the default decoder: the mean and the variance walked down."""
    m, v = torch.zeros_like(mean), torch.full_like(mean, case.schedule.prior_std**2)
    alpha, sigma = (f(grid.times).detach() for f in (case.schedule.alpha, case.schedule.sigma))
    for k in range(grid.steps, 0, -1):
        gain, var = axis_step(case, grid, "optimal", k, e)
        m, v = alpha[k - 1] * mean + gain * (m - alpha[k] * mean), gain**2 * v + var
    gain = alpha[0] * e / (alpha[0] ** 2 * e + sigma[0] ** 2)
    m, v = mean + gain * (m - alpha[0] * mean), gain**2 * v + (sigma[0] / alpha[0]) ** 2
    return torch.distributions.Normal(m, v.sqrt()).log_prob(x)
