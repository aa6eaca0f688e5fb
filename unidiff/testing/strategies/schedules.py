"""Every kind of schedule, with options of few digits; the plainest, the cosine as it comes, first."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from unidiff.core.boundary import check_name
from unidiff.core.schedule import Schedule
from unidiff.testing.strategies.numbers import decimals

_HIGH, _LOW = decimals(2, 20, 15, 0), decimals(-20, -2, -15, 0)

_PLAIN: dict[str, SearchStrategy[Any]] = {
    "cosine": st.one_of(st.builds(Schedule.cosine), st.builds(Schedule.cosine, _HIGH, _LOW)),
    "linear": st.builds(Schedule.linear, decimals(0.1, 2, 0.1), decimals(2, 30, 20, 0)),
    "polynomial": st.builds(Schedule.polynomial, decimals(0.5, 3, 1), _HIGH, _LOW),
    "sigmoid": st.builds(
        Schedule.sigmoid,
        decimals(-6, 0, -3, 0),
        decimals(1, 6, 3, 0),
        decimals(0.3, 2, 1),
    ),
    "karras": st.builds(
        Schedule.karras,
        decimals(0.002, 0.2, 0.002, 3),
        decimals(1, 100, 80, 0),
        decimals(1, 9, 7, 0),
    ),
    "from_betas": st.builds(Schedule.from_betas, st.lists(decimals(0.01, 0.6, 0.1, 2), min_size=2, max_size=12)),
    # It uses none of these draws: to Hypothesis fewer draws are simpler, and a table of a thousand betas is not.
    "ddpm": st.builds(Schedule.named, st.tuples(*3 * [st.integers(0, 9)]).map(lambda _: "ddpm")),
    "learned": st.builds(
        Schedule.learned,
        _HIGH,
        _LOW,
        st.integers(1, 8),
        st.integers(0, 99),
    ),
}
KINDS: tuple[str, ...] = (*_PLAIN, "as_ve", "as_vp")
"""What :func:`schedules` draws from: the kinds, and either convention of a kind that has the other."""

_VP = st.one_of(*(strategy for name, strategy in _PLAIN.items() if name != "karras"))
_ALL = _PLAIN | {
    "as_ve": st.builds(Schedule.as_ve, _VP),
    "as_vp": st.builds(Schedule.as_vp, _PLAIN["karras"]),
}


def schedules(kinds: Iterable[str] = KINDS) -> SearchStrategy[Schedule]:
    """Schedules of the kinds named, each a valid one, the first of them first.

    The log-SNR runs from between 2 and 20 (∞ for linear and betas, at t = 0 alone) to between −20 and 4; the betas have
    two digits, from 0.01 to 0.6, and are 2 to 12, so that T is small. A learned schedule's parameters require gradients.

    Raises:
        ValueError: an unknown kind, or none.
    """
    if isinstance(kinds, str):
        raise ValueError(f"kinds must be a sequence of names, got the name {kinds!r} alone; write ({kinds!r},)")
    names = tuple(check_name("kind", kind, KINDS) for kind in kinds)
    if not names:
        raise ValueError(f"kinds must name at least one of {', '.join(KINDS)}, got none")
    return st.one_of(*(_ALL[name] for name in names))
