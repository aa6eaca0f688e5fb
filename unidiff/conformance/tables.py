r"""A library's schedule beside the formula that its name stands for: ᾱ of the T timesteps, or the list of σ.

cosine    ᾱ(t) = cos²(π/2 (t + 0.008)/1.008)/ᾱ(0), β ≤ 0.999           Nichol and Dhariwal 2021, eq. 17
laplace   λ(t) = −½ sgn(½ − t) log(1 − 2|½ − t|), ᾱ = sigmoid(λ)         Hang et al. 2024, table 1 (µ = 0, b = ½)
karras    σ_i = (σ_max^{1/ρ} + i/(n − 1) (σ_min^{1/ρ} − σ_max^{1/ρ}))^ρ   Karras et al. 2022, eq. 5
azula's   α and σ as its docstrings have them, σ² without the subtraction from 1
vp        σ(t)² = e^{½ β_d t² + β_min t} − 1                              Song et al. 2021 (SDE), eq. 33
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from unidiff.conformance.target import Claims, Denoise, Target, Walk

COUNT = 1000
LEAST = 1e-6
"""What keeps the Laplace schedule's logarithm finite at t = 0 and 1, there and here."""
SILENT = Claims(point=False, dtype=torch.float32)
WIDE = Claims(point=False)


class Table(Target):
    """A table of a library's, and what its name says that it should hold.

    Args:
        name: whose it is.
        configuration: which.
        got: the library's, ``[n]``.
        expected: the formula's, ``[n]`` in float64.
        condition: κ, ``[n]``.
        claims: the dtype that it is judged in.
    """

    def __init__(
        self, name: str, configuration: str, got: Tensor, expected: Tensor, condition: Tensor, claims: Claims = SILENT
    ) -> None:
        self.name, self.configuration, self.claims = name, configuration, claims
        self.got, self.expected, self.condition = got.double(), expected, condition

    def walk(self, denoise: Denoise, x: Callable[[float, float], Tensor], steps: int) -> Walk:
        """Refused: a table does not walk."""
        raise TypeError(f"{self.name} must be asked for its table, it does not walk")


def alpha_bar_table(name: str, kind: str, got: Tensor) -> Table:
    """ᾱ of T timesteps; its 1 − β were rounded one by one, and their product has as many roundings.

    Args:
        name: whose.
        kind: linear, scaled_linear, cosine or laplace.
        got: the library's ᾱ ``[T]``.
    """
    count = len(got)
    if kind in ("linear", "scaled_linear"):
        power = 1 if kind == "linear" else 2
        betas = torch.linspace(1e-4 ** (1 / power), 0.02 ** (1 / power), count, dtype=torch.float64) ** power
    else:
        t = torch.arange(count + 1, dtype=torch.float64) / count
        bar = (torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2) if kind == "cosine" else torch.sigmoid(_laplace(t))
        betas = (1 - bar[1:] / bar[:-1]).clamp(max=0.999)
    expected = torch.cumprod(1 - betas, 0)
    # The last β of a cosine is 0.999, and 1 − β then has three digits less.
    lost = (1 / (1 - betas)).cumsum(0)
    return Table(name, kind, got, expected, expected * lost)


def _laplace(t: Tensor) -> Tensor:
    side = torch.where(t <= 0.5, 1.0, -1.0)
    return -0.5 * side * (1 - 2 * (0.5 - t).abs() + LEAST).log()


def karras_table(name: str, got: Tensor, low: float, high: float) -> Table:
    """Karras et al.'s σ, ρ = 7; a seventh power has seven roundings."""
    ramp = torch.linspace(0, 1, len(got), dtype=torch.float64)
    expected = (high ** (1 / 7) + ramp * (low ** (1 / 7) - high ** (1 / 7))) ** 7
    terms = high ** (1 / 7) / expected ** (1 / 7)
    return Table(name, "karras", got, expected, 7 * expected * terms)


def exponential_table(name: str, got: Tensor, low: float, high: float) -> Table:
    """σ even in log σ."""
    expected = torch.linspace(math.log(high), math.log(low), len(got), dtype=torch.float64).exp()
    return Table(name, "exponential", got, expected, expected * (1 + abs(math.log(high)) + abs(math.log(low))))


def vp_table(name: str, got: Tensor) -> Table:
    """The variance preserving SDE's σ/α with β_d = 19.9, β_min = 0.1, from t = 1 to 1e-3."""
    t = torch.linspace(1, 1e-3, len(got), dtype=torch.float64)
    grown = 19.9 * t**2 / 2 + 0.1 * t
    expected = torch.expm1(grown).sqrt()
    return Table(name, "vp", got, expected, expected * (1 + grown) * (1 + 1 / torch.expm1(grown)))


def azula_table(kind: str, schedule: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Table:
    """σ/α of one of azula's schedules at 101 even times, with its default ends of 1e-3 (1e3 for VE), in float64.

    Args:
        kind: its class's name.
        schedule: it.
    """
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    alpha, sigma = schedule(t)
    least = 1e-3
    if kind == "VESchedule":
        expected = (math.log(1e-3) + t * math.log(1e6)).exp()
    elif kind in ("VPSchedule", "CosineSchedule"):
        angle = t * math.acos(least)
        kept = (t**2 * math.log(least)).exp() if kind == "VPSchedule" else torch.cos(angle)
        lost = -torch.expm1(2 * t**2 * math.log(least)) if kind == "VPSchedule" else torch.sin(angle) ** 2
        expected = (lost + least**2).sqrt() / kept
    else:
        tau = t if kind == "RectifiedSchedule" else -torch.expm1(t * math.log(0.1)) / 0.9
        expected = (least + tau * (1 - least)) / (1 - tau * (1 - least))
    # α and σ have a rounding of 1 each.
    return Table(f"azula.{kind}", "", sigma / alpha, expected, expected * (2 + 1 / sigma**2 + 1 / alpha), WIDE)
