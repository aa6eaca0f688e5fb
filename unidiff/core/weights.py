r"""Importance weights kept as logarithms: their mean, and how many of n count.

    log (1/n) Σ w,        n_eff = (Σ w)²/Σ w², from 1 to n     (Kish 1965, section 11.7)

Neither overflows where a weight would.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def log_mean_exp(log_weights: Tensor, dim: int = -1) -> Tensor:
    """log (1/n) Σ w over an axis, in nats. Arguments are trusted."""
    return torch.logsumexp(log_weights, dim) - math.log(log_weights.shape[dim])


def effective_size(log_weights: Tensor, dim: int = -1) -> Tensor:
    """(Σ w)²/Σ w² over an axis, whatever all weights are multiplied by. Arguments are trusted."""
    return (2 * torch.logsumexp(log_weights, dim) - torch.logsumexp(2 * log_weights, dim)).exp()
