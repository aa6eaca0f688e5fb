r"""A policy on ``unidiff/Schedule-v0`` taught by its walks alone, with the RL view's price of leaving the reference.

    J_β(π) = E_π C + β KL(π ‖ ref),     ∇J_β = −β E_π[A ∇log π(path)],     A = −C/β − log(π/ref)(path)

At the optimum A is the same for every path (it is log Z), so that the gradient of a batch is 0 and not only its mean:
−E[(A − E A) ∇log π] = ∇ ½Var A, the law of the walks held (Richter et al. 2020). β falls from the spread of costs under the
reference, where the reference is nearly best, to a small part of the least cost seen, where the best policy is nearly the
shortest path. How far the policy is from the best at its β is known in nats, and not by walks, which are all alike once it
is nearly certain:

    KL(π ‖ π*) = E_π[C/β + log(π/ref)] + log Z                              (:func:`unidiff.paths.policy_kl`).

One that has fallen into a wrong path is told by it: a gap of c in cost is c/β nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unidiff.core.boundary import check_count, check_positive, check_progress, check_seed, check_share, check_type
from unidiff.paths import ScheduleMDP, SchedulePolicy, policy_kl


@dataclass(frozen=True)
class SchedulePolicyConfig:
    """How a policy is taught.

    Attributes:
        rounds: steps of Adam, one batch of walks each.
        walks: of a round for every instance and number of steps.
        rate: Adam's; it falls to 0 over the last third.
        width: of the policy's layers.
        final: the last β, in the least cost seen. Walks of a sampler, whose mean counts, want more: 0.1.
        clip: the most that A may be off the batch's median, nats: paths that cost far more say no more. Walks of a sampler
            want 50: a clip that bites makes a median of the mean.
        seed: of the parameters and the walks.

    Raises:
        TypeError, ValueError: naming the option.
    """

    rounds: int = 800
    walks: int = 128
    rate: float = 3e-3
    width: int = 128
    final: float = 0.003
    clip: float = 5.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_count("rounds", self.rounds)
        check_count("walks", self.walks, 2)
        check_count("width", self.width)
        for name in ("rate", "clip"):
            check_positive(name, getattr(self, name))
        check_share("final", check_positive("final", self.final))
        check_seed(self.seed)


@dataclass(frozen=True, eq=False)
class ScheduleFit:
    """What a run left.

    Attributes:
        policy: π.
        steps: the numbers of steps it was taught, ``[S]``.
        beta: β at the end, ``[n, S]``, float64.
        kl: KL(π ‖ π*) there, nats, ``[n, S]``, float64; None of a process without a table, whose best is not known.
    """

    policy: SchedulePolicy
    steps: Tensor
    beta: Tensor
    kl: Tensor | None


def fit_schedule_policy(
    mdp: ScheduleMDP,
    config: SchedulePolicyConfig | None = None,
    *,
    steps: Sequence[int] | None = None,
    on_round: Callable[[int, int], None] | None = None,
) -> ScheduleFit:
    """Teach a policy every instance of a process, and every number of steps in ``steps`` (K alone, if left out).

    Args:
        mdp: the process.
        config: how.
        steps: numbers of steps, each in 1 … K.
        on_round: progress, called with (rounds done, rounds).

    Raises:
        TypeError, ValueError: naming the argument; a number of steps of which an instance has no path.
        FloatingPointError: a cost or a gradient that is not finite, with the round.
    """
    check_type("mdp", mdp, ScheduleMDP)
    config = SchedulePolicyConfig() if config is None else config
    check_type("config", config, SchedulePolicyConfig)
    check_progress("on_round", on_round)
    counts = _counts(mdp, steps)
    generator = torch.Generator().manual_seed(config.seed)
    policy = SchedulePolicy(mdp, config.width, config.seed)
    adam = torch.optim.Adam(policy.parameters(), config.rate)
    shape = (mdp.instances, len(counts), config.walks)
    instance = torch.arange(mdp.instances)[:, None, None].expand(shape).flatten()
    left = counts[:, None].expand(shape).flatten()

    with torch.no_grad():
        cost = policy.walk(mdp, instance, left, generator).cost.view(shape)
    # Where instances are draws of one law their mean cost counts, and nats of one must be nats of another.
    level: Callable[[Tensor], Tensor] = (
        (lambda v: v) if mdp.tabular else (lambda v: v.mean(0, keepdim=True).expand_as(v))
    )
    first, least = first_beta(level(spread(cost)), level(cost.abs().amax(2))), cost.amin(2)
    for k in range(config.rounds):
        done = k / config.rounds
        beta = cooled(first, level(least), config.final, done)
        walked = policy.walk(mdp, instance, left, generator)
        cost = walked.cost.view(shape)
        least = torch.minimum(least, cost.amin(2))
        loss = surrogate(cost, walked.log_ratio.view(shape), beta, config.clip).mean()
        adam.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        if not bool(torch.isfinite(norm)):
            raise FloatingPointError(f"the policy must have a finite gradient, got norm {float(norm)} in round {k + 1}")
        adam.param_groups[0]["lr"] = config.rate * min(1.0, 3 * (1 - done))
        adam.step()
        if on_round is not None:
            on_round(k + 1, config.rounds)
    beta = cooled(first, level(least), config.final, 1.0)
    if not mdp.tabular:
        return ScheduleFit(policy, counts, beta, None)
    every = torch.ones(mdp.instances, mdp.steps, dtype=torch.float64)
    every[:, counts - 1] = beta
    return ScheduleFit(policy, counts, beta, policy_kl(policy, mdp, every)[:, counts - 1])


def _counts(mdp: ScheduleMDP, steps: Sequence[int] | None) -> Tensor:
    if steps is not None and not isinstance(steps, Sequence):
        raise TypeError(f"steps must be a sequence of numbers of steps, got {steps!r}")
    named = [mdp.steps] if steps is None else list(steps)
    if not named:
        raise ValueError("steps must name at least one number of steps, got none")
    for count in named:
        if check_count("steps", count) > mdp.steps:
            raise ValueError(f"steps must be at most the {mdp.steps} of the process, got {count}")
    counts = torch.tensor(named)
    mdp.check_paths("steps", counts)
    return counts


def spread(cost: Tensor) -> Tensor:
    """The median above the least of costs ``[n, S, B]`` under the reference, ``[n, S]``."""
    return cost.quantile(0.5, 2) - cost.amin(2)


def first_beta(spread: Tensor, largest: Tensor) -> Tensor:
    """The spread of costs; where there is none, the ``largest`` of them, and 1 where that is 0 too."""
    return torch.where(spread > 0, spread, torch.where(largest > 0, largest, 1.0))


def cooled(first: Tensor, least: Tensor, final: float, done: float) -> Tensor:
    """β ``[n, S]`` after a share ``done`` of the rounds: geometrically to ``final`` |C_min|, at least 10⁻⁶ of the first."""
    last = torch.minimum(torch.maximum(final * least.abs(), 1e-6 * first), first)
    return torch.exp((1 - done) * first.log() + done * last.log())


def surrogate(cost: Tensor, log_ratio: Tensor, beta: Tensor, clip: float = math.inf) -> Tensor:
    """−(A − its mean over the batch) log(π/ref) of paths ``[n, S, B]``: its mean's gradient is that of half A's variance.

    A is first brought within ``clip`` of its median, β is ``[n, S]``.
    """
    worth = -cost / beta[:, :, None] - log_ratio.detach()
    worth = (worth - worth.median(2, keepdim=True).values).clamp(-clip, clip)
    return -(worth - worth.mean(2, keepdim=True)) * log_ratio
