"""What the thermodynamic view refuses, before any work, and in which words; and what is no error."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import unidiff as ud
from tests.thermo.conftest import GRID, Silent, draws, exact, line, network, of, seeded
from unidiff.core.decoders import DiscretisedDecoder
from unidiff.thermo import free_energy
from unidiff.worlds import PointCloud, library

LAW = library.gaussian()
X = draws(LAW, 8)
KNOWN, OWN = of(LAW), ud.Thermodynamics(exact(LAW))
LINEAR = of(LAW, ud.Schedule.linear())
POINTWISE = ("entropy", "fisher_information", "entropy_rate", "entropy_production", "kl_to_prior", "mutual_information")
PATHWISE = ("work", "free_energy", "fluctuation")
PAIRWISE: dict[str, Callable[[Any, Any], object]] = {
    "entropy_bounds": KNOWN.entropy_bounds,
    "relative_entropy_decay": lambda s, t: KNOWN.relative_entropy_decay(LAW, s, t),
}


def refuse(kind: type[Exception], message: str, ask: Callable[[], object]) -> None:
    with pytest.raises(kind, match=message):
        ask()


@pytest.mark.parametrize("name", POINTWISE)
def test_a_time_that_is_none_is_refused_by_every_value(name: str) -> None:
    ask = getattr(KNOWN, name)
    for t, kind, message in (
        (1.5, ValueError, r"t must lie in \[0, 1\] .*, got 1.5"),
        (-0.1, ValueError, r"t must lie in \[0, 1\] .*, got -0.1"),
        (math.nan, ValueError, "t must not be NaN"),
        (torch.tensor([0.1, 0.2]), ValueError, r"t must be one time, got shape \[2\]; budget\(times\) takes many"),
        ("noon", TypeError, "t must be a number or a tensor of numbers, got 'noon'"),
        (None, TypeError, "t must be a number or a tensor of numbers, got None"),
    ):
        refuse(kind, message, lambda t=t: ask(t))
    refuse(ValueError, r"t must have noise \(sigma > 0\).* got t = 0", lambda: getattr(LINEAR, name)(0.0))
    endless = of(LAW, Silent().as_ve())
    refuse(ValueError, "t must have finite noise, got sigma = inf at t = 1", lambda: getattr(endless, name)(1.0))


@pytest.mark.parametrize("name", POINTWISE)
def test_data_and_draws_are_refused_by_every_value(name: str) -> None:
    ask = getattr(OWN, name)
    for x0, kind, message in (
        (None, ValueError, "x0 must be given without a world"),
        (X[:, :2], ValueError, r"x0 must have shape \[B, 3\], got \[8, 2\]"),
        (X[:0], ValueError, r"x0 must hold at least one datum, got shape \[0, 3\]"),
        (X[:1], ValueError, "x0 must hold two data or more, for a standard error, got 1"),
        (X[:1].repeat(4, 1), ValueError, "x0 must hold data that differ, got 4 times the same"),
        (X * math.nan, ValueError, "x0 must be finite; 24 of its 24 values"),
        (X.half(), ValueError, "x0 must be float32 or wider .*, got torch.float16"),
        (X.long(), TypeError, "x0 must be a floating-point tensor, got torch.int64"),
        (X.tolist(), TypeError, "x0 must be a floating-point tensor, got list"),
    ):
        refuse(kind, message, lambda x0=x0: ask(0.5, x0))
    for count in (1, 0, 2.5):
        refuse(ValueError, "draws must be an integer of at least 2", lambda n=count: getattr(KNOWN, name)(0.5, draws=n))
    refuse(ValueError, "x0 must be left out with a world", lambda: getattr(KNOWN, name)(0.5, X))
    learner = ud.Thermodynamics(network())
    refuse(
        ValueError, "x0 must have the network's dtype, torch.float32, got torch.float64",
        lambda: getattr(learner, name)(0.5, X),
    )  # fmt: skip


def test_a_view_needs_a_core_and_one_world_of_its_shape() -> None:
    core = exact(LAW)
    refuse(TypeError, "core must be a unidiff Diffusion, got int", lambda: ud.Thermodynamics(3))  # pyright: ignore
    refuse(TypeError, "world must be a unidiff World, got str", lambda: ud.Thermodynamics(core, "gaussian"))  # pyright: ignore
    refuse(
        ValueError,
        r"world must have the core's shape \[3\], got \[2\]",
        lambda: ud.Thermodynamics(core, library.mixture_2d()),
    )
    batch = LAW.posterior(X, 0.5, 0.5)
    refuse(ValueError, "world must be one law, got a batch of 8", lambda: ud.Thermodynamics(core, batch))
    refuse(ValueError, r"t must lie in \[0, 1\]", lambda: KNOWN.reference_variance(2.0))


@pytest.mark.parametrize("name", PAIRWISE)
def test_two_times_are_refused_by_name(name: str) -> None:
    ask = PAIRWISE[name]
    for s, t, kind, message in (
        (0.5, 0.5, ValueError, r"s must be earlier than t \(s < t\), got s = 0.5 and t = 0.5"),
        (0.6, 0.5, ValueError, r"s must be earlier than t \(s < t\), got s = 0.6 and t = 0.5"),
        (-0.1, 0.5, ValueError, r"s must lie in \[0, 1\]"),
        (0.1, 1.5, ValueError, r"t must lie in \[0, 1\]"),
        (math.nan, 0.5, ValueError, "s must not be NaN"),
        (torch.tensor([0.1]), 0.5, ValueError, r"s must be one time, got shape \[1\]"),
        ("a", 0.5, TypeError, "s must be a number"),
    ):
        refuse(kind, message, lambda s=s, t=t: ask(s, t))
    refuse(ValueError, r"s must have noise .* got t = 0", lambda: LINEAR.entropy_bounds(0.0, 0.5))
    refuse(ValueError, r"s must have noise .* got t = 0", lambda: LINEAR.relative_entropy_decay(LAW, 0.0, 0.5))


def test_another_law_is_a_world_of_the_same_shape() -> None:
    decay = KNOWN.relative_entropy_decay
    refuse(TypeError, "other must be a unidiff World, got int", lambda: decay(3, 0.3, 0.5))  # pyright: ignore
    refuse(
        ValueError, r"other must be one law of shape \[3\], got Gaussian", lambda: decay(library.mixture_2d(), 0.3, 0.5)
    )
    refuse(ValueError, r"other must be one law of shape \[3\]", lambda: decay(LAW.posterior(X, 0.5, 0.5), 0.3, 0.5))
    refuse(ValueError, "draws must be an integer of at least 2, got 1", lambda: decay(LAW, 0.3, 0.5, draws=1))
    refuse(ValueError, "relative_entropy_decay needs a world", lambda: OWN.relative_entropy_decay(LAW, 0.3, 0.5))
    refuse(ValueError, "girsanov_bound needs a world", lambda: OWN.girsanov_bound(0.5))
    refuse(ValueError, "draws must be an integer of at least 2, got 0", lambda: KNOWN.girsanov_bound(0.5, draws=0))
    refuse(ValueError, "s must be earlier than t", lambda: KNOWN.girsanov_bound(1.0))
    refuse(ValueError, "s must have noise", lambda: LINEAR.girsanov_bound(0.0))


@pytest.mark.parametrize("name", PATHWISE)
def test_what_no_path_starts_from_is_refused(name: str) -> None:
    def ask(x0: Any, grid: Any = GRID, view: ud.Thermodynamics = KNOWN, **options: Any) -> Callable[[], object]:
        return lambda: getattr(view, name)(x0, grid, **options)

    refuse(ValueError, r"x0 must have shape \[B, 3\], got \[8, 2\]", ask(X[:, :2]))
    refuse(ValueError, "x0 must be finite", ask(X * math.nan))
    refuse(ValueError, "x0 must hold at least one datum", ask(X[:0]))
    refuse(ValueError, "x0 must be float32 or wider", ask(X.half()))
    refuse(TypeError, "x0 must be", ask(X.tolist()))
    refuse(TypeError, "grid must be a unidiff TimeGrid, got int", ask(X, 4))
    refuse(TypeError, "decoder must be a decoder of unidiff.core.decoders, got int", ask(X, decoder=3))
    refuse(ValueError, "unknown variance 'foo'; known", ask(X, variance="foo"))
    refuse(ValueError, "condition must be left out", ask(X, condition=torch.tensor(1)))
    refuse(ValueError, "guidance needs a conditional network", ask(X, guidance=2.0))
    refuse(
        ValueError,
        r"x0_variance must have shape \[4\], got \[2\]",
        ask(X, variance="optimal", x0_variance=torch.ones(2)),
    )
    refuse(ValueError, "x0 must lie within the decoder's range", ask(X, decoder=DiscretisedDecoder()))
    whole = ud.TimeGrid.uniform(4)
    refuse(
        ValueError, "grid must start where the SNR is positive and finite, got a log-SNR of inf at t = 0",
        ask(X, whole, LINEAR),
    )  # fmt: skip
    refuse(
        ValueError, "grid must end where the SNR is positive and finite, got a log-SNR of -inf at t = 1",
        ask(X, GRID, of(LAW, Silent())),
    )  # fmt: skip


def test_counts_levels_and_works_are_refused() -> None:
    for count in (0, -1, 2.5, True):
        refuse(ValueError, "paths must be an integer of at least 1", lambda n=count: KNOWN.work(X, GRID, n))  # pyright: ignore
        refuse(ValueError, "paths must be an integer of at least 1", lambda n=count: KNOWN.free_energy(X, GRID, n))  # pyright: ignore
    for level in (0, 1, math.nan, 2, "most"):
        refuse(ValueError, r"level must lie in \(0, 1\), got", lambda v=level: KNOWN.free_energy(X, GRID, 8, v))  # pyright: ignore
        refuse(ValueError, r"level must lie in \(0, 1\), got", lambda v=level: free_energy(torch.zeros(8, 1), v))  # pyright: ignore
    for shape in ((), (5,), (0, 3), (5, 0), (2, 2, 2)):
        refuse(ValueError, r"work must have shape \[K, B\]", lambda s=shape: free_energy(torch.zeros(s)))
    refuse(TypeError, "work must be a floating-point tensor, got list", lambda: free_energy([1.0]))  # pyright: ignore
    refuse(
        ValueError, "work must be finite, got 10 values that are not", lambda: free_energy(torch.full((5, 2), math.inf))
    )


def test_fluctuations_and_crooks_are_refused() -> None:
    refuse(ValueError, "x0 must be an integer of at least 2, got 1", lambda: KNOWN.fluctuation(1, GRID))
    refuse(TypeError, "x0 must be data .* or how many .*, got float", lambda: KNOWN.fluctuation(2.5, GRID))  # pyright: ignore
    refuse(ValueError, "x0 must hold two data or more", lambda: KNOWN.fluctuation(X[:1], GRID))
    refuse(ValueError, "data to be drawn needs a world", lambda: OWN.fluctuation(5, GRID))
    refuse(ValueError, "joint fluctuation needs a world", lambda: OWN.fluctuation(X, GRID, joint=True))
    cloud = of(PointCloud(X))
    refuse(ValueError, "a data set without noise has no density", lambda: cloud.fluctuation(X, GRID, joint=True))
    inside = X.clamp(-1, 1).mul(127.5).add(127.5).round().sub(127.5).div(127.5)
    refuse(
        ValueError, "decoder must be a ContinuousDecoder with a world",
        lambda: KNOWN.fluctuation(inside, GRID, joint=True, decoder=DiscretisedDecoder()),
    )  # fmt: skip
    found = KNOWN.fluctuation(X, GRID)
    for bound in (0, math.nan, -1.0):
        refuse(ValueError, "bound must be positive and finite", lambda b=bound: found.conclusion(b))
    for n in (1, 0, 2.5):
        refuse(ValueError, "n must be an integer of at least 2", lambda n=n: KNOWN.crooks(n, GRID))  # pyright: ignore
    refuse(TypeError, "like must be a floating-point tensor, got int", lambda: KNOWN.crooks(4, GRID, 3))  # pyright: ignore
    refuse(TypeError, "like must be a floating-point tensor, got torch.int64", lambda: KNOWN.crooks(4, GRID, X.long()))
    refuse(ValueError, "like must be float32 or wider", lambda: KNOWN.crooks(4, GRID, X.half()))
    learner = ud.Thermodynamics(network())
    refuse(ValueError, "like must have the network's dtype, torch.float32", lambda: learner.crooks(4, GRID, X))
    refuse(TypeError, "grid must be a unidiff TimeGrid, got int", lambda: KNOWN.crooks(4, 3))  # pyright: ignore


def test_paths_by_themselves_are_refused() -> None:
    paths = KNOWN.paths(GRID)
    refuse(TypeError, "grid must be a unidiff TimeGrid, got int", lambda: KNOWN.paths(3))  # pyright: ignore
    refuse(ValueError, "n must be an integer of at least 1, got 0", lambda: paths.model(0, X, None))
    refuse(ValueError, r"x0 must have shape \[B, 3\], got \[8, 2\]", lambda: paths.draw(X[:, :2], None))
    refuse(ValueError, "x0 must hold at least one datum", lambda: paths.draw(X[:0], None))


def test_a_budgets_times_and_grid_are_refused_before_any_work() -> None:
    ask = KNOWN.budget
    for times, message in (
        ([0.5], "times must be two or more and increase, got"),
        ([], "times must be two or more and increase, got"),
        ([0.5, 0.4], "times must be two or more and increase, got"),
        ([0.5, 0.5], "times must be two or more and increase, got"),
        ([0.1, math.nan, 0.5], "times must be two or more and increase, got"),
        ([-0.1, 0.5], r"times must lie in \[0, 1\]"),
        ([0.5, 1.5], r"times must lie in \[0, 1\]"),
        (0.5, r"times must be a sequence of numbers \[N\], got shape \[\]"),
        ("ab", "times must be a sequence of numbers, got 'ab'"),
    ):
        refuse(ValueError, message, lambda v=times: ask(v))  # pyright: ignore
    refuse(ValueError, "times must have noise", lambda: LINEAR.budget([0.0, 0.5]))
    refuse(ValueError, "x0 must be given without a world", lambda: OWN.budget([0.1, 0.5]))
    refuse(ValueError, "x0 must be left out with a world", lambda: ask([0.1, 0.5], X))
    refuse(ValueError, "draws must be an integer of at least 2", lambda: ask([0.1, 0.5], draws=1))
    refuse(TypeError, "grid must be a unidiff TimeGrid", lambda: ask([0.1, 0.5], grid=3))  # pyright: ignore
    refuse(ValueError, "unknown variance 'foo'", lambda: ask([0.1, 0.5], grid=GRID, variance="foo"))
    refuse(
        ValueError, "grid must be given for options of the way back, got variance without one",
        lambda: ask([0.1, 0.5], variance="prior"),
    )  # fmt: skip


def test_where_there_is_no_signal_what_has_a_value_has_it_and_the_rest_says_so() -> None:
    silent = of(LAW, Silent())
    own = ud.Thermodynamics(exact(LAW, Silent()))
    zero = torch.zeros((), dtype=torch.float64)
    for view, x0 in ((silent, None), (own, X), (of(library.mixture_2d(), Silent()), None)):
        dim = view.core.event_shape[0]
        noise = torch.tensor(0.5 * dim * math.log(2 * math.pi * math.e), dtype=torch.float64)
        torch.testing.assert_close(view.mutual_information(1.0, x0).value, zero)
        torch.testing.assert_close(view.entropy(1.0, x0).value, noise)
        torch.testing.assert_close(view.kl_to_prior(1.0, x0).value, zero, rtol=0, atol=64 * float(noise) * 2**-52)
        assert math.isfinite(view.entropy(0.7, x0).value)
        refuse(ValueError, "has no value at t = .*infinitely steep", lambda v=view, x=x0: v.entropy_rate(1.0, x))
        refuse(ValueError, "has no value at t = .*infinitely steep", lambda v=view, x=x0: v.entropy_production(1.0, x))
    refuse(
        ValueError,
        "t must have signal .* got an SNR of 0 at t = 1",
        lambda: silent.relative_entropy_decay(LAW, 0.5, 1.0),
    )
    refuse(ValueError, "schedule must end where the SNR is positive", lambda: silent.girsanov_bound(0.5))
    refuse(ValueError, "has no value at t = .*infinitely steep", lambda: silent.budget([0.5, 1.0]))
    refuse(ValueError, "grid must end where the SNR is positive", lambda: silent.crooks(4, GRID))
    assert math.isfinite(silent.entropy_bounds(0.5, 1.0).value.value)


@pytest.mark.parametrize("schedule", ["learned", "karras"])
def test_no_value_drags_a_graph_along(schedule: str) -> None:
    kind = ud.Schedule.learned() if schedule == "learned" else ud.Schedule.karras()
    known, law = of(line(), kind), line()
    learner = ud.Thermodynamics(network(1, "v", kind))
    x0 = draws(law, 16).float()
    found: list[Tensor] = []
    for name in POINTWISE:
        found += [getattr(known, name)(0.5).value, getattr(learner, name)(0.5, x0, generator=seeded(0)).value]
    lost = known.relative_entropy_decay(ud.worlds.Gaussian([0.0], [[1.0]]), 0.3, 0.6)
    bound = known.girsanov_bound(0.3)
    sides = known.entropy_bounds(0.3, 0.6)
    found += [lost.lost.value, bound.total, sides.lower, sides.value.value]
    found += [learner.work(x0, GRID).total, learner.free_energy(x0, GRID, 4).log_prob]
    found += [learner.crooks(4, GRID).forward, learner.fluctuation(x0, GRID).forward]
    found += [learner.budget([0.2, 0.6], x0, GRID).information]
    for value in found:
        assert torch.isfinite(value).all() and not value.requires_grad


def test_one_generator_gives_one_answer() -> None:
    law = library.mixture_8d()
    view, other = of(law), ud.worlds.Gaussian(law.mean, law.covariance)
    for ask in (
        lambda g: view.entropy(0.5, draws=64, generator=g).value,
        lambda g: view.fisher_information(0.5, draws=64, generator=g).value,
        lambda g: view.entropy_production(0.5, draws=64, generator=g).value,
        lambda g: view.kl_to_prior(0.5, draws=64, generator=g).value,
        lambda g: view.mutual_information(0.5, draws=64, generator=g).value,
        lambda g: view.relative_entropy_decay(other, 0.3, 0.5, 64, g).lost.value,
        lambda g: view.relative_entropy_decay(other, 0.3, 0.5, 64, g).earlier.value,
        lambda g: view.girsanov_bound(0.5, 64, g).prior.value,
        lambda g: view.fluctuation(8, GRID, generator=g).reverse,
        lambda g: view.crooks(8, GRID, generator=g).reverse,
    ):
        assert torch.equal(ask(seeded(1)), ask(seeded(1)))
        assert not torch.equal(ask(seeded(1)), ask(seeded(2)))
