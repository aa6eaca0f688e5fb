"""Killed anywhere and resumed, a run ends in the same bits as one that was never killed."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from unidiff.train import CheckpointError, Dataset, TrainConfig, Trainer, journal, load_core, load_data
from unidiff.train import checkpoint as checkpoints
from unidiff.train.checkpoint import Checkpoint

STEPS = 300
# One process imports, and forks a run for each line that it reads: a run starts in milliseconds, with nothing behind it.
RUNS = """
import os, sys, torch
import torch._dynamo  # an optimiser's first use imports it
from unidiff.train import TrainConfig, Trainer, load_data
torch.set_num_threads(1)
for line in sys.stdin:
    out, mode, steps = line.rstrip("\\n").split("\\t")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            data = load_data("moons", n=500, generator=torch.Generator().manual_seed(0))
            config = TrainConfig(network="mlp", width=16, depth=2, steps=int(steps), batch_size=32, warmup=10, log_every=10,
                                 checkpoint_every=7, conditional=False, out=out, device="cpu")
            trainer = Trainer.resume(out, data) if mode == "resume" else Trainer.start(config, data)
            print(os.getpid(), flush=True)
            trainer.fit()
            code = 0
        finally:
            os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def runs() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", RUNS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()  # the loop over its lines ends


def read(runs: subprocess.Popen[str]) -> int:
    assert runs.stdout is not None
    return int(runs.stdout.readline())


def start(runs: subprocess.Popen[str], folder: Path, steps: int) -> int:
    """Begin a run and tell its process, once it is about to train."""
    mode = "resume" if (folder / checkpoints.NAME).exists() else "start"
    assert runs.stdin is not None
    runs.stdin.write(f"{folder}\t{mode}\t{steps}\n")
    runs.stdin.flush()
    return read(runs)


def finish(runs: subprocess.Popen[str], folder: Path, steps: int) -> Path:
    start(runs, folder, steps)
    assert read(runs) == 0
    return folder


def kill_and_finish(runs: subprocess.Popen[str], folder: Path, steps: int, kills: int, seed: int) -> Path:
    rng, codes = random.Random(seed), []
    for _ in range(kills):
        process = start(runs, folder, steps)
        # A step takes 1 to 4 ms: all the kills together come before the last one.
        time.sleep(rng.uniform(0.0, 0.1))
        os.kill(process, signal.SIGKILL)  # one that has ended is there still until its exit status is read
        codes.append(read(runs))
        if (folder / checkpoints.NAME).exists():
            checkpoints.read(folder)  # whole at every moment
    assert codes.count(-signal.SIGKILL) > kills / 2, f"most runs ended before they were killed: {codes}"
    return finish(runs, folder, steps)


def lines(folder: Path) -> list[dict[str, float]]:
    """The log, less the clock."""
    clock = ("seconds", "samples_per_second")
    return [{k: v for k, v in line.items() if k not in clock} for line in journal.read(folder / "metrics.jsonl")]


def check_same(one: Path, two: Path) -> None:
    """Every tensor, the place in the run and the log; the clock is the one thing that a stop changes."""
    mine, yours = checkpoints.read(one), checkpoints.read(two)
    assert mine.tensors.keys() == yours.tensors.keys()
    assert [name for name, t in mine.tensors.items() if not torch.equal(t, yours.tensors[name])] == []
    assert mine.about["data"] == yours.about["data"]
    places = [{k: v for k, v in c.about["progress"].items() if k != "elapsed"} for c in (mine, yours)]
    assert places[0] == places[1]
    assert lines(one) == lines(two)


def test_three_kills_change_no_bit(runs, tmp_path: Path) -> None:
    whole = finish(runs, tmp_path / "whole", STEPS)
    check_same(whole, kill_and_finish(runs, tmp_path / "killed", STEPS, 3, seed=0))
    assert [line["step"] for line in lines(tmp_path / "killed")] == list(range(10, STEPS + 1, 10))


@pytest.mark.slow
def test_twenty_kills_change_no_bit(runs, tmp_path: Path) -> None:
    steps = 5 * STEPS
    check_same(finish(runs, tmp_path / "whole", steps), kill_and_finish(runs, tmp_path / "killed", steps, 20, seed=1))


def small(**changes: Any) -> TrainConfig:
    config = TrainConfig(
        network="mlp", width=8, depth=1, steps=10, batch_size=8, warmup=2, log_every=5, checkpoint_every=3, device="cpu"
    )
    return dataclasses.replace(config, **changes)


def moons(n: int = 50) -> Dataset:
    return load_data("moons", n=n, generator=torch.Generator().manual_seed(0))


def stopped(folder: Path, config: TrainConfig, data: Dataset, step: int) -> Path:
    """A run that was stopped right after ``step``, and later resumed to its end."""

    def stop(trainer: Trainer, line: dict[str, float]) -> None:
        if trainer.step == step:
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        Trainer.start(dataclasses.replace(config, out=str(folder)), data).fit(stop)
    Trainer.resume(folder, data).fit()
    return folder


def test_a_line_of_the_log_that_spans_a_stop_counts_the_steps_before_it(tmp_path: Path) -> None:
    config = small()
    Trainer.start(dataclasses.replace(config, out=str(tmp_path / "whole")), moons()).fit()
    # Stopped at 5, so resumed from 3: the line at 5 is made of three steps before the stop and two after it.
    check_same(tmp_path / "whole", stopped(tmp_path / "stopped", config, moons(), 5))


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_within_a_step_ends_the_run_after_it_and_loses_nothing(times: int, tmp_path: Path) -> None:
    config = small(checkpoint_every=100)
    Trainer.start(dataclasses.replace(config, out=str(tmp_path / "whole")), moons()).fit()
    trainer = Trainer.start(dataclasses.replace(config, out=str(tmp_path / "stopped")), moons())

    def interrupt(*_: object) -> None:
        if trainer.step == 6:
            for _press in range(times):
                os.kill(os.getpid(), signal.SIGINT)

    trainer.optimizer.register_step_post_hook(interrupt)  # the parameters have moved, their average has not
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            trainer.fit()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    if times == 2:  # at once, so in the middle of a step: not a state to keep
        assert not (tmp_path / "stopped" / checkpoints.NAME).exists()
        return
    again = Trainer.resume(tmp_path / "stopped", moons())
    assert again.step == 7
    again.fit()
    check_same(tmp_path / "whole", tmp_path / "stopped")


def test_an_interrupted_trainer_can_go_on_in_the_same_program(tmp_path: Path) -> None:
    whole = Trainer.start(small(), moons())
    whole.fit()

    def interrupt(trainer: Trainer, line: dict[str, float]) -> None:
        if trainer.step == 5:
            raise KeyboardInterrupt

    trainer = Trainer.start(small(), moons())
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(interrupt)
    trainer.fit()
    for one, two in zip(whole.ema.module.parameters(), trainer.ema.module.parameters(), strict=True):
        assert torch.equal(one, two)


def test_the_log_is_closed_however_the_run_ends(monkeypatch, tmp_path: Path) -> None:
    closed = []
    monkeypatch.setattr(journal.Journal, "close", lambda self: closed.append(self.path))

    def fail(trainer: Trainer, line: dict[str, float]) -> None:
        raise RuntimeError("full")

    with pytest.raises(RuntimeError, match="full"):
        Trainer.start(small(out=str(tmp_path)), moons()).fit(fail)
    assert closed == [tmp_path / "metrics.jsonl"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_stop_in_the_middle_changes_no_bit_with_dropout_and_classes(tmp_path: Path, dtype) -> None:
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
    data, labels = moons(), torch.arange(50) % 2
    Trainer.start(small(steps=2, out=str(tmp_path / "a")), data).fit()
    with pytest.raises(ValueError, match="data must be what the run trained on"):
        Trainer.resume(tmp_path / "a", moons(51))
    with pytest.raises(ValueError, match="unknown change 'lr'"):
        Trainer.resume(tmp_path / "a", data, lr=1.0)
    Trainer.start(small(steps=2, out=str(tmp_path / "b"), conditional=True), Dataset(data.x, labels)).fit()
    with pytest.raises(ValueError, match="data must be what the run trained on .* labels included"):
        Trainer.resume(tmp_path / "b", Dataset(data.x, 1 - labels))
    assert Trainer.resume(tmp_path / "b", Dataset(data.x.clone(), labels.clone())).step == 2


@pytest.mark.parametrize("fault", ["data", "progress", "optimizer", "one slot", "shape", "index", "random"])
def test_a_training_state_with_a_part_missing_or_misshapen_is_refused(fault: str, tmp_path: Path) -> None:
    Trainer.start(small(steps=2, out=str(tmp_path)), moons()).fit()
    kept = checkpoints.read(tmp_path)
    tensors, about = dict(kept.tensors), dict(kept.about)
    if fault == "data":
        about["data"] = {}
    elif fault == "progress":
        about["progress"] = [2]
    elif fault == "optimizer":
        tensors = {name: t for name, t in tensors.items() if not name.startswith("optimizer.")}
    elif fault == "one slot":
        del tensors["optimizer.1.exp_avg"]
    elif fault == "shape":
        tensors["optimizer.1.exp_avg"] = tensors["optimizer.1.exp_avg"][:1]
    elif fault == "index":
        tensors["optimizer.99.exp_avg"] = tensors["optimizer.1.exp_avg"].clone()
    elif fault == "random":
        tensors["random.noise"] = tensors["random.noise"][:7]
    path = checkpoints.write(tmp_path / "bad.safetensors", Checkpoint(tensors, about))
    with pytest.raises(CheckpointError, match=r"bad\.safetensors holds no training state to resume: .+") as found:
        Trainer.resume(path, moons())
    assert "\n" not in str(found.value)


def test_a_core_alone_is_no_run_to_resume(tmp_path: Path) -> None:
    from unidiff.train import build_core, save_core

    data = load_data("moons", n=50)
    core = build_core(TrainConfig(network="mlp", width=4, depth=1, steps=2), data)
    path = save_core(tmp_path / "core.safetensors", core)
    with pytest.raises(ValueError, match="holds no training state to resume"):
        Trainer.resume(path, data)
