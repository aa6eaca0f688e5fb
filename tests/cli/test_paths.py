"""``unidiff paths``: a table, a picture, grids that the other commands take, and refusals before any work."""

from __future__ import annotations

import json

import pytest
from matplotlib import image

import unidiff as ud
from unidiff.cli import main


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(list(arguments))
    out = capsys.readouterr()
    return status, out.out, out.err


SMALL = ("--world", "mixture-2d", "--nodes", "16", "--n", "32", "--steps", "2", "3", "--draws", "64")


def test_a_search_leaves_what_the_other_commands_take(tmp_path, capsys) -> None:
    folder = tmp_path / "paths"
    status, out, _ = run(capsys, "paths", *SMALL, "--cost", "dpm++2m", "--descend", "--out", str(folder), "--json")
    told = json.loads(out)
    assert status == 0 and told == json.loads((folder / "paths.json").read_text())
    assert (told["search"], told["unit"], told["n"], told["nodes"]) == ("exact", "variances of x", 32, 16)
    for steps in ("2", "3"):
        rows = told["steps"][steps]
        assert list(rows)[:2] == ["searched", "descended"] and "Karras" in rows
        assert all(rows["searched"]["cost"] <= row["cost"] + 1e-12 for row in rows.values())
        assert all(
            len(row["times"]) == int(steps) + 1 and row["wasserstein2"] > row["distance"] > 0 for row in rows.values()
        )
    assert image.imread(folder / "paths.png").shape[2] in (3, 4)
    grid = folder / "dpm++2m-3.json"
    assert ud.TimeGrid.load(grid, ud.Schedule.cosine()).times.tolist() == told["steps"]["3"]["descended"]["times"]
    told_by = ("--world", "mixture-2d", "--grid", str(grid))
    status, out, _ = run(
        capsys, "sample", *told_by, "--method", "dpm++2m", "--n", "8", "--out", str(tmp_path / "x.png")
    )
    assert status == 0
    bound = tmp_path / "bound"
    assert run(capsys, "paths", *SMALL, "--cost", "elbo", "--out", str(bound))[0] == 0
    grid = bound / "elbo-3.json"
    status, out, _ = run(
        capsys,
        "elbo",
        "--world",
        "mixture-2d",
        "--grid",
        str(grid),
        "--n",
        "16",
        "--json",
        "--out",
        str(tmp_path / "e.png"),
    )
    assert status == 0 and json.loads(out)["steps"] == 3


def test_the_draws_of_a_class_are_held_to_the_class(tmp_path, capsys) -> None:
    told = ("--world", "eight-gaussians", "--nodes", "12", "--n", "32", "--steps", "8", "--draws", "256", "--json")
    status, out, _ = run(capsys, "paths", *told, "--cost", "ddim", "--condition", "0", "--out", str(tmp_path))
    # One of eight modes of width 0.35: all eight are 1.7 away, and two sets of one of them by 0.05.
    assert status == 0 and json.loads(out)["steps"]["8"]["searched"]["distance"] < 0.4


def test_a_policy_is_shown_beside_the_best(tmp_path, capsys) -> None:
    status, out, _ = run(
        capsys, "paths", *SMALL, "--cost", "ddim", "--learn", "30", "--draws", "0", "--out", str(tmp_path), "--json"
    )
    rows = json.loads(out)["steps"]["3"]
    assert status == 0 and list(rows)[:2] == ["searched", "learned"]
    assert rows["searched"]["cost"] <= rows["learned"]["cost"] < rows["Karras"]["cost"]


def test_the_table_names_every_grid(tmp_path, capsys) -> None:
    status, out, _ = run(capsys, "paths", *SMALL, "--draws", "0", "--out", str(tmp_path / "paths"))
    words = (
        "exact search, cost elbo on 32 of mixture-2d",
        "searched",
        "uniform",
        "quadratic",
        "Karras",
        "AYS, SDXL",
        "nats",
    )
    assert status == 0 and all(word in out.replace("\n", " ") for word in words), out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--steps", "0"), "steps must be an integer of at least 1, got 0"),
        (("--steps", "40"), "steps must be at most the 16 steps between candidates (nodes), got 40"),
        (("--cost", "fid"), "cost"),
        (("--cost", "elbo", "--descend"), "descend is for the cost of a sampler, ddim, euler or dpm++2m, got 'elbo'"),
        (
            ("--cost", "ddim", "--descend", "--condition", "0"),
            "descend is for the unconditional law, got condition = 0",
        ),
        (("--cost", "dpm++2m", "--learn", "9"), "learn is for costs whose price reads one step alone, got 'dpm++2m'"),
        (("--learn", "-1"), "learn must be an integer of at least 0, got -1"),
        (("--n", "1"), "n must be an integer of at least 2, got 1"),
        (("--nodes", "0"), "nodes must be an integer of at least 1, got 0"),
        (("--dtype", "float16"), "dtype"),
        (("--steps", "2", "2"), "steps"),
    ],
)
def test_what_cannot_be_is_said_before_any_work(tmp_path, capsys, arguments, message) -> None:
    given = [*SMALL, *arguments]
    status, _, err = run(capsys, "paths", *given, "--out", str(tmp_path / "paths"))
    assert status == 64 and message in err.replace("\n", " "), err
    assert not (tmp_path / "paths").exists()


def test_a_grid_of_another_schedule_is_not_sampled_on(tmp_path, capsys) -> None:
    path = tmp_path / "grid.json"
    ud.TimeGrid([0.0, 0.5, 1.0]).save(path, ud.Schedule.linear())
    told = ("--world", "mixture-2d", "--grid", str(path), "--n", "8", "--out", str(tmp_path / "x.png"))
    status, _, err = run(capsys, "sample", *told)
    assert status == 64 and "path must hold a grid of this schedule" in err and not (tmp_path / "x.png").exists()
    status, _, err = run(capsys, "sample", *told, "--method", "annealed")
    assert status == 64 and "grid is for a sampler" in err
    status, _, err = run(capsys, "elbo", "--world", "mixture-2d", "--grid", str(path), "--n", "8")
    assert status == 64 and "path must hold a grid of this schedule" in err
