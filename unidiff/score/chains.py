r"""What a run of chains gives back, also when it went wrong."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unidiff.score.state import Kernel, State

if TYPE_CHECKING:
    from unidiff.score.diagnostics import Summary


@dataclass(frozen=True)
class Chains:
    """B chains after a run.

    Attributes:
        state: where they are; give it back to go on from there.
        kernel: with the step size that they ended with.
        steps: how many, warm-up not counted.
        trace: every ``keep_every``-th state, ``[K, B, *E]``; None where none was asked for.
        acceptance: the share of accepted proposals, ``[B]``; this and the next three are None where nothing is rejected.
        energy_error: the mean |H′ − H| of the proposals that did not diverge, in nats, ``[B]``.
        divergent: how many proposals were not finite or more than 1000 nats off, ``[B]``. They are rejected.
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
        from unidiff.score.diagnostics import summarise

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
    """Chains whose state is no longer finite.

    Attributes:
        x: the finite ones' positions, ``[B′, *E]``. They are those that survived, not draws of the target.
        chains: the finite ones with their trace and tallies up to here; None from an annealed run, which keeps none.
        step: after which step it was noticed, counted from 1; looks are some hundred steps apart.
        count: how many chains are not finite.
        step_size: what they ran with (a predictor–corrector run: its snr).
    """

    def __init__(
        self,
        x: Tensor,
        total: int,
        phase: str,
        step: int,
        knob: str,
        step_size: float,
        chains: Chains | None = None,
    ) -> None:
        self.x, self.chains = x, chains
        self.step, self.count, self.step_size = step, total - len(x), step_size
        where = ".x" if chains is None else ".x and .chains"
        super().__init__(
            f"{self.count} of {total} chains are not finite after {phase} {step} at {knob} = {step_size:.6g}; take a "
            f"smaller {knob}, or a kernel that rejects (MALA, HMC). The finite chains are in {where}"
        )


class AcceptanceWarning(UserWarning):
    """Chains that accept nothing, or everything."""


def warn_of_acceptance(chains: Chains) -> None:
    """Say what to change where chains of at least 20 steps never moved, or none of 10 000 proposals was rejected."""
    if chains.acceptance is None:
        return
    total, at = chains.acceptance.numel(), f"step_size = {chains.step_size:.6g}"
    stuck = int((chains.acceptance == 0).sum())
    if stuck and chains.steps >= 20:
        warnings.warn(
            f"acceptance is 0 for {stuck} of {total} chains over {chains.steps} steps at {at}: take a smaller "
            "step_size, or let a warm-up find it (warmup=500)",
            AcceptanceWarning,
            stacklevel=3,
        )
    if total * chains.steps >= 10_000 and bool((chains.acceptance == 1).all()):
        warnings.warn(
            f"acceptance is 1 for all of {total} chains over {chains.steps} steps at {at}: the chains move less than "
            "they could; take a larger step_size, or let a warm-up find it (warmup=500)",
            AcceptanceWarning,
            stacklevel=3,
        )


def finite_rows(x: Tensor) -> Tensor:
    """Which chains of ``x`` ``[B, *E]`` are finite, ``[B]``."""
    return torch.isfinite(x).flatten(1).all(1)
