"""The methods that use the reward's gradient, against autograd through chains that are walked and detached by hand."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import unidiff as ud
from tests.rl.policies import F64, LINEAR, PAID, draws, gradients, moved, process, seeded
from unidiff.rl import AdjointMatching, Backprop, DenoisingMDP, Policy
from unidiff.rl.methods.adjoint import Matched, landing, lean_adjoint, pulled_back, reward_gradient
from unidiff.rl.methods.backprop import Noises, run_through

CLOSE: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-11}
LABELS = torch.tensor([0, 1, 1, 2, 0, 2])


def paid_step(xt: torch.Tensor, xs: torch.Tensor, t: float, s: float) -> torch.Tensor:
    return (xt * xs).sum(1) * t + 2 * s


# Adjoint matching.


def by_fixed_actions(mdp: DenoisingMDP, walk: ud.rl.Walk) -> list[torch.Tensor]:
    """−∂r(x_0)/∂x_{k−1}/β of each decision, x_0 reached along the reference's means with the offsets σ·a as they were."""
    found = []
    for h in range(len(walk.x)):
        k = int(walk.k[h])
        law = mdp.chain.step(walk.x[h], k, walk.condition)
        start = x = (law.mean + law.std * walk.action[h]).detach().requires_grad_()
        for later in range(h + 1, len(walk.x)):
            law = mdp.chain.step(x, int(walk.k[later]), walk.condition)
            x = law.mean + (walk.std[later] * walk.action[later]).detach()
        if mdp.last == 2:
            x = mdp.chain.step(x, 1, walk.condition).mean
        torch.testing.assert_close(x.detach(), walk.x0, rtol=1e-8, atol=1e-9)
        assert mdp.reward is not None
        (gradient,) = torch.autograd.grad(mdp.reward(x).sum(), start)
        found.append(-gradient / mdp.beta)
    return found


@pytest.mark.parametrize("variance", ["posterior", "prior"])
@pytest.mark.parametrize("first", [0.0, 0.02])
@pytest.mark.parametrize("labels", [None, LABELS])
def test_the_lean_adjoint_is_autograd_through_the_reference_with_its_actions_held(variance, first, labels) -> None:
    mdp = process(first=first, variance=variance)
    walk = moved(mdp, classes=3).walk(6, seeded(2), labels, like=F64)
    expected = torch.stack(by_fixed_actions(mdp, walk))
    torch.testing.assert_close(lean_adjoint(mdp, walk), expected, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(lean_adjoint(mdp, walk, 1.0), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("decay", [0.0, 0.7])
@pytest.mark.parametrize("first", [0.0, 0.02])
def test_a_share_of_the_adjoint_is_the_policys_own_word(decay, first) -> None:
    mdp = process(first=first)
    walk = moved(mdp).walk(5, seeded(2), like=F64)
    found, whole = lean_adjoint(mdp, walk, decay), by_fixed_actions(mdp, walk)
    a = whole[-1]  # nothing stands for the last one
    torch.testing.assert_close(found[-1], a, rtol=1e-8, atol=1e-10)
    for h in range(len(walk.x) - 1, 0, -1):
        x = walk.x[h].clone().requires_grad_()
        mean = mdp.chain.step(x, int(walk.k[h])).mean
        a = torch.autograd.grad(mean, x, decay * a - (1 - decay) * walk.control[h] / walk.std[h])[0]
        torch.testing.assert_close(found[h - 1], a, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("labels", [None, LABELS])
def test_adjoint_matching_regresses_the_control_onto_it(labels) -> None:
    mdp = process()
    policy = moved(mdp, classes=3)
    learner = AdjointMatching().learner(policy)
    rows, _ = learner.gather(6, seeded(2), labels)
    assert isinstance(rows, Matched)
    walk = policy.walk(6, seeded(2), labels)
    target = -walk.std * torch.stack(by_fixed_actions(mdp, walk))
    torch.testing.assert_close(rows.target, target.flatten(0, 1), rtol=1e-8, atol=1e-10)
    loss = learner.loss(rows)
    slow = 0.5 * (policy.control(walk.decisions()).view_as(target) - target).square().sum((0, 2)).mean()
    torch.testing.assert_close(loss, slow, rtol=1e-8, atol=1e-10)
    assert not rows.target.requires_grad
    some, _ = AdjointMatching(0.3).learner(policy).gather(6, seeded(2), labels)
    lean = lean_adjoint(mdp, walk, 0.3)
    torch.testing.assert_close(some.target, (-walk.std * lean).flatten(0, 1), **CLOSE)
    assert float((some.target - rows.target).abs().max()) > 1e-3


def test_the_adjoint_of_one_gaussian_is_the_best_control_whatever_the_walk() -> None:
    # Linear reward, linear chain: the reference's Jacobians are constants, and with them the adjoint.
    world = ud.worlds.library.gaussian()
    core = ud.Diffusion(ud.Schedule.linear(), ud.worlds.OracleDenoiser(world))
    reward = ud.worlds.rewards.Linear(torch.tensor([1.0, 0.5, -1.0], dtype=torch.float64))
    mdp = DenoisingMDP(core.chain(ud.TimeGrid.uniform(4, 0.02), "prior"), reward, beta=2.0)
    walk = Policy(mdp, core).walk(3, seeded(), like=F64)
    found = -walk.std * lean_adjoint(mdp, walk)
    assert float((found - found[:, :1]).abs().max()) < 1e-9 < float(found.abs().min(0).values.max())
    torch.testing.assert_close(found[-1], walk.std[-1] * reward.b / 2.0, **CLOSE)


def test_the_landing_of_a_walk_is_where_its_last_decision_led() -> None:
    mdp = process()
    walk = moved(mdp).walk(4, seeded(), like=F64)
    torch.testing.assert_close(landing(mdp, walk), walk.x0, **CLOSE)
    ended = process(first=0.0)
    walk = moved(ended).walk(4, seeded(), like=F64)
    torch.testing.assert_close(ended.chain.step(landing(ended, walk), 1).mean, walk.x0, **CLOSE)


def test_a_rewards_gradient_is_refused_where_there_is_none() -> None:
    x = draws(1, 5, 2)
    torch.testing.assert_close(reward_gradient(process(LINEAR), x), LINEAR.b.expand(5, 2), **CLOSE)
    assert not x.requires_grad
    with pytest.raises(ValueError, match="reward must be differentiable in x0 for this method"):
        reward_gradient(process(lambda v: (v > 0).double().sum(1)), x)
    with pytest.raises(FloatingPointError, match="reward returned 1 of 5 values that are not finite"):
        reward_gradient(process(lambda v: torch.where(torch.arange(5) == 2, torch.nan, v.sum(1))), x)
    x[3] = 0  # √ has no slope at 0
    with pytest.raises(FloatingPointError, match="reward has a gradient that is not finite at 1 of 5 data"):
        reward_gradient(process(lambda v: v.square().sum(1).sqrt()), x)
    with pytest.raises(ValueError, match=re.escape("reward must return shape [5], one number a chain, got [5, 2]")):
        reward_gradient(process(lambda v: v), x)


def test_a_pull_back_is_the_transposed_jacobian_of_the_references_mean() -> None:
    mdp, x, a = process(variance="posterior"), draws(1, 3, 2), draws(2, 3, 2)
    for k in (1, 4):
        full = torch.autograd.functional.jacobian(lambda v, k=k: mdp.chain.step(v, k, LABELS[:3]).mean, x)
        slow = torch.einsum("bibj,bi->bj", full, a)  # pyright: ignore
        torch.testing.assert_close(pulled_back(mdp, x, k, LABELS[:3], a), slow, **CLOSE)


# Backpropagation.


def held(policy: Policy, rows: Noises, reach: int) -> tuple[torch.Tensor, torch.Tensor]:
    """:func:`run_through` by hand: the chain walked without a gradient, then its last ``reach`` steps again with one."""
    mdp, states = policy.mdp, [rows.start]
    chain = mdp.chain

    def step(x: torch.Tensor, h: int) -> tuple[torch.Tensor, torch.Tensor]:
        k = chain.steps - h
        ref, own = (c.step(x, k, rows.condition) for c in (chain, policy.core.chain(chain.grid, chain.variance)))
        return own.mean + ref.std * rows.noise[:, h], ((own.mean - ref.mean) / ref.std).square().sum(1) / 2

    with torch.no_grad():
        for h in range(mdp.horizon):
            states.append(step(states[-1], h)[0])
    kl = torch.stack([step(states[h], h)[1] for h in range(mdp.horizon - reach)] or [torch.zeros(len(rows))]).sum(0)
    x, earned = states[mdp.horizon - reach], torch.zeros(len(rows), dtype=torch.float64)
    times = chain.grid.times
    for h in range(mdp.horizon):
        k = chain.steps - h
        before = x if h >= mdp.horizon - reach else states[h]
        after, charge = step(before, h)
        kl = kl + charge if h >= mdp.horizon - reach else kl
        if mdp.step_reward is not None:
            earned = earned + mdp.step_reward(before, after, float(times[k]), float(times[k - 1]))
        x = after if h >= mdp.horizon - reach else x
    if mdp.last == 2:
        x = chain.step(x, 1, rows.condition).mean
    return earned + PAID(x), kl


@pytest.mark.parametrize("first", [0.0, 0.02])
@pytest.mark.parametrize("reach", [1, 2, None])
@pytest.mark.parametrize("more", [{}, {"step_reward": paid_step}])
def test_a_truncated_gradient_is_that_of_a_loop_held_by_hand(first, reach, more) -> None:
    mdp = process(first=first, **more)
    policy = moved(mdp, classes=3)
    learner = Backprop(reach).learner(policy)
    rows, told = learner.gather(6, seeded(3), LABELS)
    steps = mdp.horizon if reach is None else reach
    mine, slow = run_through(policy, rows, reach), held(policy, rows, steps)
    for a, b in zip(mine, slow, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)
        torch.testing.assert_close(gradients(policy, a.sum()), gradients(policy, b.sum()), rtol=1e-8, atol=1e-9)
    loss = learner.loss(rows)
    torch.testing.assert_close(loss, (mdp.beta * slow[1] - slow[0]).mean(), **CLOSE)
    assert float(told["reward"]) == pytest.approx(float(slow[0].detach().mean()))
    assert float(told["kl"]) == pytest.approx(float(slow[1].detach().mean()))
    walk = policy.walk(6, seeded(3), LABELS)  # no reach changes what is walked, and one seed is one start
    assert torch.equal(walk.x[0], rows.start)


def test_how_far_it_reaches_changes_the_gradient_and_more_than_the_chain_is_all_of_it() -> None:
    policy = moved(process())
    rows, _ = Backprop().learner(policy).gather(6, seeded(3), None)
    found = []
    for last in (1, 2, 3, 4, None, 100):
        learner = Backprop(last).learner(policy)
        learner.gather(6, seeded(3), None)
        found.append(gradients(policy, learner.loss(rows)))
    for other in found[4:]:
        torch.testing.assert_close(other, found[3], **CLOSE)
    assert all(float((a - found[3]).norm() / found[3].norm()) > 1e-3 for a in found[:3])


@pytest.mark.statistical
@pytest.mark.parametrize("last", [3, 4, 100])
def test_alignprop_draws_every_reach_with_the_generator_of_the_round(last) -> None:
    policy = moved(process())
    most = min(last, 4)
    fixed = [Backprop(k).learner(policy) for k in range(1, most + 1)]
    known = [gradients(policy, v.loss(v.gather(6, seeded(3), None)[0])) for v in fixed]
    learner, generator = Backprop(last, random=True).learner(policy), seeded(3)
    rows, _ = learner.gather(6, generator, None)
    # 60 even draws of at most 4: one has fewer than a third of its 15 by chance with probability below 0.1%,
    # and the seed is fixed. Drawn from 1 … 100 and cut at 4, each of the first three would be 5 times or more with 4e-4.
    seen = []
    for _ in range(60):
        before = generator.get_state()
        g = gradients(policy, learner.loss(rows))
        assert not torch.equal(before, generator.get_state())
        [found] = [i for i, v in enumerate(known) if torch.allclose(g, v, rtol=1e-9, atol=1e-12)]
        seen.append(found)
    assert set(seen) == set(range(most)) and all(seen.count(i) >= 60 / most / 3 for i in range(most))
    learner.gather(6, seeded(3), None)
    again = gradients(policy, learner.loss(rows))
    torch.testing.assert_close(again, known[seen[0]], **CLOSE)


def test_backpropagation_needs_a_reward_that_can_be_differentiated() -> None:
    for reward in (lambda x: (x > 0).double().sum(1), lambda x: PAID(x).detach()):
        learner = Backprop().learner(moved(process(reward)))
        rows, _ = learner.gather(3, seeded(), None)
        with pytest.raises(ValueError, match="reward must be differentiable in x0 for this method"):
            learner.loss(rows)
        matching = AdjointMatching().learner(moved(process(reward)))
        with pytest.raises(ValueError, match="reward must be differentiable in x0 for this method"):
            matching.gather(3, seeded(), None)
