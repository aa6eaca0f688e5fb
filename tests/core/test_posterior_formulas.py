"""Every kernel and conversion against the textbook, over random schedules, times, shapes and dtypes.

The textbook's side is written out in float64 from λ alone, with the subtractions that the core avoids. What it loses by them
is 1/c, c = 1 − SNR_t/SNR_s, of float64's digits: that is the condition stated, beside the size of what is added.
"""

from __future__ import annotations

import torch
from hypothesis import assume, given
from torch import Tensor

from unidiff import ForwardProcess, Prediction, Schedule
from unidiff.core.prediction import KINDS, Kind, conversion
from unidiff.core.process import bridge
from unidiff.testing import assert_algebraic, assert_gaussian_equal
from unidiff.testing import strategies as kit

EPS = torch.finfo(torch.float64).eps
Batch = tuple[Tensor, ...]


def scales(schedule: Schedule, t: float) -> tuple[Tensor, Tensor, Tensor]:
    """λ, α² and σ² by the definitions."""
    log_snr = schedule.log_snr(t).detach()
    if not schedule.variance_preserving:
        return log_snr, torch.ones_like(log_snr), (-log_snr).exp()
    return log_snr, 1 / (1 + (-log_snr).exp()), 1 / (1 + log_snr.exp())


def lost(step: kit.Step, dtype: torch.dtype) -> float:
    """What the textbook's subtractions lose, in units of the dtype's rounding."""
    at_s, at_t = (float(step.schedule.log_snr(v).detach()) for v in (step.s, step.t))
    c = 1 - float(torch.tensor(at_t - at_s).exp())
    return EPS / torch.finfo(dtype).eps * (1 + abs(at_s) + abs(at_t)) / c


@given(kit.steps(), kit.states(dtype=kit.dtypes()))
def test_the_marginal_is_alpha_x0_and_sigma(step: kit.Step, x0: Tensor) -> None:
    log_snr, alpha2, sigma2 = scales(step.schedule, step.t)
    expected = (alpha2.sqrt() * x0.double(), sigma2)
    got = ForwardProcess(step.schedule).marginal(x0, step.t)
    assert got.mean.dtype == x0.dtype
    assert_gaussian_equal(got, expected, condition=1 + log_snr.abs())


@given(kit.steps(short=True), kit.states(dtype=kit.dtypes()))
def test_the_transition_makes_one_marginal_of_the_other(step: kit.Step, xs: Tensor) -> None:
    (_, alpha2_s, var_s), (_, alpha2_t, var_t) = (scales(step.schedule, v) for v in (step.s, step.t))
    ratio2 = alpha2_t / alpha2_s
    expected = (ratio2.sqrt() * xs.double(), var_t - ratio2 * var_s)
    got = ForwardProcess(step.schedule).transition(xs, step.s, step.t)
    assert got.mean.dtype == xs.dtype
    assert_gaussian_equal(got, expected, condition=2 + lost(step, xs.dtype))


@given(kit.steps(short=True), kit.batches(2, dtype=kit.dtypes()))
def test_the_posterior_is_bayes_rule(step: kit.Step, batch: Batch) -> None:
    xt, x0 = batch
    (_, alpha2_s, var_s), (_, alpha2_t, var_t) = (scales(step.schedule, v) for v in (step.s, step.t))
    ratio2 = alpha2_t / alpha2_s
    var_ts = var_t - ratio2 * var_s
    var = 1 / (1 / var_s + ratio2 / var_ts)
    terms = var / var_s * alpha2_s.sqrt() * x0.double(), var / var_ts * ratio2.sqrt() * xt.double()
    mean = terms[0] + terms[1]
    size = (terms[0].abs() + terms[1].abs()) / (mean.abs() + var.sqrt())
    got = ForwardProcess(step.schedule).posterior(xt, x0, step.s, step.t)
    assert got.mean.dtype == xt.dtype
    assert_gaussian_equal(got, (mean, var), condition=(2 + size) * (1 + lost(step, xt.dtype)))


@given(kit.steps(), kit.decimals(0, 1, 0.5, 2))
def test_ddims_step_keeps_the_marginals_with_its_share_of_bayes_noise(step: kit.Step, eta: float) -> None:
    (at_s, alpha2_s, var_s), (at_t, alpha2_t, var_t) = (scales(step.schedule, v) for v in (step.s, step.t))
    got = bridge(step.schedule, step.s, step.t, eta)
    on_xt, on_x0, var = (v.detach() for v in (got.on_xt, got.on_x0, got.log_var.exp()))
    digits = 1 + at_s.abs() + at_t.abs()
    assert_algebraic(on_xt * alpha2_t.sqrt() + on_x0, alpha2_s.sqrt(), digits * alpha2_s.sqrt(), what="α_s")
    assert_algebraic(on_xt.square() * var_t + var, var_s, digits * var_s, what="σ_s²")
    share = 1 - alpha2_t * var_s / (alpha2_s * var_t)
    assert_algebraic(var, eta**2 * share * var_s, digits * eta**2 * var_s, what="ς²")


@given(kit.steps(), kit.batches(2, dtype=kit.dtypes()))
def test_each_prediction_converts_to_each_other(step: kit.Step, batch: Batch) -> None:
    x0, eps = batch
    # In float32 a nearly lost x_0 or ε cannot be told within a tenth of itself, by anyone.
    log_snr = float(step.schedule.log_snr(step.t).detach())
    assume(x0.dtype == torch.float64 or abs(log_snr) < 6)
    level = step.schedule.level(step.t, x0)
    alpha, sigma = level.alpha.detach(), level.sigma.detach()
    level = type(level)(level.t, level.log_snr.detach(), alpha, sigma)
    size = alpha * x0.abs() + sigma * eps.abs()
    truth: dict[Kind, Tensor] = {"x0": x0, "eps": eps, "v": alpha * eps - sigma * x0, "score": -eps / sigma}
    xt = alpha * x0 + sigma * eps
    for source in KINDS:
        own = Prediction.of(source, truth[source], xt, level)
        for target in KINDS:
            p, q = conversion(source, target, alpha, sigma)
            # v is itself a difference, of what rounds as α|ε| + σ|x_0|.
            given_size = alpha * eps.abs() + sigma * x0.abs() if source == "v" else truth[source].abs()
            own_size = alpha * eps.abs() + sigma * x0.abs() if target == "v" else truth[target].abs()
            # Beside its terms and its unit, since a value of zero has no relative size.
            room = 2 * own_size + (1 / sigma if target == "score" else 1)
            kappa = p.abs() * size + q.abs() * given_size + room
            assert_algebraic(getattr(own, target) + room, truth[target] + room, kappa, what=f"{source} → {target}")
