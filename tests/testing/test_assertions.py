"""Each assertion fails on a violation of the size that it promises to catch, at its stated rate on none, and says where."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from scipy.stats import norm
from scipy.stats import t as student

import unidiff as ud
from unidiff.identities.laws import ALGEBRAIC_C, FAMILY_ALARM, MOST_SCORES, Z_POWER, Means, fitted_order
from unidiff.testing import (
    Inconclusive,
    assert_algebraic,
    assert_gaussian_equal,
    assert_mean_within,
    assert_order,
    assert_samples_from,
    assert_variance_within,
)
from unidiff.testing import strategies as kit
from unidiff.testing.assertions.student import least_draws, skewed_limit, skewness, student_limit

EPS = {torch.float64: 2.0**-52, torch.float32: 2.0**-23}
DTYPES = pytest.mark.parametrize("dtype", list(EPS))


def draws(n: int, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn((n, *shape), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@DTYPES
def test_the_algebraic_law_is_64_roundings_of_kappa(dtype: torch.dtype) -> None:
    expected, kappa = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=dtype), 5.0
    allowed = ALGEBRAIC_C * EPS[dtype] * kappa
    got = expected.clone()
    got[1, 0] += 0.9 * allowed
    assert_algebraic(got, expected, kappa)
    got[1, 0] = 3.0 + 1.1 * allowed
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(
        AssertionError, match=rf"value\[1, 0\]: got 3.*, expected 3, .*eps\({name}\) · κ, κ = 5 .algebraic"
    ):
        assert_algebraic(got, expected, kappa)


def test_the_coarser_of_two_dtypes_is_forgiven_and_no_more() -> None:
    third = torch.tensor([1 / 3], dtype=torch.float64)
    assert_algebraic(third.float(), third, third)
    with pytest.raises(AssertionError):
        assert_algebraic(third.float(), third, third, dtype=torch.float64)


def test_a_law_that_allows_everything_is_inconclusive_and_no_failure() -> None:
    assert not issubclass(Inconclusive, AssertionError)
    with pytest.raises(Inconclusive, match="blind"):
        assert_algebraic(torch.tensor([1.0]), torch.tensor([1.5]), 1e6)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_no_equal(bad: float) -> None:
    with pytest.raises(AssertionError, match=r"value\[1\]: got (nan|inf), expected 2"):
        assert_algebraic([1.0, bad], [1.0, 2.0], 1.0)
    with pytest.raises(AssertionError):
        assert_algebraic(1.0, 1.0001, math.inf)


@given(kit.batches(2, dtype=kit.dtypes()), kit.decimals(-5, 3, 0))
def test_gaussians_are_told_apart_by_mean_and_by_variance(batch: tuple[torch.Tensor, ...], log_var: float) -> None:
    mean, _ = batch
    law = ud.Gaussian(mean, torch.full_like(mean, log_var))
    assert_gaussian_equal(law, law)
    assert_gaussian_equal((mean, law.var), law)
    assert_gaussian_equal(law, torch.distributions.Normal(mean, law.std))
    # What is promised: 64 roundings of |m| + σ, and of v(1 + |log v|).
    room = 2 * ALGEBRAIC_C * EPS[mean.dtype]
    with pytest.raises(AssertionError, match="mean"):
        assert_gaussian_equal((mean + room * (mean.abs() + law.std), law.var), law)
    with pytest.raises(AssertionError, match="variance"):
        assert_gaussian_equal((mean, law.var * (1 + room * (1 + abs(log_var)))), law)


def test_sigma_for_its_square_is_named_with_its_place() -> None:
    law = ud.Gaussian(torch.zeros(2, 3), torch.full((2, 3), -1.0))
    var = law.var.clone()
    var[1, 2] = law.std[1, 2]
    with pytest.raises(AssertionError, match=r"variance\[1, 2\]: got 0.6065\d+, expected 0.3678\d+, off by 0.239"):
        assert_gaussian_equal((law.mean, var), law)


def test_covariances_are_compared_and_a_side_without_one_is_diagonal() -> None:
    world = ud.worlds.library.gaussian()
    torchs = torch.distributions.MultivariateNormal(world.mean, world.covariance)
    assert_gaussian_equal(world, torchs)
    turned = world.covariance.clone()
    turned[0, 1] = turned[1, 0] = -turned[0, 1]
    other = torch.distributions.MultivariateNormal(world.mean, turned)
    with pytest.raises(AssertionError, match=r"covariance\[(0, 1|1, 0)\]: got -0.3, expected 0.3"):
        assert_gaussian_equal(other, world)
    normal = torch.distributions.Normal(world.mean, world.variance.sqrt())
    for side in (torch.distributions.Independent(normal, 1), normal, (world.mean, world.variance)):
        with pytest.raises(AssertionError, match=r"covariance\[(0, 1|1, 0)\]: got 0, expected 0.3"):
            assert_gaussian_equal(side, world)
        with pytest.raises(AssertionError, match=r"covariance\[0, 1\]: got 0.3, expected 0"):
            assert_gaussian_equal(world, side)
        diagonal = torch.distributions.MultivariateNormal(world.mean, world.variance.diag())
        assert_gaussian_equal(side, diagonal)


def test_what_has_two_moments_and_is_no_gaussian_is_refused() -> None:
    zero, one = torch.zeros(2), torch.ones(2)
    laplace = torch.distributions.Laplace(zero, one)
    for law in (laplace, torch.distributions.Independent(laplace, 1), torch.distributions.LogNormal(zero, one)):
        with pytest.raises(TypeError, match="got must be a Gaussian: .* got (Laplace|LogNormal)"):
            assert_gaussian_equal(law, (law.mean, law.variance))
    mixture = ud.worlds.library.mixture_2d()
    with pytest.raises(ValueError, match=r"expected must be a Gaussian, got a mixture of \d components"):
        assert_gaussian_equal((mixture.mean, mixture.variance), mixture)


def test_blindness_is_of_the_worst_entry() -> None:
    with pytest.raises(Inconclusive, match=r"value\[2\]: a relative violation of"):
        assert_algebraic([1.0, 1.0, 1e-15], [1.0, 1.0, 2e-15], 1.0)
    law = ud.Gaussian(torch.zeros(1, 3), torch.zeros(1, 3))
    with pytest.raises(Inconclusive, match="condition 1e.06 is too much"):
        assert_gaussian_equal(law, law, condition=torch.tensor([1.0, 1.0, 1e6]))


def test_a_covariances_condition_is_of_its_own_two_entries() -> None:
    mean, cov = torch.zeros(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    turned = cov.clone()
    turned[0, 1] = turned[1, 0] = 70 * EPS[torch.float64]
    law, other = (torch.distributions.MultivariateNormal(mean, v) for v in (cov, turned))
    with pytest.raises(AssertionError, match=r"covariance\[0, 1\]"):
        assert_gaussian_equal(other, law, condition=torch.tensor([1.0, 1.0, 100.0]))
    assert_gaussian_equal(other, law, condition=torch.tensor([1.0, 100.0, 1.0]))


@pytest.mark.parametrize("log_var", [-20.0, 20.0])
def test_a_variance_is_stored_as_its_logarithm(log_var: float) -> None:
    law = ud.Gaussian(torch.zeros(1, 1, dtype=torch.float64), torch.full((1, 1), log_var, dtype=torch.float64))
    assert_gaussian_equal((law.mean, law.var * (1 + 20 * ALGEBRAIC_C * EPS[torch.float64])), law)


def test_a_distributions_distance_and_its_power_are_the_inequalitys() -> None:
    n, family, alarm = 400, 8, 1e-3
    x = (torch.arange(n, dtype=torch.float64)[:, None] + 0.5) / n  # the uniform law's quantiles: 1/(2n) off at most
    allowed = math.sqrt(math.log(2 * family / alarm) / (2 * n))
    caught = allowed + math.sqrt(math.log(1000) / (2 * n))

    def off(by: float, bound: float) -> None:
        law = lambda y: (y + by - 0.5 / n).clamp(0, 1)  # noqa: E731
        assert_samples_from(x, law, bound=bound, false_alarm=alarm, family=family)

    off(0.999 * allowed, 1.001 * caught)
    with pytest.raises(AssertionError, match="distribution"):
        off(1.001 * allowed, 1.001 * caught)
    with pytest.raises(Inconclusive, match="distribution"):
        off(0.0, 0.999 * caught)


def test_a_worlds_scores_are_its_means_and_its_whole_covariance() -> None:
    world = ud.worlds.library.gaussian()  # 3 means and 9 products
    with pytest.raises(ValueError, match="family must be at least 12, the scores of this call, got 11"):
        assert_samples_from(draws(200, 3), world, family=11)


def test_errors_without_an_order_are_not_of_the_order_of_their_slope() -> None:
    steps = [0.1, 0.05, 0.025, 0.0125]
    errors = [h * c for h, c in zip(steps, (1.0, 4.0, 0.25, 1.0), strict=True)]
    with pytest.raises(AssertionError, match=r"errors\[\d\] = .* times the fitted line; allowed a factor of 1.52"):
        assert_order(errors, steps, fitted_order(steps, errors))
    few = [0.19, 0.15, 0.1]
    with pytest.raises(Inconclusive, match="step_sizes span a factor of 1.9; an order shows over a factor of 2"):
        assert_order(few, few, 1)


def test_a_point_mass_is_a_point_mass() -> None:
    point = ud.Gaussian(torch.ones(1, 2), torch.full((1, 2), -torch.inf))
    assert_gaussian_equal((torch.ones(1, 2), torch.zeros(1, 2)), point)
    with pytest.raises(AssertionError, match="variance"):
        assert_gaussian_equal((torch.ones(1, 2), torch.full((1, 2), 1e-30)), point)


def test_a_condition_widens_what_is_allowed_until_it_is_blind() -> None:
    law = ud.Gaussian(torch.ones(1, 1), torch.zeros(1, 1))
    off = (law.mean * (1 + 3000 * EPS[torch.float32]), law.var)
    with pytest.raises(AssertionError):
        assert_gaussian_equal(off, law)
    assert_gaussian_equal(off, law, condition=100)
    with pytest.raises(Inconclusive, match="condition 1e.06 is too much for float32"):
        assert_gaussian_equal(off, law, condition=1e6)


# 500 z-tests of a true mean at 5%: 25 alarms expected, deviation 4.9. Five of these above or below come 1e-6 of the time.
@pytest.mark.statistical
@pytest.mark.parametrize("check", [assert_mean_within, assert_variance_within])
def test_true_moments_raise_the_stated_share_of_alarms(check) -> None:
    alarms = 0
    for seed in range(500):
        x = draws(400, seed=seed)
        try:
            check(x, 0.0 if check is assert_mean_within else 1.0, bound=9.0, false_alarm=0.05, family=1)
        except AssertionError:
            alarms += 1
    assert 25 - 24 <= alarms <= 25 + 25


# The bound holds at every n and is sharp in the limit: from above 5% is 25 alarms, and 1% is left for n = 400.
@pytest.mark.statistical
def test_true_distributions_raise_at_most_the_stated_share_of_alarms() -> None:
    alarms = 0
    for seed in range(500):
        try:
            assert_samples_from(draws(400, 1, seed=seed), standard(1), bound=9.0, false_alarm=0.05, family=1)
        except AssertionError:
            alarms += 1
    assert 5 <= alarms <= 25 + 25  # a deviation is 4.9


def standard(dim: int) -> ud.Gaussian:
    return ud.Gaussian(torch.zeros(1, dim, dtype=torch.float64), torch.zeros(1, dim, dtype=torch.float64))


# A violation of the bound itself is missed once in a thousand; more than 2 of 40 misses would come once in 10⁵ runs.
@pytest.mark.statistical
def test_a_violation_of_the_bound_is_caught() -> None:
    n = math.ceil((Z_POWER / 0.1) ** 2 * 1.05)
    caught = []
    for seed in range(40):
        x = draws(n, seed=seed)
        caught.append(fails(assert_mean_within, x + 0.1, 0.0))
        assert not fails(assert_mean_within, x, 0.0)
        # Of a variance 1.2 the estimate's error is 1.2 √(2/n): so many draws does the bound of 0.2 take.
        few = math.ceil((Z_POWER * 1.2 / 0.2) ** 2 * 2 * 1.2)
        caught.append(fails(assert_variance_within, x[:few] * math.sqrt(1.2), 1.0))
    assert caught.count(False) <= 2


def fails(check, *arguments, **options) -> bool:
    try:
        check(*arguments, **options)
    except AssertionError:
        return True
    return False


def test_too_few_draws_are_inconclusive_and_say_how_many_would_do() -> None:
    x = draws(1000, 2)
    need = math.ceil((Z_POWER / 0.1) ** 2)
    with pytest.raises(Inconclusive, match=r"mean\[\d\]: .* by 1000 draws; (\d+) would do") as caught:
        assert_mean_within(x, [0.0, 0.0])
    assert int(str(caught.value).split("; ")[1].split()[0]) == pytest.approx(need, rel=0.15)
    with pytest.raises(Inconclusive, match=r"variance\[\d\]: .* would have been caught .* would do"):
        assert_variance_within(draws(4000, 2), 1.0)
    # Squares of normal draws have skewness √8, and so no tail before 3 z² 8 draws.
    with pytest.raises(Inconclusive, match=r"1000 draws of skewness 2.9\d* have no known tail .*; 1348 would have one"):
        assert_variance_within(x, 1.0)
    with pytest.raises(Inconclusive, match="distribution: a distance of .* 1000 draws; .* would do"):
        assert_samples_from(x, standard(2), bound=0.1)


def test_draws_too_few_to_pass_may_still_fail() -> None:
    with pytest.raises(AssertionError, match=r"mean\[1\]: got 1.0\d+, expected 0, .* standard errors of 200 draws"):
        assert_mean_within(draws(200, 2) + torch.tensor([0.0, 1.0]), 0.0)


def test_the_registrys_alarm_is_the_default_by_students_law() -> None:
    y = draws(2000)
    x = torch.cat([y, -y]) / torch.cat([y, -y]).std()  # of skewness 0
    z = float(student.isf(0.5 * FAMILY_ALARM / MOST_SCORES, 3999))
    below, above = ((z + change) / math.sqrt(4000) for change in (-0.01, 0.01))
    assert_mean_within(x + below, 0.0, bound=1.0)
    with pytest.raises(AssertionError, match=f"{z:.2f} standard errors"):
        assert_mean_within(x + above, 0.0, bound=1.0)


# In the tail, through the law itself: each column tests a true mean. By the normal law it is 1.7 to 9 times as many.
@pytest.mark.statistical
@pytest.mark.parametrize("law", ["mean of exponentials", "variance of normals"])
@pytest.mark.parametrize("alarm", [1e-2, 1e-3])
def test_true_skewed_means_alarm_no_more_than_stated_in_the_tail(law: str, alarm: float) -> None:
    n, columns = 100, 40_000
    x = draws(n, columns)
    if law == "mean of exponentials":
        difference = -torch.special.ndtr(x).log() - 1
    else:
        difference = (x - x.mean(0)).square() * (n / (n - 1)) - 1
    limit = skewed_limit(student_limit(alarm, n), skewness(difference), n)
    score = Means.of(difference, torch.ones(columns), torch.float64, limit).score
    expected = alarm * columns
    assert int((score > limit).sum()) <= expected + 4 * math.sqrt(expected)
    assert int((score > norm.isf(alarm / 2)).sum()) > expected + 4 * math.sqrt(expected)  # a test that can fail


def test_a_skewed_limit_solves_its_equation_and_ends_where_it_says() -> None:
    z, n = 7.0, 5000
    skew = torch.tensor([0.0, 0.5, -2.8], dtype=torch.float64)
    found = skewed_limit(z, skew, n)
    torch.testing.assert_close(
        found**2 / 2 - skew.abs() * found**3 / (3 * math.sqrt(n)), torch.full_like(found, z * z / 2)
    )
    assert float(found[0]) == pytest.approx(z)
    assert bool((found.diff() > 0).all())
    skew, least = torch.tensor([2.0], dtype=torch.float64), least_draws(z, 2.0)
    assert bool(torch.isfinite(skewed_limit(z, skew, least)) & torch.isinf(skewed_limit(z, skew, least - 1)))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0, 0.0])
def test_a_scale_is_positive_and_finite(bad: float) -> None:
    with pytest.raises(ValueError, match="scale must be (positive and )?finite"):
        assert_mean_within(draws(200), 0.0, scale=bad)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_expected_is_finite(bad: float) -> None:
    for check in (assert_mean_within, assert_variance_within):
        with pytest.raises(ValueError, match="expected must be finite"):
            check(draws(200), bad)
    with pytest.raises(ValueError, match="mean must be finite"):
        assert_variance_within(draws(200), 1.0, mean=bad)
    law = ud.Gaussian(torch.full((1, 1), bad), torch.zeros(1, 1))
    with pytest.raises(ValueError, match="law must have finite means and variances"):
        assert_samples_from(draws(200, 1), law)


def test_the_rounding_forgiven_is_of_the_samples_and_not_of_the_scale() -> None:
    x = draws(4000)
    with pytest.raises(AssertionError):
        assert_mean_within(x + 1.0, 0.0, scale=1e16, bound=1e-3)
    assert_mean_within(torch.full((200,), 0.1), 0.1)  # alike, and a rounding of float32 away


def test_a_scale_is_what_the_bound_is_in_units_of() -> None:
    x = 100 + draws(2000)
    assert_mean_within(x, 100.0, scale=100.0, bound=0.01)
    with pytest.raises(Inconclusive):
        assert_mean_within(x, 100.0, bound=0.01)


def test_a_known_mean_shows_in_the_variance() -> None:
    x = draws(20_000) + 1
    assert_variance_within(x, 1.0)
    assert_variance_within(x, 2.0, mean=0.0)
    with pytest.raises(AssertionError):
        assert_variance_within(x, 1.0, mean=0.0)


def test_samples_of_a_world_and_of_another() -> None:
    world = ud.worlds.library.mixture_2d()
    x = world.sample(20_000, torch.Generator().manual_seed(0))
    assert_samples_from(x, world)
    with pytest.raises(AssertionError, match=r"mean\[0\]"):
        assert_samples_from(x + torch.tensor([0.3, 0.0]), world)
    gaussian = ud.worlds.library.gaussian()
    y = gaussian.sample(20_000, torch.Generator().manual_seed(0))
    assert_samples_from(y, gaussian)
    with pytest.raises(AssertionError, match=r"covariance\[(0, 1|1, 0)\]"):
        # The same variances, two correlations turned.
        assert_samples_from(gaussian.mean + (y - gaussian.mean) * torch.tensor([-1.0, 1.0, 1.0]), gaussian)


def test_samples_of_a_distribution_and_of_one_with_the_same_moments() -> None:
    uniform = math.sqrt(12) * (torch.rand(20_000, 1, generator=torch.Generator().manual_seed(0)).double() - 0.5)
    with pytest.raises(AssertionError, match=r"distribution\[0\]: .* apart"):
        assert_samples_from(uniform, standard(1), bound=0.1)
    assert_samples_from(uniform, lambda x: x / math.sqrt(12) + 0.5, bound=0.1)
    rows = ud.Gaussian(
        torch.linspace(-5, 5, 20_000, dtype=torch.float64)[:, None], torch.full((20_000, 1), -2.0).double()
    )
    assert_samples_from(rows.sample(torch.Generator().manual_seed(1)), rows)


@pytest.mark.parametrize("order", [1, 2, 1.5])
def test_an_order_is_told_from_its_neighbours(order: float) -> None:
    steps = [0.1, 0.05, 0.025, 0.0125]
    assert_order([3 * h**order * (1 + h) for h in steps], steps, order)
    for off in (-0.25, 0.25):
        with pytest.raises(AssertionError, match=f"declared {order:g}; allowed ±0.2 .order law.; errors"):
            assert_order([h ** (order + off) for h in steps], steps, order)
    with pytest.raises(AssertionError, match=r"errors\[1\] = 0.0 has no logarithm"):
        assert_order([0.1, 0.0, 0.1], steps[:3], order)


X = draws(200, 2)
GAUSSIAN = standard(2)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: assert_algebraic("a", 1.0, 1.0), TypeError, "got must be a tensor, an array or numbers, got 'a'"),
        (lambda: assert_algebraic(1j, 1.0, 1.0), TypeError, "got must be real"),
        (lambda: assert_algebraic([], 1.0, 1.0), ValueError, "got must hold at least one number"),
        (lambda: assert_algebraic([1.0, 2.0], [1.0, 2.0, 3.0], 1.0), ValueError, "must broadcast to one shape"),
        (lambda: assert_gaussian_equal(3.0, GAUSSIAN), TypeError, "got must be a Gaussian, a pair"),
        (
            lambda: assert_gaussian_equal((X, X, X), GAUSSIAN),
            TypeError,
            "got must be a Gaussian or a pair .*tuple of 3",
        ),
        (lambda: assert_gaussian_equal((X, X[:, :1, None]), GAUSSIAN), ValueError, "got's variance must broadcast"),
        (lambda: assert_gaussian_equal((X, 1.0), (X, -1.0)), ValueError, "expected's variance must be at least 0"),
        (
            lambda: assert_gaussian_equal(GAUSSIAN, GAUSSIAN, condition=[1.0, 1.0, 1.0]),
            ValueError,
            r"condition must broadcast to the mean's shape \[1, 2\], got \[3\]",
        ),
        (lambda: assert_algebraic(1.0, 1.0, math.nan), ValueError, "kappa must be at least 0, got nan"),
        (lambda: assert_algebraic(1.0, 1.0, -1.0), ValueError, "kappa must be at least 0, got -1.0"),
        (
            lambda: assert_algebraic(1.0, 1.0, 1.0, dtype="float32"),  # pyright: ignore
            TypeError,
            "dtype must be a floating torch.dtype, got 'float32'",
        ),
        (
            lambda: assert_gaussian_equal(GAUSSIAN, GAUSSIAN, dtype=torch.int64),
            ValueError,
            "dtype must be a floating torch.dtype, got torch.int64",
        ),
        (lambda: assert_gaussian_equal(GAUSSIAN, GAUSSIAN, condition=0.5), ValueError, "condition must be at least 1"),
        (
            lambda: assert_gaussian_equal((X, 1.0), GAUSSIAN),
            AssertionError,
            r"mean: got shape \[200, 2\], expected \[1, 2\]",
        ),
        (lambda: assert_mean_within(X[:99], 0.0), ValueError, "samples must hold at least 100 draws"),
        (lambda: assert_mean_within(X / 0, 0.0), ValueError, "samples must be finite; 400 of 400"),
        (lambda: assert_mean_within(X, [0.0, 0.0, 0.0]), ValueError, r"expected must broadcast to \[2\], got \[3\]"),
        (lambda: assert_mean_within(X, 0.0, bound=0), ValueError, "bound must be positive and finite, got 0"),
        (lambda: assert_mean_within(X, 0.0, false_alarm=1.0), ValueError, r"false_alarm must lie in \(0, 1\), got 1.0"),
        (
            lambda: assert_mean_within(X, 0.0, family=1),
            ValueError,
            "family must be at least 2, the scores of this call",
        ),
        (lambda: assert_variance_within(X, -1.0), ValueError, "expected must be at least 0, a variance, got -1.0"),
        (lambda: assert_samples_from(X, 3), TypeError, "law must be a world, a Gaussian or a distribution"),  # pyright: ignore
        (lambda: assert_samples_from(X, standard(3)), ValueError, "law must have the samples' shape"),
        (lambda: assert_samples_from(X, lambda x: 2 + x), ValueError, "law must map samples to probabilities"),
        (lambda: assert_samples_from(X, ud.worlds.library.gaussian()), ValueError, "law must be one world"),
        (lambda: assert_samples_from(X, ud.Gaussian(X[:1], X[:1] - torch.inf)), ValueError, "got a point mass"),
        (lambda: assert_order([1.0, 0.5], [1.0, 0.5], 1), ValueError, "errors must be at least three, got 2"),
        (
            lambda: assert_order([1.0, 0.5, 0.2], [1.0, 0.5], 1),
            ValueError,
            "step_sizes must be as many as errors, 3, got 2",
        ),
        (lambda: assert_order([1.0, 0.5, 0.2], [1.0, 0.5, 0], 1), ValueError, "step_sizes must be positive and finite"),
        (lambda: assert_order([1.0, 0.5, 0.2], [1.0, 1.0, 0.5], 1), ValueError, "step_sizes must hold at least three"),
        (lambda: assert_order([1.0, 0.5, 0.2], [1.0, 0.5, 0.2], 0), ValueError, "order must be positive"),
    ],
)
def test_bad_arguments_are_refused(call, error, words: str) -> None:
    with pytest.raises(error, match=words):
        call()


def test_arrays_are_taken() -> None:
    assert_algebraic(np.array([1.0, 2.0], dtype=np.float32), [1.0, 2.0], 1.0)
    assert_mean_within(draws(20_000, 2).numpy(), np.zeros(2))
