r"""A schedule that another library wrote: α(t) and σ(t) as functions of torch, the rest derived from them.

    λ(t) = 2 log α(t) − 2 log σ(t),   λ'(t) by forward differentiation,   t(λ) by bisection, to the last bit of t

Only λ is taken over. Where α is 1 the convention is variance exploding, otherwise variance preserving, α² = sigmoid(λ): a
state of theirs is x_t ρ, with ρ² = α(t)² + σ(t)², and a schedule of theirs may have any ρ (a rectified flow's is not
constant).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from unidiff.core.schedule import Schedule

Scales = Callable[[Tensor], tuple[Tensor, Tensor]]
_PROBES = 257
_HALVINGS = 60


class Foreign(Schedule):
    """The schedule of α(t) and σ(t), variance preserving; :func:`foreign` takes the exploding one where α is 1.

    Args:
        scales: (α, σ) at times ``[K]`` in [0, 1], float64 in, float64 out.
        name: whose they are.
    """

    kind = "foreign"

    def __init__(self, scales: Scales, name: str = "schedule") -> None:
        self.scales = scales
        self.name = name

    def _log_snr(self, t: Tensor) -> Tensor:
        alpha, sigma = self.scales(t)
        return 2 * (alpha.log() - sigma.log())

    def _log_snr_derivative(self, t: Tensor) -> Tensor:
        return torch.func.jvp(self._log_snr, (t,), (torch.ones_like(t),))[1]

    def _time(self, log_snr: Tensor) -> Tensor:
        value = log_snr.detach()
        low, high = torch.zeros_like(value), torch.ones_like(value)
        for _ in range(_HALVINGS):
            middle = 0.5 * (low + high)
            later = self._log_snr(middle).detach() > value
            low, high = torch.where(later, middle, low), torch.where(later, high, middle)
        # The nearer end: λ(0) and λ(1) are met exactly.
        nearer = (self._log_snr(low).detach() - value).abs() <= (self._log_snr(high).detach() - value).abs()
        t = torch.where(nearer, low, high)
        if not log_snr.requires_grad:
            return t
        slope = self._log_snr_derivative(t)
        return t + (log_snr - value) / torch.where(slope < 0, slope, -torch.inf)

    def place(self, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        """t(λ) of log-SNRs ``[K]``, or the nearer end's, and ρ there: their state over the one here. Nothing is checked, so
        that on a GPU nothing is waited for.
        """
        t = self._time(log_snr.to(torch.float64))
        alpha, sigma = self.scales(t)
        return t, torch.hypot(alpha, sigma) if self.variance_preserving else alpha

    def _options(self) -> dict[str, Any]:
        raise ValueError(
            f"{self.name} must be a schedule of unidiff's to be saved, got one of another library's functions"
        )

    @classmethod
    def _from_options(cls, options: dict[str, Any]) -> Schedule:
        raise ValueError("config must be of a schedule of unidiff's, got one of another library's functions")


class ForeignExploding(Foreign):
    """The same with α = 1."""

    kind = "foreign_exploding"
    variance_preserving = False


def foreign(scales: Scales, name: str = "schedule") -> Foreign:
    """The schedule of another library's α(t) and σ(t).

    Args:
        scales: (α, σ) at times ``[K]`` in [0, 1], float64 in, float64 out.
        name: the argument that errors speak of.

    Raises:
        ValueError: α or σ that is not finite and positive, or α/σ that does not fall strictly, at 257 even times.
    """
    t = torch.linspace(0, 1, _PROBES, dtype=torch.float64)
    with torch.no_grad():
        alpha, sigma = scales(t)
    for symbol, value in (("alpha", alpha), ("sigma", sigma)):
        if value.shape != t.shape or not bool((torch.isfinite(value) & (value > 0)).all()):
            raise ValueError(f"{name} must have a finite and positive {symbol} at every time in [0, 1], got {value}")
    rises = (alpha.log() - sigma.log()).diff() >= 0
    if bool(rises.any()):
        at = t[int(rises.nonzero()[0])].item()
        raise ValueError(f"{name} must have an alpha/sigma that falls strictly, got one that does not from t = {at:g}")
    return (ForeignExploding if bool((alpha == 1).all()) else Foreign)(scales, name)
