"""Small cores to walk on."""

from __future__ import annotations

import torch

import unidiff as ud
from unidiff.core import networks


def plane(schedule: ud.Schedule | None = None) -> ud.Diffusion:
    world = ud.worlds.library.mixture_2d().to(torch.float32)
    return ud.Diffusion(schedule or ud.Schedule.cosine(), ud.worlds.OracleDenoiser(world))


def classes() -> ud.Diffusion:
    return plane()  # a mixture's components are its classes


def images(channels: int = 1) -> ud.Diffusion:
    points = torch.rand(6, channels, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return ud.Diffusion(ud.Schedule.cosine(), ud.worlds.OracleDenoiser(ud.worlds.PointCloud(points)))


def mlp(
    schedule: ud.Schedule | None = None, num_classes: int | None = None, dim: int = 2, seed: int = 0
) -> ud.Diffusion:
    """A small network that is not zero, float64."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = networks.MLP(dim, 16, 2, num_classes=num_classes)
        torch.nn.init.normal_(network.last.weight, std=0.2)
    denoiser = ud.Denoiser(network, (dim,), "v", num_classes=num_classes)
    return ud.Diffusion(schedule or ud.Schedule.cosine(), denoiser).to(torch.float64).eval()


def stirred(core: ud.Diffusion, by: float = 0.1, seed: int = 1) -> ud.Diffusion:
    """The core with noise added to its network's parameters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in core.denoiser.parameters():  # pyright: ignore[reportAttributeAccessIssue]
            p.add_(by * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return core
