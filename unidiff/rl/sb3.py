"""The chains as a ``VecEnv`` of Stable-Baselines3, which takes no Gymnasium vector environment. Needs the extra ``sb3``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.vec_env import VecEnv

from unidiff.rl.vector import DenoiseVectorEnv


class DenoiseVecEnv(VecEnv):
    """All chains of a :class:`~unidiff.rl.DenoiseVectorEnv`, for Stable-Baselines3's trainers.

    Args:
        num_envs, core, reward, options: as :class:`~unidiff.rl.DenoiseVectorEnv`, but for the autoreset mode, which is
            "SameStep" here: a chain's datum is told as ``infos[i]["terminal_observation"]``.

    Raises:
        TypeError, ValueError: of an option.
    """

    def __init__(self, num_envs: int, core: Any, reward: Any = None, **options: Any) -> None:
        self.chains = DenoiseVectorEnv(num_envs, core, reward, autoreset_mode=AutoresetMode.SAME_STEP, **options)
        self.render_mode = self.chains.render_mode
        self._actions: np.ndarray | None = None
        super().__init__(num_envs, self.chains.single_observation_space, self.chains.single_action_space)

    def reset(self) -> Any:
        """New draws, by the seeds of :meth:`seed` if any were set."""
        observation, _ = self.chains.reset(seed=None if self._seeds[0] is None else list(self._seeds))
        self._reset_seeds()
        return observation

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions for :meth:`step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Take the step: (observations, rewards, dones, infos)."""
        if self._actions is None:
            raise RuntimeError("step_wait before step_async")
        told, rewards, ended, _, infos = self.chains.step(self._actions)
        self._actions = None
        inner = infos.get("final_info", infos)
        each: list[dict[str, Any]] = [{"charge": float(charge)} for charge in inner["charge"]]
        for own, final in zip(each, infos.get("final_obs", ()), strict=False):
            own |= {"terminal_observation": final, "TimeLimit.truncated": False}
        return told, rewards.astype(np.float32), ended, each

    def close(self) -> None:
        """Nothing is open."""

    def get_images(self) -> Sequence[np.ndarray | None]:
        """The picture of all chains, for each of them."""
        drawn = self.chains.render()
        return [None if drawn is None else drawn[0]] * self.num_envs

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute of the chains, which they share."""
        value = self.render_mode if attr_name == "render_mode" else getattr(self.chains, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of all chains; of some alone is an error."""
        if len(list(self._get_indices(indices))) != self.num_envs:
            raise ValueError(f"indices must be of all {self.num_envs} chains, which share {attr_name!r}")
        setattr(self.chains, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Call a method of the chains, once, and tell its answer for each of them."""
        if len(list(self._get_indices(indices))) != self.num_envs:
            raise ValueError(f"indices must be of all {self.num_envs} chains, which share {method_name!r}")
        return [getattr(self.chains, method_name)(*args, **kwargs)] * self.num_envs

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        """No chain is."""
        return [False for _ in self._get_indices(indices)]
