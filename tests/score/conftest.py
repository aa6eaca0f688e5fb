"""Cores that the score view's tests share."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import unidiff as ud
from unidiff.core import networks
from unidiff.worlds import OracleDenoiser, World, library


def exact(world: World, schedule: str = "cosine", dtype: torch.dtype = torch.float64) -> ud.Diffusion:
    return ud.Diffusion(ud.Schedule.named(schedule), OracleDenoiser(world.to(dtype)))


def network(prediction: Any = "v", num_classes: int | None = None, seed: int = 0) -> ud.Diffusion:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mlp = networks.MLP(2, width=16, depth=2, num_classes=num_classes)
        for p in mlp.parameters():
            torch.nn.init.normal_(p, std=0.3)
    denoiser = ud.Denoiser(mlp, (2,), prediction, num_classes=num_classes)
    return ud.Diffusion(ud.Schedule.cosine(), denoiser).double()


def draws(world: World, n: int, seed: int = 0) -> torch.Tensor:
    return world.sample(n, torch.Generator().manual_seed(seed))


@pytest.fixture
def mixture() -> World:
    return library.mixture_2d()
