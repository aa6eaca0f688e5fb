r"""Down the noise levels by chains that keep each level's law exactly: MCMC on composed energies (Du et al. 2023, sec. 5).

At levels λ_1 < … < λ_L of log-SNR, from x ~ N(0, (α_1² + σ_1²) I), T steps of a kernel with Metropolis' correction on

    q_k(x) ∝ e^{−E(x, t_k)/τ}

for each k in turn. No step follows a score from one level to the next, so nothing is asked of how the laws of two levels
are related: they need be no noising of each other, as those of a product are not (IDENTITIES item 46). What is left at λ_L
is q_L, as nearly as T steps a level let the chains keep up with it; a mode that closes off early keeps what it had.

The step size of each level is found by a warm-up there, which starts at the level before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from unidiff.core.boundary import Time, check_count, check_dtype, check_generator, check_progress, check_type
from unidiff.core.places import places
from unidiff.core.schedule import Schedule
from unidiff.ebm.model import EnergyModel
from unidiff.mcmc import MALA, Chains, Kernel, Langevin, Target
from unidiff.mcmc.target import check_chains

OnLevel = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class AnnealedChains:
    """Chains at the end of a walk down the levels.

    Attributes:
        x: where they are, ``[B, *E]``: draws of the last level's law, up to what T steps a level leave.
        log_snr: the levels, ``[L]``, float64.
        acceptance: the mean share of accepted proposals at each, ``[L]``.
        step_size: at each, in the kernel's unit, ``[L]``.
    """

    x: Tensor = field(repr=False)
    log_snr: Tensor
    acceptance: Tensor
    step_size: Tensor


def annealed(
    model: EnergyModel,
    n: int | None = None,
    *,
    kernel: Kernel | None = None,
    levels: int = 20,
    steps: int = 10,
    warmup: int = 10,
    log_snr: tuple[float, float] | None = None,
    x: Tensor | None = None,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    on_level: OnLevel | None = None,
) -> AnnealedChains:
    """Samples of an energy with time, or of a composition of such, ``[B, *E]``, by chains on each of its noise levels.

    Args:
        model: the energy.
        n: how many chains, begun from noise of the first level's scale; leave it out where ``x`` is given.
        kernel: ``MALA(step_size)`` or ``HMC(step_size, leapfrog)``; None takes MALA(0.1).
        levels: L ≥ 2, evenly spaced in log-SNR.
        steps: T, at each level after its warm-up.
        warmup: steps at each level that find its step size; 0 keeps the kernel's own at every level.
        log_snr: (lowest, highest), of the first and the last level; None takes (−6, 9.2), cut to the schedule's range.
        x: the start at the first level, ``[B, *E]``, in place of ``n``.
        generator: the source of all draws.
        dtype, device: of the start drawn for ``n``; the device is the generator's, or the CPU, if None.
        on_level: progress, called with (levels done, L).

    Raises:
        TypeError: a model that is no EnergyModel, a kernel that rejects nothing.
        ValueError: an energy without time, counts or log-SNRs out of range, both or neither of n and x, x of another shape.
        Divergence, FloatingPointError: as :func:`unidiff.mcmc.langevin`.
    """
    check_model(model)
    if model.schedule is None:
        raise ValueError("model must have time to be annealed along it: EnergyModel(..., schedule=…), got one without")
    kernel = check_kernel(kernel, MALA(0.1))
    check_count("levels", levels, 2)
    check_count("steps", steps)
    check_count("warmup", warmup, 0)
    check_progress("on_level", on_level)
    at = places(model.schedule, levels, log_snr)
    times = model.schedule.time(at).detach()
    x = begin(model, n, x, scale_at(model.schedule, times[0]), generator, dtype, device)
    acceptance, sizes = [], []
    for k, t in enumerate(times):
        chains = run(model.target(x, t), kernel, x, steps, warmup, generator)
        x, kernel = chains.x, chains.kernel
        acceptance.append(float(chains.acceptance.mean()))  # pyright: ignore
        sizes.append(chains.step_size)
        if on_level is not None:
            on_level(k + 1, levels)
    found = (torch.tensor(v, dtype=torch.float64) for v in (acceptance, sizes))
    return AnnealedChains(x, at, *found)


def run(
    target: Target, kernel: Kernel, x: Tensor, steps: int, warmup: int, generator: torch.Generator | None
) -> Chains:
    """Some steps on one of many laws, each met once: eagerly, since a capture would not be used again."""
    return Langevin(target, kernel, graph=False)(x, steps, warmup=warmup, generator=generator)


def scale_at(schedule: Schedule, t: Time) -> float:
    """√(α² + σ²) at t: the deviation of noised data of unit scale."""
    return math.hypot(float(schedule.alpha(t).detach()), float(schedule.sigma(t).detach()))


def check_model(model: object) -> None:
    """Refuse, by a TypeError, what is no energy."""
    check_type("model", model, EnergyModel)


def check_kernel(kernel: Kernel | None, otherwise: Kernel) -> Kernel:
    """``kernel``, or ``otherwise`` for None, if it has Metropolis' correction; else a TypeError."""
    kernel = otherwise if kernel is None else kernel
    if not isinstance(kernel, Kernel) or not kernel.metropolis:
        raise TypeError(f"kernel must be one that keeps its law exactly, MALA(...) or HMC(...), got {kernel!r}")
    return kernel


def begin(
    model: EnergyModel,
    n: int | None,
    x: Tensor | None,
    std: float,
    generator: torch.Generator | None,
    dtype: torch.dtype,
    device: torch.device | str | None,
) -> Tensor:
    """``x``, or ``n`` draws of N(0, std² I) where it is not given, ``[B, *E]``. Raises TypeError, ValueError."""
    if (n is None) == (x is None):
        raise ValueError(f"n or x must be given, and not both, got n = {n} and {'no x' if x is None else 'an x'}")
    if x is None:
        check_dtype(dtype)
        check_count("n", n)  # pyright: ignore
        if device is None:
            device = "cpu" if generator is None else generator.device
        check_generator(generator, torch.device(device))
        shape = (n, *model.event_shape)
        return std * torch.randn(shape, generator=generator, dtype=dtype, device=device)  # pyright: ignore
    check_chains(x, model.event_shape)
    check_generator(generator, x.device)
    return x
