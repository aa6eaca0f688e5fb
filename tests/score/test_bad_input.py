"""An argument of the wrong type or kind is named, with its value and what was expected, by every entry of the score view."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

import unidiff as ud
from tests.score.conftest import draws, exact, network
from unidiff import score
from unidiff.score import BAOAB, HMC, MALA, ULA, Noise, Target
from unidiff.worlds import library

WORLD = library.mixture_2d()
CORE, CLASSED = exact(WORLD), network(num_classes=3)
MODEL = ud.ScoreModel(CORE)
X = draws(WORLD, 3)
EULER: dict[str, Any] = {"solver": "euler", "steps": 2}
FLOW = MODEL.flow()
GRID = ud.TimeGrid.uniform(3, 0.1)


def flowing(**options: Any) -> Callable[[], object]:
    return lambda: score.ProbabilityFlow(CORE, **options)


def measured(core: Any = CORE, x: Any = X, **options: Any) -> Callable[[], object]:
    return lambda: score.likelihood(core, x, **{**EULER, **options})


def solved(velocity: Any = lambda y, u: -y, state: Any = X, start: Any = 0.0, end: Any = 1.0, **options: Any):
    return lambda: score.solve(velocity, state, start, end, **options)


def chained(x: Any = X, steps: Any = 2, target: Any = WORLD, kernel: Any = None, **options: Any):
    return lambda: score.langevin(target, x, steps, kernel=kernel or MALA(0.1), **options)


def annealed(core: Any = CORE, n: Any = 3, **options: Any) -> Callable[[], object]:
    return lambda: score.annealed_langevin(core, n, **{"levels": 2, "steps": 1, **options})


def corrected(core: Any = CORE, n: Any = 3, **options: Any) -> Callable[[], object]:
    return lambda: score.predictor_corrector(core, n, **{"steps": 2, **options})


def drifted(core: Any = CORE, z: Any = X, t: Any = 0.3, **options: Any) -> Callable[[], object]:
    return lambda: score.reverse_drift(core, z, t, **options)


def lost(kind: str = "implicit", t: Any = 0.4, x0: Any = X, **options: Any) -> Callable[[], object]:
    return lambda: score.score_matching_loss(CORE, x0, kind, t, **options)


BAD: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    # -- likelihoods
    "likelihood core": (measured(core="core"), TypeError, "core must be a Diffusion, got 'core'"),
    "likelihood x": (measured(x=[1.0, 2.0]), TypeError, "x must be a floating-point tensor, got list"),
    "likelihood tolerance": (
        measured(solver="dopri5", steps=None, tolerance="1e-3"),
        TypeError,
        "tolerance must be a number, got '1e-3'",
    ),
    "likelihood steps": (measured(steps="8"), ValueError, "steps must be an integer of at least 1, got '8'"),
    "likelihood solver": (measured(solver=5), ValueError, "unknown solver 5; "),
    "likelihood world": (measured(world="mixture-2d"), TypeError, "world must be a World, got 'mixture-2d'"),
    "likelihood other world": (measured(world=library.mixture_8d()), ValueError, "world must be a law on [2], as"),
    "likelihood generator": (measured(probes=2, generator=3), TypeError, "generator must be a Generator, got 3"),
    "likelihood idle generator": (measured(generator=3), TypeError, "generator must be a Generator, got 3"),
    "likelihood probes": (measured(probes="two"), ValueError, "probes must be an integer of at least 1, got 'two'"),
    "likelihood probe": (measured(probe="gausian"), ValueError, "unknown probe 'gausian'; did you mean 'gaussian'?"),
    "likelihood first": (measured(first="0"), TypeError, "first must be a number, got '0'"),
    "likelihood to_data": (measured(to_data="no"), TypeError, "to_data must be True or False, got 'no'"),
    "likelihood estimate": (measured(estimate="no"), TypeError, "estimate must be True or False, got 'no'"),
    "likelihood guidance": (measured(guidance="2"), TypeError, "guidance must be a number, got '2'"),
    "joined nothing": (
        lambda: score.Likelihood.joined([]),
        ValueError,
        "parts must be one likelihood or more, of one prior_law, got 0 of []",
    ),
    "joined others": (lambda: score.Likelihood.joined([X]), TypeError, "each of parts must be a Likelihood"),  # pyright: ignore
    "joined unlike": (
        lambda: score.Likelihood.joined([measured()(), measured(world=WORLD)()]),  # pyright: ignore
        ValueError,
        "of one prior_law, got 2 of ['bound', 'exact']",
    ),
    "bits scale": (lambda: measured()().bits_per_dim("1"), TypeError, "scale must be a number, got '1'"),  # pyright: ignore
    # -- flows
    "flow core": (lambda: score.ProbabilityFlow(3), TypeError, "core must be a Diffusion, got 3"),  # pyright: ignore
    "flow first": (flowing(first="0.1"), TypeError, "first must be a number, got '0.1'"),
    "flow condition": (
        lambda: score.ProbabilityFlow(CLASSED, condition=1),  # pyright: ignore
        TypeError,
        "condition must be a tensor of integers, got int",
    ),
    "flow guidance": (flowing(guidance=None), TypeError, "guidance must be a number, got None"),
    "flow to_data": (flowing(to_data=None), TypeError, "to_data must be True or False, got None"),
    "encode tolerance": (lambda: FLOW.encode(X, tolerance="x"), TypeError, "tolerance must be a number, got 'x'"),  # pyright: ignore
    "encode empty": (lambda: FLOW.encode(X[:0]), ValueError, "x must hold at least one datum, got shape [0, 2]"),
    "decode x1": (lambda: FLOW.decode(None), TypeError, "x1 must be a floating-point tensor, got NoneType"),  # pyright: ignore
    "round trip": (lambda: FLOW.round_trip("x"), TypeError, "x must be a floating-point tensor, got str"),  # pyright: ignore
    "drift core": (drifted(core=WORLD), TypeError, "core must be a Diffusion, got "),
    "drift z": (drifted(z=X[:, :1]), ValueError, "z must have shape [B, 2], got [3, 1]"),
    "drift z nan": (drifted(z=X * math.nan), ValueError, "z must be finite"),
    "drift t": (drifted(t="0.3"), TypeError, "t must be a number or a tensor of numbers, got '0.3'"),
    "drift eta": (drifted(eta="1"), TypeError, "eta must be a number, got '1'"),
    "drift guidance": (drifted(guidance="1"), TypeError, "guidance must be a number, got '1'"),
    "sde core": (lambda: score.reverse_sde(3, GRID), TypeError, "core must be a Diffusion, got 3"),  # pyright: ignore
    "sde grid": (lambda: score.reverse_sde(CORE, 5), TypeError, "grid must be a TimeGrid, got 5"),  # pyright: ignore
    "sde eta": (lambda: score.reverse_sde(CORE, GRID, "1"), TypeError, "eta must be a number, got '1'"),  # pyright: ignore
    "sde generator": (
        lambda: score.reverse_sde(CORE, GRID)(X, 3),  # pyright: ignore
        TypeError,
        "generator must be a Generator, got 3",
    ),
    # -- solvers
    "solve velocity": (solved(0, steps=2), TypeError, "velocity must be a function, got 0"),
    "solve state": (solved(state=0, steps=2), TypeError, "state must be a floating-point tensor, got int"),
    "solve empty": (
        solved(state=X[:0], tolerance=1e-3),
        ValueError,
        "state must hold at least one number, got shape [0, 2]",
    ),
    "solve nowhere": (solved(end=0, tolerance=1e-3), ValueError, "start and end must differ, got 0.0 for both"),
    "solve start": (solved(start="0", steps=2), TypeError, "start must be a number, got '0'"),
    "solve end": (solved(end=math.inf, steps=2), ValueError, "end must be finite, got inf"),
    "solve places": (solved(places=3, steps=2), TypeError, "places must be a function, got 3"),
    "solve tolerance": (solved(tolerance="x"), TypeError, "tolerance must be a number, got 'x'"),
    # -- annealed and corrected samplers
    "annealed core": (annealed(core=None), TypeError, "core must be a Diffusion, got None"),
    "annealed n": (annealed(n="3"), ValueError, "n must be an integer of at least 1, got '3'"),
    "annealed levels": (annealed(levels="2"), ValueError, "levels must be an integer of at least 2, got '2'"),
    "annealed step_size": (annealed(step_size="0.2"), TypeError, "step_size must be a number, got '0.2'"),
    "annealed log_snr": (
        annealed(log_snr=(-1.0, math.inf)),
        ValueError,
        "log_snr must be a pair of numbers, both finite",
    ),
    "annealed denoise": (annealed(denoise="yes"), TypeError, "denoise must be True or False, got 'yes'"),
    "annealed generator": (annealed(generator=3), TypeError, "generator must be a Generator, got 3"),
    "annealed x": (annealed(n=None, x="x"), TypeError, "x must be a floating-point tensor, got str"),
    "annealed noise": (annealed(noise=3), TypeError, "noise must be a Tensor, got 3"),
    "annealed dtype": (
        annealed(dtype="float32"),
        ValueError,
        "dtype must be torch.float32 or torch.float64, got 'float32'",
    ),
    "annealed device": (
        annealed(device="gpu"),
        ValueError,
        "device must be cpu, cuda or cuda:N, and be there, got 'gpu'",
    ),
    "annealed on_row": (annealed(on_row=1), TypeError, "on_row must be callable, on_row(done, all), got int"),
    "annealed guidance": (annealed(guidance="1"), TypeError, "guidance must be a number, got '1'"),
    "corrected core": (corrected(core="core"), TypeError, "core must be a Diffusion, got 'core'"),
    "corrected snr": (corrected(snr="0.16"), TypeError, "snr must be a number, got '0.16'"),
    "corrected steps": (corrected(steps="2"), ValueError, "steps must be an integer of at least 1, got '2'"),
    "corrected idle steps": (
        corrected(steps="2", grid=GRID),
        ValueError,
        "steps must be an integer of at least 1, got '2'",
    ),
    "corrected grid": (corrected(grid=[0.1, 1.0]), TypeError, "grid must be a TimeGrid, got [0.1, 1.0]"),
    "corrected step": (corrected(step=1), ValueError, "unknown step 1; "),
    "corrected generator": (corrected(generator="g"), TypeError, "generator must be a Generator, got 'g'"),
    # -- chains
    "chains x": (chained(x=3), TypeError, "x must be a floating-point tensor, got int"),
    "chains steps": (chained(steps="9"), ValueError, "steps must be an integer of at least 1, got '9'"),
    "chains target": (chained(target="gaussian"), TypeError, "target must be a Target or a World, got str"),
    "chains kernel": (chained(kernel="mala"), TypeError, "kernel must be ULA(...), MALA(...), HMC(...) or BAOAB(...)"),
    "chains acceptance": (chained(acceptance="x", warmup=2), TypeError, "acceptance must be a number, got 'x'"),
    "chains adapt": (chained(adapt="no"), TypeError, "adapt must be True or False, got 'no'"),
    "chains generator": (chained(generator=3), TypeError, "generator must be a Generator, got 3"),
    "chains noise": (chained(noise=X), TypeError, "noise must be a Noise, got tensor"),
    "chains normal": (chained(noise=Noise(3)), TypeError, "noise.normal must be a Tensor, got 3"),  # pyright: ignore
    "chains uniform": (
        chained(noise=Noise(torch.zeros(2, 3, 2).double(), 3)),  # pyright: ignore
        TypeError,
        "noise.uniform must be a Tensor, got 3",
    ),
    "chains on_step": (chained(on_step=1), TypeError, "on_step must be callable, on_step(done, all), got int"),
    "chains velocity": (
        lambda: score.langevin(WORLD, score.State(X, X, velocity=3), 2, kernel=BAOAB(0.1)),  # pyright: ignore
        TypeError,
        "velocity must be a Tensor, got 3",
    ),
    "step size": (lambda: ULA("0.1"), TypeError, "step_size must be a number, got '0.1'"),  # pyright: ignore
    "leapfrog": (lambda: HMC(0.1, "3"), ValueError, "leapfrog must be an integer of at least 1, got '3'"),  # pyright: ignore
    "target core": (lambda: Target.from_core("c", 0.1), TypeError, "core must be a Diffusion, got 'c'"),  # pyright: ignore
    "target t": (lambda: Target.from_core(CORE, "x"), TypeError, "t must be a number or a tensor of numbers, got 'x'"),  # pyright: ignore
    "target guidance": (
        lambda: Target.from_core(CLASSED, 0.1, guidance="2"),  # pyright: ignore
        TypeError,
        "guidance must be a number, got '2'",
    ),
    # -- the model's own
    "score t": (lambda: MODEL.score(X, None), TypeError, "t must be a number or a tensor of numbers, got None"),  # pyright: ignore
    "denoise xt": (lambda: MODEL.denoise(3, 0.1), TypeError, "xt must be a floating-point tensor, got int"),  # pyright: ignore
    "covariance t": (lambda: MODEL.covariance(X, "x"), TypeError, "t must be a number or a tensor of numbers, got 'x'"),  # pyright: ignore
    "variance generator": (
        lambda: MODEL.variance(X, 0.1, generator=3),  # pyright: ignore
        TypeError,
        "generator must be a Generator, got 3",
    ),
    "curvature generator": (
        lambda: MODEL.curvature(X, 0.1, 2, generator=3),  # pyright: ignore
        TypeError,
        "generator must be a Generator, got 3",
    ),
    # -- objectives
    "loss weight": (lost(weight=2.0), TypeError, "weight must be a Tensor, got 2.0"),
    "loss t": (lost(t="0.4"), TypeError, "t must be a number or a tensor of numbers, got '0.4'"),
    "loss world": (lost("explicit", world="w"), TypeError, "world must be a World, got 'w'"),
    "loss idle world": (lost("sliced", world="w"), TypeError, "world must be a World, got 'w'"),
    "loss noise": (lost(noise=3), TypeError, "noise must be a Tensor, got 3"),
    "loss denoising noise": (lost("denoising", noise=3), TypeError, "noise must be a Tensor, got 3"),
    "loss idle probes": (lost(probes="1"), ValueError, "probes must be an integer of at least 1, got '1'"),
    "loss probe": (lost("sliced", probe=1), ValueError, "unknown probe 1; "),
    "loss generator": (lost(generator=3), TypeError, "generator must be a Generator, got 3"),
    # -- derivatives
    "vjp vector": (lambda: score.vjp(torch.sin, X, 3), TypeError, "vector must be a Tensor, got 3"),  # pyright: ignore
    "vjps vectors": (lambda: score.vjps(torch.sin, X, 3), TypeError, "vectors must be a Tensor, got 3"),  # pyright: ignore
    "jvp field": (lambda: score.jvp("sin", X, X), TypeError, "field must be a function, got 'sin'"),  # pyright: ignore
    "jacobian field": (lambda: score.jacobian("sin", X), TypeError, "field must be a function, got 'sin'"),  # pyright: ignore
    "jacobian x": (lambda: score.jacobian(torch.sin, 3), TypeError, "x must be a floating-point tensor, got int"),  # pyright: ignore
    "divergence x": (lambda: score.divergence(torch.sin, "x"), TypeError, "x must be a floating-point tensor, got str"),  # pyright: ignore
    "probes generator": (
        lambda: score.draw_probes(1, X, generator=3),  # pyright: ignore
        TypeError,
        "generator must be a Generator, got 3",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_it_is_named_with_its_value_and_what_was_expected(name: str) -> None:
    call, kind, message = BAD[name]
    with pytest.raises(kind, match=re.escape(message)):
        call()


def test_numbers_of_any_kind_are_numbers() -> None:
    import numpy as np

    one = score.likelihood(CORE, X, tolerance=1e-2, first=0.1, estimate=False)
    for tolerance, first in ((np.float32(0.01), np.float64(0.1)), (torch.tensor(0.01), torch.tensor(0.1).double())):
        other = score.likelihood(CORE, X, tolerance=tolerance, first=first, estimate=False)  # pyright: ignore
        torch.testing.assert_close(one.log_prob, other.log_prob, rtol=1e-6, atol=1e-6)
