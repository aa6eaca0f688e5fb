r"""The flow with the volume it stretches: y and log|∂y/∂x| side by side, from data to any level (see ``likelihood``).

Along dy/dθ = v̂(y) the log-determinant grows by ∇·v̂, the divergence exact (D vjps) or by K probes, a column for each.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unidiff.core.level import NoiseLevel
from unidiff.score.derivatives import Field, divergence, probed_divergence
from unidiff.score.flow import ProbabilityFlow, state_scale
from unidiff.score.ode import Solver, solve


class VolumePath:
    """What is carried is ``[B, D + columns]``: y at some level, and log|∂y/∂x| by each probe (one column if exact).

    Attributes:
        start: the batch at t_0.
        evaluations: of the denoiser, so far.
    """

    def __init__(self, flow: ProbabilityFlow, x: Tensor, probes: Tensor | None) -> None:
        self.flow, self.x, self.probes = flow, x, probes
        self.evaluations = 0
        self.columns = 1 if probes is None else probes.shape[0]
        self.start = self.step(flow.ends[0].to(x))

    def step(self, level: NoiseLevel) -> Tensor:
        """Data to a level in the flow's one step."""
        dim = self.x[0].numel()
        stretch = dim * (level.alpha / state_scale(level)).log().expand(self.x.shape[0], self.columns)
        x0 = self.x
        if self.flow.to_data:
            x0, spread = self._divergence(self.flow.denoiser_at(level), self.x)
            stretch = stretch + 0.5 * (dim - spread)
        return torch.cat([self.flow.enter(self.x, x0, level).flatten(1), stretch], 1)

    def walk(
        self, state: Tensor, start: float, end: float, solver: Solver, steps: int | None, tolerance: float | None
    ) -> Tensor:
        """Carry ``state`` from one angle to another."""
        return solve(
            self._velocity, state, start, end, solver, steps=steps, tolerance=tolerance,
            places=lambda angles: self.flow.levels(angles, self.x),
        ).state  # fmt: skip

    def parts(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """(y ``[B, *E]``, log|∂y/∂x| ``[B, columns]``)."""
        return state[:, : -self.columns].view_as(self.x), state[:, -self.columns :]

    def _velocity(self, state: Tensor, level: NoiseLevel) -> Tensor:
        velocity, spread = self._divergence(self.flow.velocity(level), self.parts(state)[0])
        return torch.cat([velocity.flatten(1), spread], 1)

    def _divergence(self, field: Field, y: Tensor) -> tuple[Tensor, Tensor]:
        """(F(y) ``[B, *E]``, its divergence ``[B, columns]``)."""
        self.evaluations += 1
        if self.probes is None:
            value, spread = divergence(field, y)
            return value, spread[:, None]
        value, spread = probed_divergence(field, y, self.probes)
        return value, spread.T
