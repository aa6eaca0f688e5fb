r"""Loss weightings as what they are to the bound: w(λ) of the weighted ELBO ½∫w(λ) E‖ε − ε̂‖² dλ (Kingma & Gao 2023, fig. 2).

The bound itself is the line at 1. Each curve is scaled to 1 at its greatest value, as there: a constant changes no minimum.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from unidiff.core.schedule import Schedule
from unidiff.identities.pictures import weighting_curves
from unidiff.report.plots import LINES, new_figure
from unidiff.train.weighting import WeightingOptions

_FLOOR = 1e-5


def weightings(schedule: Schedule, options: WeightingOptions | None = None) -> Figure:
    """w(λ) of every weighting under ``schedule``. Raises as :func:`weighting_curves`."""
    return draw([{"title": schedule.kind, "series": weighting_curves(schedule, options)}])


def draw(panels: list[dict[str, Any]]) -> Figure:
    """A panel for each schedule, from its curves; data on the left, as in the rest of the page."""
    figure = new_figure(3.6 * len(panels) + 1.2, 3.4)
    all_axes = np.atleast_1d(figure.subplots(1, len(panels), sharey=True))
    for axes, panel in zip(all_axes, panels, strict=True):
        for k, (name, curve) in enumerate(panel["series"].items()):
            heights = np.maximum(curve["y"], _FLOOR / 10)
            # The later the thinner: where two are one, both are seen.
            width = max(3.2 - 0.5 * k, 1.2)
            axes.plot(curve["x"], heights, color=LINES[k % len(LINES)], label=name, linewidth=width)
        axes.set_yscale("log")
        axes.set_ylim(_FLOOR, 2.0)
        axes.set_xlabel("log-SNR λ (data to the right)")
        axes.set_title(panel["title"], fontsize=9)
        axes.grid(color="#e4e4e4", linewidth=0.6)
        axes.minorticks_off()
        axes.set_facecolor("none")
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(length=2, labelsize=8)
    all_axes[0].set_ylabel("w(λ), of its greatest value")
    all_axes[-1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
