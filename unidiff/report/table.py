"""The report in the terminal: identities grouped by the views that they tie."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from unidiff.identities.report import Check, Report
from unidiff.report.plain import plain
from unidiff.report.summary import Row, by_view, rows

STYLES = {"pass": "green", "fail": "bold red", "inconclusive": "yellow", "gap": "cyan", "convention": "blue"}
# A line without its statement is this wide, and fits a terminal of 80; a terminal of WIDE shows the statement beside it.
_LINE = "{:<28} {:>9} {:>9}  {:<11} {:>6}  "
WIDE = 140
MOST = 25  # troubles told in words


def print_report(report: Report, console: Console) -> None:
    """The table, then what went wrong in words, then one line of totals."""
    console.print(Text(_LINE.format("identity", "worst", "tolerance", "law", "checks") + "verdict", style="dim"))
    for views, group in by_view(rows(report)).items():
        console.print(Text("\n" + " · ".join(views), style="bold"))
        for row in group:
            console.print(_line(row, console.width), no_wrap=True, overflow="ellipsis", crop=True)
    troubled = [check for check in report.checks if check.verdict in ("fail", "inconclusive")]
    if troubled:
        console.print()
    for check in troubled[:MOST]:
        console.print(_trouble(check))
    if len(troubled) > MOST:
        console.print(f"… and {len(troubled) - MOST} more; the page and the JSON document have them all")
    console.print(_totals(report))


def _line(row: Row, width: int) -> Text:
    worst, judged = row.worst, row.verdict != "gap"
    tolerance = f"{worst.tolerance:.1e}" if judged else ""
    law = row.law.replace("_", " ")
    line = Text(_LINE.format(row.name, f"{worst.residual:.1e}", tolerance, law, row.checks))
    line.append(row.verdict, style=STYLES[row.verdict])
    gap = f"  gap {row.gap.residual:.1e}" if row.gap is not None and judged else ""
    if width >= WIDE:
        line.append(gap, style=STYLES["gap"]).pad_right(max(0, 92 - len(line)))
    else:
        line.append("\n" + gap, style=STYLES["gap"]).append("  ")
    return line.append(plain(row.statement), style="dim")


def _trouble(check: Check) -> Text:
    line = Text(f"{check.verdict}: ", style=STYLES[check.verdict])
    where = f"{check.world}, {check.schedule}, {check.dtype} on {check.device}"
    figures = f"residual {check.residual:.3g}, tolerance {check.tolerance:.3g}"
    return line.append(f"{check.identity} on {where}: {figures}. {check.detail}".rstrip(), style="default")


def _totals(report: Report) -> Text:
    total = report.summary()
    line = Text(f"\n{total['identities']} identities, {total['checks']} checks in {total['seconds']:.0f} s: ")
    words = (("pass", "pass"), ("fail", "fail"), ("inconclusive", "inconclusive"), ("gaps", "gap"))
    for k, (name, style) in enumerate(words):
        line.append(", " if k else "")
        line.append(
            f"{total[name]} {style if total[name] == 1 else name}", style=STYLES[style] if total[name] else "dim"
        )
    return line
