"""What the thermodynamic view asks of its arguments, once, before any work."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from unidiff.core.boundary import check_count, check_generator, check_time
from unidiff.core.diffusion import Diffusion
from unidiff.thermo.averages import Noised
from unidiff.worlds import World


def asked(
    core: Diffusion,
    world: World | None,
    t: float,
    x0: Tensor | None,
    draws: int,
    generator: torch.Generator | None,
) -> tuple[float, Noised | None]:
    """The time, and the world's law there; None without a world, when means are over ``x0``.

    Raises:
        TypeError: x0 is no floating-point tensor.
        ValueError: a time that is not one, outside [0, 1], without noise or with infinite noise; draws below 2; x0
            missing, not wanted, fewer than two or as :meth:`unidiff.Diffusion.check_batch`.
    """
    t = check_noisy(core, t)
    check_count("draws", draws, 2)
    if world is None:
        if x0 is None:
            raise ValueError("x0 must be given without a world: data [B, *E], two or more, to take means over")
        core.check_batch("x0", x0)
        if len(x0) < 2:
            raise ValueError(f"x0 must hold two data or more, for a standard error, got {len(x0)}")
        if not bool(x0.detach().var(0).sum() > 0):
            raise ValueError(f"x0 must hold data that differ, got {len(x0)} times the same")
        check_generator(generator, x0.device)
        return t, None
    check_generator(generator, world.device)
    if x0 is not None:
        raise ValueError("x0 must be left out with a world, whose own law is measured; or leave out the world")
    level = core.schedule.level(t)
    return t, Noised(world, float(level.alpha.detach()), float(level.sigma.detach()), draws, generator)


def as_network(core: Diffusion, x: Tensor) -> Tensor:
    """``x`` in the dtype and on the device of the core's network, which are its first floating-point parameter's."""
    own = core.first_parameter()
    return x if own is None else x.to(own)


def check_one(argument: str, t: float) -> float:
    """``t`` if it is one time in [0, 1]."""
    at = check_time(argument, t)
    if at.ndim != 0:
        raise ValueError(f"{argument} must be one time, got shape {list(at.shape)}; budget(times) takes many")
    return float(at)


def check_noisy(core: Diffusion, t: float, argument: str = "t") -> float:
    """``t`` if it is one time in [0, 1] with noise, 0 < σ < ∞."""
    at = check_one(argument, t)
    sigma = float(core.schedule.sigma(at).detach())
    if sigma == 0.0:
        raise ValueError(
            f"{argument} must have noise (sigma > 0): without it what x_t knows of x_0 is infinite, got t = {at}"
        )
    if not math.isfinite(sigma):
        raise ValueError(f"{argument} must have finite noise, got sigma = {sigma} at t = {at}")
    return at


def check_heard(core: Diffusion, t: float, argument: str = "t") -> float:
    """``t`` if it is one time in [0, 1] with noise and a positive SNR: an end of an integral over log-SNR."""
    at = check_noisy(core, t, argument)
    if float(core.schedule.alpha(at).detach()) == 0.0:
        raise ValueError(
            f"{argument} must have signal (alpha > 0), an end of an integral over log-SNR, got an SNR of 0 at t = {at}"
        )
    return at


def known(world: World | None, purpose: str) -> World:
    """The world, or an error that says what needs one."""
    if world is None:
        raise ValueError(f"{purpose} needs a world: pass Thermodynamics(core, world)")
    return world


def given(x0: Tensor | None) -> Tensor:
    """Data that :func:`asked` has seen."""
    assert x0 is not None
    return x0
