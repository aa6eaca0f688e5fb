"""The law of a rate of convergence, for a user's errors: the fitted slope is within 0.2 of the declared order."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from unidiff.core.boundary import as_sequence, check_positive
from unidiff.identities.laws import ORDER_SLACK, judge_order


def assert_order(errors: Sequence[float] | Tensor, step_sizes: Sequence[float] | Tensor, order: float) -> None:
    """Errors fall as ``step_sizes`` to the power ``order``: the slope of log error on log step is within 0.2 of it.

    Args:
        errors: at least three, in any unit, each above 0.
        step_sizes: as many, each above 0, not all alike.
        order: the declared order, above 0.

    Raises:
        AssertionError: another slope, or an error that is zero or not finite, of which there is none.
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
    if judgement.verdict == "pass":
        return
    worst = next((i for i, e in enumerate(found) if not math.isfinite(e) or e <= 0), None)
    why = judgement.detail if worst is None else f"errors[{worst}] = {found[worst]} has no logarithm, so no slope"
    pairs = ", ".join(f"{e:.3g} at {h:.3g}" for h, e in zip(steps, found, strict=True))
    raise AssertionError(f"{why}; allowed ±{ORDER_SLACK:g} (order law); errors {pairs}")
