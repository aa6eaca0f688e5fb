"""A verification as a page."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import torch

from unidiff.identities.report import Check, Report
from unidiff.report import document, plots
from unidiff.report.cards import identity, number, subject
from unidiff.report.images import sheet
from unidiff.report.mathematics import Formulas
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
    return document.write(page(report, formulas), folder)


def page(report: Report, formulas: Formulas | None = None) -> str:
    """The whole page."""
    groups = by_view(rows(report))
    formulas = Formulas() if formulas is None else formulas
    identities = "".join(_group(views, group, formulas) for views, group in groups.items())
    return document.document(
        "unidiff verify",
        [
            _head(report),
            _trouble(report),
            _figures(report),
            _overview(report),
            f"<h2>Identities <small>under the views that each ties</small></h2>{identities}",
            _subjects(report),
        ],
        formulas,
    )


def _head(report: Report) -> str:
    total = report.summary()
    if total["fail"]:
        word, verdict = f"{total['fail']} of {total['checks']} checks are violated.", "fail"
    elif total["inconclusive"]:
        word, verdict = f"{total['inconclusive']} of {total['checks']} checks could not be decided.", "inconclusive"
    else:
        word, verdict = ("Every identity holds.", "pass") if report.checks else ("Nothing was checked.", "inconclusive")
    shown: list[document.Tile] = [
        (total["identities"], "identities", ""), (total["checks"], "checks", ""), (total["pass"], "pass", "pass"),
        (total["fail"], "fail", "fail"), (total["inconclusive"], "inconclusive", "inconclusive"),
        (total["gaps"], "gaps of the network", "gap"), (f"{total['seconds']:.0f} s", "in all", ""),
    ]  # fmt: skip
    return (
        f"<h1 class='{verdict}'>{word}</h1>"
        "<p>One diffusion process, read in several ways. Each statement below is computed on two independent paths, and "
        "the difference is held to a tolerance that nobody picked: it follows from rounding, from a z-test with a known "
        "false-alarm rate and power, from a quadrature's own error, or from a declared order. What holds for the exact "
        "denoiser alone is, for a network, a <span class='gap'>gap</span> and not a verdict.</p>"
        f"{document.tiles(shown)}"
    )


def _trouble(report: Report) -> str:
    troubled = [check for check in report.checks if check.verdict in ("fail", "inconclusive")]
    items = "".join(
        f"<li><b class='{c.verdict}'>{c.verdict}</b> <a href='#{_id(c.identity)}'>{html.escape(c.identity)}</a> on "
        f"{html.escape(subject(c))}: {number(c.residual)} against {number(c.tolerance)}. {html.escape(c.detail)}</li>"
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
    return f"<h3>{title} <small>{words}</small></h3>" + "".join(identity(row, formulas) for row in group)


def _subjects(report: Report) -> str:
    table: dict[tuple[str, str], dict[str, list[Check]]] = {}
    for check in report.checks:
        table.setdefault((check.world, check.schedule), {}).setdefault(check.dtype, []).append(check)
    dtypes = list(dict.fromkeys(c.dtype for c in report.checks))
    head = ["world", "schedule", *(name for dtype in dtypes for name in (dtype, "nearest to its tolerance"))]
    lines = [
        [html.escape(world), html.escape(schedule), *(c for dtype in dtypes for c in _cells(by_dtype.get(dtype, [])))]
        for (world, schedule), by_dtype in table.items()
    ]
    devices = ", ".join(dict.fromkeys(c.device for c in report.checks))
    return (
        "<h2>Subjects <small>a world of data under a schedule</small></h2>"
        f"{document.table(head, lines, 'subjects')}"
        f"<p class='soft'>torch {html.escape(torch.__version__)} on {html.escape(devices)}</p>"
    )


def _cells(checks: list[Check]) -> list[str]:
    judged = [c for c in checks if c.verdict != "gap"]
    if not judged:
        return [str(len(checks)), ""]
    nearest: Any = max(judged, key=tightness)
    name, share = html.escape(nearest.identity), f"{tightness(nearest):.0%}" if tightness(nearest) < 100 else "≫ 100%"
    return [
        str(len(checks)),
        f"<td class='{nearest.verdict}'><a href='#{_id(nearest.identity)}'>{name}</a> {share}</td>",
    ]


def _id(name: str) -> str:
    return html.escape(name, quote=True)
