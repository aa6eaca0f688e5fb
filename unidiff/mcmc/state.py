r"""What every kernel shares: a state, the draws of a step, and what a step says of itself.

A kernel K(x′|x) is a frozen value with a step size; ``step`` is a pure function of a state and its draws, so that a
test can ask it for the reverse of any move. The same function runs eagerly and inside a captured graph: it holds no
``.item()`` and no branch on data.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar

import torch
from torch import Tensor

from unidiff.core.boundary import check_positive
from unidiff.mcmc.target import Target


@dataclass(frozen=True, slots=True)
class State:
    """Where B chains are, and what is known there.

    Attributes:
        x: positions, ``[B, *E]``.
        score: ∇ log π(x), ``[B, *E]``, in units of 1/x.
        log_prob: log π(x) up to a constant, in nats, ``[B]``; None where the kernel or the law has none.
        velocity: ``[B, *E]``, unit mass, for the kernels that have one.
    """

    x: Tensor
    score: Tensor
    log_prob: Tensor | None = None
    velocity: Tensor | None = None

    def tensors(self) -> list[Tensor]:
        """The tensors that are there, in order."""
        return [v for v in (self.x, self.score, self.log_prob, self.velocity) if v is not None]

    def clone(self) -> State:
        """A state with memory of its own."""
        return State(*(None if v is None else v.clone() for v in (self.x, self.score, self.log_prob, self.velocity)))  # pyright: ignore

    def __getitem__(self, chains: Tensor) -> State:
        """The chains at ``chains``, indices or a mask ``[B]``."""
        return State(*(None if v is None else v[chains] for v in (self.x, self.score, self.log_prob, self.velocity)))  # pyright: ignore


@dataclass(frozen=True, slots=True)
class Move:
    """One step of B chains.

    Attributes:
        state: where they are after it.
        proposal: where they would have gone, ``[B, *E]``; the state's own x where nothing is rejected.
        log_accept: log of Metropolis' ratio, in nats, ``[B]``, not clipped; its negative is the energy error. None
            where nothing is rejected.
        accepted: ``[B]``, bool.
        path_error: the estimated error of log_accept where it was integrated from a score, in nats, ``[B]``.
        lost: how far out, in max|x|, the proposal met a NaN of the law, the nearest if it met several, ``[B]``; not
            finite where it met none at a finite position. None where nothing is rejected.
    """

    state: State
    proposal: Tensor
    log_accept: Tensor | None = None
    accepted: Tensor | None = None
    path_error: Tensor | None = None
    lost: Tensor | None = None


@dataclass(frozen=True)
class Noise:
    """The draws of R steps, in the place of a generator.

    Attributes:
        normal: standard normal, ``[R, B, *E]``.
        uniform: u uniform on [0, 1), ``[R, B]``, for the kernels that accept and reject: a proposal is taken where 1 − u,
            which is never 0, is below its acceptance probability.
    """

    normal: Tensor
    uniform: Tensor | None = None

    def __getitem__(self, steps: slice) -> Noise:
        """The draws of these steps."""
        return Noise(self.normal[steps], None if self.uniform is None else self.uniform[steps])


@dataclass(frozen=True)
class Kernel(ABC):
    """A Markov kernel whose stationary law is the target's, or near it.

    Args:
        step_size: in the kernel's own unit, stated by each.

    Raises:
        TypeError: a step size that is no number.
        ValueError: a step size that is not positive and finite.
    """

    step_size: float
    metropolis: ClassVar[bool] = False
    has_velocity: ClassVar[bool] = False
    best_acceptance: ClassVar[float | None] = None

    def __post_init__(self) -> None:
        check_scale("step_size", self.step_size)

    def start(self, law: Target, x: Tensor, velocity: Tensor | None = None) -> State:
        """The state of chains at ``x`` ``[B, *E]``, with a ``velocity`` ``[B, *E]`` for kernels that have one.

        Raises:
            ValueError, TypeError: as :meth:`~unidiff.mcmc.target.Target.begin`.
        """
        score, log_prob = law.begin(x)
        return State(x, score, log_prob if self.metropolis else None, velocity if self.has_velocity else None)

    @abstractmethod
    def step(
        self, law: Target, state: State, step_size: float | Tensor, normal: Tensor, uniform: Tensor | None = None
    ) -> Move:
        """One step of all chains, inputs trusted.

        Args:
            law: what the chains run on.
            state: where they are.
            step_size: in the place of the kernel's own: a number, or a tensor that broadcasts to ``[B, *E]``.
            normal: standard normal draws, ``[B, *E]``.
            uniform: uniform draws, ``[B]``, for a kernel that accepts and rejects.
        """


def check_scale(argument: str, value: Any) -> float:
    """``value`` if it is a finite number above zero; a truth value is none."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{argument} must be a number, got {value!r}")
    return check_positive(argument, float(value))


def add_scaled(x: Tensor, scale: float | Tensor, y: Tensor, out: Tensor | None = None) -> Tensor:
    """x + scale·y in one pass over memory, for a scale known on the host or on the device; ``out`` may be x."""
    if isinstance(scale, Tensor):
        return torch.addcmul(x, scale, y, out=out)
    return torch.add(x, y, alpha=scale, out=out)
