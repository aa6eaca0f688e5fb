r"""The Moreau envelope of a function on a lattice: the best new mean of a step, and what it is worth.

For G on the lattice and any μ,

    W(μ) = max_m { G(m) − ‖m − μ‖²/2σ² },      m = μ + σ²∇G(m)  at the maximum,  where I − σ²∇²G is positive definite

(Rockafellar & Wets 1998, definition 1.22). The charge is a sum over axes, so that on the lattice the best m is had along
one axis after the other (Felzenszwalb & Huttenlocher 2012, section 3): of several hills, the highest. From there
Newton's steps lead on, each shortened until it leads up.
"""

from __future__ import annotations

import numpy as np

from unidiff.rl.lattice import Array, Lattice, Spline

_ROUNDS = 60  # Newton's, at most
_SETTLED = 1e-7  # a step of m, in units of σ
_PEAKED = 1e-3  # least curvature of a maximum, in units of 1/σ²
_ROUNDING = 1e-13


def envelope(gain: Spline, values: Array, mean: Array, std: float) -> tuple[Array, Array, Array]:
    """m ``[M, D]`` and W ``[M]`` for each μ of ``mean`` ``[M, D]``, and 1 where m is not settled, 0 elsewhere, ``[M]``.

    Where Newton's method does not settle, the best m seen is kept, and W is what it is worth: below the maximum.

    Args:
        gain: G.
        values: G on its lattice, ``[n^D]``.
        mean: μ.
        std: σ > 0.
    """

    def worth(m: Array, of: Array) -> Array:
        return gain(m) - 0.5 * (((m - mean[of]) / std) ** 2).sum(1)

    every, eye = np.arange(len(mean)), np.eye(mean.shape[1])
    m = _searched(gain.lattice, values, mean, std)
    reached, scale = worth(m, every), np.ones(len(mean))
    open_ = every
    for _ in range(_ROUNDS):
        short = mean[open_] + std**2 * gain.gradient(m[open_]) - m[open_]
        curved = eye - std**2 * gain.hessian(m[open_])
        peak = np.linalg.eigvalsh(curved)[:, 0] > _PEAKED
        # Where it is no hill yet, the slope itself leads up.
        curved = np.where(peak[:, None, None], curved, eye)
        step = np.linalg.solve(curved, short[..., None])[..., 0]
        done = peak & (np.abs(step).max(1) <= _SETTLED * std)
        open_, step = open_[~done], step[~done]
        if not len(open_):
            break
        tried = m[open_] + scale[open_, None] * step
        found = worth(tried, open_)
        up = found >= reached[open_] - _ROUNDING * (1 + np.abs(reached[open_]))
        m[open_[up]], reached[open_[up]] = tried[up], found[up]
        scale[open_] = np.where(up, 1.0, 0.25 * scale[open_])
    unsettled = np.zeros(len(mean))
    unsettled[open_] = 1
    return m, reached, unsettled


def _searched(lattice: Lattice, values: Array, mean: Array, std: float) -> Array:
    """Where to begin: each μ, moved as the lattice's best point is from the one nearest to μ."""
    table = values.reshape([lattice.points] * lattice.dim)
    apart = np.arange(lattice.points)[:, None] - np.arange(lattice.points)
    index = []
    for axis, spacing in enumerate(lattice.spacing):
        table = np.moveaxis(table, axis, 0)
        charge = 0.5 * (spacing / std * apart) ** 2
        worth = table[None] - charge.reshape(*charge.shape, *[1] * (table.ndim - 1))
        index.append(np.moveaxis(worth.argmax(1), 0, axis))
        table = np.moveaxis(worth.max(1), 0, axis)
    near = np.rint((mean - lattice.low) / lattice.spacing).clip(0, lattice.points - 1).astype(int)
    chosen = list(near.T)
    # The last axis was maximised over last: its best is known for any place on the others.
    for axis in reversed(range(lattice.dim)):
        chosen[axis] = index[axis][tuple(chosen)]
    return mean + lattice.spacing * (np.stack(chosen, -1) - near)
