r"""Choosing a grid where no table of prices is: the sampler walks, and what it is paid for is where it ends.

    state  (x, j, m);   action  i < j:  x ← Φ_{t_j → t_i}(x);   reward  −‖φ(x_0) − φ(x_0*)‖²/F at the end, and 0 before

Φ is one step of the sampler, x_0* the end of a fine walk of the teacher from the same x_T. The policy sees the state: each
walk may have a grid of its own (Ye et al. 2024, TPDM); how errors add up is in the reward, which no sum over steps is.
An instance is a start x_T. They are draws of one law, whose mean end is what counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from unidiff.core.boundary import check_count, check_finite, check_name, check_state, check_type, right_expand
from unidiff.core.diffusion import Diffusion
from unidiff.core.grid import TimeGrid
from unidiff.core.sampling import Sampler
from unidiff.core.tables import default_grid, leaps
from unidiff.paths.env import ScheduleMDP, ScheduleState

Walked = Literal["ddim", "euler"]
TEACHER_STEPS = 64
Seen = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class WalkState(ScheduleState):
    """Where a batch of walks is.

    Attributes:
        x: the state at t_j, ``[B, *E]``.
        x0: x̂_0 there, ``[B, *E]``.
    """

    x: Tensor
    x0: Tensor


class SamplerMDP(ScheduleMDP):
    """The process of a sampler's walks from given starts, each an instance.

    Args:
        core: whose sampler walks.
        times: the nodes t_0 … t_N to choose from.
        steps: K, the most that a walk has.
        starts: x_T, ``[n, *E]``; draw them by :meth:`unidiff.Diffusion.prior`.
        ends: x_0* ``[n, *E]`` at t_0; if left out, where ``dpm++2m`` in 64 steps down to t_0 ends from the same starts.
        method: "ddim" or "euler", whose steps stand alone.
        see: ``(x [B, *E], x0 [B, *E]) -> [B, F]``, what the policy sees of a walk, finite; the root mean squares of x and
            x̂_0 if left out.
        features: φ, ``[B, *E] -> [B, F]``, in which ends are compared; the numbers of x themselves if left out.

    Raises:
        TypeError, ValueError: naming the argument; a node at which the method or the network's answer does not exist.
        FloatingPointError: a teacher that ends in values that are not finite.
    """

    tabular = False

    def __init__(
        self,
        core: Diffusion,
        times: TimeGrid,
        steps: int,
        starts: Tensor,
        ends: Tensor | None = None,
        *,
        method: Walked = "ddim",
        see: Seen | None = None,
        features: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        check_type("core", core, Diffusion)
        check_type("times", times, TimeGrid)
        check_name("method", method, get_args(Walked))
        check_state("starts", starts, core.event_shape)
        check_count("number of starts", len(starts))
        if starts.dtype in (torch.float16, torch.bfloat16):
            raise ValueError(f"starts must be float32 or wider (the state is never half precision), got {starts.dtype}")
        core.check_arguments("starts", starts, None, 1.0)
        for name, given in (("see", see), ("features", features)):
            if given is not None and not callable(given):
                raise TypeError(f"{name} must be a function, got {given!r}")
        size = len(times)
        levels = core.schedule.log_snr(times.times).detach()
        # An end at infinity is told as one more step beside its neighbour.
        if not math.isfinite(float(levels[0])):
            levels[0] = levels[1] + 1.0
        if not math.isfinite(float(levels[-1])):
            levels[-1] = levels[-2] - 1.0
        super().__init__(torch.zeros(size, size), check_count("steps", steps), log_snr=levels)
        self.core, self.times, self.starts = core, times, starts.detach().clone()
        self.instances = len(starts)
        self.see: Seen = _widths if see is None else see
        self.read = features if features is not None else (lambda x: x)
        self._levels = core.schedule.level(times.times)
        core.check_levels(self._levels.alpha[1:])
        pairs = torch.triu_indices(size, size, 1)
        rows = leaps(core.schedule, times.times[pairs[0]], times.times[pairs[1]], method)
        self._on_xt, self._on_x0 = torch.eye(size, dtype=torch.float64), torch.zeros(size, size, dtype=torch.float64)
        self._on_xt[pairs[0], pairs[1]], self._on_x0[pairs[0], pairs[1]] = rows.on_xt, rows.on_x0
        if not bool(torch.isfinite(self._on_xt).all() & torch.isfinite(self._on_x0).all()):
            raise ValueError(
                f"method {method!r} must have finite steps between times, got {times.times[0]:g} as the first"
            )
        if ends is None:
            ends = Sampler(core, _fine(core, times), "dpm++2m")(self.starts)
        check_state("ends", ends, core.event_shape)
        if len(ends) != len(starts):
            raise ValueError(f"ends must be {len(starts)}, one a start, got {len(ends)}")
        check_finite("ends", ends)
        self.ends = self._described(ends.to(self.starts).clone())
        if not bool(torch.isfinite(self.ends).all()):
            raise ValueError("features must be finite on ends, got values that are not")
        self._seen = self._look(self.start(torch.arange(min(2, len(starts))))).shape[1]

    @property
    def width(self) -> int:
        """How many numbers an observation has, 2 + F."""
        return 2 + self._seen

    @property
    def reach(self) -> float:
        """Nothing is known of what is seen but that it is finite in float32."""
        return torch.finfo(torch.float32).max

    def start(self, instance: Tensor, steps: Tensor | None = None) -> WalkState:
        """Walks ``[B]`` at their starts, of K steps or of as many as ``steps`` ``[B]`` says, in 1 … K."""
        at = super().start(instance, steps)
        if len(instance) and not 0 <= int(instance.min()) <= int(instance.max()) < self.instances:
            raise ValueError(f"instance must lie in 0 … {self.instances - 1}, got {instance.tolist()[:8]}")
        # The network is asked once a start, however many walks begin there.
        alone, which = instance.unique(return_inverse=True)
        begun, which = super().start(alone), which.to(self.starts.device)
        once = self._arrived(begun.node, begun.left, alone, self.starts[alone.to(self.starts.device)])
        return WalkState(at.node, at.left, instance, once.x[which], once.x0[which])

    def observe(self, state: ScheduleState) -> Tensor:
        """(position of j, m/K, what is seen of the walk), float32 ``[B, 2 + F]``."""
        assert isinstance(state, WalkState)
        told = torch.stack([self.position[state.node], state.left / self.steps], 1)
        return torch.cat([told.float(), self._look(state)], 1)

    def mask(self, state: ScheduleState) -> Tensor:
        """A(j, m), of all instances alike, ``[B, N + 1]``."""
        return super().mask(ScheduleState(state.node, state.left, torch.zeros_like(state.instance)))

    def step(self, state: ScheduleState, action: Tensor) -> tuple[WalkState, Tensor, Tensor]:
        """Walk to the nodes ``action`` ``[B]``; returns the state, rewards (float64) and whether walks ended, ``[B]`` each.

        Raises:
            ValueError: a node that is not allowed, with those that are.
            FloatingPointError: a walk that ends in values that are not finite.
        """
        self.check_action(state, action)
        after = self.after(state, action)
        ended = after.left == 0
        paid = torch.zeros(len(action), dtype=torch.float64)
        now = (ended & (state.left > 0)).nonzero()[:, 0]
        if len(now):
            paid[now] = self._apart(after.x[now.to(after.x.device)], state.instance[now])
        return after, -paid, ended

    def after(self, state: ScheduleState, action: Tensor) -> WalkState:
        """Where the sampler's step to the nodes ``action`` ``[B]`` leads; they are trusted."""
        assert isinstance(state, WalkState)
        a, b = (right_expand(c[action, state.node].to(state.x), state.x) for c in (self._on_xt, self._on_x0))
        x = a * state.x + b * state.x0
        return self._arrived(action, (state.left - 1).clamp(min=0), state.instance, x)

    def cost(self, path: Tensor, instance: Tensor) -> Tensor:
        """How far walks along ``path`` ``[B, S + 1]`` of nodes from 0 to N end, float64 ``[B]``; indices are trusted."""
        state = self.start(instance, torch.full_like(instance, path.shape[1] - 1))
        for node in path[:, :-1].flip(1).unbind(1):
            state = self.after(state, node)
        return self._apart(state.x, instance)

    @torch.no_grad()
    def _arrived(self, node: Tensor, left: Tensor, instance: Tensor, x: Tensor) -> WalkState:
        """The state at a node; where no step is left the network is not asked, and x̂_0 is x."""
        x0, more = x.clone(), (left > 0).nonzero()[:, 0]
        if len(more):
            there = more.to(x.device)
            x0[there] = self.core.denoiser(x[there], self._levels[node[more]].to(x)).x0
        return WalkState(node, left, instance, x, x0)

    @torch.no_grad()
    def _apart(self, x: Tensor, instance: Tensor) -> Tensor:
        found = (self._described(x) - self.ends[instance.to(self.ends.device)]).square().mean(1).cpu()
        if not bool(torch.isfinite(found).all()):
            bad = int((~torch.isfinite(found)).sum())
            raise FloatingPointError(f"walks must end in finite values, got {bad} of {len(found)} that do not")
        return found

    @torch.no_grad()
    def _described(self, x: Tensor) -> Tensor:
        """φ ``[B, F]``, float64."""
        found = self.read(x)
        check_type("what features returns", found, Tensor)
        if found.ndim < 2 or len(found) != len(x) or not found.numel() or found.is_complex():
            raise ValueError(
                f"features must give rows of real numbers, [{len(x)}, F], got shape {list(found.shape)} of {found.dtype}"
            )
        return found.flatten(1).to(torch.float64)

    @torch.no_grad()
    def _look(self, state: WalkState) -> Tensor:
        seen = self.see(state.x, state.x0)
        check_type("what see returns", seen, Tensor)
        if seen.ndim != 2 or len(seen) != len(state.x) or seen.is_complex():
            raise ValueError(f"see must give rows of real numbers, [{len(state.x)}, F], got shape {list(seen.shape)}")
        return check_finite("what see returns", seen.to("cpu", torch.float32))


def _fine(core: Diffusion, times: TimeGrid) -> TimeGrid:
    """The teacher's grid, down to where the walks end."""
    first = float(times.times[0])
    if first == 0:
        return default_grid(core.schedule, TEACHER_STEPS, "dpm++2m")
    return TimeGrid.uniform_log_snr(TEACHER_STEPS, core.schedule, first)


def _widths(x: Tensor, x0: Tensor) -> Tensor:
    return torch.stack([v.flatten(1).square().mean(1).sqrt() for v in (x, x0)], 1)
