"""A density in the plane, and beside it the samples of all who were to draw from it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from unidiff.report.plots import LINES, new_figure

Array = NDArray[np.floating]
_DOTS = 1500
_SHARES = (0.95, 0.75, 0.5, 0.25)


def beside(
    x: Array, y: Array, log_density: Array, samples: Mapping[str, Array], title: str, columns: int = 4
) -> Figure:
    """The density's contours, filled in the first panel and as lines under each one's samples.

    Args:
        x, y: the axes of a grid, ``[n]`` and ``[m]``.
        log_density: up to a constant, ``[m, n]``.
        samples: points ``[k, 2]``, by the panel's title; some hundreds of each are drawn.
        title: of the first panel.
        columns: panels side by side.

    Raises:
        ValueError: a density of another shape than the axes'.
    """
    if log_density.shape != (len(y), len(x)):
        raise ValueError(f"log_density must have shape [{len(y)}, {len(x)}], as y and x, got {list(log_density.shape)}")
    density = np.exp(log_density - log_density.max())
    levels = _levels(density)
    rows = math.ceil((1 + len(samples)) / columns)
    figure = new_figure(2.6 * columns, 2.75 * rows)
    panels = np.atleast_1d(figure.subplots(rows, columns, sharex=True, sharey=True)).ravel()
    panels[0].contourf(x, y, density, levels=[*levels, 1.0 + 1e-9], cmap="Blues")
    panels[0].set_title(title, fontsize=9)
    for axes, (name, points) in zip(panels[1:], samples.items(), strict=False):
        axes.contour(x, y, density, levels=levels, colors="#16191d", linewidths=0.5, alpha=0.55)
        shown = np.asarray(points)[:_DOTS]
        axes.scatter(*shown.T, s=4, alpha=0.35, color=LINES[0], linewidths=0, rasterized=True)
        axes.set_title(name, fontsize=9)
    for axes in panels:
        axes.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]), xticks=[], yticks=[])
        axes.set_aspect("equal")
        for side in axes.spines.values():
            side.set_color("#c8ccd0")
    for axes in panels[1 + len(samples) :]:
        axes.set_axis_off()
    return figure


def _levels(density: Array) -> list[float]:
    """The heights above which lie these shares of the mass, lowest first."""
    heights = np.sort(density.ravel())[::-1]
    mass = np.cumsum(heights) / heights.sum()
    return [float(heights[np.searchsorted(mass, share)]) for share in _SHARES]
