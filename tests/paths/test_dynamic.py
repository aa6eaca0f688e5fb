"""Shortest paths: the enumeration's, whatever the costs; a beam's where prices read the state."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unidiff.paths import beam, brute_force, shortest
from unidiff.paths.dynamic import total

INF = math.inf


@st.composite
def tables(draw: st.DrawFn) -> Tensor:
    last = draw(st.integers(1, 8))
    number = st.one_of(st.integers(-3, 3).map(float), st.floats(-5.0, 5.0), st.just(INF))
    count = (last + 1) * last // 2
    cost = torch.full((last + 1, last + 1), 7.0, dtype=torch.float64).tril()
    i, j = torch.triu_indices(last + 1, last + 1, 1)
    cost[i, j] = torch.tensor(draw(st.lists(number, min_size=count, max_size=count)), dtype=torch.float64)
    return cost


@settings(deadline=None, max_examples=80)
@given(tables())
def test_it_is_the_cheapest_of_all_paths_and_of_equal_ones_a_fixed_one(cost) -> None:
    last = len(cost) - 1
    found = shortest(cost, last)
    for steps in range(1, last + 1):
        value, path = brute_force(cost, steps)
        if math.isinf(value):
            assert float(found.values[steps - 1]) == INF
            with pytest.raises(ValueError, match="steps must be a number for which there is a path of finite cost"):
                found.path(steps)
            continue
        own = found.path(steps)
        assert own.tolist() == sorted(set(own.tolist())) and len(own) == steps + 1 and own[0] == 0 and own[-1] == last
        assert float(found.values[steps - 1]) == pytest.approx(value, rel=1e-12, abs=1e-12)
        assert float(total(cost, own)) == pytest.approx(value, rel=1e-12, abs=1e-12)
        assert math.isfinite(float(total(cost, path)))
        # From the noise down, the lowest of equal predecessors.
        place = own.tolist()
        layers = shortest(cost, last)
        assert layers.path(steps).tolist() == place


def test_equal_paths_give_the_lowest_indices() -> None:
    cost = torch.ones(6, 6, dtype=torch.float64).triu(1)
    assert [shortest(cost, 5).path(k).tolist() for k in (2, 3)] == [[0, 1, 5], [0, 1, 2, 5]]


def test_a_price_a_step_adds_up_and_the_rest_stays() -> None:
    cost = torch.rand(30, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    one, other = shortest(cost, 20), shortest(cost + 0.25, 20)
    for k in range(1, 21):
        assert torch.equal(one.path(k), other.path(k))
        assert float(other.values[k - 1] - one.values[k - 1]) == pytest.approx(0.25 * k, rel=1e-12)


def test_more_steps_cost_no_more_where_a_step_costs_no_less_than_its_parts() -> None:
    t = torch.linspace(0, 1, 40, dtype=torch.float64)
    values = shortest((t[None] - t[:, None]).square(), 39).values
    assert bool((values.diff() <= 1e-15).all())
    assert float(values[9]) == pytest.approx(sum((p / 39) ** 2 for p in [4] * 9 + [3]), rel=1e-12)


def test_many_rows_are_taken_in_blocks_and_nothing_is_lost_between() -> None:
    size = 3 * 64 + 5
    cost = torch.rand(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    wide = cost.masked_fill(~torch.ones(size, size, dtype=torch.bool).triu(1), INF)
    value = wide[0]
    for k, found in enumerate(shortest(cost, 12).values, 1):
        assert float(found) == float(value[-1]), k
        value = (value[:, None] + wide).amin(0)


@pytest.mark.gpu
def test_a_gpu_finds_the_same_paths() -> None:
    cost = torch.rand(300, 300, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).round(decimals=1)
    one, other = shortest(cost, 40), shortest(cost.cuda(), 40)
    assert torch.equal(one.values, other.values)
    assert all(torch.equal(one.path(k), other.path(k)) for k in range(1, 41))


def walking(cost: Tensor, read: float):
    """A step's price: the table's, and ``read`` times how far the state (the sum of places seen) is from a multiple of 3."""

    def step(states: Tensor, j: Tensor, i: Tensor) -> tuple[Tensor, Tensor]:
        return cost[i, j] + read * (states[:, 0] % 3), states + i[:, None].double()

    return step


def enumerated(cost: Tensor, read: float, steps: int) -> tuple[float, list[int]]:
    last, best = len(cost) - 1, (INF, [0])
    for inner in itertools.combinations(range(1, last), steps - 1):
        path, state, paid = [0, *inner, last], float(last), 0.0
        for i, j in reversed(list(itertools.pairwise(path))):
            paid += float(cost[i, j]) + read * (state % 3)
            state += i
        best = min(best, (paid, path))
    return best


def test_a_beam_is_exact_where_no_price_reads_the_state_and_where_it_keeps_all() -> None:
    cost = torch.rand(9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    start, exact = torch.tensor([8.0], dtype=torch.float64), shortest(cost, 8)
    for width in (1, 3):
        found = beam(start, walking(cost, 0.0), 8, 8, width)
        torch.testing.assert_close(found.values, exact.values)
        assert found.label == f"beam-{width}" and all(torch.equal(found.path(k), exact.path(k)) for k in range(1, 9))
    whole = beam(start, walking(cost, 2.0), 8, 8, 200)
    for k in range(1, 9):
        value, path = enumerated(cost, 2.0, k)
        assert float(whole.values[k - 1]) == pytest.approx(value, rel=1e-12) and whole.path(k).tolist() == path
    narrow = beam(start, walking(cost, 2.0), 8, 8, 1)
    assert bool((narrow.values >= whole.values - 1e-12).all()) and bool((narrow.values > whole.values + 1e-9).any())


TABLE = torch.rand(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def with_entry(i: int, j: int, value: float) -> Tensor:
    cost = TABLE.clone()
    cost[i, j] = value
    return cost


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: shortest(TABLE, 0), ValueError, "most must be an integer of at least 1, got 0"),
        (lambda: shortest(TABLE, 5), ValueError, "most must be at most the 4 steps between candidates, got 5"),
        (lambda: shortest(TABLE[:3], 1), ValueError, r"cost must be square, .* got shape \[3, 5\]"),
        (lambda: shortest(TABLE[:1, :1], 1), ValueError, "cost must be square, of at least two candidates"),
        (lambda: shortest(TABLE.long(), 1), TypeError, "cost"),
        (lambda: shortest(with_entry(1, 3, math.nan), 2), ValueError, "got nan of the step from 3 to 1"),
        (lambda: shortest(with_entry(0, 4, -INF), 2), ValueError, "got -inf of the step from 4 to 0"),
        (lambda: brute_force(torch.zeros(14, 14), 3), ValueError, "cost must be of at most 12 steps .* got 13"),
        (lambda: shortest(TABLE, 3).path(4), ValueError, "steps must be at most the 3 that were searched, got 4"),
        (lambda: shortest(TABLE, 3).path(0), ValueError, "steps must be an integer of at least 1, got 0"),
        (lambda: beam(TABLE[0], walking(TABLE, 0.0), 4, 5, 1), ValueError, "most must be at most the 4 steps"),
        (lambda: beam(TABLE[0], walking(TABLE, 0.0), 4, 2, 0), ValueError, "width must be an integer of at least 1"),
        (lambda: beam(TABLE[0], walking(TABLE * math.nan, 0.0), 4, 2, 1), ValueError, "cost must be a number or"),
    ],
)
def test_what_has_no_paths_is_refused(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call()


def test_what_is_not_read_may_be_anything() -> None:
    assert shortest(with_entry(3, 1, math.nan), 4).values.tolist() == shortest(TABLE, 4).values.tolist()
