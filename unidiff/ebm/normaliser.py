r"""How log Z_t moves with time: thermodynamic integration along the noise (Kirkwood 1935; Gelman & Meng 1998, eq. 7).

    d log Z_t/dt = −(1/τ) E_{q_t}[∂_t E(x, t)],      log Z_t = log Z_1 − ∫_t^1 (d log Z_s/ds) ds         (IDENTITIES item 38)

A core's exact energy is normalised at each t, so that the rate is zero; that of a network, or of a composition, is not. The
mean is over draws of q_t: of a world that is known, or of chains that follow the law down the times. The integral is the
trapezoidal rule on the given times, taken along each chain by itself: the chains are independent of each other, the
times of one chain are not, and so the error is theirs. What the rule itself costs is told by how far the value on every
other time lies from it, over three (Richardson).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from unidiff.core.boundary import Time, as_sequence, check_count, check_dtype, check_progress, check_time
from unidiff.core.networks.gradient import recordable
from unidiff.ebm.annealed import OnLevel, begin, check_kernel, check_model, run, scale_at
from unidiff.ebm.model import EnergyModel
from unidiff.mcmc import MALA, Kernel
from unidiff.worlds.world import World


@dataclass(frozen=True, eq=False)
class NormaliserFlow:
    """Log Z_t along times t_0 < … < t_K, against the last.

    Attributes:
        times: ``[K + 1]``, float64.
        rate: d log Z_t/dt at each, in nats per unit of time, ``[K + 1]``.
        log_z: log Z_t − log Z_{t_K}, in nats, ``[K + 1]``.
        standard_error: of ``log_z``, from the draws, ``[K + 1]``.
        quadrature_error: of ``log_z[0]``, from the rule, ``[]``; NaN of an odd number of intervals.
    """

    times: Tensor
    rate: Tensor
    log_z: Tensor
    standard_error: Tensor = field(repr=False)
    quadrature_error: Tensor


def log_z_rate(model: EnergyModel, x: Tensor, t: Time) -> Tensor:
    """−∂_t E(x, t)/τ at ``x`` ``[B, *E]`` and time t (one, or ``[B]``), in nats per unit of time, ``[B]``.

    Its mean over draws of q_t is d log Z_t/dt.

    Raises:
        TypeError, ValueError: as :meth:`EnergyModel.energy`; an energy without time.
    """
    check_model(model)
    if model.schedule is None:
        raise ValueError("model must have time for its normaliser to move, got an energy without a schedule")
    with torch.inference_mode(False), torch.enable_grad():
        each = recordable(check_time("t", t)).detach().to(x.device).expand(x.shape[0]).clone().requires_grad_()
        value = model.function(recordable(x), each)(recordable(x).detach())
        slope = None
        if value.requires_grad:
            (slope,) = torch.autograd.grad(value, each, torch.ones_like(value), allow_unused=True)
    return torch.zeros_like(value) if slope is None else -slope.to(value) / model.tau


def normaliser_flow(
    model: EnergyModel,
    times: Tensor,
    n: int,
    *,
    world: World | None = None,
    kernel: Kernel | None = None,
    steps: int = 10,
    warmup: int = 10,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    on_level: OnLevel | None = None,
) -> NormaliserFlow:
    """Log Z_t at each of ``times`` against the last of them, by ``n`` draws of each law, n ≥ 2.

    Args:
        model: the energy, with time.
        times: t_0 < … < t_K in [0, 1], two or more.
        n: how many draws or chains.
        world: the data's law, where it is known, so that q_t is that law noised; None runs chains from noise of
            t_K's scale down to t_0.
        kernel: of the chains, ``MALA(step_size)`` or ``HMC(step_size, leapfrog)``; None takes MALA(0.1).
        steps, warmup: of the chains at each time.
        generator: the source of all draws.
        dtype, device: of the draws; the device is the generator's, or the CPU, if None.
        on_level: progress, called with (times done, K + 1).

    Raises:
        TypeError: a model that is no EnergyModel, a kernel that rejects nothing.
        ValueError: an energy without time; times that do not rise within [0, 1]; counts out of range; a world of another
            shape.
        FloatingPointError: rates that are not finite.
    """
    check_model(model)
    if model.schedule is None:
        raise ValueError("model must have time for its normaliser to move, got an energy without a schedule")
    times = _check_times(times)
    check_count("n", n, 2)
    check_count("steps", steps)
    check_count("warmup", warmup, 0)
    check_progress("on_level", on_level)
    check_dtype(dtype)
    kernel = check_kernel(kernel, MALA(0.1))
    if world is not None and (tuple(world.event_shape) != model.event_shape or world.batch is not None):
        raise ValueError(f"world must be one law and have the model's shape {list(model.event_shape)}, got {world!r}")
    x = begin(model, n, None, scale_at(model.schedule, times[-1]), generator, dtype, device)
    rates = []
    for done, t in enumerate(times.flip(0)):
        if world is None:
            chains = run(model.target(x, t), kernel, x, steps, warmup, generator)
            x, kernel = chains.x, chains.kernel
        else:
            level = model.schedule.level(t, x)
            x = world.to(x.dtype, x.device).diffuse(level.alpha.detach(), level.sigma.detach()).sample(n, generator)
        rates.append(log_z_rate(model, x, t).detach().to(torch.float64).cpu())
        if on_level is not None:
            on_level(done + 1, len(times))
    return _integrated(times, torch.stack(rates).flip(0))


def _integrated(times: Tensor, rates: Tensor) -> NormaliserFlow:
    bad = int((~torch.isfinite(rates)).sum())
    if bad:
        raise FloatingPointError(f"rates must be finite, got NaN or infinity in {bad} of {rates.numel()} draws")
    total = _trapezoid(times, rates)
    coarse = torch.full((), math.nan, dtype=torch.float64)
    if len(times) % 2 == 1:
        coarse = (_trapezoid(times[::2], rates[::2])[0].mean() - total[0].mean()).abs() / 3
    error = total.std(1) / math.sqrt(rates.shape[1])
    return NormaliserFlow(times, rates.mean(1), total.mean(1), error, coarse)


def _trapezoid(times: Tensor, rates: Tensor) -> Tensor:
    """−∫_t^{t_K} of each column of ``rates`` ``[K + 1, n]``, from each t on, ``[K + 1, n]``."""
    pieces = 0.5 * (times[1:] - times[:-1])[:, None] * (rates[1:] + rates[:-1])
    whole = pieces.flip(0).cumsum(0).flip(0)
    return -torch.cat([whole, torch.zeros_like(whole[:1])])


def _check_times(times: Tensor) -> Tensor:
    found = check_time("times", as_sequence("times", times))
    if found.numel() < 2 or not bool((found[1:] > found[:-1]).all()):
        raise ValueError(f"times must be two or more, each after the one before, got {found.tolist()}")
    return found
