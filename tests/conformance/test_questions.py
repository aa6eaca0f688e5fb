"""Each question finds the fault that it is for, and right samplers pass: no library is needed."""

from __future__ import annotations

import math

import pytest
import torch

import unidiff as ud
from tests.conformance import yours
from unidiff.conformance import Claims, conformance, rules
from unidiff.conformance.checks import GlobalOrder, Levels, Point, Schedules, StepVariance
from unidiff.conformance.draws import Draws
from unidiff.conformance.increments import Increments
from unidiff.conformance.k_diffusion import FunctionTarget
from unidiff.conformance.response import law, response
from unidiff.conformance.tables import alpha_bar_table, exponential_table, karras_table, vp_table
from unidiff.conformance.yours import SchedulerTarget, adapted


def target(fault: str = "", eta: float = 0.0, **claims) -> SchedulerTarget:
    options = {"condition": 1e3, "variance": rules.eta(eta), "steps": (12, 24, 48)} | claims
    return SchedulerTarget(yours.Scheduler(fault, eta), Claims(**options), "mine")


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_a_right_ddim_keeps_its_levels_its_point_and_its_variance(eta) -> None:
    for question in (Levels(), Point(), StepVariance()):
        found = question.check(target(eta=eta))
        assert found.verdict == "pass", (question.name, found.detail)
        assert found.power is not None
        assert found.power < 1e-3  # a violation of 0.1% would have been seen


@pytest.mark.parametrize(
    ("question", "fault", "eta", "said"),
    [
        (Levels(), "order of the list", 0.0, "rise of the log-SNR before state 0: got 0, expected 1"),
        (Point(), "stride", 0.0, "mean of x_0 = 1 in state 1"),
        (Point(), "variance twice", 0.5, "standard deviation in state 1"),
        (StepVariance(), "eta scales the variance", 0.5, "2 steps: step 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_fault_is_found_by_its_question_with_few_steps(question, fault, eta, said) -> None:
    found = question.check(target(fault, eta))
    assert found.verdict == "fail"
    assert said in found.detail, found.detail


def test_a_convention_is_told_as_one_and_an_error_never_is() -> None:
    claims = {"conventions": {"variance": "so it is written"}}
    found = StepVariance().check(target("eta scales the variance", 0.5, **claims))
    assert found.verdict == "convention"
    assert found.detail.endswith("so it is written")
    broken = yours.Nothing()
    broken.name, broken.configuration = "nothing", ""
    broken.claims = Claims(conventions={"point": "anything"})
    assert Point().check(broken).verdict == "fail"
    assert Point().check(broken).detail == "RuntimeError: walked"


@pytest.mark.parametrize(
    ("function", "declared", "verdict"),
    [(yours.euler, 1, "pass"), (yours.euler, 2, "fail"), (yours.midpoint_that_is_euler, 2, "fail")],
)
def test_orders_are_measured(function, declared, verdict) -> None:
    made = adapted(function, declared)
    found = GlobalOrder().check(made)
    assert found.verdict == verdict, found.detail
    assert f"declared {declared}" in found.detail


def test_more_than_what_is_claimed_is_no_violation() -> None:
    assert GlobalOrder().check(adapted(yours.euler, 0.5)).verdict == "pass"


def test_the_response_is_the_walk_itself() -> None:
    made, generator = target(eta=1.0), torch.Generator().manual_seed(0)
    found = response(made, 6)
    answers = torch.randn(6, generator=generator, dtype=torch.float64)
    noises = torch.randn(6, generator=generator, dtype=torch.float64)
    x, calls = 0.7, iter(answers)

    class Fixed(Draws):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if func is torch.randn_like:
                self.count += 1
                return torch.full_like(out, float(noises[self.count - 1]))
            return out

    with Fixed():
        walk = made.walk(
            lambda x, a, s: torch.full_like(x, float(next(calls))),
            lambda a, s: torch.full((1, 1), x, dtype=torch.float64),
            6,
        )
    told = found.start * x + found.answers @ answers + found.draws @ noises
    assert torch.allclose(walk.states[:, 0, 0], told, rtol=1e-12, atol=1e-12)


def test_the_law_on_a_gaussian_is_the_one_that_the_recursion_gives() -> None:
    walk, mean, variance = law(target(eta=1.0), 0.8, 0.3, 6)
    m, v = float(walk.alpha[0]) * 0.8, float(walk.alpha[0]) ** 2 * 0.3 + float(walk.sigma[0]) ** 2
    for k in range(6):
        a, s, b, r = (float(t) for t in (walk.alpha[k], walk.sigma[k], walk.alpha[k + 1], walk.sigma[k + 1]))
        share = 1 - (a * r / (b * s)) ** 2
        on_x0, on_x = b * share, (a / b) * (r / s) ** 2
        gain = 0.3 * a / (a * a * 0.3 + s * s)
        m, v = on_x0 * (0.8 + gain * (m - a * 0.8)) + on_x * m, (on_x0 * gain + on_x) ** 2 * v + share * r * r
        assert math.isclose(float(mean[k + 1]), m, rel_tol=1e-9, abs_tol=1e-12)
        assert math.isclose(float(variance[k + 1]), v, rel_tol=1e-9, abs_tol=1e-12)


def test_rules_are_the_cores_own_variances() -> None:
    q = ud.ForwardProcess(ud.Schedule.cosine())
    t, s = torch.tensor(0.7, dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64)
    levels = [q.schedule.alpha(t), q.schedule.sigma(t), q.schedule.alpha(s), q.schedule.sigma(s)]
    x = torch.zeros(1, 1, dtype=torch.float64)
    assert torch.allclose(rules.posterior(*levels), q.posterior(x, x, 0.4, 0.7).log_var.exp(), rtol=1e-12)
    assert torch.allclose(rules.prior(*levels), q.transition(x, 0.4, 0.7).log_var.exp(), rtol=1e-12)
    assert torch.allclose(rules.eta(0.5)(*levels), 0.25 * rules.posterior(*levels))
    assert rules.prior(levels[0], levels[1], torch.ones(()), torch.zeros(())) == 0


def test_draws_are_answered_and_torchs_own_generator_is_left_alone() -> None:
    with Draws(first=1) as draws:
        first, second = torch.randn(3, 2), torch.randn_like(torch.empty(3, 2))
        third = torch.normal(torch.zeros(3, 1), 1.0)
    assert draws.count == 3
    assert first.tolist() == [[0, 0], [1, 1], [0, 0]]
    assert second.tolist() == [[0, 0], [0, 0], [1, 1]]
    assert not third.any()  # beyond the batch
    before = torch.random.get_rng_state()
    response(target(eta=1.0), 3)
    assert torch.equal(before, torch.random.get_rng_state())


def test_increments_are_of_one_path() -> None:
    like = torch.zeros(4, 1, dtype=torch.float64)
    with Draws(first=0):
        noise = Increments(like)
        part = noise(10.0, 6.0)
        whole = noise(10.0, 1.0)
        after = noise(1.0, 0.5)
    assert part[:, 0].tolist() == [1, 0, 0, 0]
    assert torch.allclose(whole[:, 0], torch.tensor([(4 / 9) ** 0.5, (5 / 9) ** 0.5, 0, 0], dtype=torch.float64))
    assert after[:, 0].tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "cosine"])
def test_tables_of_the_named_schedules_hold_and_a_changed_entry_does_not(kind) -> None:
    right = alpha_bar_table("mine", kind, torch.ones(1000)).expected
    assert Schedules().check(alpha_bar_table("mine", kind, right.float())).verdict == "pass"
    wrong = right.clone()
    wrong[500] *= 1.02
    found = Schedules().check(alpha_bar_table("mine", kind, wrong.float()))
    assert found.verdict == "fail"
    assert "entry 500" in found.detail


def test_a_cosine_is_the_papers_and_the_sigmas_are_theirs() -> None:
    bar = alpha_bar_table("mine", "cosine", torch.ones(1000)).expected
    f = [math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for t in (0, 300)]
    assert math.isclose(float(bar[299]), f[1] / f[0], rel_tol=1e-12)
    karras = ud.Schedule.karras(0.02, 80.0)
    sigmas = karras.sigma(torch.linspace(1, 0, 10, dtype=torch.float64))
    assert Schedules().check(karras_table("mine", sigmas, 0.02, 80.0)).verdict == "pass"
    assert Schedules().check(karras_table("mine", sigmas.flip(0), 0.02, 80.0)).verdict == "fail"
    even = torch.logspace(math.log10(80), math.log10(0.02), 10, dtype=torch.float64)
    assert Schedules().check(exponential_table("mine", even, 0.02, 80.0)).verdict == "pass"
    linear = ud.Schedule.linear(0.1, 20.0)  # β(t) = 0.1 + 19.9 t
    t = torch.linspace(1, 1e-3, 10, dtype=torch.float64)
    ratio = linear.sigma(t) / linear.alpha(t)
    assert Schedules().check(vp_table("mine", ratio)).verdict == "pass"
    assert Schedules().check(vp_table("mine", ratio * 1.001)).verdict == "fail"
    with pytest.raises(TypeError, match="does not walk"):
        vp_table("mine", ratio).walk(lambda x, a, s: x, lambda a, s: torch.zeros(1, 1), 2)


def test_a_sampler_without_a_callback_is_seen_at_its_end() -> None:
    made = adapted(yours.silent)
    assert isinstance(made, FunctionTarget)
    walk = response(made, 5).walk
    assert walk.alpha.shape == (2,)
    report = conformance(yours.silent, only=["point"])
    assert [check.verdict for check in report.checks] == ["pass"]
