r"""Means over a mixture in one or two dimensions, by the trapezoid rule in each component's own standard coordinates:

    E f = Σ_k w_k ∫ φ(u) f(m_k + Q_k √e_k u) du

which converges exponentially for an analytic integrand (Trefethen & Weideman 2014, theorem 5.1): the error falls as
e^{−a/h}, and the spacing h is halved until the mean stands still. What a component cannot see between its nodes it takes
for nothing, however often it looks: the first spacing is therefore at most half the least deviation that any component
has in the standard coordinates of any other, and where that needs too many nodes there is no rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from unidiff.worlds.estimate import Estimate
from unidiff.worlds.normals import Normals

_NODES = 2**20  # of one component, at most
_BLOCK = 2**16  # nodes asked at once
_ROUNDS = 2  # halvings that a rule must be able to afford


@dataclass(frozen=True)
class Rule:
    """How finely to look.

    Attributes:
        coarsest: the first spacing of the nodes, in standard deviations, where all components are about as wide.
        finest: by dimension, the last, if the mean does not stand still before.
        settled: the change, relative to 1 + |mean|, below which it stands still.
        reach: how far out the nodes go, in standard deviations.
    """

    coarsest: float
    finest: tuple[float, float]
    settled: float
    reach: float

    def steps(self, components: Normals, others: tuple[Normals, ...] = ()) -> tuple[float, float] | None:
        """The first and the last spacing for a stack ``[K]``; None in three dimensions or with too many nodes.

        ``others`` are stacks that the integrand is made of besides, and whose width must be seen too.
        """
        dim = components.dim
        ratio = least_deviation(components, (components, *others)) if dim <= 2 else 0.0
        if not ratio > 0.0:
            return None
        halvings = max(0, math.ceil(math.log2(2 * self.coarsest / ratio) - 1e-9))
        first = self.coarsest / 2**halvings
        last = min(self.finest[dim - 1], first / 2**_ROUNDS)
        ball = 2 * self.reach / last if dim == 1 else math.pi * (self.reach / last) ** 2
        return (first, last) if ball <= _NODES else None

    def mean(
        self,
        weights: Tensor,
        components: Normals,
        value: Callable[[Tensor], Tensor],
        steps: tuple[float, float],
    ) -> Estimate:
        """E of ``value`` ``[n, D] -> [n]`` under weights and components ``[K]`` in float64 on the CPU, by :meth:`steps`."""
        step, last = steps
        previous = _trapezoid(weights, components, value, step, self.reach)
        while True:
            step /= 2
            mean = _trapezoid(weights, components, value, step, self.reach)
            change = (mean - previous).abs()
            if step <= last or change <= self.settled * (1 + mean.abs()):
                return Estimate(mean, change, "quadrature")
            previous = mean


def least_deviation(seen_from: Normals, seen: tuple[Normals, ...]) -> float:
    """The least standard deviation of any of ``seen`` in the standard coordinates of any of ``seen_from``; 1 at most."""
    wide = seen_from.to(torch.float64, "cpu")
    stack, dim = wide.stack, wide.dim
    root = wide.basis.expand(*stack, dim, dim) / wide.values.expand(*stack, dim).sqrt().unsqueeze(-2)
    covariance = torch.cat([each.to(torch.float64, "cpu").covariance.reshape(-1, dim, dim) for each in seen])
    whitened = torch.einsum("jde,kdf,jfg->jkeg", root, covariance, root)
    if not bool(torch.isfinite(whitened).all()):
        return 0.0
    least = float(torch.linalg.eigvalsh(whitened).min().clamp(min=0))
    return min(1.0, math.sqrt(least))


def _trapezoid(
    weights: Tensor, components: Normals, value: Callable[[Tensor], Tensor], step: float, reach: float
) -> Tensor:
    nodes, shares = _grid(components.dim, step, reach)
    total = torch.zeros((), dtype=torch.float64)
    for u, w in zip(nodes.split(_BLOCK), shares.split(_BLOCK), strict=True):
        z = components.sample(u[:, None])
        total = total + w @ (value(z.flatten(0, 1)).reshape(z.shape[:2]) @ weights)
    return total


@lru_cache(maxsize=16)
def _grid(dim: int, step: float, reach: float) -> tuple[Tensor, Tensor]:
    """Nodes ``[n, dim]`` and weights ``[n]`` of E over N(0, I), within a ball."""
    count = round(reach / step)
    axis = step * torch.arange(-count, count + 1, dtype=torch.float64)
    nodes = torch.cartesian_prod(*[axis] * dim).reshape(-1, dim)
    square = nodes.square().sum(1)
    nodes, square = nodes[square <= reach**2], square[square <= reach**2]
    return nodes, torch.exp(-0.5 * square) * (step / math.sqrt(2 * math.pi)) ** dim
