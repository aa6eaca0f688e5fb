r"""Means over examples with their intervals, and nats as bits per dimension.

A log-density of x = c·y + d in nats is −(log p(x)/D + log c)/log 2 bits for each of the D numbers of the raw y.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.stats import t as student
from torch import Tensor

from unidiff.core.boundary import check_count, check_finite, check_positive


@dataclass(frozen=True)
class Interval:
    """A mean over examples and its 95% confidence interval (Student's t).

    Attributes:
        mean, low, high: in the unit of what was averaged.
        standard_error: of the mean, same unit.
    """

    mean: float
    low: float
    high: float
    standard_error: float

    @staticmethod
    def of(values: Tensor) -> Interval:
        """The interval of independent values ``[n]``. Raises ValueError for fewer than two, or any that is not finite."""
        if values.ndim != 1:
            raise ValueError(f"values must have shape [n], got {list(values.shape)}")
        check_finite("values", values.detach())
        n = check_count("number of examples", values.shape[0], least=2)
        wide = values.detach().to("cpu", torch.float64)
        mean, error = float(wide.mean()), float(wide.std()) / math.sqrt(n)
        reach = float(student.ppf(0.975, n - 1)) * error
        return Interval(mean, mean - reach, mean + reach, error)


def bits_per_dim(log_prob: Tensor, dim: int, scale: float = 1.0) -> Tensor:
    """−log2 p per dimension, in ``log_prob``'s shape.

    Args:
        log_prob: in nats.
        dim: D, the numbers in a datum.
        scale: the width in x of one unit of the raw data (``Dataset.scale``), for a density; 1 for a probability.

    Raises:
        ValueError: a scale that is not positive.
    """
    check_positive("scale", scale)
    return -(log_prob / dim + math.log(scale)) / math.log(2.0)
