r"""A block: some steps of one kernel from one state, with all of their draws made at once.

Where a run's blocks begin and end follows from its chains and its length alone, never from what is kept or looked at:
one call for n draws gives other numbers than two calls for their parts. So a block that holds a kept state is no
shorter; it hands out the positions after each of its steps.

:class:`Eager` runs it as it stands; :class:`Captured` replays the same block as a CUDA graph on registers of its own.
The arithmetic is :meth:`Eager.block` in both.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from unidiff.core.replay import Replay, lent
from unidiff.mcmc.adaptation import DualAveraging
from unidiff.mcmc.state import Kernel, Noise, State
from unidiff.mcmc.target import Target

# A leapfrog whose energy has risen by more than this has left its level set (Betancourt 2017, section 6.2; Stan's own).
DIVERGENT = 1000.0
LOST = 4  # the tally's row


class Eager:
    """The chains of one phase of a run.

    Attributes:
        state: where they are.
        beyond: how far out a chain has run away, ``[]``.
        tally: ``[5, B]``, of a kernel that rejects: accepted, |energy error| where it did not diverge (a fall counts up
            to ``DIVERGENT``), divergent, |path error| (0 where the law's own log-density was used), and lost, to a NaN of
            the law within ``beyond``; else ``[0, B]``.
        adaptation: the warm-up's search for a step size, or None.
        path: the positions after each step of the last block, if those are asked for.
    """

    def __init__(
        self,
        law: Target,
        kernel: Kernel,
        state: State,
        beyond: Tensor,
        generator: torch.Generator | None,
        adaptation: DualAveraging | None = None,
    ) -> None:
        self.law, self.kernel, self.state, self.beyond = law, kernel, state, beyond
        self.generator, self.adaptation = generator, adaptation
        self.traced = False
        self.path: list[Tensor] = []
        self.tally = state.x.new_zeros((5 if kernel.metropolis else 0, state.x.shape[0]))

    def prepare(self, lengths: set[int], traced: bool) -> None:
        """Say whether blocks leave their path; their lengths need no preparation."""
        self.traced, self.path = traced, []

    def drawing(self) -> AbstractContextManager[None]:
        """Draws come from the generator itself."""
        return nullcontext()

    def block(self, n: int, noise: Noise | None = None) -> None:
        """``n`` steps, with ``noise`` of n rows in the place of draws."""
        x, kernel, law = self.state.x, self.kernel, self.law
        if noise is None:
            noise = self._draw(n, x)
        uniform = [None] * n if noise.uniform is None else noise.uniform.unbind()
        step_size: float | Tensor = kernel.step_size
        self.path = []
        for xi, u in zip(noise.normal.unbind(), uniform, strict=True):
            if self.adaptation is not None:
                step_size = self.adaptation.step_size
            move = kernel.step(law, self.state, step_size, xi, u)
            self.state = move.state
            if self.traced:
                self.path.append(move.state.x)
            if move.log_accept is not None and move.accepted is not None:
                self._count(move.accepted, move.log_accept, move.path_error, move.lost)

    def _draw(self, n: int, x: Tensor) -> Noise:
        normal = torch.randn((n, *x.shape), generator=self.generator, dtype=x.dtype, device=x.device)
        if not self.kernel.metropolis:
            return Noise(normal)
        return Noise(normal, torch.rand((n, x.shape[0]), generator=self.generator, dtype=x.dtype, device=x.device))

    def _count(self, accepted: Tensor, log_accept: Tensor, path_error: Tensor | None, lost: Tensor | None) -> None:
        if self.adaptation is not None:
            self.adaptation.update(log_accept)
        # A rise of the energy is a trajectory gone astray; a fall, from a start far out, is a chain on its way in.
        divergent = log_accept < -DIVERGENT
        error = log_accept.clamp(max=DIVERGENT).abs()
        path_error = torch.zeros_like(error) if path_error is None else path_error.abs()
        steady = torch.where(divergent, 0.0, torch.stack([error, path_error]))
        self.tally[0].add_(accepted)
        self.tally[1:4:2].add_(steady)
        self.tally[2].add_(divergent)
        # Further out, or at no finite position, a law may well be NaN (∞ − ∞): there the step was at fault, not the law.
        if lost is not None:
            self.tally[LOST].add_(lost < self.beyond)


class Captured:
    """An :class:`Eager` on registers of its own, each length of block a CUDA graph. Its draws follow ``source``."""

    def __init__(self, chains: Eager) -> None:
        x = chains.state.x
        self.state = chains.state.clone()
        self.own = torch.Generator(device=x.device)
        adaptation = None
        if chains.adaptation is not None:
            adaptation = DualAveraging(chains.kernel.step_size, chains.adaptation.acceptance, x)
        self.eager = Eager(chains.law, chains.kernel, self.state, chains.beyond.clone(), self.own, adaptation)
        self.source: torch.Generator | None = None
        self.path: list[Tensor] = []
        self._traced = False
        # A traced block's path lies in its graph's own memory, overwritten by the next replay.
        self._graphs: dict[tuple[int, bool], tuple[Replay, list[Tensor]]] = {}

    @property
    def tally(self) -> Tensor:
        """As :class:`Eager`'s."""
        return self.eager.tally

    @property
    def law(self) -> Target:
        """As :class:`Eager`'s."""
        return self.eager.law

    @property
    def beyond(self) -> Tensor:
        """As :class:`Eager`'s."""
        return self.eager.beyond

    @property
    def adaptation(self) -> DualAveraging | None:
        """As :class:`Eager`'s."""
        return self.eager.adaptation

    def load(self, chains: Eager) -> None:
        """Begin where ``chains``, which have not moved yet, are."""
        self.source = chains.generator
        for register, value in zip(self._registers(self), self._registers(chains), strict=True):
            register.copy_(value)

    def prepare(self, lengths: set[int], traced: bool) -> None:
        """Capture the blocks that are still missing."""
        self._traced = traced
        self.eager.prepare(lengths, traced)
        for n in sorted(n for n in lengths if (n, traced) not in self._graphs):
            replay = Replay(lambda n=n: self._work(n), self._registers(self), self.own)
            self._graphs[n, traced] = replay, self.eager.path
        self.eager.path = []

    def drawing(self) -> AbstractContextManager[None]:
        """The captures' own generator goes on from where the source stands, and the source from there."""
        return lent(self.own, self.source)

    def block(self, n: int, noise: Noise | None = None) -> None:
        """``n`` steps, one launch; a replay makes its own draws, so ``noise`` must be None."""
        assert noise is None
        replay, self.path = self._graphs[n, self._traced]
        replay()

    def _work(self, n: int) -> None:
        self.eager.state = self.state
        self.eager.block(n)
        for register, value in zip(self.state.tensors(), self.eager.state.tensors(), strict=True):
            register.copy_(value)

    @staticmethod
    def _registers(chains: Eager | Captured) -> list[Tensor]:
        search = () if chains.adaptation is None else chains.adaptation.registers
        return [*chains.state.tensors(), chains.beyond, chains.tally, *search]
