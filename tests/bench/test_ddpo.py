"""The benchmark of DDPO compares one update with itself, and refuses to time two."""

from __future__ import annotations

import pytest
import torch

from unidiff.bench import ddpo

CPU = torch.device("cpu")


def test_the_loop_by_hand_and_the_learner_find_one_gradient() -> None:
    off, clipped = ddpo.agreement(CPU)
    assert off < 1e-9
    assert clipped > 0


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("log_density", lambda x, mean, std: (-0.5 * ((x - mean) / std).square()).mean(1)),
        ("first", lambda x0: x0[:, 1] - x0[:, 0]),
    ],
)
def test_another_update_is_not_timed(name, other, monkeypatch: pytest.MonkeyPatch) -> None:
    process = ddpo.DenoisingMDP
    reward = ddpo.first
    monkeypatch.setattr(ddpo, "DenoisingMDP", lambda chain, _: process(chain, reward))
    monkeypatch.setattr(ddpo, name, other)
    with pytest.raises(RuntimeError, match="not the same update"):
        ddpo.agreement(CPU)


def test_both_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ddpo, "RUNS", 1)
    monkeypatch.setattr(ddpo, "STEPS", 3)
    found = ddpo.measure(CPU, 8, 16, ddpo.Batches(8, 4))
    assert found.keys() == {"loop walk", "our walk", "loop gradient", "our gradient", "loop", "ours"}
    assert min(found.values()) > 0
