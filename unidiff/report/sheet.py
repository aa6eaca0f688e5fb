"""A measurement as a page: what it came to, its picture, its table. What a command prints, with the look of the report."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from unidiff.core.boundary import check_type
from unidiff.report import document, plots


@dataclass(frozen=True)
class Sheet:
    """What :func:`write_sheet` writes.

    Attributes:
        title: the command, for the browser's tab.
        heading: what was found, in a sentence.
        lead: what was measured, and how to read it.
        tiles: (number, what it is) that are read first.
        figures: by caption.
        head, lines: a table, as text.
        bold: the lines that stand out.
        notes: what is to be known beside.
    """

    title: str
    heading: str
    lead: str
    tiles: Sequence[tuple[object, str]]
    figures: dict[str, Figure]
    head: Sequence[str]
    lines: Sequence[Sequence[str]]
    bold: frozenset[int] = frozenset()
    notes: Sequence[str] = ()


def write_sheet(sheet: Sheet, folder: str | Path) -> Path:
    """Write ``folder/index.html``; the folder is made. Returns the page's path.

    Raises:
        ValueError: a line of another length than the head; a bold line that is none.
        TypeError: text that is none, notes that are one text.
    """
    _check(sheet)
    shown = "".join(
        f"<figure class='wide' tabindex='0'><figcaption>{html.escape(caption)}</figcaption>{plots.as_svg(figure)}</figure>"
        for caption, figure in sheet.figures.items()
    )
    cells = [
        [f"<b>{html.escape(text)}</b>" if k in sheet.bold else html.escape(text) for text in line]
        for k, line in enumerate(sheet.lines)
    ]
    notes = "".join(f"<p class='soft'>{html.escape(note)}</p>" for note in sheet.notes)
    body = [
        f"<h1>{html.escape(sheet.heading)}</h1><p>{html.escape(sheet.lead)}</p>",
        document.tiles([(value, name, "") for value, name in sheet.tiles]),
        f"<h2>Picture</h2><div class='stack'>{shown}</div>",
        f"<h2>Figures</h2>{document.table(sheet.head, cells, 'figures')}{notes}",
    ]
    return document.write(document.document(sheet.title, body), folder)


def _check(sheet: Sheet) -> None:
    if isinstance(sheet.notes, str):
        raise TypeError(f"notes must be a sequence of texts, got the text {sheet.notes!r}")
    told = {
        "title": [sheet.title],
        "heading": [sheet.heading],
        "lead": [sheet.lead],
        "head": sheet.head,
        "notes": sheet.notes,
    }
    told |= {f"lines[{k}]": line for k, line in enumerate(sheet.lines)}
    for name, texts in told.items():
        for text in texts:
            check_type(name, text, str)
    for caption, figure in sheet.figures.items():
        check_type(f"figures[{caption!r}]", figure, Figure)
    for tile in sheet.tiles:
        if len(tile) != 2:
            raise ValueError(f"tiles must be pairs of a number and what it is, got {tile!r}")
    lost = sorted(k for k in sheet.bold if k not in range(len(sheet.lines)))
    if lost:
        raise ValueError(f"bold must name lines from 0 to {len(sheet.lines) - 1}, got {lost}")
    for line in sheet.lines:
        if len(line) != len(sheet.head):
            raise ValueError(f"lines must have {len(sheet.head)} cells as the head, got {len(line)}: {list(line)}")
