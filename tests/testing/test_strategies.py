"""What is drawn is valid, repeats, prints as what makes it again, and shrinks to what a person would have written down."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch
from hypothesis import find, given, settings

import unidiff as ud
from unidiff.testing import strategies as kit

QUICK = settings(database=None, derandomize=True, max_examples=200, deadline=None)
MANY = settings(QUICK, max_examples=2000)
EVERY_KIND = pytest.mark.parametrize("kind", kit.KINDS)


@EVERY_KIND
def test_schedules_decrease_and_their_steps_are_steps(kind: str) -> None:
    @given(kit.steps(kit.schedules([kind]), short=True))
    @settings(max_examples=10)
    def holds(step: kit.Step) -> None:
        high, low = step.schedule.log_snr(torch.tensor([step.s, step.t], dtype=torch.float64)).tolist()
        assert 0 <= step.s < step.t <= 1
        assert -21 < low < high < 60
        ud.ForwardProcess(step.schedule).posterior(torch.zeros(1, 1), torch.zeros(1, 1), step.s, step.t)

    holds()


@pytest.mark.parametrize(
    ("kind", "plainest"),
    [
        ("cosine", ud.Schedule.cosine()),
        ("linear", ud.Schedule.linear()),
        ("karras", ud.Schedule.karras()),
        ("sigmoid", ud.Schedule.sigmoid()),
        ("from_betas", None),
        ("learned", None),
        ("as_ve", None),
    ],
)
def test_the_plainest_of_a_kind_is_what_it_shrinks_to(kind: str, plainest: ud.Schedule | None) -> None:
    found = find(kit.schedules([kind]), lambda _: True, settings=QUICK)
    if plainest is not None:
        assert found == plainest
    shown = {
        "from_betas": "FromBetas([0.1, 0.1])",
        "learned": "Learned(log_snr_max=15.0, log_snr_min=-15.0, units=1, seed=0)",
        "as_ve": "Cosine(log_snr_max=15.0, log_snr_min=-15.0).as_ve()",
    }
    assert repr(found) == shown.get(kind, repr(plainest))


def test_the_first_schedule_is_the_cosine() -> None:
    assert find(kit.schedules(), lambda _: True, settings=QUICK) == ud.Schedule.cosine()


def test_a_long_table_of_betas_prints_in_a_line() -> None:
    assert repr(ud.Schedule.named("ddpm")) == "FromBetas(1000 betas from 0.0001 to 0.02)"


@pytest.mark.parametrize(
    ("strategy", "wanted", "least"),
    [
        (kit.times(), lambda t: True, 0.5),
        (kit.times(), lambda t: 0.7 < t < 0.99, 0.71),
        (kit.times(ends=False), lambda t: t < 0.1, 0.09),
        (kit.time_pairs(), lambda pair: True, (0.25, 0.5)),
        (kit.time_pairs(), lambda pair: pair[1] == 1.0, (0.5, 1.0)),
        (kit.time_pairs(), lambda pair: pair[0] == 0.0, (0.0, 0.5)),
        (kit.event_shapes(), lambda shape: True, (1,)),
        (kit.event_shapes(), lambda shape: len(shape) == 2, (1, 1)),
        (kit.dtypes(), lambda dtype: True, torch.float64),
        (kit.networks(), lambda network: True, kit.Wave(0.0, 0.0, 0.0)),
        (kit.networks(), lambda network: network.bent > 0.35, kit.Wave(0.0, 0.4, 0.0)),
        (kit.grids(), lambda grid: True, ud.TimeGrid([0.0, 1.0])),
        (kit.grids(least=2), lambda grid: True, ud.TimeGrid([0.0, 0.01, 1.0])),
        (kit.decimals(-2, 5, 3, 0), lambda value: value > 3, 4.0),
    ],
)
def test_counterexamples_are_the_simplest(strategy, wanted, least) -> None:
    assert find(strategy, wanted, settings=QUICK) == least


def test_states_shrink_to_one_row_of_one_plain_number() -> None:
    xt, x0 = find(kit.batches(2), lambda batch: bool((batch[0] > 1.2).any()), settings=QUICK)
    assert torch.equal(xt, torch.tensor([[1.3]], dtype=torch.float64))
    assert torch.equal(x0, torch.tensor([[0.0]], dtype=torch.float64))


def test_worlds_shrink_to_the_standard_normal_and_print_what_they_are() -> None:
    assert repr(find(kit.mixtures(), lambda _: True, settings=QUICK)) == "GaussianMixture([1.0], [[0.0]], [[[1.0]]])"
    two = find(kit.mixtures(1, 2, torch.float32), lambda _: True, settings=QUICK)
    shown = "GaussianMixture([0.5, 0.5], [[0.0], [0.0]], [[[1.0]], [[1.0]]]).to(torch.float32)"
    assert repr(two) == shown
    assert repr(find(kit.denoisers((2,)), lambda _: True, settings=QUICK)) == (
        "Denoiser(Wave(linear=0.0, bent=0.0, level=0.0), (2,), prediction='x0')"
    )


@given(kit.mixtures(3), kit.rewards(3))
def test_worlds_are_well_conditioned_and_tilt(world: ud.worlds.GaussianMixture, reward) -> None:
    values = torch.linalg.eigvalsh(world.covariances)
    assert float((values[:, -1] / values[:, 0]).max()) <= 16 * (1 + 1e-9)
    tilted, log_z = world.tilt_by(reward, 1.0)
    assert bool(torch.isfinite(log_z))
    assert bool((torch.linalg.eigvalsh(tilted.covariances) > 0).all())


@given(kit.batches(3, dtype=kit.dtypes()))
def test_batches_are_alike_finite_and_of_two_digits(batch: tuple[torch.Tensor, ...]) -> None:
    assert len({(x.shape, x.dtype) for x in batch}) == 1
    for x in batch:
        assert x.ndim >= 2
        assert torch.equal((100 * x.double()).round() / 100, x.double().mul(100).round() / 100)
        assert float((100 * x.double() - (100 * x.double()).round()).abs().max()) < 1e-4
        assert float(x.abs().max()) < 6


@given(kit.denoisers((2, 3)), kit.states((2, 3), dtype=torch.float64), kit.times(ends=False))
def test_denoisers_answer_the_same_each_time(denoiser: ud.Denoiser, xt: torch.Tensor, t: float) -> None:
    core = ud.Diffusion(ud.Schedule.cosine(), denoiser)
    assert torch.equal(core.predict(xt, t).x0, core.predict(xt, t).x0)


def test_times_of_a_schedule_are_those_with_a_finite_log_snr() -> None:
    linear = ud.Schedule.linear()

    @given(kit.times(linear), kit.time_pairs(linear, short=True), kit.grids(linear))
    @settings(max_examples=100)
    def holds(t: float, pair: tuple[float, float], grid: ud.TimeGrid) -> None:
        at = torch.tensor([t, *pair, *grid.times.tolist()], dtype=torch.float64)
        assert bool(torch.isfinite(linear.log_snr(at)).all())

    holds()
    assert find(kit.times(), lambda t: t == 0.0, settings=QUICK) == 0.0  # which others have


def test_short_steps_are_drawn_where_asked_and_not_else() -> None:
    assert find(kit.time_pairs(short=True), lambda p: p[1] - p[0] < 1e-5, settings=QUICK) == (0.25, 0.25 + 1e-6)
    at_the_last = find(kit.time_pairs(short=True), lambda p: p[1] == 1.0 and p[1] - p[0] < 2e-3, settings=MANY)
    assert at_the_last == (1 - 1e-3, 1.0)
    find(kit.time_pairs(short=True), lambda p: p[0] == 0.01 and p[1] - p[0] < 2e-3, settings=MANY)
    with pytest.raises(TypeError, match="of must be a SearchStrategy, got 3"):
        find(kit.steps(of=3), lambda _: True, settings=QUICK)  # pyright: ignore
    lengths = []

    @given(kit.time_pairs())
    @settings(max_examples=200)
    def holds(pair: tuple[float, float]) -> None:
        lengths.append(pair[1] - pair[0])

    holds()
    assert min(lengths) > 0.0099


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: kit.schedules(["cosin"]), ValueError, "unknown kind 'cosin'; did you mean 'cosine'"),
        (lambda: kit.schedules([]), ValueError, "kinds must name at least one"),
        (lambda: kit.schedules("cosine"), ValueError, "kinds must be a sequence of names, got the name 'cosine'"),
        (lambda: kit.times("cosine"), TypeError, "schedule must be a Schedule, got 'cosine'"),  # pyright: ignore
        (lambda: kit.times(ends=1), TypeError, "ends must be True or False, got 1"),  # pyright: ignore
        (lambda: kit.time_pairs(short=None), TypeError, "short must be True or False, got None"),  # pyright: ignore
        (lambda: kit.grids(least=0), ValueError, "least must be an integer of at least 1, got 0"),
        (lambda: kit.grids(least=3, most=2), ValueError, "most must be an integer of at least 3, got 2"),
        (lambda: kit.grids(most=100), ValueError, "most must be at most 99, the times of two digits, got 100"),
        (lambda: kit.event_shapes(0), ValueError, "axes must be an integer of at least 1, got 0"),
        (lambda: kit.event_shapes(side=0), ValueError, "side must be an integer of at least 1, got 0"),
        (lambda: kit.batches(0), ValueError, "count must be an integer of at least 1, got 0"),
        (lambda: kit.states((0,)), ValueError, r"event_shape must be a tuple of positive integers, got \(0,\)"),
        (lambda: kit.states(rows=0), ValueError, "rows must be an integer of at least 1, got 0"),
        (lambda: kit.states(dtype=torch.float16), ValueError, "dtype must be torch.float32 or torch.float64"),
        (lambda: kit.mixtures(0), ValueError, "dim must be an integer of at least 1, got 0"),
        (lambda: kit.mixtures(1, 0), ValueError, "components must be an integer of at least 1, got 0"),
        (lambda: kit.mixtures(dtype=torch.int64), ValueError, "dtype must be torch.float32 or torch.float64"),
        (lambda: kit.rewards(0), ValueError, "dim must be an integer of at least 1, got 0"),
        (lambda: kit.denoisers(2), ValueError, "event_shape must be a tuple"),  # pyright: ignore
        (lambda: kit.denoisers((2,), "epss"), ValueError, "unknown prediction 'epss'"),  # pyright: ignore
        (lambda: kit.decimals(0, 1, 2), ValueError, r"simplest must lie in \[0, 1\], got 2"),
        (lambda: kit.decimals(0, 0.25, 0), ValueError, "high must have at most 1 digits after the point, got 0.25"),
        (lambda: kit.decimals(0, 1, 0, -1), ValueError, "digits must be an integer of at least 0, got -1"),
    ],
)
def test_bad_arguments_are_refused(make, error, words: str) -> None:
    with pytest.raises(error, match=words):
        make()


def test_without_hypothesis_the_rest_is_there_and_the_error_names_the_extra() -> None:
    # An import of it by `import unidiff` would fail here too.
    code = (
        "import sys; sys.modules['hypothesis'] = None\n"
        "import unidiff as ud; ud.testing.assert_algebraic(1.0, 1.0, 1.0)\n"
        "ud.testing.strategies"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = found.stderr.strip().splitlines()[-1]
    assert re.search(r"ModuleNotFoundError: .* needs hypothesis, .* pip install 'unidiff\[testing\]'", last), (
        found.stderr
    )
