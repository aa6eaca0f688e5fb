r"""How a network is told the noise level: features of λ = log(α²/σ²).

    φ(λ) = (cos ω_k λ, sin ω_k λ)_{k<K},   ω_k geometric from π/60 to 2 per nat

(the sinusoids of Vaswani et al. 2017, §3.5, over log-SNR as in Kingma et al. 2021, appendix B). λ is clamped to ±30
by the denoiser, so the slowest pair is injective over the whole range, and the fastest resolves the width, about one
nat, over which a denoiser changes its mind. λ, not t: the same network then serves any schedule.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from unidiff.core.boundary import check_count

_SLOWEST, _FASTEST = math.pi / 60.0, 2.0


class NoiseFeatures(nn.Module):
    """φ: log-SNR ``[B]`` → ``[B, 2K]``.

    Args:
        frequencies: K.
    """

    frequency: Tensor

    def __init__(self, frequencies: int = 32) -> None:
        super().__init__()
        check_count("frequencies", frequencies, least=2)
        exponent = torch.linspace(math.log(_SLOWEST), math.log(_FASTEST), frequencies, dtype=torch.float64)
        self.register_buffer("frequency", exponent.exp().to(torch.get_default_dtype()), persistent=False)

    @property
    def width(self) -> int:
        """2K."""
        return 2 * self.frequency.numel()

    def forward(self, noise: Tensor) -> Tensor:
        """φ(noise), ``[B, 2K]``."""
        angle = noise[:, None] * self.frequency
        return torch.cat([angle.cos(), angle.sin()], dim=1)
