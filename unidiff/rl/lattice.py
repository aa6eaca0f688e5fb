r"""Functions of one or two numbers on a lattice: cubic splines within it, and their Gaussian means.

Between the points a function is the tensor-product cubic spline through its values (de Boor 2001, chapter IV; "not a
knot" at the ends): what is lost falls as the spacing's fourth power. Beyond the lattice it keeps the value of its edge, so
that no wiggle of an edge, where little is known and less counts, is carried outward and grows.

For ξ ~ N(0, I), along one axis after the other and by the trapezoid rule,

    (E f)(x) = E f(x + sξ) ≈ Σ_q w_q f(x + sξ_q),   (log E e^f)(x) ≈ log Σ_q w_q e^{f(x + sξ_q)},   w_q ∝ φ(ξ_q),

the nodes half a deviation apart, or a lattice's spacing where that is less: what is smooth over either the rule knows to
rounding (Trefethen & Weideman 2014, theorem 5.1). The second is of the spline of f, for e^f is no function that cubics fit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.interpolate import BSpline, NdBSpline, make_interp_spline
from scipy.sparse import csr_array

Array = np.ndarray
_APART = 0.5  # nodes of the noise, at most, in deviations: the rule's error is e^{−2π²/0.25}
_FAR = 8.5  # the farthest, where φ is 1e-16


@dataclass(frozen=True, eq=False)
class Lattice:
    """A box of evenly spaced points.

    Attributes:
        low: the corner of least numbers, ``[D]``.
        high: the other, ``[D]``.
        points: n along each axis, at least 5.
    """

    low: Array
    high: Array
    points: int

    @property
    def dim(self) -> int:
        """D."""
        return len(self.low)

    @property
    def spacing(self) -> Array:
        """Of neighbours along each axis, ``[D]``."""
        return (self.high - self.low) / (self.points - 1)

    def every(self) -> Array:
        """All points, ``[n^D, D]``, the last axis running fastest."""
        axes = [np.linspace(low, high, self.points) for low, high in zip(self.low, self.high, strict=True)]
        return np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], -1)

    def spline(self, values: Array) -> Spline:
        """The spline through ``values`` ``[n^D]`` or ``[n^D, C]``."""
        table = values.reshape(*[self.points] * self.dim, *values.shape[1:])
        knots, fit = _fit(self.points)
        for axis in range(self.dim):
            table = _along(fit, table, axis)
        return Spline(self, NdBSpline((knots,) * self.dim, np.ascontiguousarray(table), 3))

    def mean(self, values: Array, std: float) -> Array:
        """E f(x + std·ξ) at the lattice's points for the f of ``values`` ``[n^D, C]``, ``[n^D, C]``."""
        table, (_, fit) = values.reshape(*[self.points] * self.dim, -1), _fit(self.points)
        for axis, spacing in enumerate(self.spacing):
            at, weight = self._nodes(std / spacing)
            summed = sum(w * at[q * self.points : (q + 1) * self.points] for q, w in enumerate(weight))
            table = _along(summed @ fit, table, axis)
        return table.reshape(values.shape)

    def log_mean(self, values: Array, std: float) -> Array:
        """log E e^{f(x + std·ξ)} at the lattice's points for the f of ``values`` ``[n^D]``, ``[n^D]``."""
        table, (_, fit) = values.reshape([self.points] * self.dim), _fit(self.points)
        for axis, spacing in enumerate(self.spacing):
            at, weight = self._nodes(std / spacing)
            table = np.moveaxis(table, axis, 0)
            seen = at @ (fit @ table.reshape(self.points, -1))
            seen = seen.reshape(len(weight), *table.shape) + np.log(weight).reshape(-1, *[1] * self.dim)
            most = seen.max(0)
            table = np.moveaxis(most + np.log(np.exp(seen - most).sum(0)), 0, axis)
        return table.reshape(-1)

    def _nodes(self, std: float) -> tuple[csr_array, Array]:
        """What leads from a spline's coefficients to its values std·ξ_q from each point, ``[Q·n, n]``, and w ``[Q]``."""
        apart = min(_APART, 1 / std)
        count = math.ceil(_FAR / apart)
        node = apart * np.arange(-count, count + 1)
        at = (np.arange(self.points) + std * node[:, None]).ravel().clip(0, self.points - 1)
        weight = np.exp(-0.5 * node**2)
        return BSpline.design_matrix(at, _fit(self.points)[0], 3), weight / weight.sum()


@dataclass(frozen=True, eq=False)
class Spline:
    """A function on a lattice; beyond it, the value and the slopes of its edge.

    Attributes:
        lattice: where it was told.
        pieces: the spline of the points' numbers 0 … n − 1.
    """

    lattice: Lattice
    pieces: NdBSpline

    def __call__(self, x: Array) -> Array:
        """At ``x`` ``[M, D]``, ``[M]`` or ``[M, C]``."""
        return self._derivative(x, ())

    def gradient(self, x: Array) -> Array:
        """``[M, D]``, of one function."""
        return np.stack([self._derivative(x, (i,)) for i in range(self.lattice.dim)], -1)

    def hessian(self, x: Array) -> Array:
        """``[M, D, D]``, of one function."""
        dim = self.lattice.dim
        second = {(i, j): self._derivative(x, (i, j)) for i in range(dim) for j in range(i, dim)}
        return np.stack([np.stack([second[min(i, j), max(i, j)] for j in range(dim)], -1) for i in range(dim)], -2)

    def _derivative(self, x: Array, axes: tuple[int, ...]) -> Array:
        lattice = self.lattice
        orders = [axes.count(axis) for axis in range(lattice.dim)]
        at = ((x - lattice.low) / lattice.spacing).clip(0, lattice.points - 1)
        found = self.pieces(at, nu=orders)
        return found / np.prod([lattice.spacing[axis] for axis in axes])


@lru_cache(maxsize=16)
def normal_nodes(count: int) -> tuple[Array, Array]:
    """Gauss–Hermite nodes and weights of N(0, 1), ``[count]`` each: Σ w f(ξ) = E f for polynomials of degree 2·count − 1."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    return nodes, weights / weights.sum()


@lru_cache(maxsize=16)
def _fit(points: int) -> tuple[Array, Array]:
    """Knots, and the matrix ``[n, n]`` from values at 0 … n − 1 to the spline's coefficients."""
    spline = make_interp_spline(np.arange(points, dtype=np.float64), np.eye(points), 3)
    return spline.t, spline.c


def _along(matrix: Array, table: Array, axis: int) -> Array:
    return np.moveaxis(np.tensordot(matrix, table, (1, axis)), 0, axis)
