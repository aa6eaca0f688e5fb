r"""A sampler of somebody else's, as it is seen from outside: it walks, asks a denoiser, and says where it should be.

An adapter knows one library's conventions and nothing of the theory; what is checked knows the theory and nothing of the
library. Between them are three tables: the levels at which the sampler's own documents say its states are, the states,
and the levels that the network was told.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

Denoise = Callable[[Tensor, float, float], Tensor]
"""x̂_0 of states ``[B, *E]`` that are α x_0 + σ ε: ``denoise(x, alpha, sigma)``."""


@dataclass(frozen=True)
class Walk:
    """One walk down.

    Attributes:
        alpha, sigma: where the states are said to be, ``[K + 1]`` in float64, the start first.
        states: ``[K + 1, B, *E]``.
        told: log-SNRs that the network was told and those at which its state is said to be, ``[C, 2]``, where the
            library has both; else None.
        room: half a timestep in λ at each of those, ``[C]``, where timesteps are whole.
    """

    alpha: Tensor
    sigma: Tensor
    states: Tensor
    told: Tensor | None = None
    room: Tensor | None = None

    @property
    def log_snr(self) -> Tensor:
        """λ ``[K + 1]``; infinite where σ = 0."""
        return 2 * (self.alpha.log() - self.sigma.log())


Variance = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""The variance of a step, of (α_t, σ_t, α_s, σ_s)."""


@dataclass(frozen=True)
class Convention:
    """A departure from the papers that a library states, and what it then is: all else is a violation as ever.

    Attributes:
        words: how it is stated.
        variance: what a step's variance is instead.
        rounded: whether the network may be told the nearest timestep: within :attr:`Walk.room`.
    """

    words: str
    variance: Variance | None = None
    rounded: bool = False


@dataclass(frozen=True)
class Claims:
    """What a sampler's documents and papers say of it.

    Attributes:
        order: of its global error; of the flow's end if it draws nothing, of its law's mean and variance if it draws. None:
            it makes no such claim.
        point: whether its law is exactly q(x_s|x_0) at every level where the data are one point. None: nothing is said,
            and if it is not, nothing is decided.
        variance: of a step that asks once and draws once; None: not such a step, or no claim.
        dtype: in which it computes, whatever it is given.
        condition: what its tables lose, as a factor of the rounding: 1/(1 − ᾱ) where it subtracts.
        conventions: questions in which it departs from the papers and says so, in its documents or its code, and how.
        levels: whether its states between the ends are seen at all.
        steps: the numbers of steps from which its order is fitted; none, and it is undecided.
        smallest: those in which all else is asked, from the smallest: the first that shows a violation is told.
    """

    order: float | None = None
    point: bool | None = True
    variance: Variance | None = None
    dtype: torch.dtype = torch.float64
    condition: float = 1.0
    conventions: dict[str, Convention] = field(default_factory=dict)
    levels: bool = True
    steps: tuple[int, ...] = (64, 128, 256)
    smallest: tuple[int, ...] = (2, 3, 5, 10)


class Target(ABC):
    """One sampler in one configuration.

    Attributes:
        name: ``library.Class``.
        configuration: a few words.
        claims: what it says of itself.
    """

    name: str
    configuration: str
    claims: Claims

    @abstractmethod
    def walk(self, denoise: Denoise, x: Callable[[float, float], Tensor], steps: int) -> Walk:
        """Walk from ``x(alpha, sigma)`` of the first level, in ``steps`` steps or nearly."""
