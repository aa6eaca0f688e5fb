"""The trainer of DxMI: a seed is a run, what each option does to it, what the log says."""

from __future__ import annotations

import dataclasses
import math
import warnings
from typing import Any

import pytest
import torch

import unidiff as ud
from tests.train.dxmi_runs import (
    GRID,
    KINDS,
    OPTIONS,
    SCHEDULE,
    SMALL,
    SQUARE,
    bits,
    data,
    energy_core,
    grid_value,
    moved_levels,
    policy_core,
    same,
    small,
    with_cores,
    with_one_core,
)
from unidiff import DxMITrainer
from unidiff.ebm import EnergyModel


@pytest.mark.parametrize(("kind", "option"), SQUARE)
@moved_levels
def test_a_seed_is_a_run(kind: str, option: str) -> None:
    ends = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed + len(ends))  # torch's own generator has no part in it
        trainer = DxMITrainer(*KINDS[kind](), data(), small(kind, seed=seed, **OPTIONS[option]))
        trainer.fit()
        ends.append(bits(trainer.work.model) | bits(trainer.work.mean_policy) | bits(trainer.work.law))
    assert same(ends[0], ends[1])
    assert not same(ends[0], ends[2])
    assert all(bool(torch.isfinite(t).all()) for t in ends[0].values())


def test_every_choice_is_another_run() -> None:
    ends = {}
    for name, option in OPTIONS.items():
        trainer = DxMITrainer(*with_cores(), data(), dataclasses.replace(SMALL, **option))
        trainer.fit()
        ends[name] = bits(trainer.work.model)
    names = list(ends)
    assert not any(same(ends[a], ends[b]) for i, a in enumerate(names) for b in names[:i])


@pytest.mark.parametrize("kind", KINDS)
@moved_levels
def test_policy_table_and_value_all_move_and_so_do_adaptive_velocities(kind: str) -> None:
    trainer = DxMITrainer(*KINDS[kind](), data(), small(kind, start=0))
    work = trainer.work
    before = [bits(m) for m in (work.policy, work.model, work.law)]
    trainer.fit()
    for module, kept in zip((work.policy, work.model), before, strict=False):
        assert not same(bits(module), kept)
    assert bool((work.policy.log_var != before[0]["log_var"]).all())
    moved = work.law.log_var != before[2]["log_var"]
    assert bool(moved.all()) if trainer.config.velocity == "adaptive" else not bool(moved.any())


def test_velocities_of_the_schedule_stay_put() -> None:
    trainer = DxMITrainer(*with_cores(), data(), dataclasses.replace(SMALL, velocity="schedule"))
    before = bits(trainer.work.law)
    trainer.fit()
    assert same(bits(trainer.work.law), before)


def test_a_value_that_is_the_chains_own_moves_by_its_own_losses_alone() -> None:
    # The control's gradient must not reach the one network: only the table follows the policy's loss.
    ends = []
    for rate in (1e-3, 1e-1):
        chain, value = with_one_core()
        trainer = DxMITrainer(chain, value, data(), small("one core", policy_lr=rate))
        assert trainer.work.shared and trainer.work.policy_parameters == [trainer.work.policy.log_var]
        trainer.fit()
        ends.append(bits(trainer.work.model) | bits(trainer.work.policy))
        assert trainer.chain.core.state_dict().keys() == chain.core.state_dict().keys()
    assert same(*ends)


def test_the_start_teaches_denoising_and_leaves_table_and_law_alone() -> None:
    trainer = DxMITrainer(*with_cores(), data(), dataclasses.replace(SMALL, start=3))
    work = trainer.work
    table, law = work.policy.log_var.detach().clone(), bits(work.law)
    core, value = bits(work.policy.core), bits(work.model)
    for _ in range(3):
        trainer.advance()
    assert torch.equal(work.policy.log_var, table) and same(bits(work.law), law)
    assert not same(bits(work.policy.core), core) and not same(bits(work.model), value)
    trainer.advance()
    assert not torch.equal(work.policy.log_var, table)


def test_a_run_without_a_start_begins_with_a_round_of_dxmi() -> None:
    trainer = DxMITrainer(*with_cores(), data(), dataclasses.replace(SMALL, start=0, iterations=1))
    seen: list[dict[str, float]] = []
    trainer.fit(lambda own, line: seen.append(line))
    assert trainer.total == 1 and len(seen) == 1
    assert seen[0]["contrast"] != 0 and seen[0]["control"] != 0
    assert set(seen[0]) >= {
        "step",
        "energy_data",
        "energy_chain",
        "contrast",
        "control",
        "on_floor",
        "least_std",
        "seconds",
    }


@pytest.mark.parametrize(("floor", "on"), [(1e-3, 0), (10.0, 3)])
def test_no_step_is_narrower_than_the_floor_and_the_log_says_how_many_rest_on_it(floor: float, on: int) -> None:
    seen: list[dict[str, float]] = []
    config = dataclasses.replace(SMALL, floor=floor, variance_lr=0.1)
    trainer = DxMITrainer(*with_cores(), data(), config)
    trainer.fit(lambda own, line: seen.append(line))
    least = math.log(floor) * 2
    assert bool((trainer.work.policy.log_var >= least - 1e-6).all())
    assert [line["on_floor"] for line in seen] == [on] * len(seen)
    assert seen[-1]["least_std"] >= floor * (1 - 1e-6)
    named = {key: value for key, value in seen[-1].items() if key == "floor" or key.startswith("std_")}
    assert named == pytest.approx({"floor": floor, "std_1": floor, "std_2": floor, "std_3": floor} if on else {})
    assert "floor" not in seen[0]
    assert trainer.floored == pytest.approx({1: floor, 2: floor, 3: floor} if on else {})
    words = "3 of 3 steps stand on floor = 10 (step: width 1: 10, 2: 10, 3: 10)"
    assert trainer.floor_told() == (words if on else "")
    if on:
        assert seen[-1]["least_std"] == pytest.approx(floor)


def test_the_steps_on_the_floor_are_named_and_no_others() -> None:
    chain = policy_core().chain(GRID, "given", log_var=2 * torch.tensor([0.5, 0.05, 0.7]).log())
    config = dataclasses.replace(SMALL, floor=0.2, variance_lr=1e-12)
    trainer = DxMITrainer(chain, EnergyModel.of(energy_core()), data(), config)
    trainer.fit()
    assert trainer.floored == {2: pytest.approx(0.2)}
    assert trainer.floor_told() == "1 of 3 steps stand on floor = 0.2 (step: width 2: 0.2)"


def test_rates_and_the_regulariser_warm_up_and_fall_together() -> None:
    config = dataclasses.replace(
        SMALL, start=4, iterations=8, warmup=2, policy_lr=1e-2, variance_lr=2e-2, value_lr=3e-2, gamma=0.4
    )
    trainer = DxMITrainer(*with_cores(), data(), config)
    work, shares = trainer.work, []
    for _ in range(trainer.total):
        trainer.advance()
        groups = [*work.policy_optimizer.param_groups, *work.value_optimizer.param_groups]
        rates = [float(g["lr"]) / r for g, r in zip(groups, (1e-2, 2e-2, 3e-2), strict=True)]
        rates.append(float(work.gamma) / 0.4)
        assert rates == pytest.approx([rates[0]] * 4)
        shares.append(rates[0])

    def phase(length: int) -> list[float]:
        return [min(1, (i + 1) / 2) * 0.5 * (1 + math.cos(math.pi * i / length)) for i in range(length)]

    assert shares == pytest.approx([*phase(4), *phase(8)])


def test_averages_are_of_what_the_rounds_left() -> None:
    config = dataclasses.replace(SMALL, start=0, target_average=0.75, average=0.0)
    trainer = DxMITrainer(*with_cores(), data(), config)
    expected = [p.detach().clone() for p in trainer.work.lagged.parameters()]
    for done in range(4):
        trainer.advance()
        now = list(trainer.work.model.parameters())
        share = 0.25 if done else 1.0
        expected = [e + share * (p.detach() - e) for e, p in zip(expected, now, strict=True)]
        for mine, theirs in zip(trainer.work.lagged.parameters(), expected, strict=True):
            torch.testing.assert_close(mine.detach(), theirs)
        assert same(bits(trainer.value), bits(trainer.work.model))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("option", ["theory", "resampled"])
@moved_levels
def test_doubles_are_trained_in_doubles(kind: str, option: str) -> None:
    chain, value = KINDS[kind]()
    chain.core.double()
    value.double()
    chain = chain.core.chain(GRID)
    trainer = DxMITrainer(chain, value, data(), small(kind, **OPTIONS[option]))
    out = trainer.fit()
    assert out.given is not None and out.given.dtype == torch.float64
    assert trainer.work.data.dtype == torch.float64
    assert all(p.dtype == torch.float64 for p in trainer.value.parameters())


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("one", [False, True])
@moved_levels
def test_chains_of_one_step_are_trained_too(steps: int, one: bool) -> None:
    grid = ud.TimeGrid.uniform(steps)
    core = energy_core() if one else policy_core()
    value = EnergyModel.of(core) if one else grid_value(grid)
    kind = "one core" if one else "a grid"
    trainer = DxMITrainer(core.chain(grid), value, data(), small(kind, weighted=True))
    assert trainer.fit().steps == steps


@pytest.mark.parametrize("rule", ["posterior", "prior", "given"])
def test_the_table_starts_from_the_chains_own_rule(rule: Any) -> None:
    table = torch.tensor([-3.0, -2.0, -1.0]) if rule == "given" else None
    chain = policy_core().chain(GRID, rule, log_var=table)
    trainer = DxMITrainer(chain, EnergyModel.of(energy_core()), data(), SMALL)
    x = data(4)
    for k in range(1, GRID.steps + 1):
        own, known = trainer.work.policy.chain().step(x, k), chain.step(x, k)
        torch.testing.assert_close(own.log_var, known.log_var)
        torch.testing.assert_close(own.mean, known.mean)
    assert table is None or table.tolist() == [-3.0, -2.0, -1.0]


def test_a_learned_schedule_is_left_as_it_is() -> None:
    schedule = ud.Schedule.learned(6.0, -6.0)
    kept = [p.detach().clone() for p in schedule.parameters()]  # pyright: ignore
    chain, value = policy_core(schedule).chain(GRID), EnergyModel.of(energy_core(schedule))
    DxMITrainer(chain, value, data(), SMALL).fit()
    assert all(torch.equal(p, k) for p, k in zip(schedule.parameters(), kept, strict=True))  # pyright: ignore


@pytest.mark.parametrize(
    ("kind", "options", "idle"),
    [
        ("cores", {"contrast": 0.0}, {"gamma": 0.7}),
        ("cores", {"difference": 0.0}, {"target_average": 0.3}),
        ("cores", {"published": True}, {"target_average": 0.3}),
        ("cores", {"velocity": "schedule"}, {"velocity_rate": 0.5}),
        ("one core", {}, {"policy_lr": 0.1}),
    ],
)
def test_options_that_are_said_to_have_no_effect_have_none(
    kind: str, options: dict[str, Any], idle: dict[str, Any]
) -> None:
    ends = []
    for more in ({}, idle):
        trainer = DxMITrainer(*KINDS[kind](), data(), small(kind, **options, **more))
        trainer.fit()
        ends.append([bits(module) for module in (trainer.work.policy, trainer.work.model, trainer.work.law)])
    assert all(same(one, two) for one, two in zip(*ends, strict=True))
    # Without what makes it idle it is heard.
    if options:
        others = [DxMITrainer(*KINDS[kind](), data(), small(kind, **more)) for more in ({}, idle)]
        for trainer in others:
            trainer.fit()
        modules = [(own.work.policy, own.work.model, own.work.law) for own in others]
        assert not all(same(bits(one), bits(two)) for one, two in zip(*modules, strict=True))


def test_a_value_whose_times_come_to_stand_for_other_levels_is_warned_of_once() -> None:
    chain, value = policy_core().chain(GRID), grid_value()
    with pytest.warns(UserWarning, match="value is a function of time, and with velocity 'adaptive'") as told:
        trainer = DxMITrainer(chain, value, data(), SMALL)
    assert len(told) == 1
    assert told[0].filename == __file__
    trainer.fit()  # another warning would be an error
    # So it is: V_1 has been learned at another level than the schedule's of t_1, which its score reads.
    assert not torch.allclose(trainer.work.law.levels().log_snr[1:], SCHEDULE.log_snr(GRID.times)[1:], rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "options"), [("a grid", {"velocity": "schedule"}), ("a grid", {"velocity_rate": 0.0}), ("cores", {})]
)
def test_a_value_that_keeps_its_levels_is_not_warned_of(kind: str, options: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer = DxMITrainer(*KINDS[kind](), data(), small(kind, **options))
        trainer.fit()
    if options:
        torch.testing.assert_close(trainer.work.law.levels().log_snr, SCHEDULE.log_snr(GRID.times))
