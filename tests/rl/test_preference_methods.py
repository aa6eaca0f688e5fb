"""DPO and D3PO against the densities of the two chains, and the weights that papers and code give to a step."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

import unidiff as ud
from tests.rl.policies import F64, PAID, draws, gradients, moved, network, process, seeded
from unidiff.core.denoiser import Denoiser
from unidiff.rl import D3PO, DPO, DenoisingMDP, Policy, Preferences
from unidiff.rl.methods.preference import Compared, implicit, noised, retraced
from unidiff.rl.policy import Taken

CLOSE: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-11}
P = 12
LABELS = torch.arange(P) % 3
PAIRS = Preferences(draws(11, P, 2), draws(12, P, 2))
KNOWN = Preferences(PAIRS.winner, PAIRS.loser, LABELS)


def log_ratios(policy: Policy, taken: Taken) -> torch.Tensor:
    """log π_θ/π_ref of decisions ``[R, m]``, one at a time, by the two chains' densities."""
    chain, grid = policy.mdp.chain, policy.mdp.chain.grid
    found = torch.zeros(taken.at.k.shape, dtype=torch.float64)
    for i, row in enumerate(taken.at.k.tolist()):
        for j, k in enumerate(row):
            x, label = taken.at.x[i, j][None], None if taken.at.condition is None else taken.at.condition[i, j][None]
            ref = chain.step(x, k, label)
            own = policy.core.chain(grid).step(x, k, label).mean
            after = ref.mean + ref.std * taken.action[i, j]
            best = type(ref)(own, ref.log_var.expand_as(own)).log_prob(after)
            found[i, j] = (best - ref.log_prob(after))[0]
    return found


def softplus(x: torch.Tensor) -> torch.Tensor:
    return torch.log1p(torch.exp(x))


@pytest.mark.parametrize("method", [DPO(), DPO(draws=None), DPO("constant", "mean"), DPO(draws=None, walks=True)])
def test_at_the_reference_the_loss_is_log_2_and_its_gradient_is_not_0(method) -> None:
    policy = moved(process(), size=0.0)
    policy.core.denoiser.network.last.weight.data.zero_()  # pyright: ignore
    learner = method.on(PAIRS).learner(policy)
    rows, _ = learner.gather(8, seeded(), None)
    loss = learner.loss(rows)
    torch.testing.assert_close(loss.detach(), torch.tensor(math.log(2), dtype=torch.float64), **CLOSE)
    assert float(gradients(policy, loss).norm()) > 1e-3


@pytest.mark.parametrize("level", ["step", "walk"])
def test_d3po_at_the_reference_is_log_2_a_preference(level) -> None:
    policy = moved(process(), size=0.0)
    learner = D3PO(level).learner(policy)
    rows, _ = learner.gather(8, seeded(), None)
    assert float(learner.loss(rows).detach()) == pytest.approx((4 if level == "step" else 1) * math.log(2))
    assert float(gradients(policy, learner.loss(rows)).norm()) > 1e-3


@pytest.mark.parametrize("labels", [None, LABELS])
@pytest.mark.parametrize("walks", [False, True])
@pytest.mark.parametrize("first", [0.0, 0.02])
def test_the_implicit_reward_is_the_log_ratio_of_the_two_chains(labels, walks, first) -> None:
    policy = moved(process(first=first, variance="posterior"), classes=3)
    learner = DPO(draws=None, walks=walks).on(Preferences(PAIRS.winner, PAIRS.loser, labels)).learner(policy)
    rows, told = learner.gather(5, seeded(2), None)
    assert told == {} and len(rows) == 5 and rows.winner.at.k.shape == (5, policy.mdp.horizon)
    assert rows.winner.at.k[0].tolist() == list(range(policy.mdp.last, 5))
    expected = [log_ratios(policy, taken).detach() for taken in (rows.winner, rows.loser)]
    for taken, slow in zip((rows.winner, rows.loser), expected, strict=True):
        torch.testing.assert_close(implicit(policy, taken).detach(), slow, rtol=1e-8, atol=1e-9)
    margin = policy.mdp.beta * (expected[0].sum(1) - expected[1].sum(1))
    torch.testing.assert_close(learner.loss(rows).detach(), softplus(-margin).mean(), rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(rows.factor, torch.ones_like(rows.factor), **CLOSE)


@pytest.mark.parametrize("variance", ["posterior", "prior"])
def test_a_term_of_the_bound_is_the_gain_squared_times_the_errors_in_x0(variance) -> None:
    # u·z − ½‖u‖² = ½ b²/σ² (‖x_0 − x̂_ref‖² − ‖x_0 − x̂_θ‖²)
    policy = moved(process(first=0.0, variance=variance))
    mdp, k = policy.mdp, torch.tensor([[2, 3, 4], [4, 2, 2]])
    x0, noise = PAIRS.winner[:2], draws(3, 2, 3, 2)
    taken = noised(policy, x0, noise, k, None)
    level = mdp.chain.levels[k.flatten()]
    x = level.alpha.view(2, 3, 1) * x0[:, None] + level.sigma.view(2, 3, 1) * noise
    torch.testing.assert_close(taken.at.x, x, **CLOSE)
    errors = []
    for core in (mdp.chain.core, policy.core):
        guess = core.predict(x.flatten(0, 1), mdp.chain.grid.times[k.flatten()]).x0.view(2, 3, 2)
        errors.append((x0[:, None] - guess).square().sum(2))
    ref = [mdp.chain.step(x[:, j], int(k[0, j])).std for j in range(3)]
    assert all(v.numel() >= 1 for v in ref)
    b = mdp.chain.table.on_x0[k - 1]
    log_var = {"posterior": mdp.chain.table.log_posterior_var, "prior": mdp.chain.table.log_prior_var}[variance][k - 1]
    slow = 0.5 * b.square() / log_var.exp() * (errors[0] - errors[1])
    torch.testing.assert_close(implicit(policy, taken), slow, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("first", [0.0, 0.02])
@pytest.mark.parametrize("count", [1, 2, None])
def test_a_constant_weight_is_one_for_the_errors_in_the_noise_and_the_bounds_is_its_snr_step(first, count) -> None:
    mdp = process(first=first, variance="posterior")
    policy = moved(mdp)
    whole, even = (DPO(w, draws=count).on(PAIRS).learner(policy) for w in ("elbo", "constant"))
    rows, flat = (v.gather(6, seeded(5), None)[0] for v in (whole, even))
    k, m = rows.winner.at.k, rows.winner.at.k.shape[1]
    assert torch.equal(k, flat.winner.at.k) and torch.equal(rows.loser.at.x, flat.loser.at.x)
    snr = mdp.chain.levels.log_snr.exp()
    torch.testing.assert_close(
        rows.factor / flat.factor, 0.5 * mdp.horizon * (snr[k - 1] / snr[k] - 1), rtol=1e-8, atol=0
    )
    # The constant weight, from errors in ε alone.
    times = mdp.chain.grid.times[k]
    margin = torch.zeros(6, dtype=torch.float64)
    for sign, taken, data in ((1, flat.winner, PAIRS.winner), (-1, flat.loser, PAIRS.loser)):
        index = torch.randint(P, (6,), generator=seeded(5))
        level = mdp.chain.levels[k.flatten()]
        alpha, sigma = (v.view(6, m, 1) for v in (level.alpha, level.sigma))
        eps = (taken.at.x - alpha * data[index][:, None]) / sigma
        for core, side in ((mdp.chain.core, 1), (policy.core, -1)):
            x0 = core.predict(taken.at.x.flatten(0, 1), times.flatten()).x0.view(6, m, 2)
            guess = (taken.at.x - alpha * x0) / sigma
            margin = margin + sign * side * (eps - guess).square().sum((1, 2)).detach() / m
    torch.testing.assert_close(even.loss(flat).detach(), softplus(-mdp.beta * margin).mean(), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("weight", ["elbo", "constant"])
def test_a_mean_over_the_numbers_of_a_datum_is_the_sum_over_d(weight) -> None:
    policy = moved(process())
    rows, mean = (DPO(weight, r).on(PAIRS).learner(policy).gather(4, seeded(), None)[0] for r in ("sum", "mean"))
    torch.testing.assert_close(mean.factor, rows.factor / 2, **CLOSE)
    walks = [DPO("elbo", r, None, True).on(PAIRS).learner(policy).gather(4, seeded(), None)[0] for r in ("sum", "mean")]
    torch.testing.assert_close(walks[1].factor, walks[0].factor / 2, **CLOSE)


def test_the_loss_of_one_step_at_random_is_jensens_bound_of_the_loss_of_all() -> None:
    policy, noise, every = moved(process()), draws(3, 6, 4, 2), torch.arange(1, 5).expand(6, -1)
    learner = DPO(draws=1).on(PAIRS).learner(policy)
    ones = torch.ones(6, 4, dtype=torch.float64)

    def loss(k: torch.Tensor, at: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        sides = [noised(policy, x0[:6], at, k, None) for x0 in (PAIRS.winner, PAIRS.loser)]
        return torch.stack(
            [learner.loss(Compared(sides[0], sides[1], factor)[torch.tensor([i])]).detach() for i in range(6)]
        )

    single = torch.stack([loss(every[:, [j]], noise[:, [j]], 4 * ones[:, :1]) for j in range(4)]).mean(0)
    assert bool((single > loss(every, noise, ones)).all())
    rows, _ = learner.gather(64, seeded(), None)
    assert set(rows.winner.at.k.flatten().tolist()) == {1, 2, 3, 4} and bool((rows.factor == 4).all())


@pytest.mark.parametrize("count", [1, 2, 3, 4, 9, None])
@pytest.mark.parametrize("first", [0.0, 0.02])
def test_draws_are_spread_one_in_each_even_part_of_the_chain(count, first) -> None:
    mdp = process(first=first, steps=9)
    learner = DPO(draws=count).on(PAIRS).learner(moved(mdp))
    rows, _ = learner.gather(300, seeded(), None)
    k, horizon = rows.winner.at.k, mdp.horizon
    assert torch.equal(k, rows.loser.at.k)
    m = horizon if count is None else min(count, horizon)
    assert k.shape == (300, m)
    for j in range(m):
        least, most = math.floor(j * horizon / m), math.ceil((j + 1) * horizon / m)
        assert int(k[:, j].min()) == mdp.last + least and int(k[:, j].max()) == mdp.last + most - 1


@pytest.mark.statistical
@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_step_is_drawn_as_often_as_any_other(count) -> None:
    # 8 steps of 40 000 pairs, each count a sum of Bernoullis, its variance at most its mean: |z| < 5, false alarm 5e-6.
    # A first or last step of half a share, as by rounding in place of the floor, is z = −0.5√(40000/8) = −35 at one draw.
    mdp = process(first=0.0, steps=9)
    learner = DPO(draws=count).on(PAIRS).learner(moved(mdp))
    k = learner._steps(40_000, seeded(1))  # pyright: ignore
    seen = torch.bincount(k.flatten(), minlength=10)[2:].double()
    share = count / 8
    z = (seen - 40_000 * share) / (40_000 * share) ** 0.5
    assert len(seen) == 8 and float(z.abs().max()) < 5


def test_winner_and_loser_share_the_noise_of_a_step_and_walks_have_their_own() -> None:
    policy = moved(process())
    mdp = policy.mdp
    index = torch.randint(P, (5,), generator=seeded(5))
    both = (PAIRS.winner[index][:, None], PAIRS.loser[index][:, None])

    def noises(rows: Compared) -> list[torch.Tensor]:
        level = mdp.chain.levels[rows.winner.at.k]
        sides = zip((rows.winner, rows.loser), both, strict=True)
        return [(t.at.x - level.alpha[..., None] * x0) / level.sigma[..., None] for t, x0 in sides]

    rows, _ = DPO(draws=2).on(PAIRS).learner(policy).gather(5, seeded(5), None)
    torch.testing.assert_close(*noises(rows), rtol=1e-9, atol=1e-9)
    one, other = noises(DPO(draws=None, walks=True).on(PAIRS).learner(policy).gather(5, seeded(5), None)[0])
    # 40 numbers that two independent normals have equal to within 1e-6 with probability 2e-5 in all.
    assert float((one - other).abs().min()) > 1e-6


@pytest.mark.parametrize("first", [0.0, 0.02])
def test_a_retraced_walk_is_one_path_whose_actions_lead_along_it(first) -> None:
    mdp = process(first=first)
    policy, x0 = moved(mdp, classes=3), PAIRS.winner[:3]
    taken = retraced(policy, x0, draws(4, 5, 3, 2), LABELS[:3])
    for h in range(mdp.horizon):
        k = mdp.last + h
        x = taken.at.x[:, h]
        law = mdp.chain.step(x, k, LABELS[:3])
        after = law.mean + law.std * taken.action[:, h]
        if h:
            torch.testing.assert_close(after, taken.at.x[:, h - 1], **CLOSE)
        torch.testing.assert_close(
            taken.at.guess[:, h], mdp.chain.core.predict(x, mdp.chain.grid.times[k], LABELS[:3]).x0
        )
        torch.testing.assert_close(taken.at.std[:, h], law.std.expand_as(x), **CLOSE)
        assert taken.at.condition is not None and taken.at.condition[:, h].tolist() == LABELS[:3].tolist()


@pytest.mark.statistical
def test_a_retraced_walk_is_of_the_forward_process() -> None:
    # x_{t_k} of 20 000 walks from one datum: the mean α x_0 and standard deviation σ of 4 steps and 2 numbers, |z| < 5 each,
    # false alarm 1e-5 in all; a ladder one step off is wrong by α_1 − α_2 > 0.4 σ_1 (asserted) at x_0 of size 1: z > 50.
    mdp = process()
    x0 = torch.tensor([[1.0, -1.0]], dtype=torch.float64).expand(20_000, 2)
    taken = retraced(moved(mdp), x0, draws(9, 5, 20_000, 2), None)
    assert float((mdp.chain.levels.alpha[1] - mdp.chain.levels.alpha[2]) / mdp.chain.levels.sigma[1]) > 0.4
    level = mdp.chain.levels[taken.at.k[0]]
    away = (taken.at.x - level.alpha[:, None] * x0[:, None]) / level.sigma[:, None]
    assert float((away.mean(0) * 20_000**0.5).abs().max()) < 5
    assert float(((away.var(0) - 1) * 10_000**0.5).abs().max()) < 5


def test_pairs_are_drawn_together_with_their_label() -> None:
    policy = moved(process(), classes=3)
    rows, _ = DPO(draws=2).on(KNOWN).learner(policy).gather(7, seeded(5), torch.zeros(7, dtype=torch.long))
    index = torch.randint(P, (7,), generator=seeded(5))
    for taken in (rows.winner, rows.loser):
        assert taken.at.condition is not None
        assert taken.at.condition.tolist() == LABELS[index][:, None].expand(7, 2).tolist()  # and not the loop's 0
    free, _ = DPO(draws=2).on(PAIRS).learner(policy).gather(3, seeded(5), torch.tensor([2, 0, 1]))
    assert free.loser.at.condition is not None and free.loser.at.condition.tolist() == [[2, 2], [0, 0], [1, 1]]


def test_pairs_take_the_policys_dtype_and_some_rows_are_their_own_loss() -> None:
    policy = moved(process())
    learner = DPO(draws=2).on(PAIRS.to(torch.float32)).learner(policy)
    rows, _ = learner.gather(4, seeded(), None)
    assert rows.winner.at.x.dtype == torch.float64 and float(rows.winner.action.abs().max()) > 0
    parts = [learner.loss(rows[torch.tensor([i])]) for i in range(4)]
    torch.testing.assert_close(torch.stack(parts).mean(), learner.loss(rows), **CLOSE)
    assert not bool(rows.winner.control.any())


# D3PO.


SEED = 1  # one by which each of the two walks wins some of the five


@pytest.mark.parametrize("labels", [None, torch.tensor([0, 2, 1, 1, 0])])
@pytest.mark.parametrize("level", ["step", "walk"])
def test_d3po_compares_two_walks_of_the_policy_by_their_steps_or_whole(level, labels) -> None:
    mdp = process(step_reward=lambda xt, xs, t, s: xs.sum(1) * t)
    policy = moved(mdp, classes=3)
    learner = D3PO(level).learner(policy)
    rows, told = learner.gather(5, seeded(SEED), labels)
    generator = seeded(SEED)
    walk = policy.walk(10, generator, None if labels is None else labels.repeat(2))
    earned = walk.paid.sum(0)
    wins = torch.rand(5, generator=generator, dtype=torch.float64) < 1 / (1 + (earned[5:] - earned[:5]).exp())
    assert 0 < int(wins.sum()) < 5
    for i in range(5):
        best, worst = (i, i + 5) if bool(wins[i]) else (i + 5, i)
        for taken, b in ((rows.winner, best), (rows.loser, worst)):
            for mine, theirs in ((taken.at.x, walk.x), (taken.action, walk.action), (taken.control, walk.control)):
                assert torch.equal(mine[i], theirs[:, b])
            assert taken.at.k[i].tolist() == walk.k.tolist()
            if labels is not None:
                assert taken.at.condition is not None and taken.at.condition[i].tolist() == [int(labels[i])] * 4
    assert float(told["reward"]) == pytest.approx(float(earned.mean())) and float(told["kl"]) > 0
    with torch.no_grad():
        gap = mdp.beta * (log_ratios(policy, rows.winner) - log_ratios(policy, rows.loser))
        slow = softplus(-gap).sum(1).mean() if level == "step" else softplus(-gap.sum(1)).mean()
        torch.testing.assert_close(learner.loss(rows), slow, rtol=1e-8, atol=1e-9)


@pytest.mark.statistical
def test_d3pos_better_walk_wins_as_often_as_the_odds_say() -> None:
    # 8000 pairs, Σ(win − σ(gap)) with variance Σσ(1 − σ) ≤ n/4: |z| < 5, false alarm 6e-7. The better one always, or a coin,
    # moves the mean by more than 0.07 (asserted): z > 12, missed with probability 1e-12.
    policy, n = moved(process()), 8000
    rows, _ = D3PO().learner(policy).gather(n, seeded(8), None)
    walk = policy.walk(2 * n, seeded(8))
    first = (rows.winner.at.x[:, 0] == walk.x[0, :n]).all(1)
    better = walk.reward[:n] > walk.reward[n:]
    odds = torch.sigmoid((walk.reward[:n] - walk.reward[n:]).abs())
    assert float((odds - 0.5).mean()) > 0.07 < float((1 - odds).mean())
    z = ((first == better).double() - odds).sum() / (odds * (1 - odds)).sum().sqrt()
    assert abs(float(z)) < 5


# What is refused.


def learned() -> Policy:
    core = ud.Diffusion(ud.Schedule.linear(), Denoiser(network(0.5, learned=True), (2,), "x0", learned_variance=True))
    return Policy(DenoisingMDP(core.chain(ud.TimeGrid.uniform(3, 0.05), "learned"), PAID, beta=1.0), core)


def other(event: int) -> Preferences:
    return Preferences(draws(1, 3, event), draws(2, 3, event))


BAD: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "no pairs": (lambda: DPO().learner(moved(process())), ValueError, r"dpo needs preferences: DPO\(...\).on\(pairs\)"),
    "dpo, no beta": (
        lambda: DPO().on(PAIRS).learner(moved(process(beta=0.0))),
        ValueError,
        "beta must be positive for dpo .* got 0",
    ),
    "d3po, no beta": (lambda: D3PO().learner(moved(process(beta=0.0))), ValueError, "beta must be positive for d3po"),
    "d3po, no reward": (lambda: D3PO().learner(moved(process(None))), ValueError, "mdp must have a reward for d3po"),
    "another shape": (
        lambda: DPO().on(other(3)).learner(moved(process())),
        ValueError,
        re.escape("pairs must be of data of shape [2], got [3]"),
    ),
    "classes of a reference without any": (
        lambda: DPO().on(KNOWN).learner(learned()),
        ValueError,
        "condition must be left out: this denoiser takes none",
    ),
    "a class that is not known": (
        lambda: DPO().on(Preferences(PAIRS.winner, PAIRS.loser, LABELS + 2)).learner(moved(process())),
        ValueError,
        "condition must lie in 0 … 3",
    ),
    "constant weight, learned variance": (
        lambda: DPO("constant").on(PAIRS).learner(learned()),
        ValueError,
        "fixed variance for weight 'constant', got the rule 'learned'",
    ),
    "constant weight, optimal variance": (
        lambda: DPO("constant").on(PAIRS).learner(moved(process(variance="optimal"))),
        ValueError,
        "got the rule 'optimal'",
    ),
    "weight": (lambda: DPO("elbow"), ValueError, "unknown weight 'elbow'"),  # pyright: ignore
    "reduction": (lambda: DPO(reduction="max"), ValueError, "unknown reduction 'max'"),  # pyright: ignore
    "draws": (lambda: DPO(draws=0), ValueError, "draws must be an integer of at least 1, got 0"),
    "draws of another kind": (lambda: DPO(draws=1.0), ValueError, "draws must be an integer"),  # pyright: ignore
    "walks of another kind": (lambda: DPO(walks=1), TypeError, "walks must be True or False"),  # pyright: ignore
    "walks with draws": (lambda: DPO(walks=True), ValueError, "walks need all steps .* got draws = 1, weight = 'elbo'"),
    "walks of a constant weight": (
        lambda: DPO("constant", draws=None, walks=True),
        ValueError,
        "walks need all steps .* weight = 'constant'",
    ),
    "level": (lambda: D3PO("chain"), ValueError, "unknown level 'chain'"),  # pyright: ignore
}


@pytest.mark.parametrize("case", BAD)
def test_what_has_no_meaning_is_refused(case) -> None:
    make, error, message = BAD[case]
    with pytest.raises(error, match=message):
        make()


def test_dpo_needs_no_reward_and_a_variance_of_the_state_is_no_obstacle_to_the_bound() -> None:
    for policy in (moved(process(None)), moved(process(variance="optimal")), learned()):
        learner = DPO(draws=None, walks=True).on(PAIRS).learner(policy)
        assert math.isfinite(float(learner.loss(learner.gather(3, seeded(), None)[0]).detach()))
    told = DPO(draws=3).on(PAIRS).options_told()
    assert told == {"weight": "elbo", "reduction": "sum", "draws": 3, "walks": False, "pairs": P}


def test_a_reward_that_is_nan_stops_d3po_with_the_count() -> None:
    def spoiled(x: torch.Tensor) -> torch.Tensor:
        return torch.where(torch.arange(len(x)) < 3, torch.nan, PAID(x))

    with pytest.raises(FloatingPointError, match="reward returned 3 of 10 values that are not finite"):
        D3PO().learner(moved(process(spoiled))).gather(5, seeded(), None)


def test_no_gather_and_no_loss_draws_from_torchs_own_generator() -> None:
    policy, before = moved(process()), torch.get_rng_state()
    for method in (DPO().on(PAIRS), DPO(draws=None, walks=True).on(PAIRS), D3PO()):
        learner = method.learner(policy)
        one, two = (float(learner.loss(learner.gather(3, seeded(3), None)[0]).detach()) for _ in range(2))
        assert one == two
    assert torch.equal(before, torch.get_rng_state()) and policy.like.dtype == F64.dtype
