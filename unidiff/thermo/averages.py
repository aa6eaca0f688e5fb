r"""Means over a noised law: exact on Gaussians, by quadrature on mixtures in one and two dimensions, else from draws.

    mmse = E tr Cov[x_0|z]                    by the world's posterior
    R = E‖∇ log q‖²                           by the noised law's score: the Fisher information
    G(r²) = E‖∇ log q + z/r²‖²                the relative one, to N(0, r² I)

The first is (σ⁴/α²)(D/σ² − R) (Tweedie's second order; Guo, Shamai & Verdú 2005, eq. 61): computed apart, so that this
stays a check. A mixture's mean is that of each component in its own standard coordinates, by the trapezoid rule, which
converges exponentially for an analytic integrand (Trefethen & Weideman 2014, theorem 5.1).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from unidiff.worlds import Estimate, Gaussian, GaussianMixture, World
from unidiff.worlds.estimate import monte_carlo

# φ(8.5) is 1e-16. The error falls as e^{−a/h}: where halving the spacing h changes 1e-8, 1e-14 or so is left.
_REACH, _SETTLED = 8.5, 1e-8
_COARSEST, _FINEST = 1 / 6, {1: 1 / 192, 2: 1 / 24}
_BLOCK = 2**16  # rows asked of a law at once

Law = Literal["exact", "quadrature", "monte_carlo"]


@dataclass(frozen=True, eq=False)
class Noised:
    """The law of z = α x_0 + σ ε for x_0 of a world, σ > 0, and what can be averaged over it.

    Attributes:
        world: the law of x_0.
        alpha, sigma: numbers.
        draws: how many, where Monte Carlo is all there is.
        generator: of those draws.
    """

    world: World
    alpha: float
    sigma: float
    draws: int = 16384
    generator: torch.Generator | None = None

    @property
    def law(self) -> World:
        """q(z)."""
        return self.world.diffuse(self.alpha, self.sigma)

    def mmse(self) -> Estimate:
        """E tr Cov[x_0|z], in x² units."""

        def trace(z: Tensor) -> Tensor:
            posterior = self.wide.posterior(z, self.alpha, self.sigma, check=False)
            return posterior.variance.flatten(1).sum(1)

        if isinstance(self.world, Gaussian):
            return Estimate.exact(trace(self.wide.mean[None])[0])
        return self.mean(trace)

    def fisher(self) -> Estimate:
        """R = E‖∇ log q‖², in units of 1/x²."""
        if isinstance(self.world, Gaussian):
            return Estimate.exact((1 / self._spread()).sum())
        return self.mean(lambda z: self.wide_law.score(z, check=False).flatten(1).square().sum(1))

    def relative_fisher(self, variance: float) -> Estimate:
        """G(r²) = E‖∇ log q + z/r²‖², in units of 1/x²; r² is ``variance``."""
        if isinstance(self.world, Gaussian):
            spread, mean = self._spread(), self.wide_law.mean
            return Estimate.exact(
                (spread * (1 / spread - 1 / variance).square()).sum() + (mean / variance).square().sum()
            )

        def gap(z: Tensor) -> Tensor:
            return (self.wide_law.score(z, check=False) + z / variance).flatten(1).square().sum(1)

        return self.mean(gap)

    def second_moment(self) -> Tensor:
        """E‖z‖², exact, in x² units."""
        law = self.wide_law
        return law.variance.sum() + law.mean.square().sum()

    def entropy(self) -> Estimate:
        """H(z) in nats, the world's own."""
        return self.law.entropy(self.draws, self.generator)

    def mean(self, value: Callable[[Tensor], Tensor]) -> Estimate:
        """E of ``value``: ``[n, *E] -> [n]``, a function of z in float64."""
        law = self.wide_law
        if isinstance(law, Gaussian) and law.dim <= 2:
            law = GaussianMixture([1.0], law.mean[None], law.covariance[None])
        if isinstance(law, GaussianMixture) and integrable(law):
            return quadrature(law, value)
        z = law.sample(self.draws, self.generator)
        return monte_carlo(torch.cat([value(part) for part in z.split(self._rows)]))

    @property
    def wide(self) -> World:
        """The world in float64; where it is integrated, on the host."""
        return self.world.to(torch.float64, "cpu" if integrable(self.world) else None)

    @property
    def wide_law(self) -> World:
        """q(z) in float64, as :attr:`wide`."""
        return self.wide.diffuse(self.alpha, self.sigma)

    @property
    def _rows(self) -> int:
        return max(1, _BLOCK // self.world.dim)

    def _spread(self) -> Tensor:
        return torch.linalg.eigvalsh(self.wide_law.covariance)


def integrable(world: World) -> bool:
    """Whether means over the noised law are had by quadrature: a Gaussian or a mixture in one or two dimensions."""
    return isinstance(world, (Gaussian, GaussianMixture)) and world.dim <= 2


def quadrature(law: GaussianMixture, value: Callable[[Tensor], Tensor]) -> Estimate:
    """E of ``value`` ``[n, D] -> [n]`` under a mixture in 1 or 2 dimensions, the spacing halved until it stands still."""
    step, previous = _COARSEST, _trapezoid(law, value, _COARSEST)
    while True:
        step /= 2
        found = _trapezoid(law, value, step)
        change = (found - previous).abs()
        if step <= _FINEST[law.dim] or change <= _SETTLED * (1 + found.abs()):
            return Estimate(found, change, "quadrature")
        previous = found


def _trapezoid(law: GaussianMixture, value: Callable[[Tensor], Tensor], step: float) -> Tensor:
    nodes, weights = _grid(law.dim, step)
    total = torch.zeros((), dtype=torch.float64)
    for u, w in zip(nodes.split(_BLOCK), weights.split(_BLOCK), strict=True):
        z = law.components.sample(u[:, None])
        total = total + w @ (value(z.flatten(0, 1)).reshape(z.shape[:2]) @ law.weights)
    return total


@lru_cache(maxsize=16)
def _grid(dim: int, step: float) -> tuple[Tensor, Tensor]:
    """Nodes ``[n, dim]`` and weights ``[n]`` of E over N(0, I), within a ball."""
    count = round(_REACH / step)
    axis = step * torch.arange(-count, count + 1, dtype=torch.float64)
    nodes = torch.cartesian_prod(*[axis] * dim).reshape(-1, dim)
    square = nodes.square().sum(1)
    nodes, square = nodes[square <= _REACH**2], square[square <= _REACH**2]
    return nodes, torch.exp(-0.5 * square) * (step / math.sqrt(2 * math.pi)) ** dim
