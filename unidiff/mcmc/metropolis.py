r"""Hamiltonian moves with Metropolis' correction: the target's law exactly, whatever the step.

With H(x, p) = −log π(x) + ½‖p‖², fresh p ~ N(0, I), and L leapfrog steps of size ε,

    p ← p + ½ε s(x),   x ← x + ε p,   p ← p + ½ε s(x),

a reversible map that keeps volume, the end is accepted with probability min(1, e^{H − H′}), each chain for itself
(Duane et al. 1987; Neal 2011, section 3.2). Then π is kept exactly: with p → −p at the end,

    π(x) N(p) min(1, e^{H−H′}) = π(x′) N(p′) min(1, e^{H′−H}).

MALA is L = 1 with ε = √(2δ): the proposal is x + δ s(x) + √(2δ) ξ, and since p′ = p + √(δ/2)(s + s′),
½‖p‖² − ½‖p′‖² = log q(x|x′) − log q(x′|x) (Roberts & Tweedie 1996, section 1.4; Neal 2011, section 5.2). Written so,
nothing of the size of x is subtracted, as it is in (‖x′ − x − δs‖² − ‖x − x′ − δs′‖²)/4δ, which fails in float32.

log π(x′) − log π(x) is the law's own where it has one, else the score's integral (:mod:`unidiff.mcmc.path`). An error
of e in it moves an acceptance probability by at most the factor e^{±e}; the estimate of it is good where it is small.

A law that is NaN where it is asked has no H′, and the proposal is not accepted; but to reject it is no answer either: a
law that has become NaN would hold its chains still for ever. So a proposal says how far out it met a NaN, for the run to
stop at (:mod:`unidiff.mcmc.running`). Where log π is infinite the density is zero, or has a pole, and its slope may be
NaN: that is a rejection like any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import ClassVar

import torch
from torch import Tensor

from unidiff.core.boundary import check_count, right_expand
from unidiff.mcmc.path import log_ratio
from unidiff.mcmc.state import Kernel, Move, State, add_scaled
from unidiff.mcmc.target import Target


@dataclass(frozen=True)
class MALA(Kernel):
    """The Metropolis-adjusted Langevin algorithm: ULA's step, accepted or not.

    Args:
        step_size: δ, in units of x², as ULA's.
    """

    metropolis: ClassVar[bool] = True
    best_acceptance: ClassVar[float | None] = 0.574  # in many dimensions; Roberts & Rosenthal 1998, theorem 2

    def step(
        self, law: Target, state: State, step_size: float | Tensor, normal: Tensor, uniform: Tensor | None = None
    ) -> Move:
        """One step of all chains."""
        return _propose(law, state, (2 * step_size) ** 0.5, 1, normal, uniform)


@dataclass(frozen=True)
class HMC(Kernel):
    """Hamiltonian Monte Carlo with a fixed number of leapfrog steps, unit mass.

    Args:
        step_size: ε, in units of x.
        leapfrog: L ≥ 1; a step costs L scores. The trajectory's length is L ε. A direction of standard deviation ς
            whose half period π ς divides it comes back to ±x and learns nothing (Neal 2011, section 3.2): go on from
            the state with another L now and then.

    Raises:
        TypeError: a step size that is no number.
        ValueError: a step size that is not positive and finite, or leapfrog below 1.
    """

    leapfrog: int = 10
    metropolis: ClassVar[bool] = True
    best_acceptance: ClassVar[float | None] = 0.651  # in many dimensions; Beskos et al. 2013, section 4.2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("leapfrog", self.leapfrog)

    def step(
        self, law: Target, state: State, step_size: float | Tensor, normal: Tensor, uniform: Tensor | None = None
    ) -> Move:
        """One trajectory of all chains."""
        return _propose(law, state, step_size, self.leapfrog, normal, uniform)


def leapfrog(
    law: Target, state: State, momentum: Tensor, step_size: float | Tensor, steps: int
) -> tuple[State, Tensor, Tensor]:
    """``steps`` leapfrog steps from ``state`` with ``momentum`` ``[B, *E]``: the end's state and momentum, and ``lost``.

    ``lost`` is that of :class:`~unidiff.mcmc.state.Move`, ``[B]``; on the way a NaN is seen only of a ``joint`` law.

    Args:
        law: what the chains run on.
        state: with the score at its x.
        momentum: p, unit mass, ``[B, *E]``.
        step_size: ε, in units of x: a number, or a tensor that broadcasts to ``[B, *E]``.
        steps: L ≥ 1.
    """
    x, score = state.x, state.score
    momentum = add_scaled(momentum, 0.5 * step_size, score)
    seen: list[list[Tensor]] = []
    for _ in range(steps - 1):
        x = add_scaled(x, step_size, momentum)
        score, log_prob = law.evaluate(x) if law.joint else (law.score(x), None)
        if law.joint:
            seen.append(_glance(x, score, log_prob))
        momentum = add_scaled(momentum, step_size, score)
    x = add_scaled(x, step_size, momentum)
    score, log_prob = law.evaluate(x)
    seen.append(_glance(x, score, log_prob))
    lost = _lost(*(torch.stack(each) if len(seen) > 1 else each[0][None] for each in zip(*seen, strict=True)))
    return State(x, score, log_prob), add_scaled(momentum, 0.5 * step_size, score), lost


def lost_at(x: Tensor, score: Tensor, log_prob: Tensor | None = None) -> Tensor:
    """How far out ``x`` ``[B, *E]`` is where the law is NaN, as ``lost`` of :class:`~unidiff.mcmc.state.Move`, ``[B]``."""
    return _lost(*(each[None] for each in _glance(x, score, log_prob)))


def _glance(x: Tensor, score: Tensor, log_prob: Tensor | None) -> list[Tensor]:
    """One pass over each: the extremes of ``x``, the greatest of ``score`` and log π, ``[B]``; NaN is passed on."""
    low, high = x.flatten(1).aminmax(dim=1)
    return [low, high, score.flatten(1).amax(1), *([] if log_prob is None else [log_prob])]


def _lost(low: Tensor, high: Tensor, score: Tensor, log_prob: Tensor | None = None) -> Tensor:
    """The least max|x| of the glances ``[L, B]`` in which the law is NaN, ∞ or NaN if at no finite x, ``[B]``."""
    nan = torch.isnan(score if log_prob is None else score + log_prob)
    if log_prob is not None:
        nan = nan & ~torch.isinf(log_prob)
    # After a NaN of the score no position is finite, and max|x| is NaN itself: fmin passes over it.
    return reduce(torch.fmin, torch.where(nan, torch.maximum(high, -low), torch.inf).unbind())


def _propose(
    law: Target, state: State, step_size: float | Tensor, steps: int, momentum: Tensor, uniform: Tensor | None
) -> Move:
    end, last, lost = leapfrog(law, state, momentum, step_size, steps)
    # ½‖p‖² − ½‖p′‖², the difference taken before the square.
    kinetic = 0.5 * ((momentum - last) * (momentum + last)).flatten(1).sum(1)
    if state.log_prob is not None and end.log_prob is not None:
        potential, path_error = end.log_prob - state.log_prob, None
    else:
        potential, path_error = log_ratio(law.score, state.x, state.score, end.x, end.score, law.panels)
    log_accept = potential + kinetic
    # A proposal out of all bounds gives NaN, and a pole of the density +∞: neither is a state to be in.
    log_accept = torch.where(log_accept < torch.inf, log_accept, -torch.inf)
    # u in [0, 1) may be 0, whose log would accept anything; 1 − u is as uniform, and never 0.
    accepted = torch.log1p(-uniform) < log_accept  # pyright: ignore
    return Move(_choose(accepted, end, state), end.x, log_accept, accepted, path_error, lost)


def _choose(accepted: Tensor, end: State, state: State) -> State:
    wide = right_expand(accepted, end.x)
    log_prob = None
    if end.log_prob is not None and state.log_prob is not None:
        log_prob = torch.where(accepted, end.log_prob, state.log_prob)
    return State(torch.where(wide, end.x, state.x), torch.where(wide, end.score, state.score), log_prob)
