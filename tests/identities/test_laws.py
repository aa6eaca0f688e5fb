"""The five laws: each passes what is true, fails what is not, and will not pass what it cannot see."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from unidiff.identities import laws, registry
from unidiff.identities.laws import Algebraic, Bound, Identity, MonteCarlo, Order, Quadrature, Sides


def case(dtype: torch.dtype = torch.float64) -> Any:
    return SimpleNamespace(
        dtype=dtype, eps=torch.finfo(dtype).eps, exact=True, world_name="w", schedule_name="s",
        dtype_name=str(dtype)[6:], device_name="cpu",
    )  # fmt: skip


def named(base: type[Identity], **members: object) -> Identity:
    text = {"name": "test", "statement": "a=b", "views": ("core",), "source": "nowhere"}
    return type("Test", (base,), {**text, **members})()


@pytest.mark.parametrize(("error", "verdict"), [(0.0, "pass"), (60.0, "pass"), (70.0, "fail"), (math.nan, "fail")])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_algebraic_allows_64_eps_of_kappa(error: float, verdict: str, dtype: torch.dtype) -> None:
    eps = torch.finfo(dtype).eps
    one, kappa = torch.ones(3, dtype=torch.float64), torch.full((3,), 10.0)
    other = one + torch.tensor([0.0, error * eps * 10.0, 0.0], dtype=torch.float64)
    identity = named(Algebraic, sides=lambda self, case: [Sides(one, other, kappa)])
    assert identity.check(case(dtype)).verdict == verdict


@pytest.mark.parametrize("kappa", [math.inf, math.nan])
def test_algebraic_refuses_a_condition_that_allows_anything(kappa: float) -> None:
    one = torch.ones(3, dtype=torch.float64)
    check = named(Algebraic, sides=lambda self, case: [Sides(one, one, one), Sides(one, one, kappa * one)]).check(
        case()
    )
    assert check.verdict == "fail"
    assert "not finite" in check.detail


@pytest.mark.parametrize(("blind", "verdict"), [(0, "pass"), (1, "pass"), (2, "inconclusive")])
def test_algebraic_is_inconclusive_where_it_allows_a_tenth_of_the_value_for_most_members(blind, verdict) -> None:
    one = torch.ones(3, dtype=torch.float64)
    kappa = torch.tensor([0.11 if k < blind else 0.09 for k in range(3)], dtype=torch.float64)
    kappa = kappa / (laws.ALGEBRAIC_C * torch.finfo(torch.float64).eps)
    check = named(Algebraic, sides=lambda self, case: [Sides(one, one, one), Sides(one, one, kappa)]).check(case())
    assert check.verdict == verdict
    assert check.power == pytest.approx(0.11 if blind == 2 else 0.09)


def test_algebraic_says_nothing_of_a_zero() -> None:
    zero, one = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    assert named(Algebraic, sides=lambda self, case: [Sides(zero, zero, one)]).check(case()).verdict == "pass"


def test_an_error_while_checking_is_a_violation_that_says_so() -> None:
    def broken(self, case):
        raise ValueError("no such level")

    check = named(Algebraic, sides=broken).check(case())
    assert (check.verdict, check.detail) == ("fail", "ValueError: no such level")


def draws(shift: float, n: int = 4096, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + shift


@pytest.mark.parametrize(
    ("shift", "scale", "verdict"),
    [
        (0.0, 1.0, "pass"),
        (0.25, 1.0, "fail"),
        (0.0, 3.0, "inconclusive"),
        (math.nan, 1.0, "fail"),
        (math.inf, 1.0, "fail"),
    ],
)
def test_monte_carlo_needs_power_to_pass(shift: float, scale: float, verdict: str) -> None:
    identity = named(MonteCarlo, differences=lambda self, case: (draws(shift, scale=scale), torch.ones(1)))
    assert identity.check(case()).verdict == verdict


def test_monte_carlo_forgives_rounding_at_the_size_of_the_terms_alone() -> None:
    eps = torch.finfo(torch.float64).eps
    alike = torch.full((64,), 20 * eps, dtype=torch.float64)
    for size, verdict in ((1.0, "pass"), (0.1, "fail")):
        differences = lambda self, case, size=size: (alike, torch.tensor([size]))  # noqa: E731
        assert named(MonteCarlo, differences=differences).check(case()).verdict == verdict
    nothing = named(MonteCarlo, differences=lambda self, case: (0 * alike, torch.zeros(1))).check(case())
    assert (nothing.verdict, nothing.power) == ("pass", 0.0)


def test_monte_carlo_catches_what_it_says_it_would() -> None:
    # The stated power is 0.999 at the printed violation: 200 trials there, at most 3 misses with probability 0.99999.
    misses = 0
    for seed in range(200):
        values = torch.randn(1024, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        quiet = named(MonteCarlo, bound=9.0, differences=lambda self, case, v=values: (v, torch.ones(1))).check(case())
        assert quiet.power is not None
        loud = named(MonteCarlo, bound=9.0, differences=lambda self, case, v=values + quiet.power: (v, torch.ones(1)))
        misses += loud.check(case()).verdict != "fail"
    assert misses <= 3


def test_the_family_wise_false_alarm_rate_is_below_one_in_a_million() -> None:
    from scipy.stats import norm

    assert 2 * norm.sf(laws.Z_LIMIT) * laws.MOST_SCORES <= 1e-6 * (1 + 1e-9)


@pytest.mark.parametrize(
    ("slope", "verdict"), [(2.0, "pass"), (1.85, "pass"), (1.75, "fail"), (2.3, "fail"), (0.0, "fail")]
)
def test_order_is_a_slope(slope: float, verdict: str) -> None:
    steps = [1 / n for n in (32, 64, 128)]
    identity = named(Order, errors=lambda self, case: (steps, [s**slope for s in steps], 2.0))
    assert identity.check(case()).verdict == verdict


def test_an_order_of_no_error_at_all_is_a_failure() -> None:
    steps = [1 / n for n in (32, 64, 128)]
    identity = named(Order, errors=lambda self, case: (steps, [0.0, 0.0, 0.0], 2.0))
    assert identity.check(case()).verdict == "fail"


@pytest.mark.parametrize(
    ("rate", "offset", "verdict"),
    [(4, 0.0, "pass"), (4, 1e-3, "fail"), (0, 0.0, "inconclusive"), (4, math.nan, "fail")],
)
def test_quadrature_refines_until_it_may_judge(rate: int, offset: float, verdict: str) -> None:
    def values(self, case, n):
        # A wandering estimate (rate 0) never settles.
        off = torch.tensor(float(n % 3) if rate == 0 else float(n) ** -rate, dtype=torch.float64)
        return torch.ones((), dtype=torch.float64) + off, torch.ones((), dtype=torch.float64) + off + offset

    identity = named(Quadrature, values=values, rounding=lambda self, case: 1e-16)
    assert identity.check(case()).verdict == verdict


@pytest.mark.parametrize(("excess", "verdict"), [(-0.1, "pass"), (0.0, "pass"), (0.1, "fail")])
def test_a_bound_has_a_margin(excess: float, verdict: str) -> None:
    assert named(Bound, excess=lambda self, case: (excess, 0.0)).check(case()).verdict == verdict


def test_a_networks_optimal_identity_is_a_gap() -> None:
    subject = case()
    subject.exact = False
    one = torch.ones(1, dtype=torch.float64)
    identity = named(Algebraic, subject="optimal", sides=lambda self, case: [Sides(one, 2 * one, one)])
    assert identity.check(subject).verdict == "gap"


def test_names_are_taken_once_and_views_are_known() -> None:
    with pytest.raises(ValueError, match="name must be new, got 'tweedie' again"):
        registry.register(type(registry.get("tweedie")))
    with pytest.raises(ValueError, match="unknown view 'scor'; did you mean 'score'"):
        registry.register(type("Other", (Bound,), {"name": "other", "views": ("scor",)}))


def test_ones_own_is_taken_out_again() -> None:
    before = [identity.name for identity in registry.all()]
    told = {"name": "own-for-a-while", "statement": r"a \le b", "views": ("core",), "source": "nowhere"}
    own = type("Own", (Bound,), told | {"excess": lambda self, case: (0.0, 0.0)})
    for _ in range(2):
        registry.register(own)
        assert registry.get("own-for-a-while").check(case()).verdict == "pass"
        registry.unregister("own-for-a-while")
        assert [identity.name for identity in registry.all()] == before
    with pytest.raises(ValueError, match="unknown identity 'own-for-a-while'"):
        registry.unregister("own-for-a-while")


@pytest.mark.parametrize("identity", registry.all(), ids=lambda i: i.name)
def test_every_entry_says_what_it_claims(identity: Identity) -> None:
    assert identity.statement
    assert identity.source
    assert identity.views
    assert identity.__doc__
    assert identity.subject in ("core", "optimal", "schedule")
