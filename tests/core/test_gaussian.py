"""Gaussians against torch.distributions, and the errors they raise."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given

from unidiff import Gaussian
from unidiff.identities.kernels import density_kappa
from unidiff.testing import assert_algebraic
from unidiff.testing import strategies as kit


def random_gaussian(seed: int, dtype: torch.dtype = torch.float64) -> Gaussian:
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(5, 3, 2, generator=generator, dtype=dtype)
    return Gaussian(mean, torch.randn(5, 3, 2, generator=generator, dtype=dtype))


def reference(law: Gaussian) -> torch.distributions.Independent:
    scale = law.log_var.exp().sqrt().expand(law.mean.shape)
    return torch.distributions.Independent(torch.distributions.Normal(law.mean, scale), law.mean.ndim - 1)


def laws(batch: tuple[torch.Tensor, ...]) -> tuple[Gaussian, Gaussian, torch.Tensor]:
    m, log_var, other, other_log_var, x = batch
    return Gaussian(m, log_var), Gaussian(other, other_log_var), x


def total(terms: torch.Tensor) -> torch.Tensor:
    return terms.flatten(1).sum(1)


@given(kit.batches(5, dtype=kit.dtypes()))
def test_log_prob_entropy_and_kl_are_torchs(batch: tuple[torch.Tensor, ...]) -> None:
    p, q, x = laws(batch)
    assert_algebraic(p.log_prob(x), reference(p).log_prob(x), density_kappa(p, x))
    assert_algebraic(p.entropy(), reference(p).entropy(), total(p.log_var.abs() + 3))
    own, theirs = p.kl(q), torch.distributions.kl_divergence(reference(p), reference(q))
    stored, gap = 1 + p.log_var.abs() + q.log_var.abs(), (p.mean - q.mean).abs()
    moved = gap * (p.mean.abs() + q.mean.abs()) + gap.square() * stored
    # Beside one, since a KL of zero has no relative size.
    assert_algebraic(1 + own, 1 + theirs, 1 + total(p.var / q.var * stored + moved / q.var + stored))


@given(kit.batches(5))
def test_product_is_the_product_of_densities(batch: tuple[torch.Tensor, ...]) -> None:
    p, q, x = laws(batch)
    both, log_norm = p.product(q)
    between = Gaussian(q.mean, (p.var + q.var).log())
    kappa = density_kappa(both, x) + density_kappa(p, x) + density_kappa(q, x) + density_kappa(between, p.mean)
    # The product's mean and variance are computed, of logs that round: by as many roundings more.
    stored = 1 + float((p.log_var.abs() + q.log_var.abs()).max())
    assert_algebraic(both.log_prob(x) + log_norm, p.log_prob(x) + q.log_prob(x), stored * kappa)


def test_kl_of_near_equal_variances_keeps_its_digits() -> None:
    # The textbook's v/v' − 1 − log(v/v') has no digit left here; d²/2 is right to d³.
    d = 1e-9
    p = Gaussian(torch.zeros(1, 1, dtype=torch.float64), torch.full((1, 1), d, dtype=torch.float64))
    q = Gaussian(torch.zeros(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64))
    assert abs(float(p.kl(q)) / (d * d / 4) - 1) < 1e-6


def test_kl_of_a_law_with_itself_is_zero() -> None:
    p = random_gaussian(0)
    assert torch.equal(p.kl(p), torch.zeros(5, dtype=torch.float64))


def test_sample_is_mean_plus_std_times_the_given_noise() -> None:
    p = random_gaussian(3)
    noise = random_gaussian(4).mean
    torch.testing.assert_close(p.sample(noise=noise), p.mean + p.log_var.exp().sqrt() * noise)


def test_same_generator_same_bits() -> None:
    p = random_gaussian(0)
    one, two = (p.sample(torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(one, two)


def test_a_point_mass_samples_but_has_no_density() -> None:
    point = Gaussian(torch.ones(2, 3), torch.full((2, 1), -torch.inf))
    assert torch.equal(point.sample(), torch.ones(2, 3))
    with pytest.raises(ValueError, match="point mass"):
        point.log_prob(torch.ones(2, 3))


@pytest.mark.parametrize("log_var", [torch.zeros(3), torch.zeros(4, 2), torch.zeros(1, 2, 3)])
def test_log_var_that_does_not_broadcast_is_refused(log_var: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"log_var must broadcast to mean's shape \[2, 2\]"):
        Gaussian(torch.zeros(2, 2), log_var)


def test_mixed_dtypes_and_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="one dtype and one device"):
        Gaussian(torch.zeros(2, 2), torch.zeros(2, 2, dtype=torch.float64))
    with pytest.raises(ValueError, match="one dtype and one device"):
        Gaussian(torch.zeros(2, 2), torch.zeros(2, 2, device="meta"))


def test_noise_of_another_shape_or_dtype_is_refused() -> None:
    law = Gaussian(torch.zeros(2, 2), torch.zeros(2, 2))
    with pytest.raises(ValueError, match="one shape"):
        law.sample(noise=torch.zeros(2, 3))
    with pytest.raises(ValueError, match="one dtype"):
        law.sample(noise=torch.zeros(2, 2, dtype=torch.float64))
