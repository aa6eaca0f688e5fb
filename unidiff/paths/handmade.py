r"""Grids that people made, to be beaten.

uniform in t; quadratic (Song et al. 2021); Karras' (Karras et al. 2022, ρ = 7); even in log-SNR (Lu et al. 2022); and the
published grids of Align Your Steps (Sabour et al. 2024, tables of noise levels σ/α for Stable Diffusion 1.5 and XL, ten
steps), read at other numbers of steps as their authors do: log σ/α linearly between entries. They are of other models, and
are carried over by noise level.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from unidiff.core.boundary import check_count, check_type
from unidiff.core.grid import TimeGrid
from unidiff.core.schedule import Schedule
from unidiff.core.tables import LAST_STOP

AYS: dict[str, tuple[float, ...]] = {
    "AYS, SD 1.5": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "AYS, SDXL": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
}
"""σ/α from noise to data."""


def handmade(schedule: Schedule, steps: int, first: float = 0.0) -> dict[str, TimeGrid]:
    """The grids of ``steps`` steps from ``first`` to 1, by name; one that collapses on this schedule is left out.

    Args:
        schedule: of the core.
        steps: K.
        first: t_0. Where there is no noise, the grids that are even in a function of λ end at ``LAST_STOP`` with one step
            more to t_0, which counts among the K.
    """
    check_count("steps", steps)
    check_type("schedule", schedule, Schedule)
    found = {"uniform": TimeGrid.uniform(steps, first), "quadratic": TimeGrid.quadratic(steps, first)}
    finite = math.isfinite(float(schedule.log_snr(first).detach()))
    start, inner = (first, steps) if finite else (LAST_STOP, steps - 1)
    even = {
        "Karras": lambda: TimeGrid.karras(inner, schedule, first=start),
        "log-SNR": lambda: TimeGrid.uniform_log_snr(inner, schedule, first=start),
    } | {name: lambda sigmas=sigmas: _carried(sigmas, inner, schedule, start) for name, sigmas in AYS.items()}
    for name, make in even.items():
        times = [first] if not inner else [*([] if finite else [first]), *make().times.tolist()]
        if inner and all(a < b for a, b in itertools.pairwise(times)):
            found[name] = TimeGrid(times)
    return found


def _carried(sigmas: tuple[float, ...], steps: int, schedule: Schedule, first: float) -> TimeGrid:
    """Noise levels on another schedule, its own ends at the ends."""
    known = -2 * torch.tensor(sigmas, dtype=torch.float64).log().flip(0)
    place = torch.linspace(0, len(sigmas) - 1, steps + 1, dtype=torch.float64)
    below = place.floor().clamp(max=len(sigmas) - 2).long()
    levels = torch.lerp(known[below], known[below + 1], place - below)
    ends = schedule.log_snr(torch.tensor([first, 1.0], dtype=torch.float64)).detach()
    inside = levels[1:-1].clamp(ends[1], ends[0])
    return TimeGrid(_distinct(torch.cat([ends.new_tensor([first]), schedule.time(inside).detach(), ends.new_ones(1)])))


def _distinct(times: Tensor) -> Tensor:
    """Times that coincide at an end of the schedule moved apart: halfway to their neighbour inside."""
    times = times.clone()
    for k in range(1, len(times) - 1):
        if times[k] <= times[k - 1]:
            later = times[k + 1 :][times[k + 1 :] > times[k - 1]][0]
            times[k] = 0.5 * (times[k - 1] + later)
    for k in range(len(times) - 2, 0, -1):
        if times[k] >= times[k + 1]:
            times[k] = 0.5 * (times[k - 1] + times[k + 1])
    return times
