"""The benchmark of contrastive divergence compares what is equal, and refuses to time what is not."""

from __future__ import annotations

import pytest
import torch

from unidiff.bench import energies
from unidiff.bench.energies import Problem

pytest.importorskip("torchebm")

SMALL = Problem(dim=2, width=8, batch=16, steps=3)


def test_both_take_one_step_from_the_same_draws() -> None:
    assert energies.agreement(SMALL) < 1e-9


def test_what_differs_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    made = energies.peer

    def longer(problem: Problem, *arguments, **options):
        return made(Problem(problem.dim, problem.width, problem.batch, problem.steps + 1), *arguments, **options)

    monkeypatch.setattr(energies, "peer", longer)
    with pytest.raises(RuntimeError, match="the steps differ by .*; nothing to compare"):
        energies.agreement(SMALL)


@pytest.mark.parametrize("persistent", [False, True])
def test_each_step_leaves_a_gradient(persistent: bool) -> None:
    x = torch.randn(SMALL.batch, SMALL.dim)
    for net, work in energies.works(SMALL, x, persistent).values():
        assert torch.isfinite(work())
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
