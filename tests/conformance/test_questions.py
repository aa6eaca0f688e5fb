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
from unidiff.conformance.target import Convention
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
    claims = {"conventions": {"variance": Convention("so it is written", rules.eta(0.5**0.5))}}
    found = StepVariance().check(target("eta scales the variance", 0.5, **claims))
    assert found.verdict == "convention"
    other = {"conventions": {"variance": Convention("so it is written", rules.eta(0.4))}}  # it is not what is written
    assert StepVariance().check(target("eta scales the variance", 0.5, **other)).verdict == "fail"
    assert found.detail.endswith("so it is written")
    broken = yours.Nothing()
    broken.name, broken.configuration = "nothing", ""
    broken.claims = Claims(conventions={"point": Convention("anything")})
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


def test_a_sampler_without_a_callback_is_seen_at_an_end_that_says_something() -> None:
    made = adapted(yours.silent, 1, True)
    walk = response(made, 5).walk
    assert walk.alpha.shape == (2,)
    assert abs(float(walk.log_snr[1])) < 3
    verdicts = {c.identity: c.verdict for c in conformance(yours.silent, order=1, point=True).checks}
    assert verdicts == {"point": "pass", "order": "pass"}
    nothing = conformance(lambda model, x, sigmas: model(x, sigmas[:1]), order=1, point=True)
    assert {c.verdict for c in nothing.checks} == {"fail"}


@pytest.mark.parametrize("question", ["point", "variance"])
def test_a_fault_of_a_millionth_is_seen(question) -> None:
    class Near(yours.Scheduler):
        def step(self, output, time, x):
            return super().step(output, time, x) * (1 + 1e-6)

    made = SchedulerTarget(Near(eta=1.0), Claims(condition=1e3, variance=rules.eta(1.0)), "mine")
    assert {"point": Point(), "variance": StepVariance()}[question].check(made).verdict == "fail"


def test_an_error_in_the_middle_counts_and_an_exact_sampler_has_every_order() -> None:
    def bump(model, x, sigmas, callback=None):
        """Exact at its end, where it was told all; off by a first order in the middle."""
        start = x
        for k in range(len(sigmas) - 1):
            if callback is not None:
                callback({"x": x, "sigma": sigmas[k]})
            model(x, sigmas[k])
            share = ((0.3 + sigmas[k + 1] ** 2) / (0.3 + sigmas[0] ** 2)).sqrt()
            x = 0.8 + share * (start - 0.8)
            if k < len(sigmas) // 2:
                x = x + 1 / len(sigmas)
        return x

    def exact(model, x, sigmas, callback=None):
        return bump_free(model, x, sigmas, callback)

    def bump_free(model, x, sigmas, callback):
        start = x
        for k in range(len(sigmas) - 1):
            if callback is not None:
                callback({"x": x, "sigma": sigmas[k]})
            x = 0.8 + ((0.3 + sigmas[k + 1] ** 2) / (0.3 + sigmas[0] ** 2)).sqrt() * (start - 0.8)
        return x

    found = GlobalOrder().check(FunctionTarget(bump, even, Claims(order=2), "mine"))
    assert found.verdict == "fail", found.detail
    found = GlobalOrder().check(FunctionTarget(exact, even, Claims(order=7), "mine"))
    assert found.verdict == "pass"
    assert "exact to rounding" in found.detail


def even(steps: int) -> torch.Tensor:
    return torch.logspace(1, -1, steps + 1, dtype=torch.float64)


def test_a_walk_outside_the_window_is_undecided() -> None:
    far = FunctionTarget(yours.euler, lambda n: 100 * even(n), Claims(order=1), "mine")
    found = GlobalOrder().check(far)
    assert found.verdict == "inconclusive"
    assert "no state at a log-SNR within ±3" in found.detail


def test_draws_of_any_mean_and_deviation() -> None:
    mean, std = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [4.0]])
    with Draws(first=0):
        assert torch.normal(mean, std).tolist() == [[4.0], [2.0]]
        assert torch.normal(mean, 3.0).tolist() == [[1.0], [5.0]]
    with Draws(first=0):
        assert torch.normal(2.0, std).tolist() == [[5.0], [2.0]]
        assert torch.empty(2, 1).normal_(1.0, 2.0).tolist() == [[1.0], [3.0]]
    with Draws(first=0):
        assert torch.empty(2, 1).normal_(std=5.0).tolist() == [[5.0], [0.0]]
        assert torch.distributions.Normal(mean, std).sample().tolist() == [[1.0], [6.0]]
