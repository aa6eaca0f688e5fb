"""``unidiff bench``: what it refuses, and that it is the benchmark itself that runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unidiff.cli import USAGE, main


def status(arguments: list[str]) -> int:
    """The exit status, also where the parsing stops."""
    try:
        return main(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)


def test_what_it_cannot_do_is_said_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "file"
    file.touch()
    for arguments, words in (
        ([], "must be told what to measure first"),
        (["--quick"], "must be told what to measure first"),
        (["r1"], "did you mean 'rl'"),
        (["rl", "--beta", "0"], "beta must be"),
        (["rl", "--methods", "dpo", "dpock"], "did you mean 'dpok'"),
        (["rl", "--out", str(file / "below")], "out must be a folder"),
    ):
        assert status(["bench", *arguments]) == USAGE, arguments
        assert words in capsys.readouterr().err.replace("\n", " "), arguments
    assert list(tmp_path.iterdir()) == [file]


def test_help_names_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--help"]) == 0
    assert "rl" in capsys.readouterr().out


def test_it_writes_figures_and_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    asked = ["--quick", "--steps", "6", "--methods", "best_of_n", "--device", "cpu", "--json", "--out", str(out)]
    assert main(["bench", "rl", *asked]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((out / "rl.json").read_text(encoding="utf-8"))
    assert [row["method"] for row in told["rows"]] == ["reference", "best_of_n", "best σ kept"]
    assert (out / "rl.png").stat().st_size > 10_000
