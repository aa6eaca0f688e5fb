"""Quadrature over mixtures whose components differ in width, against a dense trapezoid that shares no code with it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import unidiff as ud
from tests.thermo.conftest import of, seeded
from unidiff.thermo.averages import Noised
from unidiff.thermo.divergence import relative_entropy
from unidiff.worlds import Gaussian, GaussianMixture, quadrature


def two(means: tuple[float, float], variances: tuple[float, float]) -> GaussianMixture:
    return GaussianMixture([0.5, 0.5], [[m] for m in means], [[[v]] for v in variances])


def dense(means: tuple[float, float], variances: tuple[float, float]) -> tuple[float, float]:
    """Entropy and E(d log q/dx)².

    On nodes of x: 40 a deviation of the narrow component within 40 of its deviations, 4e5 within 12 of the wide one's.
    """
    m, v = (torch.tensor(each, dtype=torch.float64) for each in (means, variances))
    near = means[1] + math.sqrt(variances[1]) * torch.linspace(-40, 40, 3201, dtype=torch.float64)
    far = means[0] + math.sqrt(variances[0]) * torch.linspace(-12, 12, 400_001, dtype=torch.float64)
    x = torch.cat([near, far]).sort().values
    log_each = math.log(0.5) - 0.5 * ((x[:, None] - m).square() / v + (2 * math.pi * v).log())
    log_q = torch.logsumexp(log_each, 1)
    share = (log_each - log_q[:, None]).exp()
    slope = (share * (m - x[:, None]) / v).sum(1)
    q = log_q.exp()
    return float(-torch.trapezoid(q * log_q, x)), float(torch.trapezoid(q * slope.square(), x))


@pytest.mark.parametrize(("at", "narrow"), [(0.06, 1e-8), (0.5, 1e-4), (0.5, 1e-6), (0.123, 3e-3), (2.0, 1e-2)])
def test_a_narrow_component_between_the_wide_ones_nodes_is_seen(at: float, narrow: float) -> None:
    # The dense rule's own error is 1e-9 of the value: where it is halved no more changes.
    noise = 1e-3 if narrow < 1e-6 else 1e-2 * math.sqrt(narrow)
    law = Noised(two((0.0, at), (1.0, narrow)), 1.0, noise)
    entropy, fisher = dense((0.0, at), (1.0 + noise**2, narrow + noise**2))
    for found, due in ((law.entropy(), entropy), (law.fisher(), fisher)):
        assert found.law == "quadrature"
        assert abs(float(found.value) - due) < 1e-7 * (1 + abs(due)), (float(found.value), due)
        assert float(found.standard_error) < 1e-7 * (1 + abs(due))


def test_information_of_unlike_widths_is_the_entropys() -> None:
    # I = H(x_t) − H(x_t|x_0): at σ = 0.002 under Karras's schedule, by the dense rule.
    view = of(two((0.0, 0.5), (1.0, 1e-4)), ud.Schedule.karras())
    sigma = float(view.core.schedule.sigma(0.0))
    entropy, _ = dense((0.0, 0.5), (1.0 + sigma**2, 1e-4 + sigma**2))
    due = entropy - 0.5 * math.log(2 * math.pi * math.e * sigma**2)
    found = view.mutual_information(0.0)
    assert found.law == "quadrature"
    assert abs(float(found.value) - due) < 1e-7


def test_the_other_laws_width_is_seen_too() -> None:
    # KL(N(0, 1) ‖ p), p with a spike of deviation 1e-3 between the nodes of N(0, 1).
    spiked, round_law = two((0.0, 0.06), (1.0, 1e-6)), Gaussian([0.0], [[1.0]])
    x = (
        torch.cat([torch.linspace(-12, 12, 400_001), 0.06 + 1e-3 * torch.linspace(-40, 40, 3201)])
        .double()
        .sort()
        .values
    )

    def log_normal(mean: float, variance: float) -> Tensor:
        return -0.5 * ((x - mean).square() / variance + math.log(2 * math.pi * variance))

    log_q = log_normal(0.0, 1.0 + 1e-8)
    log_p = torch.logaddexp(log_q, log_normal(0.06, 1e-6 + 1e-8)) - math.log(2)
    due = float(torch.trapezoid(log_q.exp() * (log_q - log_p), x))
    found = relative_entropy(Noised(round_law, 1.0, 1e-4), Noised(spiked, 1.0, 1e-4))
    assert found.law == "quadrature"
    assert abs(float(found.value) - due) < 1e-7


@pytest.mark.statistical
def test_what_no_nodes_can_see_is_drawn() -> None:
    # In the plane a ratio of 1/100 would need 1e8 nodes. Against the sum of the lines' entropies, the second coordinate
    # being independent: z < 5, false alarm 6e-7, at an error under 0.02.
    line = two((0.0, 0.5), (1.0, 1e-4))
    plane = GaussianMixture([0.5, 0.5], [[0.0, 0.0], [0.5, 0.0]], [[[1.0, 0.0], [0.0, 1.0]], [[1e-4, 0.0], [0.0, 1.0]]])
    due = float(line.entropy().value) + 0.5 * math.log(2 * math.pi * math.e)
    found = plane.entropy(generator=seeded(0))
    assert found.law == "monte_carlo" and float(found.standard_error) < 0.02
    assert abs(float(found.value) - due) < 5 * float(found.standard_error)
    assert not Noised(plane, 1.0, 1e-3).integrable
    assert Noised(plane, 1.0, 1.0).integrable  # noise makes them alike
    view = of(plane, ud.Schedule.karras())
    assert view.mutual_information(0.0, draws=64, generator=seeded(1)).law == "monte_carlo"
    assert view.fisher_information(1.0).law == "quadrature"
    needle = two((0.0, 0.5), (1.0, 1e-12))
    assert needle.entropy(64, seeded(2)).law == "monte_carlo"


def test_one_covariance_however_flat_is_one_width() -> None:
    # Seen from its own standard coordinates a flat component is round: the nodes are the usual ones.
    flat = torch.tensor([[1.0, 0.0], [0.0, 1e-10]], dtype=torch.float64)
    law = GaussianMixture([0.5, 0.5], [[0.0, 0.0], [0.5, 0.0]], flat.expand(2, 2, 2))
    rule = quadrature.Rule(1 / 6, (1 / 192, 1 / 24), 1e-8, 8.5)
    assert rule.steps(law.components) == (1 / 6, 1 / 24)
    needle = two((0.0, 0.5), (1.0, 1e-12))
    assert rule.steps(needle.components) is None
