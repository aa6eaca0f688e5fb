"""Targets: a score, an energy, a world and a core say the same law, and a wrong answer is refused by name."""

from __future__ import annotations

import pytest
import torch

import unidiff as ud
from unidiff.score import MALA, ULA, Target, langevin
from unidiff.worlds import OracleDenoiser, library

WORLD = library.mixture_2d()
X = WORLD.sample(16, torch.Generator().manual_seed(0))


def core(schedule: str = "cosine") -> ud.Diffusion:
    return ud.Diffusion(ud.Schedule.named(schedule), OracleDenoiser(WORLD))


def targets() -> dict[str, Target]:
    level = core().schedule.level(0.3)
    noised = WORLD.diffuse(level.alpha, level.sigma)
    return {
        "world": Target.of(noised),
        "core": Target.from_core(core(), 0.3),
        "score": Target.from_score(noised.score),
        "score at t": Target.from_score(lambda x, t: core().predict(x, t).score, t=0.3),
        "energy": Target.from_energy(lambda x: -noised.log_prob(x)),
        "energy at t": Target.from_energy(lambda x, t: -noised.log_prob(x) + t, t=0.3),
    }


@pytest.mark.parametrize("kind", ["core", "score", "score at t", "energy", "energy at t"])
def test_every_kind_of_target_has_the_worlds_score(kind: str) -> None:
    kinds = targets()
    expected, log_prob = kinds["world"].evaluate(X)
    score, own = kinds[kind].evaluate(X)
    torch.testing.assert_close(score, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(kinds[kind].score(X), expected, rtol=1e-10, atol=1e-10)
    if own is not None and log_prob is not None:
        shift = own - log_prob
        torch.testing.assert_close(shift, shift.mean().expand(16), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["core", "score", "energy"])
def test_mala_walks_alike_on_every_kind(kind: str) -> None:
    kinds = targets()
    one, two = (
        langevin(kinds[k], X, 30, kernel=MALA(0.02), generator=torch.Generator().manual_seed(1))
        for k in ("world", kind)
    )
    torch.testing.assert_close(one.x, two.x, rtol=1e-6, atol=1e-6)
    assert (two.path_error is None) == (kind == "energy")


def test_the_stated_path_error_covers_the_true_one() -> None:
    # At one panel Simpson's error stands in for the five-point rule's, which is far smaller.
    from unidiff.score.path import log_ratio

    y = X + 0.2 * torch.randn(X.shape, generator=torch.Generator().manual_seed(2), dtype=X.dtype)
    found, estimate = log_ratio(WORLD.score, X, WORLD.score(X), y, WORLD.score(y))
    back, _ = log_ratio(WORLD.score, y, WORLD.score(y), X, WORLD.score(X))
    error = (found - (WORLD.log_prob(y) - WORLD.log_prob(X))).abs()
    assert (error <= estimate.abs() + 1e-12).all()
    assert estimate.abs().max() < 0.5
    torch.testing.assert_close(found, -back, rtol=1e-12, atol=1e-12)


def test_the_path_integral_is_of_order_eight_in_its_panels() -> None:
    from unidiff.identities.laws import fitted_order
    from unidiff.score.path import log_ratio

    y = X.roll(1, 0)
    exact = WORLD.log_prob(y) - WORLD.log_prob(X)
    panels = (16, 32, 64)
    errors = []
    for n in panels:
        found, _ = log_ratio(WORLD.score, X, WORLD.score(X), y, WORLD.score(y), n)
        errors.append(float((found - exact).abs().max()))
    assert fitted_order([1 / n for n in panels], errors) > 6


def test_a_users_potential_on_any_event_shape() -> None:
    x = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    well = Target.from_energy(lambda x: ((x.square() - 1).square()).flatten(1).sum(1))
    chains = langevin(well, x, 20, kernel=MALA(1e-2), generator=torch.Generator().manual_seed(1))
    assert chains.x.shape == x.shape
    torch.testing.assert_close(chains.state.score, -4 * chains.x * (chains.x.square() - 1), rtol=1e-4, atol=1e-4)


def test_parameters_of_an_energy_take_no_gradient() -> None:
    weight = torch.ones((), requires_grad=True)
    target = Target.from_energy(lambda x: 0.5 * weight * x.square().sum(1))
    langevin(target, torch.zeros(4, 2), 3, kernel=ULA(0.1))
    assert weight.grad is None


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (Target.from_score(lambda x: x[:, :1]), r"the score of the score must have shape \[4, 2\]"),
        (Target.from_score(lambda x: x.double()), "must be torch.float32 on cpu"),
        (Target.from_score(lambda x: x * torch.nan), "must be finite; 8 of its 8 values"),
        (Target.from_energy(lambda x: x.square()), r"energy must have shape \[4\], one number for each chain"),
        (Target.from_energy(lambda x: x.square().sum()), r"energy must have shape \[4\]"),
        (Target.from_energy(lambda x: torch.zeros(4)), "energy must depend on x by differentiable"),
        (Target.from_energy(lambda x: x.square().sum(1) + torch.inf), "log-density of the energy at x must be finite"),
    ],
)
def test_a_wrong_answer_is_refused_before_any_step(target: Target, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        langevin(target, torch.ones(4, 2), 3, kernel=ULA(0.1))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Target.of(lambda x: x), TypeError, "Target.from_score"),  # pyright: ignore
        (lambda: Target.of(core()), TypeError, "at which time"),  # pyright: ignore
        (lambda: Target.of(3), TypeError, "target must be a Target or a World, got int"),  # pyright: ignore
        (lambda: Target.from_score(3), TypeError, "score must be a function, got int"),  # pyright: ignore
        (lambda: Target.from_score(lambda x: x, panels=0), ValueError, "panels must be an integer of at least 1"),
        (lambda: Target.from_score(lambda x: x, t=2.0), ValueError, r"t must lie in \[0, 1\]"),
        (lambda: Target.from_core(core("linear"), 0.0), ValueError, "t must be a time with noise"),
    ],
)
def test_a_target_that_says_too_little_is_refused(make, error, message: str) -> None:
    with pytest.raises(error, match=message):
        make()
