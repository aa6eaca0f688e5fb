"""The figures of images: each against sets of which it is known."""

from __future__ import annotations

import math

import pytest
import torch

from unidiff.train.image_metrics import copy_rate, frechet, gaussian_frechet, precision_recall


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_frechet_distance_of_gaussians_with_one_basis_is_that_of_means_and_deviations() -> None:
    basis = torch.linalg.qr(normal(4, 4)).Q
    one, other = torch.tensor([1.0, 4.0, 0.25, 9.0]).double(), torch.tensor([2.25, 1.0, 0.5, 16.0]).double()
    mean = normal(4, seed=1)
    found = gaussian_frechet(mean, basis * one @ basis.T, torch.zeros(4).double(), basis * other @ basis.T)
    expected = mean.square().sum() + (one.sqrt() - other.sqrt()).square().sum()
    assert found == pytest.approx(float(expected), rel=1e-12)


def test_the_frechet_distance_of_gaussians_without_is_by_the_root_of_the_product() -> None:
    # tr((C_x^{1/2} C_y C_x^{1/2})^{1/2}) is the sum of the roots of the eigenvalues of C_x C_y, taken here as they are.
    x, y = ((m := normal(5, 5, seed=s)) @ m.T for s in (2, 3))
    expected = x.trace() + y.trace() - 2 * torch.linalg.eigvals(x @ y).real.sqrt().sum()
    zero = torch.zeros(5).double()
    assert gaussian_frechet(zero, x, zero, y) == pytest.approx(float(expected), rel=1e-9)
    assert gaussian_frechet(zero, y, zero, x) == pytest.approx(float(expected), rel=1e-9)


def test_the_frechet_distance_of_a_set_to_its_image_is_that_of_its_moments() -> None:
    x = normal(300, 3)
    assert frechet(x, x) == pytest.approx(0, abs=1e-10)
    shift = torch.tensor([1.0, -2.0, 0.5]).double()
    assert frechet(x, x + shift) == pytest.approx(float(shift.square().sum()), rel=1e-10)
    # C → 9C about the mean m → 3m: tr C (3 − 1)² + ‖2m‖².
    expected = 4 * x.T.cov().trace() + 4 * x.mean(0).square().sum()
    assert frechet(x, 3 * x) == pytest.approx(float(expected), rel=1e-10)


def test_a_law_of_fewer_dimensions_than_features_has_a_distance() -> None:
    x = normal(50, 2) @ normal(2, 6, seed=1)
    assert frechet(x, x[torch.arange(49, -1, -1)]) == pytest.approx(0, abs=1e-6)


def test_precision_and_recall_of_two_places_of_which_the_samples_know_one_and_make_a_third() -> None:
    # Places far from one another beside their own width, so that no ball reaches from one to the next.
    here, there, nowhere = normal(40, 2), normal(40, 2, seed=1) + 100, normal(40, 2, seed=2) - 100
    data, samples = torch.cat([here, there]), torch.cat([here, nowhere])
    assert precision_recall(samples, data) == (0.5, 0.5)
    assert precision_recall(torch.cat([here, here + 1e-9]), data) == (1.0, 0.5)
    assert precision_recall(torch.cat([data, nowhere]), data) == (pytest.approx(2 / 3), 1.0)


def test_a_ball_is_as_wide_as_the_way_to_the_kth_neighbour() -> None:
    # On a line at 0, 1, 3, 6: the ball of 0 is 1 wide at k = 1, and 3 at k = 2, of 6 it is 3, then 5.
    data = torch.tensor([[0.0], [1.0], [3.0], [6.0]])
    samples = torch.tensor([[-0.9], [-1.1], [8.9], [9.1]])
    assert precision_recall(samples, data, k=1)[0] == 0.5
    assert precision_recall(samples, data, k=2)[0] == 1.0


def test_the_data_are_copies_and_points_half_way_are_none() -> None:
    data = torch.tensor([[0.0, 0.0], [0.0, 1.0], [4.0, 0.0]])
    assert copy_rate(data, data) == 1.0
    # 0.45 and 0.55 from the origin, whose neighbour is at 1; 1.9 and 2.1 from (4, 0), whose is at 4.
    samples = torch.tensor([[-0.45, 0.0], [-0.55, 0.0], [5.9, 0.0], [6.1, 0.0]])
    assert copy_rate(samples, data) == 0.5
    assert copy_rate(samples, data, factor=0.46) == 0.25 and copy_rate(samples, data, factor=0.6) == 1.0
    assert copy_rate(samples.reshape(4, 2, 1), data.reshape(3, 2, 1)) == 0.5


def test_what_is_no_pair_of_sets_is_refused_by_name() -> None:
    x = normal(5, 2)
    for call, message in (
        (lambda: frechet(x, normal(5, 3)), "x and y must have one event shape, got 2 and 3 numbers"),
        (lambda: frechet(x[:1], x), "number of points in x must be an integer of at least 2, got 1"),
        (lambda: frechet(x, x * math.nan), "y must be finite"),
        (lambda: frechet(x[0], x), r"x must have shape \[N, \*event\] with N > 0, got \[2\]"),
        (lambda: precision_recall(x, x, k=0), "k must be an integer of at least 1"),
        (lambda: precision_recall(x, x[:3]), "number of points in data must be an integer of at least 4, got 3"),
        (lambda: copy_rate(x, x, factor=0.0), "factor must be positive"),
        (lambda: copy_rate(x, x[:1]), "number of points in data must be an integer of at least 2, got 1"),
        (lambda: copy_rate(x[:0], x), r"samples must have shape \[N, \*event\] with N > 0"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="x must be a Tensor"):
        frechet(x.numpy(), x)  # pyright: ignore
