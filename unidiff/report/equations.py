"""Formulas side by side, each in its view's colour: what a notebook claims before it computes anything."""

from __future__ import annotations

import html
from collections.abc import Mapping

from unidiff.report.mathematics import Formulas
from unidiff.report.plain import plain
from unidiff.report.views import look

_BORDERS = {"-": "solid", "--": "dashed", ":": "dotted", "-.": "double"}


class Equations:
    """Two or more formulas that are claimed to agree; see :func:`side_by_side`."""

    def __init__(self, formulas: Mapping[str, str]) -> None:
        self.formulas = dict(formulas)

    def _repr_html_(self) -> str:
        drawn = Formulas()
        boxes = "".join(_box(view, drawn.draw(latex)) for view, latex in self.formulas.items())
        return f"{drawn.glyphs()}<div class='equations' style='display:flex;flex-wrap:wrap;gap:1rem'>{boxes}</div>"

    def __repr__(self) -> str:
        return "\n".join(f"{look(view).title}: {plain(latex)}" for view, latex in self.formulas.items())


def _box(view: str, formula: str) -> str:
    own = look(view)
    edge = f"border-left:5px {_BORDERS[own.line]} {own.colour}"
    ink = f"color:{own.ink};color:light-dark({own.ink},{own.colour})"
    return (
        f"<div class='equation' style='flex:1 1 16rem;min-width:0;padding:.6rem .9rem;{edge}'>"
        f"<b style='{ink}'>{own.marker_text} {html.escape(own.title)}</b>"
        f"<div style='overflow-x:auto;padding:.4rem 0' tabindex='0'>{formula}</div></div>"
    )


def side_by_side(formulas: Mapping[str, str]) -> Equations:
    """Formulas by view, for a notebook: drawn in HTML, one line of Unicode each elsewhere.

    Args:
        formulas: LaTeX without dollar signs by the view's name, at least two, in the order shown.

    Raises:
        ValueError: fewer than two formulas, what is no LaTeX, or a name that is no view's.
    """
    if len(formulas) < 2:
        raise ValueError(f"formulas must be at least two, by view, got {list(formulas)}")
    for view, latex in formulas.items():
        look(view)
        if not isinstance(latex, str) or latex.count("{") != latex.count("}"):
            raise ValueError(f"formulas must be LaTeX with as many {{ as }}, got {latex!r} for {view}")
    return Equations(formulas)
