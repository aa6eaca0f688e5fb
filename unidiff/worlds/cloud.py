r"""A finite data set as a law: Σ_i w_i δ(x − x_i), whose exact denoiser is the exact denoiser of real data.

Noised by (α, σ) it has the density Σ_i w_i N(z; α x_i, σ² I); the posterior is again a law on the points, with weights

    w_i(z) ∝ w_i exp(−‖z − α x_i‖²/2σ²),                              (Karras et al. 2022, appendix B.3)

so that x̂_0 = Σ w_i(z) x_i. The distances are worked from differences, never as ‖z‖² − 2α z·x_i + α²‖x_i‖², whose
cancellation is amplified by 1/σ².
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Self

import torch
from torch import Tensor

from unidiff.core.boundary import check_count, check_finite, check_positive
from unidiff.worlds.estimate import Estimate, monte_carlo
from unidiff.worlds.gaussian import as_parameter
from unidiff.worlds.mixture import draw_index, log_simplex
from unidiff.worlds.normals import check_quadratic
from unidiff.worlds.rewards import Matrix, Vector
from unidiff.worlds.world import Scale, World, check_query, check_reach, noise_scales

# Entries of a block of differences [rows, N, D]: within a core's cache, or enough to fill a GPU (1 GB in float64).
_BLOCK = {"cpu": 2**18, "cuda": 2**27}


class PointCloud(World):
    """The law of a finite data set, as it is or noised.

    Args:
        points: ``[N, *E]``, floating-point (its dtype is the world's).
        weights: ``[N]``, ≥ 0, of sum 1 to within 1e-6; None for equal ones.

    Without noise it has no density and no score; its ``diffuse`` has both.

    Raises:
        ValueError: shapes, values that are not finite, weights off the simplex.
    """

    points: Tensor
    log_weights: Tensor
    alpha: Tensor
    sigma: Tensor

    def __init__(self, points: Any, weights: Any = None) -> None:
        if not isinstance(points, Tensor):
            points = torch.as_tensor(points, dtype=torch.float64)
        if not points.is_floating_point():
            raise TypeError(f"points must be a floating-point tensor, got {points.dtype}")
        if points.ndim < 2 or 0 in points.shape:
            raise ValueError(f"points must have shape [N, *event], none empty, got shape {list(points.shape)}")
        check_finite("points", points)
        count = points.shape[0]
        self.points = points
        if weights is None:
            self.log_weights = torch.full((count,), -math.log(count), dtype=points.dtype, device=points.device)
        else:
            flat = points.flatten(1)[:, 0]
            self.log_weights = log_simplex("weights", as_parameter("weights", weights, 1, flat), count)
        self.alpha, self.sigma = points.new_ones(()), points.new_zeros(())

    @classmethod
    def of(cls, points: Tensor, log_weights: Tensor, alpha: Tensor, sigma: Tensor) -> Self:
        """The law of α x + σ ε for x on ``points`` with normalised log-weights ``[N]`` or ``[B, N]``, as given."""
        world = cls.__new__(cls)
        world.points, world.log_weights, world.alpha, world.sigma = points, log_weights, alpha, sigma
        return world

    @property
    def weights(self) -> Tensor:
        """``[N]``."""
        return self.log_weights.exp()

    @property
    def event_shape(self) -> tuple[int, ...]:
        """E."""
        return tuple(self.points.shape[1:])

    @property
    def batch(self) -> int | None:
        """How many laws this is a batch of; None for one law."""
        shape = torch.broadcast_shapes(self.log_weights.shape[:-1], self.alpha.shape, self.sigma.shape)
        return shape[0] if shape else None

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of parameters, queries and answers."""
        return self.points.dtype

    @property
    def device(self) -> torch.device:
        """The device of parameters, queries and answers."""
        return self.points.device

    @property
    def mean(self) -> Tensor:
        """α Σ w_i x_i, ``[*E]``."""
        mean = self._shape(self.weights @ self.points.flatten(1))
        return self._scale(self.alpha, mean)

    @property
    def variance(self) -> Tensor:
        """The diagonal of the covariance, ``[*E]``: α² Σ w_i (x_i − x̄)² + σ²."""
        flat, weights = self.points.flatten(1), self.weights
        mean = weights @ flat
        if weights.ndim == 1:
            spread = weights @ (flat - mean).square()
        else:
            blocks = self._blocks(weights.shape[0])
            spread = torch.cat([(weights[b, None, :] @ (flat - mean[b, None]).square())[:, 0] for b in blocks])
        return self._scale(self.alpha.square(), self._shape(spread)) + self._scale(self.sigma.square(), 1.0)

    @property
    def covariance(self) -> Tensor:
        """α² Σ w_i (x_i − x̄)(x_i − x̄)ᵀ + σ² I, ``[D, D]``."""
        flat, weights = self.points.flatten(1), self.weights
        mean = weights @ flat
        if weights.ndim == 1:
            centred = flat - mean
            spread = (weights[:, None] * centred).mT @ centred
        else:
            rows = []
            for b in self._blocks(weights.shape[0]):
                centred = flat - mean[b, None]
                rows.append((weights[b, :, None] * centred).mT @ centred)
            spread = torch.cat(rows)
        eye = torch.eye(self.dim, dtype=self.dtype, device=self.device)
        alpha2, sigma2 = (v.square()[..., None, None] for v in (self.alpha, self.sigma))
        return alpha2 * spread + sigma2 * eye

    def entropy(self, n: int = 65536, generator: torch.Generator | None = None) -> Estimate:
        """−Σ w_i log w_i in nats without noise (a discrete entropy, exact); with noise −E log p from ``n`` samples.

        Raises:
            ValueError: a batch of noised laws (ask one at a time).
        """
        if bool((self.sigma == 0).all()):
            return Estimate.exact(torch.special.entr(self.weights).sum(-1))
        check_count("n", n, 2)
        if self.batch is not None:
            raise ValueError(f"entropy of a noised data set is for one law, got a batch of {self.batch}")
        return monte_carlo(-self.log_prob(self.sample(n, generator)))

    def diffuse(self, alpha: Scale, sigma: Scale) -> Self:
        """The law of α z + σ ε: this data set at scale α·α₀ and noise √(α²σ₀² + σ²)."""
        a, s = noise_scales(alpha, sigma, self)
        return self.of(self.points, self.log_weights, a * self.alpha, torch.hypot(a * self.sigma, s))

    def posterior(self, xt: Tensor, alpha: Scale, sigma: Scale, check: bool = True) -> Self:
        """The law on the points given α x + σ ε = ``xt`` ``[B, *E]``; its ``log_weights`` are ``[B, N]``.

        Raises:
            ValueError: as in :meth:`World.posterior`; σ = 0, where it is a point or nothing; a law already noised.
        """
        if check:
            check_query("xt", xt, self)
        a, s = noise_scales(alpha, sigma, self, xt.shape[0], check)
        self._check_noiseless("posterior")
        if s.device.type == "cpu" and bool((s == 0).any()):
            raise ValueError("sigma must be positive for the posterior of a data set, got 0")
        one = self.points.new_ones(())
        log_weights = torch.log_softmax(self._joint(xt, a, s, self.log_weights)[0], 1)
        if check:
            check_reach("xt", xt, one, log_weights)
        return self.of(self.points, log_weights, one, 0 * one)

    def tilt(self, A: Matrix | None, b: Vector | None, beta: float) -> tuple[Self, Tensor]:
        """The points re-weighted by e^{r/β}, and log Z = log Σ w_i e^{r(x_i)/β}."""
        A, b = check_quadratic(A, b, beta, self.points.flatten(1))
        flat = self.points.flatten(1).to(torch.float64)
        return self._reweigh((flat @ b - 0.5 * (flat @ A * flat).sum(1)) / beta)

    def tilt_by(self, reward: Callable[[Tensor], Tensor], beta: float) -> tuple[Self, Tensor]:
        """:meth:`tilt` by any function ``[N, *E] -> [N]``."""
        check_positive("beta", beta)
        gain = reward(self.points)
        if gain.shape != self.points.shape[:1]:
            raise ValueError(f"reward must return [{self.points.shape[0]}], one for each point, got {list(gain.shape)}")
        return self._reweigh(check_finite("reward(points)", gain).to(torch.float64) / beta)

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Self:
        """The world in another dtype or on another device."""
        parts = (self.points, self.log_weights, self.alpha, self.sigma)
        moved = tuple(v.to(device=device, dtype=dtype) for v in parts)
        return self if all(a is b for a, b in zip(moved, parts, strict=True)) else self.of(*moved)

    def _reweigh(self, gain: Tensor) -> tuple[Self, Tensor]:
        self._check_noiseless("tilt")
        joint = self.log_weights.to(torch.float64) + gain
        log_z = torch.logsumexp(joint, -1)
        tilted = (joint - log_z[..., None]).to(self.dtype)
        return self.of(self.points, tilted, self.alpha, self.sigma), log_z.to(self.dtype)

    def _log_prob(self, x: Tensor) -> Tensor:
        half_log = self.sigma.log() + 0.5 * math.log(2 * math.pi)
        parts = []
        for joint, nearest in self._joints(x):
            # Where even the nearest point's square overflows, joint is ∞ − ∞; the density is 0 there.
            parts.append(torch.where(torch.isneginf(nearest), nearest, torch.logsumexp(joint, 1) + nearest))
        return torch.cat(parts) - self.dim * half_log

    def _score(self, x: Tensor) -> Tensor:
        flat, points = x.flatten(1), self.points.flatten(1)
        means = [torch.softmax(joint, 1) @ points for joint, _ in self._joints(x)]
        alpha, sigma = (v.expand(len(x))[:, None] for v in (self.alpha, self.sigma))
        return ((alpha * torch.cat(means) - flat) / sigma / sigma).reshape(x.shape)

    def _posterior_mean(self, xt: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        # By a few rows at a time: no [B, N] is kept.
        a, s = (v.expand(len(xt)) for v in (alpha, sigma))
        return torch.cat([self.posterior(xt[b], a[b], s[b], check=False).mean for b in self._rows(len(xt))])

    def _joints(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """:meth:`_joint` under this law, by a few rows at a time: no ``[B, N]`` is kept."""
        alpha, sigma = (v.expand(len(x)) for v in (self.alpha, self.sigma))
        weights = self.log_weights.expand(len(x), -1)
        return (self._joint(x[b], alpha[b], sigma[b], weights[b]) for b in self._rows(len(x)))

    def _sample(self, n: int, generator: torch.Generator | None) -> Tensor:
        weights = self.weights if self.log_weights.ndim == 1 else self.weights.expand(n, -1)
        x = self.points[draw_index(weights, n, generator)]
        if self.sigma.device.type == "cpu" and bool((self.sigma == 0).all()):
            return self._scale(self.alpha, x)
        noise = torch.randn(x.shape, generator=generator, dtype=self.dtype, device=self.device)
        return self._scale(self.alpha, x) + self._scale(self.sigma, noise)

    def _joint(self, z: Tensor, alpha: Tensor, sigma: Tensor, log_weights: Tensor) -> tuple[Tensor, Tensor]:
        """log w_i − ‖z − α x_i‖²/2σ² from its value at the nearest point ``[B, N]``, and that value's square part ``[B]``.

        Apart, because σ may be so small that only the nearest point's term is finite.
        """
        flat, points = z.flatten(1), self.points.flatten(1)
        rows = flat.shape[0]
        alpha, sigma = (v.expand(rows) for v in (alpha, sigma))
        less = -alpha[:, None, None]
        distance2 = [torch.addcmul(flat[b, None], points, less[b]).square_().sum(2) for b in self._blocks(rows)]
        distance2 = torch.cat(distance2)
        least = distance2.amin(1)
        return (
            log_weights - 0.5 * (distance2 - least[:, None]) / sigma[:, None] / sigma[:, None],
            -0.5 * least / sigma / sigma,
        )

    def _blocks(self, rows: int) -> list[slice]:
        """Rows whose differences ``[rows, N, D]`` make a block."""
        return self._slices(rows, self.points.numel())

    def _rows(self, rows: int) -> list[slice]:
        """Rows whose weights ``[rows, N]`` make a block."""
        return self._slices(rows, len(self.points))

    def _slices(self, rows: int, each: int) -> list[slice]:
        size = max(1, _BLOCK.get(self.device.type, 2**22) // each)
        return [slice(start, start + size) for start in range(0, rows, size)]

    def _shape(self, flat: Tensor) -> Tensor:
        return flat.reshape(*flat.shape[:-1], *self.event_shape)

    def _scale(self, factor: Tensor, value: Tensor | float) -> Tensor:
        axes = (1,) * len(self.event_shape)
        return factor.reshape(*factor.shape, *axes) * value

    def _check_density(self) -> None:
        if self.sigma.device.type == "cpu" and bool((self.sigma == 0).any()):
            raise ValueError(
                "a data set without noise has no density and no score; ask its diffuse(alpha, sigma) with sigma > 0"
            )

    def _check_noiseless(self, what: str) -> None:
        if self.sigma.device.type == "cpu" and not bool(((self.sigma == 0) & (self.alpha == 1)).all()):
            raise ValueError(f"{what} is of the data set itself, got one noised by sigma = {self.sigma.max():.6g}")
