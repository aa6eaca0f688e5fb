"""Many chains as one Gymnasium vector environment: one call of the reference a step, tensors kept where they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.utils.seeding import np_random
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from unidiff.core.boundary import check_count, check_flag, check_name
from unidiff.core.gaussian import Gaussian
from unidiff.rl.env import check_actions
from unidiff.rl.mdp import Outcome, State
from unidiff.rl.render import picture
from unidiff.rl.spec import Spec, observe


class DenoiseVectorEnv(VectorEnv):
    """``num_envs`` chains that start and end together.

    All chains have one horizon, so that every autoreset mode of Gymnasium wastes nothing but its own step: after the end
    "NextStep" takes one more ``step`` to begin anew, its actions ignored, "SameStep" begins at once and tells the last
    observation as ``infos["final_obs"]``, and "Disabled" waits for ``reset``.

    Args:
        num_envs: how many chains.
        core, reward: as :class:`~unidiff.rl.DenoiseEnv`; the other options too.
        autoreset_mode: a mode, or its name.
        parity: draw each chain by a generator of its own and ask the reference of one chain at a time, so that chain i is
            bit for bit the single environment reset with ``seed + i``. Slow: it is for tests.
        render_mode: "rgb_array", or None.

    Raises:
        TypeError, ValueError: of an option; by ``step``, of actions outside the space; by ``reset``, of a mask of some
            chains only.
    """

    metadata = {"render_modes": ["rgb_array"], "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int,
        core: Any,
        reward: Any = None,
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        parity: bool = False,
        render_mode: str | None = None,
        **options: Any,
    ) -> None:
        self.num_envs = check_count("num_envs", num_envs)
        check_flag("parity", parity)
        if render_mode is not None:
            check_name("render_mode", render_mode, self.metadata["render_modes"])
        if not isinstance(autoreset_mode, AutoresetMode):
            check_name("autoreset_mode", autoreset_mode, [mode.value for mode in AutoresetMode])
            autoreset_mode = AutoresetMode(autoreset_mode)
        self.autoreset_mode = autoreset_mode
        self.metadata = {**self.metadata, "autoreset_mode": autoreset_mode}
        self.options, self.parity, self.render_mode = Spec(core, reward, **options), parity, render_mode
        self.mdp = self.options.mdp()
        self.single_action_space = self.options.action_space()
        self.single_observation_space = self.options.observation_space()
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.state: State | None = None
        self._streams: list[np.random.Generator] = []

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """New draws of the prior for all chains; ``options={"condition": class or one for each chain}``."""
        options = dict(options or {})
        mask = options.pop("reset_mask", None)
        if mask is not None and not bool(np.all(mask)):
            raise ValueError(f"reset_mask must be of all chains, which end together, got {int(np.sum(mask))} of them")
        self._seed(seed)
        self.state = self._begun(options.get("condition", self.options.condition))
        return observe(self.mdp, self.state), {}

    def step(self, actions: np.ndarray) -> tuple[dict[str, Any], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One step of every chain; returns (observations, rewards, terminations, truncations, infos)."""
        if self.state is None:
            raise RuntimeError("the chains were never started; call reset first")
        over = self.state.k < self.mdp.last
        nothing = np.zeros(self.num_envs, dtype=bool)
        if over and self.autoreset_mode == AutoresetMode.NEXT_STEP:
            self.state = self._begun(self.options.condition)
            return observe(self.mdp, self.state), np.zeros(self.num_envs), nothing, nothing.copy(), {}
        if over:
            raise RuntimeError("the chains have ended; call reset first")
        taken = check_actions("actions", actions, self.action_space)  # pyright: ignore[reportArgumentType]
        outcome = self.advance(torch.as_tensor(taken).to(self.options.like()))
        rewards, charge = (v.to("cpu", torch.float64).numpy() for v in (outcome.reward, outcome.charge))
        everyone = np.ones(self.num_envs, dtype=bool)
        infos: dict[str, Any] = {"charge": charge, "_charge": everyone}
        told = observe(self.mdp, outcome.state)
        if outcome.done and self.autoreset_mode == AutoresetMode.SAME_STEP:
            final = np.empty(self.num_envs, dtype=object)
            final[:] = [{name: v[i] for name, v in told.items()} for i in range(self.num_envs)]
            infos = {"final_obs": final, "_final_obs": everyone, "final_info": infos, "_final_info": everyone.copy()}
            self.state = self._begun(self.options.condition)
            told = observe(self.mdp, self.state)
        return told, rewards, np.full(self.num_envs, outcome.done), nothing, infos

    def advance(self, actions: Tensor) -> Outcome:
        """:meth:`step` in torch: ``actions`` ``[B, *E]`` on the chains' device, trusted; no autoreset, no copy to the host.

        Raises:
            RuntimeError: chains that have ended or were never started.
        """
        state = self._going()
        if not self.parity:
            outcome = self.mdp.step(state, actions)
        else:
            alone = zip(_alone(state), actions.split(1), strict=True)
            outcome = _joined([self.mdp.step(one, action) for one, action in alone])
        self.state = outcome.state
        return outcome

    def reference(self) -> Gaussian:
        """p_ref(x_{t_{k−1}}|x_{t_k}) of every chain where it is now."""
        return self.mdp.reference(self._going())

    def render(self) -> tuple[np.ndarray, ...] | None:
        """A picture ``[H, W, 3]``, bytes, of all chains; None without a render mode."""
        if self.render_mode is None:
            return None
        if self.state is None:
            raise RuntimeError("there is nothing to draw before reset")
        return (picture(self.mdp, self.state),)

    def _seed(self, seed: int | list[int | None] | None) -> None:
        if isinstance(seed, list) and len(seed) != self.num_envs:
            raise ValueError(f"seed must be one, or a list of {self.num_envs}, got {len(seed)}")
        each = seed if isinstance(seed, list) else [None if seed is None else seed + i for i in range(self.num_envs)]
        first = each[0] if isinstance(seed, list) else seed
        if first is not None or not hasattr(self, "_np_random") or self._np_random is None:
            self._np_random, self._np_random_seed = np_random(first)
        if self.parity and (seed is not None or not self._streams):
            self._streams = [np_random(one)[0] for one in each]

    def _begun(self, condition: Any) -> State:
        spec, n = self.options, self.num_envs
        whole = np.ndim(condition) == 1
        for value in condition if whole else [condition]:
            spec.check_condition("options['condition']", value)
        if whole and len(condition) != n:
            raise ValueError(f"options['condition'] must be one class, or one for each of {n}, got {len(condition)}")
        streams = self._streams if self.parity else [self.np_random]
        each = n // len(streams)
        states = []
        for i, stream in enumerate(streams):
            generator = torch.Generator(spec.device).manual_seed(int(stream.integers(2**63)))
            drawn = condition[i * each : (i + 1) * each] if whole else condition
            if isinstance(drawn, str):
                drawn = stream.integers(spec.classes or 1, size=each)
            labels = None if drawn is None else torch.as_tensor(np.broadcast_to(drawn, each).copy()).to(spec.device)
            states.append(self.mdp.start(each, generator, labels, spec.like()))
        return _stacked(states)

    def _going(self) -> State:
        if self.state is None or self.state.k < self.mdp.last:
            raise RuntimeError("the chains have ended or were never started; call reset first")
        return self.state


def _alone(state: State) -> list[State]:
    labels = [None] * len(state.x) if state.condition is None else state.condition.split(1)
    return [State(x, state.k, label) for x, label in zip(state.x.split(1), labels, strict=True)]


def _stacked(states: list[State]) -> State:
    labels = [state.condition for state in states if state.condition is not None]
    return State(torch.cat([state.x for state in states]), states[0].k, torch.cat(labels) if labels else None)


def _joined(outcomes: list[Outcome]) -> Outcome:
    return Outcome(
        _stacked([o.state for o in outcomes]), torch.cat([o.paid for o in outcomes]),
        torch.cat([o.charge for o in outcomes]), outcomes[0].done,
    )  # fmt: skip
