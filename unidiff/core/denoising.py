r"""The denoising error, measured where it does not cancel.

For a network with output F and x̂_0 = p x_t + q F, every choice of F errs alike, up to a factor:

    ε − ε̂ = c (F* − F),   c = ∂ε̂/∂F,

F* being what F should have been: x_0, ε, v = αε − σx_0, s = −ε/σ, or EDM's (σ x_0/σ_d − α σ_d ε)/ρ. So the error is
taken on F, where both terms are of order one, and log c² joins the log-weight in float64: an x_0-network at λ = 20 is
never asked for ε̂ = (x_t − αx̂_0)/σ, a difference of equal numbers divided by zero.
"""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor

from unidiff.core.boundary import check_alike, check_batched, check_time, right_expand, send
from unidiff.core.denoiser import Denoiser
from unidiff.core.diffusion import Diffusion
from unidiff.core.level import NoiseLevel
from unidiff.core.prediction import conversion


def denoising_error(
    core: Diffusion,
    x0: Tensor,
    t: Tensor,
    *,
    log_weight: Tensor | None = None,
    noise: Tensor | None = None,
    condition: Tensor | None = None,
    generator: torch.Generator | None = None,
    autocast: torch.dtype | None = None,
) -> Tensor:
    """w‖ε − ε̂‖² of each member of the batch, summed over its D numbers, ``[B]``, differentiable in θ.

    Args:
        core: a schedule and a denoiser.
        x0: data ``[B, *E]``.
        t: times ``[B]``, or one, on any device that the schedule takes: λ, α, σ and the factors are made there in
            float64 and cast once, so times on the host keep a GPU from being waited for.
        log_weight: log w, in t's shape; None is 0.
        noise: ε ``[B, *E]``; drawn if None.
        condition: class labels ``[B]``, or one for all, ``[]``.
        generator: the source of ε, on x0's device.
        autocast: run the network, and it alone, in this dtype.

    Raises:
        TypeError: x0 is no floating-point tensor, or condition none of integers.
        ValueError: x0 or condition as :meth:`unidiff.Diffusion.check_arguments`, other shapes that do not fit,
            t outside [0, 1] or where w c² is not finite.
    """
    condition = core.check_arguments("x0", x0, condition, 1.0)
    t = check_batched("t", check_time("t", t), x0)
    if noise is None:
        noise = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
    else:
        check_alike(x0=x0, noise=noise)
    exact = core.schedule.level(t)
    log_total = 2 * error_scale(core, exact).abs().log()
    if log_weight is not None:
        log_total = log_total + check_batched("log_weight", log_weight, x0)
    # As everywhere: on a GPU looking would wait for it.
    if log_total.device.type == "cpu" and not bool((log_total < torch.inf).all()):
        raise ValueError(
            f"t must be where the weight is finite for this denoiser's output, got t in "
            f"[{t.min().item():g}, {t.max().item():g}] with log-weights up to {log_total.max().item():g}"
        )
    level = exact.to(x0)
    error, _, _ = _error(core, x0, noise, level, condition, autocast=autocast)
    return send(log_total.exp(), x0) * error.flatten(1).square().sum(1)


def noise_error(
    core: Diffusion,
    x0: Tensor,
    noise: Tensor,
    level: NoiseLevel,
    condition: Tensor | None = None,
    guidance: float = 1.0,
    embedding: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """ε − ε̂ ``[B, *E]``, the network's variance fraction, and x_t = α x_0 + σ ε; arguments are trusted.

    Args:
        level: in float64, one or ``[B]``.
        embedding: the level's, if the network makes one apart.
    """
    scale = right_expand(error_scale(core, level).to(x0), x0)
    error, fraction, xt = _error(core, x0, noise, level.to(x0), condition, guidance, embedding)
    return scale * error, fraction, xt


def error_scale(core: Diffusion, level: NoiseLevel) -> Tensor:
    """c with ε − ε̂ = c (F* − F), in the level's shape and dtype; F is x̂_0 for a denoiser that is no network."""
    _, on_x0 = conversion("x0", "eps", level.alpha, level.sigma)
    denoiser = core.denoiser
    if not isinstance(denoiser, Denoiser):
        return on_x0
    if denoiser.preconditioning == "edm":
        return on_x0 * denoiser.x0_coefficients(level)[1]
    return conversion(denoiser.prediction, "eps", level.alpha, level.sigma)[1]


def _error(
    core: Diffusion,
    x0: Tensor,
    noise: Tensor,
    level: NoiseLevel,
    condition: Tensor | None,
    guidance: float = 1.0,
    embedding: Tensor | None = None,
    autocast: torch.dtype | None = None,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """F* − F, the variance fraction and x_t."""
    denoiser = core.denoiser
    xt = right_expand(level.alpha, x0) * x0 + right_expand(level.sigma, x0) * noise
    if not isinstance(denoiser, Denoiser):
        prediction = denoiser(xt, level, condition, guidance)
        return x0 - prediction.x0, prediction.variance_fraction, xt
    half = contextlib.nullcontext() if autocast is None else torch.autocast(xt.device.type, autocast)
    with half:
        output, fraction = denoiser.evaluate(xt, level, condition, guidance, embedding)
    fraction = None if fraction is None else fraction.to(xt.dtype)
    return _target(denoiser, x0, noise, level) - output.to(xt.dtype), fraction, xt


def _target(denoiser: Denoiser, x0: Tensor, noise: Tensor, level: NoiseLevel) -> Tensor:
    """F*, from the definitions of what a network may predict."""
    alpha, sigma = right_expand(level.alpha, x0), right_expand(level.sigma, x0)
    if denoiser.preconditioning == "edm":
        std = denoiser.data_std
        rho = (alpha**2 * std**2 + sigma**2).sqrt()
        return (sigma / std * x0 - alpha * std * noise) / rho
    match denoiser.prediction:
        case "x0":
            return x0
        case "eps":
            return noise
        case "v":
            return alpha * noise - sigma * x0
        case "score":
            return -noise / sigma
