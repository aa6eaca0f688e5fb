"""What is verified: closed-form worlds × schedules × dtypes, the digits, and networks.

A :class:`Spec` names a closed-form case, so that another process can build it; a network's case is built where it is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from unidiff.core.diffusion import Diffusion
from unidiff.core.schedule import Schedule
from unidiff.identities.case import Case
from unidiff.identities.laws import Identity
from unidiff.worlds import OracleDenoiser, PointCloud, library
from unidiff.worlds.world import World

DTYPES: dict[str, torch.dtype] = {"float64": torch.float64, "float32": torch.float32}

# As wide as the numerical law promises: log-SNR over [−20, 20] wherever the kind's range is a choice.
SCHEDULES: dict[str, Callable[[], Schedule]] = {
    "linear": Schedule.linear,
    "cosine": lambda: Schedule.cosine(20.0, -20.0),
    "sigmoid": lambda: Schedule.sigmoid(-3.0, 2.0, 0.9, 20.0, -20.0),
    "polynomial": lambda: Schedule.polynomial(1.5, 20.0, -20.0),
    "karras": lambda: Schedule.karras(4.6e-5, 2.2e4, 7.0),
    "ddpm": lambda: Schedule.named("ddpm"),
    "learned": lambda: Schedule.learned(20.0, -20.0),
}
WORLDS: dict[str, Callable[[], World]] = {
    "mixture-2d": library.mixture_2d,
    "mixture-8d": library.mixture_8d,
    "gaussian": library.gaussian,
    "digits": library.digits,
    "digits-100": lambda: library.digits(100),
}

FULL = tuple(
    (world, schedule) for world in ("mixture-2d", "mixture-8d", "gaussian", "digits") for schedule in SCHEDULES
)
# Each world and each schedule at least once, and a hundred digits for the whole set.
QUICK = (
    ("mixture-2d", "linear"),
    ("mixture-8d", "cosine"),
    ("gaussian", "sigmoid"),
    ("mixture-2d", "polynomial"),
    ("gaussian", "karras"),
    ("mixture-8d", "ddpm"),
    ("mixture-2d", "learned"),
    ("digits-100", "cosine"),
)


@dataclass(frozen=True)
class Spec:
    """A world's exact denoiser under a schedule, by name."""

    world: str
    schedule: str
    dtype: str
    device: str
    seed: int
    first: bool = True
    """Whether no spec before it in the suite has its schedule and dtype."""

    def case(self) -> Case:
        """The case it names."""
        own = exact_case(
            _world(self.world), self.world, _schedule(self.schedule), self.schedule, self.dtype,
            torch.device(self.device), self.seed,
        )  # fmt: skip
        return replace(own, standard=True)

    def asks(self, identity: Identity, case: Case) -> bool:
        """Whether the standard suite puts ``identity`` to its ``case``.

        A z-test sees no rounding: in float32 one world is enough to show that its terms survive the dtype.
        """
        enough = identity.law != "monte_carlo" or case.dtype == torch.float64 or case.world_name == "gaussian"
        return enough and (self.first or not identity.worldless) and identity.applies(case)


def standard(quick: bool, dtypes: tuple[str, ...], device: str, seed: int) -> list[Spec]:
    """The suite that runs when nothing is asked for."""
    pairs, found = QUICK if quick else FULL, []
    for i, (world, schedule) in enumerate(pairs):
        first = schedule not in [earlier for _, earlier in pairs[:i]]
        found += [Spec(world, schedule, dtype, device, seed, first) for dtype in dtypes]
    return found


def exact_case(
    world: World,
    world_name: str,
    schedule: Schedule,
    schedule_name: str,
    dtype: str,
    device: torch.device,
    seed: int,
) -> Case:
    """The case of a world's own exact denoiser."""
    law = world.to(DTYPES[dtype], device)
    core = Diffusion(copy.deepcopy(schedule), OracleDenoiser(law)).to(device).requires_grad_(False)
    batch, draws = _sizes(world)
    return Case(core, law, world_name, schedule_name, DTYPES[dtype], device, seed, batch=batch, draws=draws)


def network_cases(
    core: Diffusion,
    world: World,
    world_name: str,
    schedule_name: str,
    dtypes: tuple[str, ...],
    device: str,
    seed: int,
) -> Iterator[Case]:
    """A network's core, in each dtype, on the data of ``world``."""
    batch, draws = _sizes(world)
    for name in dtypes:
        own = copy.deepcopy(core).to(device=device, dtype=DTYPES[name]).requires_grad_(False).eval()
        law = world.to(DTYPES[name], device)
        yield Case(
            own, law, world_name, schedule_name, DTYPES[name], torch.device(device), seed,
            exact=False, batch=batch, draws=draws,
        )  # fmt: skip


def _sizes(world: World) -> tuple[int, int]:
    # (batch, draws): a data set's exact denoiser is dear, and its many dimensions make up for fewer draws.
    if isinstance(world, PointCloud):
        return 32, 2048
    return 64, (16384 if world.dim < 8 else 8192)


@lru_cache(maxsize=8)
def _world(name: str) -> World:
    return WORLDS[name]()


@lru_cache(maxsize=16)
def _schedule(name: str) -> Schedule:
    return SCHEDULES[name]()
