"""Gaussians against torch.distributions, and the errors they raise."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unidiff import Gaussian


def random_gaussian(seed: int, dtype: torch.dtype = torch.float64) -> Gaussian:
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(5, 3, 2, generator=generator, dtype=dtype)
    return Gaussian(mean, torch.randn(5, 3, 2, generator=generator, dtype=dtype))


def reference(law: Gaussian) -> torch.distributions.Independent:
    scale = law.log_var.exp().sqrt().expand(law.mean.shape)
    return torch.distributions.Independent(torch.distributions.Normal(law.mean, scale), 2)


@given(st.integers(0, 10_000))
def test_log_prob_entropy_and_kl_are_torchs(seed: int) -> None:
    p, q = random_gaussian(seed), random_gaussian(seed + 1)
    x = random_gaussian(seed + 2).mean
    torch.testing.assert_close(p.log_prob(x), reference(p).log_prob(x))
    torch.testing.assert_close(p.entropy(), reference(p).entropy())
    torch.testing.assert_close(p.kl(q), torch.distributions.kl_divergence(reference(p), reference(q)))


@given(st.integers(0, 10_000))
def test_product_is_the_product_of_densities(seed: int) -> None:
    p, q = random_gaussian(seed), random_gaussian(seed + 1)
    both, log_norm = p.product(q)
    x = random_gaussian(seed + 2).mean
    torch.testing.assert_close(both.log_prob(x) + log_norm, p.log_prob(x) + q.log_prob(x))


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
