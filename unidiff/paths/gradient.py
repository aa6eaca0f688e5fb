r"""The grid by gradient descent through the sampler itself: what a path is worth at its end, not step by step.

    teacher's ends   min over λ_1 > … > λ_{K−1} of E‖φ(Φ_λ(x_T)) − φ(x_0*(x_T))‖²/F,   x_0* the teacher's end from x_T
    data             min of 2 E‖X − Y‖ − E‖X − X′‖ − E‖Y − Y′‖,   X = φ(Φ_λ(x_T)), Y = φ(data)

(Tong et al. 2025, LD3; the energy distance is Székely & Rizzo's, 2013, and 0 only where the two laws are one). A few steps
cannot reach the teacher's very ends, and what comes nearest to them on average is washed out; the second asks only that the
law be right. The rows of a sampler are differentiable functions of their times; the interior log-SNRs are the ends' span
times the partial sums of a softmax, so that no step can leave or turn round. It needs no candidates and sees how errors add
up; it has no guarantee, and begins where the best of a few grids are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from unidiff.core.boundary import (
    check_count,
    check_finite,
    check_name,
    check_positive,
    check_progress,
    check_seed,
    check_state,
    check_type,
)
from unidiff.core.diffusion import Diffusion
from unidiff.core.grid import TimeGrid
from unidiff.core.level import NoiseLevel
from unidiff.core.sampling import Sampler
from unidiff.core.tables import LAST_STOP, Steps, default_grid, rows_of

Followed = Literal["ddim", "euler", "dpm++2m"]
BATCH = 256
"""Pairs of the teacher's that a run looks at, many times over."""


def refine(
    core: Diffusion,
    starts: TimeGrid | Sequence[TimeGrid],
    method: Followed = "dpm++2m",
    *,
    data: Tensor | None = None,
    features: Callable[[Tensor], Tensor] | None = None,
    descents: int = 1,
    rounds: int = 100,
    batch: int = 128,
    rate: float = 0.05,
    teacher_steps: int = 64,
    seed: int = 0,
    on_round: Callable[[int, int], None] | None = None,
) -> TimeGrid:
    """A grid of as many steps as the starts, between their ends, that brings ``method`` nearest to the teacher or the data.

    Args:
        core: the core, whose parameters are left as they are.
        starts: grids of one number of steps and the same ends; descents begin at the best of them.
        method: the sampler, a deterministic one.
        data: ``[n, *E]``, whose law is to be met; the teacher's ends are, one by one, if left out.
        features: φ, ``[B, *E] -> [B, F]``, differentiable; the numbers of x themselves if left out.
        descents: how many.
        rounds: steps of Adam of each, its rate falling to 0.
        batch: walks of a round, of :data:`BATCH` in all, and data.
        rate: Adam's, of the softmax's arguments.
        teacher_steps: of ``dpm++2m`` on its own grid.
        seed: of the walks' starts.
        on_round: progress, called with (rounds done, rounds).

    Returns:
        the grid that was best over all walks, the starts among those tried.

    Raises:
        TypeError, ValueError: naming the argument.
        FloatingPointError: a walk that ends in values that are not finite, or without a slope.
    """
    check_type("core", core, Diffusion)
    starts = [starts] if isinstance(starts, TimeGrid) else list(starts)
    _check_starts(starts)
    check_name("method", method, ("ddim", "euler", "dpm++2m"))
    check_positive("rate", rate)
    check_seed(seed)
    check_progress("on_round", on_round)
    counts = {"descents": descents, "rounds": rounds, "batch": batch, "teacher_steps": teacher_steps}
    for name, value in counts.items():
        check_count(name, value)
    first = core.first_parameter()
    like = torch.empty(0) if first is None else first.detach()
    generator = torch.Generator(like.device).manual_seed(seed)
    far = core.prior(BATCH, generator, like)
    if data is None:
        near = Sampler(core, default_grid(core.schedule, teacher_steps, "dpm++2m"), "dpm++2m")(far)
    else:
        check_state("data", data, core.event_shape)
        check_count("number of data", len(data), 2)
        near = check_finite("data", data.detach()).to(far)
    goal = Goal(near, features, paired=data is None)
    ranked = sorted((_apart(core, grid.times, method, far, goal), i) for i, grid in enumerate(starts))
    least, best = ranked[0][0], starts[ranked[0][1]]
    if best.steps < 2:
        return best
    chosen = [starts[i] for _, i in ranked[:descents]]
    for n, start in enumerate(chosen):
        line = _Line(core, start)
        theta = line.theta.requires_grad_(True)
        adam = torch.optim.Adam([theta], rate)
        for k in range(rounds):
            rows = torch.randint(len(far), (batch,), generator=generator, device=far.device)
            others = (
                rows if data is None else torch.randint(len(near), rows.shape, generator=generator, device=far.device)
            )
            loss = goal(walked(core, line.times(theta), method, far[rows]), others)
            (slope,) = torch.autograd.grad(loss, theta)
            if not bool(torch.isfinite(slope).all()):
                raise FloatingPointError(
                    f"the end must have a finite gradient in its times, got {slope} in round {k + 1}"
                )
            theta.grad = slope
            adam.param_groups[0]["lr"] = rate * 0.5 * (1 + math.cos(math.pi * k / rounds))
            adam.step()
            if on_round is not None:
                on_round(n * rounds + k + 1, len(chosen) * rounds)
        ended = TimeGrid(line.times(theta).detach())
        found = _apart(core, ended.times, method, far, goal)
        if found < least:
            best, least = ended, found
    return best


def _check_starts(starts: list[TimeGrid]) -> None:
    if not starts:
        raise ValueError("starts must hold at least one grid, got none")
    for start in starts:
        check_type("a start", start, TimeGrid)
        if start.steps != starts[0].steps or start.times[0] != starts[0].times[0]:
            raise ValueError(f"starts must have one number of steps and one first time, got {starts[0]} and {start}")


def walked(core: Diffusion, times: Tensor, method: Followed, x: Tensor) -> Tensor:
    """Where a sampler ends from ``x`` ``[B, *E]``, differentiable in ``times`` ``[K + 1]``; arguments are trusted."""
    down = times.flip(0)
    rows = rows_of(Steps(core.schedule, down[1:], down[:-1]), method)
    kept = torch.zeros_like(x)
    for r in range(rows.rows):
        level = NoiseLevel(*(column[r].to(x) for column in (rows.t, rows.log_snr, rows.alpha, rows.sigma)))
        x0 = core.denoiser(x, level).x0
        a, b, g, c, d = (v[r].to(x) for v in (rows.on_xt, rows.on_x0, rows.on_kept, rows.keep_xt, rows.keep_x0))
        x, kept = a * x + b * x0 + g * kept, c * x + d * x0
    return x


class _Line:
    """Grids between two ends by the arguments θ ``[K]`` of a softmax, in log-SNR."""

    def __init__(self, core: Diffusion, start: TimeGrid) -> None:
        self.schedule, self.ends = core.schedule, start.times[[0, -1]]
        levels = self.schedule.log_snr(start.times).detach()
        stop = torch.tensor(LAST_STOP, dtype=torch.float64)
        top = levels[0] if math.isfinite(float(levels[0])) else self.schedule.log_snr(stop).detach()
        self.top = torch.maximum(top, levels[1])
        self.bottom = levels[-1] if math.isfinite(float(levels[-1])) else levels[-2] - 1.0
        shares = -torch.cat([self.top[None], levels[1:-1], self.bottom[None]]).diff()
        self.theta = shares.clamp(min=1e-4 * float(self.top - self.bottom)).log()

    def times(self, theta: Tensor) -> Tensor:
        """The grid's times ``[K + 1]``."""
        levels = self.top - (self.top - self.bottom) * theta.softmax(0).cumsum(0)[:-1]
        return torch.cat([self.ends[:1], self.schedule.time(levels), self.ends[1:]])


class Goal:
    """What ends are measured against: the teacher's, one by one, or the data's law.

    Args:
        near: the teacher's ends of the same walks, or data, ``[n, *E]``.
        features: φ.
        paired: which.
    """

    def __init__(self, near: Tensor, features: Callable[[Tensor], Tensor] | None, paired: bool) -> None:
        self.features, self.paired = features, paired
        with torch.no_grad():
            self.near = self.read(near)

    def read(self, x: Tensor) -> Tensor:
        """φ, ``[n, F]``, float32 or wider."""
        found = x.flatten(1) if self.features is None else self.features(x).flatten(1)
        return found.to(torch.promote_types(found.dtype, torch.float32))

    def __call__(self, x: Tensor, rows: Tensor) -> Tensor:
        """How far ends ``x`` ``[B, *E]`` are from ``rows`` of what is near, ``[]``."""
        own, other = self.read(x), self.near[rows]
        if self.paired:
            return (own - other).square().mean()
        return energy_distance(own, other)


def energy_distance(x: Tensor, y: Tensor) -> Tensor:
    """2 E‖X − Y‖ − E‖X − X′‖ − E‖Y − Y′‖ of the laws of ``x`` ``[n, F]`` and ``y`` ``[m, F]``, unbiased, ``[]``."""

    def within(v: Tensor) -> Tensor:
        return torch.pdist(v).mean()

    return 2 * torch.cdist(x, y).mean() - within(x) - within(y)


@torch.no_grad()
def _apart(core: Diffusion, times: Tensor, method: Followed, far: Tensor, goal: Goal) -> float:
    """Of all walks."""
    found = walked(core, times, method, far)
    rows = torch.arange(len(far) if goal.paired else min(len(goal.near), 4 * len(far)), device=far.device)
    return float(goal(found, rows))
