"""Worlds over random levels, mixtures and rewards: what they say of x_0 given x_t, and what a reward makes of them."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unidiff.testing import assert_algebraic
from unidiff.testing import strategies as kit
from unidiff.worlds import GaussianMixture
from unidiff.worlds.rewards import Linear, Quadratic


def states(world: GaussianMixture, seed: int, n: int = 3) -> torch.Tensor:
    return 2 * torch.randn(n, world.dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def levels(step: kit.Step, t: float) -> tuple[torch.Tensor, torch.Tensor]:
    return step.schedule.alpha(t).detach(), step.schedule.sigma(t).detach()


@settings(max_examples=30)
@given(kit.steps(ends=False), kit.mixtures(), st.integers(0, 9))
def test_tweedie_gives_the_posteriors_mean_and_covariance(step: kit.Step, world: GaussianMixture, seed: int) -> None:
    alpha, sigma = levels(step, step.t)
    xt = alpha * states(world, seed)
    noised, posterior = world.diffuse(alpha, sigma), world.posterior(xt, alpha, sigma)

    # The score and its Jacobian by differentiation of log q_t, which knows nothing of posteriors.
    def log_q(x: torch.Tensor) -> torch.Tensor:
        return noised.log_prob(x[None])[0]

    first, second = torch.func.grad(log_q), torch.func.hessian(log_q)
    score = torch.stack([first(row) for row in xt])
    hessian = torch.stack([second(row) for row in xt])
    terms = xt.abs() / alpha + sigma**2 / alpha * score.abs()
    beside = 1 + terms  # what the mean, which may be zero, is looked at beside
    assert_algebraic(posterior.mean + beside, (xt + sigma**2 * score) / alpha + beside, 20 * beside, what="E[x_0|x_t]")
    eye = torch.eye(world.dim, dtype=torch.float64)
    covariance = sigma**2 / alpha**2 * (eye + sigma**2 * hessian)
    # A relative digit of the score is a relative digit of σ⁴/α² times its slope.
    size = sigma**2 / alpha**2 * (1 + sigma**2 * hessian.abs().amax((1, 2), keepdim=True)) * (1 + terms.square().amax())
    assert_algebraic(posterior.covariance + size, covariance + size, 20 * size, what="Cov[x_0|x_t]")


@settings(max_examples=30)
@given(kit.steps(ends=False), kit.mixtures(), st.integers(0, 9))
def test_noising_twice_is_noising_once(step: kit.Step, world: GaussianMixture, seed: int) -> None:
    (alpha_s, sigma_s), (alpha_t, sigma_t) = levels(step, step.s), levels(step, step.t)
    ratio = alpha_t / alpha_s
    between = (sigma_t**2 - ratio**2 * sigma_s**2).clamp(min=0).sqrt()
    once, twice = world.diffuse(alpha_t, sigma_t), world.diffuse(alpha_s, sigma_s).diffuse(ratio, between)
    x = states(world, seed)
    least = once.covariance.diagonal(dim1=-2, dim2=-1).min() if once.covariance.ndim else once.covariance
    kappa = 20 * (1 + x.square().sum(1) + once.mean.square().sum()) / least.clamp(max=1) ** 2
    got, expected = twice.log_prob(x), once.log_prob(x)
    assert_algebraic(got + kappa, expected + kappa, 20 * kappa, what="log q_t")


@settings(max_examples=30)
@given(kit.mixtures(dim=2), kit.rewards(2), kit.decimals(0.5, 4, 1), st.integers(0, 9))
def test_a_tilt_is_the_law_times_the_reward(
    world: GaussianMixture, reward: Linear | Quadratic, beta: float, seed: int
) -> None:
    x = states(world, seed)
    curve, slope, level = reward.coefficients()
    tilted, log_z = world.tilt(curve, slope, beta)
    value = (reward(x) - level) / beta
    expected = world.log_prob(x) + value - log_z
    size = 1 + x.square().sum(1) * 2 + value.abs() + log_z.abs() + expected.abs() + tilted.mean.square().sum()
    assert_algebraic(tilted.log_prob(x) + size, expected + size, 20 * size, what="log p*")
