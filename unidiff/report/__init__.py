"""What people look at: the table in the terminal, the page in the browser, sheets of samples."""

from __future__ import annotations

from unidiff.report.budget import budget
from unidiff.report.cards import Cards
from unidiff.report.comparison import Comparison, compare
from unidiff.report.conformance import print_conformance, write_conformance
from unidiff.report.curves import curves
from unidiff.report.equations import side_by_side
from unidiff.report.html import write_html
from unidiff.report.images import save_grid, save_samples, save_scatter
from unidiff.report.interval import Shrinking, shrinking
from unidiff.report.ledger import ledger
from unidiff.report.mathematics import Formulas
from unidiff.report.progress import Bars
from unidiff.report.sheet import Sheet, write_sheet
from unidiff.report.summary import Row, by_view, rows
from unidiff.report.table import print_report
from unidiff.report.views import LOOKS, Look, look
from unidiff.report.weightings import weightings

__all__ = [
    "LOOKS",
    "Bars",
    "Cards",
    "Comparison",
    "Formulas",
    "Look",
    "Row",
    "Sheet",
    "Shrinking",
    "budget",
    "by_view",
    "compare",
    "curves",
    "ledger",
    "look",
    "print_conformance",
    "print_report",
    "rows",
    "save_grid",
    "save_samples",
    "save_scatter",
    "shrinking",
    "side_by_side",
    "weightings",
    "write_conformance",
    "write_html",
    "write_sheet",
]
