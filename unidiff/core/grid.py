r"""A time grid: 0 ≤ t_0 < t_1 < … < t_N = 1, N steps. Sampling walks it from t_N down to t_0.

Uniform: t_i = i/N. Quadratic: t_i = (i/N)² (Song et al. 2021, DDIM, appendix D.2). Karras: (σ/α)^{1/ρ} evenly spaced
(Karras et al. 2022, eq. 5). Uniform in log-SNR: λ evenly spaced (Lu et al. 2022). The last two need finite ends of λ
unless other ends are given. Heard: λ evenly spaced where neither the data nor the noise is faint.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from unidiff.core.boundary import as_sequence, check_count, check_positive, check_real, check_time, check_type
from unidiff.core.schedule import Schedule


@dataclass(frozen=True, eq=False)
class TimeGrid:
    """Strictly increasing times ``[N + 1]``, float64, the first at least 0 and the last exactly 1.

    Raises:
        ValueError: fewer than two times, NaN, outside [0, 1], not increasing, or a last time other than 1.
    """

    times: Tensor

    def __init__(self, times: Sequence[float] | Tensor) -> None:
        t = as_sequence("times", times)
        if t.numel() < 2:
            raise ValueError(f"times must hold at least two times, got {t.tolist()}")
        if torch.isnan(t).any() or t[0] < 0 or t[-1] != 1:
            raise ValueError(f"times must start at 0 or later and end at 1, got {t[0].item()} … {t[-1].item()}")
        steps = t.diff()
        if (steps <= 0).any():
            i = int((steps <= 0).nonzero()[0])
            raise ValueError(f"times must increase strictly, got {t[i].item()} then {t[i + 1].item()} at index {i}")
        object.__setattr__(self, "times", t)

    @property
    def steps(self) -> int:
        """N."""
        return self.times.numel() - 1

    def __len__(self) -> int:
        return self.times.numel()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TimeGrid) and torch.equal(self.times, other.times)

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    @staticmethod
    def uniform(steps: int, first: float = 0.0) -> TimeGrid:
        """N even steps from ``first`` to 1."""
        return TimeGrid(_spaced(_start(first), 1.0, check_count("steps", steps)))

    @staticmethod
    def quadratic(steps: int, first: float = 0.0) -> TimeGrid:
        """√t evenly spaced from ``first`` to 1: finer near the data."""
        start = _start(first)
        return TimeGrid(_ends(_spaced(start**0.5, 1.0, check_count("steps", steps)).square(), start))

    @staticmethod
    def karras(steps: int, schedule: Schedule, rho: float = 7.0, first: float = 0.0) -> TimeGrid:
        """(σ/α)^{1/ρ} evenly spaced from t = ``first`` to 1."""
        check_positive("rho", rho)
        log_snr = _log_snr_ends(schedule, first)
        first_root, last_root = (-log_snr / (2 * rho)).exp().tolist()
        roots = _spaced(first_root, last_root, check_count("steps", steps))
        return TimeGrid(_ends(schedule.time(_inside(-2 * rho * roots.log(), log_snr)), first))

    @staticmethod
    def uniform_log_snr(steps: int, schedule: Schedule, first: float = 0.0) -> TimeGrid:
        """λ evenly spaced from λ(``first``) to λ(1)."""
        log_snr = _log_snr_ends(schedule, first)
        highest, lowest = log_snr.tolist()
        values = _spaced(highest, lowest, check_count("steps", steps))
        return TimeGrid(_ends(schedule.time(_inside(values, log_snr)), first))

    @staticmethod
    def heard(steps: int, schedule: Schedule, high: float = 6.0, low: float = -6.0) -> TimeGrid:
        """λ evenly spaced from ``high`` to ``low``, where data and noise are both heard, and one step more from t = 1.

        A chain of few steps on a schedule that goes on to almost no noise: what it ends in has noise of e^{−high/2} left.

        Args:
            steps: N, at least 2.
            schedule: with some of that range; an end that it does not reach is its own.
            high, low: log-SNRs, the first above the second.

        Raises:
            ValueError: steps below 2; high not above low, or the schedule wholly outside of them.
        """
        check_count("steps", steps, 2)
        check_type("schedule", schedule, Schedule)
        for name, value in (("high", high), ("low", low)):
            if not math.isfinite(check_real(name, value)):
                raise ValueError(f"{name} must be finite, got {value}")
        most, least = schedule.log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64)).detach().tolist()
        top, bottom = min(float(high), most), max(float(low), least)
        if not top > bottom:
            raise ValueError(
                f"high and low must be log-SNRs that leave some of the schedule's own, [{least:g}, {most:g}], "
                f"got high = {high} and low = {low}"
            )
        apart = bottom > least  # else t = 1 is the last of them
        times = schedule.time(torch.linspace(top, bottom, steps + 1 - apart, dtype=torch.float64)).detach()
        return TimeGrid(torch.cat([times[:steps], times.new_ones(1)]))

    def save(self, path: str | Path, schedule: Schedule | None = None) -> None:
        """Write the times as JSON, with the schedule's fingerprint: its α and σ there."""
        told = {"times": self.times.tolist()} | ({} if schedule is None else _fingerprint(schedule, self.times))
        Path(path).write_text(json.dumps(told) + "\n")

    @staticmethod
    def load(path: str | Path, schedule: Schedule | None = None) -> TimeGrid:
        """Read what :meth:`save` wrote.

        Args:
            path: the file.
            schedule: for which the grid is to be used; its fingerprint is compared with the file's, if that has one.

        Raises:
            ValueError: with the path, for a file that holds no grid, or one of another schedule.
        """
        try:
            told = json.loads(Path(path).read_text())
            grid = TimeGrid(told["times"])
            kept = {name: as_sequence(name, told[name]) for name in _MARKS if name in told}
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
        ) as error:  # no file, no JSON, no times, or times that are no grid
            raise ValueError(f"path must hold a time grid ({{'times': [...]}}), {path} does not: {error}") from error
        if schedule is not None:
            _check_fingerprint(path, grid, schedule, kept)
        return grid

    def __repr__(self) -> str:
        return f"TimeGrid({self.steps} steps from {self.times[0].item():g} to 1)"


_MARKS = ("alpha", "sigma")
_SAME, _ZERO = 1e-9, 1e-12  # JSON keeps float64 to the bit; devices and versions differ in its last digits


def _fingerprint(schedule: Schedule, times: Tensor) -> dict[str, list[float]]:
    level = schedule.level(times)
    return {name: getattr(level, name).detach().tolist() for name in _MARKS}


def _check_fingerprint(path: str | Path, grid: TimeGrid, schedule: Schedule, kept: dict[str, Tensor]) -> None:
    own = _fingerprint(schedule, grid.times)
    for name, mine in kept.items():
        theirs = as_sequence(name, own[name])
        if mine.shape != theirs.shape:
            raise ValueError(f"path must hold one {name} for each time, {path} has {len(mine)} for {len(theirs)}")
        off = ~((mine - theirs).abs() <= _SAME * theirs.abs() + _ZERO)
        if bool(off.any()):
            i = int(off.nonzero()[0])
            raise ValueError(
                f"path must hold a grid of this schedule, {path} is of another: {name} = {mine[i].item():.10g} at "
                f"t = {grid.times[i].item():.10g}, here {theirs[i].item():.10g}"
            )


def _start(first: float) -> float:
    start = float(check_time("first", first))
    if not start < 1.0:
        raise ValueError(f"first must be earlier than 1, the grid's last time, got {first}")
    return start


def _spaced(first: float, last: float, steps: int) -> Tensor:
    return torch.linspace(first, last, steps + 1, dtype=torch.float64)


def _ends(times: Tensor, first: float) -> Tensor:
    times[0], times[-1] = first, 1.0
    return times


def _inside(values: Tensor, ends: Tensor) -> Tensor:
    return values.clamp(float(ends.min()), float(ends.max()))


def _log_snr_ends(schedule: Schedule, first: float) -> Tensor:
    ends = schedule.log_snr(torch.tensor([_start(first), 1.0], dtype=torch.float64)).detach()
    if not torch.isfinite(ends).all():
        raise ValueError(
            f"first must be a time at which the log-SNR is finite (and so must time 1), got first = {first} "
            f"with log-SNRs {ends.tolist()}; pass a later first time"
        )
    return ends
