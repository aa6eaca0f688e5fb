r"""The best variance that every number of a step can share, measured on data (Bao et al. 2022, "Analytic-DPM").

With p_θ(x_{k−1}|x_k) = N(μ̂, v_k I), c and b of :mod:`unidiff.core.chain`, and m_k = E‖x_0 − x̂_0(x_k)‖²/D,

    E KL_k(v) = D/2 [(σ²_{k−1}c + b²m_k)/v − 1 + log(v/σ²_{k−1}c)],   least at v* = σ²_{k−1}c + b²m_k,

where it is ½D log(v*/σ²_{k−1}c); anywhere else it is more by ½D(v*/v − 1 − log v*/v), convex in log v. This holds of any
denoiser, right or wrong, since m_k is its own error. Bao et al. write v* with Γ_k = E‖ŝ‖²/D = E‖ε̂‖²/(Dσ²) (their eq. 8):

    m_k = (σ²/α²)(1 − σ²Γ_k),

which asks for ε − ε̂ and ε̂ to be uncorrelated. That is so of the exact denoiser; a trained one that errs has a larger m_k
than this says, or a 1 − σ²Γ_k below zero. So the error itself is measured here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from unidiff.core.boundary import check_alike, check_count, check_floating, check_generator, check_type
from unidiff.core.denoising import noise_error
from unidiff.core.diffusion import Diffusion
from unidiff.core.grid import TimeGrid


@dataclass(frozen=True, eq=False)
class OptimalVariance:
    """What :func:`optimal_variance` measured.

    Attributes:
        x0_variance: m_1 … m_N, for ``core.chain(grid, "optimal", x0_variance=…)``, float64 ``[N]`` on the host, in x² units.
        standard_error: of each, over data, same shape and unit; NaN never: of one datum it is infinite.
        examples: how many data it is a mean over.
    """

    x0_variance: Tensor
    standard_error: Tensor
    examples: int


@torch.no_grad()
def optimal_variance(
    core: Diffusion,
    x0: Tensor,
    grid: TimeGrid,
    draws: int = 1,
    *,
    condition: Tensor | None = None,
    guidance: float = 1.0,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    rows: int = 4096,
) -> OptimalVariance:
    """m_k at t_1 … t_N, from one pass over data: each datum is noised ``draws`` times at every level.

    Args:
        core: a schedule and a denoiser; its network is asked N·B·draws times.
        x0: data ``[B, *E]``.
        grid: t_0 … t_N, the chain's.
        draws: noises of each datum at each level.
        condition: labels ``[B]``, or one for all.
        guidance: as the chain will be asked.
        generator: the source of the noise, on x0's device.
        noise: in its place ``[draws, N, B, *E]``.
        rows: states that the network is asked at a time.

    Raises:
        TypeError: x0 is no floating-point tensor, or the labels no integers.
        ValueError: x0, labels or weight as :meth:`unidiff.Diffusion.check_batch`; noise of another shape; draws or rows
            below 1; a level of the grid, t_0 apart, without signal or without noise.
        FloatingPointError: the network's error is not finite.
    """
    condition = core.check_batch("x0", x0, condition, guidance)
    check_type("grid", grid, TimeGrid)
    check_generator(generator, x0.device)
    check_count("draws", draws)
    check_count("rows", rows)
    levels = core.schedule.level(grid.times)[1:]
    _check_levels(levels.log_snr, grid)
    batch, steps, dim = x0.shape[0], grid.steps, x0[0].numel()
    if noise is not None:
        check_floating("noise", noise)
        if noise.shape != (draws, steps, *x0.shape):
            raise ValueError(
                f"noise must have shape {[draws, steps, *x0.shape]}, one draw a level, got {list(noise.shape)}"
            )
        check_alike(x0=x0, noise=noise[0, 0])
    # Each datum's own mean over its draws: data are what is independent.
    each = torch.zeros(steps, batch, dtype=torch.float64, device=x0.device)
    for turn in range(draws):
        for k in range(steps):
            for start in range(0, batch, rows):
                part = slice(start, start + rows)
                eps = _noise(x0[part], generator) if noise is None else noise[turn, k, part]
                own = None if condition is None else condition[part]
                error, _, _ = noise_error(core, x0[part], eps, levels[k], own, guidance)
                each[k, part] += error.flatten(1).to(torch.float64).square().sum(1)
    # ‖x_0 − x̂_0‖² = (σ²/α²)‖ε − ε̂‖².
    each = (-levels.log_snr[:, None]).exp() * each.cpu() / (dim * draws)
    if not bool(torch.isfinite(each).all()):
        raise FloatingPointError("the denoiser's error is not finite at some level of the grid")
    spread = each.std(1) / math.sqrt(batch) if batch > 1 else torch.full((steps,), math.inf, dtype=torch.float64)
    return OptimalVariance(each.mean(1), spread, batch)


def _noise(x0: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)


def _check_levels(log_snr: Tensor, grid: TimeGrid) -> None:
    lost = ~torch.isfinite(log_snr)
    if bool(lost.any()):
        k = 1 + int(lost.nonzero()[0])
        raise ValueError(
            "grid must have finite log-SNRs after its first time, "
            f"got {float(log_snr[k - 1])} at t = {float(grid.times[k]):g}"
        )
