r"""One Brownian path, made of draws that can be answered.

A solver that draws over [σ', σ] and over a part of it wants one path: the standardised increment over an interval is the sum
of its pieces' own, each times the root of its share of the length.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

_SAME = 1e-9  # a σ that went through a logarithm and back


class Increments:
    """``noise(σ, σ')``: the path's increment over [σ', σ], walked down, in units of its deviation.

    Args:
        like: a state.
    """

    def __init__(self, like: Tensor) -> None:
        self.like = like
        self.pieces: list[tuple[float, float, Tensor]] = []

    def __call__(self, sigma: Any, sigma_next: Any) -> Tensor:
        """Draw what is new of it."""
        high, low = float(sigma), float(sigma_next)
        reached = self.pieces[-1][1] if self.pieces else high
        if low < reached * (1 - _SAME):
            self.pieces.append((min(high, reached), low, torch.randn_like(self.like)))
        total = torch.zeros_like(self.like)
        for top, bottom, unit in self.pieces:
            if bottom >= low * (1 - _SAME) and top <= high * (1 + _SAME):
                total = total + math.sqrt(top - bottom) * unit
        return total / math.sqrt(high - low)
