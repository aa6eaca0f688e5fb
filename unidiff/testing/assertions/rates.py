"""The law of a rate of convergence, for a user's errors: a slope within 0.2 of the declared, points on its line."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from unidiff.core.boundary import as_sequence, check_positive
from unidiff.identities.laws import ORDER_SLACK, fitted_order, judge_order
from unidiff.testing.assertions.verdicts import Inconclusive


def assert_order(errors: Sequence[float] | Tensor, step_sizes: Sequence[float] | Tensor, order: float) -> None:
    """Errors fall as ``step_sizes`` to the power ``order``: the slope of log error on log step is within 0.2 of it.

    No error is off the fitted line, in logarithms, by more than 0.2 log(h_max/h_min): errors with no order have a slope too.

    Args:
        errors: at least three, in any unit, each above 0.
        step_sizes: as many, each above 0, not all alike.
        order: the declared order, above 0.

    Raises:
        AssertionError: another slope, an error off the line, or one that is zero or not finite, of which there is none.
        Inconclusive: steps that span less than a factor of 2.
        ValueError: fewer than three, not as many of the one as of the other, step sizes that are not positive and apart.
    """
    __tracebackhide__ = True
    found, steps = as_sequence("errors", errors).tolist(), as_sequence("step_sizes", step_sizes).tolist()
    if len(found) < 3:
        raise ValueError(f"errors must be at least three, got {len(found)}")
    if len(steps) != len(found):
        raise ValueError(f"step_sizes must be as many as errors, {len(found)}, got {len(steps)}")
    for step in steps:
        check_positive("step_sizes", step)
    if len(set(steps)) < 3:
        raise ValueError(f"step_sizes must hold at least three that differ, got {steps}")
    judgement = judge_order(steps, found, check_positive("order", order))
    span = max(steps) / min(steps)
    if judgement.verdict == "pass":
        if span < 2:
            raise Inconclusive(f"step_sizes span a factor of {span:.3g}; an order shows over a factor of 2 at least")
        _check_line(found, steps, span)
        return
    worst = next((i for i, e in enumerate(found) if not math.isfinite(e) or e <= 0), None)
    why = judgement.detail if worst is None else f"errors[{worst}] = {found[worst]} has no logarithm, so no slope"
    pairs = ", ".join(f"{e:.3g} at {h:.3g}" for h, e in zip(steps, found, strict=True))
    raise AssertionError(f"{why}; allowed ±{ORDER_SLACK:g} (order law); errors {pairs}")


def _check_line(errors: list[float], steps: list[float], span: float) -> None:
    __tracebackhide__ = True
    x, y = (torch.tensor(v, dtype=torch.float64).log() for v in (steps, errors))
    off = y - y.mean() - fitted_order(steps, errors) * (x - x.mean())
    worst, allowed = int(off.abs().argmax()), ORDER_SLACK * math.log(span)
    if float(off[worst].abs()) > allowed:
        raise AssertionError(
            f"errors[{worst}] = {errors[worst]:.3g} at {steps[worst]:.3g} is {float(off[worst].exp()):.3g} times the fitted "
            f"line; allowed a factor of {math.exp(allowed):.3g} (order law)"
        )
