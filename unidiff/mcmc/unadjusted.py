r"""Langevin without rejection: simple, and biased by the step.

ULA, the Euler–Maruyama step of dx = s dt + √2 dW (Roberts & Tweedie 1996, section 1.4):

    x ← x + δ s(x) + √(2δ) ξ.

On N(0, v) it is x ← (1 − δ/v) x + √(2δ) ξ, whose stationary variance is 2δ/(1 − (1 − δ/v)²) = v/(1 − δ/(2v)), not v;
it exists for δ < 2v. A law's narrowest direction sets the step.

Underdamped Langevin, dx = u dt, du = s dt − γ u dt + √(2γ) dW, with unit mass, split as B A O A B (Leimkuhler &
Matthews 2013, eq. 7):

    B  u ← u + ½h s      A  x ← x + ½h u      O  u ← e^{−γh} u + √(1 − e^{−2γh}) ξ      A      B

at one score a step. On N(0, v) its stationary law is x ~ N(0, v) *exactly*, independent of u ~ N(0, 1 − h²/(4v)), for
every friction γ: B and A make them x ~ N(0, v − h²/4) and u ~ N(0, 1), independent, which O keeps, and A and B undo
it. It exists for h < 2√v.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unidiff.mcmc.state import Kernel, Move, State, add_scaled, check_scale
from unidiff.mcmc.target import Target


def langevin_step(x: Tensor, score: Tensor, step_size: float | Tensor, normal: Tensor) -> Tensor:
    """x + δ s + √(2δ) ξ, ``[B, *E]``."""
    drifted = add_scaled(x, step_size, score)
    return add_scaled(drifted, (2 * step_size) ** 0.5, normal, out=drifted)


@dataclass(frozen=True)
class ULA(Kernel):
    """The unadjusted Langevin algorithm.

    Args:
        step_size: δ, in units of x².
    """

    def step(
        self, law: Target, state: State, step_size: float | Tensor, normal: Tensor, uniform: Tensor | None = None
    ) -> Move:
        """One step; ``uniform`` is not used."""
        x = langevin_step(state.x, state.score, step_size, normal)
        return Move(State(x, law.score(x)), x)


@dataclass(frozen=True)
class BAOAB(Kernel):
    """Underdamped Langevin, unit mass.

    Args:
        step_size: h, in units of x (time, with unit mass).
        friction: γ > 0, per unit of h. Small is nearly Hamiltonian, large is overdamped.

    Raises:
        TypeError: a step size or friction that is no number.
        ValueError: a step size or friction that is not positive and finite.
    """

    friction: float = 1.0
    has_velocity: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_scale("friction", self.friction)

    def step(
        self, law: Target, state: State, step_size: float | Tensor, normal: Tensor, uniform: Tensor | None = None
    ) -> Move:
        """One step; ``uniform`` is not used."""
        velocity = add_scaled(state.velocity, 0.5 * step_size, state.score)  # pyright: ignore
        x = add_scaled(state.x, 0.5 * step_size, velocity)
        keep, fresh = _exchange(self.friction, step_size)
        velocity = add_scaled(keep * velocity, fresh, normal)
        x = add_scaled(x, 0.5 * step_size, velocity)
        score = law.score(x)
        velocity = add_scaled(velocity, 0.5 * step_size, score)
        return Move(State(x, score, velocity=velocity), x)


def _exchange(friction: float, step_size: float | Tensor) -> tuple[float | Tensor, float | Tensor]:
    """(e^{−γh}, √(1 − e^{−2γh})): the share of the velocity that stays, and the deviation of what comes in."""
    if isinstance(step_size, Tensor):
        return torch.exp(-friction * step_size), torch.expm1(-2 * friction * step_size).neg().sqrt()
    return math.exp(-friction * step_size), math.sqrt(-math.expm1(-2 * friction * step_size))
