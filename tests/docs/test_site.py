"""The built site: no link is lost, every public name is there, notebooks carry what they found, pages fit a phone.

Asked of the folder that UNIDIFF_SITE names, which ``sphinx-build -W docs site`` made.
"""

from __future__ import annotations

import os
import re
import zlib
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.report.browser import look

ROOT = Path(__file__).parents[2]
SITE = Path(os.environ.get("UNIDIFF_SITE", ""))
BUILT = "UNIDIFF_SITE" in os.environ
pytestmark = [
    pytest.mark.skipif(not BUILT, reason="needs the built site: UNIDIFF_SITE names its folder"),
    pytest.mark.timeout(600),
]
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9]*.md"))
PAGES = sorted(SITE.rglob("*.html")) if BUILT else []


def anchors(page: Path) -> set[str]:
    return set(re.findall(r"""\sid=["']([^"']+)["']""", page.read_text(encoding="utf-8")))


def test_every_link_leads_somewhere() -> None:
    assert len(PAGES) > 60
    known = {page.resolve(): anchors(page) for page in PAGES}
    lost = []
    for page in PAGES:
        for target in re.findall(r"""(?:href|src)=["']([^"']+)["']""", page.read_text(encoding="utf-8")):
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            file = (page.parent / unquote(parts.path)).resolve() if parts.path else page.resolve()
            anchored = parts.fragment and file in known and unquote(parts.fragment) not in known[file]
            if not file.exists() or anchored:
                lost.append(f"{page.relative_to(SITE)}: {target}")
    assert lost == []


def test_nothing_is_fetched_from_elsewhere() -> None:
    """Scripts, styles, fonts and pictures are the site's own: it can be read without a network."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r"""<(?:script|img|link)[^>]+(?:src|href)=["'](?:https?:)?//[^"']+["']""", text), page


def inventory() -> set[str]:
    raw = (SITE / "objects.inv").read_bytes()
    body = zlib.decompress(raw.split(b"\n", 4)[4]).decode()
    return {line.split(" py:")[0] for line in body.splitlines() if " py:" in line}


def test_every_public_name_is_documented() -> None:
    import importlib
    import sys

    sys.path.insert(0, str(ROOT / "docs"))
    try:
        reference = importlib.import_module("extensions.reference")
    finally:
        sys.path.remove(str(ROOT / "docs"))
    listed, home, missing, count = inventory(), {}, [], 0
    for module in reference.MODULES:
        try:
            names = reference.public(importlib.import_module(module))
        except ImportError:
            continue
        for name, value in names.items():
            count += 1
            home.setdefault(id(value), f"{module}.{name}")
            if f"{module}.{name}" not in listed and home[id(value)] not in listed:
                missing.append(f"{module}.{name}")
    assert count > 300
    assert missing == []


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_carries_what_it_found(name) -> None:
    page = (SITE / "notebooks" / f"{name}.html").read_text(encoding="utf-8")
    assert "class='identity'" in page  # the registry's own check, on a card
    assert "<b class='pass'>pass</b>" in page
    assert "<b class='fail'>" not in page
    assert "<img" in page.split("</article>")[0] or "class='comparison'" in page
    assert page.count("class='equation'") >= 2
    assert not re.search(r"Traceback|Warning:", page)


def test_there_are_sixteen_of_them() -> None:
    assert len(NOTEBOOKS) >= 16


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize(
    "name",
    ["index", "generated/identities/score", "notebooks/02_tweedie_and_the_score", "views/vae", "howto/fast-path"],
)
def test_a_page_fits(name, width) -> None:
    found = look(SITE / f"{name}.html", width)
    assert found["scroll"] <= width
    assert found["pictures"] == 0
    assert [address for address in found["fetched"] if not address.startswith("file:")] == []
