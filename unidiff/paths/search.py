r"""The best path of a few steps: measured costs, a shortest path, and whether the samples were enough to tell.

    core, data → c[i, j] → argmin over i_0 < … < i_K of Σ_m c[i_{m−1}, i_m] → the grid

for every K up to ``most`` at once (:mod:`unidiff.paths.dynamic`). What is cheapest by the samples may not be cheapest: the
difference to a rival has a standard error of the same samples, and a search that cannot tell its path from the best
hand-made grid says so, with the number of samples that would do.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from scipy.stats import t as student
from torch import Tensor

from unidiff.core.boundary import check_condition, check_count, check_finite, check_seed, check_state, check_type
from unidiff.core.diffusion import Diffusion
from unidiff.core.grid import TimeGrid
from unidiff.paths.cost import Cost, CustomCost, Draws, Prices
from unidiff.paths.deviation import Deviation
from unidiff.paths.dynamic import Paths
from unidiff.paths.elbo import ELBOCost
from unidiff.paths.girsanov import KLBound
from unidiff.paths.handmade import handmade
from unidiff.paths.pairs import MultistepDeviation
from unidiff.worlds.world import World

COSTS: dict[str, Callable[[], Cost]] = {
    "elbo": ELBOCost,
    "elbo-prior": lambda: ELBOCost("prior"),
    "elbo-optimal": lambda: ELBOCost("optimal"),
    "elbo-learned": lambda: ELBOCost("learned"),
    "ddim": Deviation,
    "euler": lambda: Deviation("euler"),
    "dpm++2m": MultistepDeviation,
    "kl-bound": KLBound,
}
"""Costs by name: of the bound under a variance rule, of a sampler's steps, of holding the network's answer still."""
SURE = 0.975
"""Of Student's law, at how many standard errors a difference counts as seen."""


class RankWarning(UserWarning):
    """Costs too uncertain to tell the path found from a rival."""


@dataclass(frozen=True)
class Ranking:
    """How a path stands against a rival.

    Attributes:
        rival: its name: of the one that would take most samples to tell, else of the cheapest.
        excess: what it costs above the path, in the cost's unit.
        standard_error: of the excess.
        needed: how many samples would make the excess count as seen (:data:`SURE`); 0 where they are enough.
    """

    rival: str
    excess: float
    standard_error: float
    needed: int


@dataclass(frozen=True, eq=False)
class Search:
    """What a search found, for every number of steps up to ``paths.most``.

    Attributes:
        core: the core searched.
        prices: the costs.
        paths: the cheapest paths of indices.
    """

    core: Diffusion
    prices: Prices
    paths: Paths

    @property
    def label(self) -> str:
        """How sure a shortest path is: "exact", or a beam of some width."""
        return self.paths.label

    @property
    def candidates(self) -> TimeGrid:
        """The times that were chosen from."""
        return self.prices.times

    def grid(self, steps: int) -> TimeGrid:
        """The grid of ``steps`` steps. Raises ValueError for a number that was not searched, or has no path."""
        return TimeGrid(self.candidates.times[self.paths.path(steps)])

    def cost(self, steps: int) -> tuple[float, float]:
        """The path's cost and standard error. It was chosen by these samples, and is a little too good for that."""
        return self.prices.total(self.paths.path(steps))

    def nearest(self, grid: TimeGrid) -> Tensor:
        """The path ``[K + 1]`` through the candidates nearest in λ to a grid's times, no two of them one.

        Raises:
            ValueError: more steps than there are candidates for.
        """
        levels = self.core.schedule.log_snr(self.candidates.times).detach()
        wanted = self.core.schedule.log_snr(grid.times).detach()
        steps, last = grid.steps, len(levels) - 1
        if steps > last:
            raise ValueError(f"grid must have at most {last} steps, as many as candidates, got {steps}")
        path = [0]
        for k in range(1, steps):
            # From the earliest that is left to the last that leaves room for those to come.
            low, high = path[-1] + 1, last - (steps - k)
            away = (levels[low : high + 1] - wanted[k]).abs()
            path.append(low + int(torch.nan_to_num(away, nan=0.0).argmin()))
        return torch.tensor([*path, last])

    def rank(self, steps: int, rivals: dict[str, TimeGrid] | None = None) -> Ranking:
        """The path against its rivals, each at its nearest candidates; what people made, if None are given."""
        best = self.paths.path(steps)
        rivals = handmade(self.core.schedule, steps, float(self.candidates.times[0])) if rivals is None else rivals
        there = {name: self.nearest(grid) for name, grid in rivals.items()}
        found = {name: self.prices.excess(path, best) for name, path in there.items()}
        groups = len(self.prices.parts)
        # Student's: an error of eight groups is itself a guess.
        sure = float(student.ppf(SURE, groups - 1)) if groups > 1 else math.inf

        def needed(name: str) -> int:
            excess, error = found[name]
            if not error > 0 or excess >= sure * error or torch.equal(there[name], best):
                return 0
            return math.ceil(self.prices.samples * (sure * error / max(excess, 1e-3 * error)) ** 2)

        least = min(found, key=lambda name: found[name][0])
        name = max([least, *found], key=needed)
        return Ranking(name, *found[name], needed(name))


def search(
    core: Diffusion,
    data: Tensor | World,
    most: int = 10,
    cost: str | Cost | Callable[[Tensor, Tensor], Tensor] = "elbo",
    *,
    candidates: TimeGrid | None = None,
    nodes: int = 128,
    samples: int = 256,
    condition: Tensor | None = None,
    guidance: float = 1.0,
    seed: int = 0,
) -> Search:
    """The cheapest paths of up to ``most`` steps.

    Args:
        core: whose path is searched; only its denoiser is asked, about once a candidate and sample.
        data: ``[n, *E]``, of which the first ``samples`` are taken; or a world, of which as many are drawn.
        most: K, the largest number of steps.
        cost: a name of :data:`COSTS`, a :class:`~unidiff.paths.Cost`, or a function ``(s [M], t [M]) -> [M]``.
        candidates: the times to choose from, the first and last among every path; the cost's own if left out.
        nodes: how many steps they make, if left out.
        samples: how many data (for a sampler's cost: walks) the costs are measured on.
        condition: a label for each datum ``[n]``, for a conditional core.
        guidance: classifier-free guidance weight.
        seed: of all draws.

    Raises:
        TypeError, ValueError: naming the argument; a cost that is not a number, or steps without a path.
    """
    check_type("core", core, Diffusion)
    check_count("most", most)
    check_seed(seed)
    priced = cost_of(cost)
    if candidates is None:
        candidates = priced.candidates(core, check_count("nodes", nodes))
    check_type("candidates", candidates, TimeGrid)
    if most > candidates.steps:
        raise ValueError(f"most must be at most the {candidates.steps} steps between candidates, got {most}")
    x0, condition = drawn(
        core,
        data,
        check_count("samples", samples, 1 if isinstance(priced, CustomCost) else 2),
        condition,
        guidance,
        seed,
    )
    prices = priced.measure(core, candidates, Draws(x0, condition, guidance, seed))
    return Search(core, prices, prices.shortest(most))


def search_path(
    core: Diffusion,
    data: Tensor | World,
    steps: int = 10,
    cost: str | Cost | Callable[[Tensor, Tensor], Tensor] = "elbo",
    **options: Any,
) -> TimeGrid:
    """The grid of ``steps`` steps that costs least; the options of :func:`search`.

    Warns:
        RankWarning: the samples do not tell it from the best hand-made grid.

    Raises:
        TypeError, ValueError: as :func:`search`.
    """
    found = search(core, data, check_count("steps", steps), cost, **options)
    ranking = found.rank(steps)
    if ranking.needed:
        warnings.warn(
            f"{found.prices.samples} samples do not tell the path from {ranking.rival}, which costs {ranking.excess:.3g} ± "
            f"{ranking.standard_error:.2g} {found.prices.unit} more: about {ranking.needed} would",
            RankWarning,
            stacklevel=2,
        )
    return found.grid(steps)


def cost_of(cost: Any) -> Cost:
    """A cost by name, itself, or around a function. Raises TypeError or ValueError for anything else."""
    if isinstance(cost, Cost):
        return cost
    if isinstance(cost, str):
        if cost not in COSTS:
            raise ValueError(f"cost must be one of {', '.join(COSTS)}, a Cost or a function of (s, t), got {cost!r}")
        return COSTS[cost]()
    if not callable(cost):
        raise TypeError(f"cost must be a name, a Cost or a function of (s, t), got {cost!r}")
    return CustomCost(cost)  # pyright: ignore[reportArgumentType] (what it gives is looked at when it is asked)


def drawn(
    core: Diffusion, data: Any, samples: int, condition: Tensor | None, guidance: float, seed: int
) -> tuple[Tensor, Tensor | None]:
    """The data that costs are measured on, where the core is, and their labels."""
    first = core.first_parameter()
    like = torch.empty(0, dtype=torch.float64) if first is None else first
    if isinstance(data, World):
        data = data.sample(samples, torch.Generator(data.device).manual_seed(seed)).to(like)
    check_state("data", data, core.event_shape)
    if len(data) < 2:
        raise ValueError(f"data must hold at least 2 data, to tell how well costs are known, got {len(data)}")
    check_finite("data", data.detach())
    labels = check_condition(condition, guidance, len(data), getattr(core.denoiser, "num_classes", None))
    x0 = data[:samples].detach().to(like) if first is not None else data[:samples].detach()
    return x0, None if labels is None else labels[:samples].to(x0.device)
