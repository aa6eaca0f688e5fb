"""A measurement as a page: everything is there, escaped, and nothing is fetched."""

from __future__ import annotations

import re

import pytest

from unidiff.report import Sheet, write_sheet
from unidiff.report.plots import new_figure


def sheet(**changes):
    figure = new_figure(3, 2)
    figure.subplots().plot([0, 1], [1, 0])
    given = {
        "title": "unidiff <x>", "heading": "4.0 nats.", "lead": "What & how.", "tiles": [(3, "steps"), ("∞", "paths")],
        "figures": {"a <picture>": figure}, "head": ["grid", "cost"], "lines": [["made", "1"], ["found", "0.5"]],
        "bold": frozenset({1}), "notes": ["a note"],
    } | changes  # fmt: skip
    return Sheet(**given)


def test_all_of_it_is_on_the_page(tmp_path) -> None:
    page = write_sheet(sheet(), tmp_path / "new" / "folder").read_text(encoding="utf-8")
    assert "<title>unidiff &lt;x&gt;</title>" in page
    assert "<h1>4.0 nats.</h1><p>What &amp; how.</p>" in page
    assert "<figcaption>a &lt;picture&gt;</figcaption><svg" in page
    assert "<td><b>found</b></td><td><b>0.5</b></td>" in page
    assert "<td>made</td>" in page
    assert "a note" in page
    assert page.count("class='tile'") == 2


def test_nothing_is_fetched_and_it_has_both_themes(tmp_path) -> None:
    page = write_sheet(sheet(), tmp_path).read_text(encoding="utf-8")
    assert not re.search(r"<script|<link|@import|url\(\s*['\"]?(?!#)|(?:src|href)=['\"](?!#|data:)", page)
    assert "prefers-color-scheme: dark" in page
    assert "class='skip' href='#main'" in page
    assert "id='main'" in page


def test_a_ragged_table_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"lines must have 2 cells as the head, got 1: \['x'\]"):
        write_sheet(sheet(lines=[["x"]], bold=frozenset()), tmp_path)
    assert not (tmp_path / "index.html").exists()


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"lines": [["made", 1]]}, TypeError, r"lines\[0\] must be a str, got 1"),
        ({"head": ["a", 2]}, TypeError, "head must be a str"),
        ({"lead": None}, TypeError, "lead must be a str"),
        ({"notes": "abc"}, TypeError, "notes must be a sequence"),
        ({"bold": frozenset({7})}, ValueError, r"bold must name lines from 0 to 1, got \[7\]"),
        ({"tiles": [(3,)]}, ValueError, "tiles must be pairs"),
        ({"figures": {"a": None}}, TypeError, r"figures\['a'\] must be a Figure"),
    ],
)
def test_what_is_none_of_a_sheets_is_named(change, error, match, tmp_path) -> None:
    with pytest.raises(error, match=match):
        write_sheet(sheet(**change), tmp_path)
