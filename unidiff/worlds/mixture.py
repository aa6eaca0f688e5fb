r"""A mixture of Gaussians with full covariances, Σ_k w_k N(m_k, S_k): closed under noising, conditioning and tilting.

With responsibilities r_k(z) ∝ w_k N(z; α m_k, α² S_k + σ² I), worked by log-sum-exp,

    score      Σ r_k s_k(z)                     (s_k the component's own score)
    posterior  Σ r_k N(μ_k(z), C_k)             (μ_k, C_k the component's own posterior)
    covariance Σ w_k C_k + Σ w_k (μ_k − μ̄)(μ_k − μ̄)ᵀ   (within + between, centred)
    tilt       w_k* ∝ w_k Z_k                   (IDENTITIES item 55)
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from unidiff.core.boundary import check_count
from unidiff.worlds.estimate import Estimate, monte_carlo
from unidiff.worlds.gaussian import as_parameter
from unidiff.worlds.normals import Normals
from unidiff.worlds.quadrature import Rule
from unidiff.worlds.rewards import Matrix, Vector
from unidiff.worlds.world import Scale, World, check_query, check_reach, noise_scales

_SHOWN = 6  # means of more numbers are not read, and their covariances less
# φ(9) is below 1e-18: beyond it even log p's quadratic growth adds nothing in float64.
_ENTROPY = Rule(coarsest=1 / 4, finest=(1 / 512, 1 / 32), settled=1e-14, reach=9.0)


class GaussianMixture(World):
    """Σ_k w_k N(m_k, S_k) in D dimensions.

    Args:
        weights: ``[K]``, ≥ 0, of sum 1 to within 1e-6 (then made 1 to rounding).
        means: ``[K, D]``; the dtype of a tensor is the world's (numbers: float64).
        covariances: ``[K, D, D]``, each symmetric positive definite.

    Raises:
        ValueError: shapes, values that are not finite, weights off the simplex, a covariance that is not symmetric
            positive definite.
    """

    log_weights: Tensor
    components: Normals

    def __init__(self, weights: Any, means: Any, covariances: Any) -> None:
        means = as_parameter("means", means, 2)
        weights = as_parameter("weights", weights, 1, means)
        self.log_weights = log_simplex("weights", weights, means.shape[0])
        self.components = Normals.of(means, as_parameter("covariances", covariances, 3, means))

    @classmethod
    def of(cls, log_weights: Tensor, components: Normals) -> Self:
        """The world of normalised log-weights ``[K]`` or ``[B, K]`` and a stack ``[K]`` or ``[B, K]``, as given."""
        world = cls.__new__(cls)
        world.log_weights = log_weights
        world.components = components
        return world

    @property
    def weights(self) -> Tensor:
        """``[K]``."""
        return self.log_weights.exp()

    @property
    def means(self) -> Tensor:
        """``[K, D]``."""
        return self.components.mean.expand(*self.components.stack, self.dim)

    @property
    def covariances(self) -> Tensor:
        """``[K, D, D]``."""
        return self.components.covariance

    @property
    def num_classes(self) -> int:
        """K: the component is the class of :meth:`given`."""
        return self.components.stack[-1]

    @property
    def event_shape(self) -> tuple[int, ...]:
        """(D,)."""
        return (self.components.dim,)

    @property
    def batch(self) -> int | None:
        """How many laws this is a batch of; None for one law."""
        shape = np.broadcast_shapes(self.log_weights.shape, self.components.stack)
        return shape[0] if len(shape) == 2 else None

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of parameters, queries and answers."""
        return self.components.mean.dtype

    @property
    def device(self) -> torch.device:
        """The device of parameters, queries and answers."""
        return self.components.mean.device

    @property
    def mean(self) -> Tensor:
        """Σ w_k m_k, ``[D]``."""
        return torch.einsum("...k,...kd->...d", self.weights, self.components.mean)

    @property
    def variance(self) -> Tensor:
        """The diagonal of the covariance, ``[D]``."""
        spread = self.components.variance + self._centred().square()
        return torch.einsum("...k,...kd->...d", self.weights, spread)

    @property
    def covariance(self) -> Tensor:
        """Within + between, ``[D, D]``."""
        centred, weights = self._centred(), self.weights
        within = torch.einsum("...k,...kde->...de", weights, self.components.covariance)
        return within + torch.einsum("...k,...kd,...ke->...de", weights, centred, centred)

    def entropy(self, n: int = 65536, generator: torch.Generator | None = None) -> Estimate:
        """−E log p in nats, ``[]`` in float64: quadrature in 1 and 2 dimensions, else from ``n`` samples.

        From samples too where components in 1 or 2 dimensions differ so much in width that no nodes see them all.

        Raises:
            ValueError: a batch of laws (ask one at a time), n below 2.
        """
        if self.batch is not None:
            raise ValueError(f"entropy of a mixture is for one law, got a batch of {self.batch}; ask one at a time")
        check_count("n", n, 2)
        steps = _ENTROPY.steps(self.components)
        if steps is None:
            return monte_carlo(-self.log_prob(self.sample(n, generator)))
        wide = self.to(torch.float64, "cpu")
        return _ENTROPY.mean(wide.weights, wide.components, lambda x: -wide.log_prob(x, check=False), steps)

    def diffuse(self, alpha: Scale, sigma: Scale) -> Self:
        """Σ_k w_k N(α m_k, α² S_k + σ² I)."""
        a, s = _columns(*noise_scales(alpha, sigma, self))
        return self.of(self.log_weights, self.components.diffuse(a, s))

    def posterior(self, xt: Tensor, alpha: Scale, sigma: Scale, check: bool = True) -> Self:
        """The mixture of x given α x + σ ε = ``xt`` ``[B, D]``; its ``log_weights`` ``[B, K]`` are the responsibilities."""
        if check:
            check_query("xt", xt, self)
        a, s = _columns(*noise_scales(alpha, sigma, self, xt.shape[0], check))
        components, evidence = self.components.bayes(xt[:, None], a, s)
        law = self.of(torch.log_softmax(self.log_weights + evidence, -1), components)
        if check:
            check_reach("xt", xt, components.mean, law.log_weights)
        return law

    def tilt(self, A: Matrix | None, b: Vector | None, beta: float) -> tuple[Self, Tensor]:
        """Each component tilted, weights w_k Z_k / Z, and log Z = log Σ w_k Z_k."""
        components, log_z = self.components.tilt(A, b, beta)
        joint = self.log_weights + log_z
        return self.of(torch.log_softmax(joint, -1), components), torch.logsumexp(joint, -1)

    def given(self, condition: Tensor) -> Self:
        """The laws given the component, one for each row: component k where ``condition`` ``[B]`` is k, all of them at K.

        Raises:
            ValueError: condition is not ``[B]`` integers in 0 … K (the range is read on the CPU only).
        """
        k = self.num_classes
        if condition.ndim != 1 or condition.is_floating_point() or condition.is_complex():
            raise ValueError(f"condition must be [B] integers, got {condition.dtype} {list(condition.shape)}")
        if condition.device.type == "cpu" and bool(((condition < 0) | (condition > k)).any()):
            raise ValueError(
                f"condition must lie in 0 … {k} ({k} is the null class), got {condition.unique().tolist()}"
            )
        column = condition[:, None]
        chosen = torch.where(column == torch.arange(k, device=column.device), 0.0, -torch.inf).to(self.dtype)
        return self.of(torch.where(column == k, self.log_weights, chosen), self.components)

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Self:
        """The world in another dtype or on another device."""
        log_weights, components = self.log_weights.to(device=device, dtype=dtype), self.components.to(dtype, device)
        same = log_weights is self.log_weights and components is self.components
        return self if same else self.of(log_weights, components)

    def _centred(self) -> Tensor:
        return self.components.mean - self.mean.unsqueeze(-2)

    def _joint(self, x: Tensor) -> Tensor:
        return self.log_weights + self.components.log_prob(x[:, None])

    def _log_prob(self, x: Tensor) -> Tensor:
        return torch.logsumexp(self._joint(x), -1)

    def _score(self, x: Tensor) -> Tensor:
        responsibilities = torch.softmax(self._joint(x), -1)
        return torch.einsum("bk,bkd->bd", responsibilities, self.components.score(x[:, None]))

    def _posterior_mean(self, xt: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        means, evidence = self.components.expectation(xt[:, None], *_columns(alpha, sigma))
        return torch.einsum("bk,bkd->bd", torch.softmax(self.log_weights + evidence, -1), means)

    def _sample(self, n: int, generator: torch.Generator | None) -> Tensor:
        weights = self.weights.expand(n, -1) if self.batch is not None else self.weights
        index = draw_index(weights, n, generator)
        noise = torch.randn(n, self.dim, generator=generator, dtype=self.dtype, device=self.device)
        return self.components.pick(index).sample(noise)

    def _check_density(self) -> None:
        self.components.check_density()

    def __repr__(self) -> str:
        if self.batch is not None or self.num_classes * self.dim > _SHOWN:
            return super().__repr__()
        numbers = ", ".join(_shown(v) for v in (self.weights, self.means, self.covariances))
        return f"GaussianMixture({numbers})" + ("" if self.dtype == torch.float64 else f".to({self.dtype})")


def _shown(value: Tensor) -> str:
    # Six digits after the point, and not the rounding of an eigendecomposition; 0.0 and not -0.0.
    return str((value.detach().to("cpu", torch.float64).mul(1e6).round().div(1e6) + 0.0).tolist())


def log_simplex(argument: str, weights: Tensor, count: int) -> Tensor:
    """log of ``weights`` ``[count]`` on the simplex, normalised in float64."""
    if weights.shape != (count,):
        raise ValueError(f"{argument} must have shape [{count}], got {list(weights.shape)}")
    wide = weights.to(torch.float64)
    total = wide.sum()
    if not bool((wide >= 0).all()) or not abs(float(total) - 1.0) <= 1e-6:
        raise ValueError(
            f"{argument} must be at least 0 and sum to 1 (to within 1e-6), "
            f"got a smallest of {wide.min():.6g} and a sum of {total:.9g}"
        )
    return (wide / total).log().to(weights)


def draw_index(weights: Tensor, n: int, generator: torch.Generator | None) -> Tensor:
    """``n`` indices drawn from weights ``[K]``, or one from each row of ``[n, K]``; ``[n]``."""
    if weights.ndim == 2:
        return torch.multinomial(weights, 1, generator=generator)[:, 0]
    return torch.multinomial(weights, n, replacement=True, generator=generator)


def _columns(*scales: Tensor) -> tuple[Tensor, ...]:
    return tuple(v if v.ndim == 0 else v[:, None, None] for v in scales)
