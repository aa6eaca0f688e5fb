"""Targets: a score, an energy, a world and a core say the same law, and a wrong answer is refused by name."""

from __future__ import annotations

import pytest
import torch

import unidiff as ud
from unidiff.score import MALA, ULA, Target, langevin
from unidiff.worlds import OracleDenoiser, library

WORLD = library.mixture_2d()
X = WORLD.sample(16, torch.Generator().manual_seed(0))


WEIGHT = torch.ones((), requires_grad=True)


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


def test_the_stated_path_error_covers_the_true_one_on_short_paths_alone() -> None:
    from unidiff.mcmc.path import log_ratio

    x = WORLD.sample(4000, torch.Generator().manual_seed(0))
    exceeded = []
    for length in (0.2, 3.0):
        y = x + length * torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=x.dtype)
        found, estimate = log_ratio(WORLD.score, x, WORLD.score(x), y, WORLD.score(y))
        error = (found - (WORLD.log_prob(y) - WORLD.log_prob(x))).abs()
        exceeded.append(float((error > estimate.abs() + 1e-12).double().mean()))
        # It is the estimate of an error, not the coarse value itself, and far above what it stands in for.
        assert error.mean() < 0.6 * estimate.abs().mean()
        back, again = log_ratio(WORLD.score, y, WORLD.score(y), x, WORLD.score(x))
        torch.testing.assert_close(found, -back, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(estimate, -again, rtol=1e-9, atol=1e-9)
        if length == 0.2:
            assert estimate.abs().mean() < 0.01
    assert exceeded[0] == 0
    assert 0.05 < exceeded[1] < 0.2


def test_the_path_integral_is_of_order_eight_in_its_panels() -> None:
    from unidiff.identities.laws import fitted_order
    from unidiff.mcmc.path import log_ratio

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
        (Target.from_score(lambda x: x[:, :1]), r"^score must have shape \[4, 2\] for x of"),
        (Target.from_score(lambda x: x.double()), "must be torch.float32 on cpu"),
        (Target.from_score(lambda x: x * torch.nan), "must be finite; 8 of its 8 values"),
        (Target.from_energy(lambda x: x.square()), r"energy must have shape \[4\], one number for each chain"),
        (Target.from_energy(lambda x: x.square().sum()), r"energy must have shape \[4\]"),
        (Target.from_energy(lambda x: torch.zeros(4)), "energy must depend on x by differentiable"),
        (Target.from_energy(lambda x: WEIGHT * torch.ones(4)), "energy must depend on x by .* got a constant of x"),
        (
            Target.from_score(lambda x, t: -x, t=torch.tensor([0.1, 0.2, 0.3])),
            r"t must be a number or have shape \[4\]",
        ),
        (
            Target.from_energy(lambda x, t: x.square().sum(1), t=torch.zeros(3)),
            r"t must be a number or have shape \[4\]",
        ),
        (Target.from_energy(lambda x: x.square().sum(1) + torch.inf), "log-density of the energy at x must be finite"),
    ],
)
def test_a_wrong_answer_is_refused_before_any_step(target: Target, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        langevin(target, torch.ones(4, 2), 3, kernel=ULA(0.1))


def test_chains_that_a_core_was_not_asked_about_are_refused() -> None:
    law = Target.from_core(core(), 0.3, condition=torch.tensor([0, 1, 0]))
    with pytest.raises(ValueError, match=r"condition must have shape \[4\] or \[\], got \[3\]"):
        langevin(law, X[:4], 3, kernel=ULA(0.1))
    with pytest.raises(ValueError, match=r"t must be a number or have shape \[4\]"):
        langevin(Target.from_core(core(), torch.tensor([0.2, 0.3, 0.4])), X[:4], 3, kernel=ULA(0.1))


def test_each_chain_may_have_a_time_and_all_of_them_one_class() -> None:
    times, label = torch.linspace(0.2, 0.8, 16), torch.tensor(1)
    score = Target.from_core(core(), times, condition=label).score(X)
    for k in range(16):
        alone = Target.from_core(core(), float(times[k]), condition=label[None]).score(X[k : k + 1])
        torch.testing.assert_close(score[k : k + 1], alone, rtol=1e-5, atol=1e-5)


def test_a_score_that_changes_its_shape_on_the_way_is_refused() -> None:
    calls = []

    def score(x: torch.Tensor) -> torch.Tensor:
        calls.append(x)
        return -x if len(calls) < 3 else -x[:1]

    with pytest.raises(ValueError, match=r"score must have shape \[4, 2\] .* got \[1, 2\]"):
        langevin(Target.from_score(score), torch.zeros(4, 2), 5, kernel=ULA(0.1))


def test_an_energy_is_differentiated_in_inference_mode_too() -> None:
    law = Target.from_energy(lambda x: 0.5 * x.square().sum(1))
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    with torch.inference_mode():
        inside = langevin(law, torch.ones(4, 2), 5, kernel=MALA(0.1), generator=generators[0])
        assert torch.equal(law.score(torch.ones(4, 2)), -torch.ones(4, 2))
    outside = langevin(law, torch.ones(4, 2), 5, kernel=MALA(0.1), generator=generators[1])
    assert torch.equal(inside.x, outside.x)
    # And what comes back may be gone on from outside.
    langevin(law, inside.state, 5, kernel=MALA(0.1))


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
        (
            lambda: Target.from_core(core(), 0.3, condition=torch.tensor(0), guidance=float("nan")),
            ValueError,
            "guidance must be finite, got nan",
        ),
        (lambda: Target.from_core(core(), 0.3, guidance=2.0), ValueError, "guidance needs a condition"),
        (
            lambda: Target.from_core(core(), 0.3, condition=torch.tensor([0, 7])),
            ValueError,
            "condition must lie in 0 … 3",
        ),
    ],
)
def test_a_target_that_says_too_little_is_refused(make, error, message: str) -> None:
    with pytest.raises(error, match=message):
        make()
