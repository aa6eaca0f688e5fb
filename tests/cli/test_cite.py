"""The citation that is printed is the repository's."""

from __future__ import annotations

import json
from pathlib import Path

import unidiff as ud
from unidiff.cli import main


def test_the_citation_file_is_the_repositorys(capsys) -> None:
    assert main(["cite", "--format", "cff"]) == 0
    printed = capsys.readouterr().out
    kept = (Path(__file__).parents[2] / "CITATION.cff").read_text(encoding="utf-8")
    assert printed == kept
    assert f"version: {ud.__version__}" in printed


def test_every_format_names_title_year_and_version(capsys) -> None:
    for name in ("bibtex", "text"):
        assert main(["cite", "--format", name]) == 0
        printed = capsys.readouterr().out
        for part in ("five ways to read it", "2026", ud.__version__, "unidiff"):
            assert part in printed
    assert printed.count("\n") == 1
    assert main(["cite", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["version"] == ud.__version__


def test_bibtex_is_balanced(capsys) -> None:
    main(["cite"])
    entry = capsys.readouterr().out
    assert entry.startswith("@software{unidiff,")
    assert entry.count("{") == entry.count("}")


def test_an_unknown_format_is_refused(capsys) -> None:
    import pytest

    with pytest.raises(SystemExit) as stopped:
        main(["cite", "--format", "endnote"])
    assert stopped.value.code == 64
