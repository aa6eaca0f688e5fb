"""An identity as people read it: its statement, where it stands, and a dot for each check."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

from unidiff.identities.report import Check, Report
from unidiff.report.document import style
from unidiff.report.mathematics import Formulas
from unidiff.report.strip import strip
from unidiff.report.summary import Row, rows


def card(name: str, anchor: str, statement: str, beside: str, found: str, formulas: Formulas) -> str:
    """A section of the page.

    Args:
        name: what is shown first.
        anchor: its address in the page.
        statement: LaTeX, no dollar signs.
        beside, found: HTML below the statement, and on the right.
        formulas: that draw the statement.
    """
    where = html.escape(anchor, quote=True)
    return (
        f"<section class='identity' id='{where}'><div class='what'><b>{html.escape(name)}</b>"
        f"<div class='statement' tabindex='0'>{formulas.draw(statement)}</div>{beside}</div>"
        f"<div class='found'>{found}</div></section>"
    )


def identity(row: Row, formulas: Formulas) -> str:
    """The card of one identity of a report."""
    beside = f"<div class='where'>{html.escape(row.source)}</div>"
    return card(row.name, row.name, row.statement, beside, findings(row), formulas)


def findings(row: Row) -> str:
    """What a card says of an identity's checks: verdict, law, dots, the residual nearest to its tolerance, and where."""
    worst, judged = row.worst, row.verdict != "gap"
    allowed = f"{number(worst.residual)} <span class='soft'>of</span> {number(worst.tolerance)}" if judged else ""
    gap = "" if row.gap is None else f"<div class='gap'>the network's gap: {number(row.gap.residual)}</div>"
    detail = f"; {worst.detail}" if worst.detail else ""
    where = html.escape(f"{subject(worst)}{detail}") if judged else ""
    law = html.escape(row.law.replace("_", " "))
    return (
        f"<div class='line'><b class='{row.verdict}'>{row.verdict}</b><span class='soft'>"
        f"{law}, {count(row.members)}</span></div>{strip(row.members)}"
        f"<div class='line'><span>{allowed}</span></div>{gap}<div class='where'>{where}</div>"
    )


class Cards:
    """A report's identities for a notebook: HTML there, a line each elsewhere."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def _repr_html_(self) -> str:
        formulas = Formulas()
        body = "".join(identity(row, formulas) for row in rows(self.report))
        return f"<style>{style('theme')}{style('identity')}</style><div class='cards'>{formulas.glyphs()}{body}</div>"

    def __repr__(self) -> str:
        return "\n".join(f"{row.name}: {row.verdict} in {count(row.members)}" for row in rows(self.report))


def count(checks: Sequence[Check]) -> str:
    """How many checks, in words."""
    return "1 check" if len(checks) == 1 else f"{len(checks)} checks"


def subject(check: Check) -> str:
    """What was measured, in words."""
    return f"{check.world}, {check.schedule}, {check.dtype}"


def number(value: float) -> str:
    """Two digits, in HTML."""
    if not math.isfinite(value):
        return "not a number"
    # A strict inequality's tolerance is the least number below zero.
    mantissa, _, exponent = f"{0.0 if abs(value) < 1e-300 else value:.2g}".replace("-", "−").partition("e")
    return f"{mantissa}·10<sup>{exponent.replace('−0', '−').lstrip('+0')}</sup>" if exponent else mantissa
