r"""A stack of Gaussians, each in the eigenbasis of its covariance: the algebra under the Gaussian worlds.

With covariance Q diag(e) Qᵀ and y = Qᵀ(z − α m), everything about z = α x + σ ε is a function of one eigenvalue at a
time, and nothing is a difference of near-equals at any log-SNR (Bishop 2006, eq. 2.113–2.117, diagonalised):

    noised variance     v = α² e + σ²
    score               −Q (y / v)
    posterior mean      m + Q (α e / v) y
    posterior variance  e σ² / v
    log evidence        −½ Σ (y²/v + log 2πv)

The tilt by r(x) = −½ xᵀA x + bᵀx (IDENTITIES item 55) is written around the mean, g = (b − A m)/β, S = L Lᵀ,
M = I + Lᵀ A L/β = C Cᵀ, W = L C⁻ᵀ:

    S* = W Wᵀ,   m* = m + W Wᵀ g,   log Z = r(m)/β − ½ log|M| + ½ ‖Wᵀ g‖²,

which needs no S⁻¹ (a point, e = 0, stays one) and subtracts no large quadratic forms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unidiff.core.boundary import check_finite, check_positive
from unidiff.worlds.rewards import Matrix, Vector, as_matrix, as_vector, check_symmetric

_LOG_2PI = math.log(2.0 * math.pi)


@dataclass(frozen=True, eq=False)
class Normals:
    """N(mean, basis diag(values) basisᵀ) for each place of a stack S; every field may broadcast over S.

    Attributes:
        mean: ``[*S, D]``.
        basis: orthogonal, eigenvectors in columns, ``[*S, D, D]`` or ``[D, D]``.
        values: eigenvalues of the covariance, ≥ 0, ``[*S, D]``.
    """

    mean: Tensor
    basis: Tensor
    values: Tensor

    @staticmethod
    def of(mean: Tensor, covariance: Tensor) -> Normals:
        """The stack of N(mean ``[*S, D]``, covariance ``[*S, D, D]``), decomposed in float64, in ``mean``'s dtype.

        Raises:
            ValueError: shapes, values that are not finite, a covariance that is not symmetric positive definite.
        """
        check_finite("mean", mean)
        if covariance.shape != (*mean.shape, mean.shape[-1]):
            raise ValueError(
                f"covariance must have shape {[*mean.shape, mean.shape[-1]]} for means of shape {list(mean.shape)}, "
                f"got {list(covariance.shape)}"
            )
        check_symmetric("covariance", covariance)
        wide = covariance.to(torch.float64)
        values, basis = torch.linalg.eigh(0.5 * (wide + wide.mT))
        floor = mean.shape[-1] * torch.finfo(covariance.dtype).eps * values[..., -1]
        if not bool((values[..., 0] > floor).all()):
            raise ValueError(
                "covariance must be positive definite, got smallest eigenvalue "
                f"{values.min():.6g} beside largest {values.max():.6g}"
            )
        return Normals(mean, basis.to(mean), values.to(mean))

    @property
    def dim(self) -> int:
        """D."""
        return self.mean.shape[-1]

    @property
    def stack(self) -> torch.Size:
        """S."""
        # NumPy's, which takes a quarter of the time of torch's.
        return torch.Size(np.broadcast_shapes(self.mean.shape[:-1], self.values.shape[:-1], self.basis.shape[:-2]))

    @property
    def variance(self) -> Tensor:
        """The diagonal of the covariance, ``[*S, D]``."""
        return _rotate(self.basis.square(), self.values).expand(*self.stack, self.dim)

    @property
    def covariance(self) -> Tensor:
        """``[*S, D, D]``."""
        full = (self.basis * self.values.unsqueeze(-2)) @ self.basis.mT
        return full.expand(*self.stack, self.dim, self.dim)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density of ``x`` (broadcast against ``[*S, D]``), in nats, without the last axis."""
        return _log_density(_align(self.basis, x - self.mean), self.values)

    def score(self, x: Tensor) -> Tensor:
        """∇ log density at ``x`` (broadcast against ``[*S, D]``)."""
        return -_rotate(self.basis, _align(self.basis, x - self.mean) / self.values)

    def sample(self, noise: Tensor) -> Tensor:
        """mean + S^½ ``noise``, noise broadcast against ``[*S, D]``."""
        return self.mean + _rotate(self.basis, self.values.sqrt() * noise)

    def diffuse(self, alpha: Tensor, sigma: Tensor) -> Normals:
        """The laws of α x + σ ε; alpha and sigma broadcast against ``[*S, D]``."""
        return Normals(alpha * self.mean, self.basis, alpha**2 * self.values + sigma**2)

    def bayes(self, xt: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Normals, Tensor]:
        """The laws of x given α x + σ ε = ``xt``, and the log density of xt; all broadcast against ``[*S, D]``."""
        mean, y, noised = self._regress(xt, alpha, sigma)
        return self._given(mean, noised, sigma), _log_density(y, noised)

    def posterior(self, xt: Tensor, alpha: Tensor, sigma: Tensor) -> Normals:
        """The laws of :meth:`bayes` alone."""
        mean, _, noised = self._regress(xt, alpha, sigma)
        return self._given(mean, noised, sigma)

    def posterior_mean(self, xt: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The means of :meth:`posterior` alone."""
        return self._regress(xt, alpha, sigma)[0]

    def expectation(self, xt: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """The means of :meth:`bayes`, and its log densities."""
        mean, y, noised = self._regress(xt, alpha, sigma)
        return mean, _log_density(y, noised)

    def _regress(self, xt: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """E[x|xt], and xt's deviation in the eigenbasis with its variance there."""
        noised = alpha**2 * self.values + sigma**2
        y = _align(self.basis, xt - alpha * self.mean)
        return self.mean + _rotate(self.basis, alpha * self.values / noised * y), y, noised

    def _given(self, mean: Tensor, noised: Tensor, sigma: Tensor) -> Normals:
        return Normals(mean, self.basis, self.values * sigma**2 / noised)

    def tilt(self, A: Matrix | None, b: Vector | None, beta: float) -> tuple[Normals, Tensor]:
        """The laws ∝ density · exp((−½ xᵀA x + bᵀx)/β), and their log Z, ``[*S]``; worked in float64."""
        A, b = check_quadratic(A, b, beta, self.mean)
        mean, basis, values = (v.to(torch.float64) for v in (self.mean, self.basis, self.values))
        root = basis * values.sqrt().unsqueeze(-2)
        slope = (b - mean @ A) / beta
        at_mean = (mean * (b - 0.5 * (mean @ A))).sum(-1) / beta
        if bool((A == 0).all()):
            lift, log_det = root, torch.zeros_like(at_mean)
        else:
            inner = torch.eye(self.dim, dtype=A.dtype, device=A.device) + root.mT @ (A / beta) @ root
            factor, failed = torch.linalg.cholesky_ex(inner)
            if bool((failed > 0).any()):
                smallest = torch.linalg.eigvalsh(inner).min()
                raise ValueError(
                    "A must leave the tilted precision S^-1 + A/beta positive definite (else Z is infinite), got "
                    f"smallest eigenvalue {smallest:.6g} of I + S^(1/2) A S^(1/2)/beta at beta = {beta}"
                )
            lift = torch.linalg.solve_triangular(factor.mT, root, upper=True, left=False)
            log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
            # The singular values of W keep the digits of small eigenvalues that forming W Wᵀ would lose.
            basis, scale, _ = torch.linalg.svd(lift)
            values = scale.square()
        aligned = torch.einsum("...de,...d->...e", lift, slope)
        log_z = at_mean - 0.5 * log_det + 0.5 * aligned.square().sum(-1)
        tilted = Normals(*(v.to(self.mean) for v in (mean + _rotate(lift, aligned), basis, values)))
        return tilted, log_z.expand(self.stack).to(self.mean)

    def pick(self, index: Tensor) -> Normals:
        """For row i of ``index`` ``[n]`` the component index[i]: from a stack ``[K]`` or ``[n, K]`` to one ``[n]``."""
        n, components = index.shape[0], self.stack[-1]
        rows = torch.arange(n, device=index.device)
        mean = self.mean.expand(n, components, self.dim)[rows, index]
        values = self.values.expand(n, components, self.dim)[rows, index]
        if self.basis.ndim == 2:
            return Normals(mean, self.basis, values)
        return Normals(mean, self.basis.expand(n, components, self.dim, self.dim)[rows, index], values)

    def check_density(self) -> None:
        """Refuse a point mass (read on the CPU only: on a GPU looking would wait for it)."""
        if self.values.device.type == "cpu" and bool((self.values <= 0).any()):
            raise ValueError("the law has no density: a variance is 0 (a posterior at sigma = 0 is a point)")

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Normals:
        """The stack in another dtype or on another device; itself where nothing changes."""
        parts = (self.mean, self.basis, self.values)
        moved = tuple(v.to(device=device, dtype=dtype) for v in parts)
        return self if all(a is b for a, b in zip(moved, parts, strict=True)) else Normals(*moved)


def check_quadratic(A: Matrix | None, b: Vector | None, beta: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """A ``[D, D]`` and b ``[D]`` in float64 on ``like`` ``[..., D]``'s device, zeros where None; beta checked."""
    check_positive("beta", beta)
    dim = like.shape[-1]
    A = None if A is None else as_matrix("A", A)
    b = None if b is None else as_vector("b", b)
    if A is not None and A.shape != (dim, dim):
        raise ValueError(f"A must have shape [{dim}, {dim}], got {list(A.shape)}")
    if b is not None and b.numel() != dim:
        raise ValueError(f"b must have {dim} entries, got shape {list(b.shape)}")
    options = {"dtype": torch.float64, "device": like.device}
    curvature = torch.zeros(dim, dim, **options) if A is None else check_symmetric("A", A).to(**options)
    slope = torch.zeros(dim, **options) if b is None else check_finite("b", b).to(**options).flatten()
    return curvature, slope


def _align(basis: Tensor, x: Tensor) -> Tensor:
    return x @ basis if basis.ndim == 2 else torch.einsum("...de,...d->...e", basis, x)


def _rotate(basis: Tensor, y: Tensor) -> Tensor:
    return y @ basis.mT if basis.ndim == 2 else torch.einsum("...de,...e->...d", basis, y)


def _log_density(y: Tensor, values: Tensor) -> Tensor:
    return -0.5 * (y.square() / values + values.log() + _LOG_2PI).sum(-1)
