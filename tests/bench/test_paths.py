"""The benchmark of the paths compares what is equal, and refuses to time what is not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from unidiff.bench import paths
from unidiff.bench.paths import Problem
from unidiff.paths.dynamic import brute_force, shortest

SMALL = Problem(last=9, most=9)


def test_the_loop_finds_what_brute_force_finds() -> None:
    cost = paths.costs(SMALL)
    values, found = paths.loop(cost.tolist(), SMALL.most)
    for steps in range(1, SMALL.most + 1):
        value, path = brute_force(cost, steps)
        assert values[steps - 1] == value and found[steps - 1] == path.tolist()


def test_both_are_timed_and_the_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    times = paths.measured(SMALL, runs=5)
    assert times.loop > 0 and set(times.ours) == {1, 2} and min(times.ours.values()) > 0
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("what", ["values", "paths"])
def test_what_differs_is_not_timed(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    def other(cost: torch.Tensor, most: int):
        found = shortest(cost, most)
        return (
            replace(found, values=found.values + 1) if what == "values" else replace(found, nodes=found.nodes.flip(1))
        )

    monkeypatch.setattr(paths, "shortest", other)
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError, match=f"the {what} differ; nothing to compare"):
        paths.measured(SMALL, runs=5)
    assert torch.get_num_threads() == before
