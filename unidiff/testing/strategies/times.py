"""Times, pairs s < t, grids, and steps of a schedule: two digits, and near the ends where digits are lost."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from torch import Tensor

from unidiff.core.boundary import check_count, check_flag, check_type
from unidiff.core.grid import TimeGrid
from unidiff.core.schedule import Schedule
from unidiff.testing.strategies.numbers import decimals
from unidiff.testing.strategies.schedules import schedules

_POWERS = st.integers(-6, -3).map(lambda k: 10.0**k)
_WAYS = st.sampled_from(["plain", "plain", "first", "last", "early", "late"])
_SELDOM = st.sampled_from([False, False, False, True])
_GAPS = st.sampled_from([0.0, 0.0, 0.0, 0.0, 1e-3, 1e-4, 1e-5, 1e-6])


@dataclass(frozen=True)
class Step:
    """A schedule and two times of it.

    Attributes:
        schedule: whose log-SNR is finite at both.
        s, t: s < t, floats.
    """

    schedule: Schedule
    s: float
    t: float


def times(schedule: Schedule | None = None, ends: bool = True) -> SearchStrategy[float]:
    """Times in [0, 1]: of two digits, towards 0.5, or a power of ten (10⁻³ … 10⁻⁶) from an end.

    Args:
        schedule: leaves out the ends at which its log-SNR is infinite.
        ends: whether 0 and 1 are drawn at all.
    """
    first, last = _reach(schedule, ends)

    @st.composite
    def drawn(draw: DrawFn) -> float:
        # As many draws whatever comes of them: to Hypothesis fewer are simpler, and an end is not.
        plain, way, gap = draw(decimals(first, last, 0.5, 2)), draw(_WAYS), draw(_POWERS)
        return {"plain": plain, "first": first, "last": last, "early": gap, "late": 1 - gap}[way]

    return drawn()


def time_pairs(
    schedule: Schedule | None = None, ends: bool = True, short: bool = False
) -> SearchStrategy[tuple[float, float]]:
    """Pairs (s, t) with s < t, towards (0.25, 0.5).

    Args:
        schedule: leaves out the ends at which its log-SNR is infinite, so that the data at t = 0 may be a point.
        ends: whether 0 and 1 are drawn at all.
        short: whether steps of 10⁻³ … 10⁻⁶ are drawn too, from 0.01 to the last time, over
            which a formula that subtracts loses its digits; else t − s is at least 0.01.
    """
    check_flag("short", short)
    first, last = _reach(schedule, ends)
    low, high = round(100 * first), round(100 * last)

    @st.composite
    def pairs(draw: DrawFn) -> tuple[float, float]:
        # The ends, where most goes wrong, are one in a hundred otherwise; as many draws for them as for others, as above.
        plain = round(100 * draw(decimals((low + 1) / 100, last, 0.5, 2)))
        t = high if draw(_SELDOM) else plain
        plain = draw(decimals(first, (t - 1) / 100, max(t // 2, low) / 100, 2))
        s = first if draw(_SELDOM) else plain
        gap = draw(_GAPS) if short else 0.0
        late = draw(_SELDOM) if short else False
        if not gap:
            return s, t / 100
        # Before 0.01 a power of t is so flat that λ at two such times may be one number.
        return (t / 100 - gap, t / 100) if late and t > 1 else (max(s, 0.01), max(s, 0.01) + gap)

    return pairs()


def grids(schedule: Schedule | None = None, least: int = 1, most: int = 8) -> SearchStrategy[TimeGrid]:
    """Grids of ``least`` to ``most`` steps, times of two digits, strictly increasing and ending at 1.

    Args:
        schedule: leaves out the time 0 where its log-SNR is infinite there.
        least, most: N.

    Raises:
        ValueError: not 1 ≤ least ≤ most ≤ 99.
    """
    check_count("least", least)
    if check_count("most", most, least) > 99:
        raise ValueError(f"most must be at most 99, the times of two digits, got {most}")
    first = round(100 * _reach(schedule, True)[0])
    inside = st.sets(st.integers(first, 99), min_size=least, max_size=most)
    return inside.map(lambda found: [*(k / 100 for k in sorted(found)), 1.0]).flatmap(
        lambda found: st.builds(TimeGrid, st.just(found))
    )


@st.composite
def steps(draw: DrawFn, of: SearchStrategy[Schedule] | None = None, ends: bool = True, short: bool = False) -> Step:
    """A :class:`Step`: a schedule (of :func:`schedules`, or of the strategy ``of``) and a pair of its times.

    ``ends`` and ``short`` as in :func:`time_pairs`.
    """
    if of is not None:
        check_type("of", of, SearchStrategy)
    schedule = draw(schedules() if of is None else of)
    s, t = draw(time_pairs(schedule, ends, short))
    return Step(schedule, s, t)


def _reach(schedule: Schedule | None, ends: bool) -> tuple[float, float]:
    """The first and the last time that may be drawn."""
    check_flag("ends", ends)
    if schedule is None:
        finite = [True, True]
    else:
        check_type("schedule", schedule, Schedule)
        at: Tensor = schedule.log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64)).detach()
        finite = torch.isfinite(at).tolist()
    return 0.0 if ends and finite[0] else 0.01, 1.0 if ends and finite[1] else 0.99
