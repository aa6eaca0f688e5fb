"""Small runs of DxMI: chains and values of few parameters on laws in closed form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import unidiff as ud
from unidiff.core.chain import ReverseChain
from unidiff.core.networks import MLP, GradientField
from unidiff.ebm import EnergyModel, GridValue
from unidiff.train import DxMIConfig
from unidiff.worlds import Gaussian

SCHEDULE = ud.Schedule.cosine(6.0, -6.0)
GRID = ud.TimeGrid.uniform(3)
LAW = Gaussian([0.4, -0.3], [[1.0, 0.5], [0.5, 0.8]])
SMALL = DxMIConfig(iterations=6, start=2, batch=8, log_every=2, checkpoint_every=3, warmup=2)


def data(n: int = 64, seed: int = 0) -> torch.Tensor:
    return LAW.to(torch.float32).sample(n, torch.Generator().manual_seed(seed))


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> Any:
    """A module whose parameters are none of them zero, of a seed of its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = make()
        for p in made.parameters():
            nn.init.normal_(p, std=0.2)
    return made


def policy_core(schedule: ud.Schedule = SCHEDULE, seed: int = 0) -> ud.Diffusion:
    return ud.Diffusion(schedule, ud.Denoiser(seeded(lambda: MLP(2, 8, 2), seed), (2,), "x0", "edm"))


def energy_core(schedule: ud.Schedule = SCHEDULE, seed: int = 1) -> ud.Diffusion:
    field = GradientField(seeded(lambda: MLP(2, 8, 2, outputs=1), seed))
    return ud.Diffusion(schedule, ud.Denoiser(field, (2,), "x0", "edm"))


class Head(nn.Module):
    """An energy of x alone."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 8), nn.SiLU(), nn.Linear(8, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def grid_value(grid: ud.TimeGrid = GRID, tau: float = 1.0) -> EnergyModel:
    return EnergyModel(seeded(lambda: GridValue(Head, grid), 2), (2,), schedule=SCHEDULE, tau=tau)


def with_cores() -> tuple[ReverseChain, EnergyModel]:
    return policy_core().chain(GRID), EnergyModel.of(energy_core())


def with_one_core() -> tuple[ReverseChain, EnergyModel]:
    core = energy_core()
    return core.chain(GRID, "prior"), EnergyModel.of(core, 2.0)


def with_a_grid() -> tuple[ReverseChain, EnergyModel]:
    return policy_core().chain(GRID), grid_value(tau=0.5)


# Of a value that is a function of time, where it does not matter which levels its times stand for.
moved_levels = pytest.mark.filterwarnings("ignore:value is a function of time, and with velocity 'adaptive'")


def small(kind: str, **options: Any) -> DxMIConfig:
    """The options of a run of this kind: a chain along its own value's gradient has the schedule's velocities."""
    fixed = {"velocity": "schedule"} if kind == "one core" else {}
    return replace(SMALL, **options | fixed)


KINDS = {"cores": with_cores, "one core": with_one_core, "a grid": with_a_grid}
OPTIONS: dict[str, dict[str, Any]] = {
    "theory": {},
    "resampled": {"weighted": True},
    "everywhere": {"everywhere": True, "difference": 0.0, "ladder": 0.0},
    "schedule": {"velocity": "schedule", "decay": "constant"},
    "published": {"published": True},
}
# Each option once and each kind at least once; the whole square in the slow run.
SQUARE = [
    pytest.param(kind, option, marks=[] if j == i % len(KINDS) else pytest.mark.slow)
    for i, option in enumerate(OPTIONS)
    for j, kind in enumerate(KINDS)
]


def bits(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: t.detach().clone() for name, t in module.state_dict().items()}


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(t, two[name]) for name, t in one.items())
