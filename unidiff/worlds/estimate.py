r"""Entropies, each with how well it is known.

−E log p of a Gaussian is ½ Σ log(2πe v). That of a mixture has no closed form: in one and two dimensions

    H = −Σ_k w_k ∫ φ(u) log p(m_k + Q_k √e_k u) du

by the trapezoid rule in each component's own standard coordinates u, which converges exponentially for an analytic
integrand (Trefethen & Weideman 2014, theorem 5.1) and is halved until it stands still; else by Monte Carlo.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

# φ(9) is below 1e-18: beyond it even log p's quadratic growth adds nothing in float64.
_REACH = 9.0
_FINEST = {1: 1 / 512, 2: 1 / 32}


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


def normal_expectation(integrand: Callable[[Tensor], Tensor], dim: int, step: float = 0.25) -> Estimate:
    """E f(u), u ~ N(0, I) in 1 or 2 dimensions, by a trapezoid rule halved until it stands still.

    Args:
        integrand: ``[n, dim] -> [n]`` in float64.
        dim: 1 or 2.
        step: the first spacing of the nodes.
    """
    previous = _trapezoid(integrand, dim, step)
    while True:
        step /= 2
        value = _trapezoid(integrand, dim, step)
        change = (value - previous).abs()
        if step <= _FINEST[dim] or change <= 1e-14 * (1 + value.abs()):
            return Estimate(value, change, "quadrature")
        previous = value


def _trapezoid(integrand: Callable[[Tensor], Tensor], dim: int, step: float) -> Tensor:
    count = round(_REACH / step)
    axis = step * torch.arange(-count, count + 1, dtype=torch.float64)
    nodes = torch.cartesian_prod(*[axis] * dim).reshape(-1, dim)
    weights = torch.exp(-0.5 * nodes.square().sum(1)) * (step / math.sqrt(2 * math.pi)) ** dim
    return (weights * integrand(nodes)).sum()
