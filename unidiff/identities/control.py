r"""The adaptive solvers' step control, followed from outside: what a solver asks of its places tells every step it tried.

On y' = −c(u) y with c a diagonal the stages are the solution of a linear system, K = −(I + h C A)^{-1} C 1 y, so that each
local error is known without a stage being taken, and with it the step that Gustafsson's rule takes next.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from unidiff.identities.case import Case
from unidiff.identities.laws import Algebraic, Sides
from unidiff.identities.registry import register
from unidiff.score.ode import TABLEAUS, Solver, solve
from unidiff.worlds import Gaussian

QUICK = 20.0


def rate(u: float) -> Tensor:
    """c(u): slow, then fast, so that a step is refused and steps are cut to a fifth; one entry of two grows."""
    quick = 1.0 if u < 0.45 else QUICK
    return torch.tensor([0.5 * quick, -0.3 - u], dtype=torch.float64)


@register
class StepControl(Algebraic):
    """Every step tried, its size and whether it was kept, up to the end, by both of the pairs and in both directions.

    κ: a local error is a difference of terms h|k|, known to eps·h|k|/(τ r) of itself. What that moves a step by, its share
    of r^{1/q} where the step is neither cut nor held, is in all later steps, times the ratio of the two rates. The end
    hears of a step through its local error alone, τ.
    """

    name = "step-control"
    statement = (
        r"h_{n+1}=h_n\cdot0.9\,r_n^{-0.7/q}\,r_{n-1}^{0.4/q},\quad "
        r"r=\max\frac{\vert h\sum_ie_ik_i\vert}{\tau\,(1+\max(\vert y\vert,\vert y'\vert))}\leq1"
    )
    views = ("score",)
    source = "Gustafsson 1991; Hairer & Wanner 1996, eq. IV.2.43"
    conditions = "float64; once, for it knows of no schedule"
    subject = "schedule"

    def applies(self, case: Case) -> bool:
        return isinstance(case.world, Gaussian) and case.schedule_name == "sigmoid" and case.dtype == torch.float64

    def sides(self, case: Case) -> Iterable[Sides]:
        runs: tuple[tuple[Solver, float, float, float], ...] = (
            ("dopri5", 0.0, 1.0, 1e-4),
            ("dopri5", 0.9, 0.1, 1e-3),
            ("heun", 0.2, 0.5, 2e-3),
        )
        for solver, start, end, tolerance in runs:
            asked: list[float] = []

            def places(nodes: Sequence[float], asked: list[float] = asked) -> list[Tensor]:
                if len(nodes) > 1:
                    asked.append(nodes[-1] - nodes[0])
                return [rate(u) for u in nodes]

            y = torch.tensor([[1.0, 2.0], [-0.4, 0.1]], dtype=torch.float64)
            found = solve(lambda y, c: -c * y, y, start, end, solver, tolerance=tolerance, places=places)
            steps, blurs, refused, state = _predicted(solver, y, start, end, tolerance)
            counts = torch.tensor([found.steps, found.rejected, len(asked)], dtype=torch.float64)
            expected = torch.tensor([len(steps) - refused, refused, len(steps)], dtype=torch.float64)
            yield Sides(counts, expected, torch.ones_like(counts))
            own, known = (torch.tensor(v, dtype=torch.float64) for v in (asked[: len(steps)], steps[: len(asked)]))
            blur = 1 + QUICK * torch.tensor(blurs, dtype=torch.float64)
            yield Sides(own, known, known.abs() * blur[: len(known)])
            yield Sides(found.state, state, (1 + state.abs()) * (1 + tolerance * blur[-1]))


def _predicted(
    solver: Solver, y: Tensor, start: float, end: float, tolerance: float
) -> tuple[list[float], list[float], int, Tensor]:
    """Every step that is tried, what rounding moves each by, how many of them are refused, and where they end."""
    tableau, span = TABLEAUS[solver], end - start
    assert tableau.e is not None
    stages, order = len(tableau.c), tableau.order
    a = torch.tensor([[*row, *[0.0] * (stages - len(row))] for row in tableau.a], dtype=torch.float64)
    b, e = (torch.tensor(v, dtype=torch.float64) for v in (tableau.b, tableau.e))
    speed = float((rate(start) * y / (1 + y.abs())).abs().max())
    h, done, before = min(1.0, 0.01 / (speed * abs(span))), 0.0, 1.0
    tried, blurs, blur, refused = [], [], 0.0, 0
    while done < 1 and len(tried) < 1000:
        h = min(h, 1 - done)
        tried.append(h * span)
        blurs.append(blur)
        last = h >= 1 - done
        c = torch.stack([rate(end if done + k * h >= 1 else start + (done + k * h) * span) for k in tableau.c])
        slopes = [torch.linalg.solve(torch.eye(stages).double() + h * span * col[:, None] * a, -col) for col in c.T]
        k = torch.stack(slopes, 1)[:, None] * y
        moved, error = (y + h * span * torch.einsum("s,sbd->bd", b, k)), h * span * torch.einsum("s,sbd->bd", e, k)
        allowed = tolerance * (1 + torch.maximum(y.abs(), moved.abs()))
        r = float((error.abs() / allowed).max())
        if r <= 1:
            y, done = moved, 1.0 if last else done + h
            factor = 0.9 * math.exp((0.4 * math.log(before) - 0.7 * math.log(max(r, 1e-10))) / order)
            before = max(r, 1e-4)
        else:
            factor, refused = 0.9 * r ** (-1 / order), refused + 1
        if 0.2 < factor < 5.0:
            blur += float(h * abs(span) * k.abs().max()) / (tolerance * r * order)
        h *= min(5.0, max(0.2, factor))
    return tried, blurs, refused, y
