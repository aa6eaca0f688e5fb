r"""Score matching, five ways, all of one gradient in expectation (items 13, 14).

With ε̂ = −σ ŝ and a weight w(t) on ‖ε − ε̂‖² = σ²‖ŝ − ∇log q(z|x_0)‖² (the trainer's weighting, an argument here):

    denoising  w σ² ‖ŝ − ∇log q(z|x_0)‖²                        Vincent 2011, eq. 11
    explicit   w σ² ‖ŝ − s‖²                                    the world's own s = ∇log q_t(z|c), c the row's class
    implicit   w σ² (‖ŝ‖² + 2∇·ŝ) = w (‖ε̂‖² − 2σ ∇·ε̂)           Hyvarinen 2005, theorem 1: no s needed
    hutchinson the same with vᵀ∇ŝ v for ∇·ŝ; it is sliced score matching with variance reduction (Song et al. 2019, eq. 8)
    sliced     w ((vᵀε̂)² − 2σ vᵀ∇ε̂ v)                           Song et al. 2019, eq. 7

    E explicit = E implicit + E wσ²‖s‖² = E denoising − E w(α²/σ²) tr Cov[x_0|z]

so that at one weight all have one gradient; they differ in what their estimate of it costs and how far it spreads. With
labels all are of the law given the label; a row of the null class (a trainer's dropped label) is of the whole law.
Written in ε̂ no factor is as large as 1/σ². An implicit loss is no distance: it is negative at the optimum.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from unidiff.core.boundary import (
    check_alike,
    check_batched,
    check_count,
    check_finite,
    check_generator,
    check_name,
    check_time,
    check_type,
    right_expand,
)
from unidiff.core.denoising import denoising_error
from unidiff.core.diffusion import Diffusion
from unidiff.core.level import NoiseLevel
from unidiff.score.arguments import conditional_law
from unidiff.score.derivatives import PROBES, Probe, divergence, draw_probes, probed_divergence
from unidiff.worlds import World

Objective = Literal["denoising", "implicit", "hutchinson", "sliced", "explicit"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)


def score_matching_loss(
    core: Diffusion,
    x0: Tensor,
    kind: str,
    t: Tensor,
    *,
    weight: Tensor | None = None,
    world: World | None = None,
    noise: Tensor | None = None,
    probes: int = 1,
    probe: Probe = "rademacher",
    generator: torch.Generator | None = None,
    condition: Tensor | None = None,
) -> Tensor:
    """The objective ``kind`` of each member of the batch, ``[B]``, summed over its D numbers, differentiable in θ.

    Args:
        core: a schedule and a denoiser.
        x0: data ``[B, *E]``.
        kind: "denoising", "implicit", "hutchinson", "sliced" or "explicit".
        t: times ``[B]``, or one; on any device that the schedule takes.
        weight: what multiplies ‖ε − ε̂‖², 0 or more, in t's shape; None is 1.
        world: the data's law, for "explicit"; with a condition its components are the classes.
        noise: ε ``[B, *E]``; drawn if None.
        probes: K of "hutchinson" and "sliced".
        probe: their kind.
        generator: the source of ε and the probes, on x0's device.
        condition: class labels ``[B]``, or one for all, ``[]``; the null class is the unconditional model.

    Raises:
        TypeError: x0 is no floating-point tensor, or condition none of integers; an argument of another type.
        ValueError: an unknown kind (with the nearest known one); x0 and condition as
            :func:`unidiff.score.arguments.check_batch`; t outside [0, 1] or where λ or the weight is infinite; a negative
            weight; "explicit" without a world, or with a condition and a world of other classes than the core's (they
            must be its components); probes below 1.
    """
    check_type("core", core, Diffusion)
    check_name("loss", kind, OBJECTIVES)
    check_count("probes", probes)
    check_name("probe", probe, PROBES)
    condition = core.check_batch("x0", x0, condition)
    check_generator(generator, x0.device)
    if kind == "explicit" and world is None:
        raise ValueError("loss 'explicit' needs data with a known law: pass world=...")
    law = (
        None
        if world is None
        else conditional_law(core, world, condition if kind == "explicit" else None, "loss 'explicit'")
    )
    t = check_batched("t", check_time("t", t), x0)
    level = core.schedule.level(t)
    if not bool(torch.isfinite(level.log_snr).all()):
        raise ValueError(f"t must be where the log-SNR is finite, got t in [{float(t.min()):g}, {float(t.max()):g}]")
    scale = torch.ones_like(t) if weight is None else check_finite("weight", check_batched("weight", weight, x0))
    if bool((scale < 0).any()):
        raise ValueError(f"weight must be 0 or more, got {float(scale.min()):g}")
    if kind == "denoising":
        return denoising_error(
            core, x0, t, log_weight=scale.detach().log(), noise=noise, condition=condition, generator=generator
        )
    level = NoiseLevel(*(v.detach().to(x0) for v in (level.t, level.log_snr, level.alpha, level.sigma)))
    if noise is None:
        noise = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
    else:
        check_alike(x0=x0, noise=noise)
    z = right_expand(level.alpha, x0) * x0 + right_expand(level.sigma, x0) * noise
    own = _Own(core, z, level, condition)
    if kind == "explicit":
        assert law is not None
        error = _explicit(own, law)
    elif kind == "implicit":
        error = _implicit(own, None)
    else:
        vectors = draw_probes(probes, z, probe, generator)
        error = _implicit(own, vectors) if kind == "hutchinson" else _sliced(own, vectors)
    return scale.detach().to(x0) * error


class _Own:
    """The core's ε̂ at a noisy batch, a function of the state alone."""

    def __init__(self, core: Diffusion, z: Tensor, level: NoiseLevel, condition: Tensor | None) -> None:
        self.core, self.z, self.level, self.condition = core, z, level, condition

    def __call__(self, z: Tensor) -> Tensor:
        return self.core.denoiser(z, self.level, self.condition).eps


def _explicit(own: _Own, world: World) -> Tensor:
    """‖ε̂ + σ s‖², ``[B]``."""
    law = world.to(own.z.dtype, own.z.device).diffuse(own.level.alpha, own.level.sigma)
    return (own(own.z) + right_expand(own.level.sigma, own.z) * law.score(own.z)).flatten(1).square().sum(1)


def _implicit(own: _Own, probes: Tensor | None) -> Tensor:
    """‖ε̂‖² − 2σ ∇·ε̂, the divergence exact or by probes ``[K, B, *E]``, ``[B]``."""
    if probes is None:
        eps, spread = divergence(own, own.z, differentiable=True)
    else:
        eps, each = probed_divergence(own, own.z, probes, differentiable=True)
        spread = each.mean(0)
    return eps.flatten(1).square().sum(1) - 2 * own.level.sigma * spread


def _sliced(own: _Own, probes: Tensor) -> Tensor:
    """(vᵀε̂)² − 2σ vᵀ∇ε̂ v, mean over probes ``[K, B, *E]``, ``[B]``."""
    eps, each = probed_divergence(own, own.z, probes, differentiable=True)
    along = (probes * eps).flatten(2).sum(2)
    return (along.square() - 2 * own.level.sigma * each).mean(0)
