"""The benchmark of the environments compares what is equal, and refuses to time what is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from unidiff.bench import env
from unidiff.core.grid import TimeGrid
from unidiff.rl import DenoisingMDP


@pytest.mark.parametrize("options", [{"beta": 0.5}, {"action": "state"}])
def test_both_are_timed_after_they_agree(options: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(env, "RUNS", 2)
    found = env.beside_sync(env.network(), chains=3, steps=2, **options)
    assert found["off"] <= 1e-4
    assert min(found[name] for name in ("sync", "ours", "forward")) > 0


def test_what_differs_is_not_timed() -> None:
    told = {"x": np.array([1.0, 2.0]), "t": np.array([1.0])}
    assert env.agree([told, 1.0], [told, 1.0]) == 0
    with pytest.raises(RuntimeError, match=r"differ by 5\.0e-01"):
        env.agree([{**told, "x": np.array([1.0, 3.0])}], [told])
    with pytest.raises(RuntimeError, match="differ by nan"):
        env.agree([{**told, "x": np.array([1.0, np.nan])}], [told])


def test_the_replayed_figures_are_of_the_same_episodes_whatever_captures_them() -> None:
    core = env.network()
    mdp = DenoisingMDP(core.chain(TimeGrid.uniform(4)), env.first, beta=0.5)
    like = torch.empty(0)
    ends = [env.ended(mdp, 8, like), env.ended(mdp, 8, like)]
    assert torch.equal(*ends)
    double = env.network().double()
    exact = env.ended(
        DenoisingMDP(double.chain(TimeGrid.uniform(4)), env.first), 8, torch.empty(0, dtype=torch.float64)
    )
    torch.testing.assert_close(ends[0], exact, rtol=1e-4, atol=1e-4)
