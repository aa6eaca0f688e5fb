r"""A bound on the KL of paths: what it costs to hold x̂_0 still over a step (Sabour et al. 2024, AYS, theorem 3.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unidiff.core.boundary import check_count
from unidiff.core.diffusion import Diffusion
from unidiff.core.grid import TimeGrid
from unidiff.paths.cost import Cost, CostTable, Draws, downwards


@dataclass(frozen=True)
class KLBound(Cost):
    """The KL between a fine chain and one that asks its network at a path's times alone.

    With x_{t_0}, …, x_{t_N} one trajectory of the forward process,

        c(t_i, t_j) = Σ_{i < l ≤ j} ½(SNR_{l−1} − SNR_l) E‖x̂_0(x_{t_l}) − x̂_0(x_{t_j})‖²

    the KL of the fine chain's steps, of the posterior's variance, from those of a chain whose guess was made at t_j.

    Attributes:
        most: the states held at once are n · (N + 1) · D; more than this many numbers are refused.
    """

    name: ClassVar[str] = "kl-bound"
    unit: ClassVar[str] = "nats"

    most: int = 2**28

    def __post_init__(self) -> None:
        check_count("most", self.most)

    @torch.no_grad()
    def measure(self, core: Diffusion, times: TimeGrid, draws: Draws) -> CostTable:
        """The table. Raises ValueError for a first time without noise, or more states than ``most``."""
        levels = core.schedule.level(times.times)
        if not bool(torch.isfinite(levels.log_snr).all()):
            raise ValueError(
                f"times must all have a positive, finite SNR, got log-SNR {levels.log_snr[0].item():g} at the first and "
                f"{levels.log_snr[-1].item():g} at the last"
            )
        count = len(times) * draws.x0.numel()
        if count > self.most:
            raise ValueError(
                f"times and data must be at most {self.most} numbers together, got {count}: take fewer of either"
            )
        said = self._said(core, times, draws)
        snr = levels.log_snr.exp()
        share = 0.5 * (snr[:-1] - snr[1:])
        found = torch.zeros(draws.groups, len(times), len(times), dtype=torch.float64)
        for j in downwards(len(times)):
            off = (said[1 : j + 1] - said[j]).flatten(2).square().sum(2)
            terms = draws.grouped(off.T) * share[:j]
            # From above: the step to i is made of the fine steps l = i + 1 … j.
            found[:, :j, j] = terms.flip(1).cumsum(1).flip(1)
        return CostTable(times, found, draws.weights, len(draws.x0), self.name, self.unit)

    @staticmethod
    def _said(core: Diffusion, times: TimeGrid, draws: Draws) -> Tensor:
        """x̂_0 along trajectories of the forward process, ``[N + 1, n, *E]``; 0 at t_0, where no step starts."""
        generator, t, levels = draws.generator(), times.times, core.schedule.level(times.times)
        xt = core.process.marginal(draws.x0, t[0]).sample(generator)
        said = torch.zeros(len(t), *draws.x0.shape, dtype=xt.dtype, device=xt.device)
        for k in range(1, len(t)):
            xt = core.process.transition(xt, t[k - 1], t[k]).sample(generator)
            said[k] = draws.asked(core, xt, levels[k])
        return said
