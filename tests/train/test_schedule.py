"""A learned schedule in the trainer, and a variance: what moves, what is kept, what is refused."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import unidiff as ud
from unidiff.core.schedule_learned import Learned
from unidiff.train import TrainConfig, Trainer, load_core, load_data
from unidiff.train import checkpoint as checkpoints
from unidiff.train.schedule import confine_ends, decoder_of

SMALL = TrainConfig(
    network="mlp", width=8, depth=1, steps=10, batch_size=16, warmup=2, log_every=5, checkpoint_every=3, device="cpu",
    schedule="learned", dtype="float32",
)  # fmt: skip


def moons() -> ud.train.Dataset:
    return load_data("moons", n=60, generator=torch.Generator().manual_seed(0))


def schedule_of(trainer: Trainer) -> Learned:
    assert isinstance(trainer.core.schedule, Learned)
    return trainer.core.schedule


@pytest.mark.parametrize(
    ("learn", "moved"), [("all", (True, True)), ("inside", (False, True)), ("none", (False, False))]
)
@pytest.mark.parametrize("weighting", ["simple", "elbo", "edm"])
def test_what_is_to_be_learned_moves_and_the_rest_stays(learn, moved, weighting) -> None:
    trainer = Trainer.start(dataclasses.replace(SMALL, learn_schedule=learn, weighting=weighting, steps=3), moons())
    schedule = schedule_of(trainer)
    before = [[p.detach().clone() for p in part] for part in (schedule.ends, schedule.inside)]
    core = trainer.fit()
    for part, old, expected in zip((schedule.ends, schedule.inside), before, moved, strict=True):
        assert all(torch.equal(p, q) is not expected for p, q in zip(part, old, strict=True))
    # What is sampled from has the averaged schedule, not the last one, and none that moves with the run.
    assert isinstance(core.schedule, Learned)
    assert (core.schedule is not schedule) is any(moved)
    assert torch.equal(core.schedule.raw_rate, schedule.raw_rate) is not any(moved)


def test_the_ends_stay_within_reach_whatever_pulls_at_them() -> None:
    trainer = Trainer.start(dataclasses.replace(SMALL, schedule_lr=5.0, warmup=0, decay="constant"), moons())
    schedule = schedule_of(trainer)
    with torch.no_grad():
        schedule.log_snr_max.fill_(19.9)
        schedule.log_span.fill_(math.log(39.8))
    seen = []
    for _ in range(6):
        trainer.advance()
        seen.append(schedule.log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64)).detach().abs().max())
    assert float(max(seen)) == pytest.approx(20.0, abs=1e-9)  # one of them was at the edge, and none beyond it


def test_ends_inside_are_left_alone_and_those_outside_put_on_the_edge() -> None:
    schedule = Learned(9.0, -7.0)
    before = [p.detach().clone() for p in schedule.parameters()]
    confine_ends(schedule, 20.0)
    assert all(torch.equal(p, q) for p, q in zip(schedule.parameters(), before, strict=True))
    confine_ends(schedule, 5.0)
    ends = schedule.log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(ends.detach(), torch.tensor([5.0, -5.0], dtype=torch.float64))


def stopped(folder: Path, config: TrainConfig) -> Trainer:
    def stop(trainer: Trainer, line: dict[str, float]) -> None:
        if trainer.step == 5:
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        Trainer.start(dataclasses.replace(config, out=str(folder)), moons()).fit(stop)
    return Trainer.resume(folder, moons())


@pytest.mark.parametrize(
    "options",
    [
        {}, {"learn_schedule": "inside"}, {"schedule": "cosine", "variance": "learned"},
        {"variance": "learned", "vlb_steps": 7, "amp": "bf16"},
        {"schedule": "ddpm", "variance": "learned", "dtype": "float64"},
    ],
)  # fmt: skip
def test_a_stop_changes_no_bit(options: dict[str, Any], tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, **options)
    whole = Trainer.start(dataclasses.replace(config, out=str(tmp_path / "whole")), moons())
    whole.fit()
    again = stopped(tmp_path / "stopped", config)
    assert again.step == 3
    again.fit()
    mine, yours = (checkpoints.read(tmp_path / name) for name in ("whole", "stopped"))
    assert mine.tensors.keys() == yours.tensors.keys()
    assert [name for name, t in mine.tensors.items() if not torch.equal(t, yours.tensors[name])] == []
    loaded, averaged = load_core(tmp_path / "stopped"), dict(again.averaged.named_parameters())
    assert all(torch.equal(p, averaged[name]) for name, p in loaded.named_parameters())
    last = load_core(tmp_path / "stopped", ema=False)
    assert all(torch.equal(p, q) for p, q in zip(last.parameters(), again.core.parameters(), strict=True))


def test_the_ends_are_logged(tmp_path) -> None:
    lines: list[dict[str, float]] = []
    Trainer.start(SMALL, moons()).fit(lambda _, line: lines.append(line))
    assert all(line["log_snr_max"] > line["log_snr_min"] for line in lines)


def test_ends_go_where_the_bound_is_less() -> None:
    # From λ_min = 0, half of the data are still heard at t = 1 and the prior costs 0.1 nat a number and more.
    trainer = Trainer.start(dataclasses.replace(SMALL, steps=150, schedule_lr=0.05), moons())
    schedule = schedule_of(trainer)
    with torch.no_grad():
        schedule.log_span.copy_(torch.tensor(13.3).log())
    trainer.fit()
    assert float(schedule.log_snr(1.0).detach()) < -1.0


def test_data_with_levels_have_a_decoder_with_levels() -> None:
    decoder = decoder_of(load_data("digits"))
    assert (decoder.discrete, decoder.asks, decoder.levels.count) == (True, False, 17)  # pyright: ignore
    assert (decoder_of(moons()).discrete, decoder_of(moons()).asks) == (False, False)


def test_a_learned_variance_is_part_of_the_core_and_of_its_chain() -> None:
    config = dataclasses.replace(SMALL, schedule="cosine", variance="learned", steps=40, lr=1e-2)
    core = Trainer.start(config, moons()).fit()
    chain = core.chain(ud.TimeGrid.uniform(10), "learned")
    step = chain.step(moons().x, 5)
    assert step.var.std() > 0


def test_what_cannot_be_learned_is_refused() -> None:
    with pytest.raises(ValueError, match="loss must be 'denoising' to train a learned schedule"):
        Trainer.start(dataclasses.replace(SMALL, loss="sliced"), moons())
    with pytest.raises(ValueError, match="loss must be 'denoising' with variance 'learned'"):
        Trainer.start(dataclasses.replace(SMALL, schedule="cosine", loss="sliced", variance="learned"), moons())
    plain = ud.train.build_core(dataclasses.replace(SMALL, schedule="cosine"), moons())
    with pytest.raises(ValueError, match="variance must be 'fixed' for a core whose network says none"):
        Trainer(plain, moons(), dataclasses.replace(SMALL, variance="learned"))
    for name, value, message in (
        ("learn_schedule", "some", "unknown learn_schedule 'some'"),
        ("variance", "learn", "unknown variance 'learn'; did you mean 'learned'"),
        ("vlb_steps", 0, "vlb_steps must be an integer of at least 1, got 0"),
        ("schedule_lr", 0.0, "schedule_lr must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(SMALL, **{name: value})  # pyright: ignore
