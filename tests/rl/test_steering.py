"""Steering without training: what is reached on worlds where the target is known, intervals, seeds, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy.stats import binom, norm
from torch import Tensor, nn

import unidiff as ud
from unidiff.core.weights import effective_size
from unidiff.rl import (
    SCHEMES,
    DenoisingMDP,
    State,
    best_of_n,
    guided,
    log_z_interval,
    smc_steering,
)
from unidiff.rl.resampling import ancestors
from unidiff.worlds.rewards import Linear

BETA = 0.5
REWARD = Linear(torch.tensor([1.0, -0.5], dtype=torch.float64))
WIDE = torch.zeros((), dtype=torch.float64)
ALARM = 1e-6  # of each statistical test here


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def process(steps: int = 6, schedule: ud.Schedule | None = None, reward: Any = REWARD, **options: Any) -> DenoisingMDP:
    denoiser = ud.worlds.OracleDenoiser(ud.worlds.library.mixture_2d())
    core = ud.Diffusion(schedule or ud.Schedule.cosine(), denoiser)
    return DenoisingMDP(core.chain(ud.TimeGrid.uniform(steps), "optimal"), reward, **options)


def line(steps: int = 4) -> tuple[DenoisingMDP, float]:
    """A chain on N(0, ½) that is linear, and log Z of r = x at β = ½, its mean and variance walked down by hand."""
    world = ud.worlds.Gaussian([0.0], [[0.5]])
    chain = ud.Diffusion(ud.Schedule.cosine(), ud.worlds.OracleDenoiser(world)).chain(
        ud.TimeGrid.uniform(steps), "optimal"
    )
    one, var = torch.ones(1, 1, dtype=torch.float64), 1.0
    for k in range(steps, 0, -1):
        step = chain.step(one, k)  # linear and centred: the mean at 1 is the gain
        var = float(step.mean) ** 2 * var + float(step.var)
    return DenoisingMDP(chain, Linear(torch.ones(1, dtype=torch.float64))), 0.5 * var / BETA**2


@pytest.mark.parametrize("twist", ["reward", pytest.param("none", marks=pytest.mark.slow)])
def test_weighted_particles_have_the_mean_of_the_tilted_world(twist) -> None:
    """The chain's own error is allowed 8% of what the tilt moves the mean by, and draws their z-limit.

    False alarm 1e-6 over the two coordinates; a mean off by a further 8% is caught with probability 0.999: checked.
    """
    world = ud.worlds.library.mixture_2d()
    tilted, _ = world.tilt_by(REWARD, BETA)
    moved = float((tilted.mean - world.mean).norm())
    found = smc_steering(process(40), 256, beta=BETA, twist=twist, runs=160, generator=seeded(), like=WIDE)
    means = (found.weights[..., None] * found.x0).sum(1)
    error = means.std(0) / math.sqrt(len(means))
    limit, power = norm.isf(ALARM / 4), norm.isf(1e-3)
    assert float((limit + power) * error.max()) < 0.08 * moved
    off = (means.mean(0) - tilted.mean).abs()
    assert bool((off < 0.08 * moved + limit * error).all()), (off, error)
    equal = found.draw(256, seeded(1)).mean(1)
    spread = (equal - means).std(0) / math.sqrt(len(means))
    assert bool(((equal - means).mean(0).abs() < limit * spread).all())


def test_the_interval_of_log_z_covers_it_at_its_level() -> None:
    """800 intervals of 16 runs. Misses are Binomial(800, 0.05): false alarm 1e-6; misses at 15% are caught with 0.999."""
    mdp, truth = line()
    repeats, runs = 800, 16
    log_z = smc_steering(mdp, 32, beta=BETA, runs=repeats * runs, generator=seeded(), like=WIDE).log_z
    found = [log_z_interval(part) for part in log_z.reshape(repeats, runs)]
    most = int(binom.isf(ALARM / 2, repeats, 0.05))
    assert binom.cdf(most, repeats, 0.15) < 1e-3
    assert binom.cdf(0, repeats, 0.05) < ALARM / 2  # one that never misses is too wide
    missed = sum(not one.low <= truth <= one.high for one in found)
    assert 1 <= missed <= most
    assert sum(one.floor > truth for one in found) <= most
    assert all(one.floor <= one.value and one.low <= one.value <= one.high for one in found)


def test_the_floor_holds_where_the_interval_does_not() -> None:
    """One particle, a reward whose e^{r/β} is carried by rare paths. The floor's misses are below Binomial(400, 0.05)."""
    mdp, _ = line()
    beta, repeats, runs = 0.12, 400, 4
    truth = line()[1] * (BETA / beta) ** 2
    log_z = smc_steering(mdp, 1, beta=beta, twist="none", runs=repeats * runs, generator=seeded(), like=WIDE).log_z
    found = [log_z_interval(part) for part in log_z.reshape(repeats, runs)]
    most = int(binom.isf(ALARM, repeats, 0.05))
    assert sum(one.high < truth for one in found) > most
    assert sum(one.floor > truth for one in found) <= most


def test_an_interval_is_students_and_neither_overflows_nor_vanishes() -> None:
    log_z = torch.tensor([0.1, -0.2, 0.4, 0.0], dtype=torch.float64)
    near, far = log_z_interval(log_z), log_z_interval(log_z + 5000.0)
    known = ud.worlds.Interval.of(log_z.exp())
    assert near.low == pytest.approx(math.log(known.low), rel=1e-12)
    assert near.high == pytest.approx(math.log(known.high), rel=1e-12)
    assert far.value - 5000.0 == pytest.approx(near.value, abs=1e-11)
    assert near.floor == pytest.approx(-0.2 - math.log(20) / 4, rel=1e-12)
    assert log_z_interval(torch.tensor([0.0, 50.0])).low == -math.inf


@pytest.mark.parametrize("schedule", [ud.Schedule.cosine(), ud.Schedule.linear(), ud.Schedule.karras(0.05, 20.0)])
def test_without_a_twist_the_weights_are_the_rewards(schedule) -> None:
    found = smc_steering(process(schedule=schedule), 32, beta=BETA, twist="none", generator=seeded(), like=WIDE)
    torch.testing.assert_close(found.log_weights, REWARD(found.x0) / BETA, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(found.ess[:-1], torch.full((len(found.ess) - 1,), 32.0, dtype=torch.float64))
    assert not found.resampled.any()
    assert found.roots.tolist() == list(range(32))


def test_weights_are_kept_where_nothing_is_resampled_and_even_where_all_is() -> None:
    walks = [
        smc_steering(process(), 16, beta=BETA, threshold=threshold, generator=seeded(), like=WIDE)
        for threshold in (0.0, 1.0)
    ]
    assert not walks[0].resampled.any()
    assert walks[1].resampled.all()
    kept, even = (walk.log_weights - REWARD(walk.x0) / BETA for walk in walks)
    torch.testing.assert_close(kept, torch.zeros_like(kept), rtol=0, atol=1e-12)
    assert even.std() > 0.1
    assert walks[1].roots.unique().numel() < 16


@pytest.mark.parametrize("scheme", SCHEMES)
def test_children_of_a_particle_that_is_everything_are_all_its_own(scheme) -> None:
    def twist(x: Tensor, t: float) -> Tensor:
        return torch.where(torch.arange(len(x)) == 5, 0.0, -800.0).to(x) if t == 1 else torch.zeros_like(x[:, 0])

    found = smc_steering(process(), 8, beta=BETA, twist=twist, resample=scheme, generator=seeded(), like=WIDE)
    assert found.roots.tolist() == [5] * 8
    assert found.resampled.tolist() == [True, *[False] * (len(found.resampled) - 1)]
    # One of eight is everything: the mean weight is an eighth of it.
    expected = torch.logsumexp(REWARD(found.x0) / BETA, 0) - 2 * math.log(8)
    torch.testing.assert_close(found.log_z, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_particle_without_weight_is_drawn(scheme) -> None:
    weights = torch.full((2000, 6), -900.0, dtype=torch.float64)
    weights[:, 1], weights[:, 4] = 0.0, -1.0
    index = ancestors(weights, 9, scheme, seeded())
    assert set(index.unique().tolist()) == {1, 4}
    torch.testing.assert_close(effective_size(weights[0]), 1 / torch.softmax(weights[0], 0).square().sum())


def test_systematic_copies_are_within_one_of_their_share() -> None:
    weights = torch.randn(500, 7, generator=seeded(), dtype=torch.float64)
    counts = torch.nn.functional.one_hot(ancestors(weights, 11, "systematic", seeded(1)), 7).sum(1)
    assert float((counts - 11 * torch.softmax(weights, 1)).abs().max()) < 1


def test_runs_side_by_side_are_runs_of_their_own() -> None:
    """Each run is resampled by its own weights: where only the second has uneven ones, only the second is."""

    def twist(x: Tensor, t: float) -> Tensor:
        uneven = torch.arange(len(x)) == 4
        return torch.where(uneven, 9.0, 0.0).to(x) if t == 1 else torch.zeros_like(x[:, 0])

    found = smc_steering(process(), 3, beta=BETA, twist=twist, runs=2, generator=seeded(), like=WIDE)
    assert found.resampled[:, 0].tolist() == [False, True]
    assert found.roots[0].tolist() == [0, 1, 2]
    assert set(found.roots[1].tolist()) == {1}
    assert found.x0.shape == (2, 3, 2)
    assert found.log_z.shape == (2,)
    assert found.ess.shape == (2, found.resampled.shape[1] + 1)
    assert found.draw(5, seeded()).shape == (2, 5, 2)


def test_a_seed_is_a_run_and_draws_touch_no_other_generator() -> None:
    before = torch.get_rng_state()
    calls = (
        lambda seed: smc_steering(process(), 8, beta=BETA, propose="gradient", generator=seeded(seed)).x0,
        lambda seed: guided(process(), 8, beta=BETA, generator=seeded(seed)).x0,
        lambda seed: best_of_n(process(), 4, 3, generator=seeded(seed)).x0,
    )
    for call in calls:
        assert torch.equal(call(3), call(3))
        assert not torch.equal(call(3), call(4))
        assert call(3).dtype == torch.float32
        assert not call(3).requires_grad
    assert torch.equal(before, torch.get_rng_state())


class Counting:
    """A denoiser that counts its calls."""

    def __init__(self, own: Any) -> None:
        self.own, self.calls, self.event_shape = own, 0, own.event_shape

    def __call__(self, xt: Tensor, level: Any, condition: Tensor | None = None, guidance: float = 1.0) -> Any:
        self.calls += 1
        return self.own(xt, level, condition, guidance)


@pytest.mark.parametrize("schedule", [ud.Schedule.cosine(), ud.Schedule.linear()])
@pytest.mark.parametrize("propose", ["reference", "gradient"])
def test_the_denoiser_is_asked_once_for_each_step(schedule, propose) -> None:
    counting = Counting(ud.worlds.OracleDenoiser(ud.worlds.library.mixture_2d()))
    mdp = DenoisingMDP(ud.Diffusion(schedule, counting).chain(ud.TimeGrid.uniform(5)), REWARD)
    smc_steering(mdp, 4, beta=BETA, propose=propose, generator=seeded(), like=WIDE)
    assert counting.calls == 5


def test_a_network_is_steered_and_keeps_its_gradients() -> None:
    network = nn.Linear(2, 2)
    denoiser = ud.Denoiser(lambda x, noise, condition: network(x), (2,))
    mdp = DenoisingMDP(ud.Diffusion(ud.Schedule.cosine(), denoiser).chain(ud.TimeGrid.uniform(3)), lambda x: x[:, 0])
    found = smc_steering(mdp, 4, beta=BETA, propose="gradient", generator=seeded())
    assert torch.isfinite(found.log_weights).all()
    assert network.weight.grad is None
    assert network.weight.requires_grad


def test_a_gradient_is_that_of_the_reward_at_the_guess() -> None:
    """Of a reward that is not linear: by central differences of r(x̂_0)/β, with the chain's σ."""
    mdp = process(4, reward=lambda x: torch.sin(2 * x[:, 0]) * x[:, 1])
    steered = guided(mdp, 6, 0.0, beta=BETA, generator=seeded(), like=WIDE)
    assert torch.equal(steered.path_kl, torch.zeros_like(steered.path_kl))
    pushed = guided(mdp, 6, 1.3, beta=BETA, generator=seeded(), like=WIDE)
    cost, generator = torch.zeros(6, dtype=torch.float64), seeded()
    state = mdp.start(6, generator, like=WIDE)
    for _ in range(mdp.horizon):
        level = mdp.chain.levels[state.k].to(state.x)

        def gain(x: Tensor, level: Any = level) -> Tensor:
            assert mdp.reward is not None
            return mdp.reward(mdp.chain.core.denoiser(x, level).x0) / BETA

        law, h = mdp.reference(state), 1e-5
        slope = torch.stack(
            [(gain(state.x + h * e) - gain(state.x - h * e)) / (2 * h) for e in torch.eye(2).double()], 1
        )
        u = 1.3 * law.std * slope
        noise = torch.randn(state.x.shape, generator=generator, dtype=torch.float64)
        cost = cost + 0.5 * u.square().sum(1)
        state = State(law.mean + law.std * (u + noise), state.k - 1)
    torch.testing.assert_close(pushed.path_kl, cost, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(pushed.x0, mdp.reference(state).mean if state.k else state.x, rtol=1e-6, atol=1e-7)


def test_the_best_of_n_is_the_best_and_of_its_own_class() -> None:
    mdp = process()
    one, many = (best_of_n(mdp, 64, n, generator=seeded(), like=WIDE) for n in (1, 8))
    assert one.kl_bound == 0.0
    assert many.kl_bound == pytest.approx(math.log(8) - 7 / 8)
    torch.testing.assert_close(many.reward, REWARD(many.x0))
    world, labels = ud.worlds.library.mixture_2d(), torch.tensor([0, 2, 1, 0])
    found = best_of_n(process(40), 4, 3, generator=seeded(), condition=labels, like=WIDE)
    parts = [ud.worlds.Gaussian(m, c).log_prob(found.x0) for m, c in zip(world.means, world.covariances, strict=True)]
    assert torch.stack(parts).argmax(0).tolist() == labels.tolist()


def test_a_class_is_steered_within() -> None:
    found = smc_steering(process(40), 64, beta=BETA, condition=torch.tensor(0), generator=seeded(), like=WIDE)
    world = ud.worlds.library.mixture_2d()
    parts = [ud.worlds.Gaussian(m, c).log_prob(found.x0) for m, c in zip(world.means, world.covariances, strict=True)]
    assert set(torch.stack(parts).argmax(0).tolist()) == {0}


REFUSED: list[tuple[str, type[Exception], str, dict[str, Any]]] = [
    ("n", ValueError, "n must be an integer of at least 1, got 0", {"n": 0}),
    ("beta", ValueError, "beta must be positive and finite, got 0", {"beta": 0.0}),
    ("negative beta", ValueError, "beta must be positive and finite, got -1", {"beta": -1.0}),
    ("beta in words", TypeError, "beta must be a number", {"beta": "cold"}),
    ("twist", ValueError, "unknown twist 'rewards'; did you mean 'reward'", {"twist": "rewards"}),
    ("twist of no kind", TypeError, "twist must be callable or one of reward, none", {"twist": 3}),
    ("propose", ValueError, "unknown propose 'gradients'", {"propose": "gradients"}),
    ("no slope", ValueError, "propose 'gradient' needs a twist", {"propose": "gradient", "twist": "none"}),
    ("resample", ValueError, "unknown resample 'systemic'; did you mean 'systematic'", {"resample": "systemic"}),
    ("threshold", ValueError, r"threshold must lie in \[0, 1\], a share of n, got 2", {"threshold": 2}),
    ("threshold nan", ValueError, "threshold must lie in", {"threshold": math.nan}),
    ("runs", ValueError, "runs must be an integer of at least 1", {"runs": 0}),
    ("classes", ValueError, "condition must be one class for all particles", {"condition": torch.tensor([0, 1, 0, 0])}),
    ("generator", TypeError, "generator must be a Generator", {"generator": 5}),
    ("twist's shape", ValueError, r"twist at step 6 must return shape \[4\]", {"twist": lambda x, t: x}),
    (
        "twist's dtype",
        TypeError,
        "twist at step 6 returns must be a floating",
        {"twist": lambda x, t: torch.ones(4).int()},
    ),
    (
        "twist not finite",
        FloatingPointError,
        "twist at step 3 returned 1 of 4 values that are not finite",
        {"twist": lambda x, t: torch.where((torch.arange(4) == 2) & (t == 0.5), -math.inf, 0.0)},
    ),
    (
        "twist without a slope",
        ValueError,
        "twist must be differentiable in x",
        {"twist": lambda x, t: torch.zeros(4), "propose": "gradient"},
    ),
    ("control's shape", ValueError, "state and control must have one shape", {"propose": lambda s: s.x[:, :1]}),
    ("control not finite", ValueError, "control at step 6 must be finite; 8 of its 8", {"propose": lambda s: s.x / 0}),
    (
        "weights",
        FloatingPointError,
        "4 of 4 log-weights are not finite at step 6",
        {"propose": lambda s: s.x * 0 + 1e200},
    ),
]


@pytest.mark.parametrize(("kind", "words", "options"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_what_cannot_be_steered_is_refused_in_words(kind, words, options) -> None:
    given: dict[str, Any] = {"n": 4, "beta": BETA, "generator": seeded(), "like": WIDE, **options}
    with pytest.raises(kind, match=words):
        smc_steering(process(), **given)


def test_a_process_that_pays_otherwise_is_refused() -> None:
    paid = process(step_reward=lambda xt, xs, t, s: xs[:, 0])
    for mdp in (process(reward=None), paid):
        for call in (
            lambda m: smc_steering(m, 2, beta=1.0),
            lambda m: guided(m, 2, beta=1.0),
            lambda m: best_of_n(m, 2, 2),
        ):
            with pytest.raises(ValueError, match="mdp must have a reward of the data and none of the steps"):
                call(mdp)
    with pytest.raises(TypeError, match="mdp must be a DenoisingMDP"):
        smc_steering(process().chain, 2, beta=1.0)  # pyright: ignore[reportArgumentType]
    lost = process(reward=lambda x: torch.full_like(x[:, 0], math.nan))
    with pytest.raises(FloatingPointError, match="reward returned 4 of 4 values that are not finite"):
        smc_steering(lost, 4, beta=1.0, twist="none")
    with pytest.raises(FloatingPointError, match="reward at step 6 returned 4 of 4"):
        smc_steering(lost, 4, beta=1.0)


def test_rivals_refuse_what_they_cannot_do() -> None:
    for options, words in (({"count": 0}, "count must be"), ({"n": 0}, "n must be")):
        with pytest.raises(ValueError, match=words):
            best_of_n(process(), options.get("count", 2), options.get("n", 2))
    with pytest.raises(ValueError, match=r"condition must have shape \[2\]"):
        best_of_n(process(), 2, 3, condition=torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match="scale must be finite, got nan"):
        guided(process(), 2, math.nan, beta=1.0)
    with pytest.raises(ValueError, match="reward must be differentiable in x"):
        guided(process(reward=lambda x: x[:, 0].detach()), 2, beta=1.0)
    with pytest.raises(ValueError, match=r"log_z must have shape \[R\]"):
        log_z_interval(torch.zeros(1))
    with pytest.raises(ValueError, match="log_z must be finite"):
        log_z_interval(torch.tensor([0.0, -math.inf]))
    with pytest.raises(ValueError, match="count must be"):
        smc_steering(process(), 2, beta=1.0, generator=seeded()).draw(0)
