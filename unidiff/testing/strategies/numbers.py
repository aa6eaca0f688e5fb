"""Numbers of few digits, which shrink towards one that is named."""

from __future__ import annotations

from typing import TypeVar

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from unidiff.core.boundary import check_count, check_real

T = TypeVar("T")


def decimals(low: float, high: float, simplest: float, digits: int = 1) -> SearchStrategy[float]:
    """Numbers in [low, high] with so many digits after the point; they shrink towards ``simplest``.

    Raises:
        TypeError: an end that is no number.
        ValueError: not low ≤ simplest ≤ high, all of that many digits, or digits below 0.
    """
    scale = 10 ** check_count("digits", digits, 0)
    ends = []
    for name, value in (("low", low), ("high", high), ("simplest", simplest)):
        whole = round(check_real(name, value) * scale)
        if abs(whole - value * scale) > 1e-6:
            raise ValueError(f"{name} must have at most {digits} digits after the point, got {value}")
        ends.append(whole)
    first, last, middle = ends
    if not first <= middle <= last:
        raise ValueError(f"simplest must lie in [{low}, {high}], got {simplest}")
    return st.integers(first - middle, last - middle).map(lambda k: (middle + k) / scale)


def as_strategy(value: T | SearchStrategy[T] | None, default: SearchStrategy[T]) -> SearchStrategy[T]:
    """A strategy as given, a value as the only one drawn, or what is drawn where None is given."""
    if value is None:
        return default
    return value if isinstance(value, SearchStrategy) else st.just(value)
