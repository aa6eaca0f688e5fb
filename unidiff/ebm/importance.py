r"""Annealed importance sampling: log Z of an energy, and with it the likelihood (Neal 2001).

Along laws f_0, …, f_L from a known p_0 = f_0 to f_L = e^{−E/τ}, with x_0 ~ p_0 and x_k from x_{k−1} by steps of a kernel
that keeps f_k,

    log w = Σ_{k=1}^{L} [log f_k(x_{k−1}) − log f_{k−1}(x_{k−1})],      E[w] = Z = ∫ e^{−E/τ}        (Neal 2001, eq. 11)

for any number of laws and steps: Ẑ = (1/n)Σ w is unbiased, and log Ẑ falls short of log Z on average (Jensen). The laws are

    geometric   f_k = p_0^{1−b_k} e^{−b_k E/τ},   b_k = k/L
    noise       f_k = e^{−E(·, t_k)/τ}, t_k from t_1 down to t, even in log-SNR; p_0 stands before them all

t_1 is 1, or the time of a log-SNR of −6 where that is earlier.

Step sizes are found on other chains (``pilot``), so that they are constants to the ones that are weighed; found on those
themselves they would bias Ẑ. Its error: se(log Ẑ)² = (n/ESS − 1)/(n − 1), of the first order in the weights' spread. It is
believed where ESS ≥ 100 and the weights' tail has an index below ½, so that their variance is finite
(:mod:`unidiff.core.weights`); elsewhere there is no interval, ``believed`` is false and a warning says so. A mode that no
chain met leaves no trace in the weights: that Ẑ is too small then is seen by nothing here. A floor holds always:
P(Ẑ > Z/δ) ≤ δ by Markov, so that log Z ≥ log Ẑ + log δ with probability 1 − δ.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Literal

import torch
from torch import Tensor

from unidiff.core.boundary import (
    check_count,
    check_dtype,
    check_generator,
    check_name,
    check_positive,
    check_progress,
)
from unidiff.core.gaussian import Gaussian as Normal
from unidiff.core.places import LOG_SNR
from unidiff.core.weights import effective_size, log_mean_exp, tail_index
from unidiff.ebm.annealed import OnLevel, check_kernel, check_model, run, scale_at
from unidiff.ebm.model import EnergyModel
from unidiff.mcmc import HMC, Kernel, Target
from unidiff.mcmc.chains import caller_depth
from unidiff.worlds.world import World

PATHS = ("geometric", "noise")
ESS_LEAST = 100.0
TAIL_MOST = 0.5
Potential = Callable[[Tensor], Tensor]


class EffectiveSizeWarning(UserWarning):
    """An estimate that rests on too few of its draws, or on weights of too heavy a tail, to be believed."""


@dataclass(frozen=True, eq=False)
class AnnealedImportance:
    """Log Z of e^{−E/τ}, in nats, and how far it can be believed.

    Attributes:
        log_z: log of the weights' mean, ``[]``, float64.
        standard_error: of it, ``[]``; of no meaning where it is not believed.
        low, high: the interval of log Z at ``level``, ``[]``; −∞ and ∞ where it is not believed.
        floor: a lower bound of log Z at ``level``, whatever the weights, ``[]``.
        ess: the effective number of the chains, 1 … n, ``[]``.
        tail: the tail index of the weights; at ½ or above their variance may be infinite, and ``ess`` of no meaning.
        believed: whether there are enough chains, and no heavy tail.
        level: of the interval and of the floor.
        log_weights: ``[n]``, float64.
        x: the chains, ``[n, *E]``: with their weights, draws of the law.
        acceptance: the mean share of accepted proposals on each law between, ``[L − 1]``.
        model, t: the energy, and the time of the law.
    """

    log_z: Tensor
    standard_error: Tensor
    low: Tensor
    high: Tensor
    floor: Tensor
    ess: Tensor
    tail: float
    believed: bool
    level: float
    log_weights: Tensor = field(repr=False)
    x: Tensor = field(repr=False)
    acceptance: Tensor = field(repr=False)
    model: EnergyModel = field(repr=False)
    t: float | None = None

    def log_prob(self, x: Tensor) -> Tensor:
        """−E(x, t)/τ − log Z at ``x`` ``[B, *E]``, in nats, ``[B]``, with the one error of log Z. Raises as ``energy``."""
        return -self.model.energy(x, self.t) / self.model.tau - self.log_z.to(x)


@torch.no_grad()
def annealed_importance(
    model: EnergyModel,
    n: int,
    *,
    t: float | None = None,
    start: World | float | None = None,
    path: Literal["geometric", "noise"] | None = None,
    levels: int = 40,
    steps: int = 1,
    kernel: Kernel | None = None,
    pilot: int = 64,
    level: float = 0.995,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    on_level: OnLevel | None = None,
) -> AnnealedImportance:
    """Log Z of ∫ e^{−E(x, t)/τ} dx by ``n`` independent chains, n ≥ 2.

    Args:
        model: the energy.
        n: how many chains.
        t: the time of the law, for an energy that has time.
        start: p_0: a world, or the deviation s of N(0, s² I); None takes s = 1 without time, and √(α² + σ²) at the
            first time of the path (at t for a geometric one), what noised data of unit scale have.
        path: ``"geometric"`` or ``"noise"``; None takes the noise where there is time.
        levels: L ≥ 1 laws, the last being the one that is sought.
        steps: of the kernel on each law between.
        kernel: ``MALA(step_size)`` or ``HMC(step_size, leapfrog)``; None takes HMC(0.1, 5).
        pilot: how many other chains find each law's step size, by 30 steps there; 0 keeps the kernel's own.
        level: of the interval, in (0, 1).
        generator: the source of all draws.
        dtype, device: of the chains; the device is the generator's, or the CPU, if None.
        on_level: progress, called with (laws done, of all, the pilot's counted too).

    Raises:
        TypeError: a model that is no EnergyModel, a start that is neither, a kernel that rejects nothing.
        ValueError: a time where there is none or none where there is, an unknown path, or ``"noise"`` without time or to a
            time without noise; counts, level or start out of range; a world of another shape, or without a density.
        FloatingPointError: log-weights that are not finite.

    Warns:
        EffectiveSizeWarning: fewer than 100 effective chains, or weights of a tail index of ½ or more.
    """
    check_model(model)
    check_count("n", n, 2)
    for name, value, least in (("levels", levels, 1), ("steps", steps, 1), ("pilot", pilot, 0)):
        check_count(name, value, least)
    check_level(level)
    check_progress("on_level", on_level)
    check_dtype(dtype)
    kernel = check_kernel(kernel, HMC(0.1, 5))
    device = torch.device(("cpu" if generator is None else generator.device) if device is None else device)
    check_generator(generator, device)
    like = torch.zeros(1, *model.event_shape, dtype=dtype, device=device)
    times, std = _times(model, t, path, levels, like)
    draw, log_prob = _start(model, std if start is None else start, like, generator)
    laws = [lambda x: -log_prob(x), *_laws(model, t, times, levels, log_prob, like)]
    count = (levels - 1) * (1 + bool(pilot))

    def tell(done: int) -> None:
        if on_level is not None:
            on_level(done, count)

    kernels = [kernel] * (levels - 1)
    if pilot:
        kernels = _tuned(laws[1:-1], kernel, draw(pilot), generator, tell)
    x, acceptance = draw(n), []
    log_w = torch.zeros(n, dtype=torch.float64, device=device)
    for k in range(1, levels + 1):
        log_w += (laws[k - 1](x) - laws[k](x)).detach().to(torch.float64)
        if k < levels:
            chains = run(Target.from_energy(laws[k]), kernels[k - 1], x, steps, 0, generator)
            x = chains.x
            acceptance.append(float(chains.acceptance.mean()))  # pyright: ignore
            tell(count - levels + 1 + k)
    return _judged(log_w, level, x, torch.tensor(acceptance, dtype=torch.float64), model, t)


def _judged(
    log_w: Tensor, level: float, x: Tensor, acceptance: Tensor, model: EnergyModel, t: float | None
) -> AnnealedImportance:
    bad = int((~torch.isfinite(log_w)).sum())
    if bad:
        raise FloatingPointError(f"log-weights must be finite, got NaN or infinity in {bad} of {log_w.numel()} chains")
    n, log_z, ess = log_w.numel(), log_mean_exp(log_w), effective_size(log_w)
    error = ((n / ess - 1).clamp(min=0) / (n - 1)).sqrt()
    tail = float(tail_index(log_w))
    enough = bool(ess >= ESS_LEAST)
    believed = enough and tail < TAIL_MOST
    reach = NormalDist().inv_cdf(0.5 * (1 + level)) * error if believed else torch.full_like(error, math.inf)
    if not believed:
        why = f"{float(ess):.3g} effective chains of {n}, fewer than {ESS_LEAST:g}"
        if enough:
            why = f"weights of a heavy tail, of index {tail:.2f}, at or above {TAIL_MOST:g}"
        warnings.warn(
            f"log Z = {float(log_z):.4g} rests on {why}: it is not to be believed, and no interval is stated; take more "
            "levels, steps or chains, or a start nearer to the law and wider than it",
            EffectiveSizeWarning,
            stacklevel=caller_depth(),
        )
    return AnnealedImportance(
        log_z, error, log_z - reach, log_z + reach, log_z + math.log1p(-level), ess, tail, believed, level, log_w, x,
        acceptance, model, t,
    )  # fmt: skip


def check_level(level: float) -> None:
    """Refuse, by a ValueError, what is no number in (0, 1)."""
    if isinstance(level, bool) or not isinstance(level, (int, float)) or not 0.0 < level < 1.0:
        raise ValueError(f"level must lie in (0, 1), got {level!r}")


def _tuned(
    laws: list[Potential],
    kernel: Kernel,
    x: Tensor,
    generator: torch.Generator | None,
    tell: Callable[[int], None],
) -> list[Kernel]:
    """A kernel for each law, its step size found there by chains of their own."""
    found = []
    for k, law in enumerate(laws):
        chains = run(Target.from_energy(law), kernel, x, 1, 30, generator)
        x, kernel = chains.x, chains.kernel
        found.append(kernel)
        tell(k + 1)
    return found


def _start(
    model: EnergyModel, start: World | float, like: Tensor, generator: torch.Generator | None
) -> tuple[Callable[[int], Tensor], Potential]:
    """Draws of p_0, and its log-density."""
    if isinstance(start, World):
        if tuple(start.event_shape) != model.event_shape or start.batch is not None:
            raise ValueError(f"start must be one law of the model's shape {list(model.event_shape)}, got {start!r}")
        world = start.to(like.dtype, like.device)
        world.log_prob(torch.zeros_like(like))
        return (lambda n: world.sample(n, generator)), (lambda x: world.log_prob(x, check=False))
    log_var = 2 * math.log(check_positive("start", start))

    def law(x: Tensor) -> Normal:
        return Normal(torch.zeros_like(x), torch.full_like(x, log_var))

    return (lambda n: law(like.expand(n, *like.shape[1:])).sample(generator)), (lambda x: law(x).log_prob(x))


def _times(
    model: EnergyModel, t: float | None, path: str | None, levels: int, like: Tensor
) -> tuple[list[float] | None, float]:
    """The times of a path along the noise (None for a geometric one), and the deviation where it begins."""
    schedule = model.schedule
    path = check_name("path", ("geometric" if schedule is None else "noise") if path is None else path, PATHS)
    model.function(like, t)
    if schedule is None or t is None:
        if path == "noise":
            raise ValueError("path 'noise' needs an energy with time, got one without a schedule; take 'geometric'")
        return None, 1.0
    if path == "geometric":
        return None, scale_at(schedule, t)
    first, last = schedule.log_snr(torch.tensor([1.0, t], dtype=torch.float64)).detach().tolist()
    if not math.isfinite(last):
        raise ValueError(
            "t must be a time with noise for path 'noise', whose levels are even in log-SNR; take path 'geometric', or a "
            f"time of finite log-SNR, got t = {t}"
        )
    # Below the usual lowest level there is nothing but noise, and steps there are wasted.
    at = torch.linspace(max(first, min(LOG_SNR[0], last - 1.0)), last, levels, dtype=torch.float64)
    times = [*schedule.time(at).detach().tolist()[:-1], float(t)]
    return times, scale_at(schedule, times[0])


def _laws(
    model: EnergyModel,
    t: float | None,
    times: list[float] | None,
    levels: int,
    log_prob: Potential,
    like: Tensor,
) -> list[Potential]:
    """−log f_1, …, −log f_L, in nats."""
    if times is None:
        own = model.function(like, t)

        def between(b: float) -> Potential:
            return lambda x: b * own(x) / model.tau - ((1 - b) * log_prob(x) if b < 1 else 0.0)

        return [between(k / levels) for k in range(1, levels + 1)]

    def own_at(time: float) -> Potential:
        function = model.function(like, time)
        return lambda x: function(x) / model.tau

    return [own_at(time) for time in times]
