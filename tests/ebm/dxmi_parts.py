"""A law of velocities of its own on a world in closed form, its exact value, and one of few numbers."""

from __future__ import annotations

import torch

import unidiff as ud
from unidiff.ebm import EnergyModel, GridValue
from unidiff.ebm.dxmi.law import AuxiliaryLaw
from unidiff.ebm.dxmi.value import Value
from unidiff.worlds import OracleDenoiser, library

WORLD = library.mixture_2d()
GRID = ud.TimeGrid.uniform(4, 0.02)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def core(schedule: ud.Schedule | None = None) -> ud.Diffusion:
    return ud.Diffusion(ud.Schedule.cosine() if schedule is None else schedule, OracleDenoiser(WORLD))


def law_of(schedule: ud.Schedule | None = None, grid: ud.TimeGrid = GRID) -> AuxiliaryLaw:
    return AuxiliaryLaw(core(schedule).chain(grid))


def moved(law: AuxiliaryLaw) -> AuxiliaryLaw:
    law.log_var += torch.tensor([0.5, -0.4, 0.3, -0.2], dtype=torch.float64)
    return law


def exact_value(law: AuxiliaryLaw, tau: float = 1.0) -> Value:
    return Value(EnergyModel.of(core(), tau), law.levels())


class Paraboloid(torch.nn.Module):
    def __init__(self, root: float = 1.5) -> None:
        super().__init__()
        self.root = torch.nn.Parameter(torch.tensor(root, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0.5 * self.root * x.square().sum(1, keepdim=True)


def grid_value(tau: float = 1.0) -> EnergyModel:
    roots = iter(range(1, 6))
    value = GridValue(lambda: Paraboloid(float(next(roots))), GRID)
    return EnergyModel(value, (2,), schedule=ud.Schedule.cosine(), tau=tau)


def table() -> torch.Tensor:
    return torch.tensor([-3.0, -2.0, -1.5, -1.0], dtype=torch.float64)
