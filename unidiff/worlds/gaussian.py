r"""The Gaussian world N(m, S): the one whose every quantity, the sampler's flow included, is a formula.

The probability-flow ODE of Gaussian data has the closed-form flow map (Song et al. 2021, eq. 13, with the linear score)

    x_s − α_s m = S_s^½ S_t^{−½} (x_t − α_t m),   S_t = α_t² S + σ_t² I,

against which a sampler's order is measured (IDENTITIES item 9).
"""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor

from unidiff.core.level import NoiseLevel
from unidiff.worlds.estimate import Estimate
from unidiff.worlds.normals import Normals
from unidiff.worlds.rewards import Matrix, Vector
from unidiff.worlds.world import Scale, World, check_query, check_reach, noise_scales


class Gaussian(World):
    """N(mean, covariance) in D dimensions.

    Args:
        mean: ``[D]``, a floating-point tensor (its dtype is the world's) or numbers (float64).
        covariance: ``[D, D]``, symmetric positive definite.

    Raises:
        ValueError: shapes, values that are not finite, a covariance that is not symmetric positive definite.
    """

    normals: Normals

    def __init__(self, mean: Any, covariance: Any) -> None:
        mean = as_parameter("mean", mean, 1)
        self.normals = Normals.of(mean, as_parameter("covariance", covariance, 2, mean))

    @classmethod
    def of(cls, normals: Normals) -> Self:
        """The world of one Gaussian (a stack ``[]``) or of a batch (a stack ``[B]``), trusted as given."""
        world = cls.__new__(cls)
        world.normals = normals
        return world

    @property
    def event_shape(self) -> tuple[int, ...]:
        """(D,)."""
        return (self.normals.dim,)

    @property
    def batch(self) -> int | None:
        """How many laws this is a batch of; None for one law."""
        return self.normals.stack[0] if self.normals.stack else None

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of parameters, queries and answers."""
        return self.normals.mean.dtype

    @property
    def device(self) -> torch.device:
        """The device of parameters, queries and answers."""
        return self.normals.mean.device

    @property
    def mean(self) -> Tensor:
        """m, ``[D]``."""
        return self.normals.mean.expand(*self.normals.stack, self.dim)

    @property
    def variance(self) -> Tensor:
        """The diagonal of S, ``[D]``."""
        return self.normals.variance

    @property
    def covariance(self) -> Tensor:
        """S, ``[D, D]``."""
        return self.normals.covariance

    def entropy(self, n: int = 65536, generator: torch.Generator | None = None) -> Estimate:
        """½ Σ log(2πe v) over the eigenvalues, exact, ``[]`` (or ``[B]``); the arguments are not used."""
        self._check_density()
        log_values = self.normals.values.log().expand(*self.normals.stack, self.dim)
        return Estimate.exact(0.5 * (log_values + 1.0 + math.log(2 * math.pi)).sum(-1))

    def diffuse(self, alpha: Scale, sigma: Scale) -> Self:
        """N(α m, α² S + σ² I)."""
        a, s = _columns(*noise_scales(alpha, sigma, self))
        return self.of(self.normals.diffuse(a, s))

    def posterior(self, xt: Tensor, alpha: Scale, sigma: Scale, check: bool = True) -> Self:
        """The Gaussian of x given α x + σ ε = ``xt`` ``[B, D]``, for each row."""
        if check:
            check_query("xt", xt, self)
        a, s = _columns(*noise_scales(alpha, sigma, self, xt.shape[0], check))
        normals = self.normals.posterior(xt, a, s)
        if check:
            check_reach("xt", xt, normals.mean)
        return self.of(normals)

    def tilt(self, A: Matrix | None, b: Vector | None, beta: float) -> tuple[Self, Tensor]:
        """N((S⁻¹ + A/β)⁻¹(S⁻¹m + b/β), (S⁻¹ + A/β)⁻¹) and log Z."""
        normals, log_z = self.normals.tilt(A, b, beta)
        return self.of(normals), log_z

    def flow(self, xt: Tensor, level_from: NoiseLevel, level_to: NoiseLevel) -> Tensor:
        """Where the probability-flow ODE takes ``xt`` ``[B, D]`` from one noise level to another, ``[B, D]``.

        Args:
            xt: states at ``level_from``.
            level_from: one level or ``[B]`` of them.
            level_to: one level or ``[B]`` of them; may be nearer to data or to noise.
        """
        check_query("xt", xt, self)
        a_from, s_from = _columns(*noise_scales(level_from.alpha, level_from.sigma, self, xt.shape[0]))
        a_to, s_to = _columns(*noise_scales(level_to.alpha, level_to.sigma, self, xt.shape[0]))
        start, end = self.normals.diffuse(a_from, s_from), self.normals.diffuse(a_to, s_to)
        whitened = torch.einsum("...de,...d->...e", start.basis, xt - start.mean) / start.values.sqrt()
        return end.sample(whitened)

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Self:
        """The world in another dtype or on another device."""
        normals = self.normals.to(dtype, device)
        return self if normals is self.normals else self.of(normals)

    def _log_prob(self, x: Tensor) -> Tensor:
        return self.normals.log_prob(x)

    def _score(self, x: Tensor) -> Tensor:
        return self.normals.score(x)

    def _posterior_mean(self, xt: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return self.normals.posterior_mean(xt, *_columns(alpha, sigma))

    def _sample(self, n: int, generator: torch.Generator | None) -> Tensor:
        noise = torch.randn(n, self.dim, generator=generator, dtype=self.dtype, device=self.device)
        return self.normals.sample(noise)

    def _check_density(self) -> None:
        self.normals.check_density()


def as_parameter(argument: str, value: Any, ndim: int, like: Tensor | None = None) -> Tensor:
    """A floating-point tensor of ``ndim`` axes, none empty: given as such, or numbers in ``like``'s dtype (float64)."""
    if not isinstance(value, Tensor):
        value = torch.as_tensor(value, dtype=torch.float64 if like is None else like.dtype)
        value = value if like is None else value.to(like.device)
    if not value.is_floating_point():
        raise TypeError(f"{argument} must be a floating-point tensor, got {value.dtype}")
    if value.ndim != ndim or 0 in value.shape:
        raise ValueError(f"{argument} must have {ndim} axes, none empty, got shape {list(value.shape)}")
    if like is not None and (value.dtype != like.dtype or value.device != like.device):
        raise ValueError(
            f"{argument} must be {like.dtype} on {like.device}, as the parameters before it, "
            f"got {value.dtype} on {value.device}"
        )
    return value


def _columns(*scales: Tensor) -> tuple[Tensor, ...]:
    return tuple(v if v.ndim == 0 else v[:, None] for v in scales)
