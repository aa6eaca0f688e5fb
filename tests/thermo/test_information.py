"""The mmse's integral against differences of entropies, on mixtures, where neither side is a formula."""

from __future__ import annotations

import math

import pytest
import torch

import unidiff as ud
from tests.thermo.conftest import line, of, seeded
from unidiff.thermo.averages import Noised
from unidiff.thermo.information import integral, world_information
from unidiff.worlds import GaussianMixture, PointCloud, World, library

WORLDS = {"mixture-2d": library.mixture_2d, "eight-gaussians": library.eight_gaussians, "line": line}


def by_entropies(view: ud.Thermodynamics, t: float) -> float:
    """I(x_0; x_t) = H(x_t) − H(x_t|x_0)."""
    x0 = torch.zeros(1, *view.core.event_shape, dtype=torch.float64)
    return float(view.entropy(t).value - view.core.process.marginal(x0, t).entropy()[0])


@pytest.mark.parametrize(
    ("world", "schedule"),
    [
        ("line", "cosine"),
        ("line", "polynomial"),
        ("line", "karras"),
        pytest.param("mixture-2d", "cosine", marks=pytest.mark.slow),
        pytest.param("mixture-2d", "karras", marks=pytest.mark.slow),
        pytest.param("eight-gaussians", "cosine", marks=pytest.mark.slow),
        pytest.param("eight-gaussians", "karras", marks=pytest.mark.slow),
    ],
)
def test_the_mmses_integral_is_the_difference_of_entropies(world: str, schedule: str) -> None:
    # Item 31 with the two ends of a chain: t_0 where σ/α is about 0.1, and 1. Entropies are by density, the mmse by the
    # posterior's covariance: to 1e-8 nats.
    view = of(WORLDS[world](), ud.Schedule.named(schedule))
    first = float(view.core.schedule.time(4.6))
    ends = [view.mutual_information(t) for t in (first, 1.0)]
    assert [e.law for e in ends] == ["quadrature", "quadrature"]
    found = float(ends[0].value - ends[1].value)
    due = by_entropies(view, first) - by_entropies(view, 1.0)
    print(f"\nI(x_0; z_t0) - I(x_0; z_1) on {world}, {schedule}: {found:.12g} nats, off by {found - due:.1e}")
    assert abs(found - due) < 1e-8
    assert abs(float(ends[0].standard_error)) < 1e-8


def test_information_does_not_depend_on_the_convention_or_the_schedule() -> None:
    vp, ve = of(line(), ud.Schedule.cosine()), of(line(), ud.Schedule.karras())
    for log_snr in (-2.0, 0.0, 3.0):
        t, u = (float(v.core.schedule.time(log_snr)) for v in (vp, ve))
        assert abs(float(vp.mutual_information(t).value - ve.mutual_information(u).value)) < 1e-9


@pytest.mark.parametrize(
    "world", ["mixture-2d", "line", "gaussian", pytest.param("eight-gaussians", marks=pytest.mark.slow)]
)
def test_the_mmse_is_tweedies_and_the_fisher_information_the_entropys_slope(world: str) -> None:
    law = {**WORLDS, "gaussian": library.gaussian}[world]()
    noised = Noised(law, 0.8, 0.6)
    dim = noised.world.dim
    assert float(noised.mmse().value) == pytest.approx(
        0.6**4 / 0.8**2 * (dim / 0.6**2 - float(noised.fisher().value)), rel=1e-10
    )
    # dH(x + √v n)/dv = ½R, here by a fourth-order difference, off by 1e-10 or so.
    wide, step = law.diffuse(0.8, 0.0001), 1e-2
    low, mid, high, far = (float(wide.diffuse(1.0, math.sqrt(0.36 + k * step)).entropy().value) for k in (-2, -1, 1, 2))
    slope = (low - 8 * mid + 8 * high - far) / (12 * step)
    assert 0.5 * float(noised.fisher().value) == pytest.approx(slope, rel=1e-6)


def test_data_that_are_points_hold_the_entropy_of_their_choice() -> None:
    # Three points far apart, told apart with certainty: I = log 3, by draws. |z| < 5: false alarm 6e-7; the error is 2%.
    cloud = PointCloud(torch.tensor([[-8.0], [0.0], [8.0]], dtype=torch.float64))
    found = of(cloud).mutual_information(0.3, generator=seeded(0))
    assert found.law == "monte_carlo" and float(found.standard_error) < 0.03
    assert abs(float(found.value) - math.log(3)) < 5 * float(found.standard_error)


@pytest.mark.statistical
@pytest.mark.parametrize(
    "name", ["entropy", "fisher_information", "mutual_information", "kl_to_prior", "entropy_production"]
)
def test_draws_are_honest_where_nothing_else_serves(name: str) -> None:
    # In eight dimensions a mixture has draws alone; a mixture of one is a Gaussian, whose value is exact. 80 repeats:
    # Σz² ~ χ²(80) (in the limit of 1000 draws each), over 155 by chance in 1e-6 and under 28 in 1e-8. An error √3 too small
    # passes in 6e-3, 2 times too small in 3e-5, 2 times too large in 1%; |Σz|/√80 < 5.5 (4e-8) misses a bias of one error
    # in 3e-4.
    # Not round: of round data the mmse's integrand is constant, and an error of 0 leaves no z.
    centre, spread = torch.linspace(-1, 1, 8, dtype=torch.float64), torch.linspace(0.1, 1.5, 8, dtype=torch.float64)
    one = GaussianMixture([1.0], centre[None], spread.diag()[None])
    alike = ud.worlds.Gaussian(one.means[0], one.covariances[0])
    truth = getattr(of(alike), name)(0.5).value
    generator = seeded(3)
    found = [getattr(of(one), name)(0.5, draws=1000, generator=generator) for _ in range(80)]
    z = torch.stack([(e.value - truth) / e.standard_error for e in found])
    assert all(e.law == "monte_carlo" for e in found)
    assert 28 < float(z.square().sum()) < 155
    assert abs(float(z.sum())) / math.sqrt(80) < 5.5


def test_a_point_knows_nothing_and_an_integral_tells_its_error() -> None:
    point: World = PointCloud(torch.ones(1, 2, dtype=torch.float64))
    assert float(world_information(point, -math.inf, 3.0).value) == 0.0
    coarse = integral(torch.exp, 0.0, 4.0, nodes=4)
    assert abs(float(coarse.value) - math.expm1(4.0)) < float(coarse.standard_error) < 3.0
    assert float(integral(torch.exp, 0.0, 4.0).value) == pytest.approx(math.expm1(4.0), rel=1e-14)
