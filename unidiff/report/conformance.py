"""What a library's samplers keep, and where they depart: a line for each sampler in the terminal, a table on a page."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from unidiff.identities.report import Check, Report, Verdict
from unidiff.report import document
from unidiff.report.cards import card, count
from unidiff.report.mathematics import Formulas
from unidiff.report.strip import strip
from unidiff.report.summary import tightness
from unidiff.report.table import STYLES

WORDS: Mapping[Verdict, str] = {
    "fail": "violated", "inconclusive": "undecided", "convention": "convention", "pass": "holds", "gap": "gap",
}  # fmt: skip
"""From what should be looked at first."""
SIGNS: Mapping[Verdict, str] = {"fail": "✗", "inconclusive": "?", "convention": "≈", "pass": "✓", "gap": "·"}
Cells = dict[str, dict[str, list[Check]]]


def cells(report: Report) -> Cells:
    """Checks by target and question, both in the order they came."""
    found: Cells = {}
    for check in report.checks:
        found.setdefault(check.target, {}).setdefault(check.identity, []).append(check)
    return found


def findings(report: Report) -> list[list[Check]]:
    """What does not hold, a group for each target and question; violations first, the worst configuration of each ahead."""
    groups = [checks for row in cells(report).values() for checks in row.values()]
    found = [
        sorted((c for c in checks if c.verdict == verdict), key=tightness, reverse=True)
        for verdict in ("fail", "inconclusive", "convention")
        for checks in groups
    ]
    return [group for group in found if group]


def print_conformance(report: Report, console: Console) -> None:
    """The table, then each finding in words, then one line of totals."""
    questions = list(dict.fromkeys(check.identity for check in report.checks))
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("", *questions):
        table.add_column(name, no_wrap=True)
    libraries = {target.partition(".")[0] for target in cells(report)}
    shared = f"{libraries.pop()}." if len(libraries) == 1 else ""
    for target, row in cells(report).items():
        name = target if ":" in target else target.removeprefix(shared)
        table.add_row(name, *(_cell(row.get(question, [])) for question in questions))
    console.print(table)
    console.print(Text("✓ holds, ✗ violated, ≈ a convention, ? undecided; in how many configurations", style="dim"))
    for group in findings(report):
        first = group[0]
        line = Text(f"\n{WORDS[first.verdict]}: ", style=STYLES[first.verdict])
        line.append(f"{first.target} · {first.identity}, {_configurations(group)}: {first.detail}", style="default")
        console.print(line)
    console.print(Text(f"\n{_totals(report)}"))


def _cell(checks: Sequence[Check]) -> Text:
    if not checks:
        return Text("–", style="dim")
    verdict = _verdict(checks)
    count = sum(check.verdict == verdict for check in checks)
    of = str(count) if count == len(checks) else f"{count}/{len(checks)}"
    return Text(f"{SIGNS[verdict]} {of}", style=STYLES[verdict])


def _verdict(checks: Sequence[Check]) -> Verdict:
    return next(verdict for verdict in WORDS if any(check.verdict == verdict for check in checks))


def _configurations(group: Sequence[Check]) -> str:
    first = group[0].schedule or "as it is"
    return first if len(group) == 1 else f"{first} and {len(group) - 1} more"


def _totals(report: Report) -> str:
    total = report.summary()
    samplers, configurations = len(cells(report)), len({(c.target, c.schedule) for c in report.checks})
    return (
        f"{samplers} targets in {configurations} configurations, {total['checks']} checks in {total['seconds']:.0f} s: "
        f"{total['pass']} hold, {total['fail']} violated, {total['conventions']} conventions, "
        f"{total['inconclusive']} undecided"
    )


def write_conformance(report: Report, folder: str | Path, versions: Mapping[str, str], formulas: Formulas) -> Path:
    """Write ``folder/index.html``; the folder is made. Returns the page's path.

    Args:
        report: what was found.
        folder: where.
        versions: of the libraries, by name.
        formulas: that draw the statements.
    """
    return document.write(page(report, versions, formulas), folder)


def page(report: Report, versions: Mapping[str, str], formulas: Formulas) -> str:
    """The whole page."""
    total = report.summary()
    word, kind = "Every statement holds.", "pass"
    if total["conventions"]:
        word = "Every statement holds, but for what the library says itself."
    if total["inconclusive"]:
        word, kind = f"{total['inconclusive']} of {total['checks']} checks could not be decided.", "inconclusive"
    if total["fail"]:
        word, kind = f"{total['fail']} of {total['checks']} checks are violated.", "fail"
    told = ", ".join(f"{html.escape(name)} {html.escape(version)}" for name, version in versions.items())
    questions = list(dict.fromkeys(check.identity for check in report.checks))
    lines = [
        [html.escape(target), *(_html_cell(row.get(question, [])) for question in questions)]
        for target, row in cells(report).items()
    ]
    sections = "".join(_section(group, formulas) for group in findings(report))
    asked = "".join(_asked([c for c in report.checks if c.identity == question], formulas) for question in questions)
    shown: list[document.Tile] = [
        (len(cells(report)), "targets", ""), (total["checks"], "checks", ""), (total["pass"], "hold", "pass"),
        (total["fail"], "violated", "fail"), (total["conventions"], "conventions", "convention"),
        (total["inconclusive"], "undecided", "inconclusive"), (f"{total['seconds']:.0f} s", "in all", ""),
    ]  # fmt: skip
    return document.document(
        "unidiff conformance",
        [
            f"<h1 class='{kind}'>{word}</h1>",
            "<p>Each sampler is walked as its own library walks it, on data whose law is known at each level, and its steps "
            "are read off exactly, by unit vectors in the place of draws and of the network's answers. A violation is a "
            "statement of theory that does not hold; a convention is a departure that the library's documents state.</p>",
            f"<p class='soft'>{told}. {html.escape(_totals(report))}</p>",
            document.tiles(shown),
            f"<h2>Targets</h2>{document.table(['target', *questions], lines, 'targets')}",
            f"<h2>What was found</h2>{sections or '<p>Nothing to report.</p>'}",
            f"<h2>What was asked</h2>{asked}",
        ],
        formulas,
    )


def _html_cell(checks: Sequence[Check]) -> str:
    if not checks:
        return "<td class='soft'>–</td>"
    cell = _cell(checks).plain
    first = next(check for check in checks if check.verdict == _verdict(checks))
    anchor = _id(first) if first.verdict not in ("pass", "gap") else ""
    shown = f"<a href='#{anchor}'>{html.escape(cell)}</a>" if anchor else html.escape(cell)
    return f"<td class='{_verdict(checks)}'>{shown}</td>"


def _id(check: Check) -> str:
    return html.escape(_anchor(check), quote=True)


def _anchor(check: Check) -> str:
    return f"{check.target}-{check.identity}-{check.verdict}"


def _section(group: Sequence[Check], formulas: Formulas) -> str:
    first = group[0]
    items = "".join(f"<li>{html.escape(c.schedule or 'as it is')}: {html.escape(c.detail)}</li>" for c in group[:12])
    more = f"<li class='soft'>and {len(group) - 12} more configurations</li>" if len(group) > 12 else ""
    found = (
        f"<div class='line'><b class='{first.verdict}'>{WORDS[first.verdict]}</b>"
        f"<span class='soft'>{html.escape(first.identity)}, {count(group)}</span></div>{strip(group)}"
    )
    return card(first.target, _anchor(first), first.statement, f"<ul>{items}{more}</ul>", found, formulas)


def _asked(checks: Sequence[Check], formulas: Formulas) -> str:
    first = checks[0]
    law = first.law.replace("_", " ")
    found = f"<div class='line'><span class='soft'>{law}, {count(checks)}</span></div>{strip(checks)}"
    return card(first.identity, f"asked-{first.identity}", first.statement, "", found, formulas)
