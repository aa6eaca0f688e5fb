"""On a GPU: a capture survives what goes on around it, and leaves no trace."""

from __future__ import annotations

import gc

import pytest
import torch

import unidiff as ud
from unidiff.core import networks, sampling
from unidiff.core.replay import Replay, lent

pytestmark = pytest.mark.gpu


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator("cuda").manual_seed(seed)


def core() -> ud.Diffusion:
    torch.manual_seed(0)
    return ud.Diffusion(ud.Schedule.cosine(), ud.Denoiser(networks.MLP(2, width=32), (2,), "v")).cuda().eval()


def test_a_dead_graph_that_is_collected_late_spoils_no_capture() -> None:
    # The third run of the work, the captured one, lets an old graph go in a cycle and makes enough garbage for a
    # collection to fall into the capture, unless it is held back.
    register = torch.zeros(8, device="cuda")

    def add() -> None:
        register.add_(1)

    runs, old = [], [Replay(add, [register])]

    def work() -> None:
        runs.append(1)
        for i in range(2000):
            garbage: list[object] = [old.pop()] if i == 0 and len(runs) == 3 else []
            garbage.append(garbage)
        register.add_(1)

    threshold = gc.get_threshold()
    gc.set_threshold(10, 1, 1)
    try:
        replay = Replay(work, [register])
    finally:
        gc.set_threshold(*threshold)
    assert gc.isenabled()
    assert float(register.sum()) == 0
    replay()
    assert float(register.sum()) == 8


def test_a_capture_leaves_registers_and_generator_as_they_were() -> None:
    own, register = seeded(3), torch.arange(4.0, device="cuda")
    before = own.get_state()

    def work() -> None:
        register.mul_(2).add_(torch.randn(4, generator=own, device="cuda"))

    replay = Replay(work, [register], own)
    assert torch.equal(own.get_state(), before)
    assert torch.equal(register, torch.arange(4.0, device="cuda"))
    source = seeded(5)
    with lent(own, source):
        replay()
        replay()
    expected, drawn = torch.arange(4.0, device="cuda"), seeded(5)
    for _ in range(2):
        expected = 2 * expected + torch.randn(4, generator=drawn, device="cuda")
    torch.testing.assert_close(register, expected)
    assert torch.equal(torch.randn(4, generator=source, device="cuda"), torch.randn(4, generator=drawn, device="cuda"))


@pytest.mark.parametrize("most", [2**22, 0])
@pytest.mark.parametrize("method", ["ancestral", "dpm++2m", "sde-dpm++2m"])
def test_noise_drawn_ahead_or_row_by_row_is_the_eager_loop_s_and_runs_follow_each_other(
    most: int, method: sampling.Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "MOST_NOISE_AHEAD", most)
    model, grid = core(), ud.TimeGrid.uniform(8)
    x = model.prior(64, seeded(), torch.empty(0, device="cuda"))
    runs = []
    for graph in (True, False):
        sampler, generator = ud.Sampler(model, grid, method, graph=graph), seeded(1)
        runs.append([sampler(x, generator) for _ in range(3)])
    for one, two in zip(*runs, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)
    assert torch.equal(runs[0][0], runs[0][2]) == (method == "dpm++2m")


def test_under_autocast_a_capture_follows_the_weights() -> None:
    model, grid = core(), ud.TimeGrid.uniform(8)
    x = model.prior(64, seeded(), torch.empty(0, device="cuda"))
    sampler = ud.Sampler(model, grid)
    found = []
    for factor in (1.0, 0.5):
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(factor).add_(0.1 * (factor - 1))
        with torch.autocast("cuda", dtype=torch.bfloat16):
            found.append(sampler(x))
            eager = ud.Sampler(model, grid, graph=False)(x)
        torch.testing.assert_close(found[-1], eager, rtol=1e-5, atol=1e-5)
    assert not torch.equal(*found)


def test_the_look_at_the_end_counts_the_samples_that_are_not_finite() -> None:
    model = core()
    sampler = ud.Sampler(model, ud.TimeGrid.uniform(4))
    x = model.prior(16, seeded(), torch.empty(0, device="cuda"))
    assert torch.isfinite(sampler(x)).all()
    x[:3] = torch.nan
    with pytest.raises(FloatingPointError, match="in 3 of 16 samples"):
        sampler(x)
    x = x.nan_to_num()
    assert torch.isfinite(sampler(x)).all()
