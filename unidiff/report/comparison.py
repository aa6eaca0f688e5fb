"""Two sides of an identity over log-SNR: their difference beside what rounding allows, a panel for each schedule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from unidiff.core.boundary import check_type
from unidiff.core.schedule import Schedule
from unidiff.identities.case import Case
from unidiff.identities.laws import ALGEBRAIC_C, excess_ratio
from unidiff.identities.subjects import DTYPES, SCHEDULES, exact_case
from unidiff.report.plots import as_svg, new_figure
from unidiff.report.views import look
from unidiff.worlds import library
from unidiff.worlds.world import World

Side = Callable[[Case], Tensor]
_MARKS = {"float64": "o", "float32": "v"}
_LEAST = 1e-19


@dataclass(frozen=True)
class Panel:
    """One schedule in one dtype.

    Attributes:
        log_snr: of each member, ``[B]``.
        residual: the largest |left − right|/κ among a member's numbers, ``[B]``.
        tolerance: the algebraic law's, 64 eps of the dtype.
    """

    log_snr: np.ndarray
    residual: np.ndarray
    tolerance: float


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` found; in a notebook it shows :meth:`figure`.

    Attributes:
        panels: by schedule and dtype.
        views: whose sides they are.
    """

    panels: Mapping[str, Mapping[str, Panel]]
    views: tuple[str, str]

    @property
    def worst(self) -> float:
        """The largest residual over its tolerance; above 1 the identity is violated."""
        return max(float((p.residual / p.tolerance).max()) for row in self.panels.values() for p in row.values())

    @property
    def holds(self) -> bool:
        """Whether every member is within its tolerance."""
        return self.worst <= 1

    def figure(self) -> Figure:
        """A panel for each schedule: residuals in either dtype, and the two lines they must stay below."""
        names = list(self.panels)
        across = min(4, len(names))
        down = -(-len(names) // across)
        figure = new_figure(2.65 * across, 0.55 + 2.1 * down)
        grid = np.atleast_1d(figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)).reshape(-1)
        colours = dict(zip(DTYPES, (look(view).colour for view in self.views), strict=True))
        for axes, name in zip(grid, names, strict=False):
            for dtype, panel in self.panels[name].items():
                self._draw(axes, dtype, panel, colours[dtype])
            axes.set_title(name, fontsize=9)
            axes.set_yscale("log")
            axes.set_facecolor("none")
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(length=2, labelsize=8)
            axes.grid(color="#e4e4e4", linewidth=0.6)
        for axes in grid[len(names) :]:
            axes.set_visible(False)
        for axes in grid[max(0, len(names) - across) : len(names)]:
            axes.set_xlabel("log-SNR λ", fontsize=8.5)
            axes.xaxis.set_tick_params(labelbottom=True)
        for axes in grid[::across]:
            axes.set_ylabel("|left − right| / κ", fontsize=8.5)
        handles, labels = grid[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False, fontsize=8)
        return figure

    @staticmethod
    def _draw(axes: object, dtype: str, panel: Panel, colour: str) -> None:
        from matplotlib.axes import Axes

        assert isinstance(axes, Axes)
        out = panel.residual > panel.tolerance
        shown = np.clip(np.nan_to_num(panel.residual, nan=np.inf), _LEAST, 1e6)
        axes.axhline(
            panel.tolerance, color=colour, linewidth=1.1, linestyle="--" if dtype == "float32" else "-",
            label=f"allowed, {dtype}",
        )  # fmt: skip
        axes.scatter(
            panel.log_snr, shown, s=9, marker=_MARKS[dtype], color=colour, alpha=0.75, linewidths=0, label=dtype
        )
        if out.any():
            axes.scatter(panel.log_snr[out], shown[out], s=26, marker="x", color="#c0392b", linewidths=1.1, zorder=4)

    def _repr_html_(self) -> str:
        return f"<div class='comparison'>{as_svg(self.figure())}<p><b>{self!r}</b></p></div>"

    def __repr__(self) -> str:
        word = "holds" if self.holds else "violated"
        residuals = [panel.residual for row in self.panels.values() for panel in row.values()]
        same = float(np.mean(np.concatenate(residuals) == 0))
        bits = f"; {same:.0%} of the draws agree to the last bit (the dots at the foot)" if same else ""
        return f"{word}: the worst residual is {self.worst:.2g} of what is allowed{bits}"


def compare(
    left: Side,
    right: Side,
    kappa: Side | None = None,
    *,
    views: tuple[str, str],
    world: World | None = None,
    schedules: Mapping[str, Schedule] | None = None,
    seed: int = 0,
) -> Comparison:
    """Compute both sides on the registry's own draws, by its algebraic law, over every schedule in both dtypes.

    Args:
        left, right: from a :class:`~unidiff.identities.case.Case` (its ``core``, ``world``, ``t``, ``s``, ``x0``, ``noise``,
            ``xt``, ``level``, …) to numbers ``[B, …]``, in the case's dtype. Each is a path of its own.
        kappa: the size of the numbers whose rounding reaches the difference, ``[B, …]`` or ``[B]``; the larger side of each
            member if left out.
        views: whose sides they are, for the colours: the left's is float64's, the right's float32's.
        world: of the data; a mixture of the plane if left out.
        schedules: by name; all the kinds that the registry verifies if left out.
        seed: of the draws.

    Raises:
        ValueError: sides of different shapes, or a view that does not exist.
        TypeError: a side is no tensor, or a schedule none.
    """
    for view in views:
        look(view)
    law = library.mixture_2d() if world is None else world
    kinds = {name: make() for name, make in SCHEDULES.items()} if schedules is None else dict(schedules)
    panels: dict[str, dict[str, Panel]] = {}
    for name, schedule in kinds.items():
        check_type(f"schedules[{name!r}]", schedule, Schedule)
        for dtype in DTYPES:
            case = exact_case(law, type(law).__name__, schedule, name, dtype, torch.device("cpu"), seed)
            panels.setdefault(name, {})[dtype] = _panel(case, left, right, kappa)
    return Comparison(panels, views)


def _panel(case: Case, left: Side, right: Side, kappa: Side | None) -> Panel:
    values = []
    for name, side in (("left", left), ("right", right)):
        value = side(case)
        check_type(f"what {name} returns", value, Tensor)
        values.append(value.detach().to("cpu", torch.float64))
    one, other = values
    if one.shape != other.shape or one.ndim == 0 or one.shape[0] != case.batch:
        raise ValueError(
            f"left and right must return numbers [{case.batch}, …] of one shape, got {list(one.shape)} and "
            f"{list(other.shape)}"
        )
    one, other = one.reshape(case.batch, -1), other.reshape(case.batch, -1)
    if kappa is None:
        size = torch.maximum(one.abs(), other.abs()).amax(1, keepdim=True)
    else:
        size = kappa(case).detach().to("cpu", torch.float64).abs().reshape(case.batch, -1)
    residual = excess_ratio(one, other, size).amax(1)
    log_snr = case.schedule.log_snr(case.t).detach()
    order = log_snr.argsort()
    tolerance = ALGEBRAIC_C * torch.finfo(case.dtype).eps
    return Panel(log_snr[order].numpy(), residual[order].numpy(), tolerance)
