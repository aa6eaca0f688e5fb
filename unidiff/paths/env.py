r"""Choosing a few-step grid as a Markov decision process, ``unidiff/Schedule-v0``.

    state  (j, m[, b]): at node j of t_0 < … < t_N, m steps left, instance b;   action  i < j;   reward  −c_b[i, j]

A path begins at (N, K) and has to be at 0 when no step is left, so that the sum of its rewards is minus the cost of its grid
and the best policy's value is Bellman's equation of the shortest path of m steps,

    V(j, m) = max_{i ∈ A(j, m)} V(i, m − 1) − c[i, j],   V(0, 0) = 0                    (Bellman 1957, chapter 3),

A(j, m) = {i < j: c[i, j] < ∞, and m − 1 steps of finite cost lead from i to 0}. Where every cost is finite A is
{m − 1, …, j − 1}, or {0} for m = 1. A path that has ended stays where it is, and pays nothing more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, SupportsFloat, get_args

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from unidiff.core.boundary import as_float64, as_sequence, check_count, check_finite, check_name

ActionKind = Literal["discrete", "beta"]


@dataclass(frozen=True, eq=False)
class ScheduleState:
    """Where a batch of paths is.

    Attributes:
        node: j, ``[B]``.
        left: m, ``[B]``.
        instance: b, ``[B]``.
    """

    node: Tensor
    left: Tensor
    instance: Tensor


class ScheduleMDP:
    """The process for any number of paths at once, in torch on the host.

    Args:
        costs: c ``[N + 1, N + 1]``, or one for each instance ``[n, N + 1, N + 1]``; read where i < j, +inf is a step that is
            never taken.
        steps: K, the most that a path has.
        log_snr: λ ``[N + 1]`` of the nodes, by which they are told; None tells their indices.
        features: what is seen of instance b at node j, ``[n, N + 1, F]``.

    Attributes:
        steps: K.
        last: N.
        instances: n.
        costs: c ``[n, N + 1, N + 1]`` float64, +inf where no step leads.
        position: what is told of a node, 0 at data to 1 at noise, ``[N + 1]``.
        tabular: whether rewards are read from ``costs``, so that the best is known.

    Raises:
        TypeError, ValueError: naming the argument; no path of K steps has a finite cost.
    """

    tabular = True

    def __init__(self, costs: Any, steps: int, *, log_snr: Any = None, features: Any = None) -> None:
        given = _costs(costs)
        self.last = given.shape[-1] - 1
        self.steps = check_count("steps", steps)
        if steps > self.last:
            raise ValueError(f"steps must be at most the {self.last} between the nodes of costs, got {steps}")
        self.position = _positions(log_snr, self.last)
        self.features = _features(features, given)
        self.instances = max(len(given), len(self.features))
        given = given.expand(self.instances, -1, -1)
        down = torch.ones_like(given[0], dtype=torch.bool).triu(1)
        self.costs = torch.where(down, given, torch.inf)
        self._open, self._reach = _doors(self.costs, steps)
        self._paid = self.costs.clone()
        self._paid[:, 0, 0] = 0.0
        self.check_paths("steps", torch.tensor([steps]))

    def check_paths(self, argument: str, steps: Tensor) -> None:
        """Refuse numbers of steps ``[S]``, in 1 … K, of which an instance has no path. Raises ValueError."""
        lost = ~self._reach[:, steps, self.last]
        if bool(lost.any()):
            b, s = lost.nonzero()[0].tolist()
            raise ValueError(
                f"{argument} must be what a path of finite cost may have, got {int(steps[s])}, "
                f"of which instance {b} has none"
            )

    @property
    def width(self) -> int:
        """How many numbers an observation has, 2 + F."""
        return 2 + self.features.shape[2]

    @property
    def reach(self) -> float:
        """No feature that is observed is larger than this."""
        return max(1.0, float(self.features.abs().max())) if self.width > 2 else 1.0

    def start(self, instance: Tensor, steps: Tensor | None = None) -> ScheduleState:
        """Paths ``[B]`` at node N, of K steps or of as many as ``steps`` ``[B]`` says, in 1 … K."""
        left = torch.full_like(instance, self.steps) if steps is None else steps
        return ScheduleState(torch.full_like(instance, self.last), left, instance)

    def observe(self, state: ScheduleState) -> Tensor:
        """(position of j, m/K, features of b at j), float32 ``[B, 2 + F]``."""
        told = torch.stack([self.position[state.node], state.left / self.steps], 1)
        return torch.cat([told.float(), self.features[state.instance, state.node]], 1)

    def mask(self, state: ScheduleState) -> Tensor:
        """A(j, m) as truth values of the nodes, ``[B, N + 1]``."""
        after = (state.left - 1).clamp(min=0)
        return self._open[state.instance, state.node] & self._reach[state.instance, after]

    def step(self, state: ScheduleState, action: Tensor) -> tuple[ScheduleState, Tensor, Tensor]:
        """Go to the nodes ``action`` ``[B]``; returns the state, rewards (float64) and whether paths ended, ``[B]`` each.

        Raises:
            ValueError: a node that is not allowed, with those that are.
        """
        self.check_action(state, action)
        reward = -self._paid[state.instance, action, state.node]
        after = self.after(state, action)
        return after, reward, after.left == 0

    def after(self, state: ScheduleState, action: Tensor) -> ScheduleState:
        """Where a step to the nodes ``action`` ``[B]`` leads; they are trusted."""
        return ScheduleState(action, (state.left - 1).clamp(min=0), state.instance)

    def check_action(self, state: ScheduleState, action: Tensor) -> None:
        """Refuse nodes ``action`` ``[B]`` that are not in A(j, m). Raises ValueError, with those that are."""
        mask = self.mask(state)
        legal = (action >= 0) & (action <= self.last)
        legal &= mask.gather(1, action.clamp(0, self.last)[:, None])[:, 0]
        if not bool(legal.all()):
            row = int((~legal).nonzero()[0])
            allowed = mask[row].nonzero()[:, 0].tolist()
            shown = ", ".join(map(str, allowed if len(allowed) <= 8 else [*allowed[:3], "…", *allowed[-3:]]))
            raise ValueError(
                f"action must be an allowed node: from node {int(state.node[row])} with {int(state.left[row])} steps left "
                f"one of {shown}, got {int(action[row])}"
            )

    def nearest(self, state: ScheduleState, share: Tensor) -> Tensor:
        """The allowed node nearest to a ``share`` ``[B]`` in [0, 1] of the way from the lowest to the highest, ``[B]``."""
        mask = self.mask(state)
        nodes = torch.arange(self.last + 1)
        low = torch.where(mask, nodes, self.last).min(1).values
        high = torch.where(mask, nodes, 0).max(1).values
        wanted = low + share.to(torch.float64) * (high - low)
        return _closest(mask, (nodes - wanted[:, None]).abs())

    def even(self, state: ScheduleState) -> Tensor:
        """The allowed node nearest to the next of m steps that are even in position, ``[B]``."""
        wanted = self.position[state.node] * (state.left - 1).clamp(min=0) / state.left.clamp(min=1)
        return _closest(self.mask(state), (self.position - wanted[:, None]).abs())

    def cost(self, path: Tensor, instance: Tensor) -> Tensor:
        """Σ c over paths ``[B, S + 1]`` of nodes from 0 to N, float64 ``[B]``; indices are trusted."""
        return self.costs[instance[:, None], path[:, :-1], path[:, 1:]].sum(1)


class ScheduleEnv(gymnasium.Env[np.ndarray, Any]):
    """One path of a grid, chosen node by node from noise to data.

    It ends by ``terminated`` after K actions; nothing truncates it. ``info`` holds ``action_mask``, the allowed nodes as
    ``Discrete.sample`` takes them, the ``instance``, and at the end ``path``, the K + 1 nodes from 0 to N. ``reset`` takes
    ``options={"instance": b}``; else b is drawn evenly.

    Args:
        costs, steps, log_snr, features: as :class:`ScheduleMDP`; costs may be a process itself, of as many steps.
        action: "discrete", a node; or "beta", for policies on [0, 1]: a share of the way from the lowest allowed node to the
            highest, which leads to the allowed node nearest to it.

    Raises:
        TypeError, ValueError: of an option; by ``step``, of an action that is not allowed.
        RuntimeError: by ``step``, before the start or after the end.
    """

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(
        self, costs: Any, steps: int, log_snr: Any = None, features: Any = None, action: ActionKind = "discrete"
    ) -> None:
        check_name("action", action, get_args(ActionKind))
        if isinstance(costs, ScheduleMDP):
            if (steps, log_snr, features) != (costs.steps, None, None):
                raise ValueError(
                    f"steps must be the {costs.steps} of the process in costs, the rest left out, got {steps}"
                )
            self.mdp = costs
        else:
            self.mdp = ScheduleMDP(costs, steps, log_snr=log_snr, features=features)
        reach = self.mdp.reach
        high = np.array([1.0, 1.0] + [reach] * (self.mdp.width - 2), dtype=np.float32)
        low = np.where(np.arange(len(high)) < 2, 0.0, -high).astype(np.float32)
        self.observation_space = spaces.Box(low, high, dtype=np.float32)
        everywhere = self.mdp.mask(self.mdp.start(torch.arange(self.mdp.instances))).all(0)
        self.nodes = Allowed(everywhere.numpy().astype(np.int8))
        self.action_space: Any = self.nodes if action == "discrete" else spaces.Box(0.0, 1.0, (1,), np.float32)
        self.state: ScheduleState | None = None
        self.path: list[int] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """A new path, at noise; with a seed, of the same instance."""
        super().reset(seed=seed)
        instance = (options or {}).get("instance")
        if instance is None:
            instance = int(self.np_random.integers(self.mdp.instances))
        elif isinstance(instance, bool) or not isinstance(instance, (int, np.integer)):
            raise ValueError(f"options['instance'] must be an integer, got {instance!r}")
        elif not 0 <= instance < self.mdp.instances:
            raise ValueError(f"options['instance'] must lie in 0 … {self.mdp.instances - 1}, got {instance}")
        self.state = self.mdp.start(torch.tensor([int(instance)]))
        self.path = [self.mdp.last]
        return self._told()

    def step(self, action: Any) -> tuple[np.ndarray, SupportsFloat, bool, bool, dict[str, Any]]:
        """Go to a node; returns (observation, reward, terminated, truncated, info)."""
        if self.state is None or int(self.state.left) == 0:
            raise RuntimeError("the path has ended or was never started; call reset first")
        after, reward, done = self.mdp.step(self.state, self._node(self.state, action))
        self.state = after
        self.path.append(int(after.node))
        told, info = self._told()
        if bool(done):
            info["path"] = np.array(self.path[::-1], dtype=np.int64)
        return told, float(reward), bool(done), False, info

    def _node(self, state: ScheduleState, action: Any) -> Tensor:
        array = np.asarray(action)
        if self.action_space is self.nodes:
            if array.shape != () or not np.issubdtype(array.dtype, np.integer):
                raise ValueError(f"action must be a node, an integer in 0 … {self.mdp.last}, got {action!r}")
            return torch.tensor([int(array)])
        if array.size != 1 or not np.issubdtype(array.dtype, np.number) or not 0.0 <= float(array.reshape(())) <= 1.0:
            raise ValueError(f"action must be one number in [0, 1], got {action!r}")
        return self.mdp.nearest(state, torch.tensor([float(array.reshape(()))], dtype=torch.float64))

    def _told(self) -> tuple[np.ndarray, dict[str, Any]]:
        assert self.state is not None
        mask = self.mdp.mask(self.state)[0].numpy().astype(np.int8)
        self.nodes.mask = mask.copy()
        return self.mdp.observe(self.state)[0].numpy(), {"action_mask": mask, "instance": int(self.state.instance)}


class Allowed(spaces.Discrete):
    """Nodes, of which ``sample`` draws one that is allowed now: of all nodes most draws would be refused.

    Before the first ``reset``, and again once it is seeded, it draws for the beginning of a path. It equals a ``Discrete``.

    Args:
        first: the nodes allowed at the beginning, 1 or 0 ``[N + 1]``.
    """

    def __init__(self, first: np.ndarray) -> None:
        self.first = self.mask = first
        super().__init__(len(first))

    def seed(self, seed: int | None = None) -> int | None:
        """Begin anew."""
        self.mask = self.first
        return super().seed(seed)

    def sample(self, mask: Any = None, probability: Any = None) -> np.int64:
        """A node: of ``mask`` or by ``probability`` as for ``Discrete``, else of those allowed."""
        return super().sample(self.mask if mask is None and probability is None else mask, probability)


def _costs(value: Any) -> Tensor:
    costs = as_float64("costs", value).detach().cpu()
    if costs.ndim not in (2, 3) or costs.shape[-1] != costs.shape[-2] or costs.shape[-1] < 2 or not costs.numel():
        raise ValueError(
            f"costs must have shape [N + 1, N + 1] or [n, N + 1, N + 1], N at least 1, got {list(costs.shape)}"
        )
    if bool(torch.isneginf(costs.triu(1)).any()):
        raise ValueError("costs must be finite, or +inf where no step leads, got -inf")
    return costs if costs.ndim == 3 else costs[None]


def _positions(log_snr: Any, last: int) -> Tensor:
    if log_snr is None:
        return torch.arange(last + 1, dtype=torch.float64) / last
    levels = check_finite("log_snr", as_sequence("log_snr", log_snr))
    if len(levels) != last + 1 or not bool((levels.diff() < 0).all()):
        raise ValueError(
            f"log_snr must be {last + 1} strictly falling numbers, one a node of costs, got shape {list(levels.shape)}, "
            f"from {levels[0]:g} to {levels[-1]:g}"
        )
    return (levels[0] - levels) / (levels[0] - levels[-1])


def _features(value: Any, costs: Tensor) -> Tensor:
    n, nodes = costs.shape[:2]
    if value is None:
        return torch.zeros(n, nodes, 0)
    seen = as_float64("features", value).detach().cpu().to(torch.float32)
    if seen.ndim != 3 or seen.shape[1] != nodes or (n > 1 and len(seen) != n) or not len(seen):
        wanted = f"[{n if n > 1 else 'n'}, {nodes}, F]"
        raise ValueError(f"features must have shape {wanted}, as costs have, got {list(seen.shape)}")
    return check_finite("features", seen)


def _doors(costs: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Whether i may be next after j, ``[n, j, i]``, and whether m steps lead from j to 0, ``[n, m, j]``."""
    doors = torch.isfinite(costs).transpose(1, 2).contiguous()
    reach = torch.zeros(len(costs), steps + 1, costs.shape[1], dtype=torch.bool)
    reach[:, 0, 0] = True
    for m in range(1, steps + 1):
        reach[:, m] = (doors & reach[:, m - 1, None, :]).any(2)
    doors[:, 0, 0] = True
    return doors, reach


def _closest(mask: Tensor, distance: Tensor) -> Tensor:
    return torch.where(mask, distance, torch.inf).argmin(1)
