r"""Policy gradients on the chain.

For J(θ) = E[r − β Σ_h ½‖u_h‖²] = E[r] − β KL(path_θ‖path_ref) the gradient is, with A_h the advantage of what is earned from
decision h on,

    ∇J = E Σ_h [A_h ∇log π_θ(a_h|x_h) − β ∇½‖u_h‖²],   ∇log π_θ = (a − u) ∇u,

the KL of later steps being part of A_h, for the decision leads there (Fan et al. 2023, lemma 4.2, leave that part out).
Without β and with rewards made z-scores it is DDPO (Black et al. 2024, eq. 4); as a ratio to the policy that acted it serves
several epochs (their eq. 5), held by PPO's pessimistic clip (Schulman et al. 2017, eq. 7)

    min(ρA, clip(ρ, e^{−Dc}, e^{Dc}) A),   ρ = π_θ(a)/π_old(a),

which keeps the gradient of moves that come back. c is in nats per dimension, so that it means the same at any D.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from unidiff.core.boundary import check_count, check_name, check_positive, check_share
from unidiff.rl.methods.method import Learner, Method
from unidiff.rl.methods.value import Value, advantages, value_of
from unidiff.rl.policy import Decisions, Policy, Rows, Taken, Walk, log_ratio

Estimator = Literal["score", "ratio"]


@dataclass(frozen=True, eq=False)
class Weighed(Rows):
    """Decisions taken, and what each was worth.

    Attributes:
        taken: the decisions.
        advantage: A, ``[R]``.
        target: what V should have said, ``[R]``; None without a value.
    """

    taken: Taken
    advantage: Tensor
    target: Tensor | None = None


def surrogate(control: Tensor, taken: Taken, advantage: Tensor, estimator: Estimator, clip: float | None) -> Tensor:
    """What a gradient step lowers, ``[R]``: −A log π up to a constant ("score"), or −min(ρA, clip(ρ)A) ("ratio").

    Args:
        control: u_θ of the rows, ``[R, *E]``.
        taken: what was done.
        advantage: ``[R]``.
        estimator: which.
        clip: c in nats per dimension, of the ratio; None clips nothing.
    """
    log_rho = log_ratio(control, taken.action) - log_ratio(taken.control, taken.action)
    if estimator == "score":
        return -advantage * log_rho
    if clip is not None:
        # Which of the two is less follows from the sign of A; chosen after exp, a ρ that overflows makes the gradient NaN.
        # In many dimensions e^{Dc} is no number itself; what is capped leaves room for a sum over rows.
        reach = min(clip * control[0].numel(), 0.5 * math.log(torch.finfo(log_rho.dtype).max))
        log_rho = torch.where(advantage < 0, log_rho.clamp(min=-reach), log_rho.clamp(max=reach))
    return -advantage * log_rho.exp()


@dataclass(frozen=True)
class DDPO(Method):
    """Denoising diffusion policy optimisation, without a KL: it will leave the reference as far as the reward pays.

    Attributes:
        estimator: "score" (DDPO-SF: one epoch, at the policy that acted) or "ratio" (DDPO-IS).
        clip: in nats per dimension, for the ratio.

    Raises:
        ValueError: another estimator, or clip not positive.
    """

    name: ClassVar[str] = "ddpo"
    source: ClassVar[str] = "Black et al. 2024, eq. 4 and 5"
    charged: ClassVar[bool] = False
    estimator: Estimator = "ratio"
    clip: float = 0.1

    def __post_init__(self) -> None:
        check_name("estimator", self.estimator, ("score", "ratio"))
        check_positive("clip", self.clip)

    def check_loop(self, chains: int, epochs: int) -> None:
        """Refuse one chain, whose z-score is 0, and "score" at another policy than the one that acted. Raises ValueError."""
        if chains < 2:
            raise ValueError(f"chains must be at least 2 for ddpo, whose rewards are z-scores of a round, got {chains}")
        _check_epochs(self.estimator, epochs)

    def learner(self, policy: Policy) -> Learner[Weighed]:
        """What runs. Raises ValueError for a process without a reward."""
        self.check_reward(policy)
        return _Unregularised(self, policy)


@dataclass(frozen=True)
class DPOK(Method):
    """The KL-regularised policy gradient, with a learned value.

    Attributes:
        estimator, clip: as of :class:`DDPO`.
        decay: ℓ of the advantages.
        width, depth: of the value's network.

    Raises:
        ValueError: an option out of range.
    """

    name: ClassVar[str] = "dpok"
    source: ClassVar[str] = "Fan et al. 2023, algorithm 1; the gradient is whole here, the KL of later steps included"
    estimator: Estimator = "ratio"
    clip: float = 0.1
    decay: float = 0.95
    width: int = 128
    depth: int = 2

    def __post_init__(self) -> None:
        check_name("estimator", self.estimator, ("score", "ratio"))
        check_positive("clip", self.clip)
        check_count("width", self.width)
        check_count("depth", self.depth)
        check_share("decay", self.decay)

    def check_loop(self, chains: int, epochs: int) -> None:
        """Refuse "score" at another policy than the one that acted. Raises ValueError."""
        _check_epochs(self.estimator, epochs)

    def learner(self, policy: Policy) -> Learner[Weighed]:
        """What runs. Raises ValueError for a process without a reward, or β = 0."""
        self.check_reward(policy)
        self.check_temperature(policy)
        return _Regularised(self, policy)


def _check_epochs(estimator: Estimator, epochs: int) -> None:
    if estimator == "score" and epochs > 1:
        raise ValueError(f"epochs must be 1 with estimator 'score', which is of the policy that acted, got {epochs}")


class _Unregularised(Learner[Weighed]):
    def __init__(self, method: DDPO, policy: Policy) -> None:
        super().__init__(policy)
        self.method = method

    def gather(self, n: int, generator: torch.Generator, condition: Tensor | None) -> tuple[Weighed, dict[str, Tensor]]:
        walk = self.policy.walk(n, generator, condition)
        score = z_scores(walk.reward, walk.condition)
        return Weighed(walk.taken(), score.repeat(len(walk.x))), figures(walk)

    def loss(self, rows: Weighed) -> Tensor:
        control = self.policy.control(rows.taken.at)
        each = surrogate(control, rows.taken, rows.advantage, self.method.estimator, self.method.clip)
        return self.policy.mdp.horizon * each.mean()


class _Regularised(Learner[Weighed]):
    def __init__(self, method: DPOK, policy: Policy) -> None:
        super().__init__(policy)
        self.method, core = method, policy.core
        dim = torch.Size(core.event_shape).numel()
        classes = getattr(core.denoiser, "num_classes", None)
        self.value = self.module = Value(dim, method.width, method.depth, classes).to(policy.like)

    def gather(self, n: int, generator: torch.Generator, condition: Tensor | None) -> tuple[Weighed, dict[str, Tensor]]:
        walk = self.policy.walk(n, generator, condition)
        taken = walk.taken()
        with torch.no_grad():
            value = self._value(taken.at).view_as(walk.paid)
        advantage = advantages(walk.paid - self.policy.mdp.beta * walk.kl, value, self.method.decay)
        told = figures(walk) | {
            "value_error": (advantage.square().mean() / (1e-12 + (advantage + value).var(correction=0))).sqrt()
        }
        return Weighed(taken, advantage.flatten(), (advantage + value).flatten()), told

    def loss(self, rows: Weighed) -> Tensor:
        control = self.policy.control(rows.taken.at)
        each = surrogate(control, rows.taken, rows.advantage, self.method.estimator, self.method.clip)
        charge = 0.5 * self.policy.mdp.beta * control.flatten(1).square().sum(1)
        assert rows.target is not None
        error = self._value(rows.taken.at) - rows.target
        return self.policy.mdp.horizon * (each + charge).mean() + error.square().mean()

    def _value(self, at: Decisions) -> Tensor:
        return value_of(self.value, self.policy, at)


def z_scores(reward: Tensor, condition: Tensor | None) -> Tensor:
    """Rewards in deviations from the mean, ``[B]``, among the chains of one condition; 0 where they are all alike."""
    labels = torch.zeros(len(reward), dtype=torch.long, device=reward.device) if condition is None else condition
    _, group = torch.unique(labels, return_inverse=True)
    count = torch.bincount(group).to(reward)
    # Above the group's least first: the mean of equal numbers is not one of them in floating point, and z would be ±1.
    least = torch.zeros_like(count).scatter_reduce_(0, group, reward, "amin", include_self=False)
    above = reward - least[group]
    mean = torch.zeros_like(count).index_add_(0, group, above) / count
    away = above - mean[group]
    spread = (torch.zeros_like(count).index_add_(0, group, away.square()) / count).sqrt()[group]
    return away / torch.where(spread > 0, spread, torch.ones_like(spread))


def figures(walk: Walk) -> dict[str, Tensor]:
    """What is told of a walk: its mean reward, and its KL to the reference in nats."""
    return {"reward": walk.reward.mean(), "kl": walk.kl.sum(0).mean()}
