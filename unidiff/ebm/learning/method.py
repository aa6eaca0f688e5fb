"""What every objective of an energy is: a loss on a batch of data, and what it remembers from one batch to the next.

A method is a frozen value, its options; :meth:`EnergyMethod.learner` makes what runs, for one model. The loop is
``unidiff.train.EnergyTrainer``'s; a loop of one's own calls :meth:`EnergyLearner.loss`, differentiates it, and steps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import fields
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from unidiff.core.boundary import check_generator, check_share, check_state, check_time, check_type
from unidiff.core.level import NoiseLevel
from unidiff.core.schedule import Schedule
from unidiff.ebm.model import EnergyModel
from unidiff.worlds.world import World


class EnergyLearner(ABC):
    """A method at work on a model.

    Attributes:
        model: whose energy is learned.
        module: what is learned besides, a constant say; None for nothing.
    """

    module: nn.Module | None = None

    def __init__(self, model: EnergyModel) -> None:
        check_type("model", model, EnergyModel)
        self.model = model

    def loss(self, x: Tensor, generator: torch.Generator | None = None, progress: float = 0.0) -> Tensor:
        """What is minimised on the data ``x`` ``[B, *E]``, ``[]``, differentiable in the model's and module's parameters.

        Args:
            x: data, float32 or wider.
            generator: the source of all draws, on x's device.
            progress: the share of the run that is done, in [0, 1]: what is annealed goes by it.

        Raises:
            TypeError: x is no floating-point tensor.
            ValueError: x is not ``[B, *E]``, empty, in half precision or not finite; a generator of another device;
                progress outside [0, 1].
            FloatingPointError: energies that are not finite, with how many of how many; or NaN where chains that reject
                asked for them.
        """
        check_state("x", x, self.model.event_shape)
        if not x.shape[0]:
            raise ValueError(f"x must hold at least one datum, got shape {list(x.shape)}")
        if x.dtype in (torch.float16, torch.bfloat16):
            raise ValueError(f"x must be float32 or wider (chains and logits need the digits), got {x.dtype}")
        check_generator(generator, x.device)
        check_share("progress", progress)
        return self._loss(x.detach(), generator, progress)

    @abstractmethod
    def _loss(self, x: Tensor, generator: torch.Generator | None, progress: float) -> Tensor:
        """:meth:`loss` of what was looked at."""

    def state(self) -> dict[str, Tensor]:
        """What it remembers, by name; nothing of the model or the module."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from :meth:`state`. Raises ValueError for another method's."""
        if state:
            raise ValueError(f"state must be empty for a method that remembers nothing, got {sorted(state)}")


class EnergyMethod(ABC):
    """The options of a method.

    Attributes:
        name: on the command line and in checkpoints.
        source: paper and equation.
    """

    name: ClassVar[str]
    source: ClassVar[str]

    @abstractmethod
    def learner(self, model: EnergyModel) -> EnergyLearner:
        """What runs. Raises ValueError for a model of which the method says nothing, TypeError for no model."""

    def loss(self, model: EnergyModel, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The loss of one batch by itself, as :meth:`EnergyLearner.loss`: nothing is remembered."""
        return self.learner(model).loss(x, generator)

    def options_told(self) -> dict[str, Any]:
        """The options by name, as they are: kernels and worlds are not JSON."""
        return {f.name: getattr(self, f.name) for f in fields(self)}  # pyright: ignore[reportArgumentType]


def check_energies(**energies: Tensor) -> None:
    """Refuse energies ``[n]`` that are not finite, by what they are of. Waits for a GPU, once.

    Raises:
        FloatingPointError: how many of how many, and of which.
    """
    # A finite sum has finite terms; only where it is not are they looked at one by one.
    if bool(torch.isfinite(sum(v.detach().sum() for v in energies.values()))):  # pyright: ignore
        return
    bad = {name: int((~torch.isfinite(v.detach())).sum()) for name, v in energies.items()}
    if any(bad.values()):
        told = ", ".join(f"{bad[name]} of {v.numel()} {name}" for name, v in energies.items())
        raise FloatingPointError(f"energies must be finite, got NaN or infinity at {told}")


def check_one_law(argument: str, world: World, model: EnergyModel) -> None:
    """Refuse draws of another shape than the model's, or of many laws at once. Raises ValueError."""
    if tuple(world.event_shape) != model.event_shape:
        expected, got = list(model.event_shape), list(world.event_shape)
        raise ValueError(f"{argument} must have the model's event shape {expected}, got {got}")
    if world.batch is not None:
        raise ValueError(f"{argument} must be one law, got a batch of {world.batch}")


def check_timeless(method: str, model: EnergyModel) -> None:
    """Refuse a function of time. Raises ValueError."""
    if model.schedule is not None:
        raise ValueError(f"model must be an energy without a schedule for {method}, got one with")


def check_timed(method: str, model: EnergyModel) -> Schedule:
    """The schedule of a function of time. Raises ValueError for another."""
    if model.schedule is None:
        raise ValueError(f"model must be an energy with a schedule for {method}: EnergyModel(..., schedule=…)")
    return model.schedule


def check_times_told(times: tuple[float, ...], least: int) -> tuple[float, ...]:
    """``times`` if they are at least so many, in [0, 1] and strictly increasing. Raises TypeError, ValueError."""
    check_type("times", times, tuple)
    found = [float(check_time("times", t)) for t in times]
    if len(found) < least or any(b <= a for a, b in pairwise(found)):
        raise ValueError(f"times must be at least {least}, strictly increasing, in [0, 1], got {times}")
    return times


def known_levels(model: EnergyModel, schedule: Schedule, times: tuple[float, ...], like: Tensor) -> NoiseLevel:
    """The levels at ``times``, each ``[K]``, in like's dtype and on its device.

    Raises:
        ValueError: a time without noise for a core's energy, which is a density's.
    """
    level = schedule.level(torch.tensor(times, dtype=torch.float64))
    level = NoiseLevel(*(v.detach() for v in (level.t, level.log_snr, level.alpha, level.sigma)))
    if model.is_core and not bool((level.sigma > 0).all()):
        raise ValueError(f"times must have noise (sigma > 0) for the energy of a core, got times = {times}")
    return level.to(like)
