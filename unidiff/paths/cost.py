r"""What a step costs, between any two of many candidate times, and how well that is known.

A cost is additive: a path i_0 < i_1 < … < i_K through the candidates costs Σ_m c[i_{m−1}, i_m], where c[i, j] is that of
the step from t_j down to t_i. What is measured from samples is measured in groups of them, each with a table of its own, so
that the difference of two paths has a standard error of its own, in which what they share cancels.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unidiff.core.boundary import check_type
from unidiff.core.diffusion import Diffusion
from unidiff.core.grid import TimeGrid
from unidiff.core.level import NoiseLevel
from unidiff.core.times import finite_span
from unidiff.paths.dynamic import Paths, shortest

GROUPS = 8
"""Of the samples, at most."""
_APART = 0x5EED_0F_9A7B5
"""Between a seed and its noise: data may have been drawn from the seed itself, and must not be their own noise."""
ROWS = 2048
"""States that the network is asked at once."""


@dataclass(frozen=True, eq=False)
class Draws:
    """What costs are measured with: data, and all that the network is told beside the state.

    Attributes:
        x0: data ``[n, *E]``, trusted.
        condition: labels ``[n]``, or None.
        guidance: classifier-free guidance weight.
        seed: of the noise: one seed is one set of draws, whatever times they are taken at.
    """

    x0: Tensor
    condition: Tensor | None = None
    guidance: float = 1.0
    seed: int = 0

    @property
    def groups(self) -> int:
        """G."""
        return min(GROUPS, len(self.x0))

    def generator(self) -> torch.Generator:
        """A source of noise at its beginning, on the data's device."""
        return torch.Generator(self.x0.device).manual_seed((self.seed + _APART) % 2**63)

    def noise(self, generator: torch.Generator) -> Tensor:
        """ε ``[n, *E]``."""
        x0 = self.x0
        return torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)

    def asked(self, core: Diffusion, xt: Tensor, level: NoiseLevel) -> Tensor:
        """x̂_0 at ``xt`` ``[n, *E]`` and one level, as many rows at once as :data:`ROWS`."""
        labels = [None] * -(-len(xt) // ROWS) if self.condition is None else list(self.condition.split(ROWS))
        told, there = zip(xt.split(ROWS), labels, strict=True), level.to(xt)
        return torch.cat([core.denoiser(part, there, own, self.guidance).x0 for part, own in told])

    def grouped(self, values: Tensor) -> Tensor:
        """Means over each group of ``values`` ``[n, …]``, float64 on the host, ``[G, …]``."""
        return torch.stack([part.to(torch.float64).mean(0).cpu() for part in values.tensor_split(self.groups)])

    @property
    def weights(self) -> Tensor:
        """Each group's share of the samples, ``[G]``."""
        counts = [len(part) for part in self.x0.tensor_split(self.groups)]
        return torch.tensor(counts, dtype=torch.float64) / len(self.x0)


@dataclass(frozen=True, eq=False)
class Prices(ABC):
    """What every path through candidate times costs.

    Attributes:
        times: the candidates t_0 … t_N.
        parts: tables of groups of samples, float64 on the host, ``[G, N + 1, …]``; G = 1 is exact, or all that was measured.
        weights: each group's share of the samples, ``[G]``.
        samples: how many; 0 of a cost without samples.
        name: the cost's.
        unit: what it is measured in.

    Raises:
        ValueError: a cost that is NaN or negatively infinite, or weights of another shape.
    """

    times: TimeGrid
    parts: Tensor
    weights: Tensor
    samples: int
    name: str
    unit: str

    def __post_init__(self) -> None:
        if self.weights.shape != self.parts.shape[:1]:
            raise ValueError(f"weights must have shape [G], one a table, got {list(self.weights.shape)}")
        bad = torch.isnan(self.parts) | torch.isneginf(self.parts)
        if bool(bad.any()):
            _, i, j, *_ = bad.nonzero()[0].tolist()
            s, t = self.times.times[i].item(), self.times.times[j].item()
            raise ValueError(
                f"cost {self.name!r} must be a number or +inf, got {self.parts[bad][0].item()} of the step from t = {t:g} "
                f"to s = {s:g}"
            )

    @property
    def mean(self) -> Tensor:
        """The estimate: the table without its groups."""
        return torch.tensordot(self.weights, self.parts, 1)

    @abstractmethod
    def along(self, path: Tensor) -> Tensor:
        """Each group's total over a path of indices ``[K + 1]``, ``[G]``."""

    @abstractmethod
    def shortest(self, most: int) -> Paths:
        """The cheapest path of each number of steps up to ``most``."""

    def total(self, path: Tensor) -> tuple[float, float]:
        """A path's cost and its standard error over the samples; NaN of one group of many samples, 0 of an exact cost."""
        return self._estimate(self.along(path))

    def excess(self, path: Tensor, best: Tensor) -> tuple[float, float]:
        """What ``path`` costs above ``best``, and the standard error of the difference: both are of the same samples."""
        return self._estimate(self.along(path) - self.along(best))

    def _estimate(self, totals: Tensor) -> tuple[float, float]:
        mean = float((self.weights * totals).sum())
        if not self.samples:
            return mean, 0.0
        if len(totals) == 1:
            return mean, math.nan
        spread = (self.weights * (totals - mean).square()).sum() / (len(totals) - 1)
        return mean, float(spread.sqrt())


class CostTable(Prices):
    """c[i, j] of every step: ``parts`` is ``[G, N + 1, N + 1]``, read where i < j and 0 elsewhere.

    Raises:
        ValueError: as :class:`Prices`; parts of another shape, or an entry on or below the diagonal that is not 0.
    """

    def __post_init__(self) -> None:
        n = len(self.times)
        if self.parts.ndim != 3 or self.parts.shape[1:] != (n, n):
            raise ValueError(f"parts must have shape [G, {n}, {n}], got {list(self.parts.shape)}")
        super().__post_init__()
        if bool((self.parts.tril() != 0).any()):
            raise ValueError(f"cost {self.name!r} must be triangular: 0 where a step would not go down in time")

    def along(self, path: Tensor) -> Tensor:
        """Each group's total over a path of indices ``[K + 1]``, ``[G]``."""
        return self.parts[:, path[:-1], path[1:]].sum(-1)

    def shortest(self, most: int) -> Paths:
        """The cheapest path of each number of steps up to ``most``: exact."""
        return shortest(self.mean, most)


class Cost(ABC):
    """A way to price steps."""

    name: ClassVar[str]
    unit: ClassVar[str]

    @abstractmethod
    def measure(self, core: Diffusion, times: TimeGrid, draws: Draws) -> Prices:
        """The table of the steps between ``times``. Raises ValueError for times or a core that it has no price for."""

    def candidates(self, core: Diffusion, nodes: int) -> TimeGrid:
        """Times to choose from: ``nodes`` steps even in log-SNR, with some noise at the first."""
        return TimeGrid.uniform_log_snr(nodes, core.schedule, finite_span(core.schedule)[0])

    def table(self, times: TimeGrid, pairs: tuple[Tensor, Tensor], found: Tensor, draws: Draws) -> CostTable:
        """``found`` ``[G, M]`` in the places of the pairs (i, j), each ``[M]``."""
        n = len(times)
        parts = torch.zeros(len(found), n, n, dtype=torch.float64)
        parts[:, pairs[0], pairs[1]] = found.detach().to("cpu", torch.float64)
        return CostTable(times, parts, draws.weights, len(draws.x0), self.name, self.unit)


@dataclass(frozen=True)
class CustomCost(Cost):
    """A user's function of the step's two times.

    Attributes:
        function: ``(s [M], t [M]) -> [M]``, float64, s < t.
    """

    name: ClassVar[str] = "custom"
    unit: ClassVar[str] = "units of its own"

    function: Callable[[Tensor, Tensor], Tensor]

    def measure(self, core: Diffusion, times: TimeGrid, draws: Draws) -> CostTable:
        """The table, exact. Raises TypeError or ValueError for an answer that is not ``[M]`` numbers."""
        n = len(times)
        i, j = pairs_of(n)
        found = self.function(times.times[i], times.times[j])
        check_type("what cost returns", found, Tensor)
        if found.shape != i.shape:
            raise ValueError(f"cost must give one number a step, [{len(i)}], got shape {list(found.shape)}")
        parts = torch.zeros(1, n, n, dtype=torch.float64)
        parts[0, i, j] = found.detach().to("cpu", torch.float64)
        return CostTable(times, parts, torch.ones(1, dtype=torch.float64), 0, self.name, self.unit)


def pairs_of(count: int) -> tuple[Tensor, Tensor]:
    """Indices (i, j), i < j < count, each ``[M]``."""
    i, j = torch.triu_indices(count, count, offset=1)
    return i, j


def downwards(count: int) -> Iterator[int]:
    """j = count − 1 … 1: where a step may start."""
    return iter(range(count - 1, 0, -1))
