"""Configurations that are known to work, by data set; each trains in three minutes on two cores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from unidiff.core.denoiser import Denoiser
from unidiff.core.diffusion import Diffusion
from unidiff.core.networks import MLP, GradientField
from unidiff.core.schedule import Schedule
from unidiff.ebm import DenoisingScoreMatching, EnergyModel
from unidiff.train.config import TrainConfig
from unidiff.train.data import load_data, peek
from unidiff.train.energy import EnergyTrainer
from unidiff.train.energy_config import EnergyConfig
from unidiff.train.files import DataError
from unidiff.train.trainer import Trainer
from unidiff.worlds.world import World


def toy() -> TrainConfig:
    """For any law in the plane, and vectors of no known kind."""
    return TrainConfig(
        schedule="cosine", prediction="v", network="mlp", width=128, depth=4, weighting="simple",
        minutes=3.0, batch_size=512, lr=2e-3, warmup=200, ema=0.9995, log_every=200, checkpoint_every=2000,
    )  # fmt: skip


def eight_gaussians() -> TrainConfig:
    """Eight separate modes; sliced W_1 of 10⁴ DDIM samples near the floor between two data sets."""
    return toy()


def digits() -> TrainConfig:
    """scikit-learn's 8×8 digits, conditional on the digit."""
    return TrainConfig(
        schedule="cosine", prediction="v", network="unet", width=32, multipliers=(1, 2), blocks=1, attention=(4,),
        conditional=True, weighting="sigmoid", minutes=3.0, batch_size=128, lr=2e-3, warmup=100, ema=0.995,
        log_every=50, checkpoint_every=500,
    )  # fmt: skip


def images(side: int = 32) -> TrainConfig:
    """Square images; better with a GPU, ``amp="bf16"`` and ``compile=True``.

    The U-Net has up to three levels, as often as ``side`` halves into a whole number of at least 4.
    """
    levels = next((n for n in (3, 2) if side % 2 ** (n - 1) == 0 and side >> (n - 1) >= 4), 1)
    return TrainConfig(
        schedule="cosine", prediction="v", network="unet", width=64, multipliers=(1, 2, 2)[:levels], blocks=2,
        weighting="sigmoid", steps=20_000, batch_size=128, lr=5e-4, warmup=500, ema=0.9995, dropout=0.1,
    )  # fmt: skip


PRESETS: dict[str, Callable[[], TrainConfig]] = {
    "eight-gaussians": eight_gaussians,
    "moons": toy,
    "checkerboard": toy,
    "swiss-roll": toy,
    "pinwheel": toy,
    "digits": digits,
}


def for_data(source: str | Path) -> TrainConfig:
    """The preset of a named data set; for a file or a folder :func:`images` if it holds square images, else :func:`toy`.

    Only headers are read. What cannot be read gets :func:`images`: :func:`~unidiff.train.load_data` will say what ails it.
    """
    if str(source) in PRESETS:
        return PRESETS[str(source)]()
    try:
        shape = peek(source)
    except DataError:
        return images()
    if shape is not None and len(shape) == 3 and shape[1] == shape[2]:
        return images(shape[1])
    return toy()


def quick_energy(world: World, seed: int = 0, steps: int = 250) -> EnergyModel:
    """A small energy of a world in the plane at every noise level, float32 on the CPU, in seconds, by denoising.

    Args:
        world: the data's law.
        seed: of everything.
        steps: optimiser steps.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = GradientField(MLP(world.dim, 64, 2, outputs=1, frequencies=(1.0, 2.0, 4.0)))
    spread = float(world.variance.mean().sqrt())
    core = Diffusion(Schedule.cosine(8.0, -8.0), Denoiser(network, world.event_shape, "x0", "edm", data_std=spread))
    data = world.sample(2**14, torch.Generator().manual_seed(seed)).float()
    config = EnergyConfig(steps=steps, lr=3e-3, warmup=50, ema=0.99, seed=seed)
    return EnergyTrainer(EnergyModel.of(core), data, DenoisingScoreMatching(), config).fit()


def quick_digits(
    seed: int = 0, steps: int = 1200, on_step: Callable[[int, int, float], None] | None = None
) -> tuple[Diffusion, list[float]]:
    """A small network on the digits as 64 numbers, float32 on the CPU, in seconds: what ``verify`` trains.

    Args:
        seed: of everything.
        steps: optimiser steps.
        on_step: called with (steps done, steps, loss) every so often.

    Returns:
        the averaged core, and the losses logged.
    """
    config = TrainConfig(
        schedule="cosine", prediction="v", network="mlp", width=256, depth=3, weighting="sigmoid",
        steps=steps, batch_size=128, lr=2e-3, warmup=50, ema=0.99, log_every=max(1, steps // 50), seed=seed, device="cpu",
    )  # fmt: skip
    losses: list[float] = []

    def log(trainer: Trainer, line: dict[str, float]) -> None:
        losses.append(line["loss"])
        if on_step is not None:
            on_step(trainer.step, steps, line["loss"])

    core = Trainer.start(config, load_data("digits", dtype=torch.float32)).fit(log)
    return core, losses
