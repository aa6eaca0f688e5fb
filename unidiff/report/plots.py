"""Plots for the page, as inline SVG (or PNG where there are many points). One palette throughout."""

from __future__ import annotations

import base64
import io
import re
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from unidiff.identities.report import Report
from unidiff.report.summary import tightness

COLORS = {"pass": "#2f7d4f", "fail": "#c0392b", "inconclusive": "#b7791f", "gap": "#2b6cb0", "convention": "#6b5ca5"}
LINES = ("#2f7ab8", "#c0392b", "#2f7d4f", "#b7791f", "#6b4c9a", "#11868f", "#7f7f7f")
_LAWS = ("algebraic", "monte_carlo", "quadrature", "order", "bound")
_UNITS = {
    "algebraic": "difference in units of κ, against 64 eps",
    "monte_carlo": "|z|, against the limit of the whole suite",
    "quadrature": "difference, against the stated accuracy",
    "order": "measured − declared order, against 0.2",
    "bound": "excess over the bound",
}
FLOOR = 1e-6  # of residual / tolerance, in plots: what is nearer to exact is drawn here


def new_figure(width: float, height: float) -> Figure:
    """A figure that belongs to no window."""
    return Figure(figsize=(width, height), layout="constrained", facecolor="none")


def overview(report: Report) -> Figure:
    """Every judged check as a dot at its residual over its tolerance, by law and dtype."""
    judged = [c for c in report.checks if c.verdict != "gap"]
    groups = [(law, dtype) for law in _LAWS for dtype in ("float64", "float32")]
    groups = [g for g in groups if any((c.law, c.dtype) == g for c in judged)]
    figure = new_figure(6.8, 0.9 + 0.42 * len(groups))
    axes, random = figure.subplots(), np.random.default_rng(0)
    for height, group in enumerate(reversed(groups)):
        for verdict in ("pass", "inconclusive", "fail"):
            mine = [tightness(c) for c in judged if (c.law, c.dtype, c.verdict) == (*group, verdict)]
            y = height + random.uniform(-0.25, 0.25, len(mine))
            # Thousands of dots are smaller as pixels.
            axes.scatter(
                np.clip(mine, FLOOR, 1e4),
                y,
                s=9,
                color=COLORS[verdict],
                alpha=0.4,
                linewidths=0,
                zorder=3,
                rasterized=True,
            )
    for height, (law, _) in enumerate(reversed(groups)):
        if [g[0] for g in groups].index(law) == len(groups) - 1 - height:
            axes.text(FLOOR, height + 0.42, _UNITS[law], fontsize=7.5, color="#66707a", va="bottom")
    axes.axvline(1, color="#16191d", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlim(FLOOR / 2, max(4.0, axes.get_xlim()[1]))
    axes.set_ylim(-0.6, len(groups) - 0.2)
    axes.set_yticks(range(len(groups)), [f"{law.replace('_', ' ')}, {dtype}" for law, dtype in reversed(groups)])
    axes.set_xlabel("residual / tolerance")
    axes.grid(axis="x", color="#e4e4e4", linewidth=0.6)
    axes.minorticks_off()
    plain(axes)
    return figure


def figure_of(entry: dict[str, Any]) -> Figure:
    """A plot of one of the report's figures of kind ``scatter``, ``maps``, ``weightings`` or ``lines``."""
    if entry["kind"] == "weightings":
        from unidiff.report.weightings import draw

        return draw(entry["data"]["panels"])
    if entry["kind"] == "maps":
        return maps(entry["data"]["panels"], entry["data"]["reach"])
    if entry["kind"] == "scatter":
        figure = new_figure(5.2, 5.2)
        scatter(figure, entry["data"]["series"], entry["data"].get("labels"), entry["data"].get("diagonal", False))
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
    plain(axes)
    return figure


def scatter(
    figure: Figure, series: dict[str, Any], labels: tuple[str, str] | None = None, diagonal: bool = False
) -> None:
    """Points ``[n, 2]`` by name, on equal axes, with the axes' labels and the line y = x if they are wanted."""
    axes = figure.subplots()
    for k, (name, given) in enumerate(series.items()):
        points = np.asarray(given)
        size = float(np.clip(8000 / len(points), 3, 14))
        axes.scatter(*points.T, s=size, alpha=0.5, color=LINES[k % len(LINES)], label=name, linewidths=0)
    axes.set_aspect("equal", adjustable="datalim")
    if diagonal:
        axes.axline((0, 0), slope=1, color="#16191d", linewidth=0.8, zorder=0)
    if labels is not None:
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
    if len(series) > 1:
        axes.legend(frameon=False, markerscale=2)
    plain(axes)


def maps(panels: list[dict[str, Any]], reach: float) -> Figure:
    """Values ``[n, n]`` on the square [−reach, reach]², side by side; arrows ``[m, 4]`` (place, direction) over them."""
    figure = new_figure(3.1 * len(panels), 3.3)
    for axes, panel in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        image = axes.imshow(
            panel["values"], extent=(-reach, reach, -reach, reach), origin="lower", cmap="Blues", interpolation="bilinear"
        )  # fmt: skip
        if "arrows" in panel:
            arrows = np.asarray(panel["arrows"])
            axes.quiver(*arrows.T, color="#16191d", alpha=0.75, width=0.006, scale=40)
        if panel.get("bar"):
            figure.colorbar(image, ax=axes, shrink=0.8).ax.tick_params(labelsize=7)
        axes.set_title(panel["title"], fontsize=9)
        axes.set(xticks=[], yticks=[], xlim=(-reach, reach), ylim=(-reach, reach))
    return figure


def plain(axes: Any) -> None:
    """No box and no ground: two spines and short ticks."""
    axes.set_facecolor("none")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=2, labelsize=8)


def as_svg(figure: Figure) -> str:
    """The figure as an ``<svg>`` element, its text kept as text; ink is the colour of the page's text."""
    import matplotlib

    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "unidiff"}):
        figure.savefig(out, format="svg", dpi=220, metadata={"Date": None})
    # Its style sheet would speak to the whole page, and its metadata name addresses that nobody will visit.
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", out.getvalue(), flags=re.DOTALL)
    text = re.sub("#000000|#16191d", "currentColor", text).replace("#e4e4e4", "var(--line, #e4e4e4)")
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
