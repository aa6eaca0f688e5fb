"""DxMI's losses by hand, each choice of them, and weights that make a wrong policy's draws the energy's."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch.distributions import Independent, Normal

import unidiff as ud
from tests.ebm.dxmi_parts import WORLD, exact_value, grid_value, law_of, moved, normal, seeded
from unidiff.core.gaussian import Gaussian as Step
from unidiff.ebm import Choices, EnergyModel
from unidiff.ebm.dxmi.law import AuxiliaryLaw
from unidiff.ebm.dxmi.objectives import anchor, contrast, cost_to_go, difference, ladder, path_weights
from unidiff.ebm.dxmi.policy import StepPolicy, walk
from unidiff.ebm.dxmi.value import Value
from unidiff.worlds import Gaussian, OracleDenoiser


def test_the_contrast_by_hand() -> None:
    p, q = torch.tensor([1.0, 3.0]), torch.tensor([2.0, -1.0, 5.0])
    assert float(contrast(p, q, 0.0)) == pytest.approx(2.0 - 2.0)
    assert float(contrast(p, q, 0.1)) == pytest.approx(0.1 * (5.0 + 10.0))
    weights = torch.tensor([0.5, 0.25, 0.25])
    assert float(contrast(p, q, 0.1, weights)) == pytest.approx(2.0 - 2.0 + 0.1 * (5.0 + 8.5))
    assert float(contrast(p, q, 0.0, torch.tensor([1.0, 0.0, 0.0]))) == pytest.approx(0.0)


def test_the_cost_to_go_by_hand_and_each_choice_changes_what_it_says() -> None:
    law = moved(law_of())
    value, k = Value(grid_value(), law.levels()), torch.tensor([1, 3, 4])
    step = Step(normal(3, 2), torch.tensor([[-1.0], [0.5], [0.2]], dtype=torch.float64))
    earlier, later = normal(3, 2, seed=1), normal(3, 2, seed=2)
    paid = 0.5 * k * earlier.square().sum(1)  # V_{k−1}, whose root is k
    keep, std = law.keep[k - 1][:, None], (0.5 * law.log_var[k - 1]).exp()[:, None]
    square = 0.5 * ((later - keep * earlier) / std).square().sum(1)
    spread = law.log_var[k - 1] + math.log(2 * math.pi)  # D/2 of it, D = 2
    entropy = Independent(Normal(step.mean, step.std.expand(3, 2)), 1).entropy()

    def of(target: bool = False, **choices: Any) -> torch.Tensor:
        return cost_to_go(value, law, step, earlier, later, k, Choices(**choices), target=target)

    close: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(of(), paid + square + spread - entropy, **close)
    cost = square + spread
    torch.testing.assert_close(of(target=True), of(), **close)
    for asked in (True, False):
        torch.testing.assert_close(of(asked, entropy=0.3), paid + cost - 0.3 * entropy, **close)
        torch.testing.assert_close(of(asked, cost=0.3), paid + 0.3 * cost - entropy, **close)
        torch.testing.assert_close(of(asked, mean=True), paid + 0.5 * (cost - entropy), **close)
        # Of which value is no part of the cost.
        assert torch.equal(of(asked, lagged=False), of(asked))
    # What is left out of the value's target is in the policy's loss all the same.
    torch.testing.assert_close(of(True, cost_in_value=False), paid - entropy, **close)
    torch.testing.assert_close(of(True, entropy_in_value=False), paid + cost, **close)
    assert torch.equal(of(cost_in_value=False, entropy_in_value=False), of())
    published = dataclasses.asdict(Choices.published())
    torch.testing.assert_close(of(True, **published), paid, **close)
    torch.testing.assert_close(of(**published), paid + 0.5 * (0.01 * cost - 0.1 * entropy), **close)
    assert not published["lagged"]
    for wrong, message in (({"mean": 3}, "mean must be"), ({"cost": 0.0}, "cost must be positive")):
        with pytest.raises((TypeError, ValueError), match=message):
            Choices(**wrong)  # pyright: ignore


def test_temporal_differences_by_hand() -> None:
    value, x, k = Value(grid_value(), law_of().levels()), normal(3, 2), torch.tensor([0, 2, 4])
    target = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    known = (0.5 * (k + 1) * x.square().sum(1) - target).square().mean()
    torch.testing.assert_close(difference(value, x, k, target), known)


def test_the_anchor_by_hand_sums_over_numbers_and_averages_over_data() -> None:
    law = moved(law_of())
    value = Value(grid_value(), law.levels())
    x0, noise, k = normal(3, 2), normal(3, 2, seed=1), torch.tensor([0, 2, 4])
    alpha, sigma = law.levels().alpha[k][:, None], law.levels().sigma[k][:, None]
    told = sigma * (k + 1)[:, None] * (alpha * x0 + sigma * noise)
    known = (noise - told).square().sum(1).mean()
    torch.testing.assert_close(anchor(value, x0, k / 4, noise), known, rtol=1e-6, atol=0)


def test_the_ladder_by_hand_prefers_the_nearer_levels_data_below() -> None:
    law = moved(law_of())
    value, level = Value(grid_value(), law.levels()), law.levels()
    x0, noise, k = normal(2, 3, 2), normal(2, 3, 2, seed=1), torch.tensor([1, 2, 4])
    total = torch.zeros((), dtype=torch.float64)
    for side, at, sign in ((0, k - 1, 1.0), (1, k, -1.0)):
        x = level.alpha[at][:, None] * x0[side] + level.sigma[at][:, None] * noise[side]
        logit = 0.5 * x.square().sum(1)  # V_k − V_{k−1}
        total = total - torch.sigmoid(sign * logit).log().mean()
    torch.testing.assert_close(ladder(value, x0, k, noise), total, rtol=1e-12, atol=0)


def test_a_value_at_its_law_is_best_by_every_loss_that_holds_it() -> None:
    # Of the exact value, its negative, and one of a law half as wide: statistics of 2000 data, seen to be far apart.
    law = law_of()
    exact = exact_value(law)
    x0, noise = WORLD.sample(2000, seeded()), normal(2000, 2)
    pairs = torch.stack([WORLD.sample(2000, seeded(1)), WORLD.sample(2000, seeded(2))])
    k = torch.arange(2000) % 4 + 1

    class Wrong(Value):
        def __call__(self, x: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
            return -exact(x, k)

        def noise(self, x: torch.Tensor, level: Any) -> torch.Tensor:
            return -exact.noise(x, level)

    wrong = Wrong(exact.model, exact.levels)
    share = torch.rand(2000, generator=seeded(), dtype=torch.float64)
    assert float(anchor(exact, x0, share, noise)) < 2.0 < float(anchor(wrong, x0, share, noise))
    both = normal(2, 2000, 2, seed=3)
    assert float(ladder(exact, pairs, k, both)) < 2 * math.log(2) < float(ladder(wrong, pairs, k, both))


def test_path_weights_are_softmaxed_and_counted() -> None:
    value = Value(grid_value(), law_of().levels())
    last, log_ratio = normal(6, 2), normal(6, seed=1)
    weights, count = path_weights(value, log_ratio, last)
    raw = (log_ratio - 0.5 * last.square().sum(1)).exp()
    torch.testing.assert_close(weights, raw / raw.sum())
    torch.testing.assert_close(count, raw.sum() ** 2 / raw.square().sum())
    assert not weights.requires_grad


@pytest.mark.statistical
def test_weighted_walks_of_any_policy_are_draws_of_the_energy() -> None:
    # π is wrong on purpose; under the weights E x² of N(0.3, 0.5) data at t_0 is right: within 5 standard errors,
    # of which one is about 0.5%; the bare walks are off by 20% and more.
    data = Gaussian([0.3, -0.2], [[0.5, 0.0], [0.0, 0.5]])
    grid = ud.TimeGrid.uniform(3, 0.3)
    own = ud.Diffusion(ud.Schedule.cosine(), OracleDenoiser(data))
    chain = own.chain(grid)
    law = AuxiliaryLaw(chain)
    value = Value(EnergyModel.of(own), law.levels())
    policy = StepPolicy(chain, chain.table.log_posterior_var + 0.9)
    n = 100_000
    states = walk(policy, policy.chain(), normal(n, 2), seeded(1))
    log_ratio = -Independent(Normal(torch.zeros(n, 2).double(), 1.0), 1).log_prob(states[-1])
    for k in range(1, 4):
        rows = torch.full((n,), k)
        with torch.no_grad():
            step = policy.kernel(policy.chain(), states[k], rows)
        log_ratio = log_ratio - law.cost(states[k - 1], states[k], rows) - step.log_prob(states[k - 1])
    weights, count = path_weights(value, log_ratio, states[0])
    square = states[0].square().sum(1)
    level = law.levels()
    truth = 2 * (float(level.alpha[0]) ** 2 * 0.5 + float(level.sigma[0]) ** 2) + float(level.alpha[0]) ** 2 * 0.13
    found = float((weights * square).sum())
    error = float((weights.square() * (square - found).square()).sum().sqrt())
    assert float(count) > 0.1 * n
    assert error < 0.02 * truth
    assert abs(found - truth) < 5 * error
    assert abs(float(square.mean()) - truth) > 0.1 * truth
