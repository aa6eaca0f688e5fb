"""unidiff finetune --method dxmi: what it leaves, that it goes on as it was, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from unidiff.cli import main
from unidiff.train import load_chain, load_core, load_value

USAGE = 64
WORLD = ["finetune", "--method", "dxmi", "--world", "eight-gaussians", "--steps", "3", "--width", "8", "--depth", "1"]
TINY = ["--chains", "8", "--device", "cpu", "--set", "start=1"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def status(arguments: list[str]) -> object:
    try:
        return main(arguments)
    except SystemExit as stop:
        return stop.code


def told(arguments: list[str], capsys: Any) -> dict[str, Any]:
    capsys.readouterr()
    assert status([*arguments, "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def test_it_leaves_a_chain_and_a_value(folder: Path, capsys) -> None:
    found = told([*WORLD, *TINY, "--rounds", "2", "--out", "run"], capsys)
    assert (found["rounds"], found["steps"], found["on_floor"]) == (3, 3, 0)
    assert found["options"]["iterations"] == 2 and found["options"]["batch"] == 8
    assert {"energy.png", "samples.npz", "run.json", "checkpoint.safetensors"} <= {
        p.name for p in (folder / "run").iterdir()
    }
    assert load_chain(folder / "run").sample(2).shape == (2, 2)
    assert load_value(folder / "run").energy(torch.zeros(2, 2), 0.3).shape == (2,)


def test_a_checkpoints_network_starts_it(folder: Path, capsys) -> None:
    small = ["--width", "8", "--depth", "1", "--steps", "4", "--batch-size", "16", "--device", "cpu"]
    told(["train", "--data", "moons", "--out", "net", *small], capsys)
    told(
        ["finetune", "--method", "dxmi", "--checkpoint", "net", "--steps", "3", *TINY, "--rounds", "2", "--out", "run"],
        capsys,
    )
    assert load_core(folder / "run").event_shape == (2,)


def test_a_run_goes_on_with_the_options_it_had_and_refuses_others(capsys) -> None:
    whole = told([*WORLD, *TINY, "--rounds", "2", "--seed", "4", "--out", "run"], capsys)
    again = told(["finetune", "--method", "dxmi", "--resume", "--out", "run"], capsys)
    assert again == whole  # the draws at the end are of the run's seed too
    for other, message in (
        (["--rounds", "4"], "rounds cannot change on resume: the run has 2, got 4"),
        (["--chains", "9"], "chains cannot change on resume: the run has 8, got 9"),
        (["--seed", "5"], "seed cannot change on resume: the run has 4, got 5"),
        (["--clip", "7"], "clip cannot change on resume: the run has 3.0, got 7.0"),
        (["--steps", "5"], "steps cannot change on resume: the run has 3, got 5"),
        (["--set", "start=2"], "set cannot change on resume"),
    ):
        assert status(["finetune", "--method", "dxmi", "--resume", "--out", "run", *other]) == USAGE
        assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--variance", "given"], "unknown variance 'given'"),
        (["--variance", "learned"], "unknown variance 'learned'"),
        (["--variance", "optimal"], "unknown variance 'optimal'"),
        (["--steps", "0"], "steps must be an integer of at least 1, got 0"),
        (["--set", "gamma=0"], "gamma must be positive and finite, got 0"),
        (["--set", "floor=-1"], "floor must be positive and finite, got -1"),
        (["--set", "tau=1"], "unknown option of dxmi 'tau'"),
        (["--set", "iterations=3"], "iterations of dxmi is the option --rounds, got it by --set"),
        (["--reward", "linear:1,0"], "reward is of methods that seek a reward, got it with method 'dxmi'"),
        (["--data", "digits"], "data must be of the core's shape [2], got [1, 8, 8]"),
        (["--dtype", "float16"], "unknown dtype 'float16'"),
        (["--checkpoint", "net"], "give a checkpoint or a world"),
    ],
)
def test_bad_requests_end_with_one_line_and_the_usage_status(arguments: list[str], message: str, capsys) -> None:
    assert status([*WORLD, "--chains", "8", "--rounds", "1", *arguments]) == USAGE
    said = capsys.readouterr()
    assert message in " ".join(said.err.split())
    assert said.err.count("\n") == 1 and said.out == ""
    assert not Path("runs").exists(), "found out after a file was made"
