r"""What a run of chains gives back, also when it went wrong.

A chain has diverged when it is not finite, or further out than 1e12 (1 + max|x|) of its start. No law in sane units has
draws there, and in float32 a step of the size of the start is long lost in x's rounding; a step that is not stable gets
there in a few hundred steps, growing by a factor each (ULA at δ = 8v: seven). One barely unstable, or run for few
steps, may stay within and is not noticed: nothing short of the law itself can tell it from a wide law.
"""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unidiff.mcmc.state import Kernel, State

if TYPE_CHECKING:
    from unidiff.mcmc.diagnostics import Summary


@dataclass(frozen=True)
class Chains:
    """B chains after a run.

    Attributes:
        state: where they are; give it back to go on from there.
        kernel: with the step size that they ended with.
        steps: how many, warm-up not counted.
        trace: every ``keep_every``-th state, ``[K, B, *E]``; None where none was asked for.
        acceptance: the share of accepted proposals, ``[B]``; this and the next three are None where nothing is rejected.
        energy_error: the mean |H′ − H| of the proposals that did not diverge (NaN of none), in nats, ``[B]``; a fall counts
            as 1000 at the most, so that a start far out does not drown the rest.
        divergent: how many proposals were not finite or more than 1000 nats up, ``[B]``. They are rejected.
        path_error: the mean estimated |error| of Metropolis' log ratio, in nats, ``[B]``; None where it is exact.
    """

    state: State
    kernel: Kernel
    steps: int
    trace: Tensor | None = field(default=None, repr=False)
    acceptance: Tensor | None = field(default=None, repr=False)
    energy_error: Tensor | None = field(default=None, repr=False)
    divergent: Tensor | None = field(default=None, repr=False)
    path_error: Tensor | None = field(default=None, repr=False)

    @property
    def x(self) -> Tensor:
        """The final positions, ``[B, *E]``."""
        return self.state.x

    @property
    def step_size(self) -> float:
        """The kernel's, after adaptation."""
        return self.kernel.step_size

    def summary(self) -> Summary:
        """Split R̂, effective sample sizes and what to mend; needs a trace and the extra ``diagnostics``."""
        from unidiff.mcmc.diagnostics import summarise

        return summarise(self)

    def __getitem__(self, chains: Tensor) -> Chains:
        """The chains at ``chains``, indices or a mask ``[B]``."""
        acceptance, energy_error, divergent, path_error = (
            None if v is None else v[chains]
            for v in (self.acceptance, self.energy_error, self.divergent, self.path_error)
        )
        trace = None if self.trace is None else self.trace[:, chains]
        return Chains(
            self.state[chains], self.kernel, self.steps, trace, acceptance, energy_error, divergent, path_error
        )


class Divergence(RuntimeError):
    """Chains whose state is no longer finite, or has run away.

    Attributes:
        x: the others' positions, ``[B′, *E]``. They are those that survived, not draws of the target.
        chains: the others with their trace and tallies up to here; None from an annealed run, which keeps none.
        step: after which step it was noticed, counted from 1; looks are some hundred steps apart.
        count: how many chains diverged.
        step_size: what they ran with (a predictor–corrector run: its snr).
    """

    def __init__(
        self,
        x: Tensor,
        good: Tensor,
        phase: str,
        step: int,
        knob: str,
        step_size: float,
        chains: Chains | None = None,
    ) -> None:
        self._told = (x, good, phase, step, knob, step_size, chains)
        self.x, self.chains = x[good], chains
        self.step, self.count, self.step_size = step, int((~good).sum()), step_size
        where = ".x" if chains is None else ".x and .chains"
        instead = "" if chains is None else ", or a kernel that rejects (MALA, HMC)"
        finite = bool(torch.isfinite(x).all())
        how = f"have run away, to |x| = {float(x.abs().max()):.3g}," if finite else "are not finite"
        super().__init__(
            f"{self.count} of {len(x)} chains {how} after {phase} {step} at {knob} = {step_size:.6g}; take a "
            f"smaller {knob}{instead}"
            + (f". The {'others' if finite else 'finite chains'} are in {where}" if bool(good.any()) else "")
        )

    def __reduce__(self) -> tuple[type[Divergence], tuple[object, ...]]:
        return type(self), self._told


# Far beyond any law's draws, far below where float32 ends.
RUNAWAY = 1e12


class AcceptanceWarning(UserWarning):
    """Chains that accept nothing, or everything."""


def warn_of_acceptance(chains: Chains) -> None:
    """Say what to change where chains of at least 20 steps never moved, or none of 1000 proposals was rejected."""
    if chains.acceptance is None:
        return
    total, at = chains.acceptance.numel(), f"step_size = {chains.step_size:.6g}"
    stuck = int((chains.acceptance == 0).sum())
    if stuck and chains.steps >= 20:
        warnings.warn(
            f"acceptance is 0 for {stuck} of {total} chains over {chains.steps} steps at {at}: take a smaller "
            "step_size, or let a warm-up find it (warmup=500)",
            AcceptanceWarning,
            stacklevel=caller_depth(),
        )
    if total * chains.steps >= 1000 and bool((chains.acceptance == 1).all()):
        warnings.warn(
            f"acceptance is 1 for all of {total} chains over {chains.steps} steps at {at}: the chains move less than "
            "they could; take a larger step_size, or let a warm-up find it (warmup=500)",
            AcceptanceWarning,
            stacklevel=caller_depth(),
        )


def caller_depth() -> int:
    """The ``stacklevel`` of a warning that its caller gives, to point outside the package and torch's decorators."""
    frame, level = sys._getframe(1), 1
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ("unidiff", "torch"):
        frame, level = frame.f_back, level + 1
    return level


def refuse_lost(law: str, lost: Tensor, what: str, when: str) -> None:
    """Refuse chains that met a NaN of their law, so many times each as ``lost`` ``[B]`` says. Waits for a GPU.

    Args:
        law: its name; of an energy it is said how a density of zero is told.
        lost: counts.
        what: is counted, "proposals" say.
        when: it was looked at.

    Raises:
        FloatingPointError: how many, of how many chains, and when.
    """
    count, met = torch.stack([lost.sum(), (lost > 0).sum()]).tolist()
    if count:
        zero = "; where the density is zero, the energy is +inf" if law == "energy" else ""
        raise FloatingPointError(
            f"{law} must not be NaN at a finite position, got NaN in {count:.0f} {what} of {met:.0f} of {len(lost)} chains, "
            f"{when}{zero}"
        )


def horizon(x: Tensor) -> Tensor:
    """How far out chains that start at ``x`` ``[B, *E]`` have run away, ``[]``."""
    return RUNAWAY * (1 + x.detach().abs().max())


def steady_rows(x: Tensor, beyond: Tensor) -> Tensor:
    """Which chains of ``x`` ``[B, *E]`` are finite and within ``beyond``, ``[B]``."""
    return (x.abs() < beyond).flatten(1).all(1)
