"""A search's picture: where each grid stops, over log-SNR, and what grids of each number of steps cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from unidiff.report.plots import LINES, new_figure, plain

MARKS = "osD^vPX*"


def paths(
    levels: Mapping[str, np.ndarray],
    costs: Mapping[str, Sequence[tuple[int, float]]],
    unit: str,
    reach: tuple[float, float],
) -> Figure:
    """Two panels; the first name of each mapping is the path that was searched.

    Args:
        levels: log-SNRs of a grid's times by its name, each falling; infinite ones are drawn at the edge.
        costs: (steps, cost) of the grids of each name, by steps.
        unit: of the costs.
        reach: the least and the greatest log-SNR drawn.
    """
    figure = new_figure(9.2, 3.4)
    places, prices = figure.subplots(1, 2, width_ratios=(1.25, 1))
    low, high = reach
    style = {name: (LINES[k % len(LINES)], MARKS[k % len(MARKS)]) for k, name in enumerate({**levels, **costs})}
    for row, (name, values) in enumerate(levels.items()):
        shown = np.clip(values, low, high)
        colour, mark = style[name]
        places.plot([low, high], [row, row], color="#e4e4e4", linewidth=0.8, zorder=0)
        places.plot(shown, np.full(len(shown), row), mark, color=colour, markersize=4.5)
        places.text(low, row - 0.22, name, fontsize=7.5, color=colour, va="bottom")
    places.set_ylim(len(levels) - 0.4, -0.75)
    places.set_yticks([])
    places.set_xlabel("log-SNR λ (noise to the left)")
    places.set_title(f"where they stop, {max(len(v) for v in levels.values()) - 1} steps", fontsize=9)
    for row, (name, line) in enumerate(costs.items()):
        steps, values = zip(*line, strict=True)
        prices.plot(
            steps, values, style[name][1] + "-", color=style[name][0], markersize=4,
            linewidth=2.0 if row == 0 else 1.0, label=name, zorder=3 if row == 0 else 2,
        )  # fmt: skip
    everything = np.array([value for line in costs.values() for _, value in line])
    if bool((everything > 0).all()):
        prices.set_yscale("log")
    prices.set_xticks(sorted({steps for line in costs.values() for steps, _ in line}))
    prices.set_xlabel("steps K")
    prices.set_ylabel(f"cost, {unit}")
    prices.set_title("what they cost", fontsize=9)
    prices.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    for axes in (places, prices):
        plain(axes)
    places.spines["left"].set_visible(False)
    return figure
