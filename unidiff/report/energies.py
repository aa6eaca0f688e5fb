"""Energies of the plane as pictures: draws over e^{−E}, and learned levels beside the true ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from unidiff.report.plots import LINES, new_figure

_COLUMNS, _DEPTH, _SHOWN = 4, 12.0, 2000


def planes(rows: Mapping[str, tuple[Any, Any]], half: float) -> Figure:
    """A panel for each row: its draws as points, over its energy in nats above the least, where it has one.

    Args:
        rows: by name, draws ``[n, 2]`` and E on a square grid of [−half, half]², ``[G, G]``, the first axis x; or None.
        half: half of the square's side, in units of x.
    """
    count = len(rows)
    columns = min(_COLUMNS, count)
    lines = -(-count // columns)
    figure = new_figure(2.6 * columns, 2.75 * lines)
    panels = np.atleast_1d(figure.subplots(lines, columns, sharex=True, sharey=True)).ravel()
    image = None
    for axes, (name, (draws, energy)) in zip(panels, rows.items(), strict=False):
        if energy is not None:
            # The least by a quantile: one deep hole would leave all the rest blank.
            height = np.asarray(energy) - np.quantile(energy, 1e-3)
            image = axes.imshow(
                height.T, origin="lower", extent=(-half, half, -half, half), vmin=0, vmax=_DEPTH, cmap="cividis_r"
            )
        few = np.asarray(draws)[:_SHOWN]
        axes.scatter(few[:, 0], few[:, 1], s=1.5, color=LINES[1], alpha=0.5, linewidths=0, rasterized=True)
        axes.set(xlim=(-half, half), ylim=(-half, half), aspect="equal", title=name)
        axes.title.set_fontsize(9)
        axes.tick_params(length=2, labelsize=7)
    for axes in panels[count:]:
        axes.set_axis_off()
    if image is not None:
        bar = figure.colorbar(image, ax=panels.tolist(), shrink=0.6, label="E − least, nats")
        bar.ax.tick_params(labelsize=7)
    return figure
