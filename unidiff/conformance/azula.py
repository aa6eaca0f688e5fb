r"""azula's samplers, under its own schedules.

A sampler of azula's asks ``denoiser(x, t)`` for a law whose mean is x̂_0, and ``denoiser.schedule(t)`` for α and σ. What it
held at a time is what it last asked about there.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from unidiff.conformance import rules
from unidiff.conformance.tables import azula_table
from unidiff.conformance.target import Claims, Convention, Denoise, Target, Walk
from unidiff.interop.library import library

TESTED = ("0.11", "0.12")
SCHEDULES = ("VPSchedule", "CosineSchedule", "VESchedule", "RectifiedSchedule", "DecaySchedule")
_ETA = "its docstring writes √(η τ), which scales the variance by η, where Song et al. write σ = η √τ"


class _Asked:
    """What stands in the place of azula's Denoiser, and keeps the last state asked about at each time."""

    def __init__(self, schedule: Any, denoise: Denoise) -> None:
        self.schedule, self.denoise = schedule, denoise
        self.states: dict[float, Tensor] = {}

    def __call__(self, x: Tensor, t: Tensor, **_: Any) -> Any:
        alpha, sigma = self.schedule(t)
        self.states[float(t)] = x.clone()
        return SimpleNamespace(mean=self.denoise(x, float(alpha), float(sigma)))


class AzulaTarget(Target):
    """One of ``azula.sample``'s samplers.

    Args:
        sampler: its class.
        schedule: one of azula's.
        claims: what is written of it.
        options: of its constructor.
    """

    def __init__(self, sampler: Any, schedule: Any, claims: Claims, **options: Any) -> None:
        self.sampler, self.schedule, self.claims, self.options = sampler, schedule, claims, options
        self.name = f"azula.{sampler.__name__}"
        told = [f"{name} {value:g}" for name, value in options.items()]
        self.configuration = ", ".join([type(schedule).__name__, *told])

    def walk(self, denoise: Denoise, x: Callable[[float, float], Tensor], steps: int) -> Walk:
        """Down azula's own uniform times."""
        asked = _Asked(self.schedule, denoise)
        sampler = self.sampler(asked, steps=steps, silent=True, dtype=torch.float64, **self.options)
        times = sampler.timesteps
        alpha, sigma = self.schedule(times)
        end = sampler(x(float(alpha[0]), float(sigma[0])))
        return Walk(alpha, sigma, torch.stack([*(asked.states[float(t)] for t in times[:-1]), end]))


def targets() -> Iterator[Target]:
    """Every sampler of azula's under every schedule of its own.

    Raises:
        ImportError: azula is not installed; says which extra brings it.
    """
    library("azula", TESTED)
    noise, sample = (importlib.import_module(f"azula.{part}") for part in ("noise", "sample"))

    convention = Claims(
        order=1, variance=rules.eta(0.5), conventions={"variance": Convention(_ETA, rules.eta(0.5**0.5))}
    )
    multistep = Claims(order=2)
    for kind in SCHEDULES:
        yield azula_table(kind, getattr(noise, kind)())
    listed: list[tuple[str, Claims, dict[str, Any]]] = [
        ("DDPMSampler", Claims(order=1, variance=rules.posterior), {}),
        ("DDIMSampler", Claims(order=1, variance=rules.eta(0.0)), {"eta": 0.0}),
        ("DDIMSampler", convention, {"eta": 0.5}),
        ("DDIMSampler", Claims(order=1, variance=rules.eta(1.0)), {"eta": 1.0}),
        ("EulerSampler", Claims(order=1), {}),
        ("HeunSampler", Claims(order=2), {}),
        ("ItoSampler", Claims(order=1), {"eta": 0.0}),
        ("ItoSampler", Claims(order=1, point=False), {"eta": 1.0}),
        ("zABSampler", multistep, {"order": 2}),
        ("vABSampler", multistep, {"order": 2}),
        ("zEABSampler", multistep, {"order": 2}),
        ("xEABSampler", multistep, {"order": 2}),
        ("xEABSampler", multistep, {"order": 3}),
        ("REABSampler", Claims(order=2, point=False), {"order": 2}),
        ("PCSampler", Claims(), {}),
    ]
    for name, claims, options in listed:
        for schedule in SCHEDULES:
            yield AzulaTarget(getattr(sample, name), getattr(noise, schedule)(), claims, **options)
