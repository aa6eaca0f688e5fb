"""The notebooks' text: one skeleton, public names alone, and a check at the end of each."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import unidiff as ud

FOLDER = Path(__file__).parents[2] / "notebooks"
PAGES = sorted(FOLDER.glob("[0-9]*.md"))
HEADINGS = ("Both sides, computed apart", "Break it", "The registry’s own check", "When it fails")


def cells(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"```\{code-cell\} ipython3\n(.*?)```", text, re.DOTALL)
    return [re.sub(r"^:.*\n", "", block, flags=re.MULTILINE) for block in blocks]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_it_has_the_skeleton(page) -> None:
    text = page.read_text(encoding="utf-8").replace("'", "’")
    assert "**The claim.**" in text
    places = [text.find(f"## {heading}") for heading in HEADINGS]
    assert -1 not in places, dict(zip(HEADINGS, places, strict=True))
    assert places == sorted(places)
    assert "side_by_side" in text
    claimed, broken = text[places[0] : places[1]], text[places[1] : places[2]]
    # What is claimed stops the notebook where it fails, and so does a break that goes unseen.
    assert re.search(r"assert (?!not )[^\n]*(?:holds|score|<|==|allclose|isclose|torch\.equal)|assert_close", claimed)
    assert re.search(r"assert not |assert all\(panel\.verdict == .fail|assert [^\n]*(?:>|<|!=)", broken)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_it_ends_with_the_registrys_check(page) -> None:
    text = page.read_text(encoding="utf-8").replace("'", "’")
    last = text[text.index(f"## {HEADINGS[2]}") : text.index(f"## {HEADINGS[3]}")]
    assert "ud.verify(" in last
    assert re.search(r"assert (?:all\()?\w+\.exit_status == 0", last)
    assert "Cards(" in last
    known = {identity.name for identity in ud.identities.all()}
    named = set(re.findall(r'"([a-z0-9]+(?:-[a-z0-9]+)*)"', last)) - {"float64", "float32"}
    assert named
    assert named <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_it_uses_public_names_alone(page) -> None:
    for cell in cells(page):
        code = "\n".join(line for line in cell.splitlines() if not line.startswith(("!", "%")))
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Attribute):
                assert not re.match(r"_(?!_\w+__$)", node.attr), node.attr
            if isinstance(node, ast.Import):
                assert not any(alias.name.startswith("unidiff.identities.") for alias in node.names)
            if isinstance(node, ast.ImportFrom):
                assert node.module is not None
                assert not node.module.startswith("unidiff.identities."), node.module
