r"""The reverse chain as a Markov decision process, in torch alone and for any number of chains at once.

    state  (x_{t_k}, t_k[, class]),   action  x_{t_{k−1}}, or the residual a in x_{t_{k−1}} = μ_ref + σ_ref a,
    reward r(x_0) at the end and what is given for each step, less ½β‖a‖².

Under the reference chain a ~ N(0, I), so the KL of a policy N(u, I) to it is ½‖u‖² a step, and the charge's mean is that
KL and a constant: a maximum-entropy learner with entropy weight β on this reward optimises r − β·KL (Levine 2018,
section 2; Fan et al. 2023, eq. 7). The law of a trajectory is that of the chain,

    log p(x_{t_N}, …, x_{t_0}) = log p(x_{t_N}) + Σ_k log π(x_{t_{k−1}}|x_{t_k})      (Black et al. 2024, eq. 3)

with sums over the D numbers of a datum, never means. A step without noise is no decision: the chain's last one, where
the grid starts at no noise, is taken with the decision before it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from unidiff.core.boundary import (
    check_alike,
    check_count,
    check_floating,
    check_name,
    check_not_negative,
    check_state,
    check_type,
)
from unidiff.core.chain import ReverseChain, Step
from unidiff.core.denoiser import Denoiser, DenoiserLike
from unidiff.core.gaussian import Gaussian
from unidiff.core.ladder import embed_steps
from unidiff.core.prediction import Prediction

Action = Literal["residual", "state"]
ACTIONS: tuple[Action, ...] = get_args(Action)
Reward = Callable[[Tensor], Tensor]
"""r(x_0) for x_0 ``[B, *E]``: ``[B]``, floating-point."""
StepReward = Callable[[Tensor, Tensor, float, float], Tensor]
"""What the step from (x_t, t) to (x_s, s) earns: ``(xt, xs, t, s) -> [B]``."""


@dataclass(frozen=True, eq=False)
class State:
    """Where a batch of chains is.

    Attributes:
        x: x_{t_k}, ``[B, *E]``.
        k: how many steps of the grid are left to t_0, the same for all.
        condition: class labels ``[B]``, or None.
    """

    x: Tensor
    k: int
    condition: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a step led to.

    Attributes:
        state: the next one; the data themselves, x_{t_0}, where the chains have ended.
        paid: what the step earned, without the charge (a charge may be so large that it swallows this), ``[B]``.
        charge: ½β‖a‖², ``[B]``, in units of reward.
        done: whether the chains have ended, all together.
    """

    state: State
    paid: Tensor
    charge: Tensor
    done: bool

    @property
    def reward(self) -> Tensor:
        """What was paid, less the charge, ``[B]``."""
        return self.paid - self.charge


class DenoisingMDP:
    """A chain, what is paid for its data, and what leaving the chain costs.

    Args:
        chain: the reference; its parameters are not trained from here.
        reward: of the data.
        step_reward: of each step; None pays nothing.
        beta: the KL temperature β ≥ 0 of the charge, in units of reward; 0 charges nothing.
        action: "residual" (whitened by the reference), or "state", the next state itself.
        guidance: classifier-free guidance of the reference.

    Raises:
        TypeError: chain is no ReverseChain, a reward that cannot be called.
        ValueError: an unknown kind of action, beta negative, a chain none of whose steps has noise.
    """

    def __init__(
        self,
        chain: ReverseChain,
        reward: Reward | None = None,
        *,
        step_reward: StepReward | None = None,
        beta: float = 0.0,
        action: Action = "residual",
        guidance: float = 1.0,
    ) -> None:
        check_type("chain", chain, ReverseChain)
        for name, value in (("reward", reward), ("step_reward", step_reward)):
            if value is not None and not callable(value):
                raise TypeError(f"{name} must be callable, got {type(value).__name__}")
        check_name("action", action, ACTIONS)
        self.chain, self.reward, self.step_reward = chain, reward, step_reward
        self.beta = float(check_not_negative("beta", beta))
        self.action: Action = action
        self.guidance = guidance
        self.last = 2 if decodes(chain) else 1
        if chain.steps < self.last:
            raise ValueError(
                "chain must have a step with noise, got one step to a time without any; "
                "start the grid a little later, or take two steps"
            )

    @property
    def horizon(self) -> int:
        """How many decisions an episode has: N, or N − 1 where the grid starts at no noise."""
        return self.chain.steps - self.last + 1

    def start(
        self,
        n: int,
        generator: torch.Generator | None = None,
        condition: Tensor | None = None,
        like: Tensor | None = None,
    ) -> State:
        """n chains at t = 1, drawn from the prior in ``like``'s dtype and on its device.

        Raises:
            TypeError, ValueError: n below 1, labels as :meth:`unidiff.Diffusion.predict`.
        """
        check_count("n", n)
        x = self.chain.core.prior(n, generator, like)
        return State(x, self.chain.steps, self.chain.core.check_arguments("x", x, condition, self.guidance))

    @torch.no_grad()
    def reference(self, state: State) -> Gaussian:
        """p_ref(x_{t_{k−1}}|x_{t_k}); the state is trusted."""
        return self.chain.kernel(state.x, state.k, guess(self.chain, state, self.guidance))

    def data(self, state: State) -> Tensor:
        """x_{t_0} of chains that have no decision left, ``[B, *E]``: theirs, or the mean of the last step without noise."""
        return self.reference(state).mean if state.k else state.x

    @torch.no_grad()
    def step(self, state: State, action: Tensor, law: Gaussian | None = None) -> Outcome:
        """Take ``action`` ``[B, *E]``.

        Args:
            state: not an ended one.
            action: of the kind that was asked for.
            law: the reference's, if it is known already.

        Raises:
            ValueError: a state that has ended; an action, or what a reward returns, of another shape, dtype or device.
            FloatingPointError: a reward that is not finite, with how many are not.
        """
        if state.k < self.last:
            raise ValueError("state has ended; start anew")
        check_alike(state=state.x, action=action)
        x, charge = self.act(self.reference(state) if law is None and self.asks else law, action)
        after = State(x, state.k - 1, state.condition)
        done = after.k < self.last
        if done:
            after = State(self.data(after), 0, after.condition)
        earned = torch.zeros_like(charge)
        if self.step_reward is not None:
            times = self.chain.grid.times
            paid = self.step_reward(state.x, x, float(times[state.k]), float(times[state.k - 1]))
            earned = earned + checked("step_reward", paid, x).detach()
        if done and self.reward is not None:
            earned = earned + checked("reward", self.reward(after.x), x).detach()
        return Outcome(after, earned, charge, done)

    @property
    def asks(self) -> bool:
        """Whether a step needs the reference's law: a state that is chosen as it is, and not charged for, does not."""
        return self.action == "residual" or self.beta > 0

    def act(self, law: Gaussian | None, action: Tensor) -> tuple[Tensor, Tensor]:
        """Where ``action`` ``[B, *E]`` leads, and its charge ``[B]``; ``law`` is None only if nothing ``asks`` for it."""
        if law is None:
            return action, action.new_zeros(len(action))
        if self.action == "residual":
            residual, x = action, law.mean + law.std * action
        else:
            residual, x = (action - law.mean) / law.std, action
        return x, 0.5 * self.beta * residual.flatten(1).square().sum(1)


def guess(chain: ReverseChain, state: State, guidance: float = 1.0) -> Prediction:
    """What a chain's denoiser says of the state of another: any policy that is a chain. Arguments are trusted."""
    return guess_at(chain, state.x, state.k, state.condition, guidance)


def guess_at(chain: ReverseChain, x: Tensor, k: Step, condition: Tensor | None, guidance: float = 1.0) -> Prediction:
    """:func:`guess` of x_{t_k}, for k as :meth:`~unidiff.core.chain.ReverseChain.kernel` takes it."""
    return ask(chain.core.denoiser, chain, x, k, condition, guidance)


def ask(
    denoiser: DenoiserLike, chain: ReverseChain, x: Tensor, k: Step, condition: Tensor | None, guidance: float
) -> Prediction:
    """What any denoiser says of x_{t_k} on a chain's grid; k is one, or a tensor ``[1]`` or ``[B]`` beside ``x``."""
    level = chain.levels[k].to(x)
    # Many rows share few levels, and each is embedded once.
    many = isinstance(k, Tensor) and len(k) >= chain.steps and isinstance(denoiser, Denoiser)
    known = embed_steps(chain, x, denoiser) if many else None
    if known is None:
        return denoiser(x, level, condition, guidance)
    # The gradient of embedding() is the same bits each time, also on a GPU; that of an index is not.
    return denoiser(x, level, condition, guidance, functional.embedding(k - 1, known))  # pyright: ignore


def decodes(chain: ReverseChain) -> bool:
    """Whether the chain's last step is without noise."""
    return bool(torch.isneginf(chain.table.log_posterior_var[0]))


def fixed_variance(chain: ReverseChain) -> bool:
    """Whether the variance of a step is that of its times, whatever the state."""
    table = chain.variance == "optimal" and chain.x0_variance is not None
    return table or chain.variance in ("posterior", "prior", "given")


def check_start(argument: str, x: Tensor, like: Tensor) -> Tensor:
    """``x`` if chains in the place of ``like`` ``[n, *E]`` may start there. Raises TypeError, ValueError."""
    check_state(argument, x, like.shape[1:])
    check_alike(**{argument: x, "like": like})
    return x


def one_each(name: str, value: Tensor, x: Tensor) -> Tensor:
    """``value``, its graph kept, if it is one floating-point number for each row of ``x``; it may not be finite.

    Raises:
        TypeError: no floating-point tensor.
        ValueError: another shape than ``[B]``.
    """
    check_floating(f"what {name} returns", value)
    # Summed as it is, a column [B, 1] would become a table [B, B].
    if value.shape != x.shape[:1]:
        raise ValueError(f"{name} must return shape [{x.shape[0]}], one number a chain, got {list(value.shape)}")
    return value


def checked(name: str, value: Tensor, x: Tensor) -> Tensor:
    """``value`` in the dtype of ``x``, its graph kept, if it is one finite number for each row of ``x``.

    Raises:
        TypeError, ValueError: as :func:`one_each`; another device.
        FloatingPointError: with how many are not finite.
    """
    one_each(name, value, x)
    if value.device != x.device:
        raise ValueError(f"{name} must return its numbers on {x.device}, where the chains are, got {value.device}")
    lost = int((~torch.isfinite(value)).sum())
    if lost:
        raise FloatingPointError(f"{name} returned {lost} of {len(value)} values that are not finite")
    return value.to(x.dtype)
