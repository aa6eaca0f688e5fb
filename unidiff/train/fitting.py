r"""A schedule fitted to a core as it is: the inside alone, so that the bound stays and its estimate is sharper.

The diffusion term of the bound is E[L], L = ½γ'(t)‖ε − ε̂‖² at t ~ U[0, 1] (:mod:`unidiff.train.schedule`). With the
denoiser and the ends of λ held, an inside changes Var[L] and nothing else: how many draws a figure costs, not the figure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from unidiff.core.boundary import check_count, check_generator, check_positive, check_real, check_seed
from unidiff.core.diffusion import Diffusion
from unidiff.core.schedule_learned import Learned
from unidiff.core.times import antithetic_times, finite_span
from unidiff.train.loss import denoising_loss
from unidiff.train.schedule import Sampled, Slopes, learn_inside
from unidiff.train.weighting import log_weight


@dataclass(frozen=True)
class Spread:
    """L over independent draws of a datum, its noise and its time.

    Attributes:
        mean: the bound's diffusion term, in nats.
        mean_error: its standard error, in nats.
        variance: Var[L], in nats².
        variance_error: its standard error, by the fourth moment, in nats².
        draws: how many.
    """

    mean: float
    mean_error: float
    variance: float
    variance_error: float
    draws: int


@torch.no_grad()
def estimator_spread(
    core: Diffusion,
    x0: Tensor,
    draws: int = 65536,
    *,
    condition: Tensor | None = None,
    generator: torch.Generator | None = None,
    rows: int = 4096,
) -> Spread:
    """E[L] and Var[L] of one draw of (x_0, ε, t) under the core's schedule.

    Args:
        core: a schedule and a denoiser.
        x0: data ``[B, *E]``, drawn from with replacement.
        draws: independent ones, at least 2.
        condition: labels ``[B]``.
        generator: the source of everything, on x0's device.
        rows: states that the denoiser is asked at a time.

    Raises:
        TypeError, ValueError: x0 or labels as :meth:`unidiff.Diffusion.check_batch`, draws below 2, rows below 1.
    """
    condition = core.check_batch("x0", x0, condition)
    check_generator(generator, x0.device)
    check_count("draws", draws, least=2)
    check_count("rows", rows)
    first, last = finite_span(core.schedule)
    found = []
    for start in range(0, draws, rows):
        n = min(rows, draws - start)
        t = first + (last - first) * torch.rand(n, generator=generator, dtype=torch.float64, device=x0.device)
        index = torch.randint(x0.shape[0], (n,), generator=generator, device=x0.device)
        own = None if condition is None else condition[index]
        found.append(denoising_loss(core, x0[index], own, weighting="elbo", generator=generator, t=t))
    loss = torch.cat(found).to("cpu", torch.float64)
    away = loss - loss.mean()
    variance = float(away.square().sum() / (draws - 1))
    fourth = float(away.pow(4).mean())
    return Spread(
        float(loss.mean()), math.sqrt(variance / draws), variance,
        math.sqrt(max(fourth - variance**2, 0.0) / draws), draws,
    )  # fmt: skip


def fit_schedule(
    core: Diffusion,
    x0: Tensor,
    *,
    condition: Tensor | None = None,
    steps: int = 1000,
    batch_size: int = 256,
    lr: float = 0.03,
    units: int = 16,
    ends: tuple[float, float] | None = None,
    seed: int = 0,
) -> Diffusion:
    """The same denoiser under a learned schedule that has the core's ends and the inside of least Var[L].

    The network is not trained, and its parameters' gradients are left as they were.

    Args:
        core: variance preserving.
        x0: data ``[B, *E]``.
        condition: labels ``[B]``.
        steps: of Adam, its rate falling to zero by a cosine.
        batch_size: data a step, drawn with replacement.
        lr: its first rate, of the schedule's raw parameters.
        units: of the learned schedule.
        ends: (λ_max, λ_min); None for the core's own.
        seed: of everything, the first inside included.

    Returns:
        a new core; the denoiser is shared, the schedule is frozen.

    Raises:
        TypeError, ValueError: x0 or labels as :meth:`unidiff.Diffusion.check_batch`; a schedule that is variance exploding,
            or has an infinite end where none is given; counts below 1, lr not positive, ends that do not decrease.
        FloatingPointError: a gradient that is not finite.
    """
    condition = core.check_batch("x0", x0, condition)
    for name, value in (("steps", steps), ("batch_size", batch_size)):
        check_count(name, value)
    check_positive("lr", lr)
    check_seed(seed)
    schedule = Learned(*_ends(core, ends), units=units, seed=seed).to(x0.device)
    generator = torch.Generator(x0.device).manual_seed(seed)
    optimizer = torch.optim.Adam(schedule.inside, lr=lr)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        index = torch.randint(x0.shape[0], (batch_size,), generator=generator, device=x0.device)
        own = None if condition is None else condition[index]
        sampled = Sampled(schedule, antithetic_times(batch_size, generator))
        drawn = Diffusion(sampled, core.denoiser)
        loss = denoising_loss(drawn, x0[index], own, weighting="elbo", generator=generator, t=sampled.t)
        loss.mean().backward(inputs=[sampled.leaf])
        learn_inside(sampled, Slopes.of(sampled, loss, 1 / batch_size, "elbo"), x0[0].numel())
        for parameter in schedule.inside:
            if parameter.grad is None or not bool(torch.isfinite(parameter.grad).all()):
                raise FloatingPointError(f"the estimator's variance has no finite gradient at step {step + 1}")
        optimizer.step()
        falling.step()
    return Diffusion(schedule.requires_grad_(False), core.denoiser)


def least_second_moment(
    core: Diffusion,
    x0: Tensor,
    bins: int = 64,
    draws: int = 1024,
    *,
    condition: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> float:
    """(∫ √E[(½‖ε − ε̂‖²)² | λ] dλ)², the least E[L²] of any inside between the core's ends, in nats²; by the midpoint rule.

    Args:
        core: a schedule with finite ends and a denoiser.
        x0: data ``[B, *E]``, drawn from with replacement.
        bins: values of λ.
        draws: of (x_0, ε) at each.
        condition: labels ``[B]``.
        generator: the source of everything, on x0's device.

    Raises:
        TypeError, ValueError: as :func:`estimator_spread`; an infinite end.
    """
    condition = core.check_batch("x0", x0, condition)
    high, low = _ends(core, None)
    width = (high - low) / check_count("bins", bins)
    total = 0.0
    for i in range(bins):
        t = core.schedule.time(low + (i + 0.5) * width).detach().expand(check_count("draws", draws))
        index = torch.randint(x0.shape[0], (draws,), generator=generator, device=x0.device)
        own = None if condition is None else condition[index]
        with torch.no_grad():
            loss = denoising_loss(core, x0[index], own, weighting="elbo", generator=generator, t=t)
            rate = 2 * log_weight("elbo", core.schedule, t[:1]).exp()  # −λ'
        total += width * float((loss.to(torch.float64) / rate.to(loss.device)).square().mean().sqrt())
    return total**2


def _ends(core: Diffusion, ends: tuple[float, float] | None) -> tuple[float, float]:
    if not core.schedule.variance_preserving:
        raise ValueError(
            f"core must have a variance-preserving schedule, as a learned one is, got a {type(core.schedule).__name__}; "
            "read it in that convention first (Schedule.as_vp and RescaledDenoiser)"
        )
    if ends is not None:
        if not isinstance(ends, (tuple, list)) or len(ends) != 2:
            raise ValueError(f"ends must be two log-SNRs, (highest, lowest), got {ends!r}")
        return check_real("ends[0]", ends[0]), check_real("ends[1]", ends[1])
    high, low = core.schedule.log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64)).detach().tolist()
    if not (math.isfinite(high) and math.isfinite(low)):
        raise ValueError(f"ends must be given for a schedule with an infinite one, got log-SNRs from {high} to {low}")
    return high, low
