r"""The cheapest path of K steps through a candidate grid, for every K at once.

Of candidate times t_0 < … < t_N a path of K steps takes the indices 0 = i_0 < i_1 < … < i_K = N. It costs
Σ_m c[i_{m−1}, i_m], where c[i, j] is the cost of the step from t_j down to t_i. The least cost F_k[j] of k steps between
0 and j obeys

    F_0[j] = 0 if j = 0 else ∞,        F_{k+1}[j] = min_{i<j} F_k[i] + c[i, j],        V_K = F_K[N]

(Bellman 1957; for diffusion grids Watson et al. 2021, *Learning to efficiently sample from diffusion probabilistic models*,
algorithm 1). Every i is less than j, so one pass over the nodes gives all K: O(K N²) sums, and O(K N) numbers beside c.

Where a cost depends on how the step was reached there is no such law. :func:`beam` walks from N down and keeps the ``width``
cheapest beginnings of every (number of steps, node): exact for additive costs and for a width that loses none, else a bound
from above. Of paths of equal cost both take the one whose last-but-one index is lowest, then the one before, and so on.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from unidiff.core.boundary import check_count, check_floating, check_type

Step = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]

_MOST_BRUTE = 12
# Of 2^15 numbers on, torch splits a sum between the CPU's threads; to wait for them at every node costs more than it saves,
# and on a machine that has other work a hundred times as much.
_SERIAL = 2**15 - 1


@dataclass(frozen=True, eq=False)
class Paths:
    """The cheapest path of each number of steps that a search has found.

    Attributes:
        values: V_1 … V_K of K = ``most``, ``[K]``, float64; infinite where no path has so many steps.
        nodes: row k − 1 holds the k + 1 indices of the path of k steps, then −1; all −1 where there is none. ``[K, K + 1]``.
        label: ``"exact"``, or ``"beam-W"`` for what a beam of width W has found.
    """

    values: Tensor
    nodes: Tensor
    label: str

    @property
    def most(self) -> int:
        """The largest number of steps that was asked for."""
        return self.values.numel()

    def path(self, steps: int) -> Tensor:
        """The increasing indices from 0 to N of the path of ``steps`` steps, ``[steps + 1]``, int64.

        Raises:
            ValueError: ``steps`` is not an integer in 1 … ``most``, or no path has so many.
        """
        if check_count("steps", steps) > self.most:
            raise ValueError(f"steps must be at most {self.most}, the most that was searched for, got {steps}")
        if torch.isinf(self.values[steps - 1]):
            raise _no_path(steps)
        return self.nodes[steps - 1, : steps + 1]


def shortest(cost: Tensor, most: int) -> Paths:
    """The cheapest path of each of 1 … ``most`` steps, exactly.

    Nothing is differentiated: the values carry no gradient.

    Args:
        cost: c[i, j] of the step from j down to i < j, ``[N + 1, N + 1]``, of any floating-point dtype and on any device;
            +∞ forbids a step. The diagonal and what is below it are no steps, and each must be 0 or +∞ there.
        most: K, 1 … N.

    Returns:
        Values and indices on the device of ``cost``; equal inputs give equal outputs, ties included.

    Raises:
        TypeError: ``cost`` is no floating-point tensor.
        ValueError: ``cost`` is not square or has no step, holds NaN, −∞ or a number below its triangle, or is so large that
            a sum of ``most`` overflows; ``most`` is out of range.
    """
    c = _triangular(cost, most)
    size = len(c)
    into = torch.where(c.new_ones(size, size, dtype=torch.bool).triu(1), c, math.inf).mT.contiguous()
    least = c.new_full((most + 1, size), math.inf)
    least[0, 0] = 0.0
    before, after = least[:-1], least[1:]
    for j in range(1, size):
        # What leads to j has been settled for every k: one pass over c, where a product a step would make ``most``.
        rows = _rows(c, most, j)
        for known, new in zip(before.split(rows), after.split(rows), strict=True):
            torch.amin(known[:, :j] + into[j, :j], 1, out=new[:, j])
    values = after[:, -1].clone()
    nodes = _traced(least, into).masked_fill_(torch.isinf(values)[:, None], -1)
    return Paths(values, nodes, "exact")


def _traced(least: Tensor, into: Tensor) -> Tensor:
    """The path of every number of steps, from N back; where there is none its row means nothing.

    The predecessors are found again, O(N) a step, since an index table would cost each sum its argmin.
    """
    most, last = len(least) - 1, len(into) - 1
    nodes = torch.full((most, most + 1), -1, device=into.device)
    nodes.diagonal(1).fill_(last)
    rows = _rows(into, most, len(into))
    for low in range(0, most, rows):
        high = min(low + rows, most)
        at = torch.full((high - low,), last, device=into.device)
        for back in range(high):
            # The paths of more than ``back`` steps are still on their way; of equal minima argmin takes the first.
            first = max(low, back)
            at = (least[first - back : high - back] + into.index_select(0, at[first - high :])).argmin(1)
            nodes[first:high, first - back :].diagonal().copy_(at)
    return nodes


def _rows(cost: Tensor, most: int, columns: int) -> int:
    """How many of ``most`` rows of so many columns to take at a time."""
    return most if cost.is_cuda else max(1, _SERIAL // columns)


def total(cost: Tensor, path: Tensor) -> Tensor:
    """Σ_m c[i_{m−1}, i_m], from 0 upwards as :func:`shortest` adds; a number, float64, on the device of ``cost``.

    Args:
        cost: as :func:`shortest` takes it.
        path: increasing indices from 0 to N, ``[K + 1]``, int64.

    Raises:
        TypeError: ``cost`` is no floating-point tensor, ``path`` no tensor.
        ValueError: as :func:`shortest` for the cost; a path that is not one.
    """
    check_type("path", path, Tensor)
    steps = path.numel() - 1
    if path.dtype != torch.int64 or path.ndim != 1 or steps < 1:
        raise ValueError(f"path must be int64 indices [K + 1], K ≥ 1, got {path.dtype} of shape {list(path.shape)}")
    indices = path.tolist()
    last = len(cost) - 1 if isinstance(cost, Tensor) and cost.ndim else 0
    if indices[0] != 0 or indices[-1] != last or any(i >= j for i, j in itertools.pairwise(indices)):
        raise ValueError(f"path must increase strictly from 0 to N = {last}, got {indices}")
    c = _triangular(cost, steps)
    return c.new_tensor(_summed(c[path[:-1], path[1:]].tolist()))


def brute_force(cost: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """The cheapest path of ``steps`` steps by looking at each one; what :func:`shortest` is tested against.

    Args:
        cost: as :func:`shortest` takes it, N at most 12.
        steps: 1 … N.

    Returns:
        Its value, a number, float64, and its indices ``[steps + 1]``, both on the device of ``cost``.

    Raises:
        TypeError: ``cost`` is no floating-point tensor.
        ValueError: as :func:`shortest`; N above 12; no path has so many steps.
    """
    c = _triangular(cost, steps, "steps")
    last = len(c) - 1
    if last > _MOST_BRUTE:
        raise ValueError(f"cost must have N ≤ {_MOST_BRUTE} for brute force, got N = {last}; use shortest")
    table = c.tolist()

    def judged(inner: tuple[int, ...]) -> tuple[float, tuple[int, ...]]:
        path = (0, *inner, last)
        return _summed([table[i][j] for i, j in itertools.pairwise(path)]), path[::-1]

    value, backwards = min(map(judged, itertools.combinations(range(1, last), steps - 1)))
    if math.isinf(value):
        raise _no_path(steps)
    return c.new_tensor(value), torch.tensor(backwards[::-1], device=c.device)


def beam(nodes: int, most: int, start: Tensor, step: Step, width: int, chunk: int = 65536) -> Paths:
    """Cheap paths of 1 … ``most`` steps where the cost of a step depends on a state that the steps before it have left.

    A path begins at N, as sampling does, with the state ``start``. Beginnings are worked out side by side; states are held
    for those kept and for ``chunk`` steps, costs (float64) for all of ``width`` N²/2 steps.

    Args:
        nodes: N + 1, the number of candidate times.
        most: K, 1 … N.
        start: the state at N, ``[*S]``, on the device where all is done.
        step: ``(states [M, *S], j [M], i [M]) -> (costs [M], states [M, *S])`` of the steps from j down to i < j, each row
            for itself; a function of its arguments, since states that are kept are asked for again. +∞ forbids a step.
        width: how many beginnings of each (number of steps, node) are kept.
        chunk: the most rows M of one call.

    Returns:
        For each number of steps the cheapest of the paths that were kept until they ended at 0.

    Raises:
        TypeError: ``start`` is no tensor, ``step`` not callable, or what it returns no pair of tensors.
        ValueError: a number that is out of range; a step that costs NaN or −∞, or returns other shapes.
    """
    if check_count("most", most) > check_count("nodes", nodes, 2) - 1:
        raise ValueError(f"most must be at most N = nodes - 1 = {nodes - 1}, got {most}")
    check_count("width", width)
    check_count("chunk", chunk)
    check_type("start", start, Tensor)
    if not callable(step):
        raise TypeError(f"step must be callable, step(states, j, i), got {type(step).__name__}")
    target = torch.arange(nodes - 1, device=start.device)
    values = torch.full((most,), math.inf, dtype=torch.float64, device=start.device)
    paths = target.new_full((most, most + 1), -1)
    # Beginnings in lexicographic order of their nodes, so that a stable sort settles ties by the rule above.
    at, spent, states = target.new_full((1,), nodes - 1), values.new_zeros(1), start[None]
    trails = at[:, None]
    for k in range(1, most + 1):
        ahead = target if k < most else target[:1]
        row, i = (ahead < at[:, None]).nonzero().unbind(1)
        costs = values.new_full((len(at), len(ahead)), math.inf)
        costs[row, i] = spent[row] + _costs(step, states, at, row, i, chunk)
        ranked, order = costs.sort(dim=0, stable=True)
        if torch.isfinite(ranked[0, 0]):
            values[k - 1] = ranked[0, 0]
            paths[k - 1, : k + 1] = torch.cat([target[:1], trails[order[0, 0]].flip(0)])
        kept = torch.isfinite(ranked[:width])
        kept[:, 0] = False
        slot, i = kept.nonzero().unbind(1)
        row = order[slot, i]
        lexicographic = (row * nodes + i).argsort()
        row, i = row[lexicographic], i[lexicographic]
        if k == most or not len(row):
            break
        spent, trails = costs[row, i], torch.cat([trails[row], i[:, None]], 1)
        states = torch.cat([_asked(step, states, at, r, to)[1] for r, to in _chunks(row, i, chunk)])
        at = i
    return Paths(values, paths, f"beam-{width}")


def _chunks(row: Tensor, i: Tensor, chunk: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(row.split(chunk), i.split(chunk), strict=True))


def _costs(step: Step, states: Tensor, at: Tensor, row: Tensor, i: Tensor, chunk: int) -> Tensor:
    """What the steps to ``i`` cost, float64, of the beginnings ``row``."""
    costs = torch.cat([_asked(step, states, at, r, to)[0].double() for r, to in _chunks(row, i, chunk)])
    bad = torch.isnan(costs) | torch.isneginf(costs)
    if bad.any():
        m = int(bad.nonzero()[0])
        raise ValueError(f"step must cost a number or +inf, got {costs[m].item()} from j = {at[row[m]]} to i = {i[m]}")
    return costs


def _asked(step: Step, states: Tensor, at: Tensor, row: Tensor, i: Tensor) -> tuple[Tensor, Tensor]:
    """One call of ``step``, and the shapes of its answer."""
    costs, new = step(states[row], at[row], i)
    check_floating("the costs of step", costs)
    check_type("the states of step", new, Tensor)
    if costs.shape != i.shape or new.shape != (len(i), *states.shape[1:]):
        raise ValueError(
            f"step must return costs [{len(i)}] and states {[len(i), *states.shape[1:]]}, "
            f"got {list(costs.shape)} and {list(new.shape)}"
        )
    return costs.detach(), new.detach()


def _triangular(cost: Tensor, most: int, name: str = "most") -> Tensor:
    """``cost`` in float64, if it is one for paths of ``most`` steps."""
    c = check_floating("cost", cost).detach().double()
    if c.ndim != 2 or c.shape[0] != c.shape[1] or len(c) < 2:
        raise ValueError(f"cost must have shape [N + 1, N + 1], N ≥ 1, got {list(c.shape)}")
    if check_count(name, most) > len(c) - 1:
        raise ValueError(f"{name} must be at most N = {len(c) - 1}, the steps of the finest path, got {most}")
    below, upper = c.tril(), c.triu(1)
    # 0 and ±∞ alone are their own doubles; a comparison with NaN is false.
    if not (torch.equal(below, 2 * below) and below.amin() >= 0):
        _refuse(c, (below != 0) & (below != math.inf), "0 or +inf where i ≥ j, since a step goes down from j to i")
    least, largest = (v.item() for v in torch.aminmax(upper))
    if not -math.inf < least <= largest < math.inf:
        _refuse(c, torch.isnan(upper) | torch.isneginf(upper), "a number or +inf")
        largest = upper.masked_fill(torch.isinf(upper), 0.0).amax().item()
    if math.isinf(most * max(largest, -least)):
        raise ValueError(f"cost must be so small that {most} steps can be summed, got {least:.3g} … {largest:.3g}")
    return c


def _refuse(cost: Tensor, bad: Tensor, expected: str) -> None:
    if bad.any():
        i, j = bad.nonzero()[0].tolist()
        raise ValueError(f"cost must be {expected}, got cost[{i}, {j}] = {cost[i, j].item()}")


def _summed(costs: list[float]) -> float:
    """Their sum from left to right; the built-in one may compensate for rounding, and the recursion does not."""
    out = 0.0
    for c in costs:
        out += c
    return out


def _no_path(steps: int) -> ValueError:
    return ValueError(
        f"steps must be the length of a path of finite cost, got {steps}, and every such path is forbidden"
    )
