r"""Adjoint matching: regression onto the best control, without a gradient through the policy.

Of J(u) = E[r(x_0) − β Σ ½‖u_k‖²] over x_{k−1} = μ_ref(x_k) + σ_k (u_k + ξ_k) the derivative by u_k is
σ_k ∂J/∂x_{k−1} − βu_k, and at the optimum the part of it that runs through later controls vanishes in the mean. What is
left is the lean adjoint

    a_0 = −∇r(x_0)/β,   a_k = (∂μ_ref/∂x_k)ᵀ a_{k−1},   u_k → −σ_k a_{k−1}     (item 59)

whose regression has the best control of fixed σ for its only fixed point (Domingo-Enrich et al. 2025, eq. 38 and
proposition 7, for the SDE; in steps the index is k − 1, the state that the noise leads to: a_k would be a bias of order δ).
For the tilt to be that of p(x_0) the noise must be memoryless (their theorem 1): the "prior" rule of a chain that ends in
no signal.

Between modes the product of Jacobians has heavy tails. As −u_k/σ_k is what a_{k−1} is in the mean, at the optimum, a share
1 − ℓ of it may stand for it on the way,

    a_k = (∂μ_ref/∂x_k)ᵀ [ℓ a_{k−1} − (1 − ℓ) u_k/σ_k],

which moves no fixed point (the tower rule) and forgets what is further than about 1/(1 − ℓ) steps away, as TD(λ) does. Like
it, it can diverge where a network's errors feed on themselves: it is for few dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unidiff.core.boundary import check_share
from unidiff.rl.mdp import DenoisingMDP, State, checked, fixed_variance, guess
from unidiff.rl.methods.gradients import figures
from unidiff.rl.methods.method import Learner, Method
from unidiff.rl.policy import Decisions, Policy, Rows, Walk


@dataclass(frozen=True, eq=False)
class Matched(Rows):
    """Where the chains were, and the control that the adjoint asks for there, ``[R, *E]``."""

    at: Decisions
    target: Tensor


@dataclass(frozen=True)
class AdjointMatching(Method):
    """Regression of the control onto the lean adjoint; the reward must be differentiable.

    Attributes:
        decay: ℓ in [0, 1]; 1 is the published method.

    Raises:
        ValueError: decay out of range.
    """

    name: ClassVar[str] = "adjoint"
    source: ClassVar[str] = "Domingo-Enrich et al. 2025, eq. 38; Sutton 1988 for the decay"
    decay: float = 1.0

    def __post_init__(self) -> None:
        check_share("decay", self.decay)

    def learner(self, policy: Policy) -> Learner[Matched]:
        """What runs. Raises ValueError: β = 0, no or a step's reward, a variance that depends on the state."""
        self.check_temperature(policy)
        self.check_reward(policy)
        mdp = policy.mdp
        if mdp.step_reward is not None or mdp.reward is None:
            raise ValueError("mdp must pay for the data alone for adjoint matching, got a step_reward")
        check_fixed_variance(mdp, self.name)
        return _Matching(self, policy)


class _Matching(Learner[Matched]):
    def __init__(self, method: AdjointMatching, policy: Policy) -> None:
        super().__init__(policy)
        self.method = method

    def gather(self, n: int, generator: torch.Generator, condition: Tensor | None) -> tuple[Matched, dict[str, Tensor]]:
        walk = self.policy.walk(n, generator, condition)
        adjoint = lean_adjoint(self.policy.mdp, walk, self.method.decay)
        return Matched(walk.decisions(), -walk.std.flatten(0, 1) * adjoint.flatten(0, 1)), figures(walk)

    def loss(self, rows: Matched) -> Tensor:
        error = (self.policy.control(rows.at) - rows.target).flatten(1).square().sum(1)
        return 0.5 * self.policy.mdp.horizon * error.mean()


def lean_adjoint(mdp: DenoisingMDP, walk: Walk, decay: float = 1.0) -> Tensor:
    """a_{k−1}, the adjoint at the state that each decision led to, ``[H, B, *E]``; ``decay`` is ℓ.

    Raises:
        ValueError, FloatingPointError: a reward that has no gradient in x, or one that is not finite.
    """
    x0, states, beta = walk.x0, walk.x, mdp.beta
    a = -reward_gradient(mdp, x0) / beta
    if mdp.last == 2:  # the noiseless step is the reference's
        before = landing(mdp, walk)
        a = pulled_back(mdp, before, 1, walk.condition, a)
    found = torch.empty_like(states)
    for h in range(len(states) - 1, -1, -1):
        found[h] = a
        if h:
            a = decay * a - (1 - decay) * walk.control[h] / walk.std[h]
            a = pulled_back(mdp, states[h], int(mdp.chain.steps - h), walk.condition, a)
    return found


def landing(mdp: DenoisingMDP, walk: Walk) -> Tensor:
    """Where the last decision led, ``[B, *E]``: the data, or the state before the noiseless step."""
    mean = mdp.chain.mean(walk.x[-1], mdp.last, walk.guess[-1])
    return mean + walk.std[-1] * walk.action[-1]


def reward_gradient(mdp: DenoisingMDP, x0: Tensor) -> Tensor:
    """∇r at ``x0`` ``[B, *E]``. Raises ValueError where r has no gradient, FloatingPointError where one is not finite."""
    assert mdp.reward is not None
    with torch.enable_grad():
        x = x0.detach().requires_grad_()
        r = checked("reward", mdp.reward(x), x)
        if not r.requires_grad:
            raise ValueError("reward must be differentiable in x0 for this method: what it returns has no gradient")
        (gradient,) = torch.autograd.grad(r.sum(), x)
    lost = int((~torch.isfinite(gradient)).flatten(1).any(1).sum())
    if lost:
        raise FloatingPointError(f"reward has a gradient that is not finite at {lost} of {len(x)} data")
    return gradient


def pulled_back(mdp: DenoisingMDP, x: Tensor, k: int, condition: Tensor | None, a: Tensor) -> Tensor:
    """(∂μ_ref/∂x)ᵀ a at x_{t_k} = ``x``, ``[B, *E]``; the reference's variance is taken for a constant."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        mean = mdp.chain.mean(x, k, guess(mdp.chain, State(x, k, condition), mdp.guidance).x0)
        (pulled,) = torch.autograd.grad(mean, x, a)
    return pulled


def check_fixed_variance(mdp: DenoisingMDP, name: str) -> None:
    """Refuse a reference whose variance moves with the state. Raises ValueError with the cure."""
    chain = mdp.chain
    if not fixed_variance(chain):
        raise ValueError(
            f"mdp must have a chain of fixed variance for {name}, got the rule {chain.variance!r}, which depends on the "
            "state; take 'prior' (memoryless), 'posterior', or 'optimal' with a table x0_variance"
        )
