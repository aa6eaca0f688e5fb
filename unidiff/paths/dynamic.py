r"""The cheapest path of every number of steps: min-plus dynamic programming, exact, or a beam where costs read the state.

    F_1[j] = c[0, j],   F_{k+1}[j] = min_{i < j} F_k[i] + c[i, j],   V_K = F_K[N]                 (Bellman 1957)

c[i, j] is the price of the step from t_j down to t_i, a path of K steps 0 = i_0 < … < i_K = N. All K ≤ K_max come of one
pass of K_max N²/2 additions (Watson et al. 2021, algorithm 1). Only values are kept on the way: a path asks again, in each
of its K places, for the least of N numbers. Of equal predecessors the lowest is taken, so that a search is a function of
its costs.

Where a step's price reads the state that the path has led to, no table says it. A beam keeps, for every number of steps and
every candidate, the few cheapest partial paths with their states; it is exact if it keeps all of them, or if no price reads
the state.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unidiff.core.boundary import check_count, check_floating

BLOCK = 64
"""Rows of the table at a time: what they add up to stays in a core's cache."""
ENUMERATED = 12
Step = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class Paths:
    """The cheapest paths.

    Attributes:
        values: V_1 … V_K, float64 on the host, ``[K]``; +inf where no path has as many steps.
        found: their indices, ``[k + 1]`` each, 0 first; empty where there is none.
        label: "exact", or "beam-B" of a beam of width B.
    """

    values: Tensor
    found: tuple[Tensor, ...]
    label: str

    @property
    def most(self) -> int:
        """K, the largest number of steps searched."""
        return len(self.found)

    def path(self, steps: int) -> Tensor:
        """The cheapest path of ``steps`` steps, ``[steps + 1]``, 0 first.

        Raises:
            ValueError: steps outside 1 … K, or of which there is no path of finite cost.
        """
        if check_count("steps", steps) > self.most:
            raise ValueError(f"steps must be at most the {self.most} that were searched, got {steps}")
        if not len(self.found[steps - 1]):
            raise ValueError(f"steps must be a number for which there is a path of finite cost, got {steps}")
        return self.found[steps - 1]


def shortest(cost: Tensor, most: int) -> Paths:
    """The cheapest paths of up to ``most`` steps.

    Args:
        cost: c ``[N + 1, N + 1]``, read where i < j; +inf forbids a step.
        most: K_max.

    Raises:
        TypeError: cost is no floating-point tensor.
        ValueError: cost is not square, of fewer than two candidates, or holds NaN or −inf where it is read; most is below 1
            or above N.
    """
    check_cost(cost, most)
    size = len(cost)
    read = torch.ones(size, size, dtype=torch.bool, device=cost.device).triu(1)
    into = cost.detach().to(torch.float64).masked_fill(~read, torch.inf).T.contiguous()
    layers = [into[:, 0].contiguous()]
    block = BLOCK if into.device.type == "cpu" else size
    room = into.new_empty(block * size)
    for _ in range(most - 1):
        before, after = layers[-1], into.new_empty(size)
        for first in range(0, size, block):
            last = min(first + block, size)
            summed = room[: (last - first) * last].view(last - first, last)
            torch.add(into[first:last, :last], before[:last], out=summed)
            torch.amin(summed, 1, out=after[first:last])
        layers.append(after)
    into, layers = into.cpu(), [layer.cpu() for layer in layers]
    values = torch.stack([layer[-1] for layer in layers])
    return Paths(values, tuple(_back(into, layers, k) for k in range(1, most + 1)), "exact")


def _back(into: Tensor, layers: Sequence[Tensor], steps: int) -> Tensor:
    """The path of ``steps`` steps that the values came by."""
    place = len(into) - 1
    if not bool(torch.isfinite(layers[steps - 1][place])):
        return torch.empty(0, dtype=torch.long)
    path = [place]
    for layer in reversed(layers[: steps - 1]):
        totals = into[place] + layer
        place = int((totals == totals.amin()).nonzero()[0])
        path.append(place)
    return torch.tensor([0, *reversed(path)])


def total(cost: Tensor, path: Tensor) -> Tensor:
    """What a path of indices ``[K + 1]`` costs by a table, ``[]``."""
    return cost[path[:-1], path[1:]].sum()


def brute_force(cost: Tensor, steps: int) -> tuple[float, Tensor]:
    """The cost and indices of the cheapest path of ``steps`` steps by trying them all.

    Raises:
        ValueError: as :func:`shortest`; more than 12 steps between candidates.
    """
    check_cost(cost, steps)
    last = len(cost) - 1
    if last > ENUMERATED:
        raise ValueError(f"cost must be of at most {ENUMERATED} steps between candidates, to try all paths, got {last}")
    rows = cost.tolist()
    inner = itertools.combinations(range(1, last), steps - 1)
    every = ((0, *between, last) for between in inner)
    value, path = min((sum(rows[i][j] for i, j in itertools.pairwise(path)), path) for path in every)
    return value, torch.tensor(path)


def check_cost(cost: Tensor, most: int) -> None:
    """Refuse what is no table of costs, and a number of steps that it has no path for."""
    check_floating("cost", cost)
    if cost.ndim != 2 or cost.shape[0] != cost.shape[1] or len(cost) < 2:
        raise ValueError(f"cost must be square, of at least two candidates, got shape {list(cost.shape)}")
    read = cost.detach().triu(1)
    bad = torch.isnan(read) | torch.isneginf(read)
    if bool(bad.any()):
        i, j = bad.nonzero()[0].tolist()
        raise ValueError(f"cost must be a number or +inf, got {read[i, j].item()} of the step from {j} to {i}")
    if check_count("most", most) > len(cost) - 1:
        raise ValueError(f"most must be at most the {len(cost) - 1} steps between candidates, got {most}")


def beam(start: Tensor, step: Step, last: int, most: int, width: int) -> Paths:
    """The cheapest paths that a beam finds, from ``last`` down to 0, where a step's price reads the state it leaves.

    Args:
        start: the state at candidate ``last``, ``[*S]``.
        step: ``(states [M, *S], j [M], i [M]) -> (costs [M], states [M, *S])``: M steps from candidates j to i < j, at once.
        last: N.
        most: K_max.
        width: partial paths kept for each number of steps and each candidate.

    Raises:
        ValueError: a count below 1, most above N, or costs that are NaN or −inf.
    """
    if check_count("most", most) > check_count("last", last):
        raise ValueError(f"most must be at most the {last} steps between candidates, got {most}")
    check_count("width", width)
    kept: dict[int, _Kept] = {last: _Kept(torch.zeros(1, dtype=torch.float64), start[None], torch.tensor([[last]]))}
    values, found = [], []
    for _ in range(most):
        kept = _extended(kept, step, width)
        ended = kept.pop(0, None)
        if ended is None or not bool(torch.isfinite(ended.costs[0])):
            values.append(torch.tensor(torch.inf, dtype=torch.float64))
            found.append(torch.empty(0, dtype=torch.long))
        else:
            values.append(ended.costs[0])
            found.append(ended.paths[0].flip(0))
    return Paths(torch.stack(values), tuple(found), f"beam-{width}")


@dataclass(frozen=True, eq=False)
class _Kept:
    """Partial paths that end at one candidate, the cheapest first."""

    costs: Tensor
    states: Tensor
    paths: Tensor


def _extended(kept: dict[int, _Kept], step: Step, width: int) -> dict[int, _Kept]:
    """Every partial path one step longer, the cheapest at each candidate."""
    reached: dict[int, _Kept] = {}
    for to in range(max(kept, default=0)):
        above = [own for at, own in kept.items() if at > to]
        if not above:
            continue
        states, paths = (torch.cat([getattr(own, name) for own in above]) for name in ("states", "paths"))
        so_far = torch.cat([own.costs for own in above])
        prices, moved = step(states, paths[:, -1], torch.full_like(paths[:, -1], to))
        prices = prices.detach().to("cpu", torch.float64)
        if bool((torch.isnan(prices) | torch.isneginf(prices)).any()):
            raise ValueError(f"cost must be a number or +inf, got {prices.tolist()[:4]} … of steps to {to}")
        costs = so_far + prices
        best = costs.sort(stable=True).indices[:width]
        ends = torch.cat([paths[best], torch.full((len(best), 1), to)], 1)
        reached[to] = _Kept(costs[best], moved[best.to(moved.device)], ends)
    return reached
