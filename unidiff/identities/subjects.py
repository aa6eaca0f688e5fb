"""What ``unidiff verify`` verifies: closed-form worlds × schedules × dtypes, the digits, and networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from unidiff.core.denoiser import Denoiser
from unidiff.core.diffusion import Diffusion
from unidiff.core.schedule import Schedule
from unidiff.identities.case import Case
from unidiff.worlds import OracleDenoiser, PointCloud, library
from unidiff.worlds.world import World

WORLDS = ("mixture-2d", "mixture-8d", "gaussian", "digits")
QUICK_WORLDS = ("mixture-2d", "mixture-8d", "gaussian")
DTYPES: dict[str, torch.dtype] = {"float64": torch.float64, "float32": torch.float32}

# As wide as the numerical law promises: log-SNR over [−20, 20] wherever the kind's range is a choice.
SCHEDULES: dict[str, Callable[[], Schedule]] = {
    "linear": Schedule.linear,
    "cosine": lambda: Schedule.cosine(20.0, -20.0),
    "sigmoid": lambda: Schedule.sigmoid(log_snr_max=20.0, log_snr_min=-20.0),
    "polynomial": lambda: Schedule.polynomial(1.5, 20.0, -20.0),
    "karras": lambda: Schedule.karras(4.6e-5, 2.2e4, 7.0),
    "ddpm": lambda: Schedule.from_betas(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)),
    "learned": lambda: Schedule.learned(20.0, -20.0),
}
QUICK_SCHEDULES = ("linear", "cosine", "sigmoid", "polynomial", "karras", "ddpm", "learned")


def oracle_cases(
    worlds: dict[str, World], schedules: dict[str, Schedule], dtypes: list[str], device: torch.device, seed: int
) -> Iterator[Case]:
    """One case for each world, schedule and dtype, with the world's exact denoiser."""
    for world_name, world in worlds.items():
        cloud = isinstance(world, PointCloud)
        for schedule_name, schedule in schedules.items():
            for name in dtypes:
                law = world.to(DTYPES[name], device)
                core = Diffusion(schedule, OracleDenoiser(law)).to(device)
                yield Case(
                    core, law, world_name, schedule_name, DTYPES[name], device, seed,
                    batch=32 if cloud else 64, draws=1024 if cloud else 16384,
                )  # fmt: skip


def network_cases(
    core: Diffusion, world: World, world_name: str, schedule_name: str, dtypes: list[str], device: torch.device, seed: int
) -> Iterator[Case]:
    """A network's core, in each dtype, on the data of ``world``."""
    import copy

    for name in dtypes:
        own = copy.deepcopy(core).to(device=device, dtype=DTYPES[name]).requires_grad_(False)
        law = world.to(DTYPES[name], device)
        yield Case(own, law, world_name, schedule_name, DTYPES[name], device, seed, exact=False, batch=32, draws=1024)


def named_worlds(names: tuple[str, ...]) -> dict[str, World]:
    """Worlds of the library, by name."""
    return {name: library.get(name) for name in names}


def named_schedules(names: tuple[str, ...]) -> dict[str, Schedule]:
    """The standard wide schedules, by name."""
    return {name: SCHEDULES[name]() for name in names}


def network_prediction(core: Diffusion) -> str:
    """A word for the report on what a core's network predicts."""
    denoiser = core.denoiser
    return denoiser.prediction if isinstance(denoiser, Denoiser) else type(denoiser).__name__
