r"""What x_t still knows of x_0, by the I-MMSE relation (Guo, Shamai & Verdú 2005, theorem 1; IDENTITIES item 31):

    dI(x_0; x_t)/dSNR = ½ mmse(SNR),   mmse = E‖x_0 − E[x_0|x_t]‖²

It is integrated in v = log(1 + c·SNR), c the data's mean variance, in which the integrand ½ mmse (1 + c·SNR)/c is bounded
at both ends, and constant for round Gaussian data:

    I(x_0; x_t) = ½∫_0^{v_t} mmse e^v/c dv = ½∫_0^{v_t} E‖ε − ε̂‖²/sigmoid(λ + log c) dv

The second form is a network's, from data alone: its own denoising error, at least the mmse, so that I is overestimated, by
½∫E‖x̂_0 − E[x_0|x_t]‖² dSNR. No network is asked below the schedule's last SNR: there I(x_0; x_1) ≤ ½D log(1 + c·SNR_1)
(of all laws of this variance a Gaussian has the most) stands for it, and is the most that this can add.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from unidiff.core.boundary import right_expand
from unidiff.core.denoising import denoising_error
from unidiff.core.diffusion import Diffusion
from unidiff.thermo.averages import Noised
from unidiff.worlds import Estimate, Gaussian, World
from unidiff.worlds.estimate import monte_carlo

_SETTLED = 1e-9
_NODES = (16, 32, 64, 128, 256)
_BLOCK = 2**16  # numbers noised at once


def world_information(
    world: World,
    low: float,
    high: float,
    draws: int = 16384,
    generator: torch.Generator | None = None,
    nodes: int | None = None,
) -> Estimate:
    """I(x_0; z) at log-SNR ``high`` less that at ``low`` (−∞ for nothing known), in nats, from a world's mmse.

    Exact on Gaussians; by quadrature where the noised mixture is :attr:`Noised.integrable`, with ``nodes`` of them or as
    many as it takes to stand still; else from ``draws`` of (λ, x_0, ε), by tr Cov[x_0|z]. Arguments are trusted.
    """
    wide = world.to(torch.float64)
    if isinstance(wide, Gaussian):
        log_spread = torch.linalg.eigvalsh(wide.covariance).log().cpu()
        ends = torch.tensor([low, high], dtype=torch.float64)[:, None]
        return Estimate.exact(0.5 * F.softplus(ends + log_spread).diff(dim=0).sum())
    scale = float(wide.variance.mean())
    if scale == 0.0:  # one point: nothing to know
        return Estimate.exact(torch.zeros((), dtype=torch.float64))
    if Noised(wide, *vp_scales(high)).integrable:

        def rate(v: Tensor) -> Tensor:
            mmse = [Noised(wide, *vp_scales(float(log_snr))).mmse().value for log_snr in log_snr_of(v, scale)]
            return 0.5 * torch.stack(mmse) * v.exp() / scale

        return integral(rate, v_of(low, scale), v_of(high, scale), nodes)
    x0 = wide.sample(draws, generator)
    start, span = v_of(low, scale), v_of(high, scale) - v_of(low, scale)
    v = start + span * torch.rand(draws, generator=generator, dtype=torch.float64, device=x0.device)
    log_snr = log_snr_of(v, scale)
    alpha, sigma = ((0.5 * F.logsigmoid(sign * log_snr)).exp() for sign in (1, -1))
    noise = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
    z = right_expand(alpha, x0) * x0 + right_expand(sigma, x0) * noise
    blocks = torch.arange(draws, device=x0.device).split(max(1, _BLOCK // wide.dim))
    laws = (wide.posterior(z[i], alpha[i], sigma[i], check=False) for i in blocks)
    trace = torch.cat([law.variance.flatten(1).sum(1) for law in laws])
    return monte_carlo(0.5 * span * trace * v.exp() / scale)


@torch.no_grad()
def data_information(
    core: Diffusion, x0: Tensor, low: float, high: float, generator: torch.Generator | None = None
) -> Tensor:
    """½∫E‖ε − ε̂‖²/sigmoid(λ + log c) dv between two log-SNRs that the schedule has, a draw for each datum, ``[B]``."""
    scale = float(x0.to(torch.float64).var(0).mean())
    start, span = v_of(low, scale), v_of(high, scale) - v_of(low, scale)
    if span == 0.0:  # at the last time itself, where the SNR may be 0 and nothing can be asked
        return torch.zeros(len(x0), dtype=torch.float64, device=x0.device)
    v = start + span * torch.rand(len(x0), generator=generator, dtype=torch.float64, device=x0.device)
    log_snr = log_snr_of(v, scale)
    error = denoising_error(core, x0, core.schedule.time(log_snr), generator=generator).to(torch.float64)
    return 0.5 * span * error / torch.sigmoid(log_snr + math.log(scale))


def last_information(x0: Tensor, log_snr: float) -> Tensor:
    """½D log(1 + c·SNR): no more is known of data of mean variance c at this log-SNR, in nats.

    A share for each datum, ``[B]``: their mean is it, their spread what c is uncertain by (the delta method).
    """
    wide = x0.to(torch.float64).flatten(1)
    own, scale = (wide - wide.mean(0)).square().mean(1), float(wide.var(0).mean())
    slope = torch.sigmoid(torch.tensor(log_snr, dtype=torch.float64) + math.log(scale))  # dv/d log c
    return 0.5 * wide.shape[1] * (v_of(log_snr, scale) + slope.to(own) * (own / own.mean() - 1))


def v_of(log_snr: float, scale: float) -> float:
    """v = log(1 + c·SNR)."""
    return float(F.softplus(torch.tensor(log_snr, dtype=torch.float64) + math.log(scale), threshold=700.0))


def log_snr_of(v: Tensor, scale: float) -> Tensor:
    """λ at which v = log(1 + c·SNR), in v's shape."""
    return v + torch.log(-torch.expm1(-v)) - math.log(scale)


def vp_scales(log_snr: float) -> tuple[float, float]:
    """(α, σ) of a log-SNR with α² + σ² = 1; what is known of x_0 does not depend on the convention."""
    at = torch.tensor([log_snr, -log_snr], dtype=torch.float64)
    alpha, sigma = (0.5 * F.logsigmoid(at)).exp().tolist()
    return alpha, sigma


def integral(integrand: Callable[[Tensor], Tensor], low: float, high: float, nodes: int | None = None) -> Estimate:
    """∫ of a smooth function ``[n] -> [n]`` by Gauss and Legendre's rule, refined until it stands still.

    Args:
        integrand: in float64.
        low, high: the ends.
        nodes: so many and no more; the error is then what half of them would have changed.
    """
    counts = _NODES if nodes is None else (max(1, nodes // 2), nodes)
    previous = _rule(integrand, low, high, counts[0])
    for count in counts[1:]:
        found = _rule(integrand, low, high, count)
        change = (found - previous).abs()
        if change <= _SETTLED * (1 + found.abs()):
            break
        previous = found
    return Estimate(found, change, "quadrature")  # pyright: ignore[reportPossiblyUnbound]


def _rule(integrand: Callable[[Tensor], Tensor], low: float, high: float, count: int) -> Tensor:
    x, w = _legendre(count)
    half = 0.5 * (high - low)
    return half * (w * integrand(low + half * (1 + x))).sum()


@lru_cache(maxsize=32)
def _legendre(count: int) -> tuple[Tensor, Tensor]:
    x, w = np.polynomial.legendre.leggauss(count)
    return torch.from_numpy(x), torch.from_numpy(w)
