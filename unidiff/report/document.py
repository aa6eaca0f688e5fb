"""The page around every report: one look, light and dark; no network, no script, no other file."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path

from unidiff.report.mathematics import Formulas

Tile = tuple[object, str, str]
"""A number, what it counts, and the class that colours it (or none)."""


def style(name: str) -> str:
    """One of the package's style sheets: ``theme``, ``identity`` or ``page``."""
    return resources.files("unidiff.report").joinpath(f"{name}.css").read_text(encoding="utf-8")


def document(title: str, body: Iterable[str], formulas: Formulas | None = None) -> str:
    """The whole page.

    Args:
        title: of the browser's tab, and the line above the heading: the command that wrote it.
        body: its parts, in HTML. The first heading is theirs.
        formulas: those that were drawn for the body, whose glyphs the page holds.
    """
    name = html.escape(title)
    sheets = "".join(style(sheet) for sheet in ("theme", "page", "identity"))
    return "\n".join(
        [
            "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
            f"<meta name='viewport' content='width=device-width, initial-scale=1'><title>{name}</title>",
            f"<style>{sheets}</style></head><body><a class='skip' href='#main'>to the findings</a>",
            "" if formulas is None else formulas.glyphs(),
            f"<main id='main' tabindex='-1'><p class='name'>{name}</p>",
            *body,
            "</main></body></html>\n",
        ]
    )


def write(text: str, folder: str | Path) -> Path:
    """Write ``folder/index.html``; the folder is made. Returns the page's path."""
    path = Path(folder) / "index.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def tiles(shown: Iterable[Tile]) -> str:
    """Numbers that are read first, side by side."""
    cells = "".join(
        f"<div class='tile'><b class='{kind if value else 'soft'}'>{html.escape(str(value))}</b>"
        f"<span>{html.escape(name)}</span></div>"
        for value, name, kind in shown
    )
    return f"<div class='tiles'>{cells}</div>"


def table(head: Sequence[str], lines: Iterable[Sequence[str]], name: str) -> str:
    """A table of HTML cells that scrolls by itself where it is wider than the page, by keyboard too.

    Args:
        head: of the columns, as text.
        lines: cells, each either a ``<td>`` or its HTML content.
        name: what a screen reader calls it.
    """
    top = "".join(f"<th scope='col'>{html.escape(text)}</th>" for text in head)
    rows = "".join(f"<tr>{''.join(c if c.startswith('<td') else f'<td>{c}</td>' for c in line)}</tr>" for line in lines)
    label = html.escape(name, quote=True)
    return (
        f"<div class='wrap' tabindex='0' role='region' aria-label='{label}'>"
        f"<table><thead><tr>{top}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
