r"""Means over a noised law: exact on Gaussians, by quadrature on mixtures in one and two dimensions, else from draws.

    mmse = E tr Cov[x_0|z]                    by the world's posterior
    R = E‖∇ log q‖²                           by the noised law's score: the Fisher information
    G(r²) = E‖∇ log q + z/r²‖²                the relative one, to N(0, r² I)

The first is (σ⁴/α²)(D/σ² − R) (Tweedie's second order; Guo, Shamai & Verdú 2005, eq. 61): computed apart, so that this
stays a check. Where a mixture's components differ so much in width that no nodes see them all, it is draws there too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from unidiff.worlds import Estimate, Gaussian, GaussianMixture, World
from unidiff.worlds.estimate import monte_carlo
from unidiff.worlds.normals import Normals
from unidiff.worlds.quadrature import Rule

# φ(8.5) is 1e-16. The error falls as e^{−a/h}: where halving the spacing h changes 1e-8, 1e-14 or so is left.
_RULE = Rule(coarsest=1 / 6, finest=(1 / 192, 1 / 24), settled=1e-8, reach=8.5)
_BLOCK = 2**16  # rows asked of a law at once


@dataclass(frozen=True, eq=False)
class Noised:
    """The law of z = α x_0 + σ ε for x_0 of a world, σ > 0, and what can be averaged over it. Trusted.

    Attributes:
        world: the law of x_0.
        alpha, sigma: numbers.
        draws: how many, where Monte Carlo is all there is.
        generator: of those draws.
        beside: a law of x_0 whose noised law is averaged too, and whose width the nodes must see; None for none.
    """

    world: World
    alpha: float
    sigma: float
    draws: int = 16384
    generator: torch.Generator | None = None
    beside: World | None = None

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

    def entropy(self) -> Estimate:
        """H(z) in nats, the world's own, in float64."""
        return self.world.to(torch.float64).diffuse(self.alpha, self.sigma).entropy(self.draws, self.generator)

    def kl_to_round(self, variance: float) -> Estimate:
        """KL(q ‖ N(0, r² I)) in nats, r² the ``variance``; from draws, of both densities at the same ones.

        Where q is near N(0, r² I) the two cancel draw by draw, and their difference is known far better than either.
        """
        law = self.wide_law
        if isinstance(law, Gaussian):
            ratio = law.normals.values / variance
            return Estimate.exact(0.5 * ((ratio - 1 - ratio.log()).sum() + law.mean.square().sum() / variance))
        constant = 0.5 * self.world.dim * math.log(2 * math.pi * variance)
        return self.mean(
            lambda z: law.log_prob(z, check=False) + 0.5 * z.flatten(1).square().sum(1) / variance + constant
        )

    def mean(self, value: Callable[[Tensor], Tensor]) -> Estimate:
        """E of ``value``: ``[n, *E] -> [n]``, a function of z in float64."""
        law = self.wide_law
        if self._steps is not None:
            components = _components(law)
            assert components is not None
            weights = law.weights if isinstance(law, GaussianMixture) else torch.ones(1, dtype=torch.float64)
            return _RULE.mean(weights, components, value, self._steps)
        z = law.sample(self.draws, self.generator)
        return monte_carlo(torch.cat([value(part) for part in z.split(self._rows)]))

    @property
    def integrable(self) -> bool:
        """Whether means are had by quadrature: a Gaussian or a mixture in 1 or 2 dimensions, its components alike in width.

        Of a law that is, every noisier one is too: noise makes widths alike.
        """
        return self._steps is not None

    @cached_property
    def wide(self) -> World:
        """The world in float64; where it is integrated, on the host."""
        return self.world.to(torch.float64, "cpu" if self.integrable else None)

    @cached_property
    def wide_law(self) -> World:
        """q(z) in float64, as :attr:`wide`."""
        return self.wide.diffuse(self.alpha, self.sigma)

    @cached_property
    def _steps(self) -> tuple[float, float] | None:
        """The spacings of the rule's nodes; None where there is no rule."""
        if self.world.dim > 2:
            return None
        stacks = [_components(w.diffuse(self.alpha, self.sigma)) for w in (self.world, self.beside) if w is not None]
        known = [stack for stack in stacks if stack is not None]
        return _RULE.steps(known[0], tuple(known[1:])) if len(known) == len(stacks) else None

    @property
    def _rows(self) -> int:
        return max(1, _BLOCK // self.world.dim)

    def _spread(self) -> Tensor:
        return torch.linalg.eigvalsh(self.wide_law.covariance)


def _components(law: World) -> Normals | None:
    """The stack ``[K]`` of a Gaussian's or a mixture's components; None of another law."""
    if isinstance(law, Gaussian):
        own = law.normals
        return Normals(own.mean[None], own.basis[None], own.values[None])
    return law.components if isinstance(law, GaussianMixture) else None
