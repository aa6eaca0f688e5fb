"""The standard suite: what it asks of which world, and once of which schedule."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from unidiff.identities import registry
from unidiff.identities.case import Case
from unidiff.identities.subjects import SCHEDULES, standard

WORLDLESS = [identity for identity in registry.all() if identity.worldless]


@pytest.mark.parametrize("quick", [True, False])
def test_every_schedule_has_one_first_spec_of_each_dtype(quick: bool) -> None:
    specs = standard(quick, ("float64", "float32"), "cpu", 0)
    first = Counter((spec.schedule, spec.dtype) for spec in specs if spec.first)
    assert first == {(name, dtype): 1 for name in SCHEDULES for dtype in ("float64", "float32")}


class Shapes:
    """Of a world its data's shape alone: whatever else is asked of it is an error."""

    def __init__(self, case: Case) -> None:
        self._zero = torch.zeros(case.core.event_shape, dtype=case.dtype)

    def sample(self, n: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """Nothing, n times."""
        return self._zero.expand(n, *self._zero.shape)

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"the world was asked for its {name}")


@pytest.mark.parametrize(
    "schedules", [("linear", "karras", "ddpm"), pytest.param(tuple(SCHEDULES), marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("identity", WORLDLESS, ids=lambda identity: identity.name)
def test_what_is_asked_once_a_schedule_reads_no_world(identity: registry.Identity, schedules: tuple[str, ...]) -> None:
    for spec in standard(True, ("float64",), "cpu", 0):
        if spec.schedule not in schedules:
            continue
        case = spec.case()
        alone = replace(case, world=Shapes(case))  # pyright: ignore
        if identity.applies(alone):
            found, known = identity.check(alone), identity.check(case)
            assert (found.residual, found.verdict) == (known.residual, "pass"), found.detail


def test_what_reads_the_world_is_asked_of_each() -> None:
    specs = standard(False, ("float64",), "cpu", 0)
    assert {spec.world for spec in specs if spec.first} == {"mixture-2d"}
    tweedie, once = registry.get("tweedie"), registry.get("folded-tables")
    cases = [(spec, spec.case()) for spec in specs if spec.schedule == "cosine"]
    assert [spec.asks(tweedie, case) for spec, case in cases] == [True] * 4
    assert [spec.asks(once, case) for spec, case in cases] == [True, False, False, False]
    by_level = registry.get("i-mmse")
    asked = [spec.schedule for spec in specs if spec.world == "gaussian" and spec.asks(by_level, spec.case())]
    assert asked == ["cosine", "polynomial", "karras"]
