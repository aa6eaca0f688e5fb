"""What ``unidiff bench images`` compares: a teacher, its own samplers in few steps, and DxMI from the teacher's core.

DxMI's policy starts as a copy of the teacher on a grid that is even in log-SNR and ends where noise is still heard, so that
the data have a density there; its value as an energy that has learned to denoise by itself. Both are then trained together.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unidiff.core.chain import ReverseChain
from unidiff.core.denoiser import Denoiser
from unidiff.core.diffusion import Diffusion
from unidiff.core.grid import TimeGrid
from unidiff.core.networks import MLP, GradientField, UNet
from unidiff.core.sampling import Sampler
from unidiff.core.schedule import Schedule
from unidiff.core.tables import Method
from unidiff.ebm import EnergyModel
from unidiff.train import Dataset, DxMIConfig, DxMITrainer, TrainConfig, Trainer, presets

ENDS = 5.0, -3.0
"""Log-SNR of the last time of DxMI's grid, and of the last but the prior's."""


@dataclass(frozen=True)
class Recipe:
    """How the parts are trained.

    Attributes:
        teacher: the core to be hurried.
        value: the energy, by denoising alone.
        value_size: width and depth of its MLP, or width and blocks a level of its U-Net.
        dxmi: both together.
    """

    teacher: TrainConfig
    value: TrainConfig
    value_size: tuple[int, int]
    dxmi: DxMIConfig


def recipe(network: str, data: str) -> Recipe:
    """The recipe for a kind of network. On images of 64 numbers the perceptron's takes minutes on one CPU core."""
    # In tens or hundreds of numbers every step must hear the contrast: told at the end alone, the walk before goes astray.
    if network == "mlp":
        teacher = TrainConfig(
            schedule="cosine", prediction="v", network="mlp", width=256, depth=4, weighting="sigmoid", steps=4000,
            batch_size=128, lr=2e-3, warmup=100, ema=0.999,
        )  # fmt: skip
        value = replace(teacher, prediction="x0", preconditioning="edm", steps=2000, ema=0.995)
        dxmi = DxMIConfig(
            iterations=1500, batch=128, policy_lr=7e-4, variance_lr=1e-5, value_lr=2e-3, contrast=1.0, difference=0.0,
            anchor=3.0, ladder=0.0, everywhere=True, gamma=0.01, clip=100.0,
        )  # fmt: skip
        return Recipe(teacher, value, (256, 3), dxmi)
    # A second derivative goes through the value: no attention, no half precision.
    teacher = replace(
        presets.for_data(data), network="unet", conditional=False, variance="fixed", steps=20_000, minutes=None
    )
    value = replace(
        teacher,
        prediction="x0",
        preconditioning="edm",
        dropout=0.0,
        attention=(),
        steps=5000,
        amp="none",
        compile=False,
    )
    dxmi = DxMIConfig(
        iterations=2000, batch=64, policy_lr=1e-4, variance_lr=1e-5, value_lr=3e-4, warmup=50, decay="constant",
        contrast=1.0, difference=0.0, anchor=3.0, ladder=0.0, everywhere=True, gamma=1e-4, clip=100.0,
    )  # fmt: skip
    return Recipe(teacher, value, (32, 1), dxmi)


def value_core(plan: Recipe, data: Dataset, schedule: Schedule, seed: int) -> Diffusion:
    """An energy-parameterised core with new parameters: a scalar perceptron for vectors, ⟨x, UNet⟩ for images."""
    width, depth = plan.value_size
    shape = data.event_shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if len(shape) == 1:
            network = GradientField(MLP(shape[0], width, depth, outputs=1), "scalar")
        else:
            multipliers = plan.teacher.multipliers
            network = GradientField(UNet(shape[0], shape[1], width, multipliers, depth, attention=()), "inner")
    denoiser = Denoiser(network, shape, "x0", "edm", data_std=data.spread("an energy"))
    return Diffusion(schedule, denoiser)


def trained(core: Diffusion | None, config: TrainConfig, data: Dataset) -> Diffusion:
    """A core after denoising; a new one if None."""
    trainer = Trainer.start(config, data) if core is None else Trainer(core, data, config)
    return trainer.fit()


def dxmi(
    teacher: Diffusion, value: Diffusion, data: Tensor, steps: int, config: DxMIConfig, told: Callable[[int], None]
) -> ReverseChain:
    """The chain of ``steps`` steps that DxMI makes of a copy of the teacher, and of a copy of the value."""
    policy, energy = (copy.deepcopy(core).requires_grad_(True) for core in (teacher, value))
    grid = TimeGrid.heard(steps, policy.schedule, *ENDS)
    trainer = DxMITrainer(policy.chain(grid, "posterior"), EnergyModel.of(energy), data, config)
    return trainer.fit(lambda run, _: told(run.round))


def grids(schedule: Schedule, steps: int) -> dict[str, TimeGrid]:
    """The grids that the teacher's own samplers may choose from, by name."""
    found = {"uniform": TimeGrid.uniform(steps), "quadratic": TimeGrid.quadratic(steps)}
    for high, low in ((6, -6), (5, -3), (5, -2), (4, -4)):
        found[f"log-SNR {high} to {low}"] = TimeGrid.heard(steps, schedule, high, low)
    return found


@torch.no_grad()
def sampled(core: Diffusion, grid: TimeGrid, method: Method, n: int, generator: torch.Generator) -> Tensor:
    """n samples ``[n, *E]`` of one of the teacher's own samplers."""
    like = core.first_parameter()
    return Sampler(core, grid, method)(core.prior(n, generator, like), generator)


@torch.no_grad()
def walked(chain: ReverseChain, n: int, generator: torch.Generator) -> Tensor:
    """n draws ``[n, *E]`` of a chain, the noise of its last step included."""
    x = chain.core.prior(n, generator, chain.core.first_parameter())
    for k in range(chain.steps, 0, -1):
        x = chain.step(x, k).sample(generator)
    return x
