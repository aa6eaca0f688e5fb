"""The README's picture: ``python docs/picture.py`` draws docs/picture.png, from a quick run and a closed-form world."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch

import unidiff as ud
from unidiff.identities import Report

INK, SOFT, BLUE, RED, GREEN = "#1c2024", "#8a949c", "#2b6cb0", "#c0392b", "#2f7d4f"


def flow(ax: plt.Axes) -> None:
    """Paths of the probability flow from noise to a three-component world, over its density and its score."""
    world = ud.worlds.library.mixture_2d()
    core = ud.Diffusion(ud.Schedule.cosine(), ud.worlds.OracleDenoiser(world))
    grid = ud.TimeGrid.uniform_log_snr(400, core.schedule)
    side = torch.linspace(-2.6, 2.6, 121, dtype=torch.float64)
    plane = torch.cartesian_prod(side, side)
    density = world.log_prob(plane).exp().reshape(121, 121).T
    ax.contourf(side, side, density.sqrt(), levels=16, cmap="Blues", alpha=0.9)  # the root shows the tails
    x = core.prior(40, torch.Generator().manual_seed(1), plane)
    path = [x]
    for k in range(grid.steps, 0, -1):
        at, to = (core.schedule.level(grid.times[j], x) for j in (k, k - 1))
        eps = core.predict(x, grid.times[k]).eps
        x = to.alpha * (x / at.alpha + (to.sigma / to.alpha - at.sigma / at.alpha) * eps)
        path.append(x)
    walk = torch.stack(path).numpy()
    ax.plot(walk[..., 0], walk[..., 1], color=INK, lw=0.5, alpha=0.55)
    ax.plot(*walk[0].T, "o", ms=2.4, color=SOFT)
    ax.plot(*walk[-1].T, "o", ms=3.2, color=RED)
    ax.set(xlim=(-2.6, 2.6), ylim=(-2.6, 2.6), xticks=[], yticks=[], aspect="equal")
    ax.set_title("a world where the answer is known:\nnoise (grey) flows to data (red) along the exact score")


def dots(ax: plt.Axes, report: Report) -> None:
    """Every judged check at its residual over its tolerance, a row for each law."""
    laws = ["algebraic", "quadrature", "order", "monte_carlo"]
    random = np.random.default_rng(0)
    for row, law in enumerate(reversed(laws)):
        checks = [c for c in report.checks if c.law == law and c.verdict != "gap"]
        ratio = np.array([max(c.residual / c.tolerance, 10.0**-6.8) for c in checks])
        ax.scatter(ratio, row + random.uniform(-0.3, 0.3, len(ratio)), s=7, color=GREEN, alpha=0.45, lw=0)
        ax.text(10.0**-6.9, row + 0.38, f"{law.replace('_', ' ')}, {len(checks)} checks", color=INK, fontsize=8)
    ax.axvline(1.0, color=RED, lw=1.5)
    ax.text(1.25, -0.45, "violated", color=RED, fontsize=9)
    ax.set(xscale="log", xlim=(1e-7, 30), ylim=(-0.6, len(laws) - 0.3), yticks=[])
    ax.set_xlabel("residual / tolerance")
    ax.set_title("both sides of every identity, computed apart:\none dot for each check of a quick run")


def main() -> None:
    """Draw and save."""
    report = ud.verify(quick=True)
    plt.rcParams.update({"font.size": 9, "axes.titlesize": 10, "axes.edgecolor": SOFT, "text.color": INK})
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 4.3), width_ratios=[1, 1.25], layout="constrained")
    flow(axes[0])
    dots(axes[1], report)
    for side in ("top", "right", "left"):
        axes[1].spines[side].set_visible(False)
    figure.savefig(Path(__file__).with_name("picture.png"), dpi=110)


if __name__ == "__main__":
    main()
