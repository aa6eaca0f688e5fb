r"""A learned schedule: any smooth decreasing λ(t), its ends and its inside free to move (Kingma et al. 2021, app. H).

λ(t) = λ_max − (λ_max − λ_min) h(t),  h(t) = (k(t) − k(0))/(k(1) − k(0)),  k(t) = t + Σ_j w_j sigmoid(r_j (t − c_j)),
with w_j, r_j > 0, so k increases and h runs from 0 to 1. The ends are parameters of their own: they set the bound,
the inside only sets the variance of its estimate; :mod:`unidiff.train.schedule` trains each by what it sets.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unidiff.core.boundary import check_count, check_seed
from unidiff.core.schedule import Schedule

_BISECTIONS = 60


class Learned(nn.Module, Schedule):
    """The monotone schedule above; parameters are float64 whatever the network's dtype."""

    kind = "learned"

    def __init__(self, log_snr_max: float = 13.3, log_snr_min: float = -5.0, units: int = 16, seed: int = 0) -> None:
        super().__init__()
        if not -math.inf < log_snr_min < log_snr_max < math.inf:
            raise ValueError(
                "log_snr must decrease between finite ends: log_snr_max must exceed log_snr_min, "
                f"got log_snr_max = {log_snr_max} and log_snr_min = {log_snr_min}"
            )
        check_count("units", units)
        check_seed(seed)
        self._built_with = {
            "log_snr_max": log_snr_max, "log_snr_min": log_snr_min, "units": units, "seed": seed
        }  # fmt: skip
        generator = torch.Generator().manual_seed(seed)
        raw = torch.randn(3, units, generator=generator, dtype=torch.float64)
        self.log_snr_max = nn.Parameter(torch.tensor(log_snr_max, dtype=torch.float64))
        self.log_span = nn.Parameter(torch.tensor(log_snr_max - log_snr_min, dtype=torch.float64).log())
        self.raw_weight = nn.Parameter(raw[0] - 2.0)
        self.raw_rate = nn.Parameter(raw[1] + 4.0)
        self.center = nn.Parameter(torch.linspace(0.0, 1.0, units, dtype=torch.float64) + 0.05 * raw[2])

    @property
    def ends(self) -> tuple[nn.Parameter, nn.Parameter]:
        """λ_max and log(λ_max − λ_min): what the bound depends on."""
        return self.log_snr_max, self.log_span

    @property
    def inside(self) -> tuple[nn.Parameter, nn.Parameter, nn.Parameter]:
        """What w, r and c are made of: where λ spends its time between the ends."""
        return self.raw_weight, self.raw_rate, self.center

    def _apply(self, fn: Any, recurse: bool = True) -> Learned:
        """Move with the module that holds this one, but stay float64: a schedule in half precision is no schedule."""
        super()._apply(lambda value: value.to(fn(value.new_empty(0)).device), recurse)
        return self

    def _units(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The w_j, the r_j and sigmoid(r_j (t − c_j)), on t's device: tables ask from the host, whatever holds the rest."""
        weight, rate, center = (p.to(t.device) for p in (self.raw_weight, self.raw_rate, self.center))
        weight, rate = F.softplus(weight), F.softplus(rate)
        return weight, rate, torch.sigmoid(rate * (t[..., None] - center))

    def _k(self, t: Tensor) -> Tensor:
        weight, _, units = self._units(t)
        return t + (weight * units).sum(-1)

    def _k_derivative(self, t: Tensor) -> Tensor:
        weight, rate, units = self._units(t)
        return 1 + (weight * rate * units * (1 - units)).sum(-1)

    def _ends(self, t: Tensor) -> tuple[Tensor, Tensor]:
        first, last = self._k(torch.arange(2, dtype=torch.float64, device=t.device)).unbind()
        return first, last - first

    def _log_snr(self, t: Tensor) -> Tensor:
        first, rise = self._ends(t)
        return self.log_snr_max.to(t.device) - self._span(t) * (self._k(t) - first) / rise

    def _log_snr_derivative(self, t: Tensor) -> Tensor:
        return -self._span(t) * self._k_derivative(t) / self._ends(t)[1]

    def _span(self, t: Tensor) -> Tensor:
        return self.log_span.to(t.device).exp()

    @torch.no_grad()
    def _time(self, log_snr: Tensor) -> Tensor:
        low, high = torch.zeros_like(log_snr), torch.ones_like(log_snr)
        first, rise = self._ends(log_snr)
        sought = first + rise * (self.log_snr_max.to(log_snr.device) - log_snr) / self._span(log_snr)
        for _ in range(_BISECTIONS):
            middle = 0.5 * (low + high)
            noisier = self._k(middle) > sought
            low, high = torch.where(noisier, low, middle), torch.where(noisier, middle, high)
        return 0.5 * (low + high)

    def _options(self) -> dict[str, Any]:
        return dict(self._built_with)

    def extra_repr(self) -> str:
        """The arguments that built it, which its parameters have left behind once it is trained."""
        return ", ".join(f"{name}={value!r}" for name, value in self._built_with.items())
