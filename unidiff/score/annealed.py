r"""Annealed Langevin: from noise to data by chains on ever less noised laws (Song & Ermon 2019, algorithm 1).

Their levels are y = x_0 + ρ ε with ρ falling geometrically; at level i of L, T steps

    y ← y + ½α_i ∇log q_{ρ_i}(y) + √α_i ξ,      α_i = ε ρ_i²/ρ_L².

A core's state is x = α_t y with ρ = σ_t/α_t (IDENTITIES item 7) and ∇_y = α_t ∇_x, so that in x the same steps are ULA's
with δ_i = ½ (ε/ρ_L²) σ_i², and on entering a level x is scaled by the ratio of the two α: what it is as y is kept. Only
κ = ε/ρ_L² matters, the squared step in units of the noise; theirs is 2e-5/0.01² = 0.2. Each level is ULA, which is biased
by its step: on data much wider than ρ_L the last levels change nothing but the finest detail, and the law that is left
is that of a slow anneal, exact as T → ∞ and κ → 0.

With ``denoise`` the end is x̂_0 of the last state (Jolicoeur-Martineau et al. 2021, section 3.1): the noise of the last
level, which is no part of the data, taken off.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unidiff.core.boundary import check_count, check_positive
from unidiff.core.diffusion import Diffusion
from unidiff.score.levels import OnRow, begin, check_end, check_noise, level_columns, level_of, run_rows
from unidiff.score.unadjusted import langevin_step

# ρ from 20, beyond any data of unit scale, to 0.01, Song & Ermon's last.
LOG_SNR = (-6.0, 9.2)


@torch.no_grad()
def annealed_langevin(
    core: Diffusion,
    n: int | None = None,
    *,
    levels: int = 50,
    steps: int = 10,
    step_size: float = 0.2,
    log_snr: tuple[float, float] | None = None,
    x: Tensor | None = None,
    denoise: bool = False,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    condition: Tensor | None = None,
    guidance: float = 1.0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    on_row: OnRow | None = None,
    graph: bool | None = None,
) -> Tensor:
    """Samples of the core by annealed Langevin, ``[B, *E]``.

    Args:
        core: the diffusion core.
        n: how many, begun from σ_1 ξ; leave it out where ``x`` is given.
        levels: L ≥ 2, evenly spaced in log-SNR (σ/α geometric).
        steps: T, at each level.
        step_size: κ, dimensionless.
        log_snr: (lowest, highest), of the first and the last level; None takes (−6, 9.2), cut to the schedule's range.
        x: the start at the first level, ``[B, *E]``, in place of ``n``.
        denoise: whether to end with x̂_0.
        generator: the source of all draws.
        noise: the steps' draws themselves, ``[L·T, 1, B, *E]``.
        condition: class labels ``[B]``, or one for all.
        guidance: classifier-free guidance weight; 1 is the plain conditional model.
        dtype, device: of the start drawn for ``n``; None takes the generator's device, else the parameters'.
        on_row: progress, called with (steps done, L·T).
        graph: whether a GPU run is captured and replayed; None captures whenever x is on a GPU.

    Returns:
        the state at the last level, or its x̂_0.

    Raises:
        ValueError: counts below 1, a step size that is not positive, both or neither of n and x, log-SNRs that do not
            rise or lie outside the schedule's range, x or noise of another shape.
        Divergence: chains are not finite at the end; it carries the finite ones.
    """
    check_count("levels", levels, 2)
    check_count("steps", steps)
    check_positive("step_size", step_size)
    places = _places(core, levels, log_snr)
    level = core.schedule.level_at(places)
    core.check_levels(level.alpha)
    alpha, sigma = level.alpha.detach(), level.sigma.detach()
    x = begin(core, n, x, float(sigma[0]), generator, dtype, device)
    condition = core.check_arguments("x", x, condition, guidance)
    check_noise(noise, (levels * steps, 1, *x.shape))
    scale = torch.ones(levels, steps, dtype=torch.float64, device=alpha.device)
    scale[1:, 0] = alpha[1:] / alpha[:-1]
    delta = 0.5 * step_size * sigma.square()
    each = [v.repeat_interleave(steps) for v in (*level_columns(level), delta)]
    columns = torch.stack([*each, scale.flatten()], 1)

    def step(x: Tensor, row: Tensor, xi: Tensor) -> Tensor:
        x = row[5] * x
        score = core.denoiser(x, level_of(row), condition, guidance).score
        return langevin_step(x, score, row[4], xi[0])

    x = run_rows(step, x, columns, 1, generator, noise, on_row, graph)
    check_end(x, levels * steps, "step_size", step_size)
    if not denoise:
        return x
    return core.predict(x, level.t[-1].detach(), condition, guidance).x0


def _places(core: Diffusion, levels: int, log_snr: tuple[float, float] | None) -> Tensor:
    ends = core.schedule.log_snr(torch.tensor([1.0, 0.0], dtype=torch.float64)).detach()
    if log_snr is None:
        low, high = max(LOG_SNR[0], float(ends[0])), min(LOG_SNR[1], float(ends[1]))
    else:
        low, high = log_snr
    if not low < high:
        raise ValueError(f"log_snr must rise from the first level to the last, got {low:g} to {high:g}")
    return torch.linspace(low, high, levels, dtype=torch.float64)
