"""Killed anywhere and resumed, a run ends in the same bits as one that was never killed."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from unidiff.train import TrainConfig, Trainer, journal, load_core
from unidiff.train import checkpoint as checkpoints

STEPS = 300
RUN = """
import sys, torch
from unidiff.train import TrainConfig, Trainer, load_data
torch.set_num_threads(1)
out, resume = sys.argv[1], sys.argv[2] == "resume"
data = load_data("moons", n=500, generator=torch.Generator().manual_seed(0))
config = TrainConfig(network="mlp", width=16, depth=2, steps={steps}, batch_size=32, warmup=10, log_every=10,
                     checkpoint_every=7, conditional=False, out=out, device="cpu")
trainer = Trainer.resume(out, data) if resume else Trainer.start(config, data)
print("ready", flush=True)
trainer.fit()
"""


def start(folder: Path) -> subprocess.Popen[str]:
    mode = "resume" if (folder / checkpoints.NAME).exists() else "start"
    command = [sys.executable, "-c", RUN.format(steps=STEPS), str(folder), mode]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def finish(folder: Path) -> dict[str, torch.Tensor]:
    with start(folder) as process:
        assert process.wait(timeout=120) == 0
    return dict(checkpoints.read(folder).tensors)


def kill_and_finish(folder: Path, kills: int, seed: int) -> dict[str, torch.Tensor]:
    rng = random.Random(seed)
    for _ in range(kills):
        with start(folder) as process:
            time.sleep(rng.uniform(0.0, 0.9))
            process.send_signal(signal.SIGKILL)
        if (folder / checkpoints.NAME).exists():
            checkpoints.read(folder)  # whole at every moment
    return finish(folder)


def check_same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    different = [name for name in one if not torch.equal(one[name], two[name])]
    # The clock is the one thing that a kill changes.
    assert [name for name in different if not name.startswith("progress.")] == []


def test_three_kills_change_no_bit(tmp_path: Path) -> None:
    whole = finish(tmp_path / "whole")
    check_same(whole, kill_and_finish(tmp_path / "killed", 3, seed=0))
    steps = [line["step"] for line in journal.read(tmp_path / "killed" / "metrics.jsonl")]
    assert steps == list(range(10, STEPS + 1, 10))


@pytest.mark.slow
def test_twenty_kills_change_no_bit(tmp_path: Path) -> None:
    check_same(finish(tmp_path / "whole"), kill_and_finish(tmp_path / "killed", 20, seed=1))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_stop_in_the_middle_changes_no_bit_with_dropout_and_classes(tmp_path: Path, dtype) -> None:
    from unidiff.train import load_data

    data = load_data("digits", dtype=torch.float64 if dtype == "float64" else torch.float32)
    options = {
        "network": "unet", "width": 8, "multipliers": (1,), "blocks": 1, "attention": (8,), "batch_size": 8,
        "conditional": True, "dropout": 0.2, "dtype": dtype, "log_every": 1, "checkpoint_every": 1, "device": "cpu",
    }  # fmt: skip
    whole = Trainer.start(TrainConfig(steps=6, **options), data)  # pyright: ignore
    whole.fit()

    class Stop(Exception):
        pass

    def stop_at_three(trainer: Trainer, line: dict[str, float]) -> None:
        if trainer.step == 4:
            raise Stop

    with pytest.raises(Stop):
        Trainer.start(TrainConfig(steps=6, out=str(tmp_path), **options), data).fit(stop_at_three)  # pyright: ignore
    again = Trainer.resume(tmp_path, data)
    assert again.step == 3
    again.fit()
    for one, two in zip(whole.network.parameters(), again.network.parameters(), strict=True):
        assert torch.equal(one, two)
    for one, two in zip(whole.ema.module.parameters(), again.ema.module.parameters(), strict=True):
        assert torch.equal(one, two)
    loaded = load_core(tmp_path)
    averaged = dict(again.averaged.named_parameters())
    assert all(torch.equal(p, averaged[name]) for name, p in loaded.named_parameters())


def test_resuming_on_other_data_is_refused(tmp_path: Path) -> None:
    from unidiff.train import load_data

    data = load_data("moons", n=50, generator=torch.Generator().manual_seed(0))
    config = TrainConfig(network="mlp", width=4, depth=1, steps=2, batch_size=4, out=str(tmp_path), device="cpu")
    Trainer.start(config, data).fit()
    with pytest.raises(ValueError, match="data must be what the run trained on"):
        Trainer.resume(tmp_path, load_data("moons", n=51, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(ValueError, match="unknown change 'lr'"):
        Trainer.resume(tmp_path, data, lr=1.0)


def test_a_core_alone_is_no_run_to_resume(tmp_path: Path) -> None:
    from unidiff.train import build_core, load_data, save_core

    data = load_data("moons", n=50)
    core = build_core(TrainConfig(network="mlp", width=4, depth=1, steps=2), data)
    path = save_core(tmp_path / "core.safetensors", core)
    with pytest.raises(ValueError, match="holds no training state to resume"):
        Trainer.resume(path, data)
