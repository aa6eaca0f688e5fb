r"""Fluctuation theorems: Σ = log dQ/dP_θ of a path, Q the encoder's law of paths and P_θ the chain's.

    E_Q[e^{−Σ}] = 1                           integral (Seifert 2005, eq. 15; Jarzynski 1997)
    E_Q[Σ] = KL(Q ‖ P_θ)                      the second law, Σ's mean being a divergence
    P_Q(Σ) = P_{P_θ}(Σ) e^Σ                   detailed (Crooks 1999, eq. 2)
    E_Q[1/(1 + e^Σ)] = E_{P_θ}[1/(1 + e^{−Σ})]    which it gives for Bennett's function (Bennett 1976, eq. 7)

Of given data the paths are z = x_{t_0:1}, Q = q(z|x_0), and P_θ(z) runs from the prior to t_0: true of any core. With a
law of data Q = q(x_0) q(z|x_0) and P_θ(x_0, z) is the whole chain, its decoder included. E[e^{−Σ}] is carried by rare
paths; a mean that could not have shown a violation of the size asked is ``inconclusive``, never a pass. Bennett's function
is bounded, and has no tail.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from scipy.stats import norm
from torch import Tensor

from unidiff.core.boundary import check_positive
from unidiff.core.ladder import Ladder, chain_rows, embed_steps, row_blocks
from unidiff.core.trajectory import PathWeights, end_law, prior_law
from unidiff.thermo.free_energy import tame
from unidiff.thermo.work import Paths, ladder_of
from unidiff.worlds import Estimate, World
from unidiff.worlds.estimate import monte_carlo

Conclusion = Literal["holds", "violated", "inconclusive"]
ALARM, MISS = 1e-6, 1e-3
"""The chance of calling a true theorem violated, and of missing a violation of the size asked."""


@dataclass(frozen=True, eq=False)
class Fluctuation:
    """Σ on the paths of both laws, in nats, each ``[n]``.

    Attributes:
        forward: on Q's paths.
        reverse: on P_θ's.
        divergence: on Q's paths, each step's log-ratio replaced by its mean there, a KL in closed form: of the same mean
            as ``forward``, had by another formula.
    """

    forward: Tensor
    reverse: Tensor
    divergence: Tensor

    @property
    def integral(self) -> Estimate:
        """E_Q[e^{−Σ}], which is 1."""
        return monte_carlo((-self.forward.to(torch.float64)).exp())

    @property
    def mean(self) -> Estimate:
        """E_Q[Σ], from the paths alone."""
        return monte_carlo(self.forward)

    @property
    def path_kl(self) -> Estimate:
        """KL(Q ‖ P_θ) by the steps' closed forms."""
        return monte_carlo(self.divergence)

    @property
    def acceptance(self) -> tuple[Estimate, Estimate]:
        """E_Q[1/(1 + e^Σ)] and E_{P_θ}[1/(1 + e^{−Σ})], which are equal."""
        return monte_carlo(torch.sigmoid(-self.forward)), monte_carlo(torch.sigmoid(self.reverse))

    def conclusion(self, bound: float = 0.2) -> Conclusion:
        """Whether E_Q[e^{−Σ}] = 1, could a violation of ``bound`` have been seen at all.

        A z-test with a false alarm in 1e-6 and a miss in 1e-3; inconclusive where a violation of that size would have been
        missed more often, or where few paths carry the mean. Raises ValueError for a bound that is not positive.
        """
        check_positive("bound", bound)
        told = bool(tame((-self.forward.to(torch.float64)).exp()))
        found, limit = self.integral, float(norm.isf(0.5 * ALARM))
        if float((found.value - 1).abs()) > limit * float(found.standard_error):
            return "violated" if told else "inconclusive"
        seen = (limit + float(norm.isf(MISS))) * float(found.standard_error)
        return "holds" if seen <= bound and told else "inconclusive"


@dataclass(frozen=True, eq=False)
class Crooks:
    """The work for the same data both ways, in nats, each ``[n]``: x_0 drawn from p_θ, with the z that it came by.

    Attributes:
        forward: W on a path of q(z|x_0).
        reverse: W on the path of p_θ(z|x_0) that made x_0.
    """

    forward: Tensor
    reverse: Tensor

    @property
    def gap(self) -> Estimate:
        """⟨W⟩_q − ⟨W⟩_{p_θ}: KL(q(z|x_0) ‖ p_θ(z|x_0)) and its reverse, summed; F lies between (Grosse et al. 2015)."""
        return monte_carlo(self.forward - self.reverse)


@torch.no_grad()
def fluctuation(paths: Paths, x0: Tensor, world: World | None, generator: torch.Generator | None) -> Fluctuation:
    """Σ on a path of Q for each datum, and on as many of P_θ; with a ``world``, the law of ``x0``, on whole paths.

    Raises:
        ValueError: as :meth:`Paths.checked`; fewer than two data; a world without a density, or a decoder of levels against
            one.
    """
    paths = paths.checked(x0)
    if len(x0) < 2:
        raise ValueError(f"x0 must hold two data or more, for a standard error, got {len(x0)}")
    if world is not None and paths.decoder.discrete:
        raise ValueError(
            "decoder must be a ContinuousDecoder with a world, whose law is a density of data, "
            f"got a {type(paths.decoder).__name__}, which gives probabilities of levels"
        )
    ladder, model = paths.draw(x0, generator), paths.model(len(x0), x0, generator)
    if world is None:
        model = ladder_of(paths.chain, x0, model.states)
    weights = paths.weigh(ladder)
    forward = _entropy(weights, ladder, world)
    divergence = _of_data(weights, ladder, world) + _closed(paths, ladder)
    return Fluctuation(forward, _entropy(paths.weigh(model), model, world), divergence)


@torch.no_grad()
def crooks(paths: Paths, n: int, like: Tensor, generator: torch.Generator | None) -> Crooks:
    """W both ways for n data that p_θ draws. Raises ValueError: labels, not one or n of them."""
    model = paths.model(n, like, generator)
    again = paths.draw(model.x0, generator)
    return Crooks(-paths.weigh(again).total, -paths.weigh(model).total)


def _entropy(weights: PathWeights, ladder: Ladder, world: World | None) -> Tensor:
    """Σ, ``[B]``."""
    return _of_data(weights, ladder, world) - weights.prior - weights.steps.sum(0)


def _of_data(weights: PathWeights, ladder: Ladder, world: World | None) -> Tensor:
    """Σ's part log q(x_0) − log p(x_0|x_{t_0}) on whole paths, ``[B]``; 0 of z given the data."""
    if world is None:
        return torch.zeros_like(weights.prior)
    return world.log_prob(ladder.x0.to(world.device, world.dtype)).to(ladder.x0) - weights.decoder


def _closed(paths: Paths, ladder: Ladder) -> Tensor:
    """The prior's and all the steps' KL at the ladder's states, ``[B]``."""
    return end_law(paths.chain, ladder.x0).kl(prior_law(paths.chain, ladder.x0)) + step_costs(paths, ladder).sum(0)


def step_costs(paths: Paths, ladder: Ladder, rows: int = 4096) -> Tensor:
    """KL(q(x_{k−1}|x_k, x_0) ‖ p_θ(x_{k−1}|x_k)) of steps 1 … N at the ladder's states, ``[N, B]``."""
    chain, embedding, costs = paths.chain.beside(ladder.x0), embed_steps(paths.chain, ladder.x0), []
    for k, member, eps in row_blocks(ladder, rows):
        own = None if paths.condition is None else paths.condition[member]
        found = chain_rows(chain, ladder.x0.index_select(0, member), eps, k, own, paths.guidance, embedding)
        costs.append(found.encoder.kl(found.decoder))
    return torch.cat(costs).reshape(ladder.jumps.shape[:2])
