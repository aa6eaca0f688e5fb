"""Noise levels: where on the path from data to noise a state is.

x_t = α x_0 + σ ε, λ = log(α²/σ²) (Kingma et al. 2021, eq. 1–3). A level carries all four of (t, λ, α, σ), because
none of them can be had from another without losing digits somewhere: σ from α fails at high SNR, α from σ at low.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unidiff.core.boundary import send


@dataclass(frozen=True)
class NoiseLevel:
    """One noise level, or one for each member of a batch.

    Attributes:
        t: time in [0, 1], shape ``[]`` or ``[B]``.
        log_snr: λ = log(α²/σ²), natural log, same shape.
        alpha: the signal's scale α ≥ 0, same shape.
        sigma: the noise's standard deviation σ ≥ 0, same shape.
    """

    t: Tensor
    log_snr: Tensor
    alpha: Tensor
    sigma: Tensor

    def to(self, like: Tensor) -> NoiseLevel:
        """The level in the dtype and on the device of ``like``."""
        return NoiseLevel(*(send(v, like) for v in (self.t, self.log_snr, self.alpha, self.sigma)))

    def __getitem__(self, index: int | slice | Tensor) -> NoiseLevel:
        """The levels at ``index`` of a batch of levels."""
        return NoiseLevel(self.t[index], self.log_snr[index], self.alpha[index], self.sigma[index])

    def repeat(self, times: int) -> NoiseLevel:
        """The level for ``times`` stacked copies of the batch; one level for all is its own repeat."""
        if self.alpha.numel() == 1:
            return self
        return NoiseLevel(*(torch.cat([v] * times) for v in (self.t, self.log_snr, self.alpha, self.sigma)))
