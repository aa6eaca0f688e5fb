r"""Reward backpropagation: the gradient of E[r(x_0)] through the chain itself, its noise held fixed.

    x_{k−1} = μ_ref(x_k) + σ_k (u_θ(x_k) + ξ_k),   L = E[−r(x_0) + β Σ ½‖u_k‖²]

Through every step it is the pathwise gradient of J, unbiased (item 50). Through the last K alone (DRaFT-K: Clark et al.
2024, section 3.1), or through a K drawn anew each time (AlignProp: Prabhudesai et al. 2023, section 4.2), it costs less
memory and is biased: what an early control does to later states is not heard. The charge of the steps cut off is kept, at
states that are held fixed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unidiff.core.boundary import check_count, check_flag
from unidiff.rl.mdp import State, checked, guess
from unidiff.rl.methods.method import Learner, Method
from unidiff.rl.policy import Decisions, Policy, Rows


@dataclass(frozen=True, eq=False)
class Noises(Rows):
    """All that is random in a chain, one a row.

    Attributes:
        start: x_{t_N}, ``[R, *E]``.
        noise: ξ of each decision, ``[R, H, *E]``.
        condition: ``[R]``, or None.
    """

    start: Tensor
    noise: Tensor
    condition: Tensor | None = None


@dataclass(frozen=True)
class Backprop(Method):
    """Reward backpropagation; the reward must be differentiable.

    Attributes:
        last: K, how many steps from the end the gradient runs through; None for all.
        random: draw K anew for each minibatch, uniformly in 1 … ``last``.

    Raises:
        ValueError: K below 1.
    """

    name: ClassVar[str] = "backprop"
    source: ClassVar[str] = "Clark et al. 2024 (DRaFT), section 3.1; Prabhudesai et al. 2023 (AlignProp), section 4.2"
    last: int | None = None
    random: bool = False

    def __post_init__(self) -> None:
        if self.last is not None:
            check_count("last", self.last)
        check_flag("random", self.random)

    def learner(self, policy: Policy) -> Learner[Noises]:
        """What runs. Raises ValueError for a process without a reward."""
        self.check_reward(policy)
        return _Through(self, policy)


class _Through(Learner[Noises]):
    def __init__(self, method: Backprop, policy: Policy) -> None:
        super().__init__(policy)
        self.method = method
        self._draws: torch.Generator | None = None
        self._told: dict[str, Tensor] = {}

    def gather(self, n: int, generator: torch.Generator, condition: Tensor | None) -> tuple[Noises, dict[str, Tensor]]:
        mdp, like = self.policy.mdp, self.policy.like
        state = mdp.start(n, generator, condition, like)
        shape = (n, mdp.horizon, *mdp.chain.core.event_shape)
        noise = torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)
        self._draws, self._told = generator, {}
        return Noises(state.x, noise, state.condition), self._told

    def loss(self, rows: Noises) -> Tensor:
        horizon = self.policy.mdp.horizon
        reach = horizon if self.method.last is None else min(self.method.last, horizon)
        if self.method.random:
            assert self._draws is not None
            drawn = torch.randint(1, reach + 1, (), generator=self._draws, device=self._draws.device)
            reach = int(drawn)
        earned, kl = run_through(self.policy, rows, reach)
        self._told |= {"reward": earned.detach().mean(), "kl": kl.detach().mean()}
        return (self.policy.mdp.beta * kl - earned).mean()


def run_through(policy: Policy, rows: Noises, reach: int | None = None) -> tuple[Tensor, Tensor]:
    """What each chain earns and Σ ½‖u‖² along it, ``[R]`` each, differentiable in θ through its last ``reach`` steps (all).

    Raises:
        ValueError: a reward without a gradient in x.
        FloatingPointError: a reward that is not finite.
    """
    mdp, chain = policy.mdp, policy.mdp.chain
    reach = mdp.horizon if reach is None else reach
    x = rows.start
    earned, kl = (torch.zeros(len(x), dtype=x.dtype, device=x.device) for _ in range(2))
    times = chain.grid.times
    for h in range(mdp.horizon):
        if h <= mdp.horizon - reach:
            x = x.detach()
        k = chain.steps - h
        prediction = guess(chain, State(x, k, rows.condition), mdp.guidance)
        law = chain.kernel(x, k, prediction)
        which = torch.full((len(x),), k, device=x.device)
        control = policy.control(Decisions(x, which, prediction.x0, law.std.expand_as(x), rows.condition))
        kl = kl + 0.5 * control.flatten(1).square().sum(1)
        after = law.mean + law.std * (control + rows.noise[:, h])
        if mdp.step_reward is not None:
            paid = mdp.step_reward(x, after, float(times[k]), float(times[k - 1]))
            earned = earned + _followed("step_reward", paid, after, "the next x")
        x = after
    if mdp.last == 2:
        x = chain.kernel(x, 1, guess(chain, State(x, 1, rows.condition), mdp.guidance)).mean
    if mdp.reward is not None:
        earned = earned + _followed("reward", mdp.reward(x), x, "x0")
    return earned, kl


def _followed(name: str, paid: Tensor, x: Tensor, which: str) -> Tensor:
    """What is paid for ``x``, if a gradient that comes to x goes on to it. Raises ValueError."""
    if x.requires_grad and not paid.requires_grad:
        raise ValueError(f"{name} must be differentiable in {which} for this method: what it returns has no gradient")
    return checked(name, paid, x)
