r"""Importance weights kept as logarithms: their mean, and how many of n count.

    log (1/n) Σ w,        n_eff = (Σ w)²/Σ w², from 1 to n     (Kish 1965, section 11.7)

Neither overflows where a weight would. Where weights fall as P(w > u) ~ u^{−1/ξ}, their variance is finite for ξ < ½ alone;
with an infinite one the n_eff that is seen says nothing. Of the m largest of n (Hill 1975, eq. 3.1),

    ξ = (1/m) Σ_{i ≤ m} log w_(i) − log w_(m+1),        m = min(n/5, 3√n)     (Vehtari et al. 2024, section 3)
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


def tail_index(log_weights: Tensor) -> Tensor:
    """ξ of ``[n]`` weights, ``[]``, whatever all are multiplied by; 0 for fewer than five. Arguments are trusted."""
    n = log_weights.shape[0]
    most = int(min(n / 5, 3 * math.sqrt(n)))
    if not most:
        return log_weights.new_zeros(())
    largest = log_weights.topk(most + 1).values
    return (largest[:-1] - largest[-1]).mean()
