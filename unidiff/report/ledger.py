"""The bound's ledger as a picture: what each step costs, over log-SNR, and how the costs add up from noise to data."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from unidiff.report.plots import LINES, new_figure, plain


def ledger(log_snr: np.ndarray, terms: np.ndarray, errors: np.ndarray, ends: tuple[float, float], dim: int) -> Figure:
    """Two panels over log-SNR, data to the right.

    Args:
        log_snr: λ at t_0 … t_N, ``[N + 1]``, falling.
        terms: mean KL of steps 1 … N, in nats, ``[N]``.
        errors: their standard errors over examples, ``[N]``.
        ends: the prior's and the reconstruction's mean cost, in nats.
        dim: D: costs are drawn in bits per dimension.
    """
    unit = np.log(2) * dim
    middle, width = 0.5 * (log_snr[:-1] + log_snr[1:]), log_snr[:-1] - log_snr[1:]
    figure = new_figure(7.6, 3.3)
    rate, total = figure.subplots(1, 2)
    rate.fill_between(
        middle,
        (terms - 2 * errors) / width / unit,
        (terms + 2 * errors) / width / unit,
        color=LINES[0],
        alpha=0.25,
        linewidth=0,
    )
    rate.plot(middle, terms / width / unit, color=LINES[0], linewidth=1.4)
    rate.set_ylabel("bits/dim for each unit of λ")
    rate.set_title("what a step costs (band: 2 s.e.)", fontsize=9)
    # From the noise down: the prior first, then the steps, the decoder last.
    paid = np.concatenate([[ends[0]], ends[0] + np.cumsum(terms[::-1])]) / unit
    total.plot(log_snr[::-1], paid, color=LINES[0], linewidth=1.4)
    last = paid[-1] + ends[1] / unit
    total.plot(
        [log_snr[0]] * 2, [paid[-1], last], color=LINES[1], linewidth=2.4, label=f"decoder {ends[1] / unit:+.3f}"
    )
    total.plot([log_snr[0]], [last], "o", color=LINES[1], markersize=4, label=f"all {last:.3f}")
    total.plot([log_snr[-1]], [paid[0]], "o", color=LINES[2], markersize=4, label=f"prior {ends[0] / unit:.4f}")
    total.set_ylabel("bits/dim so far")
    total.set_title("paid from noise to data", fontsize=9)
    total.legend(frameon=False, fontsize=8)
    for axes in (rate, total):
        axes.set_xlabel("log-SNR λ")
        axes.grid(color="#e4e4e4", linewidth=0.6)
        plain(axes)
    rate.set_ylim(bottom=0)
    return figure
