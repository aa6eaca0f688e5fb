"""Rewards: sums that tilt, a world's log density, the log-probability of a class; gradients, and what is refused."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

import unidiff as ud
from unidiff.rl import Classifier, ClassLogProb, DenoisingMDP, RewardModel, WeightedSum, WorldLogProb
from unidiff.rl.mdp import State
from unidiff.worlds import rewards

WORLD = ud.worlds.library.mixture_2d()
TARGET = ud.worlds.Gaussian([0.3, -0.2], [[0.9, 0.2], [0.2, 0.6]])
POINTS = torch.randn(9, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def table(entries: list[Any]) -> torch.Tensor:
    return torch.tensor(entries, dtype=torch.float64)


QUADRATICS = [
    (0.7, rewards.Linear(table([1.0, -0.4]))),
    (-0.5, rewards.Quadratic(table([[0.6, 0.1], [0.1, 0.3]]), table([0.2, 0.5]))),
    (0.25, rewards.LogDensity(TARGET)),
    (1.5, rewards.Quadratic(table([[0.4, 0.0], [0.0, 0.2]]))),
]


def bayes(x: torch.Tensor) -> torch.Tensor:
    """The logits of the mixture's own classifier: log w_k N(x; m_k, S_k)."""
    world = WORLD.to(x.dtype)
    parts = zip(world.means, world.covariances, strict=True)
    return torch.stack([ud.worlds.Gaussian(m, S).log_prob(x) for m, S in parts], 1) + world.log_weights


def learned(module: RewardModel | Classifier) -> Any:
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(parameter.numel()))
    return module.double()


REWARDS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "a sum": WeightedSum(QUADRATICS),
    "a mixture's log density": WorldLogProb(WORLD),
    "a class": ClassLogProb(bayes, 1),
    "a learned class": ClassLogProb(learned(Classifier((2,), 3, width=8)), 2),
    "a reward model": learned(RewardModel((2,), width=8)),
}


def test_a_sum_is_the_sum() -> None:
    expected = sum(w * r(POINTS) for w, r in QUADRATICS)
    torch.testing.assert_close(WeightedSum(QUADRATICS)(POINTS), expected, rtol=1e-14, atol=1e-13)


@pytest.mark.parametrize("world", [TARGET, WORLD], ids=["Gaussian", "mixture"])
@pytest.mark.parametrize("terms", [QUADRATICS, QUADRATICS[:1], QUADRATICS[3:], QUADRATICS[1:3]])
def test_a_world_tilts_by_a_sum_as_by_each_term_in_turn(world, terms) -> None:
    beta = 0.8
    found, log_z = world.tilt_by(WeightedSum(terms), beta)
    expected, total = world, torch.zeros((), dtype=torch.float64)
    for weight, reward in terms:
        expected, part = (
            expected.tilt_by(reward, beta / weight) if weight > 0 else minus(expected, weight, reward, beta)
        )
        total = total + part
    torch.testing.assert_close(log_z, total, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.mean, expected.mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.covariance, expected.covariance, rtol=1e-12, atol=1e-12)


def minus(world: Any, weight: float, reward: Any, beta: float) -> Any:
    A, b, _ = reward.coefficients()
    return world.tilt(weight * A, weight * b, beta)


def test_a_sum_of_rewards_in_tensors_of_one_dtype_stays_in_it() -> None:
    single = [(1.0, rewards.Linear(torch.tensor([1.0, 2.0]))), (2.0, rewards.Quadratic(torch.eye(2)))]
    A, b, _ = WeightedSum(single).coefficients()
    assert A is not None and b is not None and A.dtype == b.dtype == torch.float32


def test_a_cloud_tilts_by_a_sum_that_is_not_quadratic() -> None:
    cloud = ud.worlds.PointCloud(POINTS)
    mixed = WeightedSum([(0.5, WorldLogProb(WORLD)), (1.0, rewards.Linear(table([1.0, 0.0])))])
    _, log_z = cloud.tilt_by(mixed, 0.7)
    expected = torch.logsumexp((0.5 * WORLD.log_prob(POINTS) + POINTS[:, 0]) / 0.7, 0) - math.log(len(POINTS))
    torch.testing.assert_close(log_z, expected, rtol=1e-12, atol=0)
    with pytest.raises(TypeError, match=re.escape("terms[0] must be quadratic")):
        WORLD.tilt_by(mixed, 0.7)


def test_the_log_density_of_a_gaussian_is_the_quadratic_one() -> None:
    torch.testing.assert_close(WorldLogProb(TARGET)(POINTS), rewards.LogDensity(TARGET)(POINTS), rtol=0, atol=0)


@pytest.mark.parametrize("label", [0, 1, 2])
def test_tilting_by_the_log_probability_of_a_class_gives_the_class(label) -> None:
    # Bayes on points of the plane: p(x) p(y|x)/p(y) is the component's density.
    tilted = WORLD.log_prob(POINTS) + ClassLogProb(bayes, label)(POINTS) - WORLD.log_weights[label]
    component = ud.worlds.Gaussian(WORLD.means[label], WORLD.covariances[label])
    torch.testing.assert_close(tilted, component.log_prob(POINTS), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("reward", REWARDS.values(), ids=list(REWARDS))
def test_a_reward_is_differentiable_in_x0(reward) -> None:
    x = POINTS.clone().requires_grad_()
    assert torch.autograd.gradcheck(reward, (x,))
    (gradient,) = torch.autograd.grad(reward(x).sum(), x)
    assert bool((gradient != 0).any(1).all())


@pytest.mark.parametrize("reward", REWARDS.values(), ids=list(REWARDS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_reward_answers_in_the_dtype_of_the_data_and_pays_a_chain(reward, dtype) -> None:
    value = reward(POINTS.to(dtype))
    assert value.shape == (9,) and value.dtype == dtype
    core = ud.Diffusion(ud.Schedule.cosine(), ud.worlds.OracleDenoiser(WORLD.to(dtype)))
    mdp = DenoisingMDP(core.chain(ud.TimeGrid.uniform(3)), reward)
    end = mdp.step(State(POINTS.to(dtype), mdp.last), torch.zeros(9, 2, dtype=dtype))
    torch.testing.assert_close(end.reward, reward(end.state.x), rtol=0, atol=0)


BAD: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: WeightedSum([]), ValueError, "terms must hold at least one pair (weight, reward), got none"),
    (lambda: WeightedSum(3), TypeError, "terms must be a Sequence, got 3"),  # pyright: ignore
    (lambda: WeightedSum([TARGET.log_prob]), TypeError, "terms[0] must be a pair (weight, reward)"),  # pyright: ignore
    (lambda: WeightedSum([(1.0, 2.0)]), TypeError, "terms[0] must be a pair (weight, reward)"),  # pyright: ignore
    (lambda: WeightedSum([(1.0, bayes), (math.inf, bayes)]), ValueError, "terms[1]'s weight must be finite, got inf"),
    (lambda: WeightedSum([("1", bayes)]), TypeError, "terms[0]'s weight must be a number, got '1'"),  # pyright: ignore
    (
        lambda: WeightedSum([(1.0, WorldLogProb(WORLD)), (1.0, lambda x: x[:, :1])])(POINTS),
        ValueError,
        "terms[1] must return shape [9], one number a chain, got [9, 1]",
    ),
    (
        lambda: WeightedSum([(1.0, lambda x: x[:, 0] > 0)])(POINTS),
        TypeError,
        "what terms[0] returns must be a floating",
    ),
    (
        lambda: WeightedSum(
            [(1.0, rewards.Linear(table([1.0]))), (1.0, rewards.Quadratic(torch.eye(2)))]
        ).coefficients(),
        ValueError,
        "terms must be rewards of one dimension, got 1 and 2",
    ),
    (lambda: WorldLogProb(bayes), TypeError, "world must be a World"),  # pyright: ignore
    (lambda: WorldLogProb(WORLD.posterior(POINTS, 0.5, 0.5)), ValueError, "world must be one law, got a batch of 9"),
    (lambda: WorldLogProb(WORLD)(POINTS[:, :1]), ValueError, "x must have shape [B, 2], got [9, 1]"),
    (lambda: WorldLogProb(WORLD)(POINTS.long()), TypeError, "x must be a floating-point tensor, got torch.int64"),
    (lambda: ClassLogProb(3, 0), TypeError, "classifier must be callable, got int"),  # pyright: ignore
    (lambda: ClassLogProb(bayes, -1), ValueError, "label must be an integer of at least 0, got -1"),
    (lambda: ClassLogProb(bayes, True), ValueError, "label must be an integer of at least 0, got True"),
    (lambda: ClassLogProb(bayes, 3)(POINTS), ValueError, "label must lie in 0 … 2, the classifier's classes, got 3"),
    (
        lambda: ClassLogProb(Classifier((2,), 3), 3),
        ValueError,
        "label must lie in 0 … 2, the classifier's classes, got 3",
    ),
    (
        lambda: ClassLogProb(lambda x: x[:, 0], 0)(POINTS),
        ValueError,
        "classifier must return logits [9, C], got shape [9]",
    ),
    (
        lambda: ClassLogProb(lambda x: x[:1], 0)(POINTS),
        ValueError,
        "classifier must return logits [9, C], got shape [1, 2]",
    ),
]


@pytest.mark.parametrize(("call", "kind", "words"), BAD, ids=[words for _, _, words in BAD])
def test_bad_input_is_refused_by_name(call, kind, words) -> None:
    with pytest.raises(kind, match=re.escape(words)):
        call()
