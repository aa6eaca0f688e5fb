"""Plots for the page, as inline SVG (or PNG where there are many points). One palette throughout."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from unidiff.identities.report import Check, Report
from unidiff.report.summary import tightness

COLORS = {"pass": "#2f7d4f", "fail": "#c0392b", "inconclusive": "#b7791f", "gap": "#2b6cb0"}
LINES = ("#1f4e79", "#c0392b", "#2f7d4f", "#b7791f", "#6b4c9a", "#11868f", "#7f7f7f")
_LAWS = ("algebraic", "monte_carlo", "quadrature", "order", "bound")
_AXES = {
    "algebraic": ("residual, in units of κ", "tolerance 64 eps"),
    "monte_carlo": ("largest |z|", "limit"),
    "quadrature": ("difference of the two sides", "tolerance"),
    "order": ("|measured − declared order|", "tolerance 0.2"),
    "bound": ("excess over the bound", "forgiven"),
}


def new_figure(width: float, height: float) -> Figure:
    """A figure that belongs to no window."""
    return Figure(figsize=(width, height), layout="constrained", facecolor="none")


def residuals(report: Report) -> Figure:
    """Every check as a mark: residual over tolerance, one line for each identity, one panel for each law."""
    judged = [c for c in report.checks if c.verdict != "gap"]
    laws = [law for law in _LAWS if any(c.law == law for c in judged)]
    counts = [len({c.identity for c in judged if c.law == law}) for law in laws]
    figure = new_figure(9.5, 1.3 + 0.235 * sum(counts) + 0.5 * len(laws))
    grid = figure.subplots(len(laws), 1, squeeze=False, sharex=True, height_ratios=[n + 1 for n in counts])
    random = np.random.default_rng(0)
    for axes, law in zip(grid[:, 0], laws, strict=True):
        mine = [c for c in judged if c.law == law]
        names = list(dict.fromkeys(c.identity for c in mine))[::-1]
        _marks(axes, mine, names, random)
        axes.set_title(f"{law.replace('_', ' ')}: {_AXES[law][0]}, over the {_AXES[law][1]}", loc="left", fontsize=9)
    grid[-1, 0].set_xlabel("residual / tolerance")
    return figure


def _marks(axes: Any, checks: list[Check], names: list[str], random: np.random.Generator) -> None:
    floor = 1e-6
    for verdict in ("pass", "inconclusive", "fail"):
        mine = [c for c in checks if c.verdict == verdict]
        x = [min(max(tightness(c), floor), 1e6) for c in mine]
        y = [names.index(c.identity) + random.uniform(-0.25, 0.25) for c in mine]
        axes.scatter(x, y, s=7, color=COLORS[verdict], alpha=0.55, linewidths=0, zorder=3)
    axes.axvline(1, color="#222", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlim(left=floor / 2, right=max(4.0, axes.get_xlim()[1]))
    axes.set_yticks(range(len(names)), names, fontsize=7.5)
    axes.set_ylim(-0.7, len(names) - 0.3)
    axes.grid(axis="x", color="#ddd", linewidth=0.6)
    _plain(axes)


def figure_of(entry: dict[str, Any]) -> Figure:
    """A plot of one of the report's figures of kind ``scatter`` or ``lines``."""
    if entry["kind"] == "scatter":
        figure = new_figure(5.2, 5.2)
        scatter(figure, entry["data"]["series"])
        return figure
    figure = new_figure(5.6, 3.8)
    axes, data = figure.subplots(), entry["data"]
    for k, (name, series) in enumerate(data["series"].items()):
        color = LINES[k % len(LINES)]
        marker = "o" if len(series["x"]) <= 12 else None
        axes.plot(series["x"], series["y"], color=color, label=name, marker=marker, markersize=3, linewidth=1.3)
    if data.get("log"):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
    axes.set_xlabel(data["x_label"])
    axes.set_ylabel(data["y_label"])
    if len(data["series"]) > 1:
        axes.legend(frameon=False, fontsize=8)
    axes.grid(color="#e4e4e4", linewidth=0.6)
    _plain(axes)
    return figure


def scatter(figure: Figure, series: dict[str, Any]) -> None:
    """Points ``[n, 2]`` by name, on equal axes."""
    axes = figure.subplots()
    for k, (name, points) in enumerate(series.items()):
        points = np.asarray(points)
        size = float(np.clip(4000 / len(points), 2, 12))
        axes.scatter(*points.T, s=size, alpha=0.5, color=LINES[k % len(LINES)], label=name, linewidths=0)
    axes.set_aspect("equal", adjustable="datalim")
    if len(series) > 1:
        axes.legend(frameon=False, markerscale=2)
    _plain(axes)


def _plain(axes: Any) -> None:
    axes.set_facecolor("none")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=2, labelsize=8)


def as_svg(figure: Figure) -> str:
    """The figure as an ``<svg>`` element, its text kept as text."""
    import matplotlib

    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "unidiff"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def as_png(figure: Figure, dpi: int = 160) -> str:
    """The figure as a ``data:`` address."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=dpi)
    return data_address(out.getvalue())


def image_as_png(page: np.ndarray[Any, Any], scale: int) -> str:
    """A picture ``[H, W]`` or ``[H, W, 3]`` in [0, 1] as a ``data:`` address, each pixel ``scale`` wide."""
    from matplotlib import image

    out = io.BytesIO()
    image.imsave(out, page.repeat(scale, 0).repeat(scale, 1), cmap="gray", vmin=0.0, vmax=1.0, format="png")
    return data_address(out.getvalue())


def data_address(content: bytes) -> str:
    """PNG bytes as a ``data:`` address."""
    return "data:image/png;base64," + base64.b64encode(content).decode()
