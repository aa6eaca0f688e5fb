r"""Rewards whose tilt p(x) e^{r(x)/β}/Z of a Gaussian world is a Gaussian world again.

All three are r(x) = −½ xᵀA x + bᵀx + c over the flattened datum; log N(x; m, C) has A = C⁻¹, b = C⁻¹m and
c = −½ mᵀC⁻¹m − ½ log|2πC|.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from unidiff.core.boundary import as_sequence, check_finite

if TYPE_CHECKING:
    from unidiff.worlds.gaussian import Gaussian

Vector = Tensor | Sequence[float]
Matrix = Tensor | Sequence[Sequence[float]]


@runtime_checkable
class QuadraticReward(Protocol):
    """A reward that is a quadratic polynomial and says so."""

    def __call__(self, x: Tensor) -> Tensor:
        """r at ``x`` ``[B, *E]``, ``[B]``."""
        ...

    def coefficients(self) -> tuple[Tensor | None, Tensor | None, Tensor | float]:
        """(A ``[D, D]`` or None, b with D entries or None, c) of r(x) = −½ xᵀA x + bᵀx + c."""
        ...


@dataclass(frozen=True, eq=False)
class Linear:
    """r(x) = bᵀx.

    Attributes:
        b: D entries (any shape; numbers become float64), in units of reward/x.
    """

    b: Tensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "b", check_finite("b", as_vector("b", self.b)))

    def __call__(self, x: Tensor) -> Tensor:
        """r at ``x`` ``[B, *E]``, ``[B]``."""
        return _flat(x, self.b.numel()) @ self.b.to(x).flatten()

    def coefficients(self) -> tuple[None, Tensor, float]:
        """(None, b, 0)."""
        return None, self.b, 0.0


@dataclass(frozen=True, eq=False)
class Quadratic:
    """r(x) = −½ xᵀA x + bᵀx.

    Attributes:
        A: symmetric ``[D, D]``, in units of reward/x²; need not be positive, as long as the tilt exists.
        b: D entries (any shape), in units of reward/x; None for none.
    """

    A: Tensor
    b: Tensor | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "A", check_symmetric("A", as_matrix("A", self.A)))
        if self.b is not None:
            object.__setattr__(self, "b", check_finite("b", as_vector("b", self.b)))
            if self.b.numel() != self.A.shape[0]:
                raise ValueError(f"b must have {self.A.shape[0]} entries, as A has rows, got {self.b.numel()}")

    def __call__(self, x: Tensor) -> Tensor:
        """r at ``x`` ``[B, *E]``, ``[B]``."""
        flat = _flat(x, self.A.shape[0])
        curved = -0.5 * (flat * (flat @ self.A.to(x))).sum(1)
        return curved if self.b is None else curved + flat @ self.b.to(x).flatten()

    def coefficients(self) -> tuple[Tensor, Tensor | None, float]:
        """(A, b, 0)."""
        return self.A, self.b, 0.0


@dataclass(frozen=True, eq=False)
class LogDensity:
    """r(x) = log N(x; m, C).

    Attributes:
        gaussian: the world N(m, C), one law.
    """

    gaussian: Gaussian

    def __post_init__(self) -> None:
        if not hasattr(self.gaussian, "normals"):
            raise TypeError(f"gaussian must be a world N(m, C), got {type(self.gaussian).__name__}")
        if self.gaussian.batch is not None:
            raise ValueError(f"gaussian must be one law, got a batch of {self.gaussian.batch}")

    def __call__(self, x: Tensor) -> Tensor:
        """r at ``x`` ``[B, D]``, ``[B]``."""
        return self.gaussian.to(x.dtype, x.device).log_prob(x)

    def coefficients(self) -> tuple[Tensor, Tensor, Tensor]:
        """(C⁻¹, C⁻¹m, log N(0; m, C))."""
        normals = self.gaussian.normals
        precision = torch.einsum("de,e,fe->df", normals.basis, 1 / normals.values, normals.basis)
        b = precision @ normals.mean
        log_det = normals.values.log().sum() + normals.dim * math.log(2 * math.pi)
        return precision, b, -0.5 * (normals.mean @ b + log_det)


def as_vector(argument: str, value: Any) -> Tensor:
    """A tensor as it is; a sequence of numbers as float64 ``[D]``."""
    return value if isinstance(value, Tensor) else as_sequence(argument, value)


def as_matrix(argument: str, value: Any) -> Tensor:
    """A tensor as it is; rows of numbers as float64 ``[D, D]``."""
    if isinstance(value, Tensor):
        return value
    try:
        return torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{argument} must be a tensor or rows of numbers [D, D], got {value!r}") from None


def _flat(x: Tensor, dim: int) -> Tensor:
    flat = x.flatten(1)
    if flat.shape[1] != dim:
        raise ValueError(f"x must have {dim} numbers a row, as the reward has, got shape {list(x.shape)}")
    return flat


def check_symmetric(argument: str, matrix: Tensor) -> Tensor:
    """A finite ``[..., D, D]`` equal to its transpose to within 64 eps of its largest entry."""
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2] or not matrix.is_floating_point():
        raise ValueError(
            f"{argument} must be a floating-point tensor of shape [..., D, D], got {matrix.dtype} {list(matrix.shape)}"
        )
    check_finite(argument, matrix)
    skew = (matrix - matrix.mT).abs().max()
    if skew > 64 * torch.finfo(matrix.dtype).eps * matrix.abs().max():
        raise ValueError(f"{argument} must be symmetric, got entries that differ from their mirror by {skew:.3g}")
    return matrix
