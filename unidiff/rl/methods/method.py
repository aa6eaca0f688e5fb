"""What every method of fine-tuning is: experience that is gathered, and a loss on rows of it. One loop runs them all.

A method is a frozen value, its options; :meth:`Method.learner` makes what runs, for one policy. The loop is
``unidiff.train.FineTuner``'s: gather, then some epochs over the rows in minibatches, then gather anew.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from unidiff.rl.policy import Policy, Rows

R = TypeVar("R", bound=Rows)


class Learner(ABC, Generic[R]):
    """A method at work on a policy.

    Attributes:
        policy: whose core is trained.
        module: what the method learns besides, a value say; None for nothing.
        condition: labels that its data have, ``[P]``; None where the loop says them.
    """

    module: nn.Module | None = None
    condition: Tensor | None = None

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    @abstractmethod
    def gather(self, n: int, generator: torch.Generator, condition: Tensor | None) -> tuple[R, dict[str, Tensor]]:
        """Experience of n chains or pairs, one decision (or chain, or pair) a row, and figures for the log, ``[]``."""

    @abstractmethod
    def loss(self, rows: R) -> Tensor:
        """What is minimised on some of the rows, ``[]``."""


class Method(ABC):
    """The options of a method.

    Attributes:
        name: on the command line.
        source: paper and equation.
        charged: whether the method keeps to the reference by β.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    charged: ClassVar[bool] = True

    @abstractmethod
    def learner(self, policy: Policy) -> Learner[Any]:
        """What runs. Raises ValueError for a process in which the method has no meaning."""

    def options_told(self) -> dict[str, Any]:
        """The options, JSON-ready."""
        return asdict(self)  # pyright: ignore[reportArgumentType]

    def check_loop(self, chains: int, epochs: int) -> None:  # noqa: B027 - most methods have a meaning in any loop
        """Refuse a loop of so many chains a round, and passes over them, in which the method has no meaning: ValueError."""

    def check_temperature(self, policy: Policy) -> float:
        """β of a method that needs one. Raises ValueError unless it is positive."""
        beta = policy.mdp.beta
        if not beta > 0:
            raise ValueError(f"beta must be positive for {self.name} (it keeps to the reference by β·KL), got {beta:g}")
        return beta

    def check_reward(self, policy: Policy) -> None:
        """Refuse a process that pays nothing. Raises ValueError."""
        if policy.mdp.reward is None and policy.mdp.step_reward is None:
            raise ValueError(f"mdp must have a reward for {self.name}")
