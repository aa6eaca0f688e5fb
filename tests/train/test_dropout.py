"""What learns an energy asks functions: no layer that draws by itself takes part in a run, and a seed is a run."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import unidiff as ud
from unidiff.core import networks
from unidiff.ebm import ContrastiveDivergence, DenoisingScoreMatching, EnergyMethod
from unidiff.train import DxMIConfig, EnergyConfig, EnergyTrainer

SCHEDULE = ud.Schedule.cosine()
DATA = ud.worlds.library.mixture_2d().sample(64, torch.Generator().manual_seed(0)).float()


class Dropped(nn.Module):
    """A perceptron behind dropout."""

    def __init__(self, outputs: int | None) -> None:
        super().__init__()
        self.body, self.drop = networks.MLP(2, 8, 2, outputs=outputs), nn.Dropout(0.5)

    def forward(self, x: Tensor, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.body(self.drop(x), noise)


def core(outputs: int | None) -> ud.Diffusion:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        network: nn.Module = Dropped(outputs)
        for p in network.parameters():
            nn.init.normal_(p, 0.0, 0.3)
    network = network if outputs is None else networks.GradientField(network)
    return ud.Diffusion(SCHEDULE, ud.Denoiser(network, (2,), "x0", "edm")).train()


@pytest.mark.parametrize("method", [ContrastiveDivergence(2, t=0.3), DenoisingScoreMatching()], ids=["cd", "dsm"])
def test_a_seed_is_a_run_of_an_energy_whatever_torchs_own_generator_holds(method: EnergyMethod) -> None:
    runs = []
    for seed in (5, 6):
        model = ud.EnergyModel(core(1))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            EnergyTrainer(model, DATA, method, EnergyConfig(steps=3, batch_size=16)).fit()
        runs.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("shared", [False, True])
def test_a_seed_is_a_run_of_dxmi_whatever_torchs_own_generator_holds(shared: bool) -> None:
    runs = []
    for seed in (5, 6):
        value = core(1)
        policy = value if shared else core(None)
        config = DxMIConfig(iterations=3, start=1, batch=16, velocity="schedule", weighted=True)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            grid = ud.TimeGrid.uniform(3, 0.1)
            trainer = ud.DxMITrainer(policy.chain(grid), ud.EnergyModel.of(value), DATA, config)
            trainer.fit()
        runs.append([p.detach().clone() for p in (*value.parameters(), *policy.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
