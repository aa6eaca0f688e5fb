"""The environments: what Gymnasium and Stable-Baselines3 ask of them, parity of one and many, and what is refused."""

from __future__ import annotations

import re
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env as gymnasium_check
from gymnasium.vector import AutoresetMode

import unidiff as ud
from tests.rl.cores import classes, images, plane
from unidiff.rl import ID, DenoiseEnv, DenoiseVectorEnv

SYMMETRIC = "symmetric and normalized"  # what both checkers recommend of boxes; residuals are N(0, I) and stay so


def reward(x0: torch.Tensor) -> torch.Tensor:
    return x0.flatten(1)[:, 0]


CASES: list[tuple[str, dict[str, Any]]] = [
    ("residual", {"core": plane(), "steps": 5, "beta": 0.3}),
    ("state", {"core": plane(), "steps": 5, "beta": 0.3, "action": "state"}),
    ("no noise at the start", {"core": plane(ud.Schedule.linear()), "steps": 4}),
    ("variance exploding", {"core": plane(ud.Schedule.karras(0.1, 20.0)), "steps": 4, "variance": "optimal"}),
    ("classes", {"core": classes(), "steps": 3, "condition": "random"}),
    ("images in float64", {"core": images(), "steps": 3, "dtype": torch.float64}),
]


@pytest.mark.parametrize("options", [c for _, c in CASES], ids=[name for name, _ in CASES])
def test_gymnasiums_checker_has_nothing_to_say(options) -> None:
    env = gymnasium.make(ID, reward=reward, render_mode="rgb_array", **options).unwrapped
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        gymnasium_check(env)
    assert [str(w.message) for w in said if SYMMETRIC not in str(w.message).replace("a symmetric", "symmetric")] == []


@pytest.mark.parametrize("options", [c for name, c in CASES if "images" not in name])
def test_stable_baselines_checker_has_nothing_to_say(options) -> None:
    checker = pytest.importorskip("stable_baselines3.common.env_checker", reason="needs stable-baselines3")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        checker.check_env(DenoiseEnv(reward=reward, **options))
    assert [str(w.message) for w in said if SYMMETRIC not in str(w.message)] == []


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("options", [c for _, c in CASES], ids=[name for name, _ in CASES])
def test_in_parity_mode_the_chains_are_single_environments_bit_for_bit(options, mode) -> None:
    many: Any = gymnasium.make_vec(ID, 3, reward=reward, parity=True, autoreset_mode=mode, **options)
    single = gymnasium.make_vec(ID, 3, "sync", vector_kwargs={"autoreset_mode": mode}, reward=reward, **options)
    assert many.observation_space == single.observation_space
    assert many.action_space == single.action_space
    draws = np.random.default_rng(0)
    same(many.reset(seed=7), single.reset(seed=7))
    for _ in range(9):
        actions = draws.normal(size=many.action_space.shape).astype(many.action_space.dtype)
        found, expected = many.step(actions), single.step(actions)
        same(found, expected)
        if mode == AutoresetMode.DISABLED and found[2].all():
            everyone = {"reset_mask": np.ones(3, dtype=bool)}
            same(many.reset(options=dict(everyone)), single.reset(options=dict(everyone)))


def same(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(found, dict):
        assert found.keys() == expected.keys()
        for name in found:
            same(found[name], expected[name])
    elif isinstance(found, tuple) or (isinstance(found, np.ndarray) and found.dtype == object):
        for one, two in zip(found, expected, strict=True):
            same(one, two)
    else:
        np.testing.assert_array_equal(found, expected, strict=True)


def test_without_parity_the_chains_are_those_of_torch_alone() -> None:
    env = DenoiseVectorEnv(64, plane(), reward, steps=6, beta=0.5)
    env.reset(seed=3)
    state = env.state
    actions = torch.randn(6, 64, 2, generator=torch.Generator().manual_seed(0))
    total = np.zeros(64)
    for action in actions:
        assert state is not None
        outcome = env.mdp.step(state, action)
        told, rewards, ended, cut, infos = env.step(action.numpy())
        np.testing.assert_array_equal(told["x"], outcome.state.x.numpy())
        np.testing.assert_array_equal(rewards.astype(np.float32), outcome.reward.numpy())
        np.testing.assert_allclose(infos["charge"], 0.25 * action.square().sum(1).numpy(), rtol=1e-6)
        assert not cut.any()
        state, total = outcome.state, total + rewards
    assert ended.all()
    np.testing.assert_allclose(
        total, told["x"][:, 0] - 0.25 * actions.square().sum((0, 2)).numpy(), rtol=1e-5, atol=1e-5
    )


def test_a_seed_is_a_run_and_another_is_another() -> None:
    for make in (lambda: DenoiseEnv(plane(), steps=2), lambda: DenoiseVectorEnv(4, plane(), steps=2)):
        env, again = make(), make()
        first, second = env.reset(seed=5)[0]["x"], env.reset()[0]["x"]
        np.testing.assert_array_equal(again.reset(seed=5)[0]["x"], first)
        np.testing.assert_array_equal(again.reset()[0]["x"], second)
        assert not np.array_equal(first, second)
        assert not np.array_equal(env.reset(seed=6)[0]["x"], first)


def test_a_class_is_the_one_asked_for_or_drawn() -> None:
    env = DenoiseVectorEnv(200, classes(), reward, steps=2, condition="random")
    told = env.reset(seed=0)[0]["condition"]
    assert set(told.tolist()) == {0, 1, 2}
    asked = np.arange(200) % 3
    np.testing.assert_array_equal(env.reset(options={"condition": asked})[0]["condition"], asked)
    assert DenoiseEnv(classes(), steps=2, condition=1).reset(seed=0)[0]["condition"] == 1
    assert "condition" not in DenoiseEnv(classes(), steps=2).reset(seed=0)[0]


@pytest.mark.parametrize(
    ("core", "shape"), [(plane(), (300, 300, 3)), (images(), (256, 256, 3)), (images(3), (256, 256, 3))]
)
def test_a_picture_is_bytes_and_shows_the_chains(core, shape) -> None:
    env = DenoiseVectorEnv(4, core, steps=2, render_mode="rgb_array")
    with pytest.raises(RuntimeError, match="before reset"):
        env.render()
    env.reset(seed=0)
    drawn = env.render()
    assert drawn is not None
    assert drawn[0].shape == shape
    assert drawn[0].dtype == np.uint8
    env.step(np.zeros((4, *env.single_action_space.shape)))  # pyright: ignore
    after = env.render()
    assert after is not None
    assert not np.array_equal(drawn[0], after[0])
    assert DenoiseEnv(core, steps=2).render() is None


def test_a_sheet_has_each_image_in_its_place() -> None:
    env = DenoiseVectorEnv(3, images(), steps=2, render_mode="rgb_array")
    env.reset(seed=0)
    assert env.state is not None
    env.state.x[:] = torch.tensor([-1.0, 0.0, 2.0])[:, None, None, None]
    drawn = env.render()
    assert drawn is not None
    quarters = [drawn[0][r : r + 128, c : c + 128] for r in (0, 128) for c in (0, 128)]
    assert [np.unique(q).tolist() for q in quarters] == [[0], [128], [255], [0]]


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"core": 3}, TypeError, "core must be .*Diffusion"),
    ({"reward": 3}, TypeError, "reward must be callable"),
    ({"step_reward": 3}, TypeError, "step_reward must be callable"),
    ({"steps": 0}, ValueError, "steps must be an integer of at least 1, got 0"),
    ({"steps": 3, "grid": ud.TimeGrid.uniform(3)}, ValueError, "steps or a grid"),
    ({"grid": [0.0, 1.0]}, TypeError, "grid must be"),
    ({"beta": -1.0}, ValueError, "beta must be at least 0"),
    ({"action": "residuals"}, ValueError, "did you mean 'residual'"),
    ({"variance": "posteriors"}, ValueError, "did you mean 'posterior'"),
    ({"core": images(), "condition": 0}, ValueError, "condition needs a core with classes"),
    ({"core": classes(), "condition": 3}, ValueError, r"condition must be a class in 0 … 2 or 'random', got 3"),
    ({"reach": 0.0}, ValueError, "reach must be positive"),
    ({"dtype": torch.float16}, ValueError, "dtype must be"),
    ({"device": "tpu"}, ValueError, "device must be"),
    ({"render_mode": "human"}, ValueError, "unknown render_mode 'human'"),
    ({"core": plane(ud.Schedule.linear()), "steps": 1}, ValueError, "a step with noise"),
]


@pytest.mark.parametrize(("options", "error", "message"), REFUSED)
def test_a_bad_option_is_refused_by_name(options, error, message) -> None:
    options = {"core": plane(), "reward": reward, **options}
    for make in (DenoiseEnv, lambda **o: DenoiseVectorEnv(2, **o)):
        with pytest.raises(error, match=message):
            make(**options)


def test_a_vector_option_is_refused_by_name() -> None:
    for options, message in (
        ({"num_envs": 0}, "num_envs"), ({"autoreset_mode": "never"}, "autoreset_mode"), ({"parity": 1}, "parity"),
    ):  # fmt: skip
        with pytest.raises((ValueError, TypeError), match=message):
            DenoiseVectorEnv(**{"num_envs": 2, "core": plane(), **options})
    env = DenoiseVectorEnv(2, classes(), steps=2, condition="random")
    rows: list[tuple[Any, Any, str]] = [
        ([1], None, "seed must be one, or a list of 2, got 1"),
        (None, {"condition": [0, 1, 2]}, "one for each of 2, got 3"),
        (None, {"condition": [0, 5]}, "a class in 0 … 2"),
        (None, {"reset_mask": np.array([True, False])}, "reset_mask must be of all chains"),
    ]
    for seed, options, message in rows:
        with pytest.raises(ValueError, match=re.escape(message)):
            env.reset(seed=seed, options=options)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ([0.0], "must hold numbers of shape"),
        ([0.0, 11.0], r"must lie in the action space, \[-10, 10\], got values in \[0, 11\]"),
        ([0.0, np.nan], "must lie in the action space"),
        (["a", "b"], "must hold numbers"),
    ],
)
def test_an_action_outside_the_space_is_refused_and_costs_nothing(action, message) -> None:
    env = DenoiseEnv(plane(), reward, steps=3)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.step(action)
    told = env.step(np.zeros(2))[0]
    env.reset(seed=0)
    np.testing.assert_array_equal(env.step(np.zeros(2))[0]["x"], told["x"])
    many = DenoiseVectorEnv(2, plane(), reward, steps=3)
    many.reset(seed=0)
    with pytest.raises(ValueError, match="actions " + message):
        many.step([[0.0, 0.0][: len(action)], action])  # pyright: ignore


def test_there_is_no_step_before_the_start_or_after_the_end() -> None:
    for env, action in (
        (DenoiseEnv(plane(), steps=1), np.zeros(2)),
        (DenoiseVectorEnv(2, plane(), steps=1, autoreset_mode="Disabled"), np.zeros((2, 2))),
    ):
        with pytest.raises(RuntimeError, match="never started"):
            env.step(action)
        env.reset(seed=0)
        assert np.all(env.step(action)[2])
        with pytest.raises(RuntimeError, match="call reset first"):
            env.step(action)


@pytest.mark.parametrize(
    ("paid", "error", "message"),
    [
        (lambda x: x, ValueError, r"reward must return shape \[2\], one number a chain, got \[2, 2\]"),
        (lambda x: x[:, 0].long(), TypeError, "what reward returns must be a floating-point tensor"),
        (lambda x: [1.0, 2.0], TypeError, "what reward returns"),
        (lambda x: x[:, 0] * torch.tensor([1.0, torch.nan]), FloatingPointError, "reward returned 1 of 2 values"),
    ],
)
def test_a_reward_that_is_none_stops_the_run(paid, error, message) -> None:
    env = DenoiseVectorEnv(2, plane(), paid, steps=1)
    env.reset(seed=0)
    with pytest.raises(error, match=message):
        env.step(np.zeros((2, 2)))
