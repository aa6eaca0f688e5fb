"""A policy of grids: what it may choose, what the best one is worth, and how near teaching by walks brings it."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

import unidiff as ud
from unidiff.paths import ScheduleMDP, SchedulePolicy, log_partition, policy_kl, shortest
from unidiff.train import SchedulePolicyConfig, fit_schedule_policy
from unidiff.train.schedule_policy import cooled, first_beta, spread, surrogate


def table(last: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(last + 1, last + 1, dtype=torch.float64, generator=generator).triu(1)


def bound_costs(nodes: int, variance: float = 0.49) -> Tensor:
    """Item 63's prices in one dimension, nodes even in log-SNR from 6 to −6, rescaled."""
    width = torch.log1p(variance * torch.linspace(6.0, -6.0, nodes + 1, dtype=torch.float64).exp())
    jump = width[:, None] - width[None, :]
    return 0.5 * (torch.expm1(jump.clamp(min=0)) - jump.clamp(min=0)).triu(1)


def taught(mdp: ScheduleMDP, **options) -> tuple[SchedulePolicy, Tensor]:
    fit = fit_schedule_policy(mdp, SchedulePolicyConfig(**{"rounds": 250, "width": 64} | options))
    assert fit.kl is not None
    return fit.policy, fit.kl


def test_a_fresh_policy_is_nearly_the_reference_and_its_walks_are_paths() -> None:
    mdp = ScheduleMDP(table(9), 4)
    policy = SchedulePolicy(mdp)
    steps = torch.tensor([1, 2, 3, 4] * 50)
    walked = policy.walk(mdp, torch.zeros(200, dtype=torch.long), steps, torch.Generator().manual_seed(0))
    assert float(walked.log_ratio.detach().abs().max()) < 0.2
    assert torch.equal((walked.path > 0).sum(1), steps) and bool((walked.path[:, -1] == 9).all())
    paid = [sum(float(mdp.costs[0, i, j]) for i, j in itertools.pairwise(p) if j) for p in walked.path.tolist()]
    assert walked.cost.tolist() == pytest.approx(paid)
    again = policy.walk(mdp, torch.zeros(200, dtype=torch.long), steps, torch.Generator().manual_seed(0))
    assert torch.equal(again.path, walked.path)


def test_a_greedy_path_takes_the_likeliest_node_each_time() -> None:
    mdp = ScheduleMDP(table(8, 1), 3)
    policy = SchedulePolicy(mdp, seed=3)
    with torch.no_grad():
        policy.query[-1].weight.mul_(100.0)  # pyright: ignore
    state, nodes = mdp.start(torch.zeros(1, dtype=torch.long)), [8]
    for _ in range(3):
        node = policy(mdp.observe(state), mdp.mask(state)).argmax(1)
        nodes.append(int(node))
        state, _, _ = mdp.step(state, node)
    assert policy.path(mdp).tolist() == nodes[::-1]
    assert len(policy.path(mdp, 2)) == 3
    # Positions are observed in float32: a policy in float64 is still of its process.
    assert policy.double().path(mdp).tolist() == nodes[::-1]


def test_the_best_policys_worth_runs_from_the_references_mean_to_the_shortest_path() -> None:
    costs = torch.stack([table(7), 10 * table(7, 1)])
    mdp = ScheduleMDP(costs, 4)
    for k in (1, 3, 4):
        cold, hot = (torch.full((2, 4), b, dtype=torch.float64) for b in (1e-4, 1e4))
        for b in range(2):
            least = float(shortest(costs[b], k).values[-1])
            assert float(-1e-4 * log_partition(mdp, cold)[b, k - 1]) == pytest.approx(least, rel=3e-3)
            paths = [(0, *inner, 7) for inner in itertools.combinations(range(1, 7), k - 1)]
            chance = [math.prod(1 / (p[m] - m + 1) for m in range(2, k + 1)) for p in paths]
            paid = [sum(float(costs[b, i, j]) for i, j in itertools.pairwise(p)) for p in paths]
            assert sum(chance) == pytest.approx(1.0)
            mean = sum(p * c for p, c in zip(chance, paid, strict=True))
            assert float(-1e4 * log_partition(mdp, hot)[b, k - 1]) == pytest.approx(mean, rel=1e-2)


def test_a_policys_distance_from_the_best_is_that_of_all_its_paths() -> None:
    mdp = ScheduleMDP(torch.stack([table(7), table(7, 1)]), 4)
    policy = SchedulePolicy(mdp, 16, seed=1).double()
    with torch.no_grad():
        policy.query[-1].weight.mul_(300.0)  # pyright: ignore
    beta = torch.full((2, 4), 0.2, dtype=torch.float64)
    found, log_z = policy_kl(policy, mdp, beta), log_partition(mdp, beta)
    for b, k in itertools.product(range(2), range(1, 5)):
        paths = torch.tensor([(0, *inner, 7) for inner in itertools.combinations(range(1, 7), k - 1)])
        walked = policy.retraced(mdp, paths, torch.full((len(paths),), b))
        chance = [math.prod(1 / (p[m] - m + 1) for m in range(2, k + 1)) for p in paths.tolist()]
        law = torch.tensor(chance).double() * walked.log_ratio.detach().exp()
        best = torch.tensor(chance).double() * (-walked.cost / 0.2 - log_z[b, k - 1]).exp()
        assert float(law.sum()) == pytest.approx(1.0) and float(best.sum()) == pytest.approx(1.0)
        assert float(found[b, k - 1]) == pytest.approx(float((law * (law / best).log()).sum()), abs=1e-6)
    assert float(found[:, 2].min()) > 0.1


def test_costs_too_large_to_teach_stop_the_run() -> None:
    mdp = ScheduleMDP(1e308 * (1 + table(6)), 3)
    with pytest.raises(FloatingPointError, match="finite gradient, got norm (nan|inf) in round 1"):
        fit_schedule_policy(mdp, SchedulePolicyConfig(rounds=2, walks=8, width=8))


def test_a_step_that_is_closed_carries_nothing() -> None:
    cost = table(4)
    cost[0, 1] = cost[0, 2] = math.inf  # two steps go by node 3 alone
    beta = torch.full((1, 2), 0.5, dtype=torch.float64)
    found = float(log_partition(ScheduleMDP(cost, 2), beta)[0, 1])
    assert found == pytest.approx(-2 * float(cost[0, 3] + cost[3, 4]), rel=1e-12)


def test_what_teaches_is_nothing_at_the_optimum_and_bounded_by_the_clip() -> None:
    cost = torch.tensor([[[1.0, 2.0, 5.0, 3.0]]], dtype=torch.float64)
    beta = torch.full((1, 1), 0.5, dtype=torch.float64)
    best = (-cost / 0.5).requires_grad_(True)
    (slope,) = torch.autograd.grad(surrogate(cost, best, beta).sum(), best)
    assert float(slope.abs().max()) < 1e-12
    flat = torch.zeros_like(cost, requires_grad=True)
    (slope,) = torch.autograd.grad(surrogate(cost, flat, beta, clip=1.0).sum(), flat)
    # A is −2 −4 −10 −6, its median as torch takes it −6: 1, 1, −1, 0 when clipped, less their mean 0.25.
    assert slope.flatten().tolist() == pytest.approx([-0.75, -0.75, 1.25, 0.25])


def test_beta_falls_from_the_spread_to_a_part_of_the_least() -> None:
    cost = torch.tensor([[[4.0, 2.0, 7.0]]], dtype=torch.float64)
    first = spread(cost)
    assert float(first) == 2.0
    least = cost.amin(2)
    assert float(cooled(first, least, 0.01, 0.0)) == pytest.approx(2.0)
    assert float(cooled(first, least, 0.01, 1.0)) == pytest.approx(0.02)
    assert float(cooled(first, least, 0.01, 0.5)) == pytest.approx(0.2)
    assert float(cooled(first, 0 * least, 0.01, 1.0)) == pytest.approx(2e-6)
    zero, some = torch.zeros(1, 1), torch.full((1, 1), 0.2)
    assert [float(first_beta(*pair)) for pair in ((some, zero), (zero, some), (zero, zero))] == pytest.approx(
        [0.2, 0.2, 1]
    )


def test_a_run_hands_on_its_clip_its_least_cost_and_a_rate_that_falls(monkeypatch) -> None:
    """The last β is of the least cost of all rounds, not of the first draws; Adam's rate is 0 after the last third."""
    seen: list[tuple[float, Tensor]] = []

    def watched(cost: Tensor, log_ratio: Tensor, beta: Tensor, clip: float = math.inf) -> Tensor:
        seen.append((clip, cost.detach()))
        return surrogate(cost, log_ratio, beta, clip)

    rates: list[float] = []
    step = torch.optim.Adam.step
    monkeypatch.setattr("unidiff.train.schedule_policy.surrogate", watched)
    monkeypatch.setattr(
        torch.optim.Adam, "step", lambda self: (rates.append(self.param_groups[0]["lr"]), step(self))[1]
    )
    cost = bound_costs(24)
    config = SchedulePolicyConfig(rounds=30, walks=4, width=16, clip=2.5, rate=1e-2, final=0.01)
    fit = fit_schedule_policy(ScheduleMDP(cost, 4), config)
    assert {clip for clip, _ in seen} == {2.5}
    least = min(float(paid.min()) for _, paid in seen)
    assert least < 0.95 * float(seen[0][1].min())
    assert float(fit.beta) == pytest.approx(0.01 * least, rel=1e-9)
    assert rates[:20] == [1e-2] * 20
    assert rates[20:] == pytest.approx([1e-2 * (1 - k / 10) for k in range(10)])


@pytest.mark.parametrize("seed", [0, 1])
def test_teaching_by_walks_reaches_the_shortest_path_and_the_best_policy(seed) -> None:
    """Item 61's value within 2%; KL to the best policy at the last β within 0.1 nats."""
    cost = bound_costs(24)
    mdp = ScheduleMDP(cost, 5)
    fit = fit_schedule_policy(mdp, SchedulePolicyConfig(rounds=350, width=64, seed=seed))
    path = fit.policy.path(mdp)
    best = float(shortest(cost, 5).values[-1])
    assert best <= float(mdp.cost(path[None], torch.zeros(1, dtype=torch.long))) <= 1.02 * best
    assert fit.kl is not None and 0 <= float(fit.kl) < 0.1
    assert float(fit.beta) == pytest.approx(0.003 * best, rel=0.03)
    untaught = SchedulePolicy(mdp, 64, seed).path(mdp)
    assert float(mdp.cost(untaught[None], torch.zeros(1, dtype=torch.long))) > 1.3 * best


def test_one_policy_serves_instances_by_their_features() -> None:
    """Data of two widths have two best grids; a policy that sees log c finds both, one that does not cannot."""
    costs = torch.stack([bound_costs(16, c) for c in (0.05, 20.0)])
    told = torch.tensor([-3.0, 3.0], dtype=torch.float64)[:, None, None].expand(2, 17, 1)
    seen, blind = ScheduleMDP(costs, 4, features=told), ScheduleMDP(costs, 4)
    best = [float(shortest(c, 4).values[-1]) for c in costs]
    excess = {}
    for name, mdp in (("seen", seen), ("blind", blind)):
        policy, _ = taught(mdp, rounds=300)
        paid = [float(mdp.cost(policy.path(mdp, 4, b)[None], torch.tensor([b]))) for b in range(2)]
        excess[name] = max(p / v for p, v in zip(paid, best, strict=True))
    assert excess["seen"] < 1.02 < 1.05 < excess["blind"]


def test_a_run_is_its_seed_and_tells_how_far_it_is() -> None:
    mdp, seen = ScheduleMDP(table(6), 3), []
    config = SchedulePolicyConfig(rounds=5, walks=8, width=8, seed=4)
    one = fit_schedule_policy(mdp, config, steps=(2, 3), on_round=lambda done, total: seen.append((done, total)))
    two = fit_schedule_policy(mdp, config, steps=(2, 3))
    assert seen == [(k, 5) for k in range(1, 6)]
    assert all(torch.equal(a, b) for a, b in zip(one.policy.parameters(), two.policy.parameters(), strict=True))
    assert one.kl is not None
    assert one.steps.tolist() == [2, 3] and one.beta.shape == one.kl.shape == (1, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 0}, "rounds must be an integer of at least 1, got 0"),
        ({"walks": 1}, "walks must be an integer of at least 2, got 1"),
        ({"width": 0}, "width"),
        ({"rate": 0.0}, "rate must be positive"),
        ({"clip": -1.0}, "clip must be positive"),
        ({"final": 0.0}, "final must be positive"),
        ({"final": 2.0}, "final"),
        ({"seed": -1}, "seed"),
    ],
)
def test_options_that_cannot_be(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        SchedulePolicyConfig(**options)


def test_arguments_that_cannot_be() -> None:
    cost = table(5)
    cost[0, 1:4] = math.inf  # three steps, and no fewer than two, must end by node 4
    mdp = ScheduleMDP(cost, 2)
    with pytest.raises(TypeError, match="mdp"):
        fit_schedule_policy(cost)  # pyright: ignore
    with pytest.raises(TypeError, match="mdp"):
        SchedulePolicy(cost)  # pyright: ignore
    with pytest.raises(ValueError, match="steps must name at least one"):
        fit_schedule_policy(mdp, steps=())
    with pytest.raises(ValueError, match="steps must be at most the 2 of the process, got 3"):
        fit_schedule_policy(mdp, steps=(3,))
    with pytest.raises(ValueError, match="beta must be positive"):
        log_partition(mdp, torch.zeros(1, 2))
    with pytest.raises(ValueError, match="steps and instance must be at most 2 and 0, got 2 and 1"):
        SchedulePolicy(mdp).path(mdp, instance=1)
    with pytest.raises(ValueError, match="beta must have shape"):
        log_partition(mdp, torch.ones(2))
    with pytest.raises(TypeError, match="beta must be"):
        log_partition(mdp, [1.0, 1.0])  # pyright: ignore
    with pytest.raises(TypeError, match="steps must be a sequence of numbers of steps, got 2"):
        fit_schedule_policy(mdp, steps=2)  # pyright: ignore
    with pytest.raises(ValueError, match="mdp must have the 6 positions"):
        SchedulePolicy(mdp).path(ScheduleMDP(table(5), 2, log_snr=torch.tensor([5.0, 3.0, 2.0, 0.0, -1.0, -2.0])))


def test_a_table_of_the_bound_is_learned_from_its_walks() -> None:
    core = ud.Diffusion(ud.Schedule.cosine(), ud.worlds.OracleDenoiser(ud.worlds.library.gaussian()))
    found = ud.paths.search(core, ud.worlds.library.gaussian(), 4, "elbo", nodes=16, samples=64)
    mdp = ScheduleMDP(found.prices.mean, 4, log_snr=core.schedule.log_snr(found.candidates.times))
    policy, _ = taught(mdp)
    paid = float(mdp.cost(policy.path(mdp)[None], torch.zeros(1, dtype=torch.long)))
    assert paid <= 1.02 * found.cost(4)[0]
