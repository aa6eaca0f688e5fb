r"""The algebraic law for a user's values: |got − expected| ≤ 64 · eps(dtype) · κ.

κ is the size of the numbers whose rounding reaches the value. Of a Gaussian's moments it is, times the caller's condition,

    mean  |m| + σ,      variance  v (1 + |log v|),      covariance  σ_i σ_j (1 + max |log v|),

since a mean means nothing finer than its σ's rounding, and a log-variance is stored to |log v| eps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unidiff.core.gaussian import Gaussian
from unidiff.identities.laws import ALGEBRAIC_C, BLIND, Sides, excess_ratio, judge_algebraic
from unidiff.testing.assertions.verdicts import Inconclusive, as_tensor, check_rounding, name_of, place
from unidiff.worlds.mixture import GaussianMixture


def assert_algebraic(
    got: Any, expected: Any, kappa: Any, *, dtype: torch.dtype | None = None, what: str = "value"
) -> None:
    """``got`` is ``expected`` up to rounding: |got − expected| ≤ 64 · eps(dtype) · κ, element by element.

    Args:
        got, expected: tensors, arrays or numbers, of shapes that broadcast to one another.
        kappa: κ, in the units of the values, of a shape that broadcasts to theirs: the size of the terms that are added.
        dtype: in which they were computed; None for the coarser of theirs.
        what: what the message calls the values.

    Raises:
        AssertionError: an element that is off by more, or NaN; it names the worst one.
        Inconclusive: what is allowed is more than a tenth of the value, for some element that is not zero.
        TypeError, ValueError: no numbers, shapes that do not broadcast, a κ that is NaN or below 0, no floating dtype.
    """
    __tracebackhide__ = True
    lhs, rhs, size = as_tensor("got", got), as_tensor("expected", expected), as_tensor("kappa", kappa)
    dtype = check_rounding(dtype, lhs, rhs)
    if not bool((size >= 0).all()):
        raise ValueError(f"kappa must be at least 0, got {float(size.min())}")
    try:
        torch.broadcast_shapes(lhs.shape, rhs.shape, size.shape)
    except RuntimeError:
        raise ValueError(
            "got, expected and kappa must broadcast to one shape, "
            f"got {list(lhs.shape)}, {list(rhs.shape)} and {list(size.shape)}"
        ) from None
    found = judge_algebraic([Sides(lhs, rhs, size)], dtype)
    if found.verdict == "fail":
        raise AssertionError(_worst(what, lhs, rhs, size, dtype))
    lhs, rhs, size = torch.broadcast_tensors(*(v.to("cpu", torch.float64) for v in (lhs, rhs, size)))
    value = torch.maximum(lhs.abs(), rhs.abs())
    # Zeros have no relative violation. Each of the others must be seen: a user compares them all.
    share = torch.where(value > 0, ALGEBRAIC_C * torch.finfo(dtype).eps * size / value, 0.0)
    worst = int(share.argmax())
    if float(share.flatten()[worst]) > BLIND:
        raise Inconclusive(
            f"{what}{place(worst, share.shape)}: a relative violation of {float(share.flatten()[worst]):.1e} would "
            f"have been caught (bound {BLIND:.0%}); the algebraic law in {name_of(dtype)} is blind here"
        )


def assert_gaussian_equal(got: Any, expected: Any, *, condition: Any = 1.0, dtype: torch.dtype | None = None) -> None:
    """Two Gaussians have one mean and one variance (and covariance: a side without one is diagonal), up to rounding.

    Args:
        got, expected: each a :class:`unidiff.Gaussian`, a pair (mean, variance), or anything with a ``mean`` and one of
            ``covariance``, ``covariance_matrix``, ``log_var``, ``var`` and ``variance``: a world, a torch distribution.
        condition: by how much more than the terms above the formula of ``got`` loses, 1 or more: a 1 − ᾱ formed by
            subtraction loses 1/(1 − ᾱ). A number, or a tensor that broadcasts to the mean.
        dtype: in which they were computed; None for the coarser of theirs.

    Raises:
        AssertionError: another shape, mean or variance, or NaN; it names the worst element and what was allowed.
        Inconclusive: with that condition and dtype a tenth of |m| + σ, or of the variance, would not be seen.
        TypeError, ValueError: what is no Gaussian, as a mixture of several is; an expected variance below 0 or not finite; a
            condition below 1 or of another shape; no floating dtype.
    """
    __tracebackhide__ = True
    mine, theirs = _Moments.of("got", got), _Moments.of("expected", expected)
    dtype = check_rounding(dtype, mine.mean, mine.var, theirs.mean, theirs.var)
    wide = as_tensor("condition", condition).to(theirs.mean.device, torch.float64)
    if not bool(((wide >= 1) & torch.isfinite(wide)).all()):
        raise ValueError(f"condition must be at least 1 and finite, got {condition}")
    if mine.mean.shape != theirs.mean.shape:
        raise AssertionError(f"mean: got shape {list(mine.mean.shape)}, expected {list(theirs.mean.shape)}")
    theirs.check()
    try:
        wide = wide.expand(theirs.mean.shape)
    except RuntimeError:
        raise ValueError(
            f"condition must broadcast to the mean's shape {list(theirs.mean.shape)}, got {list(wide.shape)}"
        ) from None
    for what, lhs, rhs, kappa in _compared(mine, theirs):
        known = kappa * (wide if what != "covariance" else _outer(wide.reshape(kappa.shape[:-1]).sqrt()))
        if judge_algebraic([Sides(lhs, rhs, known)], dtype).verdict == "fail":
            raise AssertionError(_worst(what, lhs, rhs, known, dtype))
    unseen = ALGEBRAIC_C * torch.finfo(dtype).eps * float(wide.max())
    if unseen > BLIND:
        raise Inconclusive(
            f"a violation of {unseen:.1e} of |m| + σ would not have been caught (bound {BLIND:.0%}): condition "
            f"{float(wide.max()):.3g} is too much for {name_of(dtype)}"
        )


@dataclass(frozen=True)
class _Moments:
    """A Gaussian's moments: mean ``[*S]``, variance of a shape that broadcasts to it, and a covariance if it has one."""

    mean: Tensor
    var: Tensor
    covariance: Tensor | None = None

    @staticmethod
    def of(argument: str, law: Any) -> _Moments:
        if isinstance(law, Gaussian):
            return _Moments.of(argument, (law.mean, law.var))
        if isinstance(law, tuple):
            if len(law) != 2:
                raise TypeError(f"{argument} must be a Gaussian or a pair (mean, variance), got a tuple of {len(law)}")
            mean, var = (
                as_tensor(f"{argument}'s {name}", v) for name, v in zip(("mean", "variance"), law, strict=True)
            )
            return _Moments(mean, _fitting(argument, var, mean))
        _check_gaussian(argument, law)
        full = next((getattr(law, name) for name in ("covariance", "covariance_matrix") if hasattr(law, name)), None)
        if hasattr(law, "mean") and full is not None:
            mean, matrix = as_tensor(f"{argument}'s mean", law.mean), as_tensor(f"{argument}'s covariance", full)
            return _Moments(mean, matrix.diagonal(dim1=-2, dim2=-1).reshape(mean.shape), matrix)
        if hasattr(law, "mean") and hasattr(law, "log_var"):
            return _Moments.of(argument, (law.mean, as_tensor(f"{argument}'s log_var", law.log_var).exp()))
        spread = next((getattr(law, name) for name in ("var", "variance") if hasattr(law, name)), None)
        if spread is None or not hasattr(law, "mean"):
            raise TypeError(
                f"{argument} must be a Gaussian, a pair (mean, variance), or have a mean and a covariance, log_var, var or "
                f"variance, got {type(law).__name__}"
            )
        return _Moments.of(argument, (law.mean, spread))

    def matrix(self, other: Tensor | None) -> Tensor:
        """The covariance; without one it is diagonal, over the data that ``other``'s is of."""
        if self.covariance is not None:
            return self.covariance
        assert other is not None
        return self.var.reshape(other.shape[:-1]).diag_embed()

    def check(self) -> None:
        if not bool(((self.var >= 0) & torch.isfinite(self.var)).all()):
            raise ValueError(
                f"expected's variance must be at least 0 and finite, got {self.var.flatten()[:4].tolist()}"
            )


def _check_gaussian(argument: str, law: Any) -> None:
    """Refuse a law of torch's or of unidiff's that is known to be no Gaussian: two moments do not tell it."""
    base = law
    while isinstance(base, torch.distributions.Independent):
        base = base.base_dist
    if isinstance(base, torch.distributions.Distribution) and not isinstance(
        base, torch.distributions.Normal | torch.distributions.MultivariateNormal
    ):
        raise TypeError(
            f"{argument} must be a Gaussian: of torch's distributions Normal, MultivariateNormal or Independent of them, "
            f"got {type(base).__name__}"
        )
    if isinstance(law, GaussianMixture) and law.means.shape[-2] > 1:
        raise ValueError(f"{argument} must be a Gaussian, got a mixture of {law.means.shape[-2]} components")


def _outer(value: Tensor) -> Tensor:
    return value[..., :, None] * value[..., None, :]


def _fitting(argument: str, var: Tensor, mean: Tensor) -> Tensor:
    try:
        fits = torch.broadcast_shapes(var.shape, mean.shape) == mean.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"{argument}'s variance must broadcast to its mean's shape {list(mean.shape)}, got {list(var.shape)}"
        )
    return var.expand(mean.shape)


def _compared(mine: _Moments, theirs: _Moments) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
    """The pairs of moments and their κ, in float64."""
    mean, var = theirs.mean.to(torch.float64), theirs.var.to(torch.float64)
    stored = 1 + torch.where(var > 0, var, torch.ones_like(var)).log().abs()
    yield "mean", mine.mean, theirs.mean, mean.abs() + var.sqrt()
    yield "variance", mine.var, theirs.var, var * stored
    if mine.covariance is not None or theirs.covariance is not None:
        # Diagonals are of flat data: a datum of several axes has its covariance over all of its entries.
        left, right = mine.matrix(theirs.covariance), theirs.matrix(mine.covariance)
        std = var.sqrt().reshape(right.shape[:-1])
        widest = stored.reshape(std.shape).amax(-1)[..., None, None]
        yield "covariance", left, right, _outer(std) * widest


def _worst(what: str, got: Tensor, expected: Tensor, kappa: Tensor, dtype: torch.dtype) -> str:
    lhs, rhs, size = torch.broadcast_tensors(*(v.to("cpu", torch.float64) for v in (got, expected, kappa)))
    ratio = excess_ratio(lhs, rhs, size.abs()).nan_to_num(torch.inf, torch.inf)
    flat = int(ratio.argmax())
    here, there, at = (float(v.flatten()[flat]) for v in (lhs, rhs, size))
    allowed = ALGEBRAIC_C * torch.finfo(dtype).eps * at
    return (
        f"{what}{place(flat, ratio.shape)}: got {here:.9g}, expected {there:.9g}, off by {abs(here - there):.3g}; allowed "
        f"{allowed:.3g} = {ALGEBRAIC_C:g} · eps({name_of(dtype)}) · κ, κ = {at:.3g} (algebraic law)"
    )
