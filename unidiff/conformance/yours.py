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
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unidiff.conformance.draws import Draws
from unidiff.conformance.k_diffusion import FunctionTarget
from unidiff.conformance.predictions import PREDICTIONS, output
from unidiff.conformance.target import Claims, Denoise, Target, Walk

METHODS = ("alphas_cumprod", "set_timesteps", "step")


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
        table = as_float64(scheduler.alphas_cumprod)
        times = [int(t) for t in scheduler.timesteps]
        if len(set(times)) < len(times) or not all(0 <= t < len(table) for t in times):
            raise ValueError(f"timesteps must be distinct, in 0 … {len(table) - 1}, got {times[:8]} for {steps} steps")
        bar = table[times]
        alpha, sigma = bar.sqrt(), (1 - bar).sqrt()
        states = [x(float(alpha[0]), float(sigma[0]))]
        for a, s, time in zip(alpha, sigma, times, strict=True):
            state = states[-1].clone()
            x0 = denoise(state, float(a), float(s))
            out = scheduler.step(output(self.predicts, x0, state, a, s), time, state)
            out = out[0] if isinstance(out, tuple) else getattr(out, "prev_sample", out)
            states.append(out.clone())
        one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        return Walk(torch.cat([alpha, one]), torch.cat([sigma, zero]), torch.stack(states))


def as_float64(table: Any) -> Tensor:
    """ᾱ as it was given, wider."""
    return table.double() if isinstance(table, Tensor) else torch.as_tensor(table, dtype=torch.float64)


def adapted(target: object, order: float | None = None, point: bool | None = None) -> Target:
    """The object, or what ``"path.to:object"`` names, as a target; a class is made without arguments.

    Args:
        target: it.
        order: that it claims.
        point: whether it claims that one point keeps its law.

    Raises:
        ValueError: a path that names nothing, or that cannot be imported.
        TypeError: an object that can do neither, or that breaks in a walk of three steps; says what it lacks.
    """
    name = target if isinstance(target, str) else getattr(target, "__name__", type(target).__name__)
    found: Any = _named(target) if isinstance(target, str) else target
    if isinstance(found, Target):
        return found
    if inspect.isclass(found) and not issubclass(found, type):
        try:
            found = found()
        except Exception as error:
            raise TypeError(
                f"target {name} must be made without arguments, or given as an instance: {error}"
            ) from error
    lacks = [method for method in METHODS if not hasattr(found, method)]
    if not lacks:
        made: Target = _scheduler(found, name, order, point)
    else:
        takes = _parameters(found)
        if "sigmas" not in takes or len(takes) < 3:
            raise TypeError(
                f"target {name} cannot be adapted: as a scheduler it lacks {', '.join(lacks)}; as a sampler it must take "
                f"(model, x, sigmas), it takes ({', '.join(takes)})"
            )
        seen = "callback" in takes
        claims = Claims(order=order, point=point, levels=seen)
        made = FunctionTarget(found, _sigmas if seen else _inner, claims, name, "sigmas uneven in log σ")
    made.claims = replace(made.claims, dtype=_tried(made, name))
    return made


def _scheduler(found: Any, name: str, order: float | None, point: bool | None) -> SchedulerTarget:
    if hasattr(found, "sigmas"):
        raise TypeError(
            f"target {name} cannot be adapted: its states are at sigmas; those of diffusers are asked for by name, as "
            f"diffusers.{type(found).__name__}"
        )
    try:
        bar = as_float64(found.alphas_cumprod)
    except (TypeError, ValueError, RuntimeError):
        bar = torch.empty(0)
    if bar.ndim != 1 or len(bar) < 2 or not bool(((bar > 0) & (bar < 1)).all()):
        raise TypeError(
            f"target {name} must have alphas_cumprod [T] between 0 and 1, got {found.alphas_cumprod!r}"[:300]
        )
    count = len(bar)
    claims = Claims(
        order=order,
        point=point,
        condition=1 / float((1 - bar).min()),
        steps=(64, 128, 256) if count >= 512 else (),
        smallest=tuple(n for n in (2, 3, 5, 10) if n <= count),
    )
    return SchedulerTarget(found, claims, name)


def _parameters(found: Any) -> list[str]:
    try:
        return list(inspect.signature(found).parameters) if callable(found) else []
    except (TypeError, ValueError):
        return []


def _tried(made: Target, name: str) -> torch.dtype:
    """The dtype that the object computes in; what stops it in a short walk is told now, and is no violation.

    Raises:
        TypeError: it breaks, or draws what is not torch's: two walks with the draws answered alike differ.
    """
    ends = []
    for seed in (0, 1):
        with torch.no_grad(), torch.random.fork_rng(devices=[]), Draws(rows=3):
            torch.manual_seed(seed)
            try:
                walk = made.walk(
                    lambda x, alpha, sigma: 0.5 * x,
                    lambda alpha, sigma: torch.tensor([[1.0], [0.5], [-1.0]], dtype=torch.float64),
                    made.claims.smallest[0],
                )
                ends.append(walk.states[-1])
            except Exception as error:
                raise TypeError(f"target {name} cannot be walked: {type(error).__name__}: {error}") from error
    if not torch.equal(ends[0].nan_to_num(), ends[1].nan_to_num()):
        raise TypeError(
            f"target {name} cannot be asked: it draws what is not torch's (randn, randn_like, normal), two walks differ"
        )
    table = getattr(getattr(made, "scheduler", None), "alphas_cumprod", ends[0])
    wide = all(not isinstance(value, Tensor) or value.dtype == torch.float64 for value in (ends[0], table))
    return torch.float64 if wide else torch.float32


def _sigmas(steps: int) -> Tensor:
    """From 20 to 0.02 in steps that differ, 1 : 2 in turn, and then 0."""
    places = torch.tensor([1.0, 2.0], dtype=torch.float64).repeat(steps)[: steps - 1].cumsum(0)
    places = torch.cat([torch.zeros(1, dtype=torch.float64), places])
    sigmas = 20.0 * (0.02 / 20.0) ** (places / places[-1].clamp(min=1))
    return torch.cat([sigmas, torch.zeros(1, dtype=torch.float64)])


def _inner(steps: int) -> Tensor:
    """The same, down to a σ at which there is still something to be seen of a function that shows only its end."""
    sigmas = _sigmas(steps + 1)[:-1]
    return 20.0 * (0.3 / 20.0) ** ((sigmas / 20.0).log() / (sigmas[-1] / 20.0).log())


def _named(path: str) -> Any:
    module, _, attribute = path.partition(":")
    if not module or not attribute:
        raise ValueError(f'target must be a library or "path.to:object", got {path!r}')
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
    except Exception as error:
        raise ValueError(f"target must be importable, got {path!r}: {type(error).__name__}: {error}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ValueError(f"target must name something in {module}, got {path!r}: it has no {part}")
        found = getattr(found, part)
    return found
