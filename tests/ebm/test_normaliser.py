"""log Z by annealed importance sampling and by its flow along the noise, against worlds; and when they are not believed."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

import unidiff as ud
from unidiff.core.weights import tail_index
from unidiff.ebm import EffectiveSizeWarning, GridValue, annealed_importance, log_z_rate, normaliser_flow, product
from unidiff.mcmc import HMC, MALA, ULA
from unidiff.worlds import Gaussian, OracleDenoiser, PointCloud, World, library

SCHEDULE = ud.Schedule.cosine()
ENDLESS = ud.Schedule.from_betas(torch.linspace(1e-4, 0.2, 20, dtype=torch.float64))  # λ_0 = ∞
WORLD = library.mixture_2d()
TAU, CONSTANT = 0.5, 2.0


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def untimed(world: World = WORLD) -> ud.EnergyModel:
    """log Z = −CONSTANT/TAU."""
    return ud.EnergyModel(lambda x: CONSTANT - TAU * world.log_prob(x, check=False), world.event_shape, tau=TAU)


def timed(world: World = WORLD, schedule: ud.Schedule = SCHEDULE) -> ud.EnergyModel:
    """log Z_t = −CONSTANT sin(3t)/TAU."""

    def energy(x: Tensor, t: Tensor) -> Tensor:
        level = schedule.level(t, x)
        return CONSTANT * torch.sin(3 * t) - TAU * world.diffuse(level.alpha, level.sigma).log_prob(x, check=False)

    return ud.EnergyModel(energy, world.event_shape, schedule=schedule, tau=TAU)


def log_z(t: float) -> float:
    return -CONSTANT * math.sin(3 * t) / TAU


CASES: dict[str, tuple[Any, float, dict[str, Any]]] = {
    "geometric, HMC": (untimed, -CONSTANT / TAU, {"levels": 12, "kernel": HMC(0.2, 3)}),
    "geometric, MALA": (untimed, -CONSTANT / TAU, {"levels": 20, "kernel": MALA(0.1), "steps": 2}),
    "from a world": (untimed, -CONSTANT / TAU, {"levels": 8, "start": Gaussian(WORLD.mean, WORLD.covariance)}),
    "down the noise": (timed, log_z(0.1), {"levels": 8, "t": 0.1, "kernel": HMC(0.2, 3)}),
    "geometric at a time": (timed, log_z(0.3), {"levels": 6, "t": 0.3, "path": "geometric", "kernel": MALA(0.2)}),
    "one law: importance": (timed, log_z(0.8), {"levels": 1, "t": 0.8}),
}


@pytest.mark.statistical
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in ("geometric, HMC", "geometric at a time") else [])
        for name in CASES
    ],
)
def test_annealed_importance_finds_log_z(name: str) -> None:
    # Five standard errors: a false alarm in 6e-7 of runs; with an error below 0.06 nat, an error of 0.4 nat is caught.
    make, expected, options = CASES[name]
    found = annealed_importance(make(), 1000, generator=seeded(), dtype=torch.float64, **options)
    assert found.believed
    assert float(found.standard_error) < 0.06
    assert abs(float(found.log_z) - expected) < 5 * float(found.standard_error)
    assert float(found.floor) < float(found.low) < float(found.log_z) < float(found.high)
    assert found.acceptance.shape == (options["levels"] - 1,)
    assert found.log_weights.shape == (1000,)
    assert found.x.shape == (1000, 2)


def test_the_likelihood_is_the_energy_less_its_normaliser() -> None:
    found = annealed_importance(timed(), 200, t=0.3, levels=3, pilot=8, generator=seeded(), dtype=torch.float64)
    x, at = WORLD.sample(6, seeded()), SCHEDULE.level(0.3)
    off = found.log_prob(x) - WORLD.diffuse(at.alpha, at.sigma).log_prob(x)
    torch.testing.assert_close(off, (log_z(0.3) - found.log_z).expand(6), rtol=0, atol=1e-9)


@pytest.mark.statistical
def test_the_interval_holds_as_often_as_it_says() -> None:
    # 60 runs at a level of 0.9: fewer than 46 hold in 0.1% of true ones; at a true level of 0.7 in 84%.
    model = untimed(Gaussian([0.5, 0.0], [[0.5, 0.1], [0.1, 0.8]]))
    runs = [
        annealed_importance(
            model, 400, levels=3, kernel=MALA(0.2), pilot=0, level=0.9, generator=seeded(k), dtype=torch.float64
        )
        for k in range(60)
    ]
    assert all(r.believed for r in runs)
    assert sum(float(r.low) < -CONSTANT / TAU < float(r.high) for r in runs) >= 46
    spread = torch.stack([r.log_z for r in runs]).std()
    assert 0.6 < float(spread) / float(torch.stack([r.standard_error for r in runs]).mean()) < 1.6


@pytest.mark.slow
def test_no_interval_of_such_weights_is_wrong() -> None:
    # From N(0, 1) to N(0, 25 I) in few steps: many chains seem to count, and every interval would miss by nats.
    wide = ud.EnergyModel(lambda x: 0.5 * x.square().sum(1) / 25, (2,))
    known = math.log(2 * math.pi * 25)
    runs = []
    for k in range(8):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", EffectiveSizeWarning)
            runs.append(annealed_importance(wide, 4000, levels=6, generator=seeded(k), dtype=torch.float64))
    assert sum(float(r.ess) >= 100 for r in runs) >= 3
    assert not [r for r in runs if r.believed and not float(r.low) < known < float(r.high)]
    assert all(r.tail > 0.5 for r in runs)


def test_weights_whose_variance_may_be_infinite_are_not_believed() -> None:
    # From N(0, 1) to N(0, 25 I) the tail is told; to N(0, 1.44 I) there is none to tell.
    wide = ud.EnergyModel(lambda x: 0.5 * x.square().sum(1) / 25, (2,))
    with pytest.warns(EffectiveSizeWarning, match=r"heavy tail.*index 0\.\d+, at or above 0.5"):
        annealed_importance(wide, 4000, levels=6, generator=seeded(1), dtype=torch.float64)
    near = ud.EnergyModel(lambda x: 0.5 * x.square().sum(1) / 1.44, (2,))
    assert annealed_importance(near, 1000, levels=6, generator=seeded(), dtype=torch.float64).believed


def test_the_tails_index_is_a_powers() -> None:
    # Weights u^{−ξ}, u even in (0, 1), have the tail index ξ.
    u = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    for index in (0.2, 0.5, 1.0):
        assert abs(float(tail_index(-index * u.log())) - index) < 0.02 * index
    assert float(tail_index(torch.zeros(50, dtype=torch.float64))) == 0.0


def test_what_rests_on_few_chains_is_not_believed() -> None:
    far = untimed(Gaussian([12.0, 0.0], [[0.1, 0.0], [0.0, 0.1]]))
    with pytest.warns(EffectiveSizeWarning, match=r"effective chains of 50, fewer than 100: it is not to be believed"):
        found = annealed_importance(
            far, 50, levels=2, kernel=MALA(0.1), pilot=0, generator=seeded(), dtype=torch.float64
        )
    assert not found.believed
    assert (float(found.low), float(found.high)) == (-math.inf, math.inf)
    assert float(found.floor) <= -CONSTANT / TAU


def test_a_run_is_reproducible_and_told_of() -> None:
    seen: list[tuple[int, int]] = []
    options: Any = {"levels": 3, "pilot": 8, "dtype": torch.float64}
    with pytest.warns(EffectiveSizeWarning):
        one = annealed_importance(
            untimed(), 20, generator=seeded(), on_level=lambda d, of: seen.append((d, of)), **options
        )
    with pytest.warns(EffectiveSizeWarning):
        two = annealed_importance(untimed(), 20, generator=seeded(), **options)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert bool((one.log_weights == two.log_weights).all())
    assert not one.log_weights.requires_grad


# -- the flow ------------------------------------------------------------------------------------------------------


@pytest.mark.statistical
@pytest.mark.parametrize("known", [True, False], ids=["exact draws", "chains"])
def test_the_flow_of_log_z_is_the_energys(known: bool) -> None:
    # Five standard errors and what the rule is off by: a false alarm in 6e-7 of runs; 0.5 nat is caught.
    times = torch.linspace(0.2, 1.0, 17, dtype=torch.float64)
    found = normaliser_flow(
        timed(), times, 1000, world=WORLD if known else None, generator=seeded(), dtype=torch.float64
    )
    assert float(found.log_z[-1]) == float(found.standard_error[-1]) == 0
    for k in (0, 8):
        expected = log_z(float(times[k])) - log_z(1.0)
        slack = 5 * float(found.standard_error[k]) + 2 * float(found.quadrature_error)
        assert abs(float(found.log_z[k]) - expected) < slack < 0.5


def test_a_cores_exact_energy_has_no_flow() -> None:
    model = ud.EnergyModel(ud.Diffusion(SCHEDULE, OracleDenoiser(WORLD)))
    times = SCHEDULE.time(torch.linspace(4.0, -4.0, 9, dtype=torch.float64)).detach()
    found = normaliser_flow(model, times, 2000, world=WORLD, generator=seeded(), dtype=torch.float64)
    assert float((found.log_z.abs() - 5 * found.standard_error).max()) < float(found.quadrature_error) + 1e-12


@pytest.mark.statistical
def test_the_flow_of_a_product_is_its_overlap() -> None:
    # log ∫ q_{1,t} q_{2,t} of two Gaussians is N(m_1; m_2, C_1 + C_2)'s logarithm; slack and power as above.
    one, two = Gaussian([1.0, 0.0], [[0.5, 0.0], [0.0, 0.5]]), Gaussian([-0.5, 0.5], [[0.3, 0.1], [0.1, 0.6]])
    model = product(*(ud.EnergyModel(ud.Diffusion(SCHEDULE, OracleDenoiser(w))) for w in (one, two)))
    times = SCHEDULE.time(torch.linspace(6.0, -6.0, 25, dtype=torch.float64)).detach()
    overlap = []
    for t in (times[0], times[-1]):
        a, s = (v.detach() for v in (SCHEDULE.alpha(t), SCHEDULE.sigma(t)))
        spread = a**2 * (one.covariance + two.covariance) + 2 * s**2 * torch.eye(2, dtype=torch.float64)
        overlap.append(torch.distributions.MultivariateNormal(a * two.mean, spread).log_prob(a * one.mean))
    found = normaliser_flow(model, times, 800, generator=seeded(), dtype=torch.float64)
    slack = 5 * float(found.standard_error[0]) + 2 * float(found.quadrature_error)
    assert abs(float(found.log_z[0] - (overlap[0] - overlap[1]))) < slack < 0.4


def test_a_rate_is_minus_the_energys_own() -> None:
    model = ud.EnergyModel(lambda x, t: 3 * t.square() * x.square().sum(1), (2,), schedule=SCHEDULE, tau=TAU)
    x = WORLD.sample(5, seeded())
    t = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    expected = -6 * t * x.square().sum(1) / TAU
    torch.testing.assert_close(log_z_rate(model, x, t), expected)
    with torch.inference_mode():
        torch.testing.assert_close(log_z_rate(model, x.clone(), t.clone()), expected)
    still = ud.EnergyModel(lambda x, t: x.square().sum(1), (2,), schedule=SCHEDULE)
    assert float(log_z_rate(still, x, 0.3).abs().max()) == 0


GRID = torch.linspace(0.1, 1.0, 3, dtype=torch.float64)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: AIS(WORLD, 10), TypeError, "model must be a EnergyModel"),
        (lambda: AIS(untimed(), 1), ValueError, "n must be an integer of at least 2, got 1"),
        (lambda: AIS(untimed(), 10, t=0.3), ValueError, "t must be left out for an energy without a schedule"),
        (lambda: AIS(timed(), 10), ValueError, "t must be given for an energy with a schedule"),
        (lambda: AIS(timed(), 10, t=1.3), ValueError, r"t must lie in \[0, 1\]"),
        (lambda: AIS(untimed(), 10, path="noise"), ValueError, "path 'noise' needs an energy with time"),
        (lambda: AIS(untimed(), 10, path="straight"), ValueError, "unknown path 'straight'"),
        (lambda: AIS(untimed(), 10, levels=0), ValueError, "levels must be an integer of at least 1, got 0"),
        (lambda: AIS(untimed(), 10, steps=0), ValueError, "steps must be an integer of at least 1, got 0"),
        (lambda: AIS(untimed(), 10, pilot=-1), ValueError, "pilot must be an integer of at least 0, got -1"),
        (lambda: AIS(untimed(), 10, kernel=ULA(0.1)), TypeError, "MALA.* or HMC.*, got ULA"),
        (lambda: AIS(untimed(), 10, level=1.0), ValueError, r"level must lie in \(0, 1\), got 1.0"),
        (lambda: AIS(untimed(), 10, start=-1.0), ValueError, "start must be positive and finite, got -1.0"),
        (lambda: AIS(untimed(), 10, start="x"), TypeError, "start must be a number, got 'x'"),
        (lambda: AIS(untimed(), 10, start=library.gaussian()), ValueError, r"one law of the model's shape \[2\]"),
        (lambda: AIS(untimed(), 10, dtype=torch.float16), ValueError, "dtype must be torch.float32 or"),
        (
            lambda: AIS(ud.EnergyModel(lambda x: (x - x).sum(1) / (x - x).sum(1), (2,)), 10, levels=1),
            FloatingPointError,
            "log-weights must be finite, got NaN or infinity in 10 of 10 chains",
        ),
        (
            lambda: AIS(ud.EnergyModel(lambda x, t: x.square().sum(1), (2,), schedule=ENDLESS), 10, t=0.0),
            ValueError,
            "t must be a time with noise for path 'noise', whose levels are even in log-SNR; take path 'geometric'",
        ),
        (
            lambda: AIS(untimed(), 10, start=PointCloud(WORLD.sample(3, seeded()))),
            ValueError,
            "a data set without noise has no density",
        ),
        (
            lambda: normaliser_flow(timed(), GRID, 5, world=WORLD.given(torch.tensor([0, 1]))),
            ValueError,
            "world must be one law",
        ),
        (
            lambda: log_z_rate(
                ud.EnergyModel(
                    GridValue(lambda: torch.nn.Linear(2, 1), ud.TimeGrid.uniform(4)), (2,), schedule=SCHEDULE
                ),
                WORLD.sample(3, seeded()).float(),
                1.0,
            ),
            ValueError,
            "t must ask for no gradient: a GridValue is known at its grid's times alone",
        ),
        (lambda: normaliser_flow(untimed(), GRID, 10), ValueError, "model must have time for its normaliser to move"),
        (lambda: log_z_rate(untimed(), GRID[:, None], 0.3), ValueError, "model must have time for its normaliser"),
        (lambda: normaliser_flow(timed(), GRID.flip(0), 10), ValueError, "times must be two or more, each after the"),
        (lambda: normaliser_flow(timed(), GRID[:1], 10), ValueError, "times must be two or more"),
        (lambda: normaliser_flow(timed(), 2 * GRID, 10), ValueError, r"times must lie in \[0, 1\]"),
        (lambda: normaliser_flow(timed(), GRID, 1), ValueError, "n must be an integer of at least 2, got 1"),
        (
            lambda: normaliser_flow(timed(), GRID, 5, kernel=ULA(0.1)),
            TypeError,
            "kernel must be one that keeps its law",
        ),
        (
            lambda: normaliser_flow(timed(), GRID, 5, world=library.gaussian()),
            ValueError,
            r"world must be one law and have the model's shape \[2\]",
        ),
    ],
)
def test_bad_input_is_refused_by_name(make, error, message: str) -> None:
    with pytest.raises(error, match=message):
        make()


AIS: Any = annealed_importance  # asked for what no type checker would let through
