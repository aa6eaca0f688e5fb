r"""The ELBO's price of a step: how far the chain's Gaussian is from Bayes', in nats.

    c(s, t) = E_q KL(q(x_s|x_t, x_0) ‖ p_θ(x_s|x_t)),    e(t) = E‖x_0 − x̂_0(x_t)‖²
            = ½[D(r − 1 − log r) + b² e(t)/v],   r = v_q/v                     (Ho et al. 2020, eq. 5)

a, b, v_q those of the posterior and v the chain's variance. So N errors price N² steps, and a path's price is the bound's
diffusion part: which path is best is a shortest path (Watson et al. 2021). With the posterior variance r = 1 and c is
½(SNR_s − SNR_t) e(t); with the optimal one v = v_q + b² e/D and c is ½ D log(v/v_q) (Bao et al. 2022, theorem 3). The
learned rule's variance is the state's own, and its KLs are taken state by state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unidiff.core.boundary import check_flag, check_name
from unidiff.core.chain import RULES, ReverseChain, Variance
from unidiff.core.diffusion import Diffusion
from unidiff.core.gaussian import Gaussian
from unidiff.core.grid import TimeGrid
from unidiff.paths.cost import ROWS, Cost, CostTable, Draws, downwards, pairs_of


@dataclass(frozen=True)
class ELBOCost(Cost):
    """The bound's diffusion terms.

    Attributes:
        variance: the chain's rule. "optimal" takes one variance a time, of the errors measured.
        exact: take the exact denoiser's own Var[x_0|x_t] at the states for the errors: for a world, of less variance, and of
            none where the law is Gaussian. Not for "learned".

    Raises:
        TypeError, ValueError: naming the option.
    """

    name: ClassVar[str] = "elbo"
    unit: ClassVar[str] = "nats"

    variance: Variance = "posterior"
    exact: bool = False

    def __post_init__(self) -> None:
        check_name("variance", self.variance, RULES)
        check_flag("exact", self.exact)
        if self.exact and self.variance == "learned":
            raise ValueError("exact is for rules that read errors, got it with variance 'learned'")

    @torch.no_grad()
    def measure(self, core: Diffusion, times: TimeGrid, draws: Draws) -> CostTable:
        """The table. Raises ValueError for a first time without noise, or a last one without signal."""
        levels = core.schedule.level(times.times)
        for k, what in ((0, "noise"), (-1, "signal")):
            if not math.isfinite(float(levels.log_snr[k])):
                raise ValueError(
                    f"times must start with some noise and end with some signal, where the bound has terms: at "
                    f"t = {float(times.times[k]):g} there is no {what}"
                )
        if self.exact and not hasattr(core.denoiser, "x0_variance"):
            raise ValueError("exact needs an exact denoiser (OracleDenoiser), which knows Var[x_0|x_t]")
        i, j = pairs_of(len(times))
        rule: Variance = "posterior" if self.variance == "optimal" else self.variance
        chain = core.chain(times, rule).between(times.times[i], times.times[j])
        if self.variance == "learned":
            return self.table(times, (i, j), self._state_by_state(core, chain, times, draws), draws)
        errors = self._errors(core, times, draws)
        return self.table(times, (i, j), self._prices(chain, errors[:, j], draws), draws)

    def _errors(self, core: Diffusion, times: TimeGrid, draws: Draws) -> Tensor:
        """e at each time, by group, ``[G, N + 1]``; of t_0, where no step starts, 0."""
        noise, levels = draws.noise(draws.generator()), core.schedule.level(times.times)
        found = torch.zeros(draws.groups, len(times), dtype=torch.float64)
        for j in downwards(len(times)):
            level = levels[j].to(noise)
            xt = level.alpha * draws.x0 + level.sigma * noise
            if self.exact:
                error = core.denoiser.x0_variance(xt, level)  # pyright: ignore[reportAttributeAccessIssue]
            else:
                error = (draws.x0 - draws.asked(core, xt, levels[j])).square()
            found[:, j] = draws.grouped(error.expand_as(xt).flatten(1).to(torch.float64).sum(1))
        return found

    def _prices(self, chain: ReverseChain, errors: Tensor, draws: Draws) -> Tensor:
        """The KLs ``[G, M]`` of errors ``[G, M]``: one number's, whose squared error is the mean over the D, D times."""
        dim, rows = draws.x0[0].numel(), torch.arange(1, errors.shape[1] + 1)
        flat = torch.zeros(len(rows), 1, dtype=torch.float64)
        own, on_x0 = chain.row(chain.table.log_posterior_var, rows, flat), chain.row(chain.table.on_x0, rows, flat)
        if self.variance == "optimal":
            everyones = ((draws.weights[:, None] * errors).sum(0) / dim)[:, None]
            wide = torch.logaddexp(own, 2 * on_x0.log() + everyones.log())
        else:
            wide = chain.log_var(flat, rows, chain.levels, None)
        model = Gaussian(flat, wide)
        off = [on_x0 * (e[:, None] / dim).sqrt() for e in errors]
        return torch.stack([dim * Gaussian(mean, own).kl(model) for mean in off])

    def _state_by_state(self, core: Diffusion, chain: ReverseChain, times: TimeGrid, draws: Draws) -> Tensor:
        """The KLs ``[G, M]`` of a rule that reads the state."""
        noise, levels = draws.noise(draws.generator()), core.schedule.level(times.times)
        place = torch.zeros(len(times), len(times), dtype=torch.long)
        i, j = pairs_of(len(times))
        place[i, j] = torch.arange(len(i))
        found = torch.zeros(draws.groups, len(i), dtype=torch.float64)
        for later in downwards(len(times)):
            level = levels[later].to(noise)
            xt = level.alpha * draws.x0 + level.sigma * noise
            kls = torch.zeros(len(xt), later, dtype=torch.float64, device=xt.device)
            for start in range(0, len(xt), ROWS):
                rows = slice(start, start + ROWS)
                own = None if draws.condition is None else draws.condition[rows]
                prediction = core.denoiser(xt[rows], level, own, draws.guidance)
                for earlier in range(later):
                    k = int(place[earlier, later]) + 1
                    bayes = chain.row(chain.table.log_posterior_var, k, xt)
                    kls[rows, earlier] = (
                        Gaussian(chain.mean(xt[rows], k, draws.x0[rows]), bayes)
                        .kl(chain.kernel(xt[rows], k, prediction))
                        .double()
                    )
            found[:, place[:later, later]] = draws.grouped(kls)
        return found
