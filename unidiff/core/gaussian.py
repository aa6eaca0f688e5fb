r"""The one family of kernels: Gaussians with a diagonal covariance over an event, one for each member of a batch.

KL(N(m, v) ‖ N(m', v')) = ½ Σ [ expm1(d) − d + (m − m')²/v' ],  d = log v − log v',
which is the textbook ½ Σ [v/v' − 1 − log(v/v') + …] with the cancellation at v ≈ v' taken out. The product of two
densities is again one, up to a constant that is itself a Gaussian density: N(x; m, v) N(x; m', v') = N(m; m', v + v')
N(x; m'', v'') with 1/v'' = 1/v + 1/v'. Log-densities and entropies are sums over the event, never means.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from unidiff.core.boundary import check_alike, check_finite, check_floating

_LOG_2PI = math.log(2.0 * math.pi)


@dataclass(frozen=True)
class Gaussian:
    """N(mean, diag(exp(log_var))), batch first.

    Attributes:
        mean: ``[B, *E]``.
        log_var: natural log of the variance, any shape that broadcasts to ``mean``; −inf is a point mass.

    Raises:
        TypeError: either is no floating-point tensor.
        ValueError: mean has no axis for the batch and one for the event, log_var does not broadcast to it, or they differ
            in dtype or device. NaN, an infinite mean and a variance of +∞ are refused by what is asked of the law: a law
            that a loop builds is not looked at on its way.
    """

    mean: Tensor
    log_var: Tensor

    def __post_init__(self) -> None:
        check_floating("mean", self.mean)
        check_floating("log_var", self.log_var)
        if self.mean.ndim < 2:
            raise ValueError(f"mean must have shape [B, *event], batch first, got {list(self.mean.shape)}")
        if self.mean.dtype != self.log_var.dtype or self.mean.device != self.log_var.device:
            raise ValueError(
                "mean and log_var must have one dtype and one device, got "
                f"{self.mean.dtype} on {self.mean.device} and {self.log_var.dtype} on {self.log_var.device}"
            )
        shape = self.mean.shape
        trailing = zip(reversed(self.log_var.shape), reversed(shape), strict=False)
        if self.log_var.ndim > self.mean.ndim or any(v not in (1, m) for v, m in trailing):
            raise ValueError(f"log_var must broadcast to mean's shape {list(shape)}, got {list(self.log_var.shape)}")

    @property
    def var(self) -> Tensor:
        """The variance, in ``log_var``'s shape."""
        return self.log_var.exp()

    @property
    def std(self) -> Tensor:
        """The standard deviation, in ``log_var``'s shape."""
        return (0.5 * self.log_var).exp()

    def sample(
        self, generator: torch.Generator | None = None, noise: Tensor | None = None, check: bool = True
    ) -> Tensor:
        """mean + std·ξ, ``[B, *E]``, with ξ ~ N(0, I) drawn from ``generator`` or given as ``noise``.

        Loops that look at their end trust the law and the noise: ``check=False``.

        Raises:
            ValueError: noise unlike the mean, or values that are not finite (read on the CPU only: on a GPU looking
                would wait for it).
        """
        if check:
            self._check_values()
        if noise is None:
            noise = torch.randn(self.mean.shape, generator=generator, dtype=self.mean.dtype, device=self.mean.device)
        else:
            check_alike(mean=self.mean, noise=noise)
            if check and not noise.is_cuda:
                check_finite("noise", noise.detach())
        return self.mean + self.std * noise

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density at ``x`` ``[B, *E]``, in nats, ``[B]``.

        Raises:
            ValueError: x differs from the mean in shape, dtype or device, or is not finite (read on the CPU only); a point
                mass, or a law of values that are not finite (as all that follow).
        """
        check_alike(mean=self.mean, x=x)
        if not x.is_cuda:
            check_finite("x", x.detach())
        self._check_density()
        z2 = ((x - self.mean) * (-0.5 * self.log_var).exp()).square()
        return -0.5 * (z2 + self.log_var + _LOG_2PI).flatten(1).sum(1)

    def entropy(self) -> Tensor:
        """Differential entropy in nats, ``[B]``."""
        self._check_density()
        return 0.5 * (self.log_var + 1.0 + _LOG_2PI).expand(self.mean.shape).flatten(1).sum(1)

    def kl(self, other: Gaussian) -> Tensor:
        """KL(self ‖ other) in nats, ``[B]``; Bishop 2006, exercise 2.13. Raises ValueError for means that are not alike."""
        self._check_pair(other)
        d = self.log_var - other.log_var
        terms = torch.expm1(d) - d + ((self.mean - other.mean) * (-0.5 * other.log_var).exp()).square()
        return 0.5 * terms.expand(self.mean.shape).flatten(1).sum(1)

    def product(self, other: Gaussian) -> tuple[Gaussian, Tensor]:
        """The Gaussian proportional to self·other, and the log of the constant in nats, ``[B]``: log ∫ self·other dx.

        Raises:
            ValueError: the means are not of one shape, dtype and device.
        """
        self._check_pair(other)
        log_sum = torch.logaddexp(self.log_var, other.log_var)
        weight = (self.log_var - log_sum).exp()
        mean = self.mean + weight * (other.mean - self.mean)
        log_norm = Gaussian(other.mean, log_sum.expand(other.mean.shape)).log_prob(self.mean)
        return Gaussian(mean, self.log_var + other.log_var - log_sum), log_norm

    def _check_pair(self, other: Gaussian) -> None:
        check_alike(mean=self.mean, other_mean=other.mean)
        self._check_density()
        other._check_density()

    def _check_values(self) -> None:
        if self.mean.is_cuda:
            return
        check_finite("mean", self.mean.detach())
        # One pass over log_var: NaN and +∞ are no log-variance, −∞ is a point.
        if not bool((self.log_var < math.inf).all()):
            raise ValueError("log_var must be below +inf and not NaN, got values that are not (-inf is a point mass)")

    def _check_density(self) -> None:
        self._check_values()
        if not self.log_var.is_cuda and bool(torch.isneginf(self.log_var).any()):
            raise ValueError(
                "log_var is -inf: a point mass has no density; the last step needs a decoder "
                "(a grid that starts where sigma > 0, or a discretised likelihood)"
            )
