"""What the README shows is run: its Python, and the options it names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_python_in_the_readme_runs_from_top_to_bottom(capsys) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 3
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    first = capsys.readouterr().out.splitlines()[0]
    scored, due = (float(v) for v in re.findall(r"-?\d\.\d+", first)[:2])
    assert abs(scored - due) < 0.1


def test_the_two_commands_are_whole(tmp_path) -> None:
    commands = re.findall(r"^python -m venv \.venv && .*$", README, re.MULTILINE)
    assert len(commands) == 2
    assert commands[0].endswith(".venv/bin/unidiff verify")
    assert commands[1].endswith(".venv/bin/pytest")


def test_links_and_pictures_are_there() -> None:
    root = Path(__file__).parents[1]
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (root / target).exists(), target


def test_the_options_that_commands_share_are_theirs(capsys) -> None:
    from unidiff.cli import main

    sentence = re.search(r"^Each takes `--help`.*$", README, re.MULTILINE)
    assert sentence is not None
    assert sentence[0] == (
        "Each takes `--help` and `--json`; all but `conformance` and `cite` take `--device` and `--seed`, and all of these "
        "but `bench` take `--dtype`."
    )
    for command in ("verify", "train", "sample", "likelihood", "elbo", "reward", "finetune", "paths", "cite"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        told = capsys.readouterr().out
        shared = ("--json",) if command == "cite" else ("--json", "--device", "--seed", "--dtype")
        assert all(option in told for option in shared), command
