"""Small cores to walk on."""

from __future__ import annotations

import torch

import unidiff as ud


def plane(schedule: ud.Schedule | None = None) -> ud.Diffusion:
    world = ud.worlds.library.mixture_2d().to(torch.float32)
    return ud.Diffusion(schedule or ud.Schedule.cosine(), ud.worlds.OracleDenoiser(world))


def classes() -> ud.Diffusion:
    return plane()  # a mixture's components are its classes


def images(channels: int = 1) -> ud.Diffusion:
    points = torch.rand(6, channels, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return ud.Diffusion(ud.Schedule.cosine(), ud.worlds.OracleDenoiser(ud.worlds.PointCloud(points)))
