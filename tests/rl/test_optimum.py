"""The optimum in closed form and by draws: what it must be on any linear chain, and what is refused."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import unidiff as ud
from tests.rl.cores import classes, plane
from unidiff.core.chain import ReverseChain, Variance
from unidiff.core.gaussian import Gaussian as Step
from unidiff.rl import (
    DenoisingMDP,
    LinearChain,
    Optimum,
    State,
    estimated_optimum,
    linear_optimum,
    path_kl,
    reweighted,
    walk,
)
from unidiff.rl.mdp import guess
from unidiff.worlds import Estimate, Gaussian, OracleDenoiser, library
from unidiff.worlds.rewards import Linear, LogDensity, Quadratic

BETA = 0.7
CLOSE: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9}


def draws(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_chain(seed: int, steps: int = 4, dim: int = 3) -> LinearChain:
    """Of no world: gains without symmetry, full covariances."""
    gain = 0.5 * draws(seed, steps + 1, dim, dim)
    gain[-1] = 0
    root = draws(seed + 1, steps + 1, dim, dim)
    covariance = 0.2 * torch.eye(dim, dtype=torch.float64) + 0.2 * root @ root.mT
    return LinearChain(gain, draws(seed + 2, steps + 1, dim), 0.5 * (covariance + covariance.mT))


def random_reward(seed: int, dim: int = 3) -> Quadratic:
    root = draws(seed + 3, dim, dim)
    return Quadratic(0.3 * root @ root.mT, draws(seed + 4, dim))


def gaussian_chain(first: float = 0.05, steps: int = 4, variance: Variance = "posterior") -> ReverseChain:
    core = ud.Diffusion(ud.Schedule.linear(), OracleDenoiser(library.gaussian()))
    return core.chain(ud.TimeGrid.uniform(steps, first), variance)


seeds = st.integers(0, 10_000)


@given(seeds)
def test_the_optimums_data_are_the_references_tilted(seed) -> None:
    chain, reward = random_chain(seed), random_reward(seed)
    best = linear_optimum(chain, reward, BETA)
    tilted, log_z = chain.marginal().tilt_by(reward, BETA)
    mean, covariance = best.policy.moments()[0]
    torch.testing.assert_close(mean, tilted.mean, **CLOSE)
    torch.testing.assert_close(covariance, tilted.covariance, **CLOSE)
    torch.testing.assert_close(best.log_z, log_z, **CLOSE)


@given(seeds, st.sampled_from(["free", "kept"]))
def test_the_objective_is_what_is_earned_less_what_it_costs(seed, start) -> None:
    best = linear_optimum(random_chain(seed), random_reward(seed), BETA, start)
    torch.testing.assert_close(best.reward - BETA * best.kl, best.objective, **CLOSE)
    steady = best.expected_reward(best.steady) - BETA * best.steady.kl(best.reference)
    torch.testing.assert_close(steady, best.steady_objective, **CLOSE)
    free = linear_optimum(best.reference, best.values[0], BETA)
    torch.testing.assert_close(best.steady_gap, best.steady.kl(free.policy), **CLOSE)
    assert best.steady_objective <= best.objective + 1e-9 <= BETA * best.log_z + 2e-9


@given(seeds, st.sampled_from(["free", "kept"]))
def test_no_small_move_of_a_policy_is_better(seed, start) -> None:
    best = linear_optimum(random_chain(seed), random_reward(seed), BETA, start)
    for policy, reached in ((best.policy, best.objective), (best.steady, best.steady_objective)):
        for row in range(policy.steps):
            gain, shift = policy.gain.clone(), policy.shift.clone()
            gain[row] += 0.1 * draws(seed + row, 3, 3)
            shift[row] += 0.1 * draws(seed + row + 9, 3)
            moved = LinearChain(gain, shift, policy.covariance)
            assert best.expected_reward(moved) - BETA * moved.kl(best.reference) < reached


@given(seeds)
def test_the_kl_of_paths_bounds_that_of_data_and_is_zero_of_itself(seed) -> None:
    one, other = random_chain(seed), random_chain(seed + 50)
    laws = [torch.distributions.MultivariateNormal(*c.moments()[0]) for c in (one, other)]
    assert torch.distributions.kl_divergence(*laws) <= one.kl(other)
    assert float(one.kl(one)) == 0.0


@given(seeds)
def test_the_value_is_a_reward_whose_expectation_it_is(seed) -> None:
    chain, reward = random_chain(seed), random_reward(seed)
    best = linear_optimum(chain, reward, BETA)
    for k in range(1, chain.steps + 1):
        x = draws(seed + k, 5, 3)
        _, own = chain.given(x, k).tilt_by(reward, BETA)
        torch.testing.assert_close(best.values[k](x) / BETA, own, **CLOSE)
        # A value at t_k is a terminal reward of the chain that ends there.
        short = LinearChain(chain.gain[k:], chain.shift[k:], chain.covariance[k:]) if k < chain.steps else None
        if short is not None:
            torch.testing.assert_close(linear_optimum(short, best.values[k], BETA).log_z, best.log_z, **CLOSE)


def test_with_a_kept_start_the_mean_moves_by_what_the_start_leaves_open() -> None:
    # One number, one step: ρ is the correlation of its two ends.
    one = torch.ones(1, 1, dtype=torch.float64)
    for a in (0.0, 0.5, 0.99):
        gain, noise = torch.stack([a * one, 0 * one]), torch.stack([(1 - a**2) * one, one])
        chain = LinearChain(gain, torch.zeros(2, 1, dtype=torch.float64), noise)
        moved = [
            float(linear_optimum(chain, Linear(torch.tensor([0.6])), BETA, start).policy.moments()[0][0])
            for start in ("free", "kept")
        ]
        assert moved == pytest.approx([0.6 / BETA, (1 - a**2) * 0.6 / BETA])


def test_a_linear_reward_moves_no_covariance_and_leaves_no_gap() -> None:
    best = linear_optimum(random_chain(1), Linear(draws(0, 3)), BETA)
    torch.testing.assert_close(best.policy.covariance, best.reference.covariance, **CLOSE)
    assert float(best.steady_gap) == 0.0
    assert float(linear_optimum(random_chain(1), random_reward(1), BETA).steady_gap) > 0.01


def test_the_control_is_the_residual_that_leads_to_the_optimums_mean() -> None:
    chain = gaussian_chain()
    best = linear_optimum(LinearChain.of(chain), random_reward(3), BETA)
    mdp = DenoisingMDP(chain, beta=BETA)
    x = draws(5, 6, 3)
    for k in range(2, 5):
        reached = mdp.step(State(x, k), best.control(x, k)).state.x
        torch.testing.assert_close(reached, best.policy.step_mean(x, k), **CLOSE)


def test_a_last_step_without_noise_is_the_same_in_every_policy() -> None:
    chain = LinearChain.of(gaussian_chain(first=0.0))
    assert not chain.covariance[0].any()
    best = linear_optimum(chain, random_reward(3), BETA)
    torch.testing.assert_close(best.policy.gain[0], chain.gain[0], rtol=0, atol=0)
    assert not best.control(draws(1, 2, 3), 1).any()
    tilted, log_z = chain.marginal().tilt_by(random_reward(3), BETA)
    torch.testing.assert_close(best.policy.moments()[0][0], tilted.mean, **CLOSE)
    torch.testing.assert_close(best.kl, best.reward / BETA - log_z, **CLOSE)
    with pytest.raises(
        ValueError, match="other must have noise wherever self has, and self wherever other; not to t_0"
    ):
        chain.kl(LinearChain(1.1 * chain.gain, chain.shift, chain.covariance))
    with pytest.raises(ValueError, match="positive definite"):
        chain.step(draws(1, 2, 3), 1)


def test_any_affine_network_is_a_linear_chain() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(2, 2)
    denoiser = ud.Denoiser(lambda x, noise, condition: layer(x), (2,), "x0")
    denoiser.layer = layer  # so that the core sees its parameters
    chain = ud.Diffusion(ud.Schedule.cosine(), denoiser).chain(ud.TimeGrid.uniform(3))
    found, x = LinearChain.of(chain), torch.randn(5, 2)
    for k in (1, 2, 3):
        torch.testing.assert_close(found.step_mean(x, k).float(), chain.step(x, k).mean, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: LinearChain.of(plane().chain(ud.TimeGrid.uniform(3))), ValueError, "chain must be linear"),
        (lambda: LinearChain.of("chain"), TypeError, "chain must be a ReverseChain"),  # pyright: ignore
        (lambda: linear_optimum(random_chain(0), random_reward(0), 0.0), ValueError, "beta must be positive"),
        (lambda: linear_optimum(random_chain(0), Linear([1.0]), 1.0), ValueError, "b must have 3 entries"),  # pyright: ignore
        (lambda: linear_optimum(random_chain(0), lambda x: x, 1.0), TypeError, "reward must be a QuadraticReward"),  # pyright: ignore
        (lambda: linear_optimum(random_chain(0), random_reward(0), 1.0, "fre"), ValueError, "did you mean 'free'"),  # pyright: ignore
        (
            lambda: linear_optimum(random_chain(0), Quadratic(-9 * torch.eye(3, dtype=torch.float64)), 1.0),
            ValueError,
            "outgrows the noise that leads there",
        ),
        (lambda: random_chain(0).step(draws(0, 2, 3), 5), ValueError, "k must be an integer in 1 … 4"),
        (lambda: random_chain(0).step(draws(0, 2, 2), 1), ValueError, "xt must have shape [B, 3]"),
        (lambda: random_chain(0).marginal(-1), ValueError, "k must be an integer in 0 … 4"),
        (lambda: random_chain(0).kl(random_chain(0, 3)), ValueError, "must have one shape"),
        (lambda: LinearChain(draws(0, 2, 3, 3), draws(0, 2, 3), draws(0, 2, 3, 3)), ValueError, "gain must be zero"),
        (lambda: random_chain(0).starting(draws(0, 3), -torch.eye(3).double()), ValueError, "no negative eigenvalue"),
        (lambda: reweighted(torch.tensor([1.0]), 1.0), ValueError, "reward must have shape [..., n]"),
        (lambda: reweighted(torch.tensor([1.0, math.nan]), 1.0), ValueError, "reward must be finite"),
        (lambda: estimated_optimum(DenoisingMDP(gaussian_chain()), 9), ValueError, "mdp.beta must be positive"),
        (lambda: estimated_optimum(DenoisingMDP(gaussian_chain(), beta=1.0), 1), ValueError, "n must be an integer"),
        (
            lambda: walk(DenoisingMDP(gaussian_chain()), 2, policy=gaussian_chain(steps=3)),
            ValueError,
            "policy must be on the reference's grid",
        ),
        (lambda: walk(DenoisingMDP(gaussian_chain()), 2, policy=3), TypeError, "policy must be a ReverseChain or"),  # pyright: ignore
        (
            lambda: path_kl(DenoisingMDP(gaussian_chain(), beta=1.0), gaussian_chain(), 0.0, 9),  # pyright: ignore
            TypeError,
            "log_z must be a Estimate",
        ),
    ],
)  # fmt: skip
def test_what_is_refused_is_named(make, error, message) -> None:
    with pytest.raises(error, match=re.escape(message)):
        make()


# -- by draws ----------------------------------------------------------------------------------------------------------


def mild(chain: ReverseChain, scale: float = 1.0) -> tuple[DenoisingMDP, Optimum]:
    reward = Linear(scale * torch.tensor([0.6, -0.4, 0.8], dtype=torch.float64))
    return DenoisingMDP(chain, reward, beta=BETA), linear_optimum(LinearChain.of(chain), reward, BETA)


@pytest.mark.statistical
@pytest.mark.parametrize("first", [0.0, 0.05])
def test_draws_find_the_optimum_within_their_errors(first) -> None:
    # Four z-tests at 6: a false alarm once in 1e8. Errors are under 1% of Z and of β, and under 6% of KL: a lost ½ shows.
    mdp, best = mild(gaussian_chain(first))
    like = torch.empty(0, dtype=torch.float64)
    found = estimated_optimum(mdp, 32768, torch.Generator().manual_seed(0), like=like)
    reference = best.expected_reward(best.reference)
    known = (best.log_z, best.reward, best.kl, reference)
    for estimate, truth in zip((found.log_z, found.reward, found.kl, found.reference_reward), known, strict=True):
        assert abs(float(estimate.value - truth)) < 6 * float(estimate.standard_error)
    assert float(found.log_z.standard_error) < 0.01
    assert float(found.reward.standard_error) < 0.01 * BETA
    assert float(found.kl.standard_error) < 0.06 * float(best.kl)


@pytest.mark.statistical
def test_the_errors_stated_are_those_made() -> None:
    # 2048 lots of 256: a z-score's variance is known to √(2/2048) = 3%; a false alarm beyond 6 of them, 20%, once in 1e8.
    # What the error loses to the lot's own spread, below 3%, is in the slack. A missing √n or ½ is a factor of 4 or more.
    mdp, best = mild(gaussian_chain(), 0.5)
    like = torch.empty(0, dtype=torch.float64)
    rewards = walk(mdp, 2048 * 256, torch.Generator().manual_seed(1), like=like, rows=65536).reward.reshape(2048, 256)
    found = reweighted(rewards, BETA)
    for estimate, truth in ((found.log_z, best.log_z), (found.reward, best.reward), (found.kl, best.kl)):
        score = (estimate.value - truth) / estimate.standard_error
        assert abs(float(score.square().mean()) - 1) < 0.23


@pytest.mark.statistical
def test_a_policys_distance_to_the_optimum_is_what_the_matrices_say() -> None:
    # Two z-tests at 6: a false alarm once in 2e8; a violation of a fifth of the distance shows.
    mdp, best = mild(gaussian_chain())
    like, log_z = torch.empty(0, dtype=torch.float64), Estimate.exact(best.log_z)
    found = path_kl(mdp, mdp.chain, log_z, 32768, torch.Generator().manual_seed(0), like=like)
    known = best.reference.kl(best.policy)
    assert abs(float(found.value - known)) < 6 * float(found.standard_error) < 0.2 * float(known)

    def steered(state: State) -> Step:
        law = mdp.reference(state)
        return Step(law.mean + law.std * best.control(state.x, state.k), law.log_var)

    kept = linear_optimum(best.reference, best.values[0], BETA, "kept")
    found = path_kl(mdp, steered, log_z, 32768, torch.Generator().manual_seed(0), like=like)
    assert abs(float(found.value - kept.steady_gap)) < 6 * float(found.standard_error) < 0.02


def test_a_chain_is_a_policy_however_it_is_said() -> None:
    mdp, policy = mild(gaussian_chain())[0], gaussian_chain(variance="optimal")
    like = torch.empty(0, dtype=torch.float64)
    one, two = (
        walk(mdp, 64, torch.Generator().manual_seed(3), p, like=like)
        for p in (policy, lambda state: policy.kernel(state.x, state.k, guess(policy, state)))
    )
    assert torch.equal(one.kl, two.kl)
    assert torch.equal(one.reward, two.reward)
    assert bool((one.kl > 0).all())
    states = DenoisingMDP(mdp.chain, mdp.reward, beta=BETA, action="state")
    three = walk(states, 64, torch.Generator().manual_seed(3), policy, like=like)
    torch.testing.assert_close(three.reward, one.reward, **CLOSE)


def test_walks_are_in_blocks_with_labels_of_their_own_and_pay_no_charge() -> None:
    core = classes()
    seen: list[torch.Tensor] = []
    mdp = DenoisingMDP(core.chain(ud.TimeGrid.uniform(3)), lambda x0: x0[:, 0] * 0 + 1, beta=2.0)
    label = torch.arange(7) % 3

    def policy(state: State) -> Step:
        assert state.condition is not None
        seen.append(state.condition)
        return mdp.reference(state)

    found = walk(mdp, 7, torch.Generator().manual_seed(0), policy, label, rows=4)
    assert torch.equal(found.reward, torch.ones(7, dtype=torch.float64))
    assert torch.equal(found.kl, torch.zeros(7, dtype=torch.float64))
    assert [len(v) for v in seen] == [4] * mdp.horizon + [3] * mdp.horizon
    assert torch.equal(torch.cat([seen[0], seen[-1]]), label)


def test_a_reward_that_is_all_alike_tilts_nothing_and_a_huge_one_is_no_overflow() -> None:
    flat = reweighted(torch.full((5,), 3.0), 0.5)
    assert [float(v) for v in (flat.log_z.value, flat.kl.value, flat.ess)] == pytest.approx([6.0, 0.0, 5.0])
    steep = reweighted(torch.tensor([1e5, -1e5, 0.0], dtype=torch.float64), 1e-3)
    figures = (steep.log_z.value, steep.reward.value, steep.kl.value, steep.ess)
    assert [float(v) for v in figures] == pytest.approx([1e8 - math.log(3), 1e5, math.log(3), 1.0], rel=1e-9)


def test_a_log_densitys_constant_is_in_log_z() -> None:
    chain, law = random_chain(2), Gaussian([0.1, 0.2, 0.3], torch.eye(3, dtype=torch.float64))
    A, b, c = LogDensity(law).coefficients()
    with_it = linear_optimum(chain, LogDensity(law), BETA).log_z
    torch.testing.assert_close(with_it, linear_optimum(chain, Quadratic(A, b), BETA).log_z + c / BETA, **CLOSE)
