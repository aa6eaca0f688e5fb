r"""A sampler's price of a step: how far one step lands from a teacher's trajectory that passes both times.

    c(s, t) = w_s E‖Φ_{t→s}(x_t) − x_s‖²/D,     x_t, x_s on one trajectory of the teacher, Φ one step of the sampler

(Chen et al. 2024, GITS, for Euler's jump; 61 teacher points there). w_s = 1/(α_s² v + σ_s²) counts in variances of x_s,
v the data's: the flow of a Gaussian of that variance carries a deviation of one part of x_s to one part of x_0 (item 62).
A step of the multistep method reads the step before, so that its price is of three times and the path is of pairs:
:mod:`unidiff.paths.pairs`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from unidiff.core.boundary import check_flag, check_name, right_expand
from unidiff.core.diffusion import Diffusion
from unidiff.core.grid import TimeGrid
from unidiff.core.sampling import Sampler
from unidiff.core.tables import default_grid, leaps
from unidiff.paths.cost import Cost, CostTable, Draws, downwards, pairs_of

Alone = Literal["ddim", "euler"]


@dataclass(frozen=True, eq=False)
class Teacher:
    """Trajectories and what the network says along them.

    Attributes:
        x: states ``[N + 1, n, *E]``, t_0 first.
        x0: x̂_0 at each but the first, whose entry is 0, ``[N + 1, n, *E]``.
        weights: w ``[N + 1]``, on x's device, divided by D.
    """

    x: Tensor
    x0: Tensor
    weights: Tensor


def taught(core: Diffusion, times: TimeGrid, draws: Draws, relative: bool) -> Teacher:
    """Walks of the second-order sampler from the prior, n of them, through every candidate time."""
    generator = draws.generator()
    start = core.prior(len(draws.x0), generator, draws.x0)
    walk = Sampler(core, times, "heun", guidance=draws.guidance).trajectory(start, condition=draws.condition)
    levels = core.schedule.level(times.times)
    said = torch.zeros_like(walk)
    for j in downwards(len(times)):
        said[j] = draws.asked(core, walk[j], levels[j])
    spread = float(draws.x0.double().var()) if relative else 0.0
    width = levels.alpha.square() * spread + levels.sigma.square() if relative else torch.ones_like(levels.alpha)
    return Teacher(walk, said, (1 / (width * walk[0, 0].numel())).to(walk))


def sampled_candidates(core: Diffusion, nodes: int) -> TimeGrid:
    """``nodes`` steps even in log-SNR; where there is no noise at t = 0, the last is from ``LAST_STOP`` to there."""
    return default_grid(core.schedule, nodes, "dpm++2m")


@dataclass(frozen=True)
class Deviation(Cost):
    """One step's squared distance from the teacher's trajectory.

    Attributes:
        method: "ddim" or "euler", whose steps stand alone.
        relative: count in variances of x_s; else in x² units.

    Raises:
        TypeError, ValueError: naming the option.
    """

    name: ClassVar[str] = "deviation"
    unit: ClassVar[str] = "variances of x"

    method: Alone = "ddim"
    relative: bool = True

    def __post_init__(self) -> None:
        check_name("method", self.method, ("ddim", "euler"))
        check_flag("relative", self.relative)

    def candidates(self, core: Diffusion, nodes: int) -> TimeGrid:
        """Times to choose from, down to the data."""
        return sampled_candidates(core, nodes)

    @torch.no_grad()
    def measure(self, core: Diffusion, times: TimeGrid, draws: Draws) -> CostTable:
        """The table."""
        i, j = pairs_of(len(times))
        rows = leaps(core.schedule, times.times[i], times.times[j], self.method)
        teacher = taught(core, times, draws, self.relative)
        on_xt, on_x0 = (torch.zeros(len(times), len(times)).to(teacher.x) for _ in range(2))
        on_xt[i, j], on_x0[i, j] = rows.on_xt.to(teacher.x), rows.on_x0.to(teacher.x)
        found = torch.zeros(draws.groups, len(times), len(times), dtype=torch.float64)
        for k in downwards(len(times)):
            a, b = (right_expand(column[:k, k], teacher.x) for column in (on_xt, on_x0))
            off = (a * teacher.x[k] + b * teacher.x0[k] - teacher.x[:k]).flatten(2).square().sum(2)
            found[:, :k, k] = draws.grouped((teacher.weights[:k, None] * off).T)
        return CostTable(times, found, draws.weights, len(draws.x0), self.name, self.unit)
