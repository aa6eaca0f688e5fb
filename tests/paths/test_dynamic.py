"""Dynamic programming finds what brute force finds, what the closed forms say, and refuses what is no cost.

Costs of small integers are summed without rounding, so that totals, ties and paths are compared exactly.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from unidiff.paths.dynamic import Paths, beam, brute_force, shortest, total

INF = math.inf


@st.composite
def costs(draw: st.DrawFn, entry: st.SearchStrategy[float], most: int = 7) -> Tensor:
    """A cost matrix of N ≤ ``most`` steps, of such entries."""
    last = draw(st.integers(1, most))
    c = torch.zeros(last + 1, last + 1, dtype=torch.float64)
    for i, j in itertools.combinations(range(last + 1), 2):
        c[i, j] = draw(entry)
    return c


INTEGERS = st.integers(-1, 1).map(float)
HOLED = st.one_of(INTEGERS, st.just(INF))
REALS = st.one_of(st.floats(-1e6, 1e6), st.just(INF))


def random_cost(last: int, seed: int, kind: str = "real") -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    size = (last + 1, last + 1)
    if kind == "integer":
        return torch.randint(-3, 4, size, generator=generator).double().triu(1)
    c = torch.randn(size, dtype=torch.float64, generator=generator).triu(1)
    if kind == "holed":
        c[torch.rand(size, generator=generator).triu(1) > 0.6] = INF
    return c


def agrees_with_brute_force(found: Paths, cost: Tensor, same_path: bool) -> None:
    for steps in range(1, len(cost)):
        if math.isinf(found.values[steps - 1]):
            for search in (found.path, lambda k: brute_force(cost, k)):
                with pytest.raises(ValueError, match=f"got {steps}, and every such path is forbidden"):
                    search(steps)
            assert (found.nodes[steps - 1] == -1).all()
            continue
        value, path = brute_force(cost, steps)
        assert found.values[steps - 1] == value
        assert total(cost, found.path(steps)) == value
        assert not same_path or torch.equal(found.path(steps), path)


@given(costs(HOLED))
def test_ties_and_forbidden_steps_are_brute_forces(cost: Tensor) -> None:
    agrees_with_brute_force(shortest(cost, len(cost) - 1), cost, same_path=True)


@given(costs(REALS))
def test_a_value_is_brute_forces_to_the_last_bit(cost: Tensor) -> None:
    agrees_with_brute_force(shortest(cost, len(cost) - 1), cost, same_path=False)


@pytest.mark.parametrize("kind", ["real", "integer", "holed"])
@pytest.mark.parametrize("last", [11, 12])
def test_brute_force_agrees_at_its_largest(last: int, kind: str) -> None:
    cost = random_cost(last, last, kind)
    agrees_with_brute_force(shortest(cost, last), cost, same_path=True)


@given(st.integers(1, 16), st.integers(0, 2**31))
def test_a_path_leads_from_0_to_n_and_costs_its_value(last: int, seed: int) -> None:
    cost = random_cost(last, seed, "holed")
    found = shortest(cost, last)
    assert found.label == "exact" and found.most == last and found.nodes.shape == (last, last + 1)
    for steps in range(1, last + 1):
        if torch.isfinite(found.values[steps - 1]):
            path = found.path(steps)
            assert path.dtype == torch.int64 and path.shape == (steps + 1,)
            assert path[0] == 0 and path[-1] == last and (path.diff() > 0).all()
            assert total(cost, path) == found.values[steps - 1]
            assert (found.nodes[steps - 1, steps + 1 :] == -1).all()


@given(costs(HOLED), st.integers(-5, 5))
def test_a_charge_for_each_step_is_paid_k_times(cost: Tensor, charge: int) -> None:
    last = len(cost) - 1
    plain, charged = shortest(cost, last), shortest((cost + charge).triu(1), last)
    assert torch.equal(charged.values, plain.values + charge * torch.arange(1.0, last + 1, dtype=torch.float64))
    assert torch.equal(charged.nodes, plain.nodes)


@given(costs(HOLED), st.data())
def test_what_is_not_asked_for_changes_nothing(cost: Tensor, data: st.DataObject) -> None:
    whole = shortest(cost, len(cost) - 1)
    most = data.draw(st.integers(1, len(cost) - 1))
    part = shortest(cost, most)
    assert torch.equal(part.values, whole.values[:most])
    assert torch.equal(part.nodes, whole.nodes[:most, : most + 1])


@given(costs(HOLED), st.integers(0, 2**31))
def test_what_is_below_the_triangle_changes_nothing(cost: Tensor, seed: int) -> None:
    chosen = torch.rand(cost.shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    other = cost.masked_fill(chosen.tril(), INF)
    found, same = shortest(cost, len(cost) - 1), shortest(other, len(cost) - 1)
    assert torch.equal(found.values, same.values) and torch.equal(found.nodes, same.nodes)


@given(st.integers(2, 30), st.integers(0, 2**31))
def test_more_steps_cost_less_where_a_split_saves(last: int, seed: int) -> None:
    """c[i, k] = Σ of non-negative weights w[a, b] over i ≤ a < b ≤ k: a split drops the pairs that straddle it."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randint(0, 9, (last + 1, last + 1), generator=generator).double().triu(1)
    cost = weight.cumsum(1).flip(0).cumsum(0).flip(0).triu(1)
    assert (shortest(cost, last).values.diff() <= 0).all()


def test_a_grid_whose_rows_are_split_is_as_one_that_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    cost = random_cost(40, 8, "holed")
    whole = shortest(cost, 20)
    monkeypatch.setattr("unidiff.paths.dynamic._SERIAL", 60)
    split = shortest(cost, 20)
    assert torch.equal(split.values, whole.values) and torch.equal(split.nodes, whole.nodes)


def test_of_equal_paths_the_lowest_is_taken() -> None:
    found = shortest(torch.zeros(6, 6), 5)
    assert [found.path(k).tolist() for k in (1, 2, 3)] == [[0, 5], [0, 1, 5], [0, 1, 2, 5]]


def test_a_float32_cost_is_summed_in_float64() -> None:
    cost = random_cost(10, 3).float()
    found = shortest(cost, 10)
    assert found.values.dtype == torch.float64
    assert torch.equal(found.values, shortest(cost.double(), 10).values)


def test_the_input_is_left_alone_and_is_not_held() -> None:
    cost = random_cost(9, 4, "integer").requires_grad_()
    kept = cost.detach().clone()
    found = shortest(cost, 9)
    path = found.path(4).clone()
    assert torch.equal(cost, kept) and not found.values.requires_grad
    cost.detach().fill_(7.0)
    assert torch.equal(found.path(4), path)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["real", "integer", "holed"])
def test_a_gpu_finds_the_same_bits(kind: str) -> None:
    cost = random_cost(200, 5, kind)
    here, there = shortest(cost, 40), shortest(cost.cuda(), 40)
    assert there.values.is_cuda and there.path(40).is_cuda
    assert torch.equal(here.values, there.values.cpu()) and torch.equal(here.nodes, there.nodes.cpu())


# -- closed forms


def test_elbo_cost_is_least_on_the_geometric_grid() -> None:
    """Identity 63, data N(0, c²I): optimum ½K(U^{1/K} − 1), where U is the ratio of u = 1 + c²SNR at the ends."""
    last, steps, c2 = 400, 5, 0.7**2
    ends = math.log1p(1e4 * c2), math.log1p(1e-3 * c2)
    log_u = torch.linspace(*ends, last + 1, dtype=torch.float64)
    u = log_u.exp()
    cost = (0.5 * (u[:, None] - u) / u).triu(1)  # ½(SNR_s − SNR_t) c²/(1 + c² SNR_t)
    optimum = 0.5 * steps * math.expm1((ends[0] - ends[1]) / steps)
    found = shortest(cost, steps)
    # K divides N, so that the optimum is on the grid: what is left is the rounding of the sums.
    assert abs(found.values[-1] / optimum - 1) < 1e-12 and round(optimum, 2) == 11.18
    assert found.path(steps).tolist() == [0, 80, 160, 240, 320, 400]

    uniform = torch.linspace(math.log(1e4), math.log(1e-3), steps + 1, dtype=torch.float64).exp()
    assert round(float((0.5 * c2 * -uniform.diff() / (1 + c2 * uniform[1:])).sum()), 2) == 25.68


def test_euler_keeps_most_deviation_where_arctan_sigma_is_even() -> None:
    """Identity 62: −log cos Δθ of a step; the optimum is uniform in θ = arctan(σ/c), 0.8147 for six steps 80 → 0.002."""
    last, steps, c = 300, 6, 0.7
    theta = torch.linspace(math.atan(0.002 / c), math.atan(80 / c), last + 1, dtype=torch.float64)
    cost = -(theta - theta[:, None]).cos().log().triu(1)
    found = shortest(cost, steps)
    assert math.exp(-found.values[-1]) == pytest.approx(math.cos((theta[-1] - theta[0]) / steps) ** steps, rel=1e-12)
    assert round(math.exp(-found.values[-1]), 4) == 0.8147
    assert found.path(steps).tolist() == list(range(0, 301, 50))

    rho = 7.0
    sigma = torch.linspace(0.002 ** (1 / rho), 80 ** (1 / rho), steps + 1, dtype=torch.float64) ** rho
    assert round(float((sigma / c).atan().diff().cos().prod()), 4) == 0.6445


def test_where_every_grid_ties_the_values_tie() -> None:
    """Identity 64, the negative control: c[i, j] = h(j) − h(i) telescopes, and every path costs the same."""
    h = torch.arange(50, dtype=torch.float64).square()
    assert torch.equal(shortest((h - h[:, None]).triu(1), 20).values, torch.full((20,), 49.0**2, dtype=torch.float64))


# -- the beam


def additive(cost: Tensor):
    """``cost`` as a step that keeps no state."""
    return lambda states, j, i: (cost[i, j], states)


@given(costs(HOLED), st.integers(1, 3), st.integers(1, 50))
def test_a_beam_of_any_width_is_exact_for_an_additive_cost(cost: Tensor, width: int, chunk: int) -> None:
    exact = shortest(cost, len(cost) - 1)
    found = beam(len(cost), len(cost) - 1, torch.zeros(()), additive(cost), width, chunk)
    assert found.label == f"beam-{width}"
    assert torch.equal(found.values, exact.values) and torch.equal(found.nodes, exact.nodes)


def test_a_beam_of_width_1_is_exact_on_a_grid_of_many_nodes() -> None:
    cost = random_cost(60, 6, "integer")
    exact, found = shortest(cost, 20), beam(61, 20, torch.zeros(2), additive(cost), 1)
    assert torch.equal(found.values, exact.values) and torch.equal(found.nodes, exact.nodes)


def remembering(cost: Tensor):
    """A cost that grows with how far the last step went: the state is that length, and the number of steps so far."""

    def step(states: Tensor, j: Tensor, i: Tensor) -> tuple[Tensor, Tensor]:
        length = (j - i).double()
        price = cost[i, j] + (length - states[:, 0]).abs() * (1 + states[:, 1] % 2)
        return price, torch.stack([length, states[:, 1] + 1], 1)

    return step


def walked(step, path: tuple[int, ...]) -> float:
    """What the step charges along a path, from N down."""
    state, spent = torch.zeros(1, 2, dtype=torch.float64), 0.0
    for j, i in itertools.pairwise(path[::-1]):
        cost, state = step(state, torch.tensor([j]), torch.tensor([i]))
        spent += float(cost)
    return spent


def best_of_all(step, last: int, steps: int) -> float:
    inner = itertools.combinations(range(1, last), steps - 1)
    return min(walked(step, (0, *nodes, last)) for nodes in inner)


@given(costs(HOLED, most=6))
def test_a_wide_beam_is_brute_force_for_a_cost_with_a_memory(cost: Tensor) -> None:
    last, step = len(cost) - 1, remembering(cost)
    found = beam(last + 1, last, torch.zeros(2, dtype=torch.float64), step, 2**last)
    for steps in range(1, last + 1):
        best = best_of_all(step, last, steps)
        assert found.values[steps - 1] == best
        if math.isfinite(best):
            assert walked(step, tuple(found.path(steps).tolist())) == best


def test_a_narrow_beam_bounds_from_above_and_a_wider_one_reaches_the_optimum() -> None:
    """Of 8 costs with a memory, N = 7: width 1 misses some optimum, no width goes below, and width 64 finds them all."""
    missed = {1: 0, 64: 0}
    for seed in range(8):
        step = remembering(random_cost(7, seed, "integer"))
        best = torch.tensor([best_of_all(step, 7, k) for k in range(1, 8)], dtype=torch.float64)
        for width in missed:
            found = beam(8, 7, torch.zeros(2, dtype=torch.float64), step, width)
            assert (found.values >= best).all()
            missed[width] += int((found.values > best).sum())
            for k in range(1, 8):
                assert walked(step, tuple(found.path(k).tolist())) == found.values[k - 1]
    assert missed[1] > 0 and missed[64] == 0


def test_a_beam_asks_for_chunks_of_steps_down_and_keeps_the_states_together() -> None:
    seen: list[int] = []

    def step(states: Tensor, j: Tensor, i: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(len(states))
        assert states.shape[1:] == (2, 3) and (i < j).all() and (i >= 0).all()
        assert (states == j[:, None, None]).all()  # a state is of the node where its path stands
        return torch.ones(len(j)), i[:, None, None].expand(-1, 2, 3)

    found = beam(11, 10, torch.full((2, 3), 10), step, width=3, chunk=7)
    assert max(seen) == 7
    assert torch.equal(found.values, torch.arange(1.0, 11, dtype=torch.float64))


# -- bad input


def with_entry(i: int, j: int, value: float) -> Tensor:
    cost = random_cost(4, 0)
    cost[i, j] = value
    return cost


@pytest.mark.parametrize(
    ("cost", "most", "match"),
    [
        (random_cost(4, 0), 0, "most must be an integer of at least 1, got 0"),
        (random_cost(4, 0), 5, "most must be at most N = 4, .* got 5"),
        (random_cost(4, 0), 2.0, "most must be an integer"),
        (torch.zeros(3, 4), 1, r"cost must have shape \[N \+ 1, N \+ 1\], N ≥ 1, got \[3, 4\]"),
        (torch.zeros(4), 1, r"cost must have shape .* got \[4\]"),
        (torch.zeros(2, 3, 3), 1, r"cost must have shape .* got \[2, 3, 3\]"),
        (torch.zeros(1, 1), 1, r"cost must have shape .* got \[1, 1\]"),
        (torch.zeros(0, 0), 1, r"cost must have shape .* got \[0, 0\]"),
        (with_entry(1, 3, math.nan), 2, r"cost must be a number or \+inf, got cost\[1, 3\] = nan"),
        (with_entry(0, 4, -INF), 2, r"cost must be a number or \+inf, got cost\[0, 4\] = -inf"),
        (with_entry(3, 1, 1e-300), 2, r"0 or \+inf where i ≥ j, .* got cost\[3, 1\] = 1e-300"),
        (with_entry(3, 1, math.nan), 2, r"0 or \+inf where i ≥ j, .* got cost\[3, 1\] = nan"),
        (with_entry(2, 2, -INF), 2, r"0 or \+inf where i ≥ j, .* got cost\[2, 2\] = -inf"),
        (with_entry(2, 2, -0.5), 2, r"0 or \+inf where i ≥ j, .* got cost\[2, 2\] = -0.5"),
        (with_entry(2, 3, 1e308), 4, "so small that 4 steps can be summed"),
        (with_entry(2, 3, -1e308), 4, "so small that 4 steps can be summed"),
        (with_entry(2, 3, 1e308).index_fill(1, torch.tensor(4), INF), 4, "so small that 4 steps can be summed"),
    ],
)
def test_what_is_no_cost_is_refused(cost: Tensor, most: int, match: str) -> None:
    for search in (shortest, brute_force):
        with pytest.raises(ValueError, match=match.replace("most", "(most|steps)")):
            search(cost, most)


@pytest.mark.parametrize("cost", [torch.zeros(3, 3, dtype=torch.int64), torch.zeros(3, 3, dtype=torch.cfloat), [[0.0]]])
def test_a_cost_of_another_kind_is_refused(cost) -> None:
    for search in (shortest, brute_force):
        with pytest.raises(TypeError, match="cost must be a floating-point tensor"):
            search(cost, 1)
    with pytest.raises(ValueError, match="path must increase strictly"):
        total(cost, torch.tensor([0, 9]))


def test_brute_force_refuses_what_would_take_for_ever() -> None:
    with pytest.raises(ValueError, match="cost must have N ≤ 12 for brute force, got N = 13; use shortest"):
        brute_force(random_cost(13, 0), 3)


@pytest.mark.parametrize("steps", [0, 4, -1, True])
def test_a_path_that_was_not_searched_for_is_refused(steps: int) -> None:
    with pytest.raises(ValueError, match="steps must be"):
        shortest(random_cost(5, 0), 3).path(steps)


@pytest.mark.parametrize(
    ("path", "match"),
    [
        (torch.tensor([0, 2, 2, 4]), "path must increase strictly from 0 to N = 4"),
        (torch.tensor([1, 4]), "path must increase strictly from 0 to N = 4"),
        (torch.tensor([0, 3]), "path must increase strictly from 0 to N = 4"),
        (torch.tensor([0.0, 4.0]), "path must be int64 indices"),
        (torch.tensor([0]), "path must be int64 indices"),
        (torch.tensor([[0, 4]]), "path must be int64 indices"),
    ],
)
def test_what_is_no_path_is_not_summed(path: Tensor, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        total(random_cost(4, 0), path)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"nodes": 1}, ValueError, "nodes must be an integer of at least 2, got 1"),
        ({"most": 0}, ValueError, "most must be an integer of at least 1"),
        ({"most": 5}, ValueError, "most must be at most N = nodes - 1 = 4, got 5"),
        ({"width": 0}, ValueError, "width must be an integer of at least 1"),
        ({"chunk": 0}, ValueError, "chunk must be an integer of at least 1"),
        ({"start": 0.0}, TypeError, "start must be a Tensor"),
        ({"step": 3}, TypeError, "step must be callable"),
        ({"step": lambda s, j, i: (i * math.nan, s)}, ValueError, "step must cost .* got nan from j = 4 to i = 0"),
        ({"step": lambda s, j, i: (-INF * (i + 1.0), s)}, ValueError, "got -inf from j = 4 to i = 0"),
        ({"step": lambda s, j, i: (i, s)}, TypeError, "the costs of step must be a floating-point tensor"),
        ({"step": lambda s, j, i: (i.double(), None)}, TypeError, "the states of step must be a Tensor"),
        ({"step": lambda s, j, i: (i.double(), s[:1])}, ValueError, r"states \[4, 2\], got \[4\] and \[1, 2\]"),
        ({"step": lambda s, j, i: (i[:, None].double(), s)}, ValueError, r"costs \[4\] .* got \[4, 1\]"),
    ],
)
def test_what_is_no_beam_is_refused(change, error, match: str) -> None:
    good = {"nodes": 5, "most": 3, "start": torch.zeros(2), "step": additive(random_cost(4, 0)), "width": 2}
    beam(**good)
    with pytest.raises(error, match=match):
        beam(**{**good, **change})
