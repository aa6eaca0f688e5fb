r"""Predictor–corrector sampling (Song et al. 2021, algorithms 2 and 3): a sampler's row down, then Langevin at the level.

The predictor is one row of a core method's table (:mod:`unidiff.core.tables`), x ← a x + b x̂_0 + n ξ: the ancestral
chain, the reverse SDE, DDIM or Euler. It leaves the marginal q_s by its error; M corrector steps pull x back towards q_s,

    x ← x + δ g + √(2δ) ξ,   g = ∇log q_s(x).

A step keeps q_s only if δ does not depend on x. So by default it is a function of the level,

    δ = 2 r² σ²,

at which ‖δ g‖ = r ‖√(2δ) ξ‖ where noise is all that is heard, since ‖g‖ = ‖ξ‖/σ there: r is the signal-to-noise ratio of
the step (their 0.16). As published (``step="norms"``) it is that everywhere,

    δ = min(2 (r ‖ξ‖/‖g‖)², ½σ²),

the norms means over the batch, as in their code; it steps further where data are smoother than the noise. But it couples
the chains, and where few numbers make the mean it steps furthest at a mode: on N(0, ¼) in one dimension the variance of
a chain alone is 2.6 times too large, of eight 1.3 times, of 400 right within the predictor's own error. The bound is
stable in every noised law (−∇g ≼ I/σ²); without it a score of zero would be left at once. Without noise at t_0 there is
no law to correct towards, and the last row stands alone.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from unidiff.core.boundary import check_count, check_name, check_positive, check_type
from unidiff.core.diffusion import Diffusion
from unidiff.core.grid import TimeGrid
from unidiff.core.tables import build, default_grid
from unidiff.mcmc.chains import horizon
from unidiff.mcmc.unadjusted import langevin_step
from unidiff.score.levels import OnRow, Rows, begin, check_end, check_run, level_columns, level_of, told

# The methods whose rows stand alone: no registers, one row a step.
Predictor = Literal["sde", "ancestral", "ddim", "euler"]
PREDICTORS: tuple[Predictor, ...] = get_args(Predictor)


Step = Literal["level", "norms"]
STEPS: tuple[Step, ...] = get_args(Step)


def correct(x: Tensor, score: Tensor, noise: Tensor, sigma: Tensor, snr: float, step: Step = "level") -> Tensor:
    """One corrector step from ``x`` with its ``score`` and ``noise``, all ``[B, *E]``, at signal-to-noise ratio ``snr``.

    ``sigma`` is the level's, ``[]``.
    """
    delta = 2 * snr**2 * sigma.square()
    if step == "norms":
        size, slope = noise.flatten(1).norm(dim=1).mean(), score.flatten(1).norm(dim=1).mean()
        # fmin, for a score of zero, at which 0/0 is no number.
        delta = torch.fmin(2 * (snr * size / slope).square(), 0.5 * sigma.square())
    return langevin_step(x, score, delta, noise)


class PredictorCorrector:
    """A predictor's rows with corrections between them, ready to run many times; captures are kept from run to run.

    Args:
        core: the diffusion core.
        grid: the times.
        predictor: ``"ancestral" "sde" "ddim" "euler"``; the chain's own step bears a network's errors best.
        corrections: M ≥ 0, at each level; 0 is the predictor alone.
        snr: r > 0.
        step: "level", by the noise level alone, or "norms", as published, for many chains.
        guidance: classifier-free guidance weight; 1 is the plain conditional model.
        graph: whether a GPU run is captured and replayed; None captures whenever the state is on a GPU.

    Raises:
        ValueError: an unknown predictor or step, corrections below 0, snr not positive, a grid on which the predictor
            does not exist.
    """

    def __init__(
        self,
        core: Diffusion,
        grid: TimeGrid,
        predictor: Predictor = "ancestral",
        *,
        corrections: int = 1,
        snr: float = 0.16,
        step: Step = "level",
        guidance: float = 1.0,
        graph: bool | None = None,
    ) -> None:
        check_type("core", core, Diffusion)
        check_type("grid", grid, TimeGrid)
        check_name("predictor", predictor, PREDICTORS)
        check_count("corrections", corrections, 0)
        check_positive("snr", snr)
        check_name("step", step, STEPS)
        rows = build(core.schedule, grid, predictor)
        core.check_levels(rows.alpha)
        reached = core.schedule.level(grid.times.flip(0)[1:])
        asked = [rows.t, rows.log_snr, rows.alpha, rows.sigma]
        columns = torch.stack([*level_columns(reached), *asked, rows.on_xt, rows.on_x0, rows.noise], 1)
        # Only the last level can be without noise.
        self.split = rows.rows - int(not bool(reached.sigma[-1] > 0))
        self.core, self.guidance, self.snr = core, guidance, snr
        self.step: Step = step
        self.total, self.draws = rows.rows, 1 + corrections
        self._both = Rows(core, self._predict_and_correct, columns[: self.split], self.draws, graph)
        self._alone = Rows(core, self._predict, columns[self.split :], 1, False)

    @torch.no_grad()
    def __call__(
        self,
        x: Tensor,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
        condition: Tensor | None = None,
        on_row: OnRow | None = None,
    ) -> Tensor:
        """From ``x`` ``[B, *E]`` at t = 1 to the grid's first time; arguments and errors as below."""
        check_run(self.core, x, generator, noise, on_row, self.total, self.draws)
        condition = self.core.check_arguments("x", x, condition, self.guidance)
        early, late = (None, None) if noise is None else (noise[: self.split], noise[self.split :, :1])
        tell, beyond = told(on_row, self.total), horizon(x)

        def look(x: Tensor, done: int) -> Tensor:
            return check_end(x, beyond, done, "snr", self.snr)

        x = self._both(x, generator, early, condition, tell, look)
        x = self._alone(x, generator, late, condition, lambda done: tell(self.split + done), look)
        return look(x, self.total)

    def _predict(self, x: Tensor, row: Tensor, xi: Tensor, condition: Tensor | None) -> Tensor:
        x0 = self.core.denoiser(x, level_of(row[4:]), condition, self.guidance).x0
        return row[8] * x + row[9] * x0 + row[10] * xi[0]

    def _predict_and_correct(self, x: Tensor, row: Tensor, xi: Tensor, condition: Tensor | None) -> Tensor:
        x = self._predict(x, row, xi, condition)
        for own in xi[1:].unbind():
            level = level_of(row)
            score = self.core.denoiser(x, level, condition, self.guidance).score
            x = correct(x, score, own, level.sigma, self.snr, self.step)
        return x


def predictor_corrector(
    core: Diffusion,
    n: int | None = None,
    *,
    steps: int = 100,
    predictor: Predictor = "ancestral",
    corrections: int = 1,
    snr: float = 0.16,
    step: Step = "level",
    grid: TimeGrid | None = None,
    x: Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    condition: Tensor | None = None,
    guidance: float = 1.0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    on_row: OnRow | None = None,
    graph: bool | None = None,
) -> Tensor:
    """Samples of the core at the grid's first time, ``[B, *E]``.

    To run many times on one capture, keep a :class:`PredictorCorrector`.

    Args:
        core: the diffusion core.
        n: how many, begun from the prior; leave it out where ``x`` is given.
        steps: the number of steps of the default grid.
        predictor, corrections, snr, step, guidance, graph: as :class:`PredictorCorrector`.
        grid: the times, in place of the default grid.
        x: the start at t = 1, ``[B, *E]``, in place of ``n``.
        generator: the source of all draws.
        noise: the draws themselves, ``[N, 1 + M, B, *E]``: the predictor's, then the correctors'.
        condition, dtype, device, on_row: as :func:`~unidiff.score.annealed.annealed_langevin`.

    Raises:
        TypeError: an argument of another type.
        ValueError: as :class:`PredictorCorrector`; steps below 1, both or neither of n and x, x or noise of another
            shape.
        Divergence: chains are not finite at the end, or have run away; it carries the others.
    """
    check_type("core", core, Diffusion)
    check_name("predictor", predictor, PREDICTORS)
    check_count("steps", steps)
    if grid is None:
        grid = default_grid(core.schedule, steps, predictor)
    run = PredictorCorrector(
        core, grid, predictor, corrections=corrections, snr=snr, step=step, guidance=guidance, graph=graph
    )  # fmt: skip
    return run(
        begin(core, n, x, core.schedule.prior_std, generator, dtype, device), generator, noise, condition, on_row
    )
