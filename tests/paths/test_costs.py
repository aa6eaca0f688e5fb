"""Costs of steps: each is what its formula says, on worlds where the formula is known, and knows how sure it is."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

import unidiff as ud
from unidiff import paths
from unidiff.core.networks import MLP
from unidiff.core.process import bridge
from unidiff.core.tables import leaps
from unidiff.paths import Draws

C2 = 0.49
GRID = ud.TimeGrid([0.0, 0.2, 0.5, 0.6, 1.0])
SCHEDULE = ud.Schedule.polynomial(1.0, 6.0, -6.0)


def gaussian(dim: int = 2, dtype: torch.dtype = torch.float64) -> ud.worlds.Gaussian:
    return ud.worlds.Gaussian(torch.zeros(dim, dtype=dtype), C2 * torch.eye(dim, dtype=dtype))


def core_of(world: ud.worlds.World, schedule: ud.Schedule = SCHEDULE) -> ud.Diffusion:
    return ud.Diffusion(schedule, ud.worlds.OracleDenoiser(world))


def draws(world: ud.worlds.World, n: int, seed: int = 0) -> Draws:
    return Draws(world.sample(n, torch.Generator().manual_seed(seed)), seed=seed)


def pairs(grid: ud.TimeGrid) -> list[tuple[int, int]]:
    return [(i, j) for j in range(len(grid)) for i in range(j)]


@pytest.mark.parametrize("variance", ["posterior", "prior", "optimal", "learned"])
def test_the_bounds_price_is_the_ledgers_term(variance) -> None:
    world = ud.worlds.library.mixture_2d().to(torch.float64)
    if variance == "learned":
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = MLP(2, 16, 2, outputs=4).double()
        core = ud.Diffusion(SCHEDULE, ud.Denoiser(network, (2,), "eps", learned_variance=True))
    else:
        core = core_of(world)
    told = draws(world, 400)
    table = paths.ELBOCost(variance).measure(core, GRID, told)
    path = torch.tensor([0, 2, 4])
    grid = ud.TimeGrid(GRID.times[path])
    kept = None
    if variance == "optimal":
        # The rule's own table, of the errors at those times: e/D.
        noise = told.noise(told.generator())
        levels = SCHEDULE.level(grid.times[1:])
        kept = torch.stack([
            (told.x0 - core.predict(level.alpha * told.x0 + level.sigma * noise, level.t).x0).square().mean()
            for level in (levels[0], levels[1])
        ])  # fmt: skip
    noise = told.noise(told.generator()).expand(3, -1, -1)
    ledger = ud.HierarchicalVAE(core, variance=variance, x0_variance=kept).elbo(told.x0, grid, noise=noise)
    assert table.total(path)[0] == pytest.approx(float(ledger.diffusion.sum(0).mean()), rel=1e-9)
    assert table.samples == 400 and table.unit == "nats"


def test_the_exact_errors_have_no_noise_on_gaussian_data() -> None:
    world = gaussian()
    table = paths.ELBOCost(exact=True).measure(core_of(world), GRID, draws(world, 3))
    snr = SCHEDULE.log_snr(GRID.times).exp()
    for i, j in pairs(GRID):
        known = (snr[i] - snr[j]) * C2 / (1 + C2 * snr[j])
        assert float(table.mean[i, j]) == pytest.approx(float(known), rel=1e-12)
    assert table.total(torch.tensor([0, 4]))[1] < 1e-9


@pytest.mark.slow
def test_an_errors_scatter_is_the_standard_error() -> None:
    """The claimed error of a total against the scatter of 200 repeats: a ratio within 1 ± 0.35 (8 groups: χ² with 7
    degrees; the mean of 200 claims has 2%, the scatter 5%; the claim's own bias −3.5%): a false alarm in 1e-8 runs."""
    world, core, path = gaussian(1), core_of(gaussian(1)), torch.tensor([0, 1, 3, 4])
    found = [paths.ELBOCost().measure(core, GRID, draws(world, 64, seed)).total(path) for seed in range(200)]
    totals, claims = torch.tensor(found, dtype=torch.float64).unbind(1)
    assert 0.65 < float(claims.mean() / totals.std()) < 1.35
    exact = paths.ELBOCost(exact=True).measure(core, GRID, draws(world, 2)).total(path)[0]
    assert abs(float(totals.mean()) - exact) < 6 * float(totals.std()) / 200**0.5


def test_a_difference_of_paths_is_known_better_than_either() -> None:
    world = gaussian()
    table = paths.ELBOCost().measure(core_of(world), GRID, draws(world, 256))
    one, other = torch.tensor([0, 1, 3, 4]), torch.tensor([0, 1, 2, 4])
    excess, error = table.excess(one, other)
    assert excess == pytest.approx(table.total(one)[0] - table.total(other)[0], rel=1e-9)
    assert error < 0.7 * min(table.total(one)[1], table.total(other)[1])


@pytest.mark.parametrize("method", ["ddim", "euler"])
def test_a_deviation_is_one_step_of_the_sampler_from_the_teachers_trajectory(method) -> None:
    world = ud.worlds.library.mixture_2d()
    core, told = core_of(world), draws(world, 20, 3)
    table = paths.Deviation(method, relative=False).measure(core, GRID, told)
    walk = ud.Sampler(core, GRID, "heun").trajectory(core.prior(20, told.generator(), told.x0))
    for i, j in pairs(GRID):
        row = leaps(SCHEDULE, GRID.times[[i]], GRID.times[[j]], method)
        x0 = core.predict(walk[j], GRID.times[j]).x0
        step = float(row.on_xt) * walk[j] + float(row.on_x0) * x0
        assert float(table.mean[i, j]) == pytest.approx(float((step - walk[i]).square().mean()), rel=1e-5, abs=1e-12)
    last = ud.Sampler(core, ud.TimeGrid([0.0, 1.0]), method)(walk[-1])
    assert float(table.mean[0, 4]) == pytest.approx(float((last - walk[0]).square().mean()), rel=1e-5)


def test_the_multistep_price_is_two_steps_of_the_sampler() -> None:
    world = ud.worlds.library.mixture_2d().to(torch.float64)
    core, told = core_of(world), draws(world, 20, 3)
    table = paths.MultistepDeviation(relative=False).measure(core, GRID, told)
    walk = ud.Sampler(core, GRID, "heun").trajectory(core.prior(20, told.generator(), told.x0))
    said = {j: core.predict(walk[j], GRID.times[j]).x0 for j in range(1, 5)}
    level, r2 = SCHEDULE.level(GRID.times), lambda i, j: 0.5 * float(level.log_snr[i] - level.log_snr[j])
    for i, j, h in itertools.combinations(range(5), 3):
        step = bridge(SCHEDULE, GRID.times[i], GRID.times[j], 0.0)
        middle = said[j] + r2(i, j) / (2 * r2(j, h)) * (said[j] - said[h])
        landed = step.on_xt * walk[j] + step.on_x0 * middle
        assert float(table.mean[i, j, h]) == pytest.approx(float((landed - walk[i]).square().mean()), rel=1e-9)
    path = torch.tensor([0, 2, 4])
    known = table.mean[2, 4, 4] + table.mean[0, 2, 4]
    assert table.total(path)[0] == pytest.approx(float(known), rel=1e-12)


def test_paths_of_pairs_are_the_cheapest_of_all() -> None:
    size = 8
    cost = torch.rand(3, size, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    table = paths.PairTable(
        ud.TimeGrid.uniform(size - 1), cost, torch.full((3,), 1 / 3, dtype=torch.float64), 30, "any", "units"
    )
    found = table.shortest(size - 1)
    for k in range(1, size):
        every = [torch.tensor([0, *inner, size - 1]) for inner in itertools.combinations(range(1, size - 1), k - 1)]
        totals = [table.total(path)[0] for path in every]
        assert float(found.values[k - 1]) == pytest.approx(min(totals), rel=1e-12)
        assert torch.equal(found.path(k), every[totals.index(min(totals))])


def test_the_kl_bound_is_the_fine_chains_kl_from_guesses_held_still() -> None:
    world = ud.worlds.library.mixture_2d().to(torch.float64)
    core, told = core_of(world), draws(world, 50, 5)
    table, t = paths.KLBound().measure(core, GRID, told), GRID.times
    generator = told.generator()
    states = [core.process.marginal(told.x0, t[0]).sample(generator)]
    for k in range(1, 5):
        states.append(core.process.transition(states[-1], t[k - 1], t[k]).sample(generator))
    said = {k: core.predict(states[k], t[k]).x0 for k in range(1, 5)}
    for i, j in pairs(GRID):
        known = torch.zeros(50, dtype=torch.float64)
        for k in range(i + 1, j + 1):
            fine, still = (core.process.posterior(states[k], guess, t[k - 1], t[k]) for guess in (said[k], said[j]))
            known = known + fine.kl(still)
        assert float(table.mean[i, j]) == pytest.approx(float(known.mean()), rel=1e-9, abs=1e-12)


def test_the_energys_price_is_the_reverse_kl_of_a_step() -> None:
    """Six standard errors over 10 steps of 4000 draws, estimated in 8 groups (t with 7 degrees): false alarm 1e-2 at 3.5
    and below 6e-3 in all at 9, the bound taken; a price without its entropy or with V upside down is off by hundreds."""
    world = gaussian()
    core, model = core_of(world), ud.EnergyModel.of(core_of(world))
    cost = paths.EnergyCost(lambda x, t: model.energy(x, t) / model.tau)
    table, t = cost.measure(core, GRID, draws(world, 4000)), GRID.times
    for i, j in pairs(GRID):
        step, level = bridge(SCHEDULE, t[i], t[j]), SCHEDULE.level(t[j])
        left = C2 * level.sigma**2 / (level.alpha**2 * C2 + level.sigma**2)
        ratio = float(step.log_var.exp() / (step.log_var.exp() + step.on_x0**2 * left))
        known = 2 * 0.5 * (ratio - 1 - math.log(ratio))
        mean, error = table.total(torch.tensor([i, j]))
        assert abs(mean - known) < 9 * error + 1e-9, (i, j)
        assert error < 0.2


def test_a_users_function_is_a_cost() -> None:
    seen: list[Tensor] = []

    def cost(s: Tensor, t: Tensor) -> Tensor:
        seen.append(s)
        assert bool((s < t).all()) and s.dtype == torch.float64
        return (t - s) ** 2

    world = gaussian()
    found = paths.search(core_of(world), world, 3, cost, candidates=ud.TimeGrid.uniform(12))
    torch.testing.assert_close(found.grid(3).times, torch.tensor([0, 4, 8, 12], dtype=torch.float64) / 12)
    assert found.cost(3) == (pytest.approx(1 / 3), 0.0) and len(seen[0]) == 78 and found.label == "exact"


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        (lambda s, t: (t - s) * torch.nan, "cost 'custom' must be a number or \\+inf, got nan of the step from t = "),
        (lambda s, t: -torch.inf * (t - s), "got -inf of the step from t = "),
        (lambda s, t: torch.ones(3), r"cost must give one number a step, \[15\], got shape \[3\]"),
    ],
)
def test_a_cost_that_is_no_number_is_refused(cost, message) -> None:
    world = gaussian()
    with pytest.raises(ValueError, match=message):
        paths.search(core_of(world), world, 2, cost, candidates=ud.TimeGrid.uniform(5))


def test_a_table_below_the_diagonal_is_refused() -> None:
    grid, one = ud.TimeGrid.uniform(3), torch.ones(1, dtype=torch.float64)
    with pytest.raises(ValueError, match="cost 'any' must be triangular"):
        paths.CostTable(grid, torch.ones(1, 4, 4, dtype=torch.float64), one, 0, "any", "units")
    with pytest.raises(ValueError, match=r"parts must have shape \[G, 4, 4\], got \[1, 3, 3\]"):
        paths.CostTable(grid, torch.zeros(1, 3, 3, dtype=torch.float64), one, 0, "any", "units")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: paths.ELBOCost("best"), ValueError, "variance must be one of|unknown variance"),  # pyright: ignore
        (lambda: paths.ELBOCost("given"), ValueError, "variance"),
        (lambda: paths.ELBOCost("learned", exact=True), ValueError, "exact is for rules that read errors"),
        (lambda: paths.ELBOCost(exact=1), TypeError, "exact must be True or False, got 1"),  # pyright: ignore
        (lambda: paths.Deviation("heun"), ValueError, "method"),  # pyright: ignore
        (lambda: paths.Deviation(relative=None), TypeError, "relative must be True or False"),  # pyright: ignore
        (lambda: paths.EnergyCost(len, "optimal"), ValueError, "variance"),  # pyright: ignore
        (lambda: paths.KLBound(0), ValueError, "most must be an integer of at least 1, got 0"),
    ],
)
def test_options_that_cannot_be(make, error, message) -> None:
    with pytest.raises(error, match=message):
        make()


def test_costs_say_where_they_have_no_terms() -> None:
    world = gaussian()
    clean = core_of(world, ud.Schedule.linear())
    with pytest.raises(ValueError, match="times must start with some noise .* at t = 0 there is no noise"):
        paths.ELBOCost().measure(clean, ud.TimeGrid.uniform(4), draws(world, 8))
    with pytest.raises(ValueError, match="times must all have a positive, finite SNR, got log-SNR inf at the first"):
        paths.KLBound().measure(clean, ud.TimeGrid.uniform(4), draws(world, 8))
    with pytest.raises(ValueError, match="times and data must be at most 10 numbers together, got 80"):
        paths.KLBound(10).measure(core_of(world), GRID, draws(world, 8))
    network = ud.Denoiser(MLP(2, 8, 1), (2,), "eps")
    with pytest.raises(ValueError, match="exact needs an exact denoiser"):
        paths.ELBOCost(exact=True).measure(ud.Diffusion(SCHEDULE, network), GRID, draws(gaussian(2, torch.float32), 8))
    with pytest.raises(FloatingPointError, match="energies must be finite, got 8 of 8 that are not at t = 1"):
        paths.EnergyCost(lambda x, t: x.sum(1) * torch.nan).measure(core_of(world), GRID, draws(world, 8))
    with pytest.raises(ValueError, match=r"energy must give one number a state, \[8\], got shape \[8, 2\]"):
        paths.EnergyCost(lambda x, t: x).measure(core_of(world), GRID, draws(world, 8))
