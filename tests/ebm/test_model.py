"""EnergyModel: −log q_t of every world and core, wherever a score stands; what it refuses, and in which words."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import unidiff as ud
from unidiff.core import networks
from unidiff.ebm import EnergyDenoiser
from unidiff.mcmc import MALA, ULA
from unidiff.worlds import OracleDenoiser, World, library

SCHEDULE = ud.Schedule.cosine()
WORLDS = {"mixture": library.mixture_2d(), "gaussian": library.gaussian(), "8d": library.mixture_8d()}
WORLD = WORLDS["mixture"]
BEGINNINGS = pytest.mark.parametrize("name", list(WORLDS))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def core(world: World = WORLD, schedule: ud.Schedule = SCHEDULE) -> ud.Diffusion:
    return ud.Diffusion(schedule, OracleDenoiser(world))


def energy_of(world: World, tau: float = 1.0, schedule: ud.Schedule = SCHEDULE):
    """τ(−log q_t) with a constant and a function of time on top, which are nobody's business."""

    def energy(x: Tensor, t: Tensor) -> Tensor:
        level = schedule.level(t, x)
        return -tau * world.diffuse(level.alpha, level.sigma).log_prob(x, check=False) + 3 + t

    return energy


def timed(world: World = WORLD, tau: float = 1.0, schedule: ud.Schedule = SCHEDULE) -> ud.EnergyModel:
    return ud.EnergyModel(energy_of(world, tau, schedule), world.event_shape, schedule=schedule, tau=tau)


def untimed(world: World = WORLD, tau: float = 1.0) -> ud.EnergyModel:
    return ud.EnergyModel(lambda x: -tau * world.log_prob(x, check=False), world.event_shape, tau=tau)


X = WORLD.sample(8, seeded())


@BEGINNINGS
@given(t=st.floats(0.02, 1.0), tau=st.floats(0.1, 5.0))
def test_an_energy_is_the_worlds(name: str, t: float, tau: float) -> None:
    world = WORLDS[name]
    level = SCHEDULE.level(t)
    law = world.diffuse(level.alpha, level.sigma)
    x = law.sample(8, seeded())
    model = ud.EnergyModel.of(core(world), tau)
    torch.testing.assert_close(model.energy(x, t), -tau * law.log_prob(x), rtol=1e-10, atol=1e-10)
    # As near as a derivative of log-sum-exp is to a closed form where σ is small.
    scale = float(level.sigma)
    for own in (model, timed(world, tau)):
        torch.testing.assert_close(scale * own.score(x, t), scale * law.score(x), rtol=1e-8, atol=1e-8)
        score, log_prob = own.target(x, t).evaluate(x)
        torch.testing.assert_close(scale * score, scale * law.score(x), rtol=1e-8, atol=1e-8)
        assert log_prob is not None
        shift = log_prob - law.log_prob(x)
        torch.testing.assert_close(shift, shift[0].expand(8), rtol=0, atol=1e-9)


@given(constant=st.floats(-1e3, 1e3), tau=st.floats(0.1, 5.0))
def test_a_constant_is_no_part_of_a_law(constant: float, tau: float) -> None:
    model = ud.EnergyModel(lambda x: -tau * WORLD.log_prob(x, check=False) + constant, (2,), tau=tau)
    torch.testing.assert_close(model.score(X), WORLD.score(X), rtol=1e-9, atol=1e-9)


def test_each_row_has_its_own_time() -> None:
    times = torch.linspace(0.1, 0.9, 8, dtype=torch.float64)
    for model in (ud.EnergyModel(core()), timed()):
        one = torch.cat([model.energy(X[k : k + 1], times[k]) for k in range(8)])
        torch.testing.assert_close(model.energy(X, times), one, rtol=1e-12, atol=1e-12)
        each = torch.cat([model.score(X[k : k + 1], float(times[k])) for k in range(8)])
        torch.testing.assert_close(model.score(X, times), each, rtol=1e-12, atol=1e-12)


def test_an_energy_is_differentiable_in_state_time_and_parameters() -> None:
    weight = nn.Parameter(torch.tensor(1.3, dtype=torch.float64))
    model = ud.EnergyModel(lambda x, t: weight * t * x.square().sum(1), (2,), schedule=SCHEDULE)
    x, t = X.clone().requires_grad_(), torch.full((8,), 0.4, dtype=torch.float64, requires_grad=True)
    found = torch.autograd.grad(model.energy(x, t).sum(), (x, t, weight))
    square = X.square().sum(1)
    expected = (2 * 1.3 * 0.4 * X, 1.3 * square, 0.4 * square.sum())
    for own, formula in zip(found, expected, strict=True):
        torch.testing.assert_close(own, formula.detach())
    # The score too: what is minimised by score matching.
    (slope,) = torch.autograd.grad(model.score(X, 0.4).sum(), weight)
    torch.testing.assert_close(slope, -2 * 0.4 * X.sum())


def test_a_class_has_its_energy() -> None:
    model, labels = ud.EnergyModel(core()), torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])
    level = SCHEDULE.level(0.3)
    for k in range(4):
        law = WORLD if k == 3 else library.Gaussian(WORLD.means[k], WORLD.covariances[k])
        rows = labels == k
        expected = -law.diffuse(level.alpha, level.sigma).log_prob(X[rows])
        torch.testing.assert_close(model.energy(X, 0.3, labels)[rows], expected, rtol=1e-10, atol=1e-10)
    guided = model.score(X, 0.3, labels, 2.5)
    torch.testing.assert_close(guided, core().predict(X, 0.3, labels, 2.5).score, rtol=1e-8, atol=1e-8)
    one = model.langevin(X, 3, 0.3, condition=labels, guidance=2.5, generator=seeded())
    assert one.state.log_prob is not None
    expected = -model.energy(one.x, 0.3, labels, 2.5)
    torch.testing.assert_close(one.state.log_prob, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_answers_alike_where_nothing_is_recorded(mode) -> None:
    mlp = networks.MLP(2, 8, 2, num_classes=3, outputs=1).double()
    network = ud.Diffusion(SCHEDULE, ud.Denoiser(networks.GradientField(mlp), (2,), num_classes=3))
    times = torch.linspace(0.1, 0.9, 8, dtype=torch.float64)
    for model in (ud.EnergyModel(core()), ud.EnergyModel(network), timed(tau=0.7)):
        labels = None if not isinstance(model.source, ud.Diffusion) else torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])

        def ask(model=model, labels=labels) -> list[Tensor]:
            x, t, own = X.clone(), times.clone(), None if labels is None else labels.clone()
            chains = model.langevin(x, 3, t, condition=own, kernel=MALA(0.01), generator=seeded())
            read = model.core().predict(x, t, own).x0
            return [model.energy(x, t, own), model.score(x, t, own), chains.x, read]

        found = [v.detach() for v in ask()]
        with mode():
            for one, other in zip(found, ask(), strict=True):
                torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


# -- wherever a score stands ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["ancestral", "ddim", "heun", "dpm++2m", "sde"])
def test_samplers_walk_on_an_energy_as_on_the_world(method) -> None:
    own, exact = timed(tau=0.7).core(), core()
    grid = ud.TimeGrid.uniform(12, first=1e-3)
    one, two = (
        ud.sample(c, 16, grid=grid, method=method, generator=seeded(1), dtype=torch.float64) for c in (own, exact)
    )
    torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-6)


def test_the_likelihood_of_an_energy_is_the_worlds() -> None:
    own, exact = (ud.ScoreModel(c).log_prob(X) for c in (timed(tau=0.7).core(), core()))
    torch.testing.assert_close(own, exact, rtol=1e-4, atol=1e-4)


def test_the_other_views_read_it() -> None:
    own, exact = timed(tau=0.7).core(), core()
    grid, noise = ud.TimeGrid.uniform(4, first=0.05), torch.randn(5, *X.shape, generator=seeded(), dtype=X.dtype)
    one, two = (ud.HierarchicalVAE(c).elbo(X, grid, noise=noise).total for c in (own, exact))
    torch.testing.assert_close(one, two, rtol=1e-7, atol=1e-7)


def test_annealed_chains_walk_on_an_energy_as_on_the_world() -> None:
    one, two = (
        ud.ScoreModel(c).annealed_langevin(64, levels=20, steps=5, generator=seeded(), dtype=torch.float64)
        for c in (timed(tau=0.7).core(), core())
    )
    torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-6)


@pytest.mark.statistical
@pytest.mark.parametrize("verb", ["langevin", pytest.param("hmc", marks=pytest.mark.slow)])
def test_chains_on_an_energy_have_the_worlds_moments(verb: str) -> None:
    # Exact draws are moved and must stay. Four z-scores at 5: a false alarm in 2e-6 of runs; a mean that is off by an
    # eighth of its deviation, or a variance off by a fifth, is caught in 99%.
    n = 4000
    run = getattr(untimed(tau=0.5), verb)
    x = run(WORLD.sample(n, seeded()), 40, warmup=40, generator=seeded(1)).x
    centred = (x - WORLD.mean) / WORLD.variance.sqrt()
    for moment in (centred, centred.square() - 1):
        z = moment.mean(0) / (moment.std(0) / math.sqrt(n))
        assert float(z.abs().max()) < 5


def test_langevin_goes_on_from_a_state_with_the_kernel_it_is_given() -> None:
    model = untimed()
    one = model.langevin(X, 6, kernel=ULA(0.01), generator=seeded())
    generator = seeded()
    two = model.langevin(X, 3, kernel=ULA(0.01), generator=generator)
    two = model.langevin(two.state, 3, kernel=ULA(0.01), generator=generator)
    assert one.x.shape == two.x.shape
    assert one.step_size == 0.01
    assert model.hmc(X, 2, step_size=0.05, leapfrog=3, generator=seeded()).kernel.leapfrog == 3  # pyright: ignore


def test_a_model_is_a_module_with_its_networks_parameters() -> None:
    mlp = networks.MLP(2, 8, 2, outputs=1).double()
    model = ud.EnergyModel(lambda x, t: mlp(x, SCHEDULE.log_snr(t))[:, 0], (2,), schedule=SCHEDULE)
    assert list(model.parameters()) == []

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mlp = mlp

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return self.mlp(x, SCHEDULE.log_snr(t))

    model = ud.EnergyModel(Net(), (2,), schedule=SCHEDULE)
    assert len(list(model.parameters())) == len(list(mlp.parameters())) == len(list(model.core().parameters()))
    torch.testing.assert_close(copy.deepcopy(model).energy(X, 0.3), model.energy(X, 0.3), rtol=0, atol=0)
    with pytest.raises(ValueError, match="xt must have the network's dtype, torch.float64, got torch.float32"):
        model.core().predict(X.float(), 0.3)


def test_a_core_is_its_own() -> None:
    own = core()
    assert ud.EnergyModel(own).core() is own
    assert isinstance(timed().core().denoiser, EnergyDenoiser)
    other = timed().core(ud.Schedule.linear())
    assert other.schedule.kind == "linear"


# -- what is refused -----------------------------------------------------------------------------------------------

MODEL: Any = ud.EnergyModel  # asked for what no type checker would let through
ENDLESS = ud.Schedule.cosine(math.inf, -math.inf)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: MODEL(3), TypeError, "source must be a Diffusion or a function, got int"),
        (lambda: MODEL(abs), ValueError, r"event_shape must be given for a function, .* got None"),
        (lambda: MODEL(abs, 2), ValueError, "event_shape must be a tuple of positive integers, got 2"),
        (lambda: MODEL(abs, (2, 0)), ValueError, r"positive integers, got \(2, 0\)"),
        (lambda: MODEL(core(), (2,)), ValueError, "event_shape and schedule must be left out for a core"),
        (lambda: MODEL(core(), schedule=SCHEDULE), ValueError, "must be left out for a core"),
        (lambda: MODEL(abs, (2,), schedule="cosine"), TypeError, "schedule must be a Schedule, got 'cosine'"),
        (lambda: MODEL(core(), tau=0.0), ValueError, "tau must be positive and finite, got 0.0"),
        (lambda: MODEL(core(), tau=-1.0), ValueError, "tau must be positive and finite, got -1.0"),
        (lambda: MODEL(core(), tau=math.nan), ValueError, "tau must be positive and finite, got nan"),
        (lambda: MODEL(core(), tau="1"), TypeError, "tau must be a number, got '1'"),
        (lambda: MODEL.of(WORLD), TypeError, "core must be a Diffusion"),
        (
            lambda: MODEL(ud.Diffusion(SCHEDULE, ud.Denoiser(networks.MLP(2, 8, 1), (2,)))),
            TypeError,
            r"core must have an energy: .*GradientField\(network\), got a MLP",
        ),
        (
            lambda: MODEL(ud.Diffusion(SCHEDULE, Bare())),
            TypeError,
            "core must have a denoiser with an energy, got a Bare, which has none",
        ),
        (lambda: untimed().energy(X, 0.3), ValueError, "t must be left out for an energy without a schedule, got t = "),
        (lambda: timed().energy(X), ValueError, r"t must be given for an energy with a schedule: a time in \[0, 1\]"),
        (lambda: timed().score(X, 1.5), ValueError, r"t must lie in \[0, 1\] .* got 1.5"),
        (lambda: timed().score(X, math.nan), ValueError, "t must not be NaN"),
        (lambda: timed().energy(X, torch.zeros(3)), ValueError, r"t must be a number or have shape \[8\]"),
        (
            lambda: MODEL(core(schedule=ud.Schedule.linear())).energy(X, 0.0),
            ValueError,
            r"t must be a time with noise \(sigma > 0\)",
        ),
        (lambda: untimed().energy(X[:, :1]), ValueError, r"x must have shape \[B, 2\]"),
        (lambda: untimed().energy(X.long()), TypeError, "x must be a floating-point tensor, got torch.int64"),
        (lambda: untimed().energy(X * math.nan), ValueError, "x must be finite; 16 of its 16"),
        (lambda: untimed().energy(X, condition=torch.tensor(0)), ValueError, "condition and guidance are for a core"),
        (lambda: timed().score(X, 0.3, guidance=2.0), ValueError, "are for a core, got guidance = 2.0 for a function"),
        (lambda: MODEL(core()).energy(X, 0.3, torch.tensor(7)), ValueError, "condition must lie in 0 … 3"),
        (lambda: MODEL(core()).energy(X, 0.3, guidance=2.0), ValueError, "guidance needs a condition"),
        (
            lambda: MODEL(abs, (2,)).energy(X),
            ValueError,
            r"energy must have shape \[8\] or \[8, 1\].*\[8, 2\]",
        ),
        (lambda: MODEL(torch.sum, (2,)).score(X), ValueError, r"one number for each row, got \[\]"),
        (lambda: MODEL(lambda x: 1.0, (2,)).energy(X), ValueError, "one number for each row, got float"),
        *[
            (lambda kind=kind: MODEL(lambda x: x.sum(1).to(kind), (2,)).energy(X), TypeError, f"float64, got {kind}")
            for kind in (torch.complex128, torch.int64, torch.bool, torch.float16, torch.bfloat16, torch.float32)
        ],
        (
            lambda: MODEL(lambda x: x.sum(1).half(), (2,)).score(X.float()),
            TypeError,
            "energy must be real and no narrower than its states, torch.float32, got torch.float16",
        ),
        (
            lambda: MODEL(lambda x: x.sum(1).cfloat(), (2,)).langevin(X, 3),
            TypeError,
            "energy must be real and no narrower than its states, torch.float64, got torch.complex64",
        ),
        (lambda: MODEL(lambda x: x.detach().sum(1), (2,)).score(X), ValueError, "got a constant of x"),
        (
            lambda: MODEL(lambda x: x.sum(1) / (x[:, 0] > 0), (2,)).energy(X),
            FloatingPointError,
            f"energy must be finite, got NaN or infinity in {int((X[:, 0] <= 0).sum())} of 8 rows",
        ),
        (
            lambda: MODEL(lambda x: x.sum(1).sqrt(), (2,)).langevin(X - 9, 3),
            ValueError,
            "the score of the energy at x must be finite",
        ),
        (lambda: untimed().langevin(X, 0), ValueError, "steps must be an integer of at least 1, got 0"),
        (lambda: untimed().hmc(X, 1, leapfrog=0), ValueError, "leapfrog must be an integer of at least 1"),
        (lambda: untimed().core(), ValueError, "energy must be a function of time, with a schedule, to be a core"),
        (lambda: untimed().core(SCHEDULE), ValueError, "energy must be a function of time"),
        (
            lambda: MODEL(core()).core(SCHEDULE),
            ValueError,
            "schedule must be left out for an energy that is a",
        ),
        (
            lambda: timed(schedule=ENDLESS).core().predict(X, 1.0),
            ValueError,
            r"score-prediction at zero SNR \(alpha = 0\)",
        ),
    ],
)
def test_bad_input_is_refused_by_name(make, error, message: str) -> None:
    with pytest.raises(error, match=message):
        make()


class Bare:
    """A denoiser that says what it says, and no energy."""

    event_shape = (2,)

    def __call__(self, xt, level, condition=None, guidance=1.0):
        return ud.Prediction(xt, level, {"x0": xt})


def test_an_energy_may_be_wider_than_its_states_and_narrower_under_autocast() -> None:
    x = X.float()
    assert MODEL(lambda z: z.double().square().sum(1), (2,)).energy(x).dtype == torch.float64
    network = torch.nn.Linear(2, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert MODEL(network, (2,)).energy(x).dtype == torch.bfloat16
    assert MODEL(network, (2,)).energy(x).dtype == torch.float32
