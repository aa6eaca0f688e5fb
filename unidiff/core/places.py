"""Where an annealed run goes: log-SNRs, evenly spaced (σ/α geometric, Song & Ermon 2020, technique 2)."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from unidiff.core.schedule import Schedule

# ρ = σ/α from 20, beyond any data of unit scale, to 0.01, the last of Song & Ermon 2019.
LOG_SNR = (-6.0, 9.2)


def places(schedule: Schedule, levels: int, log_snr: tuple[float, float] | None) -> Tensor:
    """``levels`` log-SNRs from the noisiest on, float64; None takes :data:`LOG_SNR`, cut to the schedule's range.

    Raises:
        ValueError: ends that are no pair of finite numbers, or do not rise.
    """
    ends = schedule.log_snr(torch.tensor([1.0, 0.0], dtype=torch.float64)).detach()
    if log_snr is None:
        low, high = max(LOG_SNR[0], float(ends[0])), min(LOG_SNR[1], float(ends[1]))
    else:
        low, high = check_ends(log_snr)
    if not low < high:
        raise ValueError(f"log_snr must rise from the first level to the last, got {low:g} to {high:g}")
    return torch.linspace(low, high, levels, dtype=torch.float64)


def check_ends(log_snr: Any) -> tuple[float, float]:
    """``log_snr`` if it is a pair of finite numbers."""
    pair = tuple(log_snr) if isinstance(log_snr, (tuple, list)) else ()
    if len(pair) != 2 or not all(isinstance(v, Real) and math.isfinite(v) for v in pair):
        raise ValueError(
            f"log_snr must be a pair of numbers, both finite, of the first and the last level, got {log_snr!r}"
        )
    return pair
