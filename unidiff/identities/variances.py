r"""The reverse chain's variance: its four rules, what each makes of Gaussian data, and which one has the right moment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from unidiff.core.chain import Variance
from unidiff.core.denoiser import Denoiser
from unidiff.core.diffusion import Diffusion
from unidiff.core.grid import TimeGrid
from unidiff.core.sampling import Sampler
from unidiff.identities.case import Case, sampled, smooth
from unidiff.identities.chains import Frozen, grid_of
from unidiff.identities.laws import Algebraic, MonteCarlo, Sides
from unidiff.identities.registry import register
from unidiff.worlds import Gaussian, OracleDenoiser


class Book:
    """The textbook's coefficients of one step, float64: all from α_s, α_t, σ_s² and σ_t² (Ho et al. 2020, eq. 7)."""

    def __init__(self, case: Case, s: Tensor, t: Tensor) -> None:
        alpha_s, alpha_t = (case.schedule.alpha(v).detach() for v in (s, t))
        var_s, var_t = (case.schedule.sigma(v).detach().square() for v in (s, t))
        ratio = alpha_t / alpha_s
        self.alpha, self.var = alpha_t, var_t
        self.prior = var_t - ratio.square() * var_s
        self.posterior = self.prior * var_s / var_t
        self.on_xt, self.on_x0 = ratio * var_s / var_t, alpha_s * self.prior / var_t
        # What the difference in `prior` loses, in float64.
        self.lost = torch.finfo(torch.float64).eps * var_t / self.prior

    def kappa(self, case: Case, value: Tensor, log_var: Tensor) -> Tensor:
        """κ of a variance that is stored as its logarithm."""
        return value * (1 + self.lost / case.eps + log_var.abs().to(torch.float64))


def _steps(case: Case, grid: TimeGrid) -> Iterator[tuple[int, Book]]:
    for k in range(2, grid.steps + 1):
        yield k, Book(case, grid.times[k - 1], grid.times[k])


@register
class PriorVariance(Algebraic):
    """The two constant variances are q(x_s|x_t,x_0)'s and q(x_t|x_s)'s. κ: 1 + the stored logs."""

    name = "chain-variances"
    statement = r"v_\mathrm{posterior}=\sigma_s^2c,\quad v_\mathrm{prior}=\sigma^2_{t|s}"
    views = ("core", "vae", "rl")
    source = "Ho et al. 2020, section 3.2"
    subject = "schedule"

    def sides(self, case: Case) -> Iterable[Sides]:
        core = Diffusion(case.schedule, Frozen(case.core.event_shape))
        grid = grid_of(case)
        for k, book in _steps(case, grid):
            posterior, prior = (core.chain(grid, rule).step(case.x0, k) for rule in ("posterior", "prior"))
            for own, value in ((prior, book.prior), (posterior, book.posterior)):
                yield Sides(own.var.to(torch.float64), value, book.kappa(case, value, own.log_var))


@register
class FittedVariance(Algebraic):
    """The two variances that are given: a network's fraction between the logs, and a table of Var[x_0|x_t] by step.

    κ: 1 + the stored logs, each with what the textbook's difference loses.
    """

    name = "chain-fitted-variances"
    statement = (
        r"v_\mathrm{learned}=v_\mathrm{prior}^{w}\,v_\mathrm{posterior}^{1-w},\quad "
        r"v_\mathrm{optimal}=v_\mathrm{posterior}+b^2\,\mathrm{Var}[x_0|x_{t_k}]"
    )
    views = ("core", "vae")
    source = "Nichol & Dhariwal 2021, eq. 15; Bao et al. 2022, eq. 7"
    subject = "schedule"

    def sides(self, case: Case) -> Iterable[Sides]:
        grid, shape = grid_of(case), case.core.event_shape
        raw = torch.tanh(case.normal("raw", *case.x0.shape))
        said = torch.cat([case.x0, raw], 1)
        learned = Diffusion(case.schedule, Denoiser(lambda *_: said, shape, "x0", learned_variance=True))
        table = 0.1 + case.uniform("table", grid.steps).cpu()
        plain = Diffusion(case.schedule, Frozen(shape))
        share = 0.5 * (1 + raw.to(torch.float64))
        for k, book in _steps(case, grid):
            own = learned.chain(grid, "learned").step(case.noise, k)
            value = book.prior**share * book.posterior ** (1 - share)
            stored = book.prior.log().abs() + book.posterior.log().abs()
            yield Sides(own.var.to(torch.float64), value, book.kappa(case, value, own.log_var + stored))
            own = plain.chain(grid, "optimal", table).step(case.noise, k)
            value = book.posterior + book.on_x0.square() * table[k - 1]
            yield Sides(own.var.to(torch.float64), value, book.kappa(case, value, own.log_var.abs() + 4))


@register
class GaussianChainLaw(Algebraic):
    """Item 11 on Gaussian data: the sampler's law under each rule, by a recursion in each eigenvalue e of the data.

    With x̂_0 = m + (αe/(α²e + σ²))(x_t − αm) a step is linear: v_s = (a + bαe/(α²e + σ²))² v_t + ς². The optimal rule
    keeps the law of q at every step; posterior falls short of it and prior exceeds it. κ: the variances summed over the
    steps, each with its stored log, and the mean's rounding beside a deviation.
    """

    name = "gaussian-chain-law"
    statement = (
        r"v_{k-1}=\left(a+\frac{b\,\alpha e}{\alpha^2e+\sigma^2}\right)^2v_k+\varsigma_k^2,\quad "
        r"\mathrm{optimal}:\ v_k=\alpha_k^2e+\sigma_k^2"
    )
    views = ("core", "vae", "rl")
    source = "Bao et al. 2022 (Analytic-DPM), theorem 1; item 11"
    conditions = "Gaussian data in their own axes, the exact denoiser, a start in q_1"
    subject = "optimal"

    def applies(self, case: Case) -> bool:
        return isinstance(case.world, Gaussian) and case.exact

    def sides(self, case: Case) -> Iterable[Sides]:
        case = case.legible
        grid, world = grid_of(case), case.world
        # In the data's own axes, where the chain's diagonal covariance can be the right one.
        data = torch.linalg.eigvalsh(world.covariance.to(torch.float64))
        core = Diffusion(case.schedule, OracleDenoiser(Gaussian(world.mean, data.diag().to(case.dtype))))
        last, first = (case.schedule.level(grid.times[k]) for k in (-1, 0))
        start = last.alpha.detach().square() * data + last.sigma.detach().square()
        truth = first.alpha.detach().square() * data + first.sigma.detach().square()
        rules: tuple[Variance, ...] = ("posterior", "prior", "optimal")
        for rule in rules:
            found = self._law(case, Sampler(core, grid, "ancestral", variance=rule, graph=False), start)
            value, size = start, start
            for k in range(grid.steps, 0, -1):
                book = Book(case, grid.times[k - 1], grid.times[k])
                noised = book.alpha.square() * data + book.var
                gain = book.on_xt + book.on_x0 * book.alpha * data / noised
                added = {
                    "posterior": book.posterior,
                    "prior": book.prior,
                    "optimal": book.posterior + book.on_x0.square() * data * book.var / noised,
                }[rule]
                value = gain.square() * value + added
                size = gain.square() * size + added * (2 + added.log().abs() + book.lost / case.eps)
            mean = case.world.mean.to(torch.float64).norm()
            kappa = (size.sum() * grid.steps + mean * size.sum().sqrt()).expand(found.shape)
            yield Sides(found, value, kappa)
            if rule == "optimal":
                yield Sides(found, truth, kappa)

    @staticmethod
    def _law(case: Case, sampler: Sampler, start: Tensor) -> Tensor:
        """The variances of what the sampler makes of N(α₁m, diag(start)), from unit vectors."""
        rows, dim = sampler.table.rows, case.dim
        level = case.schedule.level(1.0)
        columns = [torch.zeros(1, dim, dtype=torch.float64, device=case.device), start.sqrt().diag()]
        x = torch.cat([*columns, torch.zeros(rows * dim, dim, dtype=torch.float64, device=case.device)])
        noise = torch.zeros(rows, x.shape[0], dim, dtype=case.dtype, device=case.device)
        for row in range(rows):
            noise[row, 1 + dim + row * dim : 1 + dim + (row + 1) * dim] = torch.eye(dim)
        x = (level.alpha.detach() * case.world.mean.to(torch.float64) + x).to(case.dtype)
        out = sampler(x, noise=noise).to(torch.float64)
        return (out[1:] - out[0]).square().sum(0)


@register
class OptimalVariance(MonteCarlo):
    """Item 11: with the exact x̂_0 and the optimal variance, one step has the right second moment, at any step size.

    Draws: x_t ~ q_t with its own x_s ~ q(x_s|x_t, x_0); compared per dimension, x_s² against mean² + variance.
    """

    name = "optimal-variance"
    statement = r"E\left[\mu^2+\sigma_s^2c+(\alpha_sc)^2\mathrm{Var}[x_0|x_t]\right]=E[x_s^2]"
    views = ("core", "vae")
    source = "Bao et al. 2022 (Analytic-DPM), theorem 1"
    conditions = "the exact denoiser; a data set under one schedule"
    subject = "optimal"

    def applies(self, case: Case) -> bool:
        return hasattr(case.core.denoiser, "x0_variance") and (smooth(case) or sampled(case))

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        ends = torch.tensor(case.window(-2.0, 2.0), dtype=torch.float64, device=case.device)
        t, s = case.schedule.time(ends).detach().cpu().tolist()
        grid = TimeGrid([s, t, 1.0]) if t < 1 - 1e-9 else TimeGrid([s, 1.0])
        chain = case.core.chain(grid, "optimal")
        # The posterior covariance is dear, and a few thousand draws are power enough: a few hundred in many dimensions.
        every = slice(None, None, 8 if case.dim > 16 else 4)
        x0, noise = case.mixed.x0[every], case.mixed.noise[every]
        at_t, at_s = case.schedule.level(t, x0), case.schedule.level(s, x0)
        xt = (at_t.alpha * x0 + at_t.sigma * noise).detach()
        step = chain.step(xt, 1)
        xs = case.process.posterior(xt, x0, s, t).sample(case.generator("optimal"))
        own, drawn = (v.flatten(1).square().mean(1) for v in (xs, step.mean))
        variance = step.var.expand_as(xt).flatten(1).mean(1)
        size = at_s.alpha.detach() ** 2 * case.world.variance.flatten().mean() + at_s.sigma.detach() ** 2
        return own - drawn - variance, size.reshape(1)
