r"""Explicit Runge–Kutta solvers of dy/du = f(y, u), each with the order that it declares and the tests measure.

    k_i = f(y + h Σ_j a_ij k_j, u + c_i h),   y ← y + h Σ_i b_i k_i,   local error ≈ h Σ_i e_i k_i

(Butcher 2016, §31; the pair 5(4) is Dormand & Prince 1980, table 2). With a tolerance the step is the controller's:

    h ← h · 0.9 · r_n^{−0.7/q} r_{n−1}^{0.4/q},   r = max |local error| / (τ (1 + |y|)),   accepted if r ≤ 1,

a PI rule (Gustafsson 1991; Hairer & Wanner 1996, eq. IV.2.43), q the order of the local error. The maximum runs over
every entry of the whole batch, so that no member is solved worse because its neighbours are easy. The batch walks
together: one step size, read once a step.

What f has to know of a place u besides u itself (a noise level) is made by ``places`` for all stages of a step at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from unidiff.core.boundary import (
    check_count,
    check_finite,
    check_name,
    check_positive,
    check_real,
    check_state,
)

Solver = Literal["euler", "heun", "rk4", "dopri5"]
SOLVERS: tuple[Solver, ...] = get_args(Solver)

Velocity = Callable[[Tensor, Any], Tensor]
Places = Callable[[Sequence[float]], Sequence[Any]]

MOST_STEPS = 100_000
_SAFETY, _LEAST, _MOST = 0.9, 0.2, 5.0


@dataclass(frozen=True)
class Tableau:
    """A Runge–Kutta method.

    Attributes:
        order: of the solution.
        c: the stages' places in a step.
        a: what each stage is made of.
        b: what the step is made of.
        e: b less the lower-order solution's, where the method holds one; of order ``order`` in h.
        first_same_as_last: whether the last stage is the next step's first.
    """

    order: int
    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    e: tuple[float, ...] | None = None
    first_same_as_last: bool = False


_DOPRI5_B = (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0)
TABLEAUS: dict[Solver, Tableau] = {
    "euler": Tableau(1, (0.0,), ((),), (1.0,)),
    "heun": Tableau(2, (0.0, 1.0), ((), (1.0,)), (0.5, 0.5), (-0.5, 0.5)),
    "rk4": Tableau(4, (0.0, 0.5, 0.5, 1.0), ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
    "dopri5": Tableau(
        5,
        (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
        (
            (),
            (1 / 5,),
            (3 / 40, 9 / 40),
            (44 / 45, -56 / 15, 32 / 9),
            (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
            (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
            _DOPRI5_B[:6],
        ),
        _DOPRI5_B,
        (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
        first_same_as_last=True,
    ),
}  # fmt: skip
ORDERS: dict[Solver, int] = {name: tableau.order for name, tableau in TABLEAUS.items()}


@dataclass(frozen=True)
class Solution:
    """Where a solver ended.

    Attributes:
        state: at the end, ``[B, K]``.
        evaluations: calls of the velocity.
        steps: steps taken.
        rejected: steps tried and not taken.
    """

    state: Tensor
    evaluations: int
    steps: int
    rejected: int = 0


def check_solver(solver: str, steps: int | None, tolerance: float | None) -> Tableau:
    """The method, if it can do what it is told.

    Raises:
        ValueError: an unknown solver (with the nearest known one), not just one of steps and tolerance, steps below 1,
            a tolerance that is not positive, or one for a method that does not know its error.
    """
    tableau = TABLEAUS[check_name("solver", solver, SOLVERS)]  # pyright: ignore[reportArgumentType]
    if (steps is None) == (tolerance is None):
        raise ValueError(f"give either steps or tolerance, got steps = {steps} and tolerance = {tolerance}")
    if steps is not None:
        check_count("steps", steps)
    if tolerance is not None:
        check_positive("tolerance", tolerance)
        if tableau.e is None:
            known = ", ".join(name for name, method in TABLEAUS.items() if method.e is not None)
            raise ValueError(f"solver {solver!r} does not know its error: give steps, or one of {known} a tolerance")
    return tableau


def solve(
    velocity: Velocity,
    state: Tensor,
    start: float,
    end: float,
    solver: Solver = "dopri5",
    *,
    steps: int | None = None,
    tolerance: float | None = None,
    places: Places | None = None,
) -> Solution:
    """Carry ``state`` ``[B, K]`` from u = ``start`` to u = ``end``, in either direction.

    Args:
        velocity: ``f(y [B, K], place) -> [B, K]``.
        state: float32 or wider.
        start, end: floats; steps are worked out in float64 on the host.
        solver: "euler", "heun", "rk4" or "dopri5".
        steps: even steps; or
        tolerance: τ of the local error, absolute and relative, in the units of the state.
        places: what the velocity is told at each of several u; itself if None.

    Raises:
        TypeError: a state that is no floating-point tensor; a velocity or places that cannot be called; ends or a
            tolerance that are no numbers.
        ValueError: as :func:`check_solver`; ends that are equal or not finite; a state that is not ``[B, K]``, empty, not
            finite or of half precision; a velocity of another shape.
        FloatingPointError: the solution became NaN or infinite, or no step is small enough.
    """
    tableau = check_solver(solver, steps, tolerance)
    for name, value in (("velocity", velocity), ("places", places)):
        if not callable(value) and not (name == "places" and value is None):
            raise TypeError(f"{name} must be a function, got {value!r}")
    for name, value in (("start", start), ("end", end)):
        if not math.isfinite(check_real(name, value)):
            raise ValueError(f"{name} must be finite, got {value}")
    if start == end:
        raise ValueError(f"start and end must differ, got {start} for both")
    check_finite("state", check_state("state", state))
    if not state.numel():
        raise ValueError(f"state must hold at least one number, got shape {list(state.shape)}")
    if state.ndim != 2 or state.dtype in (torch.float16, torch.bfloat16):
        raise ValueError(f"state must be [B, K], float32 or wider, got {list(state.shape)} of {state.dtype}")
    walk = _Walk(tableau, velocity, places or (lambda nodes: nodes))
    if steps is not None:
        return walk.even(state, start, end, steps)
    assert tolerance is not None
    return walk.adaptive(state, start, end, tolerance)


class _Walk:
    """One solution under way."""

    def __init__(self, tableau: Tableau, velocity: Velocity, places: Places) -> None:
        self.tableau, self.velocity, self.places = tableau, velocity, places
        self.evaluations = 0

    def even(self, y: Tensor, start: float, end: float, steps: int) -> Solution:
        h, count = (end - start) / steps, len(self.tableau.c)
        nodes = [_node(start, end, (k + c) / steps) for k in range(steps) for c in self.tableau.c]
        told = self.places(nodes)
        last: Tensor | None = None
        for k in range(steps):
            stages = self._stages(y, h, told[k * count : (k + 1) * count], last)
            y = _combined(y, h, self.tableau.b, stages)
            last = stages[-1] if self.tableau.first_same_as_last else None
        if not bool(torch.isfinite(y).all()):
            raise FloatingPointError(f"the solution became NaN or infinite within {steps} steps; take more")
        return Solution(y, self.evaluations, steps)

    def adaptive(self, y: Tensor, start: float, end: float, tolerance: float) -> Solution:
        tableau, span = self.tableau, end - start
        assert tableau.e is not None
        first = self._ask(y, self.places([start])[0])
        # The first step moves the state by a hundredth of what the tolerance is relative to (Hairer et al. 1993, II.4).
        speed = float((first / (1 + y.abs())).abs().max())
        share = min(1.0, 0.01 / (speed * abs(span))) if speed > 0 else 0.01
        done, before, taken, rejected = 0.0, 1.0, 0, 0
        for _ in range(MOST_STEPS):
            share = min(share, 1.0 - done)
            told = self.places([_node(start, end, done + c * share) for c in tableau.c])
            stages = self._stages(y, share * span, told, first)
            moved = _combined(y, share * span, tableau.b, stages)
            error = _combined(torch.zeros_like(y), share * span, tableau.e, stages).abs()
            ratio = float((error / (tolerance * (1 + torch.maximum(y.abs(), moved.abs())))).max())
            if ratio <= 1.0:
                # A step that is all that is left ends at the end, whatever 1 − done rounds to.
                done = 1.0 if share >= 1.0 - done else done + share
                y, taken = moved, taken + 1
                if done >= 1.0:
                    return Solution(y, self.evaluations, taken, rejected)
                first = stages[-1] if tableau.first_same_as_last else None
                share *= _clamped(
                    _SAFETY * max(ratio, 1e-10) ** (-0.7 / tableau.order) * before ** (0.4 / tableau.order)
                )
                before = max(ratio, 1e-4)
            else:
                rejected += 1
                first = stages[0]
                share *= _clamped(_SAFETY * ratio ** (-1 / tableau.order)) if math.isfinite(ratio) else _LEAST
            if share < 16 * torch.finfo(y.dtype).eps * max(done, 1e-3):
                raise FloatingPointError(
                    f"no step is small enough for tolerance {tolerance:g} in {y.dtype} at {done:.3%} of the way "
                    f"(error {ratio:.3g} times what is allowed); raise the tolerance or widen the dtype"
                )
        raise FloatingPointError(f"tolerance {tolerance:g} needs more than {MOST_STEPS} steps; raise it")

    def _stages(self, y: Tensor, h: float, told: Sequence[Any], first: Tensor | None) -> list[Tensor]:
        stages: list[Tensor] = []
        for a, place in zip(self.tableau.a, told, strict=True):
            if not stages and first is not None:
                stages.append(first)
            else:
                stages.append(self._ask(_combined(y, h, a, stages), place))
        return stages

    def _ask(self, y: Tensor, place: Any) -> Tensor:
        self.evaluations += 1
        velocity = self.velocity(y, place)
        # A column where a matrix belongs would broadcast, and be another equation.
        if velocity.shape != y.shape:
            raise ValueError(f"velocity must keep the shape {list(y.shape)}, got {list(velocity.shape)}")
        return velocity


def _combined(y: Tensor, h: float, weights: Sequence[float], stages: Sequence[Tensor]) -> Tensor:
    for weight, stage in zip(weights, stages, strict=True):
        if weight:
            y = y + (h * weight) * stage
    return y


def _node(start: float, end: float, share: float) -> float:
    return end if share >= 1.0 else start + share * (end - start)


def _clamped(factor: float) -> float:
    return min(_MOST, max(_LEAST, factor))
