r"""A few steps of a Markov chain from where it is told to start: what contrastive methods call a short run.

    x_0 given,   x_{i+1} ~ K(·|x_i),   i = 0 … k − 1,   K a kernel of :mod:`unidiff.mcmc` on e^{−U}

The result is held: no gradient goes through the chain. A run of k steps asks for k gradients of U (a kernel that rejects:
k + 1): the gradient at the end, which only a further step would read, is left out. On a GPU a run is one CUDA graph,
captured once for each shape; what U depends on besides x and the parameters is passed in as ``context``, and is copied
to where the graph reads it.

A law that is NaN where a kernel that rejects asks it would hold its chains still in silence: the walk counts that, and the
run refuses it at its end (:mod:`unidiff.mcmc.metropolis`). Without rejection the chain is NaN itself, and so are energies.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from unidiff.core.replay import Replay, lent
from unidiff.mcmc.chains import horizon, refuse_lost
from unidiff.mcmc.metropolis import lost_at
from unidiff.mcmc.state import Kernel, State
from unidiff.mcmc.target import Target

MOST_CAPTURES = 4
Energy = Callable[..., Tensor]


class ShortRun:
    """``steps`` steps of a kernel on e^{−U}, again and again while U's parameters change.

    Args:
        energy: ``energy(x [B, *E], *context) -> [B]``, U in nats.
        kernel: ``ULA``, ``MALA``, ``HMC`` or ``BAOAB``; a velocity starts from a fresh draw.
        steps: k.
        graph: whether a run on a GPU is captured and replayed.
    """

    def __init__(self, energy: Energy, kernel: Kernel, steps: int, graph: bool = True) -> None:
        self.energy, self.kernel, self.steps, self.graph = energy, kernel, steps, graph
        self._captured: dict[object, _Captured] = {}

    @torch.no_grad()
    def __call__(self, x: Tensor, generator: torch.Generator | None = None, *context: Tensor) -> Tensor:
        """The chains ``[B, *E]`` that started at ``x`` ``[B, *E]``; inputs are trusted.

        Args:
            x: where they start.
            generator: the source of all draws, on x's device.
            context: further arguments of the energy.

        Raises:
            FloatingPointError: an energy that is NaN at a finite position where MALA or HMC asked for it: in how many starts
                and proposals, of how many chains.
        """
        x = x.detach()
        end, lost = self._run(x, generator, context)
        if self.kernel.metropolis:
            refuse_lost("energy", lost, "starts and proposals", f"in a run of {self.steps} steps")
        return end

    def _run(self, x: Tensor, generator: torch.Generator | None, context: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        if not (x.is_cuda and self.graph):
            return self.walk(self.law(*context), x, generator)
        key = x.shape, x.dtype, x.device, torch.is_autocast_enabled("cuda"), *(c.shape for c in context)
        if key not in self._captured:
            while len(self._captured) >= MOST_CAPTURES:
                del self._captured[next(iter(self._captured))]
            self._captured[key] = _Captured(self, x, context)
        return self._captured[key](x, generator, context)

    def law(self, *context: Tensor) -> Target:
        """What the chains run on, for one context."""
        return Target.from_energy(lambda x: self.energy(x, *context))

    def walk(self, law: Target, x: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """The steps, their draws made at once: where they end, ``[B, *E]``, and how often each met a NaN, ``[B]``.

        That is counted of a kernel that rejects, and 0 of any other.
        """
        kernel, device = self.kernel, x.device
        velocity = None
        if kernel.has_velocity:
            velocity = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=device)
        normal = torch.randn((self.steps, *x.shape), generator=generator, dtype=x.dtype, device=device)
        uniform: list[Tensor | None] = [None] * self.steps
        if kernel.metropolis:
            draws = torch.rand((self.steps, x.shape[0]), generator=generator, dtype=x.dtype, device=device)
            uniform = list(draws.unbind())
        score, log_prob = law.evaluate(x)
        state = State(x, score, log_prob if kernel.metropolis else None, velocity)
        beyond = horizon(x)
        lost = x.new_zeros(x.shape[0])
        if kernel.metropolis:
            lost += lost_at(x, score, log_prob) < beyond
        for k, (xi, u) in enumerate(zip(normal.unbind(), uniform, strict=True)):
            ends = k == self.steps - 1 and not kernel.metropolis
            move = kernel.step(_UNASKED if ends else law, state, kernel.step_size, xi, u)
            state = move.state
            if move.lost is not None:
                lost += move.lost < beyond
        return state.x, lost


# Where a run without rejection ends, its position is known before the law is asked there.
_UNASKED = Target(torch.zeros_like, lambda x: (torch.zeros_like(x), None), "end of a run")


class _Captured:
    """A run on registers of its own, as a CUDA graph."""

    def __init__(self, run: ShortRun, x: Tensor, context: tuple[Tensor, ...]) -> None:
        self.x, self.context = x.clone(), [c.clone() for c in context]
        self.lost = x.new_zeros(x.shape[0])
        self.own = torch.Generator(device=x.device)
        self.law = run.law(*self.context)

        def work() -> None:
            for register, value in zip((self.x, self.lost), run.walk(self.law, self.x, self.own), strict=True):
                register.copy_(value)

        self.replay = Replay(work, [self.x, self.lost], self.own)

    def __call__(
        self, x: Tensor, generator: torch.Generator | None, context: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor]:
        self.x.copy_(x)
        for register, value in zip(self.context, context, strict=True):
            register.copy_(value)
        with lent(self.own, generator):
            self.replay()
        return self.x.clone(), self.lost
