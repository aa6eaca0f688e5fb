"""An oracle is the core's own answer in another convention, and a sampler fed with it has no network to blame."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given

import unidiff as ud
from unidiff.core.prediction import KINDS
from unidiff.testing import assert_algebraic, oracle
from unidiff.testing import strategies as kit

WORLD = ud.worlds.library.mixture_2d()
X = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)


@EVERY_KIND
@pytest.mark.parametrize("t", [0.3, torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9])])
def test_of_a_schedule_it_is_the_cores_prediction(kind, t) -> None:
    core = ud.Diffusion(ud.Schedule.cosine(), ud.worlds.OracleDenoiser(WORLD))
    assert torch.equal(oracle(WORLD, core.schedule, kind)(X, t), getattr(core.predict(X, t), kind))


@EVERY_KIND
def test_of_alphas_cumprod_it_is_the_schedule_of_those_betas(kind) -> None:
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    own = oracle(WORLD, predicts=kind, alphas_cumprod=torch.cumprod(1 - betas, 0))
    for t in (0, 1, 500, 999):
        expected = oracle(WORLD, ud.Schedule.from_betas(betas), kind)(X, (t + 1) / 1000)
        # ᾱ as a product of 1 − β: a thousand roundings at most, of which 1 − ᾱ_0 = 1e-4 makes 1e4 times as many.
        kappa = expected.abs().max() * (t + 1 + 1 / (1 - float(torch.cumprod(1 - betas, 0)[t])))
        assert_algebraic(own(X, torch.tensor(t)), expected, kappa)
    each = own(X, torch.tensor([0, 1, 2, 500, 999]))
    assert_algebraic(each[3:4], own(X[3:4], 500), each.abs().max())


@given(kit.mixtures(2), kit.decimals(0.1, 9, 1))
def test_of_sigma_it_is_the_posterior_mean_of_the_variance_exploding_convention(world, sigma: float) -> None:
    found = oracle(world, predicts="x0")(X, torch.full((5,), sigma))
    assert torch.equal(found, world.posterior_mean(X, 1.0, torch.full((5,), sigma)))


@given(kit.steps(), kit.mixtures(2), kit.states((2,)))
def test_its_four_answers_are_of_one_x0(step: kit.Step, world, xt: torch.Tensor) -> None:
    x0, eps, v, score = (oracle(world, step.schedule, kind)(xt, step.t) for kind in KINDS)
    alpha, sigma = (f(step.t).detach() for f in (step.schedule.alpha, step.schedule.sigma))
    size = xt.abs() + alpha * x0.abs() + sigma
    assert_algebraic(alpha * x0 + sigma * eps + size, xt + size, 4 * size)
    room = alpha * eps.abs() + sigma * (1 + x0.abs())  # beside which v is looked at: it may be nearly zero
    assert_algebraic(v + room, alpha * eps - sigma * x0 + room, 4 * (size / sigma + room))
    # The score is of the noised density and not of x̂_0: Tweedie's formula, whose conditions the registry states.
    torch.testing.assert_close(-sigma * score, eps, rtol=1e-6, atol=1e-6 * float(1 + xt.abs().max() + (alpha / sigma)))


def test_a_component_is_asked_for_by_its_number() -> None:
    own = oracle(WORLD, predicts="x0")(X, 0.5, torch.zeros(5, dtype=torch.long))
    first = ud.worlds.Gaussian(WORLD.means[0], WORLD.covariances[0])
    torch.testing.assert_close(own, first.posterior_mean(X, 1.0, 0.5))


def test_it_answers_in_the_states_dtype_and_says_what_it_is() -> None:
    eps = oracle(WORLD, ud.Schedule.learned())
    found = eps(X.float(), 0.5)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert repr(eps).endswith("predicts='eps', convention='schedule')")


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: oracle("mixture"), TypeError, "world must be a unidiff World, got str"),  # pyright: ignore
        (lambda: oracle(WORLD.posterior(X, 1.0, 1.0)), ValueError, "world must be one law, got a batch of 5"),
        (lambda: oracle(WORLD, predicts="epsilon"), ValueError, "unknown predicts 'epsilon'; did you mean 'eps'"),  # pyright: ignore
        (lambda: oracle(WORLD, "cosine"), TypeError, "schedule must be a unidiff Schedule, got str"),  # pyright: ignore
        (
            lambda: oracle(WORLD, ud.Schedule.cosine(), alphas_cumprod=[0.5]),
            ValueError,
            "alphas_cumprod must be left out with a schedule",
        ),
        (
            lambda: oracle(WORLD, alphas_cumprod=[0.9, 1.0]),
            ValueError,
            r"alphas_cumprod must lie in \[0, 1\), .* got \[1.0\]",
        ),
        (lambda: oracle(WORLD, alphas_cumprod=[]), ValueError, "alphas_cumprod must lie in .* got none"),
        (lambda: oracle(WORLD, alphas_cumprod=[0.9, 0.9]), ValueError, "must decrease, got 0.9 then 0.9 at index 0"),
        (lambda: oracle(WORLD, alphas_cumprod=[0.9, 0.5])(X, 2), ValueError, "t must be integers in 0 … 1"),
        (lambda: oracle(WORLD, alphas_cumprod=[0.9, 0.5])(X, 0.5), ValueError, "t must be integers in 0 … 1"),
        (lambda: oracle(WORLD)(X, 0.0), ValueError, "sigma must be positive and finite, got 0.0"),
        (lambda: oracle(WORLD)(X, torch.ones(4)), ValueError, r"t must be a number or have shape \[5\]"),
        (lambda: oracle(WORLD)(X[:, :1], 1.0), ValueError, r"x must have shape \[B, 2\], got \[5, 1\]"),
        (lambda: oracle(WORLD, ud.Schedule.cosine())(X, 1.5), ValueError, r"t must lie in \[0, 1\]"),
        (lambda: oracle(WORLD)(X, 1.0, torch.full((5,), 7)), ValueError, "condition must lie in 0 … 3"),
    ],
)
def test_bad_arguments_are_refused(call, error, words: str) -> None:
    with pytest.raises(error, match=words):
        call()
