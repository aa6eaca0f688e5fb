r"""An energy's price of a step: what DxMI pays its chain for, as the cost of a path.

    c(s, t) = E_{q_t} KL(p_θ(x_s|x_t) ‖ q(x_s|x_t))
            = E[log p_θ(x_s|x_t) − log q(x_t|x_s) + V_s(x_s) − V_t(x_t)],     V = −log q up to one constant

x_t noised data, x_s ~ p_θ(x_s|x_t): the running cost and entropy of maximum-entropy inverse RL and the difference of its
value (Yoon et al. 2024, eq. 8; items 40 and 42), of which a path's sum telescopes to the joint KL of the chain. The ELBO's
price is the KL the other way round, and needs data; this one needs an energy at every level: a learned value, or a world's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unidiff.core.boundary import check_name
from unidiff.core.chain import Variance
from unidiff.core.diffusion import Diffusion
from unidiff.core.gaussian import Gaussian
from unidiff.core.grid import TimeGrid
from unidiff.paths.cost import Cost, CostTable, Draws, downwards, pairs_of


@dataclass(frozen=True)
class EnergyCost(Cost):
    """The reverse KL of a step, by an energy.

    Attributes:
        energy: V in nats, ``(x [B, *E], t) -> [B]``, for a time of the candidates: ``lambda x, t: model.energy(x, t) /
            model.tau`` of an :class:`~unidiff.EnergyModel`.
        variance: of the chain's steps: "posterior" or "prior".

    Raises:
        ValueError: another variance.
    """

    name: ClassVar[str] = "energy"
    unit: ClassVar[str] = "nats"

    energy: Callable[[Tensor, float], Tensor]
    variance: Variance = "posterior"

    def __post_init__(self) -> None:
        check_name("variance", self.variance, ("posterior", "prior"))

    @torch.no_grad()
    def measure(self, core: Diffusion, times: TimeGrid, draws: Draws) -> CostTable:
        """The table: N² questions to the energy, N to the network.

        Raises:
            ValueError: a first time without noise, or a last one without signal.
            FloatingPointError: an energy that is not finite.
        """
        levels, t = core.schedule.level(times.times), times.times
        if not all(math.isfinite(float(levels.log_snr[k])) for k in (0, -1)):
            ends = levels.log_snr[[0, -1]].tolist()
            raise ValueError(f"times must have a positive, finite SNR, got log-SNR {ends} at the ends")
        i, j = pairs_of(len(times))
        chain = core.chain(times, self.variance).between(t[i], t[j])
        place = torch.zeros(len(times), len(times), dtype=torch.long)
        place[i, j] = torch.arange(1, len(i) + 1)
        generator = draws.generator()
        noise = draws.noise(generator)
        found = torch.zeros(draws.groups, len(times), len(times), dtype=torch.float64)
        for later in downwards(len(times)):
            level = levels[later].to(noise)
            xt = level.alpha * draws.x0 + level.sigma * noise
            x0, here = draws.asked(core, xt, levels[later]), self._asked(xt, float(t[later]))
            for earlier in range(later):
                k = int(place[earlier, later])
                step = Gaussian(chain.mean(xt, k, x0), chain.log_var(xt, k, level, None))
                xs = step.sample(generator, check=False)
                forward = core.process.transition(xs, t[earlier], t[later])
                cost = step.log_prob(xs) - forward.log_prob(xt) + self._asked(xs, float(t[earlier])) - here
                found[:, earlier, later] = draws.grouped(cost)
        return CostTable(times, found, draws.weights, len(draws.x0), self.name, self.unit)

    def _asked(self, x: Tensor, t: float) -> Tensor:
        found = self.energy(x, t)
        if found.shape != x.shape[:1]:
            raise ValueError(f"energy must give one number a state, [{len(x)}], got shape {list(found.shape)}")
        if not bool(torch.isfinite(found).all()):
            raise FloatingPointError(
                f"energies must be finite, got {int((~torch.isfinite(found)).sum())} of {len(x)} that are not at t = {t:g}"
            )
        return found
