"""Two sides of an identity over log-SNR: their difference beside what rounding allows, a panel for each schedule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from unidiff.core.boundary import check_type
from unidiff.core.schedule import Schedule
from unidiff.identities.case import Case
from unidiff.identities.laws import Sides, excess_ratio, judge_algebraic
from unidiff.identities.report import Verdict
from unidiff.identities.subjects import DTYPES, SCHEDULES, exact_case
from unidiff.report.plots import COLORS, as_svg, new_figure, plain
from unidiff.report.views import look
from unidiff.worlds import library
from unidiff.worlds.world import World

Side = Callable[[Case], Tensor]
_MARKS = {"float64": "o", "float32": "v"}
_LEAST = 1e-19
_WORDS = {"pass": "holds", "fail": "violated", "inconclusive": "undecided, κ is too large to see a violation"}


@dataclass(frozen=True)
class Panel:
    """One schedule in one dtype.

    Attributes:
        log_snr: of each member, ``[B]``.
        residual: the largest |left − right|/κ among a member's numbers, ``[B]``.
        tolerance: the algebraic law's, 64 eps of the dtype.
        same: the share of members whose sides are equal to the last bit.
        verdict: the law's: ``inconclusive`` where κ is so large that a tenth of the value would not be seen.
    """

    log_snr: np.ndarray
    residual: np.ndarray
    tolerance: float
    same: float
    verdict: Verdict


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
        """The largest residual over its tolerance; above 1, or NaN, the identity is violated."""
        # numpy's maximum is NaN where one is; Python's need not be.
        return float(np.max([panel.residual.max() / panel.tolerance for panel in self._panels]))

    @property
    def verdict(self) -> Verdict:
        """The worst of the panels': ``fail``, ``inconclusive`` or ``pass``."""
        found = {panel.verdict for panel in self._panels}
        return next(verdict for verdict in ("fail", "inconclusive", "pass") if verdict in found)

    @property
    def holds(self) -> bool:
        """Whether every panel passes."""
        return self.verdict == "pass"

    @property
    def _panels(self) -> list[Panel]:
        return [panel for row in self.panels.values() for panel in row.values()]

    def figure(self) -> Figure:
        """A panel for each schedule: residuals in either dtype, and the two lines they must stay below."""
        names = list(self.panels)
        across = min(4, len(names))
        down = -(-len(names) // across)
        figure = new_figure(2.65 * across, 0.55 + 2.1 * down)
        grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).reshape(-1)
        colours = dict(zip(DTYPES, (look(view).colour for view in self.views), strict=True))
        for axes, name in zip(grid, names, strict=False):
            for dtype, panel in self.panels[name].items():
                self._draw(axes, dtype, panel, colours[dtype])
            axes.set_title(name, fontsize=9)
            axes.set_yscale("log")
            plain(axes)
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
    def _draw(axes: Axes, dtype: str, panel: Panel, colour: str) -> None:
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
            axes.scatter(
                panel.log_snr[out], shown[out], s=26, marker="x", color=COLORS["fail"], linewidths=1.1, zorder=4
            )

    def _repr_html_(self) -> str:
        return f"<div class='comparison'>{as_svg(self.figure())}<p><b>{self!r}</b></p></div>"

    def __repr__(self) -> str:
        same = float(np.mean([panel.same for panel in self._panels]))
        bits = f"; {same:.0%} of the draws agree to the last bit (the dots at the foot)" if same else ""
        return f"{_WORDS[self.verdict]}: the worst residual is {self.worst:.2g} of what is allowed{bits}"


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
    """Compute both sides on the registry's own draws and judge them by its algebraic law, on every schedule in both dtypes.

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
        ValueError: sides of different shapes or without numbers, a κ that does not broadcast to them or is not finite,
            no schedule, not two views, or a view that does not exist.
        TypeError: what is no function, no world or no schedule; a side or a κ that is no real tensor in the case's dtype.
    """
    if len(views) != 2:
        raise ValueError(f"views must be two, the left's and the right's, got {views!r}")
    for view in views:
        look(view)
    for argument, side in (("left", left), ("right", right), *((("kappa", kappa),) if kappa is not None else ())):
        if not callable(side):
            raise TypeError(f"{argument} must be a function of a case, got {side!r}")
    if world is not None:
        check_type("world", world, World)
    if schedules is not None and not schedules:
        raise ValueError("schedules must name at least one, got none")
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
    one, other = (_numbers(case, name, side(case)) for name, side in (("left", left), ("right", right)))
    if one.shape != other.shape:
        raise ValueError(f"left and right must return one shape, got {list(one.shape)} and {list(other.shape)}")
    if kappa is None:
        size = torch.maximum(one.abs(), other.abs()).amax(1, keepdim=True)
    else:
        size = _numbers(case, "kappa", kappa(case)).abs()
        if size.shape[1] not in (1, one.shape[1]):
            raise ValueError(
                f"kappa must return [{case.batch}] or the sides' shape, got {size.shape[1]} numbers a member"
            )
        if not bool(torch.isfinite(size).all()):
            raise ValueError(
                f"kappa must be finite, got {float(size[~torch.isfinite(size)][0])} ({case.schedule_name})"
            )
    found = judge_algebraic([Sides(one, other, size)], case.dtype)
    residual = excess_ratio(one, other, size).amax(1)
    log_snr = case.schedule.log_snr(case.t).detach()
    order = log_snr.argsort()
    same = float((one == other).all(1).to(torch.float64).mean())
    return Panel(log_snr[order].numpy(), residual[order].numpy(), found.tolerance, same, found.verdict)


def _numbers(case: Case, name: str, value: object) -> Tensor:
    check_type(f"what {name} returns", value, Tensor)
    assert isinstance(value, Tensor)
    # A κ or a side may be had from the schedule, which is float64; rounding to the case's dtype is the side's own business.
    if value.dtype not in (case.dtype, torch.float64):
        raise TypeError(f"what {name} returns must be {case.dtype_name}, the case's, got {value.dtype}")
    if value.ndim == 0 or value.shape[0] != case.batch or value.numel() == 0:
        raise ValueError(f"{name} must return numbers [{case.batch}, …], got shape {list(value.shape)}")
    return value.detach().to("cpu", torch.float64).reshape(case.batch, -1)
