"""Worlds with names: fixed by construction, the same on every machine."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from unidiff.core.boundary import check_count, check_name
from unidiff.worlds.cloud import PointCloud
from unidiff.worlds.gaussian import Gaussian
from unidiff.worlds.mixture import GaussianMixture
from unidiff.worlds.world import World


def mixture_2d() -> GaussianMixture:
    """Three components in the plane, each with a covariance of its own, correlated and unequal."""
    means = [[-1.2, 0.4], [0.9, 1.1], [0.5, -1.3]]
    covariances = [[[0.10, 0.06], [0.06, 0.09]], [[0.20, -0.08], [-0.08, 0.07]], [[0.05, 0.01], [0.01, 0.30]]]
    return GaussianMixture([0.5, 0.3, 0.2], means, covariances)


def mixture_8d() -> GaussianMixture:
    """Four components in eight dimensions with full covariances: eigenvalues 0.05 … 0.6 in four rotations."""
    dim, count = 8, 4
    index = torch.arange(count * dim, dtype=torch.float64).reshape(count, dim)
    means = 1.2 * torch.sin(1.7 * index + 0.3 * index.square() / dim)
    # A fixed dense matrix is turned into a rotation; sines of irrational multiples stand in for random entries.
    entries = torch.arange(count * dim * dim, dtype=torch.float64).reshape(count, dim, dim)
    rotation, _ = torch.linalg.qr(torch.sin(math.sqrt(2) * entries.square() + entries))
    values = torch.linspace(0.05, 0.6, dim, dtype=torch.float64)
    covariances = (rotation * values) @ rotation.mT
    return GaussianMixture([0.4, 0.3, 0.2, 0.1], means, 0.5 * (covariances + covariances.mT))


def gaussian() -> Gaussian:
    """A correlated Gaussian in three dimensions, off the origin."""
    covariance = [[0.8, 0.3, -0.1], [0.3, 0.5, 0.15], [-0.1, 0.15, 0.3]]
    return Gaussian([0.5, -0.3, 0.2], covariance)


def eight_gaussians() -> GaussianMixture:
    """Eight equal round Gaussians, standard deviation 0.5, on a circle of radius 4, all over √2 (1.414)."""
    angle = torch.arange(8, dtype=torch.float64) * (math.pi / 4)
    means = 4.0 * torch.stack([angle.cos(), angle.sin()], 1) / 1.414
    eye = torch.eye(2, dtype=torch.float64)
    return GaussianMixture([0.125] * 8, means, (0.5 / 1.414) ** 2 * eye.expand(8, 2, 2))


def digits(n: int | None = None) -> PointCloud:
    """scikit-learn's 8×8 digits, flat ``[64]`` in [−1, 1]: all 1797 of them, or the first ``n``.

    Raises:
        ValueError: n is not in 1 … 1797.
    """
    from sklearn.datasets import load_digits

    pixels = torch.tensor(load_digits(return_X_y=True)[0], dtype=torch.float64) / 8 - 1
    if n is not None and check_count("n", n) > len(pixels):
        raise ValueError(f"n must be at most {len(pixels)}, got {n}")
    return PointCloud(pixels[:n])


_WORLDS: dict[str, Callable[[], World]] = {
    "mixture-2d": mixture_2d,
    "mixture-8d": mixture_8d,
    "gaussian": gaussian,
    "eight-gaussians": eight_gaussians,
    "digits": digits,
}


def names() -> tuple[str, ...]:
    """The names that :func:`get` knows."""
    return tuple(_WORLDS)


def get(name: str) -> World:
    """The world of this name, in float64. Raises ValueError for an unknown one, with the nearest."""
    return _WORLDS[check_name("world", name, _WORLDS)]()  # pyright: ignore[reportArgumentType]
