r"""What a step's place in the run decides: the learning rate, and the decay of the average of the parameters.

    lr_n = lr · min(1, (n + 1)/warmup) · ½(1 + cos π·progress)        (Loshchilov & Hutter 2017, eq. 5)
    d_n  = min(d, (1 + n)/(10 + n))

The ramp of d_n is that of TensorFlow's ``ExponentialMovingAverage(decay, num_updates)``. A constant d leaves the first
parameters the weight dⁿ: 0.86 after 300 steps of d = 0.9995. On the ramp step i weighs in proportion to about i⁸, so
the average spans the last tenth of the run, however short: the power function of Karras et al. 2024 ("Analyzing and
improving the training dynamics of diffusion models", section 3.1) with their γ = 8.
"""

from __future__ import annotations

import math
from typing import Protocol

from unidiff.train.config import Decay


class Paced(Protocol):
    """What a run's options say of its rate."""

    @property
    def lr(self) -> float:
        """The peak."""
        ...

    @property
    def warmup(self) -> int:
        """Steps of rising."""
        ...

    @property
    def decay(self) -> Decay:
        """How it falls."""
        ...


def rate(config: Paced, step: int, progress: float) -> float:
    """The learning rate of the step after ``step`` steps, with ``progress`` in [0, 1] of the budget spent."""
    warm = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    fall = 0.5 * (1.0 + math.cos(math.pi * progress)) if config.decay == "cosine" else 1.0
    return config.lr * warm * fall


def ema_decay(decay: float, updates: int) -> float:
    """d_n after n ``updates``, for d = ``decay``."""
    return min(decay, (1 + updates) / (10 + updates))
