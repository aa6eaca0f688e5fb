r"""An object of yours, adapted by what it can do.

A scheduler has ``timesteps`` after ``set_timesteps(n)``, ``alphas_cumprod``, and ``step(output, timestep, state)`` that
gives a state, or something with ``prev_sample``; its ``config.prediction_type`` or ``prediction_type`` says what the network
predicts, "epsilon" if it says nothing. A sampler takes (model, x, sigmas), where ``model(x, sigma)`` is x̂_0.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unidiff.conformance.k_diffusion import FunctionTarget
from unidiff.conformance.target import Claims, Denoise, Target, Walk

METHODS = ("alphas_cumprod", "set_timesteps", "step")
PREDICTIONS = ("epsilon", "sample", "v_prediction")


class SchedulerTarget(Target):
    """A scheduler of yours, whose states are at its timesteps, variance preserving; after the last, the data.

    Args:
        scheduler: an instance.
        claims: what you say of it.
        name: whose it is.
    """

    def __init__(self, scheduler: Any, claims: Claims, name: str) -> None:
        self.scheduler, self.claims, self.name = scheduler, claims, name
        told = getattr(getattr(scheduler, "config", None), "prediction_type", None)
        self.predicts = told or getattr(scheduler, "prediction_type", "epsilon")
        if self.predicts not in PREDICTIONS:
            raise ValueError(
                f"target must predict one of {', '.join(PREDICTIONS)}, got prediction_type={self.predicts!r}"
            )
        self.configuration = self.predicts

    def walk(self, denoise: Denoise, x: Callable[[float, float], Tensor], steps: int) -> Walk:
        """``set_timesteps``, then for each of them ask and step."""
        scheduler = copy.deepcopy(self.scheduler)
        scheduler.set_timesteps(steps)
        times = [int(t) for t in scheduler.timesteps]
        bar = torch.as_tensor(scheduler.alphas_cumprod).double()[times]
        alpha, sigma = bar.sqrt(), (1 - bar).sqrt()
        states = [x(float(alpha[0]), float(sigma[0]))]
        for a, s, time in zip(alpha, sigma, times, strict=True):
            x0 = denoise(states[-1], float(a), float(s))
            eps = (states[-1] - a * x0) / s
            output = {"epsilon": eps, "sample": x0, "v_prediction": a * eps - s * x0}[self.predicts]
            out = scheduler.step(output, time, states[-1])
            states.append(getattr(out, "prev_sample", out))
        one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        return Walk(torch.cat([alpha, one]), torch.cat([sigma, zero]), torch.stack(states))


def adapted(target: object, order: float | None = None) -> Target:
    """The object, or what ``"path.to:object"`` names, as a target; a class is made without arguments.

    Args:
        target: it.
        order: that it claims.

    Raises:
        ValueError: a path that names nothing.
        TypeError: an object that can do neither; says what it lacks.
    """
    name = target if isinstance(target, str) else getattr(target, "__name__", type(target).__name__)
    found: Any = _named(target) if isinstance(target, str) else target
    if isinstance(found, Target):
        return found
    if inspect.isclass(found):
        try:
            found = found()
        except TypeError as error:
            raise TypeError(
                f"target {name} must be made without arguments, or given as an instance: {error}"
            ) from error
    lacks = [method for method in METHODS if not hasattr(found, method)]
    if not lacks:
        bar = torch.as_tensor(found.alphas_cumprod)
        loss = 1 / float((1 - bar.double()).min())
        dtype = torch.float64 if bar.dtype == torch.float64 else torch.float32
        return SchedulerTarget(found, Claims(order=order, condition=loss, dtype=dtype), name)
    takes = list(inspect.signature(found).parameters) if callable(found) else []
    if takes[:1] and "sigmas" in takes[:3]:
        return FunctionTarget(found, _sigmas, Claims(order=order), name, "sigmas even in log σ")
    raise TypeError(
        f"target {name} cannot be adapted: as a scheduler it lacks {', '.join(lacks)}; as a sampler it must take "
        f"(model, x, sigmas), it takes ({', '.join(takes)})"
    )


def _sigmas(steps: int) -> Tensor:
    """From 20 to 0.02 in steps that differ, 1 : 2 in turn, and then 0."""
    places = torch.tensor([1.0, 2.0], dtype=torch.float64).repeat(steps)[: steps - 1].cumsum(0)
    places = torch.cat([torch.zeros(1, dtype=torch.float64), places])
    sigmas = 20.0 * (0.02 / 20.0) ** (places / places[-1].clamp(min=1))
    return torch.cat([sigmas, torch.zeros(1, dtype=torch.float64)])


def _named(path: str) -> Any:
    module, _, attribute = path.partition(":")
    if not module or not attribute:
        raise ValueError(f'target must be a library or "path.to:object", got {path!r}')
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(f"target must be importable, got {path!r}: {error}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ValueError(f"target must name something in {module}, got {path!r}: it has no {part}")
        found = getattr(found, part)
    return found
