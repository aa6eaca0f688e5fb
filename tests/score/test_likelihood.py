"""Log-likelihoods against the worlds' own, with every error that is reported beside them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import unidiff as ud
from tests.score.conftest import draws, exact, network
from unidiff.identities.laws import fitted_order
from unidiff.score import ORDERS, SOLVERS, Likelihood, likelihood
from unidiff.worlds import Interval, library

WORLDS = ("mixture-2d", "mixture-8d", "eight-gaussians", "gaussian")


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(
    "schedule", ["karras", *(pytest.param(s, marks=pytest.mark.slow) for s in ("cosine", "linear"))]
)
def test_log_p_of_data_to_a_millionth_of_a_nat(world: str, schedule: str) -> None:
    law = library.get(world)
    x = draws(law, 16)
    found = likelihood(exact(law, schedule), x, world=law, tolerance=1e-7)
    error = (found.with_exact_prior - law.log_prob(x)).abs()
    assert float(error.max()) < 1e-6
    assert float(error.max()) < 3 * float(found.solver_error.max())


def test_without_the_step_to_data_the_density_is_that_of_noised_data() -> None:
    law = library.mixture_8d()
    core, x = exact(law), draws(library.mixture_8d(), 16)
    level = core.schedule.level(0.0)
    found = likelihood(core, x, world=law, tolerance=1e-8, to_data=False, estimate=False).with_exact_prior
    noised = law.diffuse(level.alpha, level.sigma).log_prob(level.alpha * x) + 8 * level.alpha.log()
    assert float((found - noised).abs().max()) < 1e-6
    assert float((found - law.log_prob(x)).abs().max()) > 1e-5


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_error_falls_with_the_declared_order(solver) -> None:
    law = library.gaussian()
    core, x = exact(law), draws(library.gaussian(), 8)
    first = float(core.schedule.time(1.0))
    counts = (24, 36, 48) if ORDERS[solver] < 3 else (8, 12, 16)
    level = core.schedule.level(first)
    true = law.diffuse(level.alpha, level.sigma).log_prob(level.alpha * x) + 3 * level.alpha.log()
    errors = []
    for n in counts:
        found = likelihood(
            core, x, world=law, solver=solver, steps=n, first=first, to_data=False, estimate=False
        ).with_exact_prior
        errors.append(float((found - true).norm()))
    assert fitted_order([1 / n for n in counts], errors) == pytest.approx(ORDERS[solver], abs=0.25)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_solvers_error_is_told(solver, mixture) -> None:
    x = draws(mixture, 16)
    found = likelihood(exact(mixture), x, world=mixture, solver=solver, steps=64)
    error = (found.with_exact_prior - mixture.log_prob(x)).abs()
    # The whole change: an upper estimate, by 2^order − 1 once the steps are small.
    assert 1 / 3 < float(found.solver_error.max() / error.max()) < 2 * 2 ** ORDERS[solver]


@pytest.mark.parametrize(
    ("solver", "steps"), [("euler", 4), ("heun", 5), ("rk4", 5), ("rk4", 8), ("dopri5", 3), ("dopri5", 5)]
)
def test_the_solvers_error_is_told_where_the_steps_are_few(solver, steps: int, mixture) -> None:
    x = draws(mixture, 32)
    found = likelihood(exact(mixture), x, world=mixture, solver=solver, steps=steps)
    error = (found.with_exact_prior - mixture.log_prob(x)).abs()
    assert float(error.max()) > 1e-3
    assert float(found.solver_error.max()) > float(error.max()) / 3
    assert float(found.solver_error.mean()) > float(error.mean()) / 3


def test_no_second_solution_no_estimate(mixture) -> None:
    x, core = draws(mixture, 4), exact(mixture)
    found = likelihood(core, x, solver="heun", steps=4, estimate=False)
    assert torch.isinf(found.solver_error).all()
    assert found.evaluations == 1 + 2 * 4
    assert torch.isinf(likelihood(core, x, solver="euler", steps=1).solver_error).all()


def test_the_priors_error_is_exact_where_the_law_is_known_and_bounded_where_not() -> None:
    law = library.gaussian()
    # Log-SNR −1 at t = 1: the prior's cost is a sixth of a nat, many standard errors of a mean over 4000 data.
    core = ud.Diffusion(ud.Schedule.polynomial(1.0, 13.3, -1.0), ud.worlds.OracleDenoiser(law))
    x = draws(law, 4000)
    known = likelihood(core, x, world=law, solver="rk4", steps=24, estimate=False)
    bound = likelihood(core, x, solver="rk4", steps=24, estimate=False)
    assert (known.prior_law, bound.prior_law) == ("exact", "bound")
    torch.testing.assert_close(known.log_prob, bound.log_prob)
    assert float(bound.prior_error.min()) > 0
    assert known.prior_error.abs().mean() > 0.05
    assert float(known.prior_error.mean()) < float(bound.prior_error.mean())
    with pytest.raises(ValueError, match="the exact q_1 needs a world"):
        _ = bound.with_exact_prior


@pytest.mark.statistical
@pytest.mark.parametrize("probe", ["rademacher", "gaussian"])
def test_probes_are_unbiased_and_know_their_spread(probe) -> None:
    # Mean of 64 z-scores of 32 probes each: |mean| < 5/√64·1.1 (t with 31 degrees); false alarm about 1e-6 over seeds.
    law = library.mixture_8d()
    core, x = exact(law), draws(library.mixture_8d(), 64)
    options: dict[str, Any] = {"solver": "heun", "steps": 8, "estimate": False}
    truth = likelihood(core, x, **options)
    found = likelihood(core, x, probes=32, probe=probe, generator=torch.Generator().manual_seed(0), **options)
    z = (found.log_prob - truth.log_prob) / found.probe_error
    assert abs(float(z.mean())) < 0.7
    assert 0.7 < float(z.std()) < 1.5
    assert torch.isinf(likelihood(core, x[:2], probes=1, **options).probe_error).all()


def test_bits_per_dim_and_its_interval() -> None:
    n, dim, scale = 400, 3, 2 / 255
    log_prob = torch.linspace(-5, -1, n, dtype=torch.float64)
    zero = torch.zeros(n, dtype=torch.float64)
    found = Likelihood(log_prob, zero, "bound", zero, zero, zero, torch.zeros(n, dim), 1)
    bits = found.bits_per_dim(scale)
    assert bits.mean == pytest.approx((3.0 - dim * math.log(scale)) / (dim * math.log(2)))
    assert bits.high - bits.mean == pytest.approx(1.966 * bits.standard_error, rel=1e-3)
    assert bits.standard_error == pytest.approx(float(log_prob.std()) / 20 / (dim * math.log(2)))
    joined = Likelihood.joined([found, found])
    assert joined.nats().mean == pytest.approx(-3.0)
    assert joined.log_prob.shape == (2 * n,)
    with pytest.raises(ValueError, match="number of examples must be an integer of at least 2, got 1"):
        Interval.of(torch.zeros(1))
    with pytest.raises(ValueError, match="values must be finite; 1 of its 2 values are NaN or infinite"):
        Interval.of(torch.tensor([1.0, math.nan]))
    with pytest.raises(ValueError, match=r"values must have shape \[n\], got \[3, 2\]"):
        Interval.of(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="scale must be positive and finite, got 0"):
        found.bits_per_dim(0.0)


@pytest.mark.statistical
def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    # 2000 intervals of 10 normal draws: 95% ± 5 standard errors of 0.49%.
    values = torch.randn(2000, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    held = [interval.low <= 0 <= interval.high for interval in map(Interval.of, values)]
    assert abs(sum(held) / 2000 - 0.95) < 0.025


@pytest.mark.parametrize("prediction", ["x0", "eps", "v", "score"])
def test_networks_give_finite_answers_with_conditions_and_guidance(prediction, mixture) -> None:
    core, x = network(prediction, num_classes=3), draws(mixture, 5)
    label = torch.tensor([0, 1, 2, 0, 3])
    found = likelihood(core, x, solver="rk4", steps=12, condition=label, guidance=1.5)
    assert torch.isfinite(found.log_prob).all()
    assert not found.log_prob.requires_grad


def test_a_component_is_scored_by_its_own_condition() -> None:
    law = library.mixture_2d()
    x, label = draws(law, 6), torch.tensor([0, 1, 2, 0, 1, 2])
    found = likelihood(exact(law, "karras"), x, condition=label, tolerance=1e-8, estimate=False)
    own = law.given(label)
    level = ud.Schedule.karras().level(1.0)
    # Told the whole law, it takes the component's own q_1.
    exactly = likelihood(exact(law, "karras"), x, condition=label, world=law, tolerance=1e-8, estimate=False)
    torch.testing.assert_close(exactly.with_exact_prior, own.log_prob(x), rtol=0, atol=1e-6)
    gap = own.diffuse(level.alpha, level.sigma).log_prob(found.code)
    prior = ud.Gaussian(torch.zeros_like(found.code), torch.full((), 2 * math.log(80.0), dtype=torch.float64))
    torch.testing.assert_close(found.log_prob + gap - prior.log_prob(found.code), own.log_prob(x), rtol=0, atol=1e-6)


def test_one_label_is_for_all_and_the_null_class_is_the_whole_law() -> None:
    core, law = exact(library.mixture_2d()), library.mixture_2d()
    x, options = draws(law, 4), {"solver": "rk4", "steps": 8, "estimate": False}
    one = likelihood(core, x, condition=torch.tensor(1), **options)
    each = likelihood(core, x, condition=torch.full((4,), 1), **options)
    assert torch.equal(one.log_prob, each.log_prob)
    free = likelihood(core, x, condition=torch.tensor(3), world=law, **options)
    torch.testing.assert_close(free.with_exact_prior, likelihood(core, x, world=law, **options).with_exact_prior)


def test_images_have_their_shape() -> None:
    world = library.digits(20)
    points = world.points.reshape(20, 1, 8, 8)
    from unidiff.worlds import OracleDenoiser, PointCloud

    core = ud.Diffusion(ud.Schedule.cosine(6.0, -6.0), OracleDenoiser(PointCloud(points)))
    found = likelihood(core, points[:3], solver="heun", steps=6, probes=2)
    assert found.code.shape == (3, 1, 8, 8)
    assert torch.isfinite(found.log_prob).all()


def test_what_has_no_likelihood_is_refused(mixture) -> None:
    core, x = exact(mixture), draws(mixture, 3)
    linear = exact(mixture, "linear")
    bad: tuple[tuple[dict[str, Any], str], ...] = (
        ({"probes": 0}, "probes must be an integer of at least 1, got 0"),
        ({"tolerance": 0.0}, "tolerance must be positive"),
        ({"solver": "rk45", "steps": 3}, "unknown solver 'rk45'; did you mean 'rk4'"),
        ({"steps": 3, "tolerance": 1e-3}, "give either steps or tolerance"),
        ({"first": 1.0}, r"first must lie in \[0, 1\), got 1.0"),
        ({"first": -0.1}, r"first must lie in \[0, 1\)"),
        ({"probes": 1, "probe": "sign"}, "unknown probe 'sign'"),
    )
    for options, message in bad:
        with pytest.raises(ValueError, match=message):
            likelihood(core, x, **options)
    with pytest.raises(ValueError, match="first must be where the log-SNR is finite, got inf at t = 0"):
        likelihood(linear, x, first=0.0)
    with pytest.raises(ValueError, match="x must be finite"):
        likelihood(core, x * math.nan)
    with pytest.raises(ValueError, match=r"x must have shape \[B, 2\], got \[3, 1\]"):
        likelihood(core, x[:, :1])
    with pytest.raises(ValueError, match="x must be float32 or wider"):
        likelihood(core, x.half())
    with pytest.raises(TypeError, match="x must be a floating-point tensor"):
        likelihood(core, torch.zeros(3, 2, dtype=torch.long))
    with pytest.raises(ValueError, match="guidance must be 1 with a world"):
        likelihood(core, x, world=mixture, condition=torch.tensor(0), guidance=2.0)
    with pytest.raises(
        ValueError, match="the exact q_1 with a condition needs a world whose components are the classes"
    ):
        likelihood(core, x, world=library.gaussian(), condition=torch.tensor(0))


@pytest.mark.gpu
def test_on_a_gpu_it_is_the_same_number(mixture) -> None:
    x = draws(mixture, 32)
    here = likelihood(exact(mixture), x, solver="rk4", steps=32)
    there = likelihood(
        ud.Diffusion(ud.Schedule.cosine(), ud.worlds.OracleDenoiser(mixture.to(device="cuda"))), x.cuda(), solver="rk4",
        steps=32,
    )  # fmt: skip
    torch.testing.assert_close(there.log_prob.cpu(), here.log_prob)


@pytest.mark.slow
def test_a_network_trained_on_eight_gaussians_is_within_a_twentieth_of_a_nat() -> None:
    from unidiff.train import TrainConfig, Trainer, load_data

    law = library.eight_gaussians()
    config = TrainConfig(
        network="mlp", width=128, depth=4, weighting="simple", steps=12_000, batch_size=512, lr=2e-3, warmup=200,
        ema=0.999, device="cpu",
    )  # fmt: skip
    core = Trainer.start(config, load_data("eight-gaussians", generator=torch.Generator().manual_seed(0))).fit()
    x = draws(law, 4000, seed=1)
    found = likelihood(core, x.float(), world=law, tolerance=1e-4, estimate=False)
    # On the same data, so that the data's own spread cancels; its standard error is about 0.002.
    gap = Interval.of(found.with_exact_prior.double() - law.log_prob(x))
    assert abs(gap.mean) < 0.05
    assert gap.standard_error < 0.01
