"""The report as one page that needs nothing else: no network, no script, no other file."""

from __future__ import annotations

import html
import math
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from unidiff.identities.report import Check, Report
from unidiff.report import plots
from unidiff.report.images import sheet
from unidiff.report.mathematics import Formulas
from unidiff.report.strip import strip
from unidiff.report.summary import Row, by_view, rows, tightness

_VIEWS = {
    "core": "kernels, schedules, samplers",
    "score": "score matching and flows",
    "vae": "the evidence bound",
    "thermo": "entropy, work, information",
    "ebm": "energies",
    "rl": "the denoising MDP",
    "paths": "time grids",
}


def write_html(report: Report, folder: str | Path = "report", formulas: Formulas | None = None) -> Path:
    """Write ``folder/index.html``; the folder is made. Returns the page's path.

    Args:
        report: what was found.
        folder: where.
        formulas: those already drawn, which takes a few hundredths of a second each.
    """
    path = Path(folder) / "index.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(report, formulas), encoding="utf-8")
    return path


def page(report: Report, formulas: Formulas | None = None) -> str:
    """The whole page."""
    groups = by_view(rows(report))
    formulas = Formulas() if formulas is None else formulas
    identities = "".join(_group(views, group, formulas) for views, group in groups.items())
    style = resources.files("unidiff.report").joinpath("page.css").read_text(encoding="utf-8")
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'><title>unidiff verify</title>",
        f"<style>{style}</style></head><body>{formulas.glyphs()}",
        _head(report),
        _trouble(report),
        _figures(report),
        _overview(report),
        f"<h2>Identities <small>under the views that each ties</small></h2>{identities}",
        _subjects(report),
        "</body></html>\n",
    ]
    return "\n".join(parts)


def _head(report: Report) -> str:
    total = report.summary()
    if total["fail"]:
        word, verdict = f"{total['fail']} of {total['checks']} checks are violated.", "fail"
    elif total["inconclusive"]:
        word, verdict = f"{total['inconclusive']} of {total['checks']} checks could not be decided.", "inconclusive"
    else:
        word, verdict = ("Every identity holds.", "pass") if report.checks else ("Nothing was checked.", "inconclusive")
    tiles = [
        (total["identities"], "identities", ""), (total["checks"], "checks", ""), (total["pass"], "pass", "pass"),
        (total["fail"], "fail", "fail"), (total["inconclusive"], "inconclusive", "inconclusive"),
        (total["gaps"], "gaps of the network", "gap"), (f"{total['seconds']:.0f} s", "in all", ""),
    ]  # fmt: skip
    shown = "".join(
        f"<div class='tile'><b class='{kind if value else 'soft'}'>{value}</b><span>{name}</span></div>"
        for value, name, kind in tiles
    )
    return (
        f"<p class='name'>unidiff verify</p><h1 class='{verdict}'>{word}</h1>"
        "<p>One diffusion process, read in several ways. Each statement below is computed on two independent paths, and "
        "the difference is held to a tolerance that nobody picked: it follows from rounding, from a z-test with a known "
        "false-alarm rate and power, from a quadrature's own error, or from a declared order. What holds for the exact "
        "denoiser alone is, for a network, a <span class='gap'>gap</span> and not a verdict.</p>"
        f"<div class='tiles'>{shown}</div>"
    )


def _trouble(report: Report) -> str:
    troubled = [check for check in report.checks if check.verdict in ("fail", "inconclusive")]
    items = "".join(
        f"<li><b class='{c.verdict}'>{c.verdict}</b> <a href='#{_id(c.identity)}'>{html.escape(c.identity)}</a> on "
        f"{html.escape(_subject(c))}: {_number(c.residual)} against {_number(c.tolerance)}. {html.escape(c.detail)}</li>"
        for c in troubled
    )
    return f"<h2>What went wrong</h2><ul class='trouble'>{items}</ul>" if items else ""


def _figures(report: Report) -> str:
    shown = []
    for entry in report.figures.values():
        title = html.escape(entry["title"], quote=True)
        if entry["kind"] == "image_grid":
            picture = sheet(entry["data"])
            address = plots.image_as_png(picture, max(1, 600 // picture.shape[1]))
            content = f"<img class='pixels' alt='{title}' src='{address}'>"
        elif entry["kind"] in ("scatter", "maps"):
            content = f"<img alt='{title}' src='{plots.as_png(plots.figure_of(entry))}'>"
        else:
            content = plots.as_svg(plots.figure_of(entry))
        shown.append(f"<figure><figcaption>{title}</figcaption>{content}</figure>")
    return f"<h2>Figures</h2><div class='figures'>{''.join(shown)}</div>" if shown else ""


def _overview(report: Report) -> str:
    if all(check.verdict == "gap" for check in report.checks):
        return ""
    return (
        "<h2>Residuals against tolerances <small>by law and dtype</small></h2>"
        "<p>A dot for each check, at its residual over its tolerance. Left of the line it holds, and the further left the "
        "more room is left; a wrong sign or a missing ½ lands far on the right.</p>"
        f"<figure class='overview'>{plots.as_svg(plots.overview(report))}</figure>"
    )


def _group(views: tuple[str, ...], group: list[Row], formulas: Formulas) -> str:
    words = "; ".join(_VIEWS[view] for view in views)
    title = " · ".join(views)
    return f"<h3>{title} <small>{words}</small></h3>" + "".join(_identity(row, formulas) for row in group)


def _identity(row: Row, formulas: Formulas) -> str:
    worst, judged = row.worst, row.verdict != "gap"
    allowed = f"{_number(worst.residual)} <span class='soft'>of</span> {_number(worst.tolerance)}" if judged else ""
    gap = "" if row.gap is None else f"<div class='gap'>the network's gap: {_number(row.gap.residual)}</div>"
    detail = f"; {worst.detail}" if worst.detail else ""
    where = html.escape(f"{_subject(worst)}{detail}") if judged else ""
    return (
        f"<section id='{_id(row.name)}'><div class='what'><b>{html.escape(row.name)}</b>"
        f"<div class='statement'>{formulas.draw(row.statement)}</div>"
        f"<div class='where'>{html.escape(row.source)}</div></div>"
        f"<div class='found'><div class='line'><b class='{row.verdict}'>{row.verdict}</b><span class='soft'>"
        f"{row.law.replace('_', ' ')}, {row.checks} checks</span></div>{strip(row.members)}"
        f"<div class='line'><span>{allowed}</span></div>{gap}<div class='where'>{where}</div></div></section>"
    )


def _subjects(report: Report) -> str:
    table: dict[tuple[str, str], dict[str, list[Check]]] = {}
    for check in report.checks:
        table.setdefault((check.world, check.schedule), {}).setdefault(check.dtype, []).append(check)
    dtypes = list(dict.fromkeys(c.dtype for c in report.checks))
    head = "".join(f"<th>{dtype}</th><th>nearest to its tolerance</th>" for dtype in dtypes)
    lines = []
    for (world, schedule), by_dtype in table.items():
        cells = "".join(_cells(by_dtype.get(dtype, [])) for dtype in dtypes)
        lines.append(f"<tr><td>{html.escape(world)}</td><td>{html.escape(schedule)}</td>{cells}</tr>")
    devices = ", ".join(dict.fromkeys(c.device for c in report.checks))
    return (
        "<h2>Subjects <small>a world of data under a schedule</small></h2>"
        f"<div class='wrap'><table><tr><th>world</th><th>schedule</th>{head}</tr>{''.join(lines)}</table></div>"
        f"<p class='soft'>torch {html.escape(torch.__version__)} on {html.escape(devices)}</p>"
    )


def _cells(checks: list[Check]) -> str:
    judged = [c for c in checks if c.verdict != "gap"]
    if not judged:
        return f"<td>{len(checks)}</td><td></td>"
    nearest: Any = max(judged, key=tightness)
    name, share = html.escape(nearest.identity), f"{tightness(nearest):.0%}" if tightness(nearest) < 100 else "≫ 100%"
    return f"<td>{len(checks)}</td><td class='{nearest.verdict}'><a href='#{_id(nearest.identity)}'>{name}</a> {share}</td>"


def _subject(check: Check) -> str:
    return f"{check.world}, {check.schedule}, {check.dtype}"


def _id(name: str) -> str:
    return html.escape(name, quote=True)


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "not a number"
    # A strict inequality's tolerance is the least number below zero.
    mantissa, _, exponent = f"{0.0 if abs(value) < 1e-300 else value:.2g}".replace("-", "−").partition("e")
    return f"{mantissa}·10<sup>{exponent.replace('−0', '−').lstrip('+0')}</sup>" if exponent else mantissa
