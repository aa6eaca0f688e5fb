"""How a fine-tuning run went, as a picture: reward, and what it cost in KL to the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from unidiff.report.plots import LINES, new_figure, plain
from unidiff.rl.estimates import EstimatedOptimum


def curves(lines: Sequence[Mapping[str, float]], optimum: EstimatedOptimum | None = None) -> Figure:
    """Three panels: reward over rounds, KL to the reference over rounds, and the one over the other.

    Args:
        lines: of the run's log, each with ``step`` and ``kl``, and ``reward`` where one is known.
        optimum: what could be had: its reward and KL, and the reference's reward, as lines (bands: two standard errors).
    """
    figure = new_figure(10.5, 3.3)
    reward, kl, front = figure.subplots(1, 3)
    rounds, paid = [line["step"] for line in lines], [line["kl"] for line in lines]
    known = [(line["step"], line["kl"], line["reward"]) for line in lines if "reward" in line]
    style: dict[str, Any] = {"linewidth": 1.4, "marker": "o", "markersize": 2.5}
    if known:
        at, cost, earned = zip(*known, strict=True)
        reward.plot(at, earned, color=LINES[0], label="policy", **style)
        front.plot(cost, earned, color=LINES[0], label="policy, round by round", **style)
    kl.plot(rounds, paid, color=LINES[0], label="policy", **style)
    if optimum is not None:
        _level(reward, optimum.reward, LINES[2], "optimum")
        _level(reward, optimum.reference_reward, LINES[6], "reference")
        _level(kl, optimum.kl, LINES[2], "optimum")
        best = (float(optimum.kl.value), float(optimum.reward.value))
        front.plot(*best, "*", color=LINES[2], markersize=11, label="optimum")
        front.plot(0.0, float(optimum.reference_reward.value), "s", color=LINES[6], markersize=5, label="reference")
    for axes, title, x, y in (
        (reward, "reward", "round", "E r"),
        (kl, "KL to the reference", "round", "nats"),
        (front, "reward for its KL", "KL to the reference, nats", "E r"),
    ):
        axes.set_title(title, fontsize=9)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.grid(color="#e4e4e4", linewidth=0.6)
        plain(axes)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(facecolor="white", edgecolor="none", framealpha=0.85, fontsize=8)
    kl.set_ylim(bottom=0)
    return figure


def _level(axes: Any, found: Any, color: str, label: str) -> None:
    value, error = float(found.value), float(found.standard_error)
    axes.axhline(value, color=color, linewidth=1.2, linestyle="--", label=label)
    axes.axhspan(value - 2 * error, value + 2 * error, color=color, alpha=0.2, linewidth=0)
