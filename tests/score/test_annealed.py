"""Annealed Langevin and predictor–corrector: they land on the data, on any core, and refuse what cannot run."""

from __future__ import annotations

import copy
import dataclasses
import math
from itertools import pairwise

import pytest
import torch

import unidiff as ud
from unidiff.core import networks
from unidiff.core.prediction import Prediction
from unidiff.core.sampling import Sampler
from unidiff.core.tables import default_grid
from unidiff.score import AnnealedLangevin, Divergence, PredictorCorrector, annealed_langevin, predictor_corrector
from unidiff.score.corrector import PREDICTORS, correct
from unidiff.worlds import OracleDenoiser, World, library

WORLD = library.eight_gaussians()


def core(schedule: str = "cosine", world: World = WORLD) -> ud.Diffusion:
    return ud.Diffusion(ud.Schedule.named(schedule), OracleDenoiser(world))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sliced_w1(x: torch.Tensor, y: torch.Tensor) -> float:
    """The sliced Wasserstein-1 distance over 64 directions."""
    angle = torch.arange(64, dtype=torch.float64) * math.pi / 64
    axes = torch.stack([angle.cos(), angle.sin()])
    one, two = ((v.double() @ axes).sort(0).values for v in (x, y))
    return float((one - two).abs().mean())


@pytest.fixture(scope="module")
def floor() -> float:
    """The mean distance between two exact sets of 4000."""
    return sum(sliced_w1(WORLD.sample(4000, seeded(k)), WORLD.sample(4000, seeded(100 + k))) for k in range(8)) / 8


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["cosine", "karras", "linear"])
def test_annealed_langevin_lands_on_the_data(schedule: str, floor: float) -> None:
    x = annealed_langevin(core(schedule), 4000, generator=seeded(), dtype=torch.float64)
    assert sliced_w1(x, WORLD.sample(4000, seeded(7))) < 1.5 * floor


@pytest.mark.parametrize(
    "predictor", [pytest.param(p, marks=pytest.mark.slow if k > 1 else []) for k, p in enumerate(PREDICTORS)]
)
def test_predictor_corrector_lands_on_the_data(predictor, floor: float) -> None:
    x = predictor_corrector(core(), 4000, predictor=predictor, generator=seeded(), dtype=torch.float64)
    assert sliced_w1(x, WORLD.sample(4000, seeded(7))) < 1.5 * floor


@pytest.mark.parametrize("steps", [50, 100])
def test_predictor_corrector_on_a_state_that_keeps_its_scale(steps: int, floor: float) -> None:
    x = predictor_corrector(core("karras"), 4000, steps=steps, generator=seeded(), dtype=torch.float64)
    assert sliced_w1(x, WORLD.sample(4000, seeded(7))) < 1.5 * floor


@pytest.mark.parametrize("schedule", ["karras", pytest.param("cosine", marks=pytest.mark.slow)])
def test_a_chain_alone_is_a_sample_too(schedule: str) -> None:
    # Where a lone chain at a mode stepped without bound, one ended 10 000 nats out; 40 draws' own spread is 0.16.
    run = PredictorCorrector(core(schedule), default_grid(core(schedule).schedule, 50, "ancestral"))
    ends = WORLD.log_prob(
        torch.cat([run(run.core.prior(1, seeded(k), torch.empty(0).double()), seeded(100 + k)) for k in range(40)])
    )
    assert abs(float(ends.mean() + WORLD.entropy().value)) < 0.8
    assert ends.min() > -12


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["cosine", "karras"])
def test_a_chain_alone_has_the_law_that_many_have(schedule: str) -> None:
    # 600 runs of one chain in one dimension: the variance's standard error is 5.8% of it, so 5 of them are 29% (one alarm in
    # 10⁶); with the published step it is 2 to 2.6 times too large. The predictor's own error is the second argument's.
    world = ud.worlds.Gaussian(torch.zeros(1).double(), 0.25 * torch.eye(1).double())
    own = core(schedule, world)
    run = PredictorCorrector(own, default_grid(own.schedule, 50, "ancestral"))
    like = torch.empty(0).double()
    many = run(own.prior(20000, seeded(1), like), seeded(2)).var()
    alone = torch.cat([run(own.prior(1, seeded(k), like), seeded(10_000 + k)) for k in range(600)]).var()
    assert abs(float(alone / many) - 1) < 5 * math.sqrt(2 / 600)


def test_where_there_is_no_slope_the_step_is_the_levels_own() -> None:
    zero, xi = torch.zeros(3, 2), torch.randn(3, 2, generator=seeded())
    torch.testing.assert_close(correct(zero, zero, xi, torch.tensor(0.5), 0.16, "norms"), 0.5 * xi)
    torch.testing.assert_close(correct(zero, zero, xi, torch.tensor(0.5), 0.16), 0.32 * 0.5 * xi)
    assert torch.equal(correct(zero, zero, zero, torch.tensor(0.5), 0.16, "norms"), zero)


def test_a_run_that_goes_astray_is_told_soon_and_its_error_travels() -> None:
    asked = []

    class Broken:
        event_shape = (2,)

        def __call__(self, xt, level, condition=None, guidance=1.0):
            asked.append(1)
            return Prediction(xt, level, {"x0": torch.full_like(xt, math.nan)}, guarded=False)

    with pytest.raises(Divergence, match="row 50 .* smaller step_size$") as caught:
        annealed_langevin(ud.Diffusion(ud.Schedule.cosine(), Broken()), 8, levels=50, steps=10)
    assert len(asked) == 50 and caught.value.x.shape == (0, 2)
    again = copy.copy(caught.value)  # as pickle would
    assert (str(again), again.count) == (str(caught.value), 8)


@pytest.mark.parametrize("schedule", ["cosine", "karras"])
@pytest.mark.parametrize("run", [annealed_langevin, predictor_corrector])
def test_the_start_is_as_wide_as_its_level(run, schedule: str) -> None:
    # 2000 numbers of one seed: the start given by hand is the start that is drawn.
    subject = core(schedule)
    std = subject.schedule.prior_std
    if run is annealed_langevin:
        std = AnnealedLangevin(subject, levels=2, steps=1).start_std
        assert std == pytest.approx(float(subject.schedule.sigma(subject.schedule.time(-6.0))))
    options = {"levels": 2, "steps": 1} if run is annealed_langevin else {"steps": 2}
    generator = seeded(3)
    own = run(subject, 1000, generator=generator, dtype=torch.float64, **options)
    generator = seeded(3)
    x = std * torch.randn(1000, 2, generator=generator, dtype=torch.float64)
    assert torch.equal(own, run(subject, x=x, generator=generator, **options))


def test_corrections_mend_a_coarse_predictor() -> None:
    truth = WORLD.sample(4000, seeded(7))
    bare, mended = (
        sliced_w1(predictor_corrector(core(), 4000, steps=12, corrections=m, step="norms", generator=seeded()), truth)
        for m in (0, 8)
    )
    assert mended < 0.6 * bare


def test_denoising_takes_the_last_levels_noise_off() -> None:
    subject, ends = core("karras"), (-4.0, 4.0)
    noisy, clean = (
        annealed_langevin(subject, 200, levels=20, log_snr=ends, denoise=d, generator=seeded(), dtype=torch.float64)
        for d in (False, True)
    )
    assert torch.allclose(clean, subject.predict(noisy, subject.schedule.time(4.0)).x0)


@pytest.mark.parametrize("run", [predictor_corrector, pytest.param(annealed_langevin, marks=pytest.mark.slow)])
def test_a_class_is_kept(run) -> None:
    subject = core()
    label = torch.arange(8).repeat(50)
    x = run(subject, 400, condition=label, generator=seeded(), dtype=torch.float64)
    # By the law itself one in 440 is nearer to another class's mean, by an anneal a little too wide one in 100.
    assert (torch.cdist(x, WORLD.means).argmin(1) == label).double().mean() > 0.97
    # Guided, the same draws end further out, away from all the other classes; 6 standard errors, one alarm in 10⁹.
    guided = run(subject, 400, condition=label, guidance=2.0, generator=seeded(), dtype=torch.float64)
    further = guided.norm(dim=1) - x.norm(dim=1)
    assert further.mean() > 6 * further.std() / 20


@pytest.mark.parametrize("predictor", PREDICTORS)
def test_a_guided_predictor_is_the_guided_sampler(predictor) -> None:
    subject, label = core(), torch.arange(8)
    grid = ud.TimeGrid.uniform(4, first=0.05)
    x, noise = torch.randn(8, 2, generator=seeded()).double(), torch.randn(4, 1, 8, 2, generator=seeded(1)).double()
    own = Sampler(subject, grid, predictor, guidance=2.0)(x, noise=noise[:, 0], condition=label)
    run = PredictorCorrector(subject, grid, predictor, corrections=0, guidance=2.0)
    torch.testing.assert_close(run(x, noise=noise, condition=label), own)


@pytest.mark.parametrize("run", [annealed_langevin, predictor_corrector])
def test_same_seed_same_bits_and_a_network_is_as_good_a_core(run) -> None:
    torch.manual_seed(0)
    network = ud.Diffusion(ud.Schedule.cosine(), ud.Denoiser(networks.MLP(2, width=8, depth=1), (2,), "v"))
    draws = [run(network, 8, steps=3, generator=seeded(s)) for s in (1, 1, 2)]
    assert draws[0].dtype == torch.float32
    assert not draws[0].requires_grad
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_progress_is_told() -> None:
    for run, total in ((lambda f: annealed_langevin(core(), 4, levels=3, steps=2, on_row=f), 6),
                       (lambda f: predictor_corrector(core("linear"), 4, steps=5, on_row=f), 5)):  # fmt: skip
        seen: list[tuple[int, int]] = []
        run(lambda done, of, seen=seen: seen.append((done, of)))
        assert seen == [(k + 1, total) for k in range(total)]


def test_steps_that_are_too_long_end_in_a_named_divergence() -> None:
    with pytest.raises(Divergence, match=r"8 of 8 chains are not finite after row 50 at step_size = 1e\+06") as caught:
        annealed_langevin(core(), 8, levels=4, steps=100, step_size=1e6, generator=seeded())
    assert caught.value.x.shape == (0, 2)
    assert caught.value.chains is None


@pytest.mark.parametrize(
    ("run", "options", "message"),
    [
        (annealed_langevin, {"n": None}, "give n or x, one of them"),
        (annealed_langevin, {"x": torch.zeros(2, 2)}, "give n or x, one of them"),
        (annealed_langevin, {"n": 0}, "n must be an integer of at least 1"),
        (annealed_langevin, {"levels": 1}, "levels must be an integer of at least 2"),
        (annealed_langevin, {"steps": 0}, "steps must be an integer of at least 1"),
        (annealed_langevin, {"step_size": 0.0}, "step_size must be positive"),
        (
            annealed_langevin,
            {"log_snr": (3.0, -3.0)},
            "log_snr must rise from the first level to the last, got 3 to -3",
        ),
        (annealed_langevin, {"log_snr": (1.0,)}, r"log_snr must be a pair of numbers, .* got \(1.0,\)"),
        (annealed_langevin, {"log_snr": 3.0}, "log_snr must be a pair of numbers, .* got 3.0"),
        (annealed_langevin, {"n": None, "x": torch.zeros(0, 2)}, r"x must hold at least one chain, got shape \[0, 2\]"),
        (predictor_corrector, {"n": None, "x": torch.zeros(0, 2)}, "x must hold at least one chain"),
        (annealed_langevin, {"log_snr": (-90.0, 3.0)}, r"log_snr must lie in \[-15"),
        (annealed_langevin, {"noise": torch.zeros(3, 1, 4, 2)}, r"noise must have shape \[1000, 1, 4, 2\]"),
        (annealed_langevin, {"n": None, "x": torch.zeros(2, 3)}, r"x must have shape \[B, 2\]"),
        (
            annealed_langevin,
            {"dtype": torch.float16},
            "dtype must be torch.float32 or torch.float64, got torch.float16",
        ),
        (predictor_corrector, {"predictor": "heun"}, "unknown predictor 'heun'"),
        (predictor_corrector, {"corrections": -1}, "corrections must be an integer of at least 0"),
        (predictor_corrector, {"snr": 0.0}, "snr must be positive"),
        (predictor_corrector, {"steps": 0}, "steps must be an integer of at least 1"),
        (predictor_corrector, {"noise": torch.zeros(3, 1, 4, 2)}, r"noise must have shape \[100, 2, 4, 2\]"),
        (predictor_corrector, {"guidance": 2.0}, "guidance needs a condition"),
    ],
)
def test_bad_requests_are_refused(run, options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(core(), **{"n": 4, **options})


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_trained_network_is_sampled_as_well_as_the_law_itself() -> None:
    """On the preset of the 8 Gaussians (three minutes), a run of 24 000 against the mean over 16 exact sets.

    What is left of chance is the run's own draw, about 0.22 of the floor: a sampler as good as the law itself alarms in 1%
    of seeds (these are fixed). Power: a network of half the steps stood at 2.0 of the floor by annealed Langevin.
    """
    from unidiff.train import Trainer, load_data, presets

    config = dataclasses.replace(presets.eight_gaussians(), minutes=None, steps=24_000, device="cpu")
    trained = Trainer.start(config, load_data("eight-gaussians", generator=seeded())).fit()
    n = 24_000
    exact = [WORLD.sample(n, seeded(100 + k)) for k in range(16)]
    floor = sum(sliced_w1(x, y) for x, y in pairwise(exact)) / 15
    for run in (annealed_langevin, predictor_corrector):
        x = run(trained, n, generator=seeded())
        distance = sum(sliced_w1(x, y) for y in exact) / 16
        assert distance < 1.5 * floor, (run.__name__, distance, floor)
