r"""Items 61 to 64: which few times to stop at, where that is known.

Costs are measured by the path view's own classes; what they should be is written out from the kernels or in closed form,
and shortest paths are held to an enumeration of all of them, or to the formula of the optimum. Candidates lie evenly in
the coordinate in which the optimum is even, so that the optimum is among them and the search must hit it to rounding.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

import torch
from torch import Tensor

from unidiff.core.diffusion import Diffusion
from unidiff.core.gaussian import Gaussian as Step
from unidiff.core.grid import TimeGrid
from unidiff.core.sampling import Sampler
from unidiff.core.schedule import Schedule
from unidiff.identities.case import Case
from unidiff.identities.laws import Algebraic, Sides
from unidiff.identities.registry import register
from unidiff.paths import CostTable, CustomCost, Draws, ELBOCost, PairTable, beam
from unidiff.worlds import Gaussian, OracleDenoiser

C2 = 0.49  # the data's variance in items 62 to 64
SIX = 6  # steps of item 62


class OncePerSchedule(Algebraic):
    """What a schedule with some noise and some signal says by itself, in float64."""

    views = ("paths", "core")
    subject = "schedule"
    conditions = "a schedule with some signal at its end; in float64"
    worldless = True

    def applies(self, case: Case) -> bool:
        return case.dtype == torch.float64 and has_ends(case)


def has_ends(case: Case) -> bool:
    """Whether there is a signal left at t = 1, and levels below 8 to step between."""
    return case.overlaps(-8.0, 8.0) and math.isfinite(float(case.schedule.log_snr(1.0).detach()))


def even(case: Case, levels: Tensor) -> TimeGrid:
    """The times of log-SNRs ``levels``, from data to noise; the last is moved to t = 1 where it is as good as there."""
    times = case.schedule.time(levels.to(case.device)).detach().cpu()
    return TimeGrid(torch.cat([times[:-1], torch.ones(1, dtype=torch.float64)]))


def heard(case: Case, count: int) -> TimeGrid:
    """``count`` + 1 times even in log-SNR from 8, or the schedule's most, to its end."""
    high, low = case.window(-8.0, 8.0)[1], float(case.schedule.log_snr(1.0).detach())
    return even(case, torch.linspace(high, low, count + 1, dtype=torch.float64))


def enumerated(cost: Tensor, steps: int) -> float:
    """The least total of all paths of ``steps`` steps."""
    last = len(cost) - 1
    inner = itertools.combinations(range(1, last), steps - 1)
    return min(sum(float(cost[a, b]) for a, b in itertools.pairwise((0, *between, last))) for between in inner)


def paired(cost: Tensor, path: tuple[int, ...]) -> float:
    """A path's total where a step's price reads the step before; the first reads none, and has its own place."""
    steps = list(itertools.pairwise(path))
    before = [*path[2:], path[-1]]
    return sum(float(cost[a, b, h]) for (a, b), h in zip(steps, before, strict=True))


def round_core(case: Case, dim: int = 1) -> Diffusion:
    """The case's schedule and the exact denoiser of N(0, C2 I)."""
    eye = torch.eye(dim, dtype=torch.float64, device=case.device)
    law = Gaussian(torch.zeros(dim, dtype=torch.float64, device=case.device), C2 * eye)
    return Diffusion(case.schedule, OracleDenoiser(law))


def round_draws(case: Case, dim: int = 1) -> Draws:
    """A few draws of that law: what is exact asks how many numbers they have, and no more."""
    return Draws(C2**0.5 * case.normal("round data", 4, dim).double())


def snr(case: Case, grid: TimeGrid) -> Tensor:
    """SNR at a grid's times."""
    return case.schedule.log_snr(grid.times.to(case.device)).detach().cpu().exp()


@register
class ShortestIsEnumerated(OncePerSchedule):
    """Item 61: the dynamic programme against all paths, for every K, on the bound's prices and on drawn ones.

    And where a step's price reads the step before. κ: the sums.
    """

    name = "shortest-path"
    statement = r"V_K=\min_{0=i_0<\ldots<i_K=N}\sum_{m}c(t_{i_{m-1}},t_{i_m})"
    source = "Bellman 1957; Watson et al. 2021, algorithm 1; item 61"

    def sides(self, case: Case) -> Iterable[Sides]:
        grid, count = heard(case, 9), 9
        drawn = case.uniform("path costs", count + 1, count + 1).cpu().triu(1)
        tables = [
            ELBOCost("prior", exact=True).measure(round_core(case), grid, round_draws(case)),
            CostTable(grid, drawn[None], torch.ones(1, dtype=torch.float64), 0, "drawn", "units"),
        ]
        for table in tables:
            found = table.shortest(count)
            known = torch.tensor([enumerated(table.mean, k) for k in range(1, count + 1)], dtype=torch.float64)
            told = torch.tensor([table.total(found.path(k))[0] for k in range(1, count + 1)], dtype=torch.float64)
            yield Sides(found.values.cpu(), known, known)
            yield Sides(told, known, known)
        few, last = heard(case, 6), 6
        drawn = case.uniform("pair costs", last + 1, last + 1, last + 1).cpu()
        pairs = PairTable(few, drawn[None], torch.ones(1, dtype=torch.float64), 0, "drawn", "units")
        best = pairs.shortest(last)
        every = [
            min(paired(drawn, (0, *inner, last)) for inner in itertools.combinations(range(1, last), k - 1))
            for k in range(1, last + 1)
        ]
        known = torch.tensor(every, dtype=torch.float64)
        told = torch.tensor([pairs.total(best.path(k))[0] for k in range(1, last + 1)], dtype=torch.float64)
        yield Sides(best.values.cpu(), known, known)
        yield Sides(told, known, known)
        yield from self._beams(case, last)

    @staticmethod
    def _beams(case: Case, last: int) -> Iterable[Sides]:
        """A price that reads the places seen so far, which a beam carries as its state; and one that reads nothing."""
        flat = case.uniform("beam costs", last + 1, last + 1).cpu()

        def walk(path: tuple[int, ...], read: float) -> float:
            paid, seen = 0.0, float(last)
            for i, j in reversed(list(itertools.pairwise(path))):
                paid, seen = paid + float(flat[i, j]) + read * (seen % 3), seen + i
            return paid

        for read, width in ((0.0, 1), (0.4, 2**last)):

            def step(seen: Tensor, j: Tensor, i: Tensor, read: float = read) -> tuple[Tensor, Tensor]:
                return flat[i, j] + read * (seen % 3), seen + i.double()

            found = beam(last + 1, last, torch.tensor(float(last), dtype=torch.float64), step, width)
            every = [
                min(walk((0, *inner, last), read) for inner in itertools.combinations(range(1, last), k - 1))
                for k in range(1, last + 1)
            ]
            known = torch.tensor(every, dtype=torch.float64)
            told = torch.tensor(
                [walk(tuple(found.path(k).tolist()), read) for k in range(1, last + 1)], dtype=torch.float64
            )
            yield Sides(found.values, known, known)
            yield Sides(told, known, known)


@register
class EulerLosesWidth(Algebraic):
    """Item 62: what is left of the data's width after Euler's steps of the flow in σ, run by the sampler. κ: one step each.

    The sampler's own loop on a state of one standard deviation, against the angles θ = arctan(σ/c).
    """

    name = "euler-width"
    statement = (
        r"\frac{s_{\mathrm{out}}}{s_{\mathrm{true}}}=\prod_i\cos(\theta_{i+1}-\theta_i),"
        r"\quad\tan\theta=\frac{\sigma}{c}"
    )
    views = ("paths", "score")
    source = "Karras et al. 2022, eq. 4; item 62"
    conditions = "VE, data N(0, c²I), the exact denoiser; σ from 80 to 0.002"
    subject = "schedule"
    worldless = True

    def applies(self, case: Case) -> bool:
        return case.dtype == torch.float64 and case.schedule_name == "karras"

    def sides(self, case: Case) -> Iterable[Sides]:
        schedule = Schedule.karras()
        core, c = Diffusion(schedule, round_core(case).denoiser), C2**0.5
        for grid, known in ((TimeGrid.karras(SIX, schedule), None), (_by_angle(schedule, SIX), _best(schedule))):
            sigma = schedule.sigma(grid.times).detach()
            angles = (sigma / c).atan()
            wide, narrow = ((C2 + sigma[k] ** 2).sqrt() for k in (-1, 0))
            x = wide.to(case.device).reshape(1, 1)
            lost = Sampler(core, grid, "ddim")(x).cpu().flatten() / narrow
            product = angles.diff().cos().prod().reshape(1)
            yield Sides(lost, product, torch.full((1,), 4.0 * SIX))
            if known is not None:
                yield Sides(product, torch.tensor([known], dtype=torch.float64), torch.full((1,), 4.0 * SIX))


def _by_angle(schedule: Schedule, steps: int) -> TimeGrid:
    """The grid that is even in arctan(σ/c)."""
    ends = (schedule.sigma(torch.tensor([0.0, 1.0], dtype=torch.float64)).detach() / C2**0.5).atan()
    sigma = C2**0.5 * torch.linspace(float(ends[0]), float(ends[1]), steps + 1, dtype=torch.float64).tan()
    inner = schedule.time(-2 * sigma[1:-1].log()).detach()
    return TimeGrid([0.0, *inner.tolist(), 1.0])


def _best(schedule: Schedule) -> float:
    """cosⁿ(Δθ/n)."""
    ends = (schedule.sigma(torch.tensor([0.0, 1.0], dtype=torch.float64)).detach() / C2**0.5).atan()
    return math.cos(float(ends.diff()) / SIX) ** SIX


@register
class FlowOptimum(EulerLosesWidth):
    """Item 62: of candidates even in θ the search takes every tenth, and loses cosⁿ(Δθ/n). κ: the logarithms' sum."""

    name = "euler-optimum"
    statement = r"\max\prod_i\cos(\theta_{i+1}-\theta_i)=\cos^n\frac{\theta_n-\theta_0}{n}"
    views = ("paths", "score")
    source = "item 62"

    def sides(self, case: Case) -> Iterable[Sides]:
        schedule = Schedule.karras()
        candidates = _by_angle(schedule, 10 * SIX)

        def lost(s: Tensor, t: Tensor) -> Tensor:
            near, far = ((schedule.sigma(v).detach() / C2**0.5).atan() for v in (s, t))
            return -(far - near).cos().log()

        cost = CustomCost(lost).measure(round_core(case), candidates, round_draws(case))
        found = cost.shortest(SIX)
        kept = (-found.values[-1:]).exp().cpu()
        yield Sides(kept, torch.tensor([_best(schedule)], dtype=torch.float64), torch.full((1,), 40.0))
        taken = found.path(SIX).cpu().double()
        yield Sides(taken, 10.0 * torch.arange(SIX + 1, dtype=torch.float64), torch.ones(SIX + 1))


@register
class BoundOptimum(OncePerSchedule):
    """Item 63: the prices in closed form; and of candidates even in log(1 + c²SNR) the search takes every k-th.

    κ: an SNR's rounding, which is that of its logarithm, and the sum.
    """

    name = "bound-optimum"
    statement = (
        r"\min\sum\frac{1}{2}\frac{(\mathrm{SNR}_s-\mathrm{SNR}_t)c^2}{1+c^2\mathrm{SNR}_t}=\frac{K}{2}\left(U^{1/K}-1\right),"
        r"\quad U=\frac{1+c^2\mathrm{SNR}_{t_0}}{1+c^2\mathrm{SNR}_{t_N}}"
    )
    views = ("paths", "vae")
    source = "Kingma et al. 2021, eq. 13; item 63"
    conditions = "data N(0, c²I), the exact denoiser, the posterior variance; in float64"

    def sides(self, case: Case) -> Iterable[Sides]:
        ends = C2 * snr(case, heard(case, 1))
        logs = torch.linspace(float(ends[0].log1p()), float(ends[1].log1p()), 61, dtype=torch.float64)
        grid = even(case, (logs.expm1() / C2).log())
        table = ELBOCost(exact=True).measure(round_core(case, 2), grid, round_draws(case, 2))
        values = snr(case, grid)
        i, j = torch.triu_indices(61, 61, 1)
        price = 2 * 0.5 * (values[i] - values[j]) * C2 / (1 + C2 * values[j])
        # A difference of SNRs has the rounding of the larger, and λ that of its own size.
        size = (values[i] * C2 / (1 + C2 * values[j])) * (1 + values.log().abs().max())
        yield Sides(table.mean[i, j], price, size)
        found = table.shortest(6)
        u = (1 + C2 * values[0]) / (1 + C2 * values[-1])
        for k in (2, 3, 5, 6):
            best = k * (u ** (1 / k) - 1)
            size = best.reshape(1) * (8 + values.log().abs().max()) * k
            yield Sides(found.values[k - 1 : k].cpu(), best.reshape(1), size)
            yield Sides(
                found.path(k).cpu().double(), torch.linspace(0, 60, k + 1, dtype=torch.float64), torch.ones(k + 1)
            )


@register
class EveryPathTies(OncePerSchedule):
    """Item 64, a negative control: with the optimal variance no grid of isotropic Gaussian data is better than another.

    Paths drawn at random, of every length; each costs ½D log U. κ: each step's logarithms.
    """

    name = "every-path-ties"
    statement = (
        r"\sum_m\frac{D}{2}\log\frac{v_q+b^2e/D}{v_q}"
        r"=\frac{D}{2}\log\frac{1+c^2\mathrm{SNR}_{t_0}}{1+c^2\mathrm{SNR}_{t_N}}"
    )
    views = ("paths", "vae")
    source = "Bao et al. 2022, theorem 3; item 64"
    conditions = "data N(0, c²I), the exact denoiser, the optimal variance; in float64"

    def sides(self, case: Case) -> Iterable[Sides]:
        grid = heard(case, 24)
        table = ELBOCost("optimal", exact=True).measure(round_core(case, 3), grid, round_draws(case, 3))
        values = snr(case, grid)
        known = 1.5 * ((C2 * values[0]).log1p() - (C2 * values[-1]).log1p())
        totals = []
        for k in range(1, 24):
            inner = case.uniform(f"path {k}", 23).argsort()[: k - 1].sort().values.cpu() + 1
            totals.append(table.total(torch.cat([torch.tensor([0]), inner, torch.tensor([24])]))[0])
        found = torch.tensor(totals, dtype=torch.float64)
        yield Sides(found, known.expand_as(found), known + 24.0 * values.log().abs().max())


@register
class PricesAreTheBounds(Algebraic):
    """A step's price is the mean KL of the chain's kernel from Bayes', taken state by state at the same noise.

    The core is asked for its own chain, variance by variance. κ: the KL's terms.
    """

    name = "step-price"
    statement = r"c(s,t)=E_q\mathrm{KL}(q(x_s|x_t,x_0)\,\|\,p_\theta(x_s|x_t))"
    views = ("paths", "vae")
    source = "Ho et al. 2020, eq. 5; Watson et al. 2021, eq. 8"
    conditions = "any core; posterior, prior and optimal variances; in float64"

    def applies(self, case: Case) -> bool:
        return case.dtype == torch.float64 and has_ends(case) and case.has_spread

    def sides(self, case: Case) -> Iterable[Sides]:
        grid, draws = heard(case, 4), Draws(case.x0[:16])
        noise = draws.noise(draws.generator())
        pairs = [(i, j) for j in range(1, 5) for i in range(j)]
        said = {}
        for _, j in pairs:
            level = case.schedule.level(grid.times[j], draws.x0)
            xt = (level.alpha * draws.x0 + level.sigma * noise).detach()
            prediction = case.core.predict(xt, grid.times[j].to(xt.device))
            said[j] = xt, prediction.x0.detach()
        for rule in ("posterior", "prior", "optimal"):
            table, q = ELBOCost(rule).measure(case.core, grid, draws), case.process
            found, known, size = [], [], []
            for i, j in pairs:
                xt, x0 = said[j]
                s, t = (grid.times[k].to(xt.device) for k in (i, j))
                bayes = q.posterior(xt, draws.x0, s, t)
                guess = q.posterior(xt, x0, s, t)
                wide = bayes.var
                if rule == "prior":
                    wide = q.transition(xt, s, t).var
                elif rule == "optimal":
                    wide = bayes.var + (bayes.mean - guess.mean).square().mean()
                model = Step(guess.mean, wide.detach().log())
                known.append(bayes.kl(model).mean().reshape(1))
                found.append(table.mean[i, j].reshape(1))
                reach = (bayes.mean.abs() + guess.mean.abs()).square() / wide
                size.append((1 + reach.flatten(1).sum(1).mean() + known[-1].abs()).reshape(1).detach())
            yield Sides(torch.cat(found), torch.cat(known), torch.cat(size))
