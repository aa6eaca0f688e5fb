"""A contrast at every level: which levels it asks, and that data and an exact chain are one law at each of them."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn

import unidiff as ud
from tests.train.dxmi_runs import GRID, SCHEDULE, SMALL, data, policy_core
from unidiff.core.networks import MLP
from unidiff.ebm import EnergyModel, GridValue
from unidiff.train import DxMIConfig, DxMITrainer

ONE = dataclasses.replace(SMALL, iterations=1, start=0, warmup=0, difference=0.0, anchor=0.0, ladder=0.0)
SIGMA = SCHEDULE.sigma(GRID.times).tolist()


class Plane(nn.Module):
    """height + ⟨slope, x⟩ + ½ curvature ‖x‖², its height where it is told and the others 0."""

    def __init__(self, height: float) -> None:
        super().__init__()
        self.height, self.slope = nn.Parameter(torch.tensor(height)), nn.Parameter(torch.zeros(2))
        self.curvature = nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.height + x @ self.slope + 0.5 * self.curvature * x.square().sum(1)


class Bowl(nn.Module):
    """height + ‖x‖²/(2 width²); no bowl at all where the width is infinite."""

    def __init__(self, height: float, width: float) -> None:
        super().__init__()
        self.height, self.width = nn.Parameter(torch.tensor(height)), width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.height + 0.5 * x.square().sum(1) / self.width**2


def bowls(heights: list[float], widths: list[float]) -> EnergyModel:
    made = iter([Bowl(*pair) for pair in zip(heights, widths, strict=True)])
    return EnergyModel(GridValue(lambda: next(made), GRID), (2,), schedule=SCHEDULE)


def figure(core: ud.Diffusion, value: EnergyModel, x: torch.Tensor, config: DxMIConfig) -> float:
    seen: list[dict[str, float]] = []
    DxMITrainer(core.chain(GRID), value, x, config).fit(lambda own, line: seen.append(line))
    return seen[0]["contrast"]


@pytest.mark.parametrize(("everywhere", "levels"), [(False, 1), (True, GRID.steps)])
def test_each_level_but_the_priors_pays_for_its_own_height(everywhere: bool, levels: int) -> None:
    heights = [2.0, -3.0, 5.0, 7.0]
    config = dataclasses.replace(ONE, everywhere=everywhere, gamma=0.1, velocity="schedule", log_every=1)
    found = figure(policy_core(), bowls(heights, [math.inf] * 4), data(), config)
    assert found == pytest.approx(0.2 * sum(h * h for h in heights[:levels]))


def core_of_zero() -> ud.Diffusion:
    return ud.Diffusion(SCHEDULE, ud.Denoiser(MLP(2, 8, 2), (2,), "x0", "edm", data_std=1e-4))


def test_data_and_an_exact_chain_agree_at_every_level() -> None:
    """One datum at 0: the posterior chain of x̂_0 = 0 has N(0, σ_k² I) at each level, as its noised data have."""
    core = core_of_zero()
    batch = 4096
    config = dataclasses.replace(
        ONE, everywhere=True, batch=batch, gamma=1e-9, velocity="schedule", log_every=1, policy_lr=1e-9
    )
    found = figure(core, bowls([0.0] * 4, SIGMA), torch.zeros(4, 2), config)
    # ‖x‖²/(2σ²) of two numbers has variance 1; a level's difference 2/batch, and the levels may hang together.
    assert abs(found) < 6 * GRID.steps * math.sqrt(2 / batch)


@pytest.mark.parametrize("everywhere", [False, True])
def test_each_level_is_moved_by_its_own_data_and_its_own_walks(everywhere: bool) -> None:
    """One datum at c, and the chain of x̂_0 = 0: N(α_k c, σ_k² I) against N(0, σ_k² I), with V_k = h_k at first.

    So the slope's gradient is α_k c, the curvature's ½ α_k²‖c‖², and γ adds 4γh_k, 2γh_k α_k c and γh_k(α_k²‖c‖² + 2Dσ_k²).
    """
    batch, gamma, datum = 4096, 0.05, torch.tensor([6.0, -5.0])
    heights = [2.0, -3.0, 5.0, 7.0]
    made = iter([Plane(h) for h in heights])
    networks = GridValue(lambda: next(made), GRID)
    value = EnergyModel(networks, (2,), schedule=SCHEDULE)
    config = dataclasses.replace(
        ONE, everywhere=everywhere, batch=batch, gamma=gamma, velocity="schedule", contrast=0.5, clip=1e6
    )
    DxMITrainer(core_of_zero().chain(GRID), value, datum.expand(4, 2).clone(), config).fit()
    alpha, square = SCHEDULE.alpha(GRID.times).tolist(), float(datum.square().sum())
    for k, (network, h) in enumerate(zip(networks.networks, heights, strict=True)):
        heard = 0.5 if k < (GRID.steps if everywhere else 1) else 0.0
        signal, spread = alpha[k] ** 2 * square, 2 * SIGMA[k] ** 2
        # Six deviations of a mean over the batch of x, and of ½‖x‖² on either side.
        away = 6 * heard * (1 + 2 * gamma * abs(h)) * math.sqrt(2 * SIGMA[k] ** 2 / batch) + 1e-6
        torch.testing.assert_close(network.height.grad, torch.tensor(heard * 4 * gamma * h))
        known = heard * alpha[k] * datum * (1 + 2 * gamma * h)
        torch.testing.assert_close(network.slope.grad, known, rtol=0, atol=away)
        curvature = heard * (0.5 * signal + gamma * h * (signal + 2 * spread))
        wide = math.sqrt(signal) + math.sqrt(spread)
        torch.testing.assert_close(network.curvature.grad, torch.tensor(curvature), rtol=0, atol=away * wide)
        if heard:
            assert away < 0.2 * float(known.norm())
            assert away * wide < 0.2 * abs(curvature)
