"""The methods' losses and experience against loops that are written out, and every process in which they have no meaning."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy.stats import binom, norm
from torch import Tensor
from torch.distributions import Normal

import unidiff as ud
from tests.rl.cores import classes, mlp, plane, stirred
from unidiff.rl import (
    D3PO,
    DDPO,
    DPO,
    DPOK,
    AdjointMatching,
    Backprop,
    DenoisingMDP,
    Method,
    Policy,
    Preferences,
    corrected,
    trainable,
)
from unidiff.rl.methods.adjoint import lean_adjoint
from unidiff.rl.methods.backprop import Noises, run_through
from unidiff.rl.methods.gradients import surrogate, z_scores
from unidiff.rl.methods.value import advantages
from unidiff.rl.policy import Decisions, Taken

ALARM = 1e-6  # of each statistical test here
LINEAR = ud.Schedule.linear()
WIDE = torch.float64


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bent(x0: Tensor) -> Tensor:
    return torch.sin(x0).flatten(1).sum(1) - 0.3 * x0.flatten(1).square().sum(1)


def moved(core: ud.Diffusion | None = None, steps: int = 4, rule: Any = "posterior", **options: Any) -> Policy:
    """A policy that has left its reference."""
    core = mlp() if core is None else core
    chain = core.chain(ud.TimeGrid.uniform(steps), rule, options.pop("x0_variance", None))
    options = {"reward": bent, "beta": 0.5} | options
    return Policy(DenoisingMDP(chain, **options), stirred(trainable(core)))


def pairs(n: int = 5, dim: int = 2, labels: Tensor | None = None) -> Preferences:
    x = torch.randn(2, n, dim, generator=seeded(9), dtype=WIDE)
    return Preferences(x[0], x[1], labels)


def gradient(loss: Tensor, policy: Policy) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(policy.core.denoiser.parameters())))  # pyright: ignore


def law(policy: Policy, x: Tensor, k: int) -> Normal:
    """π_θ of the next state, by a chain of the policy's core."""
    own = policy.core.chain(policy.mdp.chain.grid, policy.mdp.chain.variance).step(x, k)
    return Normal(own.mean, own.std.expand_as(x))


# -- policy gradients ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [None, LINEAR])
@pytest.mark.parametrize("estimator", ["score", "ratio"])
def test_ddpo_s_update_is_that_of_a_loop_over_one_decision_at_a_time(estimator, schedule) -> None:
    policy, n, clip = moved(mlp(schedule), reward=lambda x0: bent(x0) + x0[:, 0]), 6, 0.03
    learner = DDPO(estimator, clip).learner(policy)
    rows, _ = learner.gather(n, seeded(), None)
    walk = policy.walk(n, seeded())
    reference = policy.mdp.chain
    states = [*walk.x, reference.mean(walk.x[-1], policy.mdp.last, walk.guess[-1]) + walk.std[-1] * walk.action[-1]]
    with torch.no_grad():
        old = [[law(policy, states[h][b : b + 1], k).log_prob(states[h + 1][b : b + 1]).sum() for b in range(n)]
               for h, k in enumerate(walk.k.tolist())]  # fmt: skip
    # A second epoch: the policy has moved since it acted.
    stirred(policy.core, 0.05, seed=2)
    rewards = walk.reward.tolist()
    mean = sum(rewards) / n
    spread = math.sqrt(sum((r - mean) ** 2 for r in rewards) / n)
    total, held = torch.zeros((), dtype=WIDE), 0
    for h, k in enumerate(walk.k.tolist()):
        for b in range(n):
            a = (rewards[b] - mean) / spread
            new = law(policy, states[h][b : b + 1], k).log_prob(states[h + 1][b : b + 1]).sum()
            if estimator == "score":
                total = total - a * new / n
                continue
            ratio = (new - old[h][b]).exp()
            inside = ratio.clamp(math.exp(-2 * clip), math.exp(2 * clip))
            held += bool(inside != ratio)
            total = total - torch.minimum(ratio * a, inside * a) / n
    assert estimator == "score" or 4 <= held <= 4 * n - 4  # some are clipped and some are not
    for mine, known in zip(gradient(learner.loss(rows), policy), gradient(total, policy), strict=True):
        torch.testing.assert_close(mine, known, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("size", [1, 5, 24])
def test_minibatches_have_the_whole_batch_s_gradient_for_their_mean(size) -> None:
    policy = moved()
    every: list[Method] = [DDPO(), DPOK(width=8), AdjointMatching(), D3PO(), DPO().on(pairs(6))]
    for method in every:
        learner = method.learner(policy)
        rows, _ = learner.gather(6, seeded(), None)
        whole = learner.loss(rows)
        parts = [learner.loss(rows[i]) * len(i) / len(rows) for i in torch.arange(len(rows)).split(size)]
        torch.testing.assert_close(torch.stack(parts).sum(), whole, rtol=1e-10, atol=1e-12)


def rows_of(action: Tensor, control: Tensor) -> Taken:
    blank = torch.zeros_like(action)
    return Taken(Decisions(blank, torch.zeros(len(action), dtype=torch.long), blank, blank), action, control)


@pytest.mark.parametrize("clip", [0.1, None])
def test_where_the_policy_acted_both_surrogates_have_the_score_s_gradient(clip) -> None:
    action, old = (torch.randn(7, 3, generator=seeded(s), dtype=WIDE) for s in (0, 1))
    advantage = torch.randn(7, generator=seeded(2), dtype=WIDE)
    for estimator in ("score", "ratio"):
        u = old.clone().requires_grad_()
        value = surrogate(u, rows_of(action, old), advantage, estimator, clip)
        (slope,) = torch.autograd.grad(value.sum(), u)
        torch.testing.assert_close(slope, -advantage[:, None] * (action - old))


def test_a_clipped_move_is_held_and_one_that_comes_back_is_not() -> None:
    # One number; a = 1, so that log ρ = u − ½u² + const rises with u below 1; |log ρ| is far beyond c = 0.1.
    action, old = torch.ones(4, 1, dtype=WIDE), torch.tensor([[0.0], [0.9], [0.0], [0.9]], dtype=WIDE)
    u = torch.tensor([[0.8], [0.0], [0.8], [0.0]], dtype=WIDE, requires_grad=True)
    advantage = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=WIDE)
    value = surrogate(u, rows_of(action, old), advantage, "ratio", 0.1)
    (slope,) = torch.autograd.grad(value.sum(), u)
    assert slope[0] == 0 and slope[3] == 0  # gone far enough in the direction that pays
    assert slope[1] < 0 < slope[2]  # the wrong way: brought back
    told = value.detach().tolist()
    assert told[0] == pytest.approx(-math.exp(0.1)) and told[3] == pytest.approx(math.exp(-0.1))


@pytest.mark.statistical
def test_a_ratio_without_clip_is_the_other_policy_s_mean() -> None:
    """E_old[ρA] = E_θ[A] for A = aᵀ1, a ~ N(u, I): 4 z-tests of 2^17 draws; a tenth of a unit is caught (0.999)."""
    n = 1 << 17
    for i in range(4):
        old, new = (0.4 * torch.randn(2, generator=seeded(s), dtype=WIDE) for s in (i, i + 10))
        action = old + torch.randn(n, 2, generator=seeded(20 + i), dtype=WIDE)
        each = -surrogate(new.expand(n, 2), rows_of(action, old.expand(n, 2)), action.sum(1), "ratio", None)
        error = float(each.std()) / math.sqrt(n)
        limit = norm.isf(ALARM / 8)
        assert (limit + norm.isf(1e-3)) * error < 0.1
        assert abs(float(each.mean() - new.sum())) < limit * error


def test_z_scores_are_of_each_condition_s_own_chains() -> None:
    reward = torch.tensor([1.0, 10.0, 3.0, 30.0, 8.0, 20.0, 4.0], dtype=WIDE)
    labels = torch.tensor([7, 2, 7, 2, 7, 2, 5])
    found = z_scores(reward, labels)
    for c in (7, 2):
        one = reward[labels == c]
        torch.testing.assert_close(found[labels == c], (one - one.mean()) / one.std(correction=0))
    assert found[-1] == 0
    everyone = z_scores(reward, None)
    torch.testing.assert_close(everyone, (reward - reward.mean()) / reward.std(correction=0))
    torch.testing.assert_close(z_scores(1000 * reward - 5, labels), found)


@pytest.mark.parametrize("value", [0.1, -0.7, 1e4 / 3, 0.0])
@pytest.mark.parametrize("n", [1, 7, 10, 100])
def test_rewards_that_are_all_alike_have_no_score(n, value) -> None:
    # Their mean is off by its rounding, which must not be taken for a spread.
    assert not z_scores(torch.full((n,), value), None).any()
    mixed = torch.cat([torch.full((n,), value), torch.tensor([1.0, 2.0])])
    found = z_scores(mixed, torch.tensor([0] * n + [1, 1]))
    assert not found[:n].any() and found[n:].tolist() == [-1.0, 1.0]


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.95, 1.0])
def test_advantages_are_the_weighted_sum_of_the_errors_to_come(decay) -> None:
    earned, value = (torch.randn(5, 3, generator=seeded(s), dtype=WIDE) for s in (0, 1))
    known = torch.zeros(5, 3, dtype=WIDE)
    for b in range(3):
        for h in range(5):
            for j in range(h, 5):
                later = value[j + 1, b] if j < 4 else 0.0
                known[h, b] += decay ** (j - h) * (earned[j, b] + later - value[j, b])
    torch.testing.assert_close(advantages(earned, value, decay), known)
    if decay == 1.0:  # a mere baseline: all that is to come, less V
        torch.testing.assert_close(known, earned.flip(0).cumsum(0).flip(0) - value)


def test_dpok_s_value_learns_beside_the_policy_and_knows_classes() -> None:
    policy = moved(mlp(num_classes=3))
    learner = DPOK(width=8).learner(policy)
    assert learner.module is not None and next(learner.module.parameters()).dtype == WIDE
    labels = torch.tensor([0, 1, 2, 0])
    rows, told = learner.gather(4, seeded(), labels)
    assert told.keys() == {"reward", "kl", "value_error"} and all(torch.isfinite(v) for v in told.values())
    before = learner.loss(rows)
    before.backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in learner.module.parameters())


# -- backpropagation -----------------------------------------------------------------------------------------------------


def noises(policy: Policy, n: int = 3) -> Noises:
    start = policy.mdp.start(n, seeded(4), like=policy.like)
    return Noises(start.x, torch.randn(n, policy.mdp.horizon, 2, generator=seeded(5), dtype=WIDE))


@pytest.mark.parametrize(("schedule", "rule"), [(None, "posterior"), (None, "prior"), (LINEAR, "prior")])
def test_backpropagation_is_of_the_sampler_of_the_policy_s_own_chain(schedule, rule) -> None:
    policy = moved(mlp(schedule), rule=rule)
    rows, chain = noises(policy), policy.core.chain(policy.mdp.chain.grid, rule)
    x, kl = rows.start, torch.zeros(3, dtype=WIDE)
    for h in range(policy.mdp.horizon):
        own, reference = (c.step(x, chain.steps - h) for c in (chain, policy.mdp.chain))
        kl = kl + own.kl(reference)
        x = own.mean + own.std * rows.noise[:, h]
    if policy.mdp.last == 2:
        x = policy.mdp.chain.step(x, 1).mean
    earned, cost = run_through(policy, rows)
    torch.testing.assert_close(earned, bent(x), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(cost, kl, rtol=1e-7, atol=1e-9)
    learner = Backprop().learner(policy)
    learner.gather(1, seeded(), None)
    found, known = gradient(learner.loss(rows), policy), gradient((0.5 * kl - bent(x)).mean(), policy)
    for mine, theirs in zip(found, known, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-7, atol=1e-9)


@pytest.mark.slow
def test_a_random_k_is_one_of_the_ks_and_each_is_as_likely() -> None:
    """Each of three Ks is Binomial(400, ⅓): false alarm 1e-6; one as rare as 0.15 is caught (0.999)."""
    policy = moved(steps=4)
    rows = noises(policy)
    each = []
    for last in (1, 2, 3):
        learner = Backprop(last).learner(policy)
        learner.gather(1, seeded(), None)
        each.append(torch.cat([g.flatten() for g in gradient(learner.loss(rows), policy)]))
    learner = Backprop(3, random=True).learner(policy)
    learner.gather(1, seeded(), None)
    counts, draws = [0, 0, 0], 400
    for _ in range(draws):
        own = torch.cat([g.flatten() for g in gradient(learner.loss(rows), policy)])
        counts[[bool(torch.equal(own, one)) for one in each].index(True)] += 1
    least = int(binom.ppf(ALARM / 6, draws, 1 / 3)) - 1
    most = int(binom.isf(ALARM / 6, draws, 1 / 3)) + 1
    assert binom.sf(least - 1, draws, 0.15) < 1e-3
    assert all(least <= c <= most for c in counts)


def test_more_steps_than_there_are_is_all_of_them() -> None:
    policy = moved()
    rows, found = noises(policy), []
    for last in (None, 4, 50):
        learner = Backprop(last).learner(policy)
        learner.gather(1, seeded(), None)
        found.append(gradient(learner.loss(rows), policy))
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(*found, strict=True))


def test_what_backpropagation_tells_is_of_its_last_minibatch() -> None:
    policy = moved()
    learner = Backprop().learner(policy)
    rows, told = learner.gather(6, seeded(), None)
    learner.loss(rows)
    earned, kl = run_through(policy, rows)
    torch.testing.assert_close(told, {"reward": earned.detach().mean(), "kl": kl.detach().mean()})


# -- pairs ---------------------------------------------------------------------------------------------------------------


@pytest.mark.statistical
@pytest.mark.parametrize(("schedule", "steps", "draws"), [(None, 5, 1), (None, 5, 2), (LINEAR, 6, 3)])
def test_dpo_s_steps_are_spread_evenly_over_the_chain(schedule, steps, draws) -> None:
    """Counts of 5 steps in 20 000 rows: false alarm 1e-6; 15% too few is caught (0.999)."""
    policy = moved(mlp(schedule), steps=steps)
    learner = DPO(draws=draws).on(pairs()).learner(policy)
    n, many = 20_000, policy.mdp.horizon
    rows, _ = learner.gather(n, seeded(), None)
    k = rows.winner.at.k
    assert k.shape == (n, draws) and int(k.min()) == policy.mdp.last and int(k.max()) == steps
    assert torch.equal(k, rows.loser.at.k)
    counts = torch.bincount(k.flatten(), minlength=steps + 1)[policy.mdp.last :]
    expected = n * draws / many
    limit = norm.isf(ALARM / 10) * math.sqrt(expected)  # of a Poisson number: no stratum has more spread
    assert limit + norm.isf(1e-3) * math.sqrt(expected) < 0.15 * expected
    assert bool(((counts - expected).abs() < limit).all())


def test_dpo_judges_each_pair_under_its_own_label_and_else_the_run_s() -> None:
    policy = moved(mlp(num_classes=4))
    labels = torch.tensor([3, 1, 0, 2, 1])
    learner = DPO(draws=2).on(pairs(5, labels=labels)).learner(policy)
    rows, _ = learner.gather(50, seeded(), torch.zeros(50, dtype=torch.long))
    index = torch.randint(5, (50,), generator=seeded())
    for side in (rows.winner, rows.loser):
        assert side.at.condition is not None
        assert torch.equal(side.at.condition, labels[index][:, None].expand(-1, 2))
    plain = DPO().on(pairs(5)).learner(policy)
    rows, _ = plain.gather(3, seeded(), torch.tensor([2, 0, 1]))
    assert rows.winner.at.condition is not None and rows.winner.at.condition.flatten().tolist() == [2, 0, 1]
    walks = DPO(draws=None, walks=True).on(pairs(5, labels=labels)).learner(policy)
    rows, _ = walks.gather(6, seeded(), None)
    assert rows.loser.at.condition is not None and rows.loser.at.condition.shape == (6, 4)


def test_dpo_on_walks_gives_each_walk_noise_of_its_own() -> None:
    policy = moved()
    same = Preferences(*[torch.ones(1, 2, dtype=WIDE)] * 2)
    rows, _ = DPO(draws=None, walks=True).on(same).learner(policy).gather(4, seeded(), None)
    assert not bool((rows.winner.at.x == rows.loser.at.x).any())
    # In one walk each action leads to the next decision's state.
    at, chain = rows.winner.at, policy.mdp.chain
    for j in range(1, 4):  # k = j + 1 leads to x_j
        mean = chain.mean(at.x[:, j], at.k[:, j], at.guess[:, j])
        torch.testing.assert_close(mean + at.std[:, j] * rows.winner.action[:, j], at.x[:, j - 1])


def test_d3po_compares_walks_of_one_condition() -> None:
    policy = moved(mlp(num_classes=3))
    labels = torch.tensor([2, 0, 1, 1])
    rows, told = D3PO().learner(policy).gather(4, seeded(), labels)
    assert len(rows) == 4 and told.keys() == {"reward", "kl"}
    for side in (rows.winner, rows.loser):
        assert side.at.condition is not None and torch.equal(side.at.condition, labels[:, None].expand(-1, 4))


@pytest.mark.statistical
def test_d3po_s_winner_is_the_one_that_is_paid_more_as_often_as_bradley_and_terry_say() -> None:
    """Of 4000 pairs of walks: z of Σ(win − σ(r_i − r_j)) below its limit, 1e-6; a coin for the odds is caught (0.999)."""
    policy, n = moved(reward=lambda x0: 2 * x0[:, 0]), 4000
    rows, _ = D3PO().learner(policy).gather(n, seeded(), None)
    walk = policy.walk(2 * n, seeded())
    odds = torch.sigmoid(walk.reward[:n] - walk.reward[n:])
    won = (rows.winner.at.x[:, 0] == walk.x[0, :n]).all(1).to(WIDE)
    error = float((odds * (1 - odds)).sum().sqrt())
    for weight in (torch.ones(n, dtype=WIDE), odds - 0.5):
        spread = float((weight.square() * odds * (1 - odds)).sum().sqrt())
        assert abs(float((weight * (won - odds)).sum())) < norm.isf(ALARM / 4) * spread
    coin = float((odds - 0.5).square().sum())
    assert coin > (norm.isf(ALARM / 4) + norm.isf(1e-3)) * error


# -- adjoints ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "rule", "guidance"), [(None, "prior", 1.0), (LINEAR, "posterior", 1.0), (None, "posterior", 1.8)]
)
def test_the_lean_adjoint_is_the_gradient_of_a_walk_whose_actions_are_held(schedule, rule, guidance) -> None:
    guided = guidance != 1.0
    core = mlp(schedule, num_classes=3 if guided else None)
    policy = moved(core, rule=rule, guidance=guidance)
    mdp, labels = policy.mdp, torch.arange(5) % 3 if guided else None
    walk = policy.walk(5, seeded(), labels)
    found = lean_adjoint(mdp, walk)
    for h, k in enumerate(walk.k.tolist()):
        law_ = mdp.chain.step(walk.x[h], k, labels, guidance)
        x = (law_.mean + law_.std * walk.action[h]).detach().requires_grad_()
        y = x
        for j in range(h + 1, mdp.horizon):
            law_ = mdp.chain.step(y, int(walk.k[j]), labels, guidance)
            y = law_.mean + law_.std * walk.action[j]
        for last in range(mdp.last - 1, 0, -1):
            y = mdp.chain.step(y, last, labels, guidance).mean
        (known,) = torch.autograd.grad(-bent(y).sum() / mdp.beta, x)
        torch.testing.assert_close(found[h], known, rtol=1e-9, atol=1e-10)


def test_adjoint_matching_needs_no_gradient_through_the_policy() -> None:
    core = plane()  # an exact denoiser and a correction, in the correction's dtype
    mdp = DenoisingMDP(core.chain(ud.TimeGrid.uniform(4), "prior"), bent, beta=0.5)
    policy = Policy(mdp, stirred(corrected(core, mlp().denoiser.network)))  # pyright: ignore
    rows, _ = AdjointMatching().learner(policy).gather(4, seeded(), None)
    assert not rows.target.requires_grad and rows.target.dtype == WIDE
    assert all(p.grad is None for p in policy.core.parameters())


# -- what is refused -----------------------------------------------------------------------------------------------------

EVERY: list[Method] = [DDPO(), DPOK(), Backprop(), AdjointMatching(), D3PO()]
CHARGED: list[Method] = [DPOK(), AdjointMatching(), D3PO(), DPO().on(pairs())]


def name(method: Method) -> str:
    return method.name


@pytest.mark.parametrize("method", EVERY, ids=name)
def test_a_process_that_pays_nothing_is_refused(method) -> None:
    with pytest.raises(ValueError, match=f"mdp must have a reward for {method.name}"):
        method.learner(moved(reward=None))


@pytest.mark.parametrize("method", CHARGED, ids=name)
def test_methods_that_keep_to_the_reference_need_a_temperature(method) -> None:
    with pytest.raises(ValueError, match=f"beta must be positive for {method.name}.*got 0"):
        method.learner(moved(beta=0.0))


@pytest.mark.parametrize("method", [DDPO(), Backprop()], ids=name)
def test_methods_that_do_not_are_at_home_without_one(method) -> None:
    learner = method.learner(moved(beta=0.0))
    rows, _ = learner.gather(4, seeded(), None)
    assert torch.isfinite(learner.loss(rows))


@pytest.mark.parametrize("method", [Backprop(), AdjointMatching()], ids=name)
@pytest.mark.parametrize(
    "reward", [lambda x: bent(x.detach()), lambda x: (x[:, 0] > 0).to(x), lambda x: torch.zeros(len(x)).to(x)]
)
def test_a_reward_without_a_gradient_is_refused_where_one_is_needed(method, reward) -> None:
    learner = method.learner(moved(reward=reward, beta=0.5))
    with pytest.raises(ValueError, match="reward must be differentiable in x0"):
        learner.loss(learner.gather(4, seeded(), None)[0])


@pytest.mark.parametrize("method", [DDPO(), DPOK(), D3PO()], ids=name)
def test_a_reward_without_a_gradient_will_do_elsewhere(method) -> None:
    learner = method.learner(moved(reward=lambda x: (x[:, 0] > 0).to(x)))
    assert torch.isfinite(learner.loss(learner.gather(8, seeded(), None)[0]))


@pytest.mark.parametrize("method", EVERY, ids=name)
def test_a_reward_that_is_not_finite_stops_with_its_count(method) -> None:
    def broken(x0: Tensor) -> Tensor:
        return torch.where(torch.arange(len(x0)) < 2, torch.nan, bent(x0))

    learner = method.learner(moved(reward=broken))
    with pytest.raises(FloatingPointError, match=r"reward returned 2 of (8|16) values that are not finite"):
        learner.loss(learner.gather(8, seeded(), None)[0])


def test_a_reward_whose_gradient_is_not_finite_stops_with_its_count() -> None:
    def edged(x0: Tensor) -> Tensor:
        return torch.cat([(x0[:3, 0] - x0[:3, 0].detach()).abs().sqrt(), x0[3:, 0]])

    with pytest.raises(FloatingPointError, match="gradient that is not finite at 3 of 8 data"):
        AdjointMatching().learner(moved(reward=edged)).gather(8, seeded(), None)


def test_adjoint_matching_is_of_the_data_s_reward_alone() -> None:
    def path(xt: Tensor, xs: Tensor, t: float, s: float) -> Tensor:
        return xs[:, 0]

    for reward in (bent, None):
        with pytest.raises(ValueError, match="must pay for the data alone for adjoint matching"):
            AdjointMatching().learner(moved(reward=reward, step_reward=path))


def by_state(beta: float = 0.5) -> Policy:
    """A reference whose variance moves with the state."""
    core = plane()
    mdp = DenoisingMDP(core.chain(ud.TimeGrid.uniform(4), "optimal"), bent, beta=beta)
    return Policy(mdp, corrected(core, mlp().denoiser.network.float()))  # pyright: ignore


@pytest.mark.parametrize("method", [AdjointMatching(), DPO("constant").on(pairs())])
def test_a_variance_that_depends_on_the_state_is_refused_with_the_cure(method) -> None:
    with pytest.raises(ValueError, match="fixed variance.*'optimal'.*take 'prior'.*'posterior'.*table x0_variance"):
        method.learner(by_state())
    method.learner(moved(rule="optimal", x0_variance=torch.full((4,), 0.3, dtype=WIDE)))


def test_where_it_does_no_harm_it_is_taken() -> None:
    policy, told = by_state(), pairs().to(torch.float32)
    taken: list[Method] = [*EVERY[:3], D3PO(), DPO().on(told), DPO(draws=None, walks=True).on(told)]
    for method in taken:
        learner = method.learner(policy)
        assert torch.isfinite(learner.loss(learner.gather(4, seeded(), None)[0]))


def test_pairs_of_other_data_are_refused() -> None:
    with pytest.raises(ValueError, match=r"pairs must be of data of shape \[2\], got \[3\]"):
        DPO().on(pairs(5, dim=3)).learner(moved())
    with pytest.raises(ValueError, match="dpo needs preferences"):
        DPO().learner(moved())


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: DDPO(clip=0.0), ValueError, "clip must be positive and finite, got 0.0"),
        (lambda: DDPO(clip=-1.0), ValueError, "clip must be positive and finite, got -1.0"),
        (lambda: DDPO("scores"), ValueError, "unknown estimator 'scores'; did you mean 'score'"),  # pyright: ignore
        (lambda: DPOK("is"), ValueError, "unknown estimator 'is'"),  # pyright: ignore
        (lambda: DPOK(clip=math.nan), ValueError, "clip must be positive and finite, got nan"),
        (lambda: DPOK(decay=1.1), ValueError, r"decay must lie in \[0, 1\], got 1.1"),
        (lambda: DPOK(decay=math.nan), ValueError, r"decay must lie in \[0, 1\], got nan"),
        (lambda: DPOK(width=0), ValueError, "width must be an integer of at least 1, got 0"),
        (lambda: DPOK(depth=0), ValueError, "depth must be an integer of at least 1, got 0"),
        (lambda: Backprop(0), ValueError, "last must be an integer of at least 1, got 0"),
        (lambda: Backprop(2, random=1), TypeError, "random must be True or False, got 1"),  # pyright: ignore
        (lambda: AdjointMatching(-0.1), ValueError, r"decay must lie in \[0, 1\], got -0.1"),
        (lambda: AdjointMatching("all"), TypeError, "decay must be a number, got 'all'"),  # pyright: ignore
        (lambda: DPO("bound"), ValueError, "unknown weight 'bound'"),  # pyright: ignore
        (lambda: DPO(reduction="max"), ValueError, "unknown reduction 'max'"),  # pyright: ignore
        (lambda: DPO(draws=0), ValueError, "draws must be an integer of at least 1, got 0"),
        (lambda: DPO(walks=True), ValueError, "walks need all steps .draws None. and weight 'elbo', got draws = 1"),
        (lambda: DPO("constant", draws=None, walks=True), ValueError, "got draws = None, weight = 'constant'"),
        (lambda: DPO(walks=1), TypeError, "walks must be True or False, got 1"),  # pyright: ignore
        (lambda: D3PO("path"), ValueError, "unknown level 'path'"),  # pyright: ignore
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused_by_name(make, kind, message) -> None:
    with pytest.raises(kind, match=message):
        make()


def test_labels_that_a_core_does_not_take_are_refused() -> None:
    for method in EVERY[:3]:
        with pytest.raises(ValueError, match="condition must be left out"):
            method.learner(moved()).gather(2, seeded(), torch.tensor([0, 1]))
    mdp = DenoisingMDP(classes().chain(ud.TimeGrid.uniform(4)), bent)
    with pytest.raises(ValueError, match="condition must lie in"):
        DDPO().learner(Policy(mdp, classes())).gather(2, seeded(), torch.tensor([0, 99]))


def test_a_method_tells_its_options_and_how_many_pairs_it_has() -> None:
    assert DDPO(clip=0.2).options_told() == {"estimator": "ratio", "clip": 0.2}
    assert DPO(draws=3).on(pairs(5)).options_told() == {
        "weight": "elbo", "reduction": "sum", "draws": 3, "walks": False, "pairs": 5,
    }  # fmt: skip
    assert [m.name for m in EVERY] == ["ddpo", "dpok", "backprop", "adjoint", "d3po"]
    assert not DDPO.charged and all(m.charged for m in CHARGED)
