"""A search finds the optimum that is known, says when it cannot tell, and its grids go where grids go."""

from __future__ import annotations

import math
import re
import warnings

import pytest
import torch

import unidiff as ud
from unidiff import paths
from unidiff.core.networks import MLP
from unidiff.paths import RankWarning, handmade, refine
from unidiff.train import metrics

C2 = 0.49


def core_of(schedule: ud.Schedule, dim: int = 1) -> tuple[ud.Diffusion, ud.worlds.Gaussian]:
    world = ud.worlds.Gaussian(torch.zeros(dim, dtype=torch.float64), C2 * torch.eye(dim, dtype=torch.float64))
    return ud.Diffusion(schedule, ud.worlds.OracleDenoiser(world)), world


def kept(core: ud.Diffusion, grid: ud.TimeGrid) -> float:
    """What the sampler's run on ``grid`` leaves of the data's standard deviation."""
    sigma = core.schedule.sigma(grid.times).detach()
    x = (C2 + sigma[-1] ** 2).sqrt().reshape(1, 1)
    return float(ud.Sampler(core, grid, "ddim")(x) / (C2 + sigma[0] ** 2).sqrt())


def test_six_steps_from_80_keep_what_the_issue_says() -> None:
    core, world = core_of(ud.Schedule.karras(0.002, 80.0))

    def lost(s: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        near, far = ((core.schedule.sigma(v).detach() / 0.7).atan() for v in (s, t))
        return -(far - near).cos().log()

    grid = ud.search_path(core, world, 6, lost, nodes=800)
    assert kept(core, ud.TimeGrid.karras(6, core.schedule)) == pytest.approx(0.6445, abs=5e-5)
    # The optimum is 0.8147; between 800 candidates even in λ one is 0.0265 away at most, which costs the square of that.
    assert 0.8147 - 3e-4 < kept(core, grid) < 0.81475


def test_five_steps_of_the_bound_cost_what_the_issue_says() -> None:
    core, world = core_of(ud.Schedule.polynomial(1.0, math.log(1e4), math.log(1e-3)))
    found = paths.search(core, world, 5, paths.ELBOCost(exact=True), nodes=800)
    assert found.cost(5)[0] == pytest.approx(11.18, abs=0.01)
    even = found.prices.total(found.nearest(ud.TimeGrid.uniform_log_snr(5, core.schedule)))
    assert even[0] == pytest.approx(25.68, abs=0.01)
    assert found.rank(5).excess > 5 and found.rank(5).needed == 0


def test_with_the_optimal_variance_every_hand_made_grid_ties() -> None:
    core, world = core_of(ud.Schedule.polynomial(1.0, 8.0, -8.0), 3)
    found = paths.search(core, world, 6, paths.ELBOCost("optimal", exact=True), nodes=64)
    for grid in handmade(core.schedule, 6).values():
        assert found.prices.total(found.nearest(grid))[0] == pytest.approx(found.cost(6)[0], rel=1e-12)


@pytest.mark.parametrize("cost", list(paths.COSTS))
def test_every_cost_finds_a_path_of_a_network(cost) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = MLP(2, 16, 1, outputs=4 if cost == "elbo-learned" else None)
    denoiser = ud.Denoiser(network, (2,), "eps", learned_variance=cost == "elbo-learned")
    core, world = ud.Diffusion(ud.Schedule.cosine(), denoiser), ud.worlds.library.mixture_2d()
    found = paths.search(
        core, world.sample(40, torch.Generator().manual_seed(0)).float(), 4, cost, nodes=12, samples=24
    )
    values = [found.cost(k)[0] for k in range(1, 5)]
    assert found.prices.samples == 24 and all(math.isfinite(v) and v >= 0 for v in values)
    for k in range(1, 5):
        grid = found.grid(k)
        assert grid.steps == k and torch.isin(grid.times, found.candidates.times).all()
        assert found.prices.total(found.paths.path(k))[0] == pytest.approx(float(found.paths.values[k - 1]), rel=1e-9)
    assert found.rank(4).excess >= -1e-9


def test_one_seed_is_one_search() -> None:
    core = ud.Diffusion(ud.Schedule.cosine(), ud.worlds.OracleDenoiser(ud.worlds.library.mixture_2d()))
    found = [
        paths.search(core, ud.worlds.library.mixture_2d(), 4, "elbo", nodes=20, samples=64, seed=s) for s in (0, 0, 1)
    ]
    assert torch.equal(found[0].prices.parts, found[1].prices.parts)
    assert not torch.equal(found[0].prices.parts, found[2].prices.parts)


def test_too_few_samples_are_said_with_the_number_that_would_do() -> None:
    core, world = core_of(ud.Schedule.polynomial(1.0, 6.0, -6.0), 1)
    # The best grid of the prior's rule is nearly a hand-made one: few samples cannot tell them apart.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for seed in range(12):
            ud.search_path(core, world, 3, "elbo-prior", nodes=24, samples=4, seed=seed)
    assert caught and all(w.category is RankWarning for w in caught)
    assert re.match(r"4 samples do not tell the path from .* about \d+ would", str(caught[0].message))


def test_ranks_are_by_the_samples_own_differences() -> None:
    grid, half = ud.TimeGrid.uniform(2), torch.full((2,), 0.5, dtype=torch.float64)
    core, _ = core_of(ud.Schedule.polynomial(1.0, 6.0, -6.0))
    parts = torch.zeros(2, 3, 3, dtype=torch.float64)
    parts[:, 0, 1], parts[:, 1, 2] = torch.tensor([1.0, 5.0]), torch.tensor([1.0, -3.0])
    parts[:, 0, 2] = torch.tensor([4.0, 3.0])
    table = paths.CostTable(grid, parts, half, 10, "any", "units")
    assert table.total(torch.tensor([0, 1, 2])) == (2.0, 0.0)
    assert table.total(torch.tensor([0, 2])) == (3.5, 0.5)
    assert table.excess(torch.tensor([0, 2]), torch.tensor([0, 1, 2])) == (1.5, 0.5)
    search = paths.Search(core, table, table.shortest(2))
    told = search.rank(2, {"itself": grid})
    assert (told.excess, told.needed) == (0.0, 0)


def test_a_rival_that_is_dear_but_uncertain_is_told_before_one_that_is_near_and_certain() -> None:
    core, _ = core_of(ud.Schedule.polynomial(1.0, 6.0, -6.0))
    grid = ud.TimeGrid.uniform(4)
    parts = torch.zeros(4, 5, 5, dtype=torch.float64)
    parts[:, 0, 1:4] = torch.tensor([[1.0, 2.0, 1.0], [1.0, 2.0, 1.0], [1.0, 2.0, 1.0], [1.0, 2.0, 37.0]]).double()
    table = paths.CostTable(grid, parts, torch.full((4,), 0.25, dtype=torch.float64), 8, "any", "units")
    search = paths.Search(core, table, table.shortest(2))
    rivals = {name: ud.TimeGrid(grid.times[[0, i, 4]]) for name, i in (("near", 2), ("wide", 3))}
    told = search.rank(2, rivals)
    # 9 above with an error of 9; Student's 97.5% point of 3 degrees is 3.18.
    assert (told.rival, told.excess, told.standard_error) == ("wide", 9.0, 9.0)
    assert told.needed == math.ceil(8 * 3.182446**2)
    assert search.rank(2, {"near": rivals["near"]}) == paths.Ranking("near", 1.0, 0.0, 0)


def test_nearest_candidates_are_distinct_and_nearest() -> None:
    core, world = core_of(ud.Schedule.polynomial(1.0, 8.0, -8.0))
    found = paths.search(core, world, 2, paths.ELBOCost(exact=True), nodes=16)
    exact = ud.TimeGrid(found.candidates.times[[0, 3, 9, 16]])
    assert found.nearest(exact).tolist() == [0, 3, 9, 16]
    crowded = ud.TimeGrid([0.0, 0.97, 0.98, 0.99, 1.0])
    assert found.nearest(crowded).tolist() == [0, 13, 14, 15, 16]
    with pytest.raises(ValueError, match="grid must have at most 16 steps, as many as candidates, got 17"):
        found.nearest(ud.TimeGrid.uniform(17))


def test_what_people_made_is_what_it_is_called() -> None:
    schedule = ud.Schedule.karras(0.002, 80.0)
    made = handmade(schedule, 10)
    assert set(made) == {"uniform", "quadratic", "Karras", "log-SNR", "AYS, SD 1.5", "AYS, SDXL"}
    sigma = schedule.sigma(made["AYS, SD 1.5"].times).detach()
    known = [6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152]
    torch.testing.assert_close(sigma[1:-1].flip(0), torch.tensor(known, dtype=torch.float64), rtol=1e-6, atol=0)
    # At twenty steps, geometric means between.
    twice = schedule.sigma(handmade(schedule, 20)["AYS, SDXL"].times).detach()
    assert float(twice[-3]) == pytest.approx(6.315, rel=1e-6) and float(twice[-4]) == pytest.approx(
        (6.315 * 3.771) ** 0.5, rel=1e-6
    )
    assert torch.equal(made["Karras"].times, ud.TimeGrid.karras(10, schedule).times)
    for steps in (1, 2, 3, 7):
        for clean in (ud.Schedule.linear(), ud.Schedule.cosine(), ud.Schedule.polynomial(1.0, 3.0, -3.0)):
            for name, grid in handmade(clean, steps).items():
                assert grid.steps == steps, name


def test_descent_through_the_sampler_beats_its_starts() -> None:
    """W_1 of 4 steps of dpm++2m: 0.10 or less, where the best start has 0.11 and the data's scatter is 0.02."""
    world = ud.worlds.library.eight_gaussians()
    core = ud.Diffusion(ud.Schedule.cosine(), ud.worlds.OracleDenoiser(world.to(torch.float32)))
    starts = handmade(core.schedule, 6)
    grid = refine(core, list(starts.values()), rounds=60)
    data, lines = world.sample(4000, torch.Generator().manual_seed(1)).float(), metrics.directions(2, 64)
    away = {}
    for name, own in {"descended": grid, **starts}.items():
        x = ud.sample(core, 4000, method="dpm++2m", grid=own, generator=torch.Generator().manual_seed(2))
        away[name] = metrics.sliced_wasserstein(x, data, lines)
    assert away["descended"] < 0.6 * min(away[name] for name in starts)


def test_descent_is_the_samplers_own_walk() -> None:
    from unidiff.paths.gradient import walked

    core = ud.Diffusion(ud.Schedule.cosine(), ud.worlds.OracleDenoiser(ud.worlds.library.mixture_2d()))
    x = core.prior(8, torch.Generator().manual_seed(0), torch.empty(0, dtype=torch.float64))
    for method in ("ddim", "euler", "dpm++2m"):
        grid = ud.TimeGrid([0.01, 0.3, 0.6, 1.0])
        torch.testing.assert_close(walked(core, grid.times, method, x), ud.Sampler(core, grid, method)(x))
        times = grid.times.clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(walked(core, times, method, x).sum(), times)
        h = 1e-6
        for k in (1, 2):
            moved = [grid.times.clone() for _ in range(2)]
            moved[0][k] += h
            moved[1][k] -= h
            up, down = (float(walked(core, t, method, x).sum()) for t in moved)
            assert float(slope[k]) == pytest.approx((up - down) / (2 * h), rel=1e-4)


def test_a_grid_of_another_schedule_is_refused(tmp_path) -> None:
    mine, other = ud.Schedule.cosine(), ud.Schedule.linear()
    grid, path = ud.TimeGrid([0.0, 0.25, 1.0]), tmp_path / "grid.json"
    grid.save(path, mine)
    assert ud.TimeGrid.load(path, ud.Schedule.cosine()) == grid == ud.TimeGrid.load(path)
    with pytest.raises(
        ValueError, match=r"path must hold a grid of this schedule, .*grid.json is of another: alpha = .* at t = 0"
    ):
        ud.TimeGrid.load(path, other)
    grid.save(path)
    assert ud.TimeGrid.load(path, other) == grid
    path.write_text('{"times": [0, 1], "alpha": [1.0]}')
    with pytest.raises(ValueError, match="path must hold one alpha for each time"):
        ud.TimeGrid.load(path, mine)


def test_a_trajectory_passes_the_samplers_own_states() -> None:
    core = ud.Diffusion(ud.Schedule.cosine(), ud.worlds.OracleDenoiser(ud.worlds.library.mixture_2d()))
    x = core.prior(5, torch.Generator().manual_seed(0), torch.empty(0, dtype=torch.float64))
    grid = ud.TimeGrid([0.05, 0.3, 0.6, 1.0])
    for method in ("ddim", "heun", "dpm++2m"):
        states = ud.Sampler(core, grid, method).trajectory(x)
        assert torch.equal(states[-1], x) and states.shape == (4, 5, 2)
        torch.testing.assert_close(states[0], ud.Sampler(core, grid, method)(x))
    # Of heun, a step begun at the noise is a run by itself.
    one = ud.Sampler(core, ud.TimeGrid([0.6, 1.0]), "heun")(x)
    torch.testing.assert_close(ud.Sampler(core, grid, "heun").trajectory(x)[2], one)


CORE, WORLD = core_of(ud.Schedule.polynomial(1.0, 6.0, -6.0), 2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: paths.search(CORE, WORLD, 0), ValueError, "most must be an integer of at least 1, got 0"),
        (lambda: paths.search(CORE, WORLD, 9, nodes=8), ValueError, "most must be at most the 8 steps"),
        (lambda: ud.search_path(CORE, WORLD, 0), ValueError, "steps must be an integer of at least 1, got 0"),
        (lambda: paths.search(CORE, WORLD, 2, "fid"), ValueError, "cost must be one of elbo, .* got 'fid'"),
        (lambda: paths.search(CORE, WORLD, 2, 3), TypeError, "cost must be a name, a Cost or a function"),  # pyright: ignore
        (lambda: paths.search(WORLD, WORLD, 2), TypeError, "core must be a Diffusion"),  # pyright: ignore
        (lambda: paths.search(CORE, torch.zeros(1, 2).double(), 2), ValueError, "data must hold at least 2 data"),
        (lambda: paths.search(CORE, torch.zeros(4, 3).double(), 2), ValueError, "data"),
        (lambda: paths.search(CORE, torch.full((4, 2), torch.nan).double(), 2), ValueError, "data must be finite"),
        (lambda: paths.search(CORE, WORLD, 2, samples=1), ValueError, "samples must be an integer of at least 2, got 1"),
        (lambda: paths.search(CORE, WORLD, 2, seed=-1), ValueError, "seed"),
        (lambda: paths.search(CORE, WORLD, 2, candidates=[0.0, 1.0]), TypeError, "candidates must be a TimeGrid"),  # pyright: ignore
        (lambda: paths.search(CORE, WORLD, 2, guidance=2.0), ValueError, "guidance"),
        (lambda: refine(CORE, []), ValueError, "starts must hold at least one grid, got none"),
        (lambda: refine(CORE, [ud.TimeGrid.uniform(2), ud.TimeGrid.uniform(3)]), ValueError, "starts must have one number"),
        (lambda: refine(CORE, ud.TimeGrid.uniform(2), "heun"), ValueError, "method"),  # pyright: ignore
        (lambda: refine(CORE, ud.TimeGrid.uniform(2), rounds=0), ValueError, "rounds must be an integer of at least 1"),
        (lambda: refine(CORE, ud.TimeGrid.uniform(2), rate=0.0), ValueError, "rate must be positive"),
        (lambda: handmade(CORE.schedule, 0), ValueError, "steps must be an integer of at least 1"),
    ],
)  # fmt: skip
def test_arguments_that_cannot_be(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call()


def test_the_energy_distance_is_unbiased_and_what_it_is_of_shifted_normals() -> None:
    """2E|N(m, 2)| − 2E|N(0, 2)| in one dimension; over 60 pairs of sets, six standard errors (false alarm 2e-9, and a
    bias of 0.02, that of a mean with its diagonal, is 20 of them)."""
    from unidiff.paths.gradient import energy_distance

    generator = torch.Generator().manual_seed(0)
    for shift in (0.0, 1.0):
        x, y = (torch.randn(60, 100, 1, generator=generator, dtype=torch.float64) for _ in range(2))
        found = torch.stack([energy_distance(a, b + shift) for a, b in zip(x, y, strict=True)])
        folded = 2 * math.exp(-(shift**2) / 4) / math.pi**0.5 + shift * math.erf(shift / 2)
        known = 2 * folded - 4 / math.pi**0.5
        error = float(found.std()) / 60**0.5
        assert error < 0.02 and abs(float(found.mean()) - known) < 6 * error


@pytest.mark.slow
def test_descent_towards_data_meets_their_law() -> None:
    """As above, by data alone: no teacher is walked, features may be any."""
    world = ud.worlds.library.eight_gaussians()
    core = ud.Diffusion(ud.Schedule.cosine(), ud.worlds.OracleDenoiser(world.to(torch.float32)))
    starts, data = handmade(core.schedule, 4), world.sample(2000, torch.Generator().manual_seed(1)).float()
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]])
    grids = [
        refine(core, list(starts.values()), rounds=60, data=data[:1000], features=features)
        for features in (None, lambda x: x @ turn)
    ]
    lines, away = metrics.directions(2, 64), {}
    for name, own in {"descended": grids[0], **starts}.items():
        x = ud.sample(core, 2000, method="dpm++2m", grid=own, generator=torch.Generator().manual_seed(2))
        away[name] = metrics.sliced_wasserstein(x, data, lines)
    assert away["descended"] < 0.8 * min(away[name] for name in starts)
    # Distances do not turn.
    torch.testing.assert_close(grids[0].times, grids[1].times, rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="data must be finite"):
        refine(core, grids[0], data=torch.full((8, 2), torch.nan))
    with pytest.raises(ValueError, match="number of data must be an integer of at least 2, got 1"):
        refine(core, grids[0], data=data[:1])
