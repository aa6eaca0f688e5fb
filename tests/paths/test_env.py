"""A grid chosen step by step as a decision process: its rewards are the costs, its masks what still leads to the data."""

from __future__ import annotations

import math

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from torch import Tensor

from unidiff.paths import shortest
from unidiff.paths.env import ScheduleEnv, ScheduleMDP, ScheduleState


def table(last: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(last + 1, last + 1, dtype=torch.float64, generator=generator).triu(1)


@pytest.mark.parametrize("action", ["discrete", "beta"])
def test_it_is_an_environment_as_gymnasium_asks(action) -> None:
    features = torch.randn(3, 9, 2, generator=torch.Generator().manual_seed(0))
    env = gymnasium.make("unidiff/Schedule-v0", costs=table(8), steps=4, features=features, action=action)
    check_env(env.unwrapped, skip_render_check=True)


def test_the_shortest_path_earns_minus_its_cost() -> None:
    cost = table(12)
    found = shortest(cost, 5)
    for steps in (1, 3, 5):
        env = ScheduleEnv(cost, steps)
        env.reset(seed=0)
        earned, path = 0.0, found.path(steps).tolist()
        for node in reversed(path[:-1]):
            _, reward, ended, cut, info = env.step(node)
            earned += float(reward)
        assert ended and not cut and info["path"].tolist() == path
        assert earned == pytest.approx(-float(found.values[steps - 1]), rel=1e-12)
        with pytest.raises(RuntimeError, match="the path has ended"):
            env.step(0)


def test_value_iteration_on_the_process_is_the_shortest_path() -> None:
    """Bellman's equation with the process's own masks and steps, against the dynamic programme on the table."""
    cost, steps = table(9, 3), 4
    cost[1, 7] = cost[0, 3] = math.inf
    mdp = ScheduleMDP(cost, steps)
    value = torch.full((steps + 1, 10), -math.inf, dtype=torch.float64)
    value[0, 0] = 0.0
    one = torch.zeros(1, dtype=torch.long)
    for left in range(1, steps + 1):
        for node in range(1, 10):
            state = ScheduleState(one + node, one + left, one)
            for action in mdp.mask(state)[0].nonzero()[:, 0].tolist():
                after, reward, _ = mdp.step(state, one + action)
                total = float(reward) + float(value[int(after.left), int(after.node)])
                value[left, node] = max(float(value[left, node]), total)
    best = shortest(cost, steps).values
    assert [float(-value[k, 9]) for k in range(1, steps + 1)] == pytest.approx(best.tolist(), rel=1e-12)


def test_any_allowed_walk_ends_at_the_data_in_time_and_pays_no_infinity() -> None:
    cost = table(10, 1)
    cost[torch.rand(11, 11, generator=torch.Generator().manual_seed(5)) < 0.3] = math.inf
    cost = cost.triu(1)
    mdp, draws = ScheduleMDP(cost, 4), torch.Generator().manual_seed(2)
    state, paid, path = mdp.start(torch.zeros(200, dtype=torch.long)), torch.zeros(200, dtype=torch.float64), []
    path.append(state.node)
    for _ in range(4):
        assert bool(mdp.mask(state).any(1).all())
        state, reward, ended = mdp.step(state, torch.multinomial(mdp.mask(state).double(), 1, generator=draws)[:, 0])
        paid += reward
        path.append(state.node)
    assert bool(ended.all()) and bool((state.node == 0).all()) and bool(torch.isfinite(paid).all())
    walked = torch.stack(path[::-1], 1)
    torch.testing.assert_close(mdp.cost(walked, state.instance), -paid)


def test_an_instance_has_its_own_costs_and_is_seen_by_its_features() -> None:
    costs = torch.stack([table(6, seed) for seed in range(2)])
    features = torch.arange(2 * 7 * 3, dtype=torch.float32).reshape(2, 7, 3)
    mdp = ScheduleMDP(costs, 3, features=features, log_snr=torch.linspace(9, -9, 7))
    state = mdp.start(torch.tensor([0, 1]), torch.tensor([3, 2]))
    told = mdp.observe(state)
    assert told.shape == (2, 5) and told.dtype == torch.float32
    torch.testing.assert_close(told[:, :2], torch.tensor([[1.0, 1.0], [1.0, 2 / 3]]))
    torch.testing.assert_close(told[:, 2:], features[:, 6])
    _, reward, _ = mdp.step(state, torch.tensor([4, 4]))
    assert reward.tolist() == pytest.approx((-costs[:, 4, 6]).tolist())


def test_a_share_is_of_the_way_from_the_lowest_allowed_node_to_the_highest() -> None:
    mdp = ScheduleMDP(table(10), 3)
    state = mdp.start(torch.zeros(3, dtype=torch.long))
    assert mdp.nearest(state, torch.tensor([0.0, 0.6, 1.0])).tolist() == [2, 6, 9]
    env = ScheduleEnv(table(10), 3, action="beta")
    env.reset(seed=0)
    for share in (1.0, 0.0, 0.7):
        _, _, ended, _, info = env.step(np.array([share], dtype=np.float32))
    assert ended and info["path"].tolist() == [0, 1, 9, 10]


BAD = table(5)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ScheduleMDP(BAD, 6), ValueError, "steps must be at most the 5 between the nodes"),
        (lambda: ScheduleMDP(BAD, 0), ValueError, "steps must be an integer of at least 1, got 0"),
        (lambda: ScheduleMDP(BAD[:3], 1), ValueError, r"costs must have shape .* got \[3, 6\]"),
        (lambda: ScheduleMDP(BAD - math.inf, 1), ValueError, "costs must be finite, or \\+inf"),
        (
            lambda: ScheduleMDP(torch.full((4, 4), math.inf), 2),
            ValueError,
            "steps must be what a path of finite cost may",
        ),
        (lambda: ScheduleMDP(BAD, 2, features=torch.zeros(1, 3, 2)), ValueError, "features must have shape"),
        (lambda: ScheduleMDP(BAD, 2, log_snr=[1.0, 2.0]), ValueError, "log_snr must be 6 strictly falling numbers"),
        (lambda: ScheduleEnv(BAD, 2, action="gaussian"), ValueError, "action"),  # pyright: ignore
        (lambda: ScheduleEnv(BAD, 2).step(1), RuntimeError, "call reset first"),
    ],
)
def test_what_is_no_process_is_refused(make, error, message) -> None:
    with pytest.raises(error, match=message):
        make()


def test_a_node_that_is_not_allowed_is_named_with_those_that_are() -> None:
    env = ScheduleEnv(BAD, 3)
    _, info = env.reset(seed=0)
    assert info["action_mask"].tolist() == [0, 0, 1, 1, 1, 0]
    with pytest.raises(ValueError, match="from node 5 with 3 steps left one of 2, 3, 4, got 1"):
        env.step(1)
    with pytest.raises(ValueError, match="action must be a node"):
        env.step(1.5)
