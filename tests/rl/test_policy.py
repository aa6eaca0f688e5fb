"""A policy is a chain in the reference's actions; a walk keeps what was done, and what was paid for it."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import unidiff as ud
from tests.rl.policies import F64, PAID, draws, moved, network, process, seeded
from unidiff.core.denoiser import Denoiser
from unidiff.core.gaussian import Gaussian
from unidiff.core.networks import MLP
from unidiff.rl import DenoisingMDP, Policy, State, corrected
from unidiff.rl.policy import Decisions, log_ratio, seen
from unidiff.worlds import OracleDenoiser, library

CLOSE: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-10}
EXACT: dict[str, Any] = {"rtol": 0, "atol": 0}
CLASSES = torch.tensor([0, 2, 1, 3, 0])


def paid_step(xt: torch.Tensor, xs: torch.Tensor, t: float, s: float) -> torch.Tensor:
    return (xt * xs).sum(1) * t + 2 * s


@pytest.mark.parametrize("first", [0.0, 0.02])
@pytest.mark.parametrize("variance", ["posterior", "prior", "optimal"])
@pytest.mark.parametrize("guidance", [None, 1.0, 1.7])
def test_control_and_log_ratio_are_the_densities_of_the_two_chains(first, variance, guidance) -> None:
    mdp = process(first=first, variance=variance, guidance=guidance or 1.0)
    policy = moved(mdp, classes=3)
    grid, labels = mdp.chain.grid, None if guidance is None else CLASSES
    for k in range(mdp.last, mdp.chain.steps + 1):
        x, action = draws(k, 5, 2), draws(k + 50, 5, 2)
        ref = mdp.chain.step(x, k, labels, mdp.guidance)
        own_mean = policy.core.chain(grid).step(x, k, labels, mdp.guidance).mean
        own = Gaussian(own_mean, ref.log_var)
        guess = mdp.chain.core.predict(x, grid.times[k], labels, mdp.guidance).x0
        u = policy.control(Decisions(x, torch.full((5,), k), guess, ref.std.expand_as(x), labels))
        after = ref.mean + ref.std * action
        torch.testing.assert_close(log_ratio(u, action), own.log_prob(after) - ref.log_prob(after), **CLOSE)
        torch.testing.assert_close(0.5 * u.square().sum(1), own.kl(ref), **CLOSE)
        assert float(u.detach().abs().min(0).values.max()) > 1e-3


def test_rows_of_many_steps_are_asked_together_and_one_step_may_be_of_all() -> None:
    policy = moved(process())
    rows = policy.walk(3, seeded(), like=F64).decisions()
    one_by_one = [policy.control(rows[torch.tensor([i])]) for i in range(len(rows))]
    torch.testing.assert_close(policy.control(rows), torch.cat(one_by_one), **CLOSE)
    shared = rows[torch.arange(3)]
    torch.testing.assert_close(policy.control(replace(shared, k=shared.k[:1])), policy.control(shared), **CLOSE)


def test_a_learned_variance_is_the_references_and_never_the_policys() -> None:
    core, other = (
        ud.Diffusion(
            ud.Schedule.linear(), Denoiser(network(0.5, seed=s, learned=True), (2,), "x0", learned_variance=True)
        )
        for s in (1, 2)
    )
    mdp = DenoisingMDP(core.chain(ud.TimeGrid.uniform(3, 0.02), "learned"), PAID, beta=0.5)
    policy, own = Policy(mdp, other), other.chain(mdp.chain.grid, "learned")
    walk = policy.walk(4, seeded())
    for h in range(3):
        law, theirs = (c.step(walk.x[h], 3 - h) for c in (mdp.chain, own))
        torch.testing.assert_close(walk.control[h], ((theirs.mean - law.mean) / law.std).detach(), **CLOSE)
        assert float((law.std - theirs.std).detach().abs().max()) > 1e-3


@pytest.mark.parametrize("first", [0.0, 0.02])
@pytest.mark.parametrize("labels", [None, CLASSES])
def test_a_walk_keeps_every_decision_and_what_was_paid(first, labels) -> None:
    given: list[torch.Tensor] = []

    def reward(x: torch.Tensor) -> torch.Tensor:
        given.append(x)
        return PAID(x)

    mdp = process(reward, first=first, step_reward=paid_step)
    policy, generator, chain = moved(mdp, classes=3), seeded(3), mdp.chain
    n, horizon = 5, mdp.horizon
    walk = policy.walk(n, generator, labels, like=F64)
    assert horizon == (3 if first == 0 else 4)
    assert (
        walk.x.shape == walk.guess.shape == walk.std.shape == walk.action.shape == walk.control.shape == (horizon, n, 2)
    )
    assert walk.paid.shape == walk.kl.shape == (horizon, n) and walk.reward.shape == (n,) and walk.x0.shape == (n, 2)
    assert walk.k.tolist() == list(range(4, 4 - horizon, -1))
    # The generator gives the prior and then one ξ a decision, and no more.
    again = seeded(3)
    torch.testing.assert_close(walk.x[0], chain.core.prior(n, again, F64), **EXACT)
    paid = torch.zeros(horizon, n, dtype=torch.float64)
    for h in range(horizon):
        k, x = int(walk.k[h]), walk.x[h]
        law = chain.step(x, k, labels)
        noise = torch.randn(x.shape, generator=again, dtype=x.dtype)
        torch.testing.assert_close(walk.action[h], walk.control[h] + noise, **EXACT)
        torch.testing.assert_close(walk.std[h], law.std.expand_as(x), **CLOSE)
        torch.testing.assert_close(walk.guess[h], chain.core.predict(x, chain.grid.times[k], labels).x0, **CLOSE)
        own = policy.core.chain(chain.grid, "prior").step(x, k, labels).mean.detach()
        after = own + law.std * noise
        if h + 1 < horizon:
            torch.testing.assert_close(walk.x[h + 1], after, **CLOSE)
        paid[h] = paid_step(x, after, float(chain.grid.times[k]), float(chain.grid.times[k - 1]))
    # The noiseless last step is the reference's, is no decision and is paid for by the data alone.
    end = chain.step(after, 1, labels).mean if first == 0 else after
    torch.testing.assert_close(walk.x0, end, **CLOSE)
    paid[-1] += PAID(end)
    assert len(given) == 1 and torch.equal(given[0], walk.x0)
    torch.testing.assert_close(walk.paid, paid, **CLOSE)
    torch.testing.assert_close(walk.reward, paid.sum(0), **CLOSE)
    torch.testing.assert_close(walk.kl, 0.5 * walk.control.square().sum(2), **CLOSE)
    assert torch.equal(generator.get_state(), again.get_state())
    if labels is None:
        assert walk.condition is None
    else:
        torch.testing.assert_close(walk.condition, labels, **EXACT)
    assert not walk.control.requires_grad and float(walk.kl.min()) > 0


@pytest.mark.parametrize("labels", [None, CLASSES])
def test_decisions_are_rows_step_by_step_with_their_own_labels(labels) -> None:
    walk = moved(process(), classes=3).walk(5, seeded(), labels, like=F64)
    rows, taken = walk.decisions(), walk.taken()
    assert len(rows) == len(taken) == 20
    for h in range(4):
        for b in range(5):
            one, done = rows[torch.tensor([5 * h + b])], taken[torch.tensor([5 * h + b])]
            for name in ("x", "guess", "std"):
                torch.testing.assert_close(getattr(one, name)[0], getattr(walk, name)[h, b], **EXACT)
                torch.testing.assert_close(getattr(done.at, name)[0], getattr(walk, name)[h, b], **EXACT)
            assert int(one.k) == int(walk.k[h]) == int(done.at.k)
            for found in (one, done.at):
                if labels is None:
                    assert found.condition is None
                else:
                    torch.testing.assert_close(found.condition, labels[b : b + 1], **EXACT)
            torch.testing.assert_close(done.action[0], walk.action[h, b], **EXACT)
            torch.testing.assert_close(done.control[0], walk.control[h, b], **EXACT)


def test_a_walk_may_start_where_it_is_told() -> None:
    policy, start = moved(process()), draws(8, 3, 2)
    assert torch.equal(policy.walk(3, seeded(), like=F64, start=start).x[0], start)
    lost = start.clone()
    lost[1, 0] = torch.nan
    for wrong, words in (
        (draws(8, 2, 2), "start and like must have one"),
        (draws(8, 3, 3), r"start must have shape \[B, 2\], got \[3, 3\]"),
        (start.float(), "start and like must have one"),
        (lost, "start must be finite; 1 of its 6 values"),
    ):
        with pytest.raises(ValueError, match=words):
            policy.walk(3, seeded(), like=F64, start=wrong)
    with pytest.raises(TypeError, match="generator must be a Generator, got 'g'"):
        policy.walk(3, "g", like=F64)  # pyright: ignore
    with pytest.raises(TypeError, match="like must be a Tensor, got 3"):
        policy.walk(3, seeded(), like=3)  # pyright: ignore
    with pytest.raises(TypeError, match="graph must be True or False, got 'no'"):
        Policy(process(), policy.core, graph="no")  # pyright: ignore


def test_a_look_at_a_state_is_what_a_walk_saw_there() -> None:
    mdp = process()
    policy = moved(mdp, classes=3)
    walk = policy.walk(5, seeded(), CLASSES, like=F64)
    for h in range(mdp.horizon):
        found = policy.look(State(walk.x[h], int(walk.k[h]), CLASSES))
        expected = walk.decisions()[torch.arange(5 * h, 5 * h + 5)]
        for name in ("x", "k", "guess", "std", "condition"):
            torch.testing.assert_close(getattr(found, name), getattr(expected, name), **EXACT)
        law, _ = seen(mdp, mdp.chain, walk.x[h], walk.k[h : h + 1], CLASSES)
        torch.testing.assert_close(law.mean, mdp.chain.step(walk.x[h], int(walk.k[h]), CLASSES).mean, **CLOSE)


def test_the_reference_is_a_policy_without_control_and_a_walk_is_one_of_the_generator() -> None:
    mdp = process()
    policy = Policy(mdp, mdp.chain.core)
    walk = policy.walk(6, seeded(), like=F64)
    assert float(walk.control.abs().max()) == 0 and float(walk.kl.max()) == 0
    assert torch.equal(policy.walk(6, seeded(), like=F64).x0, walk.x0)
    assert policy.like.dtype == torch.float32 and moved(mdp).like.dtype == torch.float64


@pytest.mark.statistical
def test_the_mean_log_ratio_of_what_the_policy_does_is_its_kl() -> None:
    # Σ(u·a − ½‖u‖²) − Σ½‖u‖² = Σ u·ξ has mean 0 and variance E Σ‖u‖²: z of 20 000 chains, |z| < 5, false alarm 6e-7.
    # Actions without the control in them (a = ξ) move the mean by −2 KL: z = −√(2·20000·KL) < −141 at KL > 0.5 (asserted).
    walk = moved(process()).walk(20_000, seeded(5), like=F64)
    log = log_ratio(walk.control.flatten(0, 1), walk.action.flatten(0, 1)).view_as(walk.kl).sum(0)
    gap, kl = log - walk.kl.sum(0), float(walk.kl.sum(0).mean())
    assert kl > 0.5 and abs(float(gap.mean() / gap.std())) * 20_000**0.5 < 5


def test_only_a_core_on_the_chain_of_residuals_is_a_policy() -> None:
    mdp = process()
    core = mdp.chain.core
    linear, world = ud.Schedule.linear(), library.mixture_2d()
    with pytest.raises(ValueError, match="mdp must have residuals for actions, got action = 'state'"):
        Policy(process(action="state"), core)
    with pytest.raises(ValueError, match=re.escape("core must have the reference's event shape, [2], got [3]")):
        Policy(mdp, ud.Diffusion(linear, OracleDenoiser(library.gaussian())))
    for other in (ud.Schedule.cosine(), ud.Schedule.linear(0.1, 19.0)):
        with pytest.raises(ValueError, match="core must have the reference's schedule"):
            Policy(mdp, ud.Diffusion(other, OracleDenoiser(world)))
    with pytest.raises(TypeError, match="mdp must be a DenoisingMDP"):
        Policy(mdp.chain, core)  # pyright: ignore
    with pytest.raises(TypeError, match="core must be a Diffusion"):
        Policy(mdp, core.denoiser)  # pyright: ignore
    for n in (0, 1.0, True):
        with pytest.raises(ValueError, match="n must be an integer of at least 1"):
            Policy(mdp, core).walk(n)  # pyright: ignore


def test_a_schedule_that_differs_by_convention_or_by_noise_alone_is_another() -> None:
    mdp = process()
    with pytest.raises(ValueError, match="core must have the reference's schedule"):
        Policy(mdp, ud.Diffusion(mdp.chain.core.schedule.as_ve(), mdp.chain.core.denoiser))
    # α = 1 for both of these, so that λ alone tells them apart.
    exploding = process(schedule=ud.Schedule.linear().as_ve())
    with pytest.raises(ValueError, match="core must have the reference's schedule"):
        Policy(exploding, ud.Diffusion(ud.Schedule.linear(0.1, 19.0).as_ve(), mdp.chain.core.denoiser))


def test_labels_that_nobody_knows_are_refused_at_the_start() -> None:
    policy = moved(process(), classes=3)
    with pytest.raises(ValueError, match="condition must lie in 0 … 3"):
        policy.walk(2, seeded(), torch.tensor([0, 4]), like=F64)
    with pytest.raises(ValueError, match=re.escape("condition must have shape [2] or []")):
        policy.walk(2, seeded(), torch.tensor([0, 1, 2]), like=F64)


def test_a_control_that_is_not_finite_stops_the_walk_with_its_step() -> None:
    mdp = process(steps=4)
    level = mdp.chain.levels.log_snr[2]

    class Lost(nn.Module):
        def forward(self, x: torch.Tensor, log_snr: torch.Tensor, condition: torch.Tensor | None) -> torch.Tensor:
            return torch.where(log_snr[:, None] > level - 1e-6, torch.nan, 0 * x)

    with pytest.raises(FloatingPointError, match="the policy's control is not finite at step 2 of 4"):
        Policy(mdp, corrected(mdp.chain.core, Lost())).walk(2, seeded(), like=F64)


def test_a_reward_stops_the_walk_that_it_cannot_pay() -> None:
    def spoiled(x: torch.Tensor) -> torch.Tensor:
        return torch.where(torch.arange(len(x)) < 2, torch.nan, PAID(x))

    with pytest.raises(FloatingPointError, match="reward returned 2 of 5 values that are not finite"):
        moved(process(spoiled)).walk(5, seeded(), like=F64)
    with pytest.raises(FloatingPointError, match="step_reward returned 5 of 5 values that are not finite"):
        moved(process(step_reward=lambda a, b, t, s: a.sum(1) / 0)).walk(5, seeded(), like=F64)
    for wrong, said in (
        (lambda x: x, "[5, 2]"),
        (lambda x: PAID(x)[:, None], "[5, 1]"),
        (lambda x: PAID(x).mean(), "[]"),
    ):
        with pytest.raises(
            ValueError, match=re.escape(f"reward must return shape [5], one number a chain, got {said}")
        ):
            moved(process(wrong)).walk(5, seeded(), like=F64)
    for wrong in (lambda x: (PAID(x) > 0).long(), lambda x: PAID(x) > 0, lambda x: PAID(x).tolist()):
        with pytest.raises(TypeError, match="what reward returns must be a floating-point tensor"):
            moved(process(wrong)).walk(5, seeded(), like=F64)


def test_a_chain_without_noise_is_refused_with_the_cure() -> None:
    with pytest.raises(ValueError, match="start the grid a little later, or take two steps"):
        process(steps=1, first=0.0)
    assert process(steps=1).horizon == 1 and process(steps=2, first=0.0).horizon == 1


def test_a_network_that_predicts_noise_cannot_start_where_there_is_no_signal() -> None:
    schedule = ud.Schedule.cosine(math.inf, -math.inf)
    with pytest.raises(ValueError, match="zero SNR"):
        Policy(process(schedule=schedule), ud.Diffusion(schedule, Denoiser(MLP(2, 8, 1), (2,), "eps")))
