"""What the environments share: their options, their spaces, and how a state is told to a learner.

An observation is a dictionary: ``x`` is x_{t_k}, ``t`` is t_k, and ``condition`` the class, where there are any. Boxes are
finite, as learners ask, and so wide that they never bind: a reference residual leaves ±10 once in 10²² draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from unidiff.core.boundary import check_count, check_device, check_dtype, check_name, check_positive, check_type
from unidiff.core.chain import RULES, Variance
from unidiff.core.diffusion import Diffusion
from unidiff.core.grid import TimeGrid
from unidiff.core.tables import default_grid
from unidiff.rl.mdp import Action, DenoisingMDP, Reward, State, StepReward

RESIDUAL, STATE = 10.0, 1000.0  # how far boxes reach, in standard deviations of the reference's noise and of the prior
Condition = int | Literal["random"] | None


@dataclass(frozen=True, eq=False)
class Spec:
    """The options of the environments.

    Attributes:
        core: the reference, in evaluation mode or as it is; it is never trained from here.
        reward: r(x_0), ``[B, *E] -> [B]``.
        step_reward: ``(xt, xs, t, s) -> [B]``.
        steps: of the chain, on the grid that suits its schedule; not with ``grid``.
        grid: the times.
        variance: the chain's rule.
        beta: temperature of the charge ½β‖a‖² on every action; 0 charges nothing.
        action: "residual" or "state".
        condition: a class, or "random" for one drawn at each reset; None for the unconditional reference.
        guidance: of the reference.
        reach: the boxes' half-width for actions; None for 10 (residuals) or 1000 times the prior's deviation (states).
        device, dtype: where and in what the chains are kept.

    Raises:
        TypeError, ValueError: naming the option.
    """

    core: Diffusion
    reward: Reward | None = None
    step_reward: StepReward | None = None
    steps: int | None = None
    grid: TimeGrid | None = None
    variance: Variance = "posterior"
    beta: float = 0.0
    action: Action = "residual"
    condition: Condition = None
    guidance: float = 1.0
    reach: float | None = None
    device: str | torch.device = "cpu"
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        check_type("core", self.core, Diffusion)
        if self.steps is not None and self.grid is not None:
            raise ValueError("give steps or a grid, not both")
        if self.steps is not None:
            check_count("steps", self.steps)
        if self.grid is not None:
            check_type("grid", self.grid, TimeGrid)
        if self.reach is not None:
            check_positive("reach", self.reach)
        check_name("variance", self.variance, RULES)
        check_device(self.device)
        check_dtype(self.dtype)
        self.check_condition("condition", self.condition)

    @property
    def classes(self) -> int | None:
        """How many classes the core has, if it is asked for one."""
        return None if self.condition is None else getattr(self.core.denoiser, "num_classes", None)

    def check_condition(self, name: str, value: Any) -> None:
        """Refuse what is no class of the core."""
        if value is None:
            return
        known = getattr(self.core.denoiser, "num_classes", None)
        if known is None:
            raise ValueError(f"{name} needs a core with classes, got {value!r} for one without")
        integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        if value != "random" and not (integer and 0 <= value < known):
            raise ValueError(f"{name} must be a class in 0 … {known - 1} or 'random', got {value!r}")

    def mdp(self) -> DenoisingMDP:
        """The process itself."""
        grid = self.grid
        if grid is None:
            grid = default_grid(self.core.schedule, 50 if self.steps is None else self.steps, "ancestral")
        return DenoisingMDP(
            self.core.chain(grid, self.variance), self.reward, step_reward=self.step_reward, beta=self.beta,
            action=self.action, guidance=self.guidance,
        )  # fmt: skip

    def like(self) -> Tensor:
        """What states are like."""
        return torch.empty(0, dtype=self.dtype, device=self.device)

    def action_space(self) -> spaces.Box:
        """Of one chain."""
        wide = RESIDUAL if self.action == "residual" else STATE * self.core.schedule.prior_std
        return self._box(wide if self.reach is None else self.reach)

    def observation_space(self) -> spaces.Dict:
        """Of one chain."""
        parts: dict[str, spaces.Space[Any]] = {
            "x": self._box(STATE * max(1.0, self.core.schedule.prior_std)),
            "t": spaces.Box(0.0, 1.0, (1,), np.float32),
        }
        if self.classes is not None:
            parts["condition"] = spaces.Discrete(self.classes)
        return spaces.Dict(parts)

    def _box(self, reach: float) -> spaces.Box:
        kind = np.float32 if self.dtype == torch.float32 else np.float64
        return spaces.Box(-reach, reach, self.core.event_shape, kind)


def observe(mdp: DenoisingMDP, state: State) -> dict[str, np.ndarray]:
    """Every chain's observation, batched."""
    n = len(state.x)
    told = {
        "x": state.x.cpu().numpy(),
        "t": np.full((n, 1), float(mdp.chain.grid.times[state.k]), dtype=np.float32),
    }
    if state.condition is not None:
        told["condition"] = state.condition.cpu().numpy()
    return told
