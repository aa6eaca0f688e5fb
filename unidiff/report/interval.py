"""What holds in expectation only: the interval of a mean of draws, as it shrinks with their number."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.stats import norm
from torch import Tensor

from unidiff.core.boundary import check_finite, check_type
from unidiff.identities.laws import ALGEBRAIC_C
from unidiff.report.plots import as_svg, new_figure, plain
from unidiff.report.views import look

_FEWEST = 16
LEVEL = 0.99
_WIDTH = float(norm.isf((1 - LEVEL) / 2))  # of half the interval, in standard errors


@dataclass(frozen=True)
class Shrinking:
    """A mean of draws beside its value, at growing numbers of draws; in a notebook it shows :meth:`figure`.

    Attributes:
        n: numbers of draws, ``[K]``.
        mean: of the first n draws, ``[K]``.
        half: half the width of their interval, ``[K]``.
        value: what the mean should be.
        views: whose sides they are: the draws', and the value's.
        name: what is averaged.
        rounding: 64 units in the last place of the draws, which no number of them averages away.
    """

    n: np.ndarray
    mean: np.ndarray
    half: np.ndarray
    value: float
    views: tuple[str, str]
    name: str
    rounding: float = 0.0

    @property
    def score(self) -> float:
        """|mean − value| in standard errors, with all the draws, beyond what rounding may do."""
        standard_error = self.half[-1] / _WIDTH
        off = max(0.0, abs(self.mean[-1] - self.value) - self.rounding)
        return float(off / standard_error) if standard_error > 0 else (0.0 if off == 0 else math.inf)

    @property
    def holds(self) -> bool:
        """Whether the value is within the last interval; of true values one in a hundred is not."""
        return bool(abs(self.mean[-1] - self.value) <= self.half[-1] + self.rounding)

    def figure(self) -> Figure:
        """Two panels over n: the mean with its interval beside the value, and the interval's width beside n^−½."""
        figure = new_figure(8.6, 3.1)
        left, right = figure.subplots(1, 2)
        ours, theirs = look(self.views[0]), look(self.views[1])
        left.fill_between(
            self.n, self.mean - self.half, self.mean + self.half, color=ours.colour, alpha=0.22, linewidth=0,
            label=f"{LEVEL:.0%} interval",
        )  # fmt: skip
        left.plot(
            self.n, self.mean, ours.line, color=ours.colour, linewidth=1.3, label=f"{ours.title}: mean of n draws"
        )
        left.axhline(
            self.value, color=theirs.colour, linestyle="--", linewidth=1.3, label=f"{theirs.title}: {self.value:.5g}"
        )
        left.set_ylabel(self.name)
        right.plot(self.n, 2 * self.half, ours.marker, color=ours.colour, markersize=4, label="width of the interval")
        right.plot(
            self.n, 2 * self.half[-1] * np.sqrt(self.n[-1] / self.n), color="#66707a", linewidth=1.0, label="∝ n^−½"
        )
        off = np.abs(self.mean - self.value)
        right.plot(
            self.n, np.where(off > 0, off, np.nan), ":", color=theirs.colour, linewidth=1.2, label="|mean − value|"
        )
        right.set_yscale("log")
        for axes in (left, right):
            axes.set_xscale("log")
            axes.set_xlabel("draws n")
            plain(axes)
            axes.grid(color="#e4e4e4", linewidth=0.6)
            axes.legend(frameon=False, fontsize=8)
        return figure

    def _repr_html_(self) -> str:
        return f"<div class='comparison'>{as_svg(self.figure())}<p><b>{self!r}</b></p></div>"

    def __repr__(self) -> str:
        return (
            f"{self.mean[-1]:.5g} ± {self.half[-1]:.2g} of {self.n[-1]} draws beside {self.value:.5g}: "
            f"{self.score:.1f} standard errors apart"
        )


def shrinking(draws: Tensor, value: float | Tensor, *, views: tuple[str, str], name: str = "mean") -> Shrinking:
    """The mean of the first n of ``draws`` with its 99% interval (by the normal law), from 16 draws to all of them.

    Args:
        draws: independent and alike, ``[N]``, N ≥ 64.
        value: what their mean should be.
        views: whose sides they are: the draws', and the value's.
        name: what is averaged, with its unit, for the axis.

    Raises:
        ValueError: too few draws, draws that are not ``[N]`` or not finite, not two views, or one that does not exist.
        TypeError: draws that are no tensor, a value that is not one number.
    """
    if len(views) != 2:
        raise ValueError(f"views must be two, the draws' and the value's, got {views!r}")
    for view in views:
        look(view)
    check_type("draws", draws, Tensor)
    if draws.ndim != 1 or draws.shape[0] < 64:
        raise ValueError(f"draws must be at least 64 numbers [N], got shape {list(draws.shape)}")
    check_finite("draws", draws)
    if not isinstance(value, int | float) and not (isinstance(value, Tensor) and value.numel() == 1):
        raise TypeError(f"value must be one number, got {value!r}")
    known = float(value)
    if not math.isfinite(known):
        raise ValueError(f"value must be finite, got {known}")
    x = draws.detach().to("cpu", torch.float64).numpy()
    n = np.unique(np.geomspace(_FEWEST, len(x), 40).round().astype(int))
    mean = np.array([x[:k].mean() for k in n])
    half = np.array([_WIDTH * x[:k].std(ddof=1) / math.sqrt(k) for k in n])
    eps = torch.finfo(draws.dtype if draws.is_floating_point() else torch.float64).eps
    rounding = ALGEBRAIC_C * eps * max(abs(known), float(np.abs(x).mean()))
    return Shrinking(n, mean, half, known, views, name, rounding)
