"""Solvers: the orders that they declare, the tolerance that they keep, what they refuse."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unidiff.identities.laws import fitted_order
from unidiff.score.ode import ORDERS, SOLVERS, TABLEAUS, Solution, solve

ADAPTIVE = [name for name in SOLVERS if TABLEAUS[name].e is not None]


def logistic(y: torch.Tensor, u: float) -> torch.Tensor:
    """y' = y(1 − y)(1 + u): nonlinear and non-autonomous; logit y gains u + u²/2."""
    return y * (1 - y) * (1 + u)


def solution(start: torch.Tensor, u0: float, u1: float) -> torch.Tensor:
    return torch.sigmoid(torch.logit(start) + (u1 + u1**2 / 2) - (u0 + u0**2 / 2))


START = torch.tensor([[0.1, 0.5], [0.3, 0.8]], dtype=torch.float64)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("way", [(0.0, 2.0), (1.5, 0.3)])
def test_the_declared_order_is_the_measured_one(solver, way: tuple[float, float]) -> None:
    start, end = way
    counts = (32, 48, 64, 96) if ORDERS[solver] < 5 else (16, 24, 32, 48)
    exact = solution(START, start, end)
    errors = [float((solve(logistic, START, start, end, solver, steps=n).state - exact).norm()) for n in counts]
    assert fitted_order([1 / n for n in counts], errors) == pytest.approx(ORDERS[solver], abs=0.2)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_tableau_is_consistent_to_its_order(solver) -> None:
    # Butcher 2016, §31: Σ b_i c_i^k = 1/(k + 1) for k < order, and each stage's row sums to its place.
    tableau = TABLEAUS[solver]
    for a, c in zip(tableau.a, tableau.c, strict=True):
        assert sum(a) == pytest.approx(c, abs=1e-14)
    for k in range(tableau.order):
        assert sum(b * c**k for b, c in zip(tableau.b, tableau.c, strict=True)) == pytest.approx(1 / (k + 1), abs=1e-14)
    if tableau.e is not None:
        # The two solutions agree to one order less.
        for k in range(tableau.order - 1):
            assert sum(e * c**k for e, c in zip(tableau.e, tableau.c, strict=True)) == pytest.approx(0, abs=1e-14)
        assert abs(sum(e * c ** (tableau.order - 1) for e, c in zip(tableau.e, tableau.c, strict=True))) > 1e-6


@pytest.mark.parametrize("solver", ADAPTIVE)
@pytest.mark.parametrize("tolerance", [1e-3, 1e-5, 1e-7])
def test_a_tolerance_is_kept_to_a_small_factor(solver, tolerance: float) -> None:
    found = solve(logistic, START, 0.0, 2.0, solver, tolerance=tolerance)
    assert isinstance(found, Solution)
    assert float((found.state - solution(START, 0.0, 2.0)).abs().max()) < 10 * tolerance
    assert found.steps >= 1


def test_a_smaller_tolerance_costs_the_fifth_root() -> None:
    # Local error h⁵: a thousandfold smaller tolerance takes 1000^{1/5} ≈ 4 times the steps.
    few, many = (solve(logistic, START, 0.0, 2.0, tolerance=tolerance).steps for tolerance in (1e-6, 1e-9))
    assert 2.5 < many / few < 6


def test_a_hard_member_among_easy_ones_keeps_its_accuracy() -> None:
    rate = torch.ones(1000, 1, dtype=torch.float64)
    rate[7] = 60.0
    found = solve(lambda y, u: -rate * (y - math.cos(u)), torch.ones_like(rate), 0.0, 1.0, tolerance=1e-6)
    alone = solve(lambda y, u: -60.0 * (y - math.cos(u)), torch.ones(1, 1, dtype=torch.float64), 0.0, 1.0, steps=4000)
    assert float((found.state[7] - alone.state[0]).abs()) < 1e-5


@given(start=st.floats(-2, 2), length=st.floats(0.05, 3), tolerance=st.sampled_from([1e-4, 1e-6, 1e-8]))
def test_there_and_back_is_where_it_began(start: float, length: float, tolerance: float) -> None:
    there = solve(logistic, START, start, start + length, tolerance=tolerance)
    back = solve(logistic, there.state, start + length, start, tolerance=tolerance)
    # Back through y' = y(1 − y)…, an error grows by at most e^{2·length}.
    assert float((back.state - START).abs().max()) < 40 * tolerance * math.exp(2 * length)


def test_evaluations_are_counted_and_the_last_stage_is_the_next_first() -> None:
    calls = []
    found = solve(lambda y, u: calls.append(u) or y * 0 + 1, START, 0.0, 1.0, "dopri5", steps=10)
    assert found.evaluations == len(calls) == 10 * 6 + 1
    assert float((found.state - START - 1).abs().max()) < 1e-14


def test_places_are_asked_at_the_stages_and_end_exactly_at_the_end() -> None:
    seen = []

    def places(nodes):
        seen.extend(nodes)
        return nodes

    solve(logistic, START, 0.3, 0.7, "rk4", steps=7, places=places)
    assert seen[0] == 0.3
    assert seen[-1] == 0.7
    assert all(0.3 <= u <= 0.7 for u in seen)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "dopri", "steps": 3}, "unknown solver 'dopri'; did you mean 'dopri5'"),
        ({"solver": "rk4"}, "give either steps or tolerance"),
        ({"solver": "rk4", "steps": 3, "tolerance": 1e-3}, "give either steps or tolerance"),
        ({"solver": "rk4", "tolerance": 1e-3}, "'rk4' does not know its error: give steps, or one of heun, dopri5"),
        ({"solver": "dopri5", "tolerance": 0.0}, "tolerance must be positive and finite, got 0.0"),
        ({"solver": "dopri5", "tolerance": -1e-3}, "tolerance must be positive and finite, got -0.001"),
        ({"solver": "rk4", "steps": 0}, "steps must be an integer of at least 1, got 0"),
    ],
)
def test_what_no_solver_can_do_is_refused(options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        solve(logistic, START, 0.0, 1.0, **options)


def test_a_state_or_a_velocity_of_the_wrong_kind_is_refused() -> None:
    with pytest.raises(TypeError, match="state must be a floating-point tensor, got torch.int64"):
        solve(logistic, torch.ones(2, 2, dtype=torch.long), 0.0, 1.0, steps=2)
    with pytest.raises(ValueError, match=r"state must be \[B, K\], float32 or wider, got \[2, 2\] of torch.float16"):
        solve(logistic, START.half(), 0.0, 1.0, steps=2)
    with pytest.raises(ValueError, match=r"state must be \[B, K\], float32 or wider, got \[2, 2, 1\]"):
        solve(logistic, START[..., None], 0.0, 1.0, steps=2)
    told: tuple[dict[str, Any], ...] = ({"steps": 2}, {"tolerance": 1e-3})
    for options in told:
        with pytest.raises(ValueError, match=r"velocity must keep the shape \[2, 2\], got \[2, 1\]"):
            solve(lambda y, u: y[:, :1], START, 0.0, 1.0, **options)


def test_a_state_that_is_not_finite_is_refused_and_one_that_becomes_so_is_told() -> None:
    with pytest.raises(ValueError, match="state must be finite"):
        solve(logistic, START * math.nan, 0.0, 1.0, steps=2)
    with pytest.raises(FloatingPointError, match="NaN or infinite within 40 steps"):
        solve(lambda y, u: y.square() * 1e200, START, 0.0, 1.0, "euler", steps=40)
    with pytest.raises(FloatingPointError, match="no step is small enough for tolerance"):
        solve(lambda y, u: y * math.nan, START, 0.0, 1.0, tolerance=1e-3)
