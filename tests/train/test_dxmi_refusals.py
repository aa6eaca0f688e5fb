"""What the trainer of DxMI refuses, before any work."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import unidiff as ud
from tests.train.dxmi_runs import (
    GRID,
    LAW,
    SCHEDULE,
    SMALL,
    data,
    energy_core,
    grid_value,
    moved_levels,
    policy_core,
    seeded,
    with_cores,
)
from unidiff import DxMITrainer
from unidiff.core.chain import ReverseChain
from unidiff.core.networks import MLP
from unidiff.ebm import EnergyModel, GridValue
from unidiff.train import DxMIConfig
from unidiff.worlds import Gaussian, OracleDenoiser

VALUE = EnergyModel.of(energy_core())
CHAIN = policy_core().chain(GRID)


class Silent(ud.Schedule):
    """No signal at t = 1, and no noise at t = 0."""

    kind = "silent"

    def _log_snr(self, t: torch.Tensor) -> torch.Tensor:
        return 2 * ((1 - t).log() - t.log())

    def _log_snr_derivative(self, t: torch.Tensor) -> torch.Tensor:
        return -2 / (t * (1 - t))

    def _time(self, log_snr: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(-0.5 * log_snr)

    def _options(self) -> dict[str, object]:
        return {}


def learned_variance() -> ReverseChain:
    network = seeded(lambda: MLP(2, 8, 1, learned_variance=True))
    return ud.Diffusion(SCHEDULE, ud.Denoiser(network, (2,), "x0", learned_variance=True)).chain(GRID, "learned")


def frozen(core: ud.Diffusion) -> ud.Diffusion:
    return core.requires_grad_(False)


def on(schedule: ud.Schedule, grid: ud.TimeGrid) -> tuple[Any, Any]:
    return policy_core(schedule).chain(grid), EnergyModel.of(energy_core(schedule))


SHARING = energy_core()
REFUSED: list[tuple[str, Any, Any, str]] = [
    ("chain", policy_core(), VALUE, "chain must be a ReverseChain, got"),
    ("value", CHAIN, energy_core(), "value must be a EnergyModel, got"),
    ("oracle", ud.Diffusion(SCHEDULE, OracleDenoiser(LAW)).chain(GRID), VALUE, "chain must be of a core with parameters"),
    ("frozen chain", frozen(policy_core()).chain(GRID), VALUE, "chain must be of a core with parameters to train"),
    ("learned", learned_variance(), VALUE, "chain must have a fixed rule or a table for its variance, got 'learned'"),
    ("frozen value", CHAIN, EnergyModel.of(frozen(energy_core())), "value must have parameters to train"),
    ("constant", CHAIN, EnergyModel(lambda x, t: x[:, 0], (2,), schedule=SCHEDULE), "value must have parameters to train"),
    ("no time", CHAIN, EnergyModel(torch.nn.Linear(2, 1), (2,)), "value must be a function of time"),
    ("schedule", CHAIN, EnergyModel.of(energy_core(ud.Schedule.cosine(5.0, -6.0))), "value must have the chain's schedule"),
    ("convention", CHAIN, EnergyModel.of(energy_core(SCHEDULE.as_ve())), "value must have the chain's schedule"),
    ("shape", CHAIN, EnergyModel(torch.nn.Linear(3, 1), (3,), schedule=SCHEDULE), r"value must be of states \[2\], as the"),
    ("dtype", CHAIN, EnergyModel.of(energy_core().double()), "value must be torch.float32 on cpu, as the chain's core is"),
    ("one network", SHARING.chain(GRID), EnergyModel.of(ud.Diffusion(SCHEDULE, SHARING.denoiser)), "no parameter in common"),
    ("no noise", *on(ud.Schedule.linear(), ud.TimeGrid.uniform(3)), "chain must end at a time with noise, .* t_0 = 0"),
    ("no signal", *on(Silent(), ud.TimeGrid.uniform(3, 0.1)), "chain must have some signal at each of its times"),
]  # fmt: skip


@pytest.mark.parametrize(("chain", "value", "message"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_a_pair_that_cannot_be_trained_is_refused(chain: Any, value: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        DxMITrainer(chain, value, data(), SMALL)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([[0.0, 1.0]], "data must be a floating-point tensor, got list"),
        (torch.zeros(4, 2, dtype=torch.long), "data must be a floating-point tensor, got torch.int64"),
        (torch.zeros(4, 3), r"data must have shape \[B, 2\], got \[4, 3\]"),
        (torch.zeros(4), r"data must have shape \[B, 2\], got \[4\]"),
        (torch.zeros(0, 2), r"data must hold at least one datum, got shape \[0, 2\]"),
        (torch.tensor([[0.0, math.nan]]), "data must be finite; 1 of its 2 values are NaN"),
        (torch.tensor([[math.inf, 0.0]]), "data must be finite; 1 of its 2 values"),
        (torch.tensor([[1e300, 0.0]], dtype=torch.float64), "data must be finite; 1 of its 2 values"),
        (Gaussian([0.0], [[1.0]]), r"data must have shape \[B, 2\]"),
    ],
)
def test_data_that_do_not_fit_are_refused(given: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        DxMITrainer(CHAIN, VALUE, given, SMALL)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iterations": 0}, "iterations must be an integer of at least 1, got 0"),
        ({"start": -1}, "start must be an integer of at least 0, got -1"),
        ({"batch": 0}, "batch must be an integer of at least 1, got 0"),
        ({"batch": 2.0}, "batch must be an integer of at least 1, got 2.0"),
        ({"gamma": 0.0}, "gamma must be positive and finite, got 0.0"),
        ({"gamma": -1.0}, "gamma must be positive and finite, got -1.0"),
        ({"policy_lr": 0.0}, "policy_lr must be positive and finite, got 0.0"),
        ({"value_lr": math.nan}, "value_lr must be positive and finite, got nan"),
        ({"variance_lr": "1"}, "variance_lr must be a number, got '1'"),
        ({"floor": 0.0}, "floor must be positive and finite, got 0.0"),
        ({"clip": math.inf}, "clip must be positive and finite, got inf"),
        ({"anchor": -0.1}, "anchor must be at least 0 and finite, got -0.1"),
        ({"contrast": 0.0, "difference": 0.0, "anchor": 0.0, "ladder": 0.0}, "must not all be 0"),
        ({"decay": "linear"}, "unknown decay 'linear'"),
        ({"velocity": "own"}, "unknown velocity 'own'"),
        ({"velocity_rate": 1.5}, r"velocity_rate must lie in \[0, 1\], got 1.5"),
        ({"target_average": 1.0}, r"target_average must lie in \[0, 1\), got 1.0"),
        ({"average": -0.1}, r"average must lie in \[0, 1\), got -0.1"),
        ({"everywhere": 1}, "everywhere must be True or False, got 1"),
        (
            {"everywhere": True, "difference": 0.0, "ladder": 0.0, "weighted": True},
            "everywhere must be False with weighted",
        ),
        ({"everywhere": True}, "set both to 0, got difference = 1 and ladder = 10"),
        ({"everywhere": True, "ladder": 0.0}, "set both to 0, got difference = 1 and ladder = 0"),
        ({"everywhere": True, "difference": 0.0}, "set both to 0, got difference = 0 and ladder = 10"),
        (
            {"everywhere": True, "contrast": 0.0, "difference": 0.0, "ladder": 0.0},
            "everywhere must be False with contrast = 0",
        ),
        ({"weighted": True, "contrast": 0.0}, "weighted must be False with contrast = 0"),
        ({"weighted": 1}, "weighted must be True or False, got 1"),
        ({"published": "no"}, "published must be True or False, got 'no'"),
        ({"seed": -1}, "seed must be an integer"),
        ({"out": 3}, "out must be a str, got 3"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        DxMIConfig(**options)


def test_other_arguments_are_looked_at_before_any_work() -> None:
    trainer = DxMITrainer(*with_cores(), data(), SMALL)
    with pytest.raises(TypeError, match="on_round must be callable"):
        trainer.fit(3)  # pyright: ignore
    assert trainer.round == 0
    with pytest.raises(ValueError, match="graph=True needs a GPU"):
        DxMITrainer(CHAIN, VALUE, data(), SMALL, graph=True)
    with pytest.raises(TypeError, match="config must be a DxMIConfig"):
        DxMITrainer(CHAIN, VALUE, data(), {"batch": 3})  # pyright: ignore
    with pytest.raises(ValueError, match="tau must be positive and finite, got 0"):
        EnergyModel.of(energy_core(), 0.0)
    with pytest.raises(ValueError, match="steps must be an integer of at least 1, got 0"):
        ud.TimeGrid.uniform(0)


@moved_levels
def test_a_value_of_another_grid_is_refused_in_the_first_round() -> None:
    trainer = DxMITrainer(policy_core().chain(GRID), grid_value(ud.TimeGrid.uniform(4)), data(), SMALL)
    with pytest.raises(ValueError, match=r"t must be one of the 5 times of the value's grid, 0 … 1, got 0\.\d+"):
        trainer.fit()


def test_a_grid_value_says_what_it_was_not_given() -> None:
    with pytest.raises(TypeError, match="make must be callable"):
        GridValue(3, GRID)  # pyright: ignore
    with pytest.raises(TypeError, match=r"make\(\) must be a Module, got"):
        GridValue(lambda: torch.sin, GRID)  # pyright: ignore
    with pytest.raises(TypeError, match="grid must be a TimeGrid"):
        GridValue(lambda: torch.nn.Linear(2, 1), 3)  # pyright: ignore


@pytest.mark.parametrize(
    ("t", "message"),
    [
        ([0.0, math.nan, 1.0], r"t must be one of the 4 times of the value's grid, 0 … 1, got nan"),
        ([0.0, 1.0, 0.4], r"t must be one of the 4 times of the value's grid, 0 … 1, got 0\.4"),
        ([0.0, 1.0], r"t must have shape \[3\], one time for each row of x, got \[2\]"),
        ([0.0], r"t must have shape \[3\], one time for each row of x, got \[1\]"),
        ([[0.0], [0.0], [1.0]], r"t must have shape \[3\], one time for each row of x, got \[3, 1\]"),
    ],
)
def test_a_grid_value_is_asked_at_times_of_its_grid_one_for_each_row(t: list[Any], message: str) -> None:
    value = GridValue(lambda: torch.nn.Linear(2, 1), GRID)
    with pytest.raises(ValueError, match=message):
        value(torch.zeros(3, 2), torch.tensor(t))
    assert value(torch.zeros(3, 2), torch.tensor([0.0, 1.0, 0.0])).shape == (3,)
