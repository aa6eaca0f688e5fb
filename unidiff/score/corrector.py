r"""Predictor–corrector sampling (Song et al. 2021, algorithms 2 and 3): a sampler's row down, then Langevin at the level.

The predictor is one row of a core method's table (:mod:`unidiff.core.tables`), x ← a x + b x̂_0 + n ξ: the ancestral
chain, the reverse SDE, DDIM or Euler. It leaves the marginal q_s by its error; M corrector steps pull x back towards q_s,

    x ← x + δ g + √(2δ) ξ,   g = ∇log q_s(x),   δ = 2 (r ‖ξ‖/‖g‖)²,

so that ‖δ g‖ = r ‖√(2δ) ξ‖: r is the signal-to-noise ratio of the step (their 0.16). The two norms are means over the
batch, as in their code: one chain's own ‖g‖ vanishes at a mode, and its step would have no bound. Chains of one run are
coupled through δ, by O(1/√B). Without noise at t_0 there is no law to correct towards, and the last row stands alone.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from unidiff.core.boundary import check_count, check_name
from unidiff.core.diffusion import Diffusion
from unidiff.core.grid import TimeGrid
from unidiff.core.tables import build, default_grid
from unidiff.score.levels import OnRow, begin, check_end, check_noise, level_columns, level_of, run_rows
from unidiff.score.unadjusted import langevin_step

# The methods whose rows stand alone: no registers, one row a step.
Predictor = Literal["sde", "ancestral", "ddim", "euler"]
PREDICTORS: tuple[Predictor, ...] = get_args(Predictor)


def correct(x: Tensor, score: Tensor, noise: Tensor, snr: float) -> Tensor:
    """One corrector step from ``x`` with its ``score`` and ``noise``, all ``[B, *E]``, at signal-to-noise ratio ``snr``."""
    size, slope = noise.flatten(1).norm(dim=1).mean(), score.flatten(1).norm(dim=1).mean()
    return langevin_step(x, score, 2 * (snr * size / slope).square(), noise)


@torch.no_grad()
def predictor_corrector(
    core: Diffusion,
    n: int | None = None,
    *,
    steps: int = 100,
    predictor: Predictor = "ancestral",
    corrections: int = 1,
    snr: float = 0.16,
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

    Args:
        core: the diffusion core.
        n: how many, begun from the prior; leave it out where ``x`` is given.
        steps: the number of steps of the default grid.
        predictor: ``"ancestral" "sde" "ddim" "euler"``; the chain's own step bears a network's errors best.
        corrections: M ≥ 0, at each level; 0 is the predictor alone.
        snr: r > 0.
        grid: the times, in place of the default grid.
        x: the start at t = 1, ``[B, *E]``, in place of ``n``.
        generator: the source of all draws.
        noise: the draws themselves, ``[N, 1 + M, B, *E]``: the predictor's, then the correctors'.
        condition, guidance, dtype, device, on_row, graph: as :func:`~unidiff.score.annealed.annealed_langevin`.

    Raises:
        ValueError: an unknown predictor, counts out of range, snr not positive, both or neither of n and x, a grid on
            which the predictor does not exist, x or noise of another shape.
        Divergence: chains are not finite at the end; it carries the finite ones.
    """
    check_name("predictor", predictor, PREDICTORS)
    check_count("corrections", corrections, 0)
    if not 0 < snr < float("inf"):
        raise ValueError(f"snr must be positive and finite, got {snr}")
    if grid is None:
        grid = default_grid(core.schedule, check_count("steps", steps), predictor)
    rows = build(core.schedule, grid, predictor)
    core.check_levels(rows.alpha)
    x = begin(core, n, x, core.schedule.prior_std, generator, dtype, device)
    condition = core.check_arguments("x", x, condition, guidance)
    check_noise(noise, (rows.rows, 1 + corrections, *x.shape))
    reached = core.schedule.level(grid.times.flip(0)[1:])
    asked = [rows.t, rows.log_snr, rows.alpha, rows.sigma]
    columns = torch.stack([*level_columns(reached), *asked, rows.on_xt, rows.on_x0, rows.noise], 1)

    def predict(x: Tensor, row: Tensor, xi: Tensor) -> Tensor:
        x0 = core.denoiser(x, level_of(row[4:]), condition, guidance).x0
        return row[8] * x + row[9] * x0 + row[10] * xi[0]

    def both(x: Tensor, row: Tensor, xi: Tensor) -> Tensor:
        x = predict(x, row, xi)
        for own in xi[1:].unbind():
            x = correct(x, core.denoiser(x, level_of(row), condition, guidance).score, own, snr)
        return x

    # Only the last level can be without noise.
    alone = int(not bool(reached.sigma[-1] > 0))
    split, total = rows.rows - alone, rows.rows
    tell = None if on_row is None else lambda done, _: on_row(done, total)
    early = None if noise is None else noise[:split]
    x = run_rows(both, x, columns[:split], 1 + corrections, generator, early, tell, graph)
    if alone:
        late = None if noise is None else noise[split:, :1]
        x = run_rows(predict, x, columns[split:], 1, generator, late, None, False)
        if on_row is not None:
            on_row(total, total)
    return check_end(x, total, "snr", snr)
