"""The report in the terminal: identities grouped by the views that they tie."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from unidiff.identities.report import Report
from unidiff.report.plain import plain
from unidiff.report.summary import Row, by_view, rows, tightness

STYLES = {"pass": "green", "fail": "bold red", "inconclusive": "yellow", "gap": "cyan"}


def print_report(report: Report, console: Console) -> None:
    """The table, then what went wrong in words, then one line of totals."""
    table = Table(box=None, pad_edge=False, header_style="dim", expand=False)
    table.add_column("identity and statement", overflow="fold", ratio=1)
    for name in ("worst", "allowed", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("law", style="dim", no_wrap=True)
    table.add_column("checks", justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for views, group in by_view(rows(report)).items():
        table.add_row()
        table.add_row(Text(" · ".join(views), style="bold underline"))
        for row in group:
            _add(table, row)
    console.print(table)
    for check in report.checks:
        if check.verdict in ("fail", "inconclusive"):
            where = f"{check.world}, {check.schedule}, {check.dtype} on {check.device}"
            line = Text(f"{check.verdict}: ", style=STYLES[check.verdict])
            line.append(f"{check.identity} on {where}: ", style="default")
            line.append(f"residual {check.residual:.3g}, tolerance {check.tolerance:.3g}. {check.detail}", style="default")
            console.print(line)
    console.print(_totals(report))


def _add(table: Table, row: Row) -> None:
    worst, judged = row.worst, row.verdict != "gap"
    cells = [f"{worst.residual:.1e}", "", ""]
    if judged:
        cells = [f"{worst.residual:.1e}", f"{worst.tolerance:.1e}", f"{tightness(worst):.0%}"]
    law = row.law.replace("_", " ")
    table.add_row(Text(row.name), *cells, law, str(row.checks), Text(row.verdict, style=STYLES[row.verdict]))
    last = ["", "", "", "", "", ""]
    if row.gap is not None and judged:
        last = [f"{row.gap.residual:.1e}", "", "", "", "", Text("network's gap", style=STYLES["gap"])]
    table.add_row(Text("  " + plain(row.statement), style="dim"), *last)


def _totals(report: Report) -> Text:
    total = report.summary()
    line = Text(f"\n{total['identities']} identities, {total['checks']} checks in {total['seconds']:.0f} s: ")
    words = (("pass", "pass"), ("fail", "fail"), ("inconclusive", "inconclusive"), ("gaps", "gap"))
    for k, (name, style) in enumerate(words):
        line.append(", " if k else "")
        line.append(f"{total[name]} {name}", style=STYLES[style] if total[name] else "dim")
    return line
