r"""The last step of a chain, from x_{t_0} to data: p(x_0|x_{t_0}), a likelihood and not a clamped variance.

    continuous     N(x; m, s²), a density
    discretised    N(m, s²) over the cell of each level v_j, the outermost ones reaching to ±∞   (Ho et al. 2020, eq. 13)
    categorical    ∝ N(x_{t_0}; α v_j, σ²) over the levels: Bayes under equal odds               (Kingma et al. 2021, eq. 11)

with m = x̂_0(x_{t_0}) or x_{t_0}/α, and s = σ/α at t_0 unless given. A cell's probability is taken in the tail where it
does not cancel: with a < b the edges in units of s, of Φ(b) − Φ(a) and Φ(−a) − Φ(−b), equal, the one with negative
arguments, as log Φ(b) + log(1 − e^{log Φ(a) − log Φ(b)}) by ``log_ndtr``. (A tanh in the place of Φ, as in OpenAI's
improved-diffusion, is off by 7 nats at 8 s.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor

from unidiff.core.boundary import check_count, check_name, check_positive, check_real, right_expand
from unidiff.core.gaussian import Gaussian
from unidiff.core.level import NoiseLevel

Mean = Literal["denoiser", "state"]
MEANS: tuple[Mean, ...] = get_args(Mean)
# How far from a level, in units of their distance, a datum may lie: float32's rounding of 2·255/255 − 1, many times over.
_OFF = 1e-3


@runtime_checkable
class Decoder(Protocol):
    """A law of data given the ladder's last state."""

    @property
    def asks(self) -> bool:
        """Whether it needs the denoiser's x̂_0."""
        ...

    @property
    def discrete(self) -> bool:
        """Whether it gives probabilities of levels, not densities."""
        ...

    def check(self, x0: Tensor) -> None:
        """Refuse data that it gives no likelihood."""
        ...

    def log_prob(self, x0: Tensor, xt: Tensor, level: NoiseLevel, guess: Tensor | None) -> Tensor:
        """log p(x_0|x_t) in nats, ``[B]``; ``guess`` is x̂_0 where it ``asks``."""
        ...

    def sample(
        self, xt: Tensor, level: NoiseLevel, guess: Tensor | None, generator: torch.Generator | None = None
    ) -> Tensor:
        """A draw of x_0 given x_t, ``[B, *E]``."""
        ...


@dataclass(frozen=True)
class ContinuousDecoder:
    """N(m, s²): a density of data that are numbers.

    Attributes:
        mean: "denoiser" for m = x̂_0(x_{t_0}), "state" for x_{t_0}/α.
        std: s, in the units of x; None is σ/α at t_0.
    """

    mean: Mean = "denoiser"
    std: float | None = None
    discrete = False

    def __post_init__(self) -> None:
        _check_normal(self.mean, self.std)

    @property
    def asks(self) -> bool:
        """Whether m is the denoiser's."""
        return self.mean == "denoiser"

    def check(self, x0: Tensor) -> None:
        """Any number has a density."""

    def log_prob(self, x0: Tensor, xt: Tensor, level: NoiseLevel, guess: Tensor | None) -> Tensor:
        """log p(x_0|x_t), a density, ``[B]``."""
        return _normal(self.std, xt, level, guess if self.asks else None).log_prob(x0)

    def sample(
        self, xt: Tensor, level: NoiseLevel, guess: Tensor | None, generator: torch.Generator | None = None
    ) -> Tensor:
        """A draw, ``[B, *E]``."""
        return _normal(self.std, xt, level, guess if self.asks else None).sample(generator, check=False)


@dataclass(frozen=True)
class Levels:
    """Data's possible values: ``count`` of them, evenly from ``low`` to ``high``; uint8 in [−1, 1] as it stands.

    Raises:
        TypeError: low or high is no number.
        ValueError: fewer than two, or low not below high, or not finite.
    """

    count: int = 256
    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        check_count("levels", self.count, least=2)
        for name, value in (("low", self.low), ("high", self.high)):
            check_real(name, value)
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"low must be below high, both finite, got {self.low} and {self.high}")

    @property
    def width(self) -> float:
        """The distance between neighbours."""
        return (self.high - self.low) / (self.count - 1)

    def values(self, like: Tensor) -> Tensor:
        """v_0 … v_{n−1}, in ``like``'s dtype."""
        return torch.linspace(self.low, self.high, self.count, dtype=torch.float64).to(like)

    def index(self, x0: Tensor) -> Tensor:
        """Which level each number is.

        Raises:
            ValueError: numbers outside [low, high], or between levels (read on the CPU and on a GPU alike: once a call).
        """
        place = (x0.to(torch.float64) - self.low) / self.width
        index = place.round()
        told = f"{self.count} levels from {self.low:g} to {self.high:g}"
        if not bool(((index >= 0) & (index < self.count)).all()):
            raise ValueError(f"x0 must lie within the decoder's range, {told}, got {_span(x0)}")
        off = (place - index).abs()
        if bool((off > _OFF).any()):
            worst = float(x0.flatten()[off.flatten().argmax()])
            raise ValueError(f"x0 must be on the decoder's levels, {told}, got {worst:.6g} between two of them")
        return index.long()


@dataclass(frozen=True)
class DiscretisedDecoder:
    """N(m, s²) summed over the cell of each level: a probability.

    Attributes:
        levels: the values that data take.
        mean: "denoiser" for m = x̂_0(x_{t_0}), "state" for x_{t_0}/α.
        std: s, in the units of x; None is σ/α at t_0.
    """

    levels: Levels = Levels()
    mean: Mean = "denoiser"
    std: float | None = None
    discrete = True

    def __post_init__(self) -> None:
        check_levels(self.levels)
        _check_normal(self.mean, self.std)

    @property
    def asks(self) -> bool:
        """Whether m is the denoiser's."""
        return self.mean == "denoiser"

    def check(self, x0: Tensor) -> None:
        """Refuse data off the levels."""
        self.levels.index(x0)

    def log_prob(self, x0: Tensor, xt: Tensor, level: NoiseLevel, guess: Tensor | None) -> Tensor:
        """log of the cell's probability, ``[B]``; x_0 is trusted to be on the levels."""
        law = _normal(self.std, xt, level, guess if self.asks else None)
        half, at = 0.5 * self.levels.width, (x0 - law.mean) / law.std
        reach = half / law.std
        below, above = at - reach, at + reach
        below = torch.where(x0 <= self.levels.low + half, -math.inf, below)
        above = torch.where(x0 >= self.levels.high - half, math.inf, above)
        return _log_between(below, above).flatten(1).sum(1)

    def sample(
        self, xt: Tensor, level: NoiseLevel, guess: Tensor | None, generator: torch.Generator | None = None
    ) -> Tensor:
        """A draw, on the levels, ``[B, *E]``."""
        x = _normal(self.std, xt, level, guess if self.asks else None).sample(generator, check=False)
        place = ((x - self.levels.low) / self.levels.width).round().clamp(0, self.levels.count - 1)
        return self.levels.values(x)[place.long()]


@dataclass(frozen=True)
class CategoricalDecoder:
    """Bayes' law over the levels from x_{t_0} alone, were all of them as likely: a probability. Takes n numbers a datum's.

    Attributes:
        levels: the values that data take.
    """

    levels: Levels = Levels()
    asks = False
    discrete = True

    def __post_init__(self) -> None:
        check_levels(self.levels)

    def check(self, x0: Tensor) -> None:
        """Refuse data off the levels."""
        self.levels.index(x0)

    def log_prob(self, x0: Tensor, xt: Tensor, level: NoiseLevel, guess: Tensor | None) -> Tensor:
        """log of the level's probability, ``[B]``."""
        log_p = torch.log_softmax(self._logits(xt, level), -1)
        return log_p.gather(-1, self.levels.index(x0)[..., None])[..., 0].flatten(1).sum(1)

    def sample(
        self, xt: Tensor, level: NoiseLevel, guess: Tensor | None, generator: torch.Generator | None = None
    ) -> Tensor:
        """A draw, on the levels, ``[B, *E]``."""
        chances = torch.softmax(self._logits(xt, level), -1)
        drawn = torch.multinomial(chances.flatten(0, -2), 1, generator=generator)
        return self.levels.values(xt)[drawn].reshape(xt.shape)

    def _logits(self, xt: Tensor, level: NoiseLevel) -> Tensor:
        scale = right_expand((0.5 * level.log_snr).exp(), xt)
        place = xt / right_expand(level.alpha, xt)
        return -0.5 * (scale[..., None] * (place[..., None] - self.levels.values(xt))).square()


def check_levels(levels: Levels) -> Levels:
    """``levels`` if it is some. Raises TypeError for anything else, a number of them too."""
    if not isinstance(levels, Levels):
        raise TypeError(f"levels must be Levels(count, low, high), got {levels!r}")
    return levels


def _check_normal(mean: str, std: float | None) -> None:
    check_name("mean", mean, MEANS)
    if std is not None:
        check_positive("std", std)


def _normal(std: float | None, xt: Tensor, level: NoiseLevel, guess: Tensor | None) -> Gaussian:
    mean = xt / right_expand(level.alpha, xt) if guess is None else guess
    log_var = -level.log_snr if std is None else torch.full_like(level.log_snr, 2 * math.log(std))
    return Gaussian(mean, right_expand(log_var, xt))


def _log_between(below: Tensor, above: Tensor) -> Tensor:
    """log[Φ(above) − Φ(below)], in the tail where both are negative as far as may be."""
    flip = below + above > 0
    low, high = torch.where(flip, -above, below), torch.where(flip, -below, above)
    upper = torch.special.log_ndtr(high)
    gap = torch.special.log_ndtr(low) - upper
    return upper + torch.log(-torch.expm1(gap))


def _span(x0: Tensor) -> str:
    return f"values in [{float(x0.min()):.6g}, {float(x0.max()):.6g}]"
