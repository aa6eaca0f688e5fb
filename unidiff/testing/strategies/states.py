"""Shapes, dtypes and states: few and plain numbers first, so that a counterexample is one row of one zero if it can be."""

from __future__ import annotations

import math

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from torch import Tensor

from unidiff.core.boundary import check_count, check_dtype
from unidiff.core.denoiser import check_event_shape
from unidiff.testing.strategies.numbers import as_strategy, decimals

_ENTRY = decimals(-3, 3, 0)
# Beyond so many numbers each is no longer drawn by itself: they come from a seed.
_ONE_BY_ONE = 12


def event_shapes(axes: int = 3, side: int = 4) -> SearchStrategy[tuple[int, ...]]:
    """Shapes of one datum, of 1 to ``axes`` axes of 1 to ``side`` each; towards ``(1,)``.

    Raises:
        ValueError: axes or side below 1.
    """
    lengths = st.integers(1, check_count("side", side))
    return st.lists(lengths, min_size=1, max_size=check_count("axes", axes)).map(tuple)


def dtypes() -> SearchStrategy[torch.dtype]:
    """float64, then float32: what a chain's state may be."""
    return st.sampled_from([torch.float64, torch.float32])


def states(
    event_shape: tuple[int, ...] | SearchStrategy[tuple[int, ...]] | None = None,
    rows: int | SearchStrategy[int] | None = None,
    dtype: torch.dtype | SearchStrategy[torch.dtype] = torch.float64,
) -> SearchStrategy[Tensor]:
    """A batch ``[B, *E]`` of finite numbers; arguments as in :func:`batches`."""
    return batches(1, event_shape, rows, dtype).map(lambda found: found[0])


def batches(
    count: int = 2,
    event_shape: tuple[int, ...] | SearchStrategy[tuple[int, ...]] | None = None,
    rows: int | SearchStrategy[int] | None = None,
    dtype: torch.dtype | SearchStrategy[torch.dtype] = torch.float64,
) -> SearchStrategy[tuple[Tensor, ...]]:
    """``count`` batches ``[B, *E]`` that are alike in shape and dtype: (x_t, x_0), say. Entries have one digit, or two.

    Args:
        count: how many.
        event_shape: E, or a strategy for it; None for :func:`event_shapes`.
        rows: B, or a strategy for it; None for 1 to 3.
        dtype: float32 or float64, or a strategy: :func:`dtypes`.

    Raises:
        ValueError: count or rows below 1, a shape or dtype that no state has.
    """
    check_count("count", count)
    if event_shape is not None and not isinstance(event_shape, SearchStrategy):
        event_shape = check_event_shape(event_shape)
    if rows is not None and not isinstance(rows, SearchStrategy):
        check_count("rows", rows)
    if not isinstance(dtype, SearchStrategy):
        check_dtype(dtype)
    shapes = as_strategy(event_shape, event_shapes())
    lengths, kinds = as_strategy(rows, st.integers(1, 3)), as_strategy(dtype, dtypes())

    @st.composite
    def alike(draw: DrawFn) -> tuple[Tensor, ...]:
        shape, kind = (draw(lengths), *draw(shapes)), draw(kinds)
        return tuple(draw(_filled(shape)).to(kind) for _ in range(count))

    return alike()


def _filled(shape: tuple[int, ...]) -> SearchStrategy[Tensor]:
    size = math.prod(shape)
    ways = [_ENTRY.map(lambda value: torch.full(shape, value, dtype=torch.float64))]
    if size <= _ONE_BY_ONE:
        entries = st.lists(_ENTRY, min_size=size, max_size=size)
        ways.append(entries.map(lambda found: torch.tensor(found, dtype=torch.float64).reshape(shape)))
    ways.append(st.integers(0, 999).map(lambda seed: _normal(shape, seed)))
    return st.one_of(*ways)


def _normal(shape: tuple[int, ...], seed: int) -> Tensor:
    draws = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (100 * draws).round() / 100
