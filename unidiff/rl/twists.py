r"""What a steered chain is told on its way: twists, and the controls made of them.

A twist ψ_k(x) > 0 guesses at E_ref[e^{r(x_0)/β} | x_{t_k} = x], the exponential of the soft value (item 53), whose
logarithm's slope is the best control: in the residuals x_{t_{k−1}} = μ_ref + σ_k (u + ξ) of the chain,

    u = σ_k ∇ log ψ_k(x_{t_k}),        ψ_k(x) = exp(r(x̂_0(x))/β) for the twist "reward"

(Chung et al. 2023 (DPS) and Bansal et al. 2023 for a log-likelihood; Wu et al. 2023 (TDS)). The guess is right up to a
constant where r is linear and the data are Gaussian: there the posterior's spread, which Jensen's bound loses, is the same
at all states. The slope is that of the level left, not of the one entered: another error, of the order of the step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from unidiff.core.boundary import (
    check_alike,
    check_finite,
    check_floating,
    check_name,
    check_positive,
    check_real,
    check_type,
)
from unidiff.core.gaussian import Gaussian
from unidiff.rl.mdp import DenoisingMDP, Reward, State, checked

Twist = Literal["reward", "none"] | Callable[[Tensor, float], Tensor]
"""``"reward"``, r(x̂_0)/β; ``"none"``, 0; or log ψ by a function ``(xt [B, *E], t) -> [B]``, in nats."""
Proposal = Literal["reference", "gradient"] | Callable[[State], Tensor]
"""``"reference"``, u = 0; ``"gradient"``, u = σ_k ∇ log ψ_k; or u ``[B, *E]`` by a function of the state."""
TWISTS: tuple[str, ...] = get_args(get_args(Twist)[0])
PROPOSALS: tuple[str, ...] = get_args(get_args(Proposal)[0])


@dataclass(frozen=True, eq=False)
class Outlook:
    """What is known at a state before its step is taken.

    Attributes:
        law: the reference's step from there.
        log_twist: log ψ_k, float64 ``[B]``.
        control: u in units of σ_k, ``[B, *E]``; None for none.
    """

    law: Gaussian
    log_twist: Tensor
    control: Tensor | None


@dataclass(frozen=True, eq=False)
class Guide:
    """A reward at a temperature, a guess at its soft value, and what is made of the guess.

    Attributes:
        mdp: the chain and its terminal reward.
        beta: the KL temperature β, in units of reward.
        twist, propose: see :data:`Twist` and :data:`Proposal`.
        scale: g of u = g σ_k ∇ log ψ_k, finite.

    Raises:
        TypeError: mdp is no DenoisingMDP, a beta or a scale that is no number, a twist or a proposal that is neither a
            name nor callable.
        ValueError: an unknown name, beta not positive, scale not finite, a process without a reward or with one for each
            step, the gradient of no twist.
    """

    mdp: DenoisingMDP
    beta: float
    twist: Twist = "reward"
    propose: Proposal = "reference"
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_type("mdp", self.mdp, DenoisingMDP)
        check_positive("beta", self.beta)
        if not math.isfinite(check_real("scale", self.scale)):
            raise ValueError(f"scale must be finite, got {self.scale}")
        for name, value, known in (("twist", self.twist, TWISTS), ("propose", self.propose, PROPOSALS)):
            if isinstance(value, str):
                check_name(name, value, known)
            elif not callable(value):
                raise TypeError(f"{name} must be callable or one of {', '.join(known)}, got {value!r}")
        reward_of(self.mdp)
        if self.propose == "gradient" and self.twist == "none":
            raise ValueError("propose 'gradient' needs a twist to follow, got twist 'none'")

    def gain(self, x0: Tensor) -> Tensor:
        """r(x_0)/β at data, float64 ``[B]``: what the last twist is, whatever the others are."""
        return checked("reward", reward_of(self.mdp)(x0), x0).detach().to(torch.float64) / self.beta

    def outlook(self, state: State) -> Outlook:
        """What is known at ``state``, k ≥ 1, by one call of the denoiser.

        Raises:
            TypeError, ValueError: what a twist, a reward or a control returns has another shape, dtype or device; a
                gradient is asked of what has none.
            FloatingPointError: a twist or a reward that is not finite: how many are not, and at which step.
        """
        slope = self.propose == "gradient"
        chain, k = self.mdp.chain, state.k
        with torch.set_grad_enabled(slope):
            x = state.x.detach().requires_grad_(slope)
            # The MDP's own reference would ask the denoiser a second time for what the twist has asked.
            prediction = chain.core.denoiser(x, chain.levels[k].to(x), state.condition, self.mdp.guidance)
            law = chain.kernel(x, k, prediction)
            name, value, unit = self._twist(x, k, prediction.x0)
        law = Gaussian(law.mean.detach(), law.log_var.detach())
        control = None
        if callable(self.propose):
            control = self.propose(state)
            check_floating("control", control)
            control = control.detach()
            check_alike(state=state.x, control=control)
            check_finite(f"control at step {k}", control)
        twist = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        if value is not None:
            twist = checked(f"{name} at step {k}", value, x).detach().to(torch.float64) / unit
        if slope:
            control = self.scale / unit * law.std * _slope(name, value, x)
        return Outlook(law, twist, control)

    def _twist(self, x: Tensor, k: int, x0: Tensor) -> tuple[str, Tensor | None, float]:
        """What a twist is called, its value (None for 0), and the unit of it."""
        if callable(self.twist):
            return "twist", self.twist(x, float(self.mdp.chain.grid.times[k])), 1.0
        if self.twist == "none":
            return "twist", None, 1.0
        return "reward", reward_of(self.mdp)(x0), self.beta


def reward_of(mdp: DenoisingMDP) -> Reward:
    """The terminal reward. Raises ValueError for none, and for a process that pays its steps."""
    if mdp.reward is None or mdp.step_reward is not None:
        raise ValueError("mdp must have a reward of the data and none of the steps: they are what is steered to")
    return mdp.reward


def propose(outlook: Outlook, generator: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
    r"""A step by μ_ref + σ(u + ξ), ξ from ``generator``, with what it costs.

    Returns:
        The next x ``[B, *E]``; log p_ref − log q of the step, −uᵀξ − ½‖u‖²; and ½‖u‖², the KL of the step. Both are
        float64 ``[B]``.
    """
    mean = outlook.law.mean
    noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
    if outlook.control is None:
        nothing = torch.zeros_like(outlook.log_twist)
        return outlook.law.sample(noise=noise, check=False), nothing, nothing
    u, xi = (v.flatten(1).to(torch.float64) for v in (outlook.control, noise))
    cost = 0.5 * u.square().sum(1)
    return outlook.law.sample(noise=outlook.control + noise, check=False), -(u * xi).sum(1) - cost, cost


def _slope(name: str, value: Tensor | None, x: Tensor) -> Tensor:
    """∇ of each row's value; a row's value must not depend on other rows."""
    if value is None or not value.requires_grad:
        raise ValueError(f"{name} must be differentiable in x for propose 'gradient', got one without a gradient")
    (slope,) = torch.autograd.grad(value.sum(), x, allow_unused=True, materialize_grads=True)
    return check_finite(f"gradient of {name}", slope)
