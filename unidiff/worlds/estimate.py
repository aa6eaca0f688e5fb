"""Numbers, each with how well it is known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """A number and how well it is known.

    Attributes:
        value: the estimate, ``[]`` (or ``[B]`` for a batch of laws).
        standard_error: its standard deviation (Monte Carlo), its change at the last refinement (quadrature) or 0 (exact).
        law: which of the three it is.
    """

    value: Tensor
    standard_error: Tensor
    law: Literal["exact", "quadrature", "monte_carlo"]

    @staticmethod
    def exact(value: Tensor) -> Estimate:
        """A value in closed form."""
        return Estimate(value, torch.zeros_like(value), "exact")

    def cpu(self) -> Estimate:
        """The same, on the CPU."""
        return Estimate(self.value.cpu(), self.standard_error.cpu(), self.law)


def monte_carlo(values: Tensor) -> Estimate:
    """The mean of independent draws ``[n]``, n ≥ 2, and its standard error."""
    wide = values.to(torch.float64)
    return Estimate(wide.mean(), wide.std() / math.sqrt(wide.numel()), "monte_carlo")
