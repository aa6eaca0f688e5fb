r"""Worlds and rewards, well conditioned: a covariance is D^½ R D^½ with R = (1 − ρ) I + ρ h hᵀ, h_i = ±1, 0 ≤ ρ ≤ ½.

R's eigenvalues are 1 − ρ and 1 + (d − 1)ρ, and D's entries lie in [0.5, 2]: a condition number of at most 4(d + 1).
"""

from __future__ import annotations

import math

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from unidiff.core.boundary import check_count, check_dtype
from unidiff.testing.strategies.numbers import as_strategy, decimals
from unidiff.worlds import GaussianMixture
from unidiff.worlds.rewards import Linear, Quadratic

_MEAN, _VARIANCE = decimals(-3, 3, 0), decimals(0.5, 2, 1)
_CORRELATION, _SIGN = decimals(0, 0.5, 0), st.sampled_from([1, -1])


def mixtures(
    dim: int | SearchStrategy[int] | None = None,
    components: int | SearchStrategy[int] | None = None,
    dtype: torch.dtype = torch.float64,
) -> SearchStrategy[GaussianMixture]:
    """Mixtures of 1 to 3 Gaussians in 1 to 3 dimensions, towards N(0, 1); means in [−3, 3], variances in [0.5, 2].

    Args:
        dim: D, or a strategy for it.
        components: K, or a strategy for it.
        dtype: the world's, float32 or float64.

    Raises:
        ValueError: dim or components below 1, another dtype.
    """
    for name, value in (("dim", dim), ("components", components)):
        if value is not None and not isinstance(value, SearchStrategy):
            check_count(name, value)
    check_dtype(dtype)
    dims, counts = as_strategy(dim, st.integers(1, 3)), as_strategy(components, st.integers(1, 3))

    @st.composite
    def worlds(draw: DrawFn) -> GaussianMixture:
        d, k = draw(dims), draw(counts)
        shares = draw(st.lists(st.integers(1, 9), min_size=k, max_size=k))
        weights = [share / sum(shares) for share in shares]
        means = draw(st.lists(st.lists(_MEAN, min_size=d, max_size=d), min_size=k, max_size=k))
        covariances = [draw(_covariances(d)) for _ in range(k)]
        world = GaussianMixture(weights, means, covariances)
        return world if dtype == torch.float64 else world.to(dtype)

    return worlds()


def rewards(dim: int = 1) -> SearchStrategy[Linear | Quadratic]:
    """Rewards of ``dim`` numbers that every world can be tilted by: r = bᵀx, or r = bᵀx − ½ xᵀA x with A ≥ 0; towards 0.

    Raises:
        ValueError: dim below 1.
    """
    check_count("dim", dim)
    slopes = st.lists(decimals(-2, 2, 0), min_size=dim, max_size=dim)
    curves = st.lists(decimals(0, 2, 0), min_size=dim, max_size=dim)
    quadratic = st.builds(
        Quadratic,
        curves.map(lambda found: [[found[i] if i == j else 0.0 for j in range(dim)] for i in range(dim)]),
        slopes,
    )
    return st.one_of(st.builds(Linear, slopes), quadratic)


@st.composite
def _covariances(draw: DrawFn, dim: int) -> list[list[float]]:
    variances = draw(st.lists(_VARIANCE, min_size=dim, max_size=dim))
    rho = draw(_CORRELATION) if dim > 1 else 0.0
    signs = draw(st.lists(_SIGN, min_size=dim, max_size=dim)) if rho else [1] * dim

    def entry(i: int, j: int) -> float:
        return variances[i] if i == j else rho * signs[i] * signs[j] * math.sqrt(variances[i] * variances[j])

    return [[entry(i, j) for j in range(dim)] for i in range(dim)]
