"""Cores that the thermodynamic view's tests share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import unidiff as ud
from unidiff.core import networks
from unidiff.worlds import OracleDenoiser, World, library

GRID = ud.TimeGrid.uniform(4, first=0.1)


def exact(world: World, schedule: ud.Schedule | None = None) -> ud.Diffusion:
    return ud.Diffusion(ud.Schedule.cosine() if schedule is None else schedule, OracleDenoiser(world))


def of(world: World, schedule: ud.Schedule | None = None) -> ud.Thermodynamics:
    """The world's own values."""
    return ud.Thermodynamics(exact(world, schedule), world)


def network(dim: int = 3, prediction: Any = "eps", schedule: ud.Schedule | None = None) -> ud.Diffusion:
    """A small network that has learned nothing, in float32."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        mlp = networks.MLP(dim, width=16, depth=2)
        for p in mlp.parameters():
            torch.nn.init.normal_(p, std=0.1)
    return ud.Diffusion(ud.Schedule.cosine() if schedule is None else schedule, ud.Denoiser(mlp, (dim,), prediction))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draws(world: World, n: int, seed: int = 0) -> Tensor:
    return world.sample(n, seeded(seed))


def line() -> ud.worlds.GaussianMixture:
    """The first coordinate of the library's mixture in the plane."""
    plane = library.mixture_2d()
    return ud.worlds.GaussianMixture(plane.weights, plane.means[:, :1], plane.covariances[:, :1, :1])


class Silent(ud.Schedule):
    """λ = 4 log(1 − t) − 2 log t: no noise at t = 0, no signal at t = 1."""

    def _log_snr(self, t: Tensor) -> Tensor:
        return 4 * torch.log1p(-t) - 2 * torch.log(t)

    def _log_snr_derivative(self, t: Tensor) -> Tensor:
        return -4 / (1 - t) - 2 / t

    def _time(self, log_snr: Tensor) -> Tensor:
        low, high = torch.zeros_like(log_snr), torch.ones_like(log_snr)
        for _ in range(60):
            middle = 0.5 * (low + high)
            later = self._log_snr(middle) > log_snr
            low, high = torch.where(later, middle, low), torch.where(later, high, middle)
        return 0.5 * (low + high)

    def _options(self) -> dict[str, Any]:
        return {}
