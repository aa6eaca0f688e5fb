"""The thermodynamic budget as a picture: from data to noise, and what a chain pays on the way back, over log-SNR."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from unidiff.core.boundary import check_type
from unidiff.report.plots import LINES, new_figure
from unidiff.thermo import Budget


def budget(found: Budget) -> Figure:
    """Four panels over log-SNR, data to the right, in nats; bands are two standard errors.

    Of the entropy, what is noise and what is still data; information and KL to the prior's own law; how fast that KL is
    produced away; and, if ``found`` has a way back, what each step pays beside what there is to learn. Raises TypeError for
    a ``found`` that is no Budget.
    """
    check_type("found", found, Budget)
    figure = new_figure(8.2, 6.2)
    entropy, known, rate, steps = figure.subplots(2, 2).flatten()
    x = found.log_snr.numpy()
    _entropy(entropy, found, x)
    _known(known, found, x)
    slope = -found.slope
    _line(rate, x, found.production / slope, found.production_error / slope, LINES[1], None)
    rate.set_title("entropy production: what the KL loses", fontsize=9)
    rate.set_ylabel("nats for each unit of λ")
    _steps(steps, found, x)
    for axes in (rate, steps):
        axes.set_ylim(bottom=0)
    for axes in (entropy, known, rate, steps):
        axes.set_xlim(float(x[-1]), float(x[0]))
        axes.set_xlabel("log-SNR λ (data to the right)")
        axes.grid(color="#e4e4e4", linewidth=0.6)
        axes.set_facecolor("none")
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(length=2, labelsize=8)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=8)
    return figure


def _entropy(axes: Any, found: Budget, x: np.ndarray[Any, Any]) -> None:
    noise = found.noise_entropy.numpy()
    _line(axes, x, found.entropy, found.entropy_error, LINES[0], "H(x_t)")
    axes.plot(x, noise, color=LINES[6], linewidth=1.4, label="H(x_t|x₀), the noise's")
    axes.fill_between(x, noise, found.entropy.numpy(), color=LINES[0], alpha=0.08, linewidth=0, label="I(x₀; x_t)")
    axes.set_title("entropy: noise, and what is still data", fontsize=9)
    axes.set_ylabel("nats")


def _known(axes: Any, found: Budget, x: np.ndarray[Any, Any]) -> None:
    _line(axes, x, found.information, found.information_error, LINES[0], "I(x₀; x_t)")
    _line(axes, x, found.kl, found.kl_error, LINES[1], "KL(q_t ‖ π_t)")
    if found.back is not None:
        back = found.back
        name = f"paid by {len(back.steps)} steps"
        _line(axes, back.log_snr.numpy(), back.spent, back.spent_error, LINES[2], name, marker="o", markersize=2.5)
    axes.set_title("what is known, what is left to lose", fontsize=9)
    axes.set_ylabel("nats")


def _steps(axes: Any, found: Budget, x: np.ndarray[Any, Any]) -> None:
    """What each step pays and what there is to learn in it, each per unit of λ."""
    middle, width = 0.5 * (x[:-1] + x[1:]), x[:-1] - x[1:]
    learned = -found.information.diff().numpy() / width
    axes.plot(middle, learned, color=LINES[0], linewidth=1.4, label="information")
    if found.back is not None:
        edges = found.back.log_snr.numpy()
        paid = found.back.steps.numpy() / (edges[:-1] - edges[1:])
        name = f"paid by {len(paid)} steps"
        axes.stairs(paid[::-1], edges[::-1], baseline=None, color=LINES[2], linewidth=1.2, label=name)
    axes.set_title("the way back: learned, and paid for it", fontsize=9)
    axes.set_ylabel("nats for each unit of λ")


def _line(
    axes: Any, x: np.ndarray[Any, Any], value: Tensor, error: Tensor, color: str, label: str | None, **style: Any
) -> None:
    y, band = value.numpy(), 2 * error.numpy()
    axes.fill_between(x, y - band, y + band, color=color, alpha=0.25, linewidth=0)
    axes.plot(x, y, color=color, linewidth=1.4, label=label, **style)
