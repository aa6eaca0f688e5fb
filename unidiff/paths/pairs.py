r"""Costs of a step that reads the step before, and their shortest paths.

A step of a two-step method from t_j to t_i knows what the network said at t_h, from where it came to t_j. Its price
c[i, j, h], i < j < h, is additive over pairs of neighbours, and the shortest path is exact with a pair as the state:

    F_1[i, N] = c_0[i],   F_{k+1}[i, j] = min_h F_k[j, h] + c[i, j, h]

c_0 being the first step's, which has none before it. For ``dpm++2m``, with r_i = a x_j + b x̂_0(x_j) − x_i and
κ = h_now/(2 h_before),

    c[i, j, h] = w_i E‖r_i + bκ(x̂_0(x_j) − x̂_0(x_h))‖²/D                        (Lu et al. 2022, algorithm 2)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unidiff.core.boundary import check_count, check_flag, right_expand
from unidiff.core.diffusion import Diffusion
from unidiff.core.grid import TimeGrid
from unidiff.core.tables import leaps
from unidiff.paths.cost import Cost, Draws, Prices, downwards
from unidiff.paths.deviation import Teacher, sampled_candidates, taught
from unidiff.paths.dynamic import Paths


class PairTable(Prices):
    """``parts`` is ``[G, N + 1, N + 1, N + 1]``, entry i, j, h; where j = N there is no h, and c_0[i] is entry i, N, N."""

    def along(self, path: Tensor) -> Tensor:
        """Each group's total over a path of indices ``[K + 1]``, ``[G]``."""
        before = torch.cat([path[2:], path[-1:]])
        return self.parts[:, path[:-1], path[1:], before].sum(-1)

    def shortest(self, most: int) -> Paths:
        """The cheapest path of each number of steps up to ``most``: exact, a pair of neighbours being the state."""
        cost, last = self.mean, len(self.times) - 1
        if check_count("most", most) > last:
            raise ValueError(f"most must be at most the {last} steps between candidates, got {most}")
        size = last + 1
        i, j, h = (torch.arange(size).reshape(shape) for shape in ((-1, 1, 1), (1, -1, 1), (1, 1, -1)))
        cost = cost.masked_fill(~((i < j) & (j < h)), torch.inf)
        value = torch.full((size, size), torch.inf, dtype=torch.float64)
        value[:last, last] = self.mean[:last, last, last]
        came: list[Tensor] = []
        values, nodes = [], torch.full((most, most + 1), -1)
        for k in range(1, most + 1):
            if k > 1:
                value, where = (value[None] + cost).min(2)
                came.append(where)
            best, at = value[0].min(0)
            path = [0, int(at)]
            for where in reversed(came):
                path.append(int(where[path[-2], path[-1]]))
            values.append(best)
            if torch.isfinite(best):
                nodes[k - 1, : k + 1] = torch.tensor(path)
        return Paths(torch.stack(values), nodes, "exact")


@dataclass(frozen=True)
class MultistepDeviation(Cost):
    """A step of ``dpm++2m``'s squared distance from the teacher's trajectory, the step before it being one of the path.

    Attributes:
        relative: count in variances of x_s; else in x² units.

    Raises:
        TypeError: naming the option.
    """

    name: ClassVar[str] = "deviation"
    unit: ClassVar[str] = "variances of x"

    relative: bool = True

    def __post_init__(self) -> None:
        check_flag("relative", self.relative)

    def candidates(self, core: Diffusion, nodes: int) -> TimeGrid:
        """Times to choose from, down to the data."""
        return sampled_candidates(core, nodes)

    @torch.no_grad()
    def measure(self, core: Diffusion, times: TimeGrid, draws: Draws) -> PairTable:
        """The table, of (N + 1)³ numbers for each group of draws."""
        teacher, size = taught(core, times, draws, self.relative), len(times)
        found = torch.zeros(draws.groups, size, size, size, dtype=torch.float64)
        for j in downwards(size):
            found[:, :j, j, j + 1 :] = self._prices(core, times, teacher, draws, j)
        i = torch.arange(size - 1)
        first = leaps(core.schedule, times.times[i], times.times[-1].expand(size - 1), "ddim")
        a, b = (right_expand(column.to(teacher.x), teacher.x) for column in (first.on_xt, first.on_x0))
        off = (a * teacher.x[-1] + b * teacher.x0[-1] - teacher.x[:-1]).flatten(2).square().sum(2)
        found[:, :-1, -1, -1] = draws.grouped((teacher.weights[:-1, None] * off).T)
        return PairTable(times, found, draws.weights, len(draws.x0), self.name, self.unit)

    def _prices(self, core: Diffusion, times: TimeGrid, teacher: Teacher, draws: Draws, j: int) -> Tensor:
        """c[:, j, j + 1:] of each group, ``[G, j, N − j]``."""
        t, later = times.times, len(times) - 1 - j
        if not later:
            return torch.zeros(draws.groups, j, 0, dtype=torch.float64)
        i, h = (v.flatten() for v in torch.meshgrid(torch.arange(j), torch.arange(j + 1, len(t)), indexing="ij"))
        middle = t[j].expand(len(i))
        rows = leaps(
            core.schedule, torch.stack([middle, t[i]], 1).flatten(), torch.stack([t[h], middle], 1).flatten(), "dpm++2m"
        )
        now = rows[torch.arange(1, 2 * len(i), 2)]
        # On x̂_0(x_h) the row has −bκ, on x̂_0(x_j) b(1 + κ).
        pull = -now.on_kept.reshape(j, later).to(teacher.x)
        a = now.on_xt.reshape(j, later)[:, 0].to(teacher.x)
        b = (now.on_x0 + now.on_kept).reshape(j, later)[:, 0].to(teacher.x)
        x, x0 = teacher.x.flatten(2), teacher.x0.flatten(2)
        off = a[:, None, None] * x[j] + b[:, None, None] * x0[j] - x[:j]
        change = x0[j] - x0[j + 1 :]
        square = off.square().sum(2)[:, None] + pull[:, :, None].square() * change.square().sum(2)[None]
        cross = torch.einsum("ind,hnd->ihn", off, change)
        total = (square + 2 * pull[:, :, None] * cross).clamp(min=0) * teacher.weights[:j, None, None]
        return draws.grouped(total.movedim(2, 0))
