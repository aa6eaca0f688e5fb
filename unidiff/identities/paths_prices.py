r"""What steps cost by the samplers, by a network's held answer, by an energy; and the walk that a grid's descent goes down.

A price is measured by the path view on its own draws; here the same draws are walked by hand, with the kernels and the
world's own densities, and each squared distance or logarithm is written out. All in float64.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import torch
from torch import Tensor

from unidiff.core.grid import TimeGrid
from unidiff.core.sampling import Sampler
from unidiff.identities.case import Case, sampled, smooth
from unidiff.identities.laws import Algebraic, Sides
from unidiff.identities.paths import has_ends, heard
from unidiff.identities.registry import register
from unidiff.paths import Deviation, Draws, EnergyCost, KLBound, MultistepDeviation, SamplerMDP
from unidiff.paths.gradient import energy_distance, walked

NODES, ROWS = 4, 12


class Priced(Algebraic):
    """Prices on the case's own core, in float64."""

    views = ("paths", "score")
    conditions = "any core; three schedules with some signal at their end; in float64"

    def applies(self, case: Case) -> bool:
        return case.dtype == torch.float64 and has_ends(case) and case.has_spread and sampled(case)


def flow_step(case: Case, x: Tensor, x0: Tensor, s: Tensor, t: Tensor) -> Tensor:
    """Where σ/α falling from t to s takes x/α along a straight line to x̂_0, times α_s."""
    level = [case.schedule.level(v) for v in (s, t)]
    ratio = [v.sigma / v.alpha for v in level]
    y = x / level[1].alpha
    return (level[0].alpha * (x0 + ratio[0] / ratio[1] * (y - x0))).detach()


def walk_of(case: Case, grid: TimeGrid, draws: Draws) -> tuple[list[Tensor], dict[int, Tensor]]:
    """Heun's walk in σ/α from the prior through the grid, by hand, and x̂_0 along it."""
    x = case.core.prior(len(draws.x0), draws.generator(), draws.x0)
    states, said, times = [x], {}, grid.times
    for k in range(len(grid) - 1, 0, -1):
        said[k] = case.core.predict(x, times[k]).x0.detach()
        first = flow_step(case, x, said[k], times[k - 1], times[k])
        near, far = (case.schedule.level(v) for v in (times[k - 1], times[k]))
        ratios = [(v.sigma / v.alpha).detach() for v in (near, far)]
        slopes = [(x / far.alpha - said[k]) / ratios[1]]
        if float(ratios[0]) > 0:
            again = case.core.predict(first, times[k - 1]).x0.detach()
            slopes.append((first / near.alpha - again) / ratios[0])
        mean = torch.stack(slopes).mean(0)
        x = (near.alpha * (x / far.alpha + (ratios[0] - ratios[1]) * mean)).detach()
        states.append(x)
    return states[::-1], said


@register
class StepDeviation(Priced):
    """A step of DDIM and of Euler in t from the teacher's trajectory, and one of DPM-Solver++(2M) with the step before it.

    κ: the squares of what is subtracted.
    """

    name = "step-deviation"
    statement = r"c(s,t)=\frac{w_s}{D}E\,\|\Phi_{t\to s}(x_t)-x_s\|^2,\quad w_s=\frac{1}{\alpha_s^2v+\sigma_s^2}"
    source = "Chen et al. 2024 (GITS), eq. 8; Lu et al. 2022, algorithm 2"

    def sides(self, case: Case) -> Iterable[Sides]:
        grid, draws = heard(case, NODES), Draws(case.x0[:ROWS])
        states, said = walk_of(case, grid, draws)
        level, times = case.schedule.level(grid.times), grid.times
        alpha, sigma, lam = (v.detach() for v in (level.alpha, level.sigma, level.log_snr))
        weight = 1 / (alpha.square() * float(draws.x0.var()) + sigma.square()) / case.dim
        rate = case.schedule.log_snr_derivative(times).detach()
        drift = case.schedule.drift(times).detach()
        tables = {name: Deviation(name).measure(case.core, grid, draws).mean for name in ("ddim", "euler")}  # pyright: ignore
        bare = Deviation(relative=False).measure(case.core, grid, draws).mean
        pairs = MultistepDeviation().measure(case.core, grid, draws).mean

        def off(landed: Tensor, i: int) -> Tensor:
            return (landed - states[i]).flatten(1).square().sum(1).mean()

        def size(landed: Tensor, i: int) -> Tensor:
            return (landed.abs() + states[i].abs()).flatten(1).square().sum(1).mean()

        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for i, j in itertools.combinations(range(NODES + 1), 2):
            landed = flow_step(case, states[j], said[j], times[i], times[j])
            found.append((tables["ddim"][i, j], weight[i] * off(landed, i), weight[i] * size(landed, i)))
            found.append((bare[i, j] * case.dim, off(landed, i), size(landed, i)))
            score = (alpha[j] * said[j] - states[j]) / sigma[j].square()
            pull = drift[j] * states[j] + 0.5 * rate[j] * sigma[j].square() * score
            landed = states[j] + (times[i] - times[j]) * pull
            found.append((tables["euler"][i, j], weight[i] * off(landed, i), weight[i] * (size(landed, i) + 1)))
        for i, j, h in itertools.combinations(range(NODES + 1), 3):
            now, before = lam[i] - lam[j], lam[j] - lam[h]
            guess = said[j] + now / (2 * before) * (said[j] - said[h])
            landed = flow_step(case, states[j], guess, times[i], times[j])
            found.append((pairs[i, j, h], weight[i] * off(landed, i), weight[i] * (size(landed, i) + 1)))
        own, known, kappa = (torch.stack([row[k].cpu() for row in found]) for k in range(3))
        # A trajectory's own rounding, amplified by the flow's stretch, enters both the state and the step.
        yield Sides(own, known, 64 * kappa)


@register
class HeldGuess(Priced):
    """The bound on paths' KL, on the same forward trajectory: a fine chain's kernels against those with the guess held.

    κ: the KLs' terms.
    """

    name = "held-guess-bound"
    statement = (
        r"c(t_i,t_j)=\sum_{l=i+1}^{j}E\,\mathrm{KL}\left(p_{\hat x_0(x_l)}\,\|\,p_{\hat x_0(x_j)}\right)(x_{l-1}|x_l)"
    )
    views = ("paths", "thermo")
    source = "Sabour et al. 2024 (AYS), theorem 3.1"

    def sides(self, case: Case) -> Iterable[Sides]:
        grid, draws, q = heard(case, NODES), Draws(case.x0[:ROWS]), case.process
        table, t, generator = KLBound().measure(case.core, grid, draws).mean, grid.times, draws.generator()
        first = q.marginal(draws.x0, t[0])
        states = [first.mean.detach() + first.std.detach() * draws.noise(generator)]
        for k in range(1, NODES + 1):
            step = q.transition(states[-1], t[k - 1], t[k])
            states.append(step.mean.detach() + step.std.detach() * draws.noise(generator))
        said = {k: case.core.predict(states[k], t[k]).x0.detach() for k in range(1, NODES + 1)}
        found, known, size = [], [], []
        for i, j in itertools.combinations(range(NODES + 1), 2):
            total, reach = torch.zeros(ROWS).to(draws.x0), torch.zeros(ROWS).to(draws.x0)
            for k in range(i + 1, j + 1):
                fine, still = (q.posterior(states[k], guess, t[k - 1], t[k]) for guess in (said[k], said[j]))
                total = total + fine.kl(still).detach()
                bulk = (fine.mean.abs() + still.mean.abs()).square() / fine.var
                reach = reach + bulk.detach().flatten(1).sum(1)
            found.append(table[i, j])
            known.append(total.mean().cpu())
            size.append(reach.mean().cpu())
        yield Sides(torch.stack(found), torch.stack(known), torch.stack(size))


@register
class EnergyPrice(Priced):
    """An energy's price on its own draws, with the densities of the world's noised laws. κ: the logarithms."""

    name = "energy-step-price"
    statement = (
        r"E\left[\log p_\theta(x_s|x_t)-\log q(x_t|x_s)+V_s(x_s)-V_t(x_t)\right]"
        r"=E\log\frac{p_\theta(x_s|x_t)\,q_t(x_t)}{q_s(x_s)\,q(x_t|x_s)}"
    )
    views = ("paths", "ebm", "rl")
    source = "Yoon et al. 2024 (DxMI), section 3; items 40 and 42"
    conditions = "the exact denoiser of a smooth law; three schedules; in float64"
    subject = "optimal"

    def applies(self, case: Case) -> bool:
        return super().applies(case) and smooth(case) and case.exact

    def sides(self, case: Case) -> Iterable[Sides]:
        grid, draws, q, world = heard(case, NODES), Draws(case.x0[:ROWS]), case.process, case.world
        constant, t = 3.0, grid.times

        def energy(x: Tensor, time: float) -> Tensor:
            level = case.schedule.level(time, x)
            return constant + case.core.denoiser.energy(x, level)  # pyright: ignore[reportAttributeAccessIssue]

        table, generator = EnergyCost(energy, "prior").measure(case.core, grid, draws).mean, draws.generator()
        noise, found, known, size = draws.noise(generator), [], [], []
        for j in range(NODES, 0, -1):
            level = case.schedule.level(t[j])
            xt = (level.alpha * draws.x0 + level.sigma * noise).detach()
            far = world.diffuse(*(v.detach().to(xt) for v in (level.alpha, level.sigma))).log_prob(xt)
            x0 = case.core.predict(xt, t[j]).x0.detach()
            for i in range(j):
                near = case.schedule.level(t[i])
                bayes, wide = q.posterior(xt, x0, t[i], t[j]), q.transition(xt, t[i], t[j]).var.detach()
                xs = bayes.mean.detach() + wide.sqrt() * draws.noise(generator)
                step = torch.distributions.Normal(bayes.mean.detach(), wide.sqrt().expand_as(xs))
                ahead = q.transition(xs, t[i], t[j])
                forward = torch.distributions.Normal(ahead.mean.detach(), ahead.std.detach().expand_as(xs))
                one, other = (law.log_prob(at).flatten(1).sum(1) for law, at in ((step, xs), (forward, xt)))
                close = world.diffuse(*(v.detach().to(xs) for v in (near.alpha, near.sigma))).log_prob(xs)
                known.append((one - other - close + far).mean().cpu())
                found.append(table[i, j])
                bulk = (one.abs() + other.abs() + close.abs() + far.abs()).mean().cpu()
                size.append(bulk * (1 + float(xs.norm(dim=1).max())))
        yield Sides(torch.stack(found), torch.stack(known), 16 * torch.stack(size))


@register
class DescentWalk(Priced):
    """The differentiable walk that a grid descends through is the sampler's own; a trajectory ends where the sampler does.

    κ: the states' size, once a step.
    """

    name = "descent-walk"
    statement = r"\Phi_{\lambda}(x_T)=x_{t_0}\quad\mathrm{of\ the\ sampler\ on\ the\ grid\ of}\ \lambda"
    source = "Lu et al. 2022, algorithm 2; Tong et al. 2025 (LD3), section 3"

    def sides(self, case: Case) -> Iterable[Sides]:
        grid = heard(case, NODES)
        x = case.core.prior(ROWS, case.generator("descent"), case.x0)
        kappa = 64 * NODES * (1 + x.flatten(1).norm(dim=1, keepdim=True))
        for method in ("ddim", "euler", "dpm++2m"):
            sampler = Sampler(case.core, grid, method)  # pyright: ignore[reportArgumentType]
            end, path = sampler(x), sampler.trajectory(x)
            own = walked(case.core, grid.times, method, x)  # pyright: ignore[reportArgumentType]
            yield Sides(own.flatten(1), end.flatten(1), kappa)
            yield Sides(path[0].flatten(1), end.flatten(1), kappa)
            yield Sides(path[-1].flatten(1), x.flatten(1), kappa)
            one = Sampler(case.core, TimeGrid([float(grid.times[-2]), 1.0]), method)(x)  # pyright: ignore
            yield Sides(path[-2].flatten(1), one.flatten(1), kappa)


@register
class WalkReward(Priced):
    """What a walk of the decision process is paid is how far the sampler on its grid ends from the teacher, and once.

    κ: the sum of both squares' terms, once a step.
    """

    name = "walk-reward"
    statement = r"-\sum_h r_h = \|\Phi_{\lambda}(x_T)-x_0^*\|^2/D"
    source = "Ye et al. 2024 (TPDM), section 3"

    def sides(self, case: Case) -> Iterable[Sides]:
        grid = heard(case, NODES)
        x = case.core.prior(ROWS, case.generator("walk-reward"), case.x0)
        ends = case.x0[:ROWS]
        path = torch.tensor([0, 1, NODES // 2, NODES])
        for method in ("ddim", "euler"):
            mdp = SamplerMDP(case.core, grid, 3, x, ends, method=method)
            state, paid = mdp.start(torch.arange(len(x))), torch.zeros(len(x), dtype=torch.float64)
            for node in (NODES // 2, 1, 0, 0):
                state, reward, _ = mdp.step(state, torch.full((len(x),), node))
                paid = paid - reward
            end = Sampler(case.core, TimeGrid(grid.times[path]), method)(x)
            known = (end - ends).flatten(1).square().mean(1)
            size = torch.maximum(x.flatten(1).square().mean(1), known) + ends.flatten(1).square().mean(1)
            yield Sides(paid.to(known), known, NODES * (1 + size))


@register
class EnergyDistance(Priced):
    """The energy distance of two sets, pair by pair. κ: the three means."""

    name = "energy-distance"
    statement = r"2\,E\|X-Y\|-E\|X-X'\|-E\|Y-Y'\|"
    views = ("paths", "core")
    source = "Székely & Rizzo 2013, eq. 2.5"

    def sides(self, case: Case) -> Iterable[Sides]:
        x, y = case.x0[:ROWS].flatten(1), case.x0[ROWS : 3 * ROWS].flatten(1) + 0.5
        across = torch.stack([(a - b).norm() for a in x for b in y]).mean()
        inside = [torch.stack([(a - b).norm() for a, b in itertools.combinations(v, 2)]).mean() for v in (x, y)]
        known = 2 * across - inside[0] - inside[1]
        yield Sides(energy_distance(x, y), known, 2 * across + inside[0] + inside[1])
