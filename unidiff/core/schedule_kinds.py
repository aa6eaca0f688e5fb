r"""The kinds of schedule: each is λ(t), λ'(t) and the inverse t(λ), and no more.

Both ends of λ are where digits are lost, so each kind is written in the distance to the nearer end: t near 0, 1 − t
near 1 (exact in floating point by Sterbenz' lemma), never as a logarithm of something close to one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from unidiff.core.boundary import as_sequence, check_positive
from unidiff.core.schedule import Schedule
from unidiff.core.schedule_learned import Learned

__all__ = [
    "STANDARD",
    "Cosine",
    "FromBetas",
    "Karras",
    "Learned",
    "Linear",
    "Polynomial",
    "Sigmoid",
    "VarianceExploding",
    "VariancePreserving",
]


class _Options:
    """A frozen dataclass describes itself: its fields are its constructor's arguments."""

    def _options(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if not name.startswith("_")}  # pyright: ignore


@dataclass(frozen=True)
class Linear(_Options, Schedule):
    """B(t) = ∫β = β_min t + ½(β_max − β_min) t², α² = e^{−B}, so λ = −log expm1(B)."""

    beta_min: float = 0.1
    beta_max: float = 20.0
    kind = "linear"

    def __post_init__(self) -> None:
        check_positive("beta_min", self.beta_min)
        check_positive("beta_max", self.beta_max)
        if self.beta_max < self.beta_min:
            raise ValueError(f"beta_max must be at least beta_min = {self.beta_min}, got {self.beta_max}")

    def _integral(self, t: Tensor) -> Tensor:
        return t * (self.beta_min + 0.5 * (self.beta_max - self.beta_min) * t)

    def _log_snr(self, t: Tensor) -> Tensor:
        return -_log_expm1(self._integral(t))

    def _log_snr_derivative(self, t: Tensor) -> Tensor:
        return self._rate(t) / torch.expm1(-self._integral(t))

    def _rate(self, t: Tensor) -> Tensor:
        return self.beta_min + (self.beta_max - self.beta_min) * t

    def _time(self, log_snr: Tensor) -> Tensor:
        total = -F.logsigmoid(log_snr)  # not softplus, which is the identity above 20
        slope = self.beta_max - self.beta_min
        return 2 * total / (self.beta_min + (self.beta_min**2 + 2 * slope * total).sqrt())


class _Cut(Schedule):
    """A parent λ(u) on u ∈ [0, 1] cut to [λ_min, λ_max]: u = u_0 + (1 − u_0 − w_0) t, w = 1 − u its distance to 1.

    A kind gives λ from (u, w), dλ/du, and both u and w of a λ, so that neither end is a difference of near numbers.
    """

    log_snr_max: float
    log_snr_min: float

    def _check_range(self) -> None:
        if not self.log_snr_min < self.log_snr_max:
            raise ValueError(
                "log_snr must decrease: log_snr_max must exceed log_snr_min, "
                f"got log_snr_max = {self.log_snr_max} and log_snr_min = {self.log_snr_min}"
            )
        # A cut so far out that its u or w underflows would be no cut, or one elsewhere.
        ends = self._log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
        for name, end, asked in zip(("log_snr_max", "log_snr_min"), ends, self._cuts(), strict=True):
            if math.isfinite(asked) and not abs(end - asked) <= 1e-6 * max(1.0, abs(asked)):
                raise ValueError(
                    f"{name} must be within float64's reach (about ±1400), or infinite for no cut, "
                    f"got {asked}, which comes out as {end:.6g}"
                )

    def _cuts(self) -> tuple[float, float]:
        return self.log_snr_max, self.log_snr_min

    def _parent(self, u: Tensor, w: Tensor) -> Tensor:
        raise NotImplementedError

    def _parent_derivative(self, u: Tensor, w: Tensor) -> Tensor:
        raise NotImplementedError

    def _parent_inverse(self, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def _ends(self) -> tuple[float, float]:
        first = torch.tensor(self.log_snr_max, dtype=torch.float64)
        last = torch.tensor(self.log_snr_min, dtype=torch.float64)
        return float(self._parent_inverse(first)[0]), float(self._parent_inverse(last)[1])

    def _position(self, t: Tensor) -> tuple[Tensor, Tensor, float]:
        u0, w0 = self._ends()
        span = 1 - u0 - w0
        return u0 + span * t, w0 + span * (1 - t), span

    def _log_snr(self, t: Tensor) -> Tensor:
        u, w, _ = self._position(t)
        return self._parent(u, w)

    def _log_snr_derivative(self, t: Tensor) -> Tensor:
        u, w, span = self._position(t)
        return span * self._parent_derivative(u, w)

    def _time(self, log_snr: Tensor) -> Tensor:
        u0, w0 = self._ends()
        u, w = self._parent_inverse(log_snr)
        span = 1 - u0 - w0
        return torch.where(u <= w, (u - u0) / span, 1 - (w - w0) / span)


@dataclass(frozen=True)
class Cosine(_Options, _Cut):
    """α = cos(πu/2), σ = sin(πu/2): λ = −2 log tan(πu/2) = 2 log tan(πw/2), dλ/du = −2π/sin(πu)."""

    log_snr_max: float = 15.0
    log_snr_min: float = -15.0
    kind = "cosine"

    def __post_init__(self) -> None:
        self._check_range()

    def _parent(self, u: Tensor, w: Tensor) -> Tensor:
        early = u <= w
        log_tan = (0.5 * math.pi * torch.where(early, u, w)).tan().log()
        return torch.where(early, -2 * log_tan, 2 * log_tan)

    def _parent_derivative(self, u: Tensor, w: Tensor) -> Tensor:
        return -2 * math.pi / (math.pi * torch.minimum(u, w)).sin()

    def _rate(self, t: Tensor) -> Tensor:
        u, w, span = self._position(t)
        early = u <= w
        tan = (0.5 * math.pi * torch.where(early, u, w)).tan()
        return math.pi * span * torch.where(early, tan, 1 / tan)

    def _parent_inverse(self, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        return (2 / math.pi) * (-0.5 * log_snr).exp().atan(), (2 / math.pi) * (0.5 * log_snr).exp().atan()


@dataclass(frozen=True)
class Sigmoid(_Options, _Cut):
    """α² = (sigmoid(e) − sigmoid(x))/(sigmoid(e) − sigmoid(a)), x = a + L u, L = e − a (Jabri et al. 2023, alg. 1).

    The difference of sigmoids is sinh(½(e − x))/(2 cosh ½e cosh ½x), so cosh ½x leaves the ratio:
    λ = log sinh(½Lw) − log sinh(½Lu) + k, k = log(cosh ½a / cosh ½e), and tanh(½Lu) = sinh ½L/(e^{λ−k} + cosh ½L).
    """

    start: float = -3.0
    end: float = 3.0
    tau: float = 1.0
    log_snr_max: float = 15.0
    log_snr_min: float = -15.0
    kind = "sigmoid"

    def __post_init__(self) -> None:
        check_positive("tau", self.tau)
        if not -math.inf < self.start < self.end < math.inf:
            raise ValueError(f"end must exceed start, both finite, got start = {self.start} and end = {self.end}")
        # cosh(½·1400) is the last that a float64 holds.
        reach = max(abs(self.start), abs(self.end), self.end - self.start) / self.tau
        if reach > 1400:
            raise ValueError(f"start/tau, end/tau and their distance must be at most 1400, got {reach:.4g}")
        self._check_range()

    @property
    def _length(self) -> float:
        return (self.end - self.start) / self.tau

    @property
    def _constant(self) -> float:
        return math.log(math.cosh(0.5 * self.start / self.tau) / math.cosh(0.5 * self.end / self.tau))

    def _parent(self, u: Tensor, w: Tensor) -> Tensor:
        half = 0.5 * self._length
        return (half * w).sinh().log() - (half * u).sinh().log() + self._constant

    def _parent_derivative(self, u: Tensor, w: Tensor) -> Tensor:
        half = 0.5 * self._length
        return -half * (1 / (half * w).tanh() + 1 / (half * u).tanh())

    def _parent_inverse(self, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        half = 0.5 * self._length
        ratio = (log_snr - self._constant).exp()
        u = (math.sinh(half) / (ratio + math.cosh(half))).atanh() / half
        w = (math.sinh(half) / (1 / ratio + math.cosh(half))).atanh() / half
        return u, w


@dataclass(frozen=True)
class Polynomial(_Options, Schedule):
    """λ(t) = λ_max − (λ_max − λ_min) t^p."""

    power: float = 1.0
    log_snr_max: float = 13.3
    log_snr_min: float = -5.0
    kind = "polynomial"

    def __post_init__(self) -> None:
        check_positive("power", self.power)
        if not -math.inf < self.log_snr_min < self.log_snr_max < math.inf:
            raise ValueError(
                "log_snr must decrease between finite ends: log_snr_max must exceed log_snr_min, "
                f"got log_snr_max = {self.log_snr_max} and log_snr_min = {self.log_snr_min}"
            )

    def _log_snr(self, t: Tensor) -> Tensor:
        return self.log_snr_max - (self.log_snr_max - self.log_snr_min) * t**self.power

    def _log_snr_derivative(self, t: Tensor) -> Tensor:
        return -(self.log_snr_max - self.log_snr_min) * self.power * t ** (self.power - 1)

    def _time(self, log_snr: Tensor) -> Tensor:
        return ((self.log_snr_max - log_snr) / (self.log_snr_max - self.log_snr_min)) ** (1 / self.power)


@dataclass(frozen=True)
class Karras(_Options, Schedule):
    """σ(t) = (σ_min^{1/ρ} + t(σ_max^{1/ρ} − σ_min^{1/ρ}))^ρ, α = 1: λ = −2ρ log σ^{1/ρ}."""

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    kind = "karras"
    variance_preserving = False

    def __post_init__(self) -> None:
        for name in ("sigma_min", "sigma_max", "rho"):
            check_positive(name, getattr(self, name))
        if not self.sigma_min < self.sigma_max:
            raise ValueError(f"sigma_max must exceed sigma_min = {self.sigma_min}, got {self.sigma_max}")

    def _ends(self) -> tuple[float, float]:
        return self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)

    def _log_snr(self, t: Tensor) -> Tensor:
        first, last = self._ends()
        return -2 * self.rho * (first + t * (last - first)).log()

    def _log_snr_derivative(self, t: Tensor) -> Tensor:
        first, last = self._ends()
        return -2 * self.rho * (last - first) / (first + t * (last - first))

    def _time(self, log_snr: Tensor) -> Tensor:
        first, last = self._ends()
        return ((-log_snr / (2 * self.rho)).exp() - first) / (last - first)


@dataclass(frozen=True, eq=False)
class FromBetas(Schedule):
    """B_i = −Σ_{j≤i} log(1 − β_j) at t = i/T, linear between: λ = −log expm1(B). At a knot λ' is the left slope."""

    betas: Sequence[float] | Tensor
    _knots: Tensor = field(init=False, repr=False)
    kind = "from_betas"

    def __post_init__(self) -> None:
        betas = as_sequence("betas", self.betas)
        if betas.numel() == 0:
            raise ValueError("betas must hold at least one value, got none")
        outside = ~((betas > 0) & (betas < 1))
        if outside.any():
            index = int(outside.nonzero()[0])
            raise ValueError(f"betas must lie in (0, 1), got {betas[index].item()} at index {index}")
        knots = F.pad(-torch.log1p(-betas).cumsum(0), (1, 0))
        still = knots.diff() <= 0
        if still.any():
            index = int(still.nonzero()[0])
            raise ValueError(
                f"betas must move the log-SNR, got {betas[index].item()} at index {index}, lost to rounding"
            )
        object.__setattr__(self, "betas", betas)
        object.__setattr__(self, "_knots", knots)

    @property
    def steps(self) -> int:
        """T, the number of betas."""
        return self._knots.numel() - 1

    def _segment(self, position: Tensor) -> Tensor:
        return (position.ceil() - 1).clamp(0, self.steps - 1).long()

    def _integral(self, t: Tensor) -> tuple[Tensor, Tensor]:
        knots = self._knots.to(t.device)
        position = t * self.steps
        # i/T·T may miss i by a rounding; a knot must be met exactly.
        whole = position.round()
        off = (whole - position).detach()
        position = position + off * (off.abs() <= 4 * torch.finfo(position.dtype).eps * whole)
        left = self._segment(position)
        slope = knots[left + 1] - knots[left]
        # From the nearer knot, so that each knot is met exactly and the slope stays in the graph.
        ahead = position - left
        inside = torch.where(ahead > 0.5, knots[left + 1] - (1 - ahead) * slope, knots[left] + ahead * slope)
        return inside, slope * self.steps

    def _log_snr(self, t: Tensor) -> Tensor:
        return -_log_expm1(self._integral(t)[0])

    def _log_snr_derivative(self, t: Tensor) -> Tensor:
        total, slope = self._integral(t)
        return slope / torch.expm1(-total)

    def _rate(self, t: Tensor) -> Tensor:
        return self._integral(t)[1]

    def _time(self, log_snr: Tensor) -> Tensor:
        knots = self._knots.to(log_snr.device)
        total = -F.logsigmoid(log_snr)
        left = (torch.searchsorted(knots, total.contiguous()) - 1).clamp(0, self.steps - 1)
        return (left + (total - knots[left]) / (knots[left + 1] - knots[left])) / self.steps

    def _options(self) -> dict[str, Any]:
        return {"betas": torch.as_tensor(self.betas).tolist()}

    def __repr__(self) -> str:
        betas = self._options()["betas"]
        return f"FromBetas({betas if len(betas) <= 16 else f'{len(betas)} betas from {betas[0]:g} to {betas[-1]:g}'})"


class _Rescaled(Schedule):
    """Another schedule's λ(t) in the other convention."""

    def __init__(self, parent: Schedule) -> None:
        self.parent = parent

    def _log_snr(self, t: Tensor) -> Tensor:
        return self.parent._log_snr(t)

    def _log_snr_derivative(self, t: Tensor) -> Tensor:
        return self.parent._log_snr_derivative(t)

    def _rate(self, t: Tensor) -> Tensor:
        return self.parent._rate(t)

    def _time(self, log_snr: Tensor) -> Tensor:
        return self.parent._time(log_snr)

    def _options(self) -> dict[str, Any]:
        return {"parent": self.parent.config()}

    @classmethod
    def _from_options(cls, options: dict[str, Any]) -> Schedule:
        return cls(Schedule.from_config(options["parent"]))

    def __repr__(self) -> str:
        return f"{self.parent!r}.{'as_vp' if self.variance_preserving else 'as_ve'}()"


class VarianceExploding(_Rescaled):
    """α = 1, σ = e^{−λ/2}."""

    kind = "variance_exploding"
    variance_preserving = False


class VariancePreserving(_Rescaled):
    """α² = sigmoid(λ), σ² = sigmoid(−λ)."""

    kind = "variance_preserving"


def _log_expm1(x: Tensor) -> Tensor:
    """log(e^x − 1) = x + log(1 − e^{−x}), without overflow at large x."""
    return x + torch.log(-torch.expm1(-x))


def _ddpm() -> Schedule:
    """Ho et al. 2020, §4: T = 1000, β from 1e-4 to 0.02."""
    return FromBetas(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))


STANDARD: dict[str, Callable[[], Schedule]] = {
    "linear": Linear,
    "cosine": Cosine,
    "sigmoid": Sigmoid,
    "polynomial": Polynomial,
    "karras": Karras,
    "ddpm": _ddpm,
    "learned": Learned,
}
