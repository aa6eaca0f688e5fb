"""``unidiff finetune --method dxmi`` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from unidiff import Schedule, TimeGrid
from unidiff.cli import USAGE, main
from unidiff.train import CheckpointError, journal, load_chain, load_core, load_value

PLANE = ["finetune", "--method", "dxmi", "--world", "eight-gaussians"]
SHORT = ["--rounds", "6", "--chains", "16", "--steps", "3", "--width", "8", "--depth", "1", "--set", "start=3"]


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
    """What a command says, as JSON."""
    capsys.readouterr()
    assert status([*arguments, "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def test_a_world_ends_in_a_chain_a_value_and_pictures(capsys) -> None:
    found = told([*PLANE, *SHORT, "--log-every", "4"], capsys)
    assert found["rounds"] == 9 and found["steps"] == 3 and found["options"]["batch"] == 16
    home = Path("runs/eight-gaussians-dxmi")
    assert [line["step"] for line in journal.read(home / journal.NAME)] == [4, 8, 9]
    chain, value = load_chain(home), load_value(home)
    assert chain.steps == 3 and chain.variance == "given"
    x = chain.sample(20, torch.Generator().manual_seed(0))
    assert value.energy(x, float(chain.grid.times[0])).shape == (20,)
    for name in ("samples.png", "energy.png"):
        with Image.open(home / name) as picture:
            assert min(picture.size) > 200
    # The distance is of the chain's own draws to the data: far from both nothing and the floor after nine rounds.
    assert 0.1 < found["sliced_wasserstein"] < 3


def test_a_checkpoint_is_taught_on_its_own_data_and_loads_as_any_core(capsys) -> None:
    small = ["--width", "8", "--depth", "1", "--batch-size", "16", "--device", "cpu"]
    network = told(["train", "--data", "moons", "--out", "runs/net", "--steps", "4", *small], capsys)
    before = load_core(network["checkpoint"])
    found = told(["finetune", "--method", "dxmi", "--checkpoint", "runs/net", *SHORT, "--out", "few"], capsys)
    after = load_core(found["checkpoint"])
    assert any(not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))
    assert load_chain("few").core.event_shape == (2,)


def test_a_run_goes_on_with_the_options_it_had_and_refuses_others(capsys) -> None:
    whole = told([*PLANE, *SHORT, "--seed", "4", "--out", "run"], capsys)
    again = told(["finetune", "--method", "dxmi", "--resume", "--out", "run"], capsys)
    assert again == whole  # the draws at the end are of the run's seed too
    for other, message in (
        (["--rounds", "4"], "rounds cannot change on resume: the run has 6, got 4"),
        (["--chains", "9"], "chains cannot change on resume: the run has 16, got 9"),
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
        (["--paths", "10"], "paths is of methods that seek a reward"),
        (["--set", "gamma=1", "--set", "gamma=2"], "set must name an option once, got gamma twice"),
        (["--set", "gama=1"], "did you mean 'gamma'"),
        (["--set", "velocity=own"], "unknown velocity"),
        (["--checkpoint", "net"], "give a checkpoint or a world"),
    ],
)
def test_bad_requests_end_with_one_line_and_the_usage_status(arguments: list[str], message: str, capsys) -> None:
    assert status([*PLANE, "--chains", "8", "--rounds", "1", *arguments]) == USAGE
    said = capsys.readouterr()
    assert message in " ".join(said.err.split())
    assert said.err.count("\n") == 1 and said.out == ""
    assert not Path("runs").exists(), "found out after a file was made"


def test_a_chain_stops_at_the_times_of_a_file(capsys) -> None:
    TimeGrid([0.01, 0.3, 0.6, 1.0]).save("grid.json", Schedule.cosine())
    short = [*SHORT[:4], *SHORT[6:]]
    told([*PLANE, *short, "--grid", "grid.json", "--out", "mine"], capsys)
    assert load_chain("mine").grid.times.tolist() == [0.01, 0.3, 0.6, 1.0]


def test_the_end_says_which_steps_stand_on_the_floor(capsys) -> None:
    assert "floor" not in told([*PLANE, *SHORT], capsys)
    floored = [*PLANE, *SHORT, "--set", "floor=9", "--out", "wide"]
    assert told(floored, capsys)["floor"] == "3 of 3 steps stand on floor = 9 (step: width 1: 9, 2: 9, 3: 9)"
    line = journal.read(f"wide/{journal.NAME}")[-1]
    assert (line["floor"], line["std_2"]) == (9, pytest.approx(9))


def test_each_set_adds_to_those_before(capsys) -> None:
    options = told([*PLANE, *SHORT, "--set", "gamma=0.2", "--set", "floor=0.01", "anchor=2"], capsys)["options"]
    assert (options["start"], options["gamma"], options["floor"], options["anchor"]) == (3, 0.2, 0.01, 2)


def test_data_for_another_method_are_refused(capsys) -> None:
    assert status(["finetune", "--world", "mixture-2d", "--reward", "linear:1,0", "--data", "moons"]) == USAGE
    assert "data are for method 'dxmi'" in capsys.readouterr().err


def test_a_folder_with_a_run_is_not_written_over(capsys) -> None:
    told([*PLANE, *SHORT, "--out", "mine"], capsys)
    kept = Path("mine/checkpoint.safetensors").read_bytes()
    assert status([*PLANE, *SHORT, "--out", "mine"]) == USAGE
    assert "out must be a new folder" in capsys.readouterr().err
    assert Path("mine/checkpoint.safetensors").read_bytes() == kept


def test_what_holds_no_run_of_dxmi_has_no_chain_or_value(capsys) -> None:
    network = ["train", "--data", "moons", "--out", "net", "--steps", "2", "--width", "8", "--depth", "1"]
    told([*network, "--batch-size", "8", "--device", "cpu"], capsys)
    for load in (load_chain, load_value):
        with pytest.raises(CheckpointError):
            load("net")
