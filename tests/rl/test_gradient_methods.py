"""Gradients of each method against the slow and plain computation of the same thing, one decision at a time."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

import unidiff as ud
from tests.rl.policies import F64, LINEAR, PAID, draws, gradients, moved, network, process, seeded
from unidiff.core.chain import Variance
from unidiff.core.denoiser import Denoiser
from unidiff.rl import DDPO, DPOK, AdjointMatching, Backprop, DenoisingMDP, Policy
from unidiff.rl.methods.backprop import run_through
from unidiff.rl.methods.gradients import Weighed, figures, surrogate, z_scores
from unidiff.rl.methods.method import Method
from unidiff.rl.methods.value import Value, advantages
from unidiff.rl.policy import Decisions, Taken, log_ratio

CLOSE: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-11}
LABELS = torch.tensor([0, 1, 1, 2, 0, 2])


def paid_step(xt: torch.Tensor, xs: torch.Tensor, t: float, s: float) -> torch.Tensor:
    return (xt * xs).sum(1) * t + 2 * s


def log_pi(policy: Policy, walk: ud.rl.Walk, h: int) -> torch.Tensor:
    """log π_θ(a_h|x_h) of the chains, ``[B]``, from the policy's own chain and never from a control."""
    chain, k = policy.mdp.chain, int(walk.k[h])
    ref = chain.step(walk.x[h], k, walk.condition)
    own = policy.core.chain(chain.grid, "posterior").step(walk.x[h], k, walk.condition).mean
    return type(ref)(own, ref.log_var.expand_as(own)).log_prob(ref.mean + ref.std * walk.action[h])


# Policy gradients.


def acted(control: torch.Tensor, action: torch.Tensor) -> Taken:
    return Taken(Decisions(action, torch.ones(len(action)), action, action), action, control)


@pytest.mark.parametrize("estimator", ["score", "ratio"])
@pytest.mark.parametrize("clip", [None, 0.1])
def test_the_surrogates_gradient_at_the_policy_that_acted_is_the_score_function(estimator, clip) -> None:
    u, a, worth = draws(1, 6, 3).requires_grad_(), draws(2, 6, 3), draws(3, 6)
    loss = surrogate(u, acted(u.detach(), a), worth, estimator, clip)
    (found,) = torch.autograd.grad(loss.sum(), u)
    torch.testing.assert_close(found, -worth[:, None] * (a - u.detach()), **CLOSE)


def test_away_from_the_policy_that_acted_a_score_is_a_logarithm_and_a_ratio_its_exponential() -> None:
    u, old, a, worth = draws(1, 6, 3), draws(4, 6, 3), draws(2, 6, 3), draws(3, 6)
    log_rho = 0.5 * ((a - old).square() - (a - u).square()).sum(1)
    torch.testing.assert_close(surrogate(u, acted(old, a), worth, "score", 0.1), -worth * log_rho, **CLOSE)
    torch.testing.assert_close(surrogate(u, acted(old, a), worth, "ratio", None), -worth * log_rho.exp(), **CLOSE)


@pytest.mark.parametrize("worth", [2.0, -2.0])
@pytest.mark.parametrize("dim", [1, 2, 5])
def test_the_clip_stops_moves_that_go_further_and_none_that_come_back(worth, dim) -> None:
    # u = (δ, 0, …) of one that acted at 0, with action e_1·a: log ρ = aδ − ½δ².
    clip = 0.1
    for share in (-1.5, -0.9, 0.9, 1.5):  # of the reach, Dc nats
        log_rho = share * clip * dim
        a = torch.zeros(1, dim, dtype=torch.float64)
        a[0, 0] = 3.0
        delta = 3.0 - math.sqrt(9.0 - 2 * log_rho)
        u = torch.zeros(1, dim, dtype=torch.float64)
        u[0, 0] = delta
        u.requires_grad_()
        loss = surrogate(u, acted(torch.zeros_like(a), a), torch.tensor([worth], dtype=torch.float64), "ratio", clip)
        (found,) = torch.autograd.grad(loss.sum(), u)
        stopped = (worth > 0 and share > 1) or (worth < 0 and share < -1)
        held = math.exp(math.copysign(min(abs(log_rho), clip * dim), log_rho)) if stopped else math.exp(log_rho)
        assert float(loss.detach()) == pytest.approx(-worth * held, rel=1e-9)
        expected = 0.0 if stopped else -worth * math.exp(log_rho) * (3.0 - delta)
        assert float(found[0, 0]) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_a_ratio_that_overflows_has_no_gradient_where_the_clip_holds_it() -> None:
    u, a = torch.full((2, 2), 20.0, requires_grad=True), torch.full((2, 2), 20.0)
    loss = surrogate(u, acted(torch.zeros(2, 2), a), torch.tensor([1.0, 0.0]), "ratio", 0.1)
    (found,) = torch.autograd.grad(loss.sum(), u)
    assert loss.tolist() == pytest.approx([-math.exp(0.2), 0.0]) and float(found.abs().max()) == 0


@pytest.mark.parametrize("labels", [None, LABELS])
@pytest.mark.parametrize("estimator", ["score", "ratio"])
@pytest.mark.parametrize("first", [0.0, 0.02])
def test_ddpos_update_is_a_loop_over_decisions_one_at_a_time(labels, estimator, first) -> None:
    mdp = process(first=first, step_reward=paid_step)
    policy = moved(mdp, classes=3)
    learner = DDPO(estimator).learner(policy)
    rows, told = learner.gather(6, seeded(4), labels)
    walk = policy.walk(6, seeded(4), labels)
    for name, value in figures(walk).items():
        torch.testing.assert_close(told[name], value, rtol=0, atol=0)
    assert float(told["reward"]) == pytest.approx(float(walk.paid.sum(0).mean()))
    assert float(told["kl"]) == pytest.approx(float(0.5 * walk.control.square().sum((0, 2)).mean()))
    earned = walk.paid.sum(0)
    score = torch.zeros(6, dtype=torch.float64)
    for b in range(6):
        group = earned if labels is None else earned[labels == labels[b]]
        score[b] = (earned[b] - group.mean()) / group.std(correction=0)
    slow = torch.zeros_like(gradients(policy, learner.loss(rows)))
    for h in range(mdp.horizon):
        for b in range(6):
            slow += gradients(policy, -score[b] * log_pi(policy, walk, h)[b]) / 6
    torch.testing.assert_close(gradients(policy, learner.loss(rows)), slow, rtol=1e-7, atol=1e-9)
    assert float(slow.abs().max()) > 1e-3
    # Minibatches are shares of it.
    parts = torch.arange(len(rows)).split(mdp.horizon)
    shares = sum(gradients(policy, learner.loss(rows[p])) * len(p) / len(rows) for p in parts)
    torch.testing.assert_close(torch.as_tensor(shares), slow, rtol=1e-7, atol=1e-9)


def test_ddpo_does_not_hear_beta() -> None:
    one, other = (DDPO().learner(moved(process(beta=b))) for b in (0.0, 2.0))
    losses = [gradients(v.policy, v.loss(v.gather(5, seeded(1), None)[0])) for v in (one, other)]
    torch.testing.assert_close(losses[0], losses[1], **CLOSE)


def test_z_scores_are_among_chains_of_one_condition() -> None:
    reward, labels = draws(5, 12), torch.tensor([0, 1, 2, 4] * 3)
    found = z_scores(reward, labels)
    for c in (0, 1, 2, 4):
        own = reward[labels == c]
        torch.testing.assert_close(found[labels == c], (own - own.mean()) / own.std(correction=0), **CLOSE)
    torch.testing.assert_close(z_scores(reward, None), (reward - reward.mean()) / reward.std(correction=0), **CLOSE)
    torch.testing.assert_close(z_scores(3 * reward + 50, labels), found, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 0.1, -1e4 / 3, 1e-30])
def test_rewards_that_are_all_alike_score_nothing(dtype, value) -> None:
    # 0.1 a hundred times over has a mean that is not 0.1 in floating point, by which all would score −1.
    alike = torch.full((100,), value, dtype=dtype)
    assert z_scores(alike, None).tolist() == [0.0] * 100
    mixed = torch.cat([alike, torch.tensor([1.0, 3.0], dtype=dtype)])
    labels = torch.tensor([1] * 100 + [0] * 2)
    assert z_scores(mixed, labels).tolist() == [0.0] * 100 + [-1.0, 1.0]
    assert z_scores(mixed[:1], labels[:1]).tolist() == [0.0]


@pytest.mark.parametrize("decay", [0.0, 0.6, 1.0])
def test_advantages_are_the_double_sum(decay) -> None:
    c, v = draws(6, 5, 4), draws(7, 5, 4)
    after = torch.cat([v, torch.zeros(1, 4, dtype=torch.float64)])
    slow = torch.zeros(5, 4, dtype=torch.float64)
    for h in range(5):
        for j in range(h, 5):
            slow[h] += decay ** (j - h) * (c[j] + after[j + 1] - v[j])
    torch.testing.assert_close(advantages(c, v, decay), slow, **CLOSE)
    if decay == 1.0:
        torch.testing.assert_close(slow, c.flip(0).cumsum(0).flip(0) - v, **CLOSE)


@pytest.mark.parametrize("estimator", ["score", "ratio"])
def test_dpoks_update_is_a_loop_over_decisions_one_at_a_time(estimator) -> None:
    mdp = process(step_reward=paid_step)
    policy = moved(mdp)
    learner = DPOK(estimator, decay=0.8, width=8).learner(policy)
    value = learner.module
    assert isinstance(value, Value) and not bool(value.last.weight.any())
    value.last.weight.data = draws(1, 1, 8)
    rows, told = learner.gather(5, seeded(4), None)
    walk = policy.walk(5, seeded(4))
    levels = mdp.chain.levels.log_snr[walk.k]
    v = torch.stack([value(walk.x[h], walk.guess[h], levels[h].expand(5)) for h in range(4)])
    worth = advantages(walk.paid - mdp.beta * 0.5 * walk.control.square().sum(2), v.detach(), 0.8)
    torch.testing.assert_close(rows.advantage, worth.flatten(), **CLOSE)
    assert rows.target is not None
    torch.testing.assert_close(rows.target, (worth + v.detach()).flatten(), **CLOSE)
    slow = torch.zeros_like(gradients(policy, learner.loss(rows)))
    for h in range(4):
        for b in range(5):
            at = rows.taken.at[torch.tensor([5 * h + b])]
            kl = 0.5 * policy.control(at).square().sum()
            slow += gradients(policy, -worth[h, b] * log_pi(policy, walk, h)[b] + mdp.beta * kl) / 5
    torch.testing.assert_close(gradients(policy, learner.loss(rows)), slow, rtol=1e-7, atol=1e-9)
    heard = [p for name, p in value.named_parameters() if not name.startswith("classes")]
    own = torch.autograd.grad(learner.loss(rows), heard)
    squared = (v - (worth + v.detach())).square().mean()
    for found, expected in zip(own, torch.autograd.grad(squared, heard), strict=True):
        torch.testing.assert_close(found, expected, **CLOSE)
    error = (worth.square().mean() / (worth + v.detach()).var(correction=0)).sqrt()
    assert float(told["value_error"]) == pytest.approx(float(error.detach()), rel=1e-6)


def test_the_value_of_a_class_is_its_own() -> None:
    learner = DPOK(width=8).learner(moved(process(), classes=3))
    value = learner.module
    assert isinstance(value, Value) and value.classes is not None and value.classes.num_embeddings == 4
    value.last.weight.data = draws(1, 1, 8)
    rows, _ = learner.gather(2, seeded(), torch.tensor([0, 1]))
    other, _ = learner.gather(2, seeded(), torch.tensor([2, 1]))
    assert rows.target is not None and other.target is not None
    x, g, s = draws(1, 2, 2), draws(2, 2, 2), draws(3, 2)
    said = [value(x, g, s, c).detach() for c in (torch.tensor([0, 1]), torch.tensor([2, 1]))]
    assert float((said[0] - said[1])[1].abs()) == 0 < float((said[0] - said[1])[0].abs())


@pytest.mark.statistical
def test_the_policy_gradient_is_the_gradient_of_what_is_earned_less_the_kl() -> None:
    # DPOK's update (score, ℓ = 1, V = 0) and the pathwise one along what Fan et al. leave out, the KL of later steps:
    # t of the difference of two means of 20 batches of 1000 chains, |t| < 5, false alarm 1.3e-5 at 38 degrees of freedom.
    # Without that KL in A the update is wrong by β‖toward‖, which is more than 10 standard errors: missed with p < 1e-4.
    policy = moved(process(LINEAR, beta=1.5), size=3.0)
    slow, fast = DPOK("score", decay=1.0, width=4).learner(policy), Backprop().learner(policy)
    rows, _ = fast.gather(4000, seeded(99), None)
    whole, at_held_states = (gradients(policy, run_through(policy, rows, reach)[1].mean()) for reach in (None, 1))
    toward = whole - at_held_states
    score, path = torch.empty(2, 20, dtype=torch.float64)
    for i in range(20):
        weighed, _ = slow.gather(1000, seeded(100 + 2 * i), None)
        score[i] = gradients(policy, slow.loss(weighed)) @ toward / toward.norm()
        rows, _ = fast.gather(1000, seeded(101 + 2 * i), None)
        path[i] = gradients(policy, fast.loss(rows)) @ toward / toward.norm()
    error = float(((score.var() + path.var()) / 20).sqrt())
    assert 1.5 * float(toward.norm()) > 10 * error
    assert abs(float(score.mean() - path.mean())) < 5 * error


# All methods, and what they refuse.


def learned() -> Policy:
    core = ud.Diffusion(ud.Schedule.linear(), Denoiser(network(0.5, learned=True), (2,), "x0", learned_variance=True))
    return Policy(DenoisingMDP(core.chain(ud.TimeGrid.uniform(3, 0.05), "learned"), PAID, beta=1.0), core)


def ruled(variance: Variance, table: bool) -> Policy:
    core = process().chain.core
    known = torch.full((3,), 0.1, dtype=torch.float64) if table else None
    return moved(DenoisingMDP(core.chain(ud.TimeGrid.uniform(3, 0.05), variance, known), PAID, beta=1.0))


EVERY: list[Method] = [DDPO(), DPOK(), AdjointMatching(), Backprop()]
BAD: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "ddpo, no reward": (lambda: DDPO().learner(moved(process(None))), ValueError, "mdp must have a reward for ddpo"),
    "dpok, no reward": (lambda: DPOK().learner(moved(process(None))), ValueError, "mdp must have a reward for dpok"),
    "adjoint, no reward": (
        lambda: AdjointMatching().learner(moved(process(None))),
        ValueError,
        "mdp must have a reward for adjoint",
    ),
    "backprop, no reward": (
        lambda: Backprop().learner(moved(process(None))),
        ValueError,
        "mdp must have a reward for backprop",
    ),
    "dpok, no beta": (
        lambda: DPOK().learner(moved(process(beta=0.0))),
        ValueError,
        "beta must be positive for dpok .* got 0",
    ),
    "adjoint, no beta": (
        lambda: AdjointMatching().learner(moved(process(beta=0.0))),
        ValueError,
        "beta must be positive for adjoint .* got 0",
    ),
    "clip 0": (lambda: DDPO(clip=0.0), ValueError, "clip must be positive and finite, got 0.0"),
    "clip negative": (lambda: DPOK(clip=-0.1), ValueError, "clip must be positive and finite, got -0.1"),
    "clip nan": (lambda: DDPO(clip=math.nan), ValueError, "clip must be positive"),
    "estimator": (lambda: DDPO("scores"), ValueError, "unknown estimator 'scores'"),  # pyright: ignore
    "estimator of dpok": (lambda: DPOK("path"), ValueError, "unknown estimator 'path'"),  # pyright: ignore
    "decay above": (lambda: DPOK(decay=1.1), ValueError, r"decay must lie in \[0, 1\], got 1.1"),
    "decay below": (lambda: AdjointMatching(-0.1), ValueError, r"decay must lie in \[0, 1\], got -0.1"),
    "decay nan": (lambda: AdjointMatching(math.nan), ValueError, "decay must lie in"),
    "width": (lambda: DPOK(width=0), ValueError, "width must be an integer of at least 1"),
    "depth": (lambda: DPOK(depth=0), ValueError, "depth must be an integer of at least 1"),
    "last": (lambda: Backprop(0), ValueError, "last must be an integer of at least 1, got 0"),
    "random": (lambda: Backprop(random=1), TypeError, "random must be True or False"),  # pyright: ignore
    "adjoint with a step_reward": (
        lambda: AdjointMatching().learner(moved(process(step_reward=paid_step))),
        ValueError,
        "mdp must pay for the data alone for adjoint matching, got a step_reward",
    ),
    "adjoint with a step_reward alone": (
        lambda: AdjointMatching().learner(moved(process(None, step_reward=paid_step))),
        ValueError,
        "mdp must pay for the data alone",
    ),
    "adjoint, learned variance": (
        lambda: AdjointMatching().learner(learned()),
        ValueError,
        "fixed variance for adjoint, got the rule 'learned'.*take 'prior'",
    ),
    "adjoint, optimal variance": (
        lambda: AdjointMatching().learner(ruled("optimal", False)),
        ValueError,
        "fixed variance for adjoint, got the rule 'optimal'.*x0_variance",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_method_refuses_what_has_no_meaning_for_it(case) -> None:
    make, error, message = BAD[case]
    with pytest.raises(error, match=message):
        make()


def test_what_has_a_meaning_is_taken() -> None:
    for m in EVERY[2:3]:
        for policy in (ruled("optimal", True), ruled("prior", False), ruled("posterior", False)):
            m.learner(policy)
    for m in (DDPO(), DPOK(), Backprop()):
        for policy in (learned(), moved(process(None, step_reward=paid_step))):
            rows, told = m.learner(policy).gather(2, seeded(), None)
            assert len(rows) in (2, 6, 8) and all(v.ndim == 0 for v in told.values())
    DDPO().learner(moved(process(beta=0.0)))
    Backprop().learner(moved(process(beta=0.0)))


@pytest.mark.parametrize("method", EVERY, ids=lambda m: m.name)
def test_a_reward_that_is_nan_stops_every_method_with_the_count(method) -> None:
    def spoiled(x: torch.Tensor) -> torch.Tensor:
        return torch.where(torch.arange(len(x)) < 2, torch.nan, PAID(x))

    learner = method.learner(moved(process(spoiled)))
    with pytest.raises(FloatingPointError, match="reward returned 2 of 5 values that are not finite"):
        learner.loss(learner.gather(5, seeded(), None)[0])
    for wrong in (lambda x: x, lambda x: PAID(x)[:, None]):
        learner = method.learner(moved(process(wrong)))
        with pytest.raises(ValueError, match=re.escape("reward must return shape [5], one number a chain")):
            learner.loss(learner.gather(5, seeded(), None)[0])


@pytest.mark.parametrize("method", EVERY, ids=lambda m: m.name)
def test_options_are_told_as_they_are_and_a_seed_is_a_round(method) -> None:
    assert (
        replace(method, **method.options_told()) == method
        and method.source
        and method.charged is (method.name != "ddpo")
    )
    learner = method.learner(moved(process()))
    one, two = (learner.gather(4, seeded(6), None)[0] for _ in range(2))
    state = torch.get_rng_state()
    assert float(learner.loss(one).detach()) == float(learner.loss(two).detach())
    assert torch.equal(state, torch.get_rng_state())


def test_log_ratio_of_the_walk_is_that_of_its_densities() -> None:
    policy = moved(process(first=0.0))
    walk = policy.walk(4, seeded(), like=F64)
    for h in range(len(walk.x)):
        free = Policy(policy.mdp, policy.mdp.chain.core)
        expected = (log_pi(policy, walk, h) - log_pi(free, walk, h)).detach()
        torch.testing.assert_close(log_ratio(walk.control[h], walk.action[h]), expected, **CLOSE)


def test_rows_that_were_weighed_keep_together() -> None:
    rows, _ = DPOK(width=4).learner(moved(process())).gather(3, seeded(), None)
    some = rows[torch.tensor([7, 2])]
    assert isinstance(some, Weighed) and len(some) == 2 and some.target is not None and rows.target is not None
    assert some.advantage.tolist() == [float(rows.advantage[i]) for i in (7, 2)]
    assert torch.equal(some.taken.at.k, rows.taken.at.k[[7, 2]]) and torch.equal(some.target, rows.target[[7, 2]])


def test_in_many_dimensions_the_clipped_loss_stays_a_number() -> None:
    # e^{Dc} itself is beyond float32 from D = 888 at c = 0.1, and a mean of many rows at it sooner.
    dim, rows = 1000, 2048
    old = torch.zeros(rows, dim)
    control = (0.5 * torch.ones(rows, dim)).requires_grad_()
    action = torch.full((rows, dim), 3.0)
    at = Decisions(old, torch.ones(rows, dtype=torch.long), old, old + 1)
    taken = Taken(at, action, old)
    assert float((log_ratio(control, action) - log_ratio(old, action)).detach().min()) > 0.1 * dim
    for advantage in (torch.full((rows,), 20.0), torch.zeros(rows)):
        loss = surrogate(control, taken, advantage, "ratio", 0.1).mean()
        (slope,) = torch.autograd.grad(loss, control)
        assert bool(torch.isfinite(loss)) and bool((slope == 0).all())
