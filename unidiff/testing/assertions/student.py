r"""How far the studentised mean of true draws strays, draw by draw: the limit of the Monte Carlo law at finite n.

A mean over its estimated standard error has Student's tail where the draws are normal, and a heavier one where they are
skewed: P(T < −L) ≈ Φ(−L) exp(γ L³ / (3√n)) with γ their skewness (Jing, Shao & Wang 2003, for self-normalised sums). The
limit is the smallest L ≥ z, z of Student's law with n − 1 degrees, with

    L²/2 − |γ| L³ / (3√n) = z²/2,

and there is one from n = 3 z² γ². The skewness is estimated: what is said is an approximation, measured in the tests.
"""

from __future__ import annotations

import math

import torch
from scipy.stats import t as student
from torch import Tensor


def student_limit(alarm: float, n: int) -> float:
    """The |T| of n normal draws of mean zero that is exceeded with probability ``alarm`` (two tails)."""
    return float(student.isf(0.5 * alarm, n - 1))


def skewness(draws: Tensor) -> Tensor:
    """γ of each column of ``[n, K]``, ``[K]``; 0 of draws that are all alike."""
    centred = draws - draws.mean(0)
    cubed = centred.square().mean(0) ** 1.5
    return torch.where(cubed > 0, centred.pow(3).mean(0) / cubed, torch.zeros_like(cubed))


def skewed_limit(z: float, skew: Tensor, n: int) -> Tensor:
    """L of each γ, infinite where there is none: so few draws that are so skewed have no known tail."""
    # In w = z/L: w − w³ = c, whose largest root is the smallest L.
    c = 2 * skew.abs() * z / (3 * math.sqrt(n))
    most = 2 / math.sqrt(27)
    w = 2 / math.sqrt(3) * ((-c / most).clamp(min=-1).acos() / 3).cos()
    return torch.where(c <= most, z / w, torch.inf)


def least_draws(z: float, skew: float) -> int:
    """From how many draws of that skewness there is a limit."""
    return math.ceil(3 * (z * skew) ** 2)
