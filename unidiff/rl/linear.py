r"""A chain whose every step is linear and Gaussian, so that all of its laws are matrices.

The exact denoiser of Gaussian data is affine, x̂_0 = G x_t + h, so a chain's step of it is

    p(x_{t_{k−1}}|x_{t_k}) = N(M x_{t_k} + m, C)   with   M = aI + bG,  m = bh,  C diagonal,

a, b and C of :mod:`unidiff.core.chain`. With x_{t_N} ~ N(m_N, C_N), which is a step from nowhere (M = 0), the marginals and
the relative entropy of two such laws of paths are (Bishop 2006, eq. 2.115; Cover & Thomas 2006, theorem 2.5.3)

    μ_{k−1} = M μ_k + m,   S_{k−1} = M S_k Mᵀ + C,
    KL(p(x_{t_0:t_N}) ‖ p'(x_{t_0:t_N})) = Σ_k E_p KL(p(x_{t_{k−1}}|x_{t_k}) ‖ p'(x_{t_{k−1}}|x_{t_k})),

which is no less than the KL of their x_{t_0} (IDENTITIES item 51). Where covariances are the same, C = C' = σ²I, a term is
E‖Δμ‖²/2σ².
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from unidiff.core.boundary import check_alike, check_count, check_finite, check_floating, check_state, check_type
from unidiff.core.chain import ReverseChain
from unidiff.worlds.gaussian import Gaussian
from unidiff.worlds.normals import Normals
from unidiff.worlds.rewards import check_symmetric


@dataclass(frozen=True, eq=False)
class LinearChain:
    """x_{t_j} = M_j x_{t_{j+1}} + m_j + N(0, C_j) of D numbers; row j leads to t_j, the last one from nowhere to t_N.

    Attributes:
        gain: M, float64 ``[N + 1, D, D]``, the last of them zero.
        shift: m, float64 ``[N + 1, D]``, in x units; the last is the mean at t_N.
        covariance: C, float64 ``[N + 1, D, D]``, in x² units; zero where a step has no noise; the last is that of x_{t_N}.

    Raises:
        TypeError: no floating-point tensors.
        ValueError: other shapes or dtypes, values that are not finite, a last gain that is not zero, a C that is not
            symmetric or has a negative eigenvalue.
    """

    gain: Tensor
    shift: Tensor
    covariance: Tensor

    def __post_init__(self) -> None:
        for name in ("gain", "shift", "covariance"):
            value = check_finite(name, check_floating(name, getattr(self, name)))
            if value.dtype != torch.float64:
                raise ValueError(f"{name} must be float64, got {value.dtype}")
        if self.shift.ndim != 2 or self.shift.shape[0] < 2:
            raise ValueError(f"shift must have shape [N + 1, D] with a step at least, got {list(self.shift.shape)}")
        for name in ("gain", "covariance"):
            value, expected = getattr(self, name), (*self.shift.shape, self.dim)
            if value.shape != expected:
                raise ValueError(f"{name} must have shape {list(expected)}, got {list(value.shape)}")
        if bool(self.gain[-1].any()):
            raise ValueError("gain must be zero in its last row, the start, which comes from nowhere")
        check_symmetric("covariance", self.covariance)
        values = torch.linalg.eigvalsh(self.covariance)
        if not bool((values[:, 0] >= -64 * torch.finfo(torch.float64).eps * values[:, -1]).all()):
            raise ValueError(f"covariance must have no negative eigenvalue, got one of {float(values.min()):.6g}")

    @staticmethod
    @torch.no_grad()
    def of(chain: ReverseChain, condition: Tensor | None = None, guidance: float = 1.0) -> LinearChain:
        """A chain's matrices, had by asking it: at nothing and at one number at a time, each of its level's size.

        Asked in float64, or in the network's own dtype; the start is the chain's prior.

        Args:
            chain: of a denoiser that is affine in x_t: a Gaussian world's, a linear network's.
            condition: a class, ``[]``.
            guidance: as the chain's.

        Raises:
            TypeError: no ReverseChain.
            ValueError: a step that is not linear, or whose variance moves with the state.
        """
        check_type("chain", chain, ReverseChain)
        core, shape = chain.core, chain.core.event_shape
        first, dim = core.first_parameter(), math.prod(shape)
        options: dict[str, Any] = (
            {"dtype": torch.float64} if first is None else {"dtype": first.dtype, "device": first.device}
        )
        eye = torch.eye(dim, dtype=torch.float64)
        # The last row is where linearity shows.
        probes = torch.cat([torch.zeros_like(eye[:1]), eye, -2 * torch.arange(1, dim + 1).to(eye).cos()[None]])
        gains, shifts, covariances = [], [], []
        for k in range(1, chain.steps + 1):
            size = float(torch.hypot(chain.levels.alpha[k], chain.levels.sigma[k]))
            x = (size * probes).reshape(-1, *shape).to(**options)
            law = chain.step(x, k, condition, guidance)
            mean, var = (v.flatten(1).to("cpu", torch.float64) for v in (law.mean, law.var.expand(x.shape)))
            gain = ((mean[1:-1] - mean[0]) / size).mT
            _check_linear(k, mean, mean[0] + size * probes @ gain.mT, var, torch.finfo(x.dtype).eps)
            gains.append(gain)
            shifts.append(mean[0])
            covariances.append(var[0].diag())
        prior = core.schedule.prior_std**2 * eye
        return LinearChain(
            torch.stack([*gains, torch.zeros_like(eye)]),
            torch.stack([*shifts, torch.zeros_like(eye[0])]),
            torch.stack([*covariances, prior]),
        )

    @property
    def steps(self) -> int:
        """N."""
        return self.shift.shape[0] - 1

    @property
    def dim(self) -> int:
        """D."""
        return self.shift.shape[1]

    def starting(self, mean: Tensor, covariance: Tensor) -> LinearChain:
        """The same steps from x_{t_N} ~ N(mean ``[D]``, covariance ``[D, D]``); errors as the class's."""
        return replace(
            self,
            shift=torch.cat([self.shift[:-1], mean[None]]),
            covariance=torch.cat([self.covariance[:-1], covariance[None]]),
        )

    def step(self, xt: Tensor, k: int) -> Gaussian:
        """p(x_{t_{k−1}}|x_{t_k} = xt) for ``xt`` ``[B, D]``, a batch of laws; k as in :class:`ReverseChain`.

        Raises:
            ValueError: k outside 1 … N, a state that does not fit, a step without noise (which has no density).
        """
        return self._law(self.step_mean(xt, k), self.covariance[k - 1])

    def step_mean(self, xt: Tensor, k: int) -> Tensor:
        """The mean of :meth:`step`, ``[B, D]``; of a step without noise, where it leads."""
        return check_state("xt", xt, (self.dim,)).to(torch.float64) @ self.gain[self._row(k)].mT + self.shift[k - 1]

    def given(self, xt: Tensor, k: int) -> Gaussian:
        """The law of x_{t_0} given x_{t_k} = ``xt`` ``[B, D]`` under the chain, a batch of laws; errors as :meth:`step`."""
        mean, covariance = self.step_mean(xt, k), self.covariance[k - 1]
        for j in range(k - 2, -1, -1):
            mean, covariance = self._carry(mean, covariance, j)
        return self._law(mean, covariance)

    def marginal(self, k: int = 0) -> Gaussian:
        """The law of x_{t_k}, k in 0 … N. Raises ValueError for another k, or a law without a density."""
        if isinstance(k, bool) or not isinstance(k, int) or not 0 <= k <= self.steps:
            raise ValueError(f"k must be an integer in 0 … {self.steps}, got {k!r}")
        mean, covariance = self.moments()[k]
        return Gaussian(mean, covariance)

    def moments(self) -> list[tuple[Tensor, Tensor]]:
        """(mean ``[D]``, covariance ``[D, D]``) of x_{t_0} … x_{t_N}; of a law without a density too."""
        mean, covariance = self.shift[-1], self.covariance[-1]
        found = [(mean, covariance)]
        for j in range(self.steps - 1, -1, -1):
            mean, covariance = self._carry(mean, covariance, j)
            found.append((mean, covariance))
        return found[::-1]

    def kl(self, other: LinearChain) -> Tensor:
        """KL(self ‖ other) of their laws of paths x_{t_0}, …, x_{t_N}, in nats, ``[]``, the start's included.

        A step without noise in both must be the same in both, and then counts nothing.

        Raises:
            TypeError: no LinearChain.
            ValueError: other shapes; a step without noise in one alone, or not the same in both, where KL is infinite.
        """
        check_type("other", other, LinearChain)
        check_alike(shift=self.shift, other_shift=other.shift)
        laws = [*self.moments()[1:], (torch.zeros_like(self.shift[0]), torch.zeros_like(self.gain[0]))]
        total = torch.zeros_like(self.shift[0, 0])
        for j, (mean, covariance) in enumerate(laws):
            gain, shift = self.gain[j] - other.gain[j], self.shift[j] - other.shift[j]
            own, reference = self.covariance[j], other.covariance[j]
            if not bool(own.any()) and not bool(reference.any()) and not bool(gain.any()) and not bool(shift.any()):
                continue
            factor, failed = torch.linalg.cholesky_ex(reference)
            excess = None if int(failed) else torch.linalg.eigvalsh(_whitened(factor, own - reference))
            if excess is None or not bool((excess > -1).all()):
                raise ValueError(f"other must have noise wherever self has, and self wherever other; not to t_{j}")
            moved = torch.linalg.solve_triangular(factor, (gain @ mean + shift)[:, None], upper=False)
            spread = _whitened(factor, gain @ covariance @ gain.mT).trace()
            total = total + 0.5 * ((excess - excess.log1p()).sum() + moved.square().sum() + spread)
        return total

    def _carry(self, mean: Tensor, covariance: Tensor, row: int) -> tuple[Tensor, Tensor]:
        gain = self.gain[row]
        return mean @ gain.mT + self.shift[row], symmetric(gain @ covariance @ gain.mT) + self.covariance[row]

    def _law(self, mean: Tensor, covariance: Tensor) -> Gaussian:
        one = Normals.of(torch.zeros_like(mean[0]), covariance)
        return Gaussian.of(Normals(mean, one.basis, one.values))

    def _row(self, k: int) -> int:
        if check_count("k", k) > self.steps:
            raise ValueError(f"k must be an integer in 1 … {self.steps} (a step from t_k to t_(k-1)), got {k!r}")
        return k - 1


def symmetric(matrix: Tensor) -> Tensor:
    """The symmetric part of ``[D, D]``: what rounding alone took from symmetry."""
    return 0.5 * (matrix + matrix.mT)


def _whitened(factor: Tensor, matrix: Tensor) -> Tensor:
    """L⁻¹ matrix L⁻ᵀ, symmetric."""
    half = torch.linalg.solve_triangular(factor, matrix, upper=False)
    return symmetric(torch.linalg.solve_triangular(factor, half.mT, upper=False))


def _check_linear(k: int, mean: Tensor, linear: Tensor, var: Tensor, eps: float) -> None:
    """Refuse a step whose mean at the probes is no linear function, or whose variance is not one."""
    off = float((mean - linear).abs().max() / mean.abs().max().clamp(min=torch.finfo(mean.dtype).tiny))
    if off > eps**0.5:
        raise ValueError(
            "chain must be linear, of a denoiser that is affine in x_t (a Gaussian world's): "
            f"its step from t_{k} is off a linear one by {off:.3g} of its size"
        )
    if bool(((var - var[0]).abs() > eps**0.5 * var[0]).any()):
        raise ValueError(f"chain must have a variance that does not move with the state; the step from t_{k} has not")
