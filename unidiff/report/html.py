"""The report as one page that needs nothing else: no network, no script, no other file."""

from __future__ import annotations

import html
import math
from pathlib import Path
from typing import Any

import torch

from unidiff.identities.report import Check, Report
from unidiff.report import plots
from unidiff.report.images import sheet
from unidiff.report.mathematics import formula
from unidiff.report.summary import Row, by_view, rows, tightness

_VIEWS = {
    "core": "the kernels, schedules and samplers themselves",
    "score": "score matching, the probability flow and its SDEs",
    "vae": "the hierarchical VAE and its evidence bound",
    "thermo": "entropy, work and information",
    "ebm": "the energy-based model",
    "rl": "the denoising MDP",
    "paths": "sampling paths and time grids",
}

_STYLE = """
:root { color-scheme: light; --ink: #1c2024; --soft: #66707a; --line: #e3e6e9; --pass: #2f7d4f; --fail: #c0392b;
  --inconclusive: #b7791f; --gap: #2b6cb0; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 2.2rem 1.2rem 5rem; color: var(--ink); background: #fdfdfc;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.7rem; margin: 0; letter-spacing: -0.01em; }
h2 { font-size: 1.2rem; margin: 2.8rem 0 .6rem; padding-top: .6rem; border-top: 2px solid var(--ink); }
h2 small { font-weight: 400; color: var(--soft); font-size: .92rem; }
p { max-width: 46rem; } .soft { color: var(--soft); }
.verdict { font-weight: 600; } .pass { color: var(--pass); } .fail { color: var(--fail); }
.inconclusive { color: var(--inconclusive); } .gap { color: var(--gap); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(8rem, 1fr)); gap: .7rem; margin: 1.4rem 0; }
.tile { border: 1px solid var(--line); border-radius: 8px; padding: .7rem .9rem; background: #fff; }
.tile b { display: block; font-size: 1.5rem; font-variant-numeric: tabular-nums; line-height: 1.2; }
.tile span { color: var(--soft); font-size: .85rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 28rem), 1fr)); gap: 1.2rem; }
figure { margin: 0; border: 1px solid var(--line); border-radius: 8px; padding: .9rem; background: #fff; overflow: hidden; }
figure img, figure > svg { width: 100%; height: auto; display: block; } img.pixels { image-rendering: pixelated; }
figcaption { color: var(--soft); font-size: .9rem; margin-bottom: .6rem; }
.identity { border-bottom: 1px solid var(--line); padding: .8rem 0; display: grid; gap: .2rem 1.2rem;
  grid-template-columns: minmax(0, 1fr) 15rem; }
.identity h3 { font-size: 1rem; margin: 0; display: inline; } .identity .where { color: var(--soft); font-size: .84rem; }
.statement { overflow-x: auto; padding: .45rem 0; } svg.math { height: auto; vertical-align: middle; max-width: none; }
.figures-of { text-align: right; font-variant-numeric: tabular-nums; font-size: .9rem; }
.bar { height: 5px; background: var(--line); border-radius: 3px; margin: .35rem 0 .3rem; }
.bar i { display: block; height: 100%; border-radius: 3px; background: currentColor; }
.wrap { overflow-x: auto; } table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } th { color: var(--soft); font-weight: 500; }
@media (max-width: 44rem) { .identity { grid-template-columns: minmax(0, 1fr); } .figures-of { text-align: left; } }
"""


def write_html(report: Report, folder: str | Path = "report") -> Path:
    """Write ``folder/index.html``; the folder is made. Returns the page's path."""
    path = Path(folder) / "index.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(report), encoding="utf-8")
    return path


def page(report: Report) -> str:
    """The whole page."""
    found = rows(report)
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'><title>unidiff verify</title>",
        f"<style>{_STYLE}</style></head><body>",
        _head(report),
        _figures(report),
        "<h2>Residuals against tolerances</h2>",
        "<p>Every check is a dot. Left of the line it holds; the further left, the more room is left. "
        "Algebraic residuals are rounding, and sit where rounding sits.</p>",
        f"<figure>{plots.as_svg(plots.residuals(report)) if found else ''}</figure>",
        *(_group(views, group) for views, group in by_view(found).items()),
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
        word, verdict = "Every identity holds.", "pass"
    tiles = [
        (total["identities"], "identities"), (total["checks"], "checks"), (total["pass"], "pass"), (total["fail"], "fail"),
        (total["inconclusive"], "inconclusive"), (total["gaps"], "gaps of the network"), (f"{total['seconds']:.0f} s", "in all"),
    ]  # fmt: skip
    shown = "".join(f"<div class='tile'><b>{value}</b><span>{name}</span></div>" for value, name in tiles)
    return (
        f"<h1>unidiff verify: <span class='{verdict}'>{word}</span></h1>"
        "<p>One diffusion process, read in several ways. Each statement below is computed on two independent paths, and "
        "the difference is held to a tolerance that follows from rounding, from a z-test with a known false-alarm rate and "
        "power, from a quadrature's own error, or from a declared order. What holds for the exact denoiser alone is, for a "
        f"trained network, a gap and not a verdict. <span class='soft'>torch {html.escape(torch.__version__)}</span></p>"
        f"<div class='tiles'>{shown}</div>"
    )


def _figures(report: Report) -> str:
    shown = []
    for entry in report.figures.values():
        if entry["kind"] == "image_grid":
            picture = sheet(entry["data"])
            address = plots.image_as_png(picture, max(1, 700 // picture.shape[1]))
            content = f"<img class='pixels' alt='{html.escape(entry['title'], quote=True)}' src='{address}'>"
        elif entry["kind"] == "scatter":
            content = f"<img alt='{html.escape(entry['title'], quote=True)}' src='{plots.as_png(plots.figure_of(entry))}'>"
        else:
            content = plots.as_svg(plots.figure_of(entry))
        shown.append(f"<figure><figcaption>{html.escape(entry['title'])}</figcaption>{content}</figure>")
    return f"<div class='figures'>{''.join(shown)}</div>" if shown else ""


def _group(views: tuple[str, ...], group: list[Row]) -> str:
    names = " · ".join(views)
    words = f"<small>{_VIEWS[views[0]]}</small>" if len(views) == 1 else ""
    return f"<h2>{names} {words}</h2>" + "".join(_identity(row) for row in group)


def _identity(row: Row) -> str:
    worst = row.worst
    source = html.escape(row.source)
    share = tightness(worst)
    width = 0.0 if share <= 0 else min(100.0, max(1.0, 100 + 100 / 16 * math.log10(min(share, 1.0))))
    figures = "" if row.verdict == "gap" else f"{_number(worst.residual)} of {_number(worst.tolerance)} allowed"
    bar = "" if row.verdict == "gap" else f"<div class='bar {row.verdict}'><i style='width:{width:.0f}%'></i></div>"
    gap = "" if row.gap is None else f"<div class='gap'>network's gap {_number(row.gap.residual)}</div>"
    where = f"worst on {worst.world}, {worst.schedule}, {worst.dtype}"
    detail = f"; {html.escape(worst.detail)}" if worst.detail else ""
    return (
        f"<div class='identity' id='{html.escape(row.name, quote=True)}'><div><h3>{html.escape(row.name)}</h3>"
        f"<div class='statement'>{formula(row.statement)}</div>"
        f"<div class='where'>{source}</div></div>"
        f"<div class='figures-of'><span class='verdict {row.verdict}'>{row.verdict}</span> "
        f"<span class='soft'>{row.law.replace('_', ' ')}, {row.checks} checks</span>{bar}{figures}{gap}"
        f"<div class='where'>{html.escape(where)}{detail}</div></div></div>"
    )


def _subjects(report: Report) -> str:
    columns: dict[tuple[str, str], dict[str, list[Check]]] = {}
    for check in report.checks:
        columns.setdefault((check.world, check.schedule), {}).setdefault(check.dtype, []).append(check)
    dtypes = list(dict.fromkeys(c.dtype for c in report.checks))
    head = "".join(f"<th>{dtype}: checks</th><th>nearest to its tolerance</th>" for dtype in dtypes)
    lines = []
    for (world, schedule), by_dtype in columns.items():
        cells = "".join(_cells(by_dtype.get(dtype, [])) for dtype in dtypes)
        lines.append(f"<tr><td>{html.escape(world)}, {html.escape(schedule)}</td>{cells}</tr>")
    return (
        "<h2>Subjects <small>a world of data under a schedule</small></h2>"
        f"<div class='wrap'><table><tr><th>world, schedule</th>{head}</tr>{''.join(lines)}</table></div>"
    )


def _cells(checks: list[Check]) -> str:
    judged = [c for c in checks if c.verdict != "gap"]
    if not judged:
        return f"<td>{len(checks)}</td><td></td>"
    nearest: Any = max(judged, key=tightness)
    return f"<td>{len(checks)}</td><td class='{nearest.verdict}'>{nearest.identity} {tightness(nearest):.0%}</td>"


def _number(value: float) -> str:
    return f"{value:.2g}" if math.isfinite(value) else "not a number"
