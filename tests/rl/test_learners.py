"""A learner that knows nothing of diffusion improves the reward."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.rl.cores import plane


def earned(env, model, n: int, seed: int) -> np.ndarray:
    env.seed(seed)
    told, total = env.reset(), np.zeros(n)
    for _ in range(env.chains.mdp.horizon):
        told, rewards, _, _ = env.step(model.predict(told)[0])
        total += rewards
    return total


@pytest.mark.statistical
def test_stable_baselines_ppo_learns_to_be_paid() -> None:
    # A z-test of a rise of half a unit: of 1000 walks before and after, false alarm 3e-7; found: a rise of 1 at z of 20.
    pytest.importorskip("stable_baselines3", reason="needs stable-baselines3")
    from stable_baselines3 import PPO

    from unidiff.rl.sb3 import DenoiseVecEnv

    def first(x0: torch.Tensor) -> torch.Tensor:
        return x0[:, 0]

    options = {"steps": 8, "beta": 0.2}
    env = DenoiseVecEnv(256, plane(), first, **options)
    env.seed(0)
    model = PPO(
        "MultiInputPolicy", env, n_steps=32, batch_size=2048, n_epochs=5, learning_rate=1e-3, gamma=1.0, gae_lambda=1.0,
        seed=0, device="cpu", policy_kwargs={"net_arch": [64, 64]},
    )  # fmt: skip
    walks = DenoiseVecEnv(1000, plane(), first, **options)
    before = earned(walks, model, 1000, 1)
    model.learn(256 * 32 * 6)
    after = earned(walks, model, 1000, 2)
    error = math.sqrt((before.var() + after.var()) / 1000)
    assert (after.mean() - before.mean() - 0.5) / error > 5
