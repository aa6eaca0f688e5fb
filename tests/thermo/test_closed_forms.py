"""The view on Gaussian data against textbook formulas, whose rates are torch's derivatives of them and no formula at all."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import unidiff as ud
from tests.thermo.conftest import exact, of, seeded
from unidiff.worlds import Gaussian, library

SCHEDULES = ("cosine", "linear", "sigmoid", "polynomial", "karras")
TIMES = (0.05, 0.3, 0.6, 0.95)
OTHER = Gaussian([0.2, 0.1, -0.3], [[1.1, 0.2, 0.0], [0.2, 0.9, -0.1], [0.0, -0.1, 0.7]])


@dataclass
class Book:
    """N(m, S) noised, by determinants and traces; a differentiable function of t."""

    law: Gaussian
    schedule: ud.Schedule

    def parts(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        eye = torch.eye(len(self.law.mean), dtype=torch.float64)
        return alpha * self.law.mean, alpha**2 * self.law.covariance + sigma**2 * eye, alpha, sigma

    def entropy(self, t: Tensor) -> Tensor:
        return 0.5 * torch.logdet(2 * math.pi * math.e * self.parts(t)[1])

    def fisher(self, t: Tensor) -> Tensor:
        return torch.trace(torch.linalg.inv(self.parts(t)[1]))

    def information(self, t: Tensor) -> Tensor:
        _, spread, _, sigma = self.parts(t)
        return 0.5 * torch.logdet(spread / sigma**2)

    def kl(self, t: Tensor) -> Tensor:
        mean, spread, _, sigma = self.parts(t)
        r2 = torch.ones(()) if self.schedule.variance_preserving else sigma**2
        dim = len(mean)
        return 0.5 * ((torch.trace(spread) + mean @ mean) / r2 - dim + dim * r2.log() - torch.logdet(spread))

    def rate(self, value: str, t: float) -> Tensor:
        at = torch.tensor(t, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(getattr(self, value)(at), at)
        return slope


def between(law: Gaussian, other: Gaussian, schedule: ud.Schedule, t: float) -> Tensor:
    """KL(q_t ‖ p_t)."""
    at = torch.tensor(t, dtype=torch.float64)
    (m, a, *_), (n, b, *_) = (Book(v, schedule).parts(at) for v in (law, other))
    inverse = torch.linalg.inv(b)
    return 0.5 * (torch.trace(inverse @ a) + (n - m) @ inverse @ (n - m) - len(m) + torch.logdet(b) - torch.logdet(a))


def near(found: Tensor, due: Tensor, size: float = 1.0, eps: float = 1e-10) -> None:
    """Within ``eps`` of the value, or of ``size``: that of the terms it is the difference of."""
    assert abs(float(found) - float(due)) <= eps * max(abs(float(due)), size), (float(found), float(due))


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("t", TIMES)
def test_values_and_rates_are_those_of_the_textbook(name: str, t: float) -> None:
    law, schedule = library.gaussian(), ud.Schedule.named(name)
    view, book, at = of(law, schedule), Book(library.gaussian(), schedule), torch.tensor(t, dtype=torch.float64)
    size = float(book.entropy(at).abs()) + 3
    rate = float(book.rate("entropy", t).abs()) + 3 * float(schedule.diffusion2(t)) / view.reference_variance(t)
    near(view.entropy(t).value, book.entropy(at))
    near(view.fisher_information(t).value, book.fisher(at))
    near(view.mutual_information(t).value, book.information(at))
    near(view.kl_to_prior(t).value, book.kl(at), size)
    near(view.entropy_rate(t).value, book.rate("entropy", t), rate)
    near(view.entropy_production(t).value, -book.rate("kl", t), rate)
    for found in (view.entropy(t), view.fisher_information(t), view.mutual_information(t), view.entropy_production(t)):
        assert found.law == "exact" and float(found.standard_error) == 0.0


@pytest.mark.parametrize("t", TIMES)
def test_a_float32_world_is_right_within_its_rounding(t: float) -> None:
    # 64 roundings of float32 of the terms' size, times the covariance's condition (6).
    law = library.gaussian()
    kappa = float(torch.linalg.cond(law.covariance))
    view, book, at = of(law.to(torch.float32)), Book(law, ud.Schedule.cosine()), torch.tensor(t, dtype=torch.float64)
    eps = 64 * kappa * torch.finfo(torch.float32).eps
    size = float(book.entropy(at).abs()) + 3
    near(view.entropy(t).value, book.entropy(at), size, eps)
    near(view.fisher_information(t).value, book.fisher(at), 3.0, eps)
    near(view.mutual_information(t).value, book.information(at), 3.0, eps)
    near(view.kl_to_prior(t).value, book.kl(at), size, eps)
    rate = float(book.rate("entropy", t).abs()) + 3 * float(ud.Schedule.cosine().diffusion2(t))
    near(view.entropy_rate(t).value, book.rate("entropy", t), rate, eps)
    near(view.entropy_production(t).value, -book.rate("kl", t), rate, eps)


@pytest.mark.parametrize("name", SCHEDULES)
def test_laws_grow_alike_as_the_textbook_says(name: str) -> None:
    law, schedule = library.gaussian(), ud.Schedule.named(name)
    found = of(law, schedule).relative_entropy_decay(OTHER, 0.2, 0.9)
    before, after = (between(law, OTHER, schedule, t) for t in (0.2, 0.9))
    near(found.earlier.value, before)
    near(found.later.value, after)
    near(found.lost.value, before - after)


@pytest.mark.parametrize("name", ["cosine", "karras", pytest.param("sigmoid", marks=pytest.mark.slow)])
def test_girsanov_is_an_equality_for_another_laws_score(name: str) -> None:
    # In the plane, where the path is a quadrature: ½∫g²E‖·‖² is what the two laws' KL loses from s to 1.
    law = Gaussian([0.5, -0.3], [[0.8, 0.3], [0.3, 0.5]])
    other = Gaussian([0.2, 0.1], [[1.1, 0.2], [0.2, 0.9]])
    schedule = ud.Schedule.named(name)
    found = ud.Thermodynamics(exact(other, schedule), law).girsanov_bound(0.4)
    near(found.path.value, between(law, other, schedule, 0.4) - between(law, other, schedule, 1.0), eps=1e-9)
    near(found.prior.value, Book(law, schedule).kl(torch.tensor(1.0, dtype=torch.float64)))
    near(found.total, found.prior.value + found.path.value)
    # The law's own score costs nothing on the way.
    assert float(of(law, schedule).girsanov_bound(0.4).path.value) < 1e-20


@pytest.mark.statistical
def test_girsanov_and_decay_by_draws_are_within_their_errors() -> None:
    # In eight dimensions there are draws alone. Three z-scores under 5: false alarm 2e-6; the errors are under 5% of the
    # values, so that a wrong factor of ½ or 2 (10 errors or more) passes with chance 1e-6 at the most.
    centre, spread = torch.linspace(-0.5, 0.5, 8, dtype=torch.float64), torch.linspace(0.2, 1.5, 8, dtype=torch.float64)
    law, other = Gaussian(centre, torch.diag(spread)), Gaussian(0 * centre, torch.eye(8, dtype=torch.float64))
    schedule = ud.Schedule.cosine()
    due = between(law, other, schedule, 0.3) - between(law, other, schedule, 1.0)
    path = ud.Thermodynamics(exact(other, schedule), law).girsanov_bound(0.3, generator=seeded(1)).path
    same = ud.worlds.GaussianMixture([0.5, 0.5], torch.stack([centre, centre]), torch.diag(spread).expand(2, 8, 8))
    decay = of(same, schedule).relative_entropy_decay(other, 0.3, 1.0, generator=seeded(2))
    for found, truth in ((path, due), (decay.lost, due), (decay.earlier, between(law, other, schedule, 0.3))):
        assert found.law == "monte_carlo" and float(found.standard_error) < 0.05 * float(truth)
        assert abs(float(found.value - truth)) < 5 * float(found.standard_error)


def test_the_step_back_is_between_its_bounds_and_the_gap_is_what_the_step_forgets() -> None:
    law, schedule = library.gaussian(), ud.Schedule.cosine()
    view, book = of(law, schedule), Book(library.gaussian(), schedule)
    for s, t in ((0.1, 0.2), (0.3, 0.6), (0.5, 0.9)):
        found = view.entropy_bounds(s, t)
        earlier, later = (torch.tensor(v, dtype=torch.float64) for v in (s, t))
        ratio = schedule.alpha(later) / schedule.alpha(earlier)
        jump = schedule.sigma(later) ** 2 - ratio**2 * schedule.sigma(earlier) ** 2
        precision = torch.linalg.inv(book.parts(earlier)[1]) + ratio**2 / jump * torch.eye(3, dtype=torch.float64)
        near(found.value.value, -0.5 * torch.logdet(precision / (2 * math.pi * math.e)), 10.0)
        forgotten = book.information(earlier) - book.information(later)
        near(found.value.value - found.lower, forgotten, 10.0)
        rise = book.entropy(later) - book.entropy(earlier)
        assert (found.upper is None) == bool(rise < 0)
        if found.upper is not None:
            near(found.upper - found.value.value, rise, 10.0)


def test_the_upper_bound_is_not_told_where_entropy_falls() -> None:
    # Data wider than the noise: the VP process shrinks it.
    wide = of(Gaussian([0.0], [[9.0]]))
    assert wide.entropy_bounds(0.3, 0.7).upper is None
    narrow = of(Gaussian([0.0], [[0.1]]))
    assert narrow.entropy_bounds(0.3, 0.7).upper is not None


@pytest.mark.statistical
def test_the_upper_bound_is_not_told_where_draws_happen_to_rise() -> None:
    # In eight dimensions, by draws. Of data of variance 1.001 the entropy falls by 2e-3, a hundredth of an error: told in
    # none of 50 calls (by chance in 1.5e-5), though half of them rise; of variance 0.1 it rises by 50 errors, and is told.
    def bounds(variance: float, seed: int) -> list[object]:
        eye, generator = torch.eye(8, dtype=torch.float64), seeded(seed)
        view = of(ud.worlds.GaussianMixture([1.0], torch.zeros(1, 8), variance * eye[None].float()))
        return [view.entropy_bounds(0.3, 0.7, draws=64, generator=generator).upper for _ in range(50)]

    assert bounds(1.001, 0) == [None] * 50
    assert None not in bounds(0.1, 1)
