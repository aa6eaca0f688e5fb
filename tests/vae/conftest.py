"""Cores and data that the VAE view's tests share."""

from __future__ import annotations

import pytest
import torch

import unidiff as ud
from unidiff.core import networks
from unidiff.vae import Levels
from unidiff.worlds import Gaussian, OracleDenoiser, library


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def exact(world: ud.worlds.World, dtype: torch.dtype = torch.float64) -> ud.Diffusion:
    """A core with its noise between 0.05 and 1: λ from 6 to −6."""
    return ud.Diffusion(ud.Schedule.cosine(6.0, -6.0), OracleDenoiser(world.to(dtype)))


def round_world(dim: int = 2) -> Gaussian:
    """N(m, ½ I): one that the optimal rule's chain follows exactly."""
    mean = torch.linspace(-0.6, 0.9, dim, dtype=torch.float64)
    return Gaussian(mean, 0.5 * torch.eye(dim, dtype=torch.float64))


def network(dim: int = 2, num_classes: int | None = None, learned_variance: bool = False) -> ud.Diffusion:
    """A v-network with random weights in every layer, float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        mlp = networks.MLP(dim, width=8, depth=1, num_classes=num_classes, learned_variance=learned_variance)
        for p in mlp.parameters():
            torch.nn.init.normal_(p, std=0.3)
    denoiser = ud.Denoiser(mlp, (dim,), "v", num_classes=num_classes, learned_variance=learned_variance)
    return ud.Diffusion(ud.Schedule.cosine(6.0, -6.0), denoiser).double()


def on_levels(n: int, dim: int = 2, count: int = 9, seed: int = 0) -> torch.Tensor:
    """Data on the levels, the outermost among them."""
    like = torch.empty(0, dtype=torch.float64)
    index = torch.randint(count, (n, dim), generator=seeded(seed))
    index[0], index[1] = 0, count - 1
    return Levels(count).values(like)[index]


@pytest.fixture
def grid() -> ud.TimeGrid:
    return ud.TimeGrid.uniform(4)


@pytest.fixture
def x0() -> torch.Tensor:
    return library.mixture_2d().sample(8, seeded())
