"""Samplers of one's own: right ones, and ones with a fault planted, that need no library."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unidiff.conformance.target import Denoise, Target, Walk

T = 50


class Scheduler:
    """DDIM on linear betas, in float64. ``fault`` plants one."""

    prediction_type = "epsilon"

    def __init__(self, fault: str = "", eta: float = 0.0) -> None:
        self.fault, self.eta = fault, eta
        self.alphas_cumprod = torch.cumprod(1 - torch.linspace(1e-3, 0.2, T, dtype=torch.float64), 0)
        self.timesteps = torch.empty(0)

    def set_timesteps(self, n: int) -> None:
        self.timesteps = torch.linspace(T - 1, 0, n).round().long()
        if self.fault == "order of the list":
            self.timesteps = self.timesteps.flip(0)

    def step(self, output: Tensor, time: int, x: Tensor) -> Any:
        k = self.timesteps.tolist().index(time)
        later = self.timesteps.tolist()[k + 1 :]
        now = self.alphas_cumprod[time]
        before = self.alphas_cumprod[later[0]] if later else torch.ones((), dtype=torch.float64)
        if self.fault == "stride":
            at = time - T // len(self.timesteps)
            before = self.alphas_cumprod[at] if at >= 0 else torch.ones((), dtype=torch.float64)
        variance = self.eta**2 * (1 - before) / (1 - now) * (1 - now / before)
        if self.fault == "eta scales the variance":
            variance = variance / self.eta
        x0 = (x - (1 - now).sqrt() * output) / now.sqrt()
        left = 1 - before - (0 if self.fault == "variance twice" else variance)
        mean = before.sqrt() * x0 + left.sqrt() * output
        return mean + variance.sqrt() * torch.randn_like(x) if self.eta else mean


class HalfScheduler:
    """Lacks a step."""

    alphas_cumprod = torch.ones(3)

    def set_timesteps(self, n: int) -> None: ...


def euler(model: Any, x: Tensor, sigmas: Tensor, callback: Any = None) -> Tensor:
    for k in range(len(sigmas) - 1):
        if callback is not None:
            callback({"x": x, "sigma": sigmas[k]})
        x = x + (x - model(x, sigmas[k].expand(len(x)))) / sigmas[k] * (sigmas[k + 1] - sigmas[k])
    return x


def midpoint_that_is_euler(model: Any, x: Tensor, sigmas: Tensor, callback: Any = None) -> Tensor:
    """Says order 2; asks at the right σ with the state that it had."""
    for k in range(len(sigmas) - 1):
        if callback is not None:
            callback({"x": x, "sigma": sigmas[k]})
        middle = 0.5 * (sigmas[k] + sigmas[k + 1])
        x = x + (x - model(x, middle.expand(len(x)))) / middle * (sigmas[k + 1] - sigmas[k])
    return x


def silent(model: Any, x: Tensor, sigmas: Tensor) -> Tensor:
    """No callback: only its end is seen."""
    return euler(model, x, sigmas)


class Nothing(Target):
    """Makes no claim but of its levels."""

    def walk(self, denoise: Denoise, x: Any, steps: int) -> Walk:
        raise RuntimeError("walked")


scheduler = Scheduler()
wrong = Scheduler(fault="stride")
