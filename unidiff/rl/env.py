"""One chain as a Gymnasium environment, ``unidiff/Denoise-v0``."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium
import numpy as np
import torch

from unidiff.core.boundary import check_name
from unidiff.rl.mdp import State
from unidiff.rl.render import picture
from unidiff.rl.spec import Spec, observe


class DenoiseEnv(gymnasium.Env[dict[str, Any], np.ndarray]):
    """A chain of the reverse process, one decision a step, from noise to a datum.

    It ends by ``terminated``, after :attr:`unidiff.rl.DenoisingMDP.horizon` decisions; nothing truncates it. ``info`` holds
    the ``charge`` of the action. ``reset`` takes ``options={"condition": class}``.

    Args:
        core: the reference.
        render_mode: "rgb_array", or None.
        options: as :class:`~unidiff.rl.Spec`.

    Raises:
        TypeError, ValueError: of an option; by ``step``, of an action outside the space, or after the end.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, core: Any, reward: Any = None, *, render_mode: str | None = None, **options: Any) -> None:
        if render_mode is not None:
            check_name("render_mode", render_mode, self.metadata["render_modes"])
        self.options = Spec(core, reward, **options)
        self.mdp = self.options.mdp()
        self.render_mode = render_mode
        self.action_space: gymnasium.spaces.Box = self.options.action_space()
        self.observation_space = self.options.observation_space()
        self.state: State | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """A new draw of the prior; with a seed, the same one."""
        super().reset(seed=seed)
        spec = self.options
        generator = torch.Generator(spec.device).manual_seed(int(self.np_random.integers(2**63)))
        condition = (options or {}).get("condition", spec.condition)
        spec.check_condition("options['condition']", condition)
        if condition == "random":
            condition = int(self.np_random.integers(spec.classes or 1))
        labels = None if condition is None else torch.tensor([condition], device=spec.device)
        self.state = self.mdp.start(1, generator, labels, spec.like())
        return self._told(), {}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], SupportsFloat, bool, bool, dict[str, Any]]:
        """Take the step; returns (observation, reward, terminated, truncated, info)."""
        if self.state is None or self.state.k < self.mdp.last:
            raise RuntimeError("the chain has ended or was never started; call reset first")
        taken = check_actions("action", action, self.action_space)
        outcome = self.mdp.step(self.state, torch.as_tensor(taken[None]).to(self.options.like()))
        self.state = outcome.state
        return self._told(), float(outcome.reward), outcome.done, False, {"charge": float(outcome.charge)}

    def render(self) -> np.ndarray | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The state as a picture ``[H, W, 3]``, bytes; None without a render mode."""
        if self.render_mode is None:
            return None
        if self.state is None:
            raise RuntimeError("there is nothing to draw before reset")
        return picture(self.mdp, self.state)

    def _told(self) -> dict[str, Any]:
        assert self.state is not None
        return {
            name: np.int64(v[0]) if name == "condition" else v[0] for name, v in observe(self.mdp, self.state).items()
        }


def check_actions(name: str, value: Any, space: gymnasium.spaces.Box) -> np.ndarray:
    """``value`` as an array of the space's type, within it; else a ValueError that says how far outside it is."""
    array = np.asarray(value)
    if array.shape != space.shape or not np.issubdtype(array.dtype, np.number):
        raise ValueError(
            f"{name} must hold numbers of shape {list(space.shape)}, got {list(array.shape)} {array.dtype}"
        )
    array = array.astype(space.dtype, copy=False)
    if not bool(((array >= space.low) & (array <= space.high)).all()):
        raise ValueError(
            f"{name} must lie in the action space, [{space.low.min():g}, {space.high.max():g}], "
            f"got values in [{array.min():g}, {array.max():g}]"
        )
    return array
