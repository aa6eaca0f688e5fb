"""Networks as subjects: one trained on the digits on the spot, one with random weights, one from a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from unidiff.core import networks
from unidiff.core.denoiser import Denoiser
from unidiff.core.diffusion import Diffusion
from unidiff.core.sampling import sample
from unidiff.core.schedule import Schedule
from unidiff.core.tables import METHODS
from unidiff.identities.orders import STEPS, sampler_errors
from unidiff.train import checkpoint as checkpoints
from unidiff.train.build import redraw
from unidiff.train.data import Dataset
from unidiff.train.presets import quick_digits
from unidiff.train.toys import LAWS
from unidiff.worlds import Gaussian, OracleDenoiser, PointCloud, library
from unidiff.worlds.world import World

# Of a data set whose exact denoiser is asked for: the digits have 115 008.
MOST_NUMBERS = 200_000


@dataclass
class Subject:
    """A network's core and its data.

    Attributes:
        core: in evaluation mode.
        world: its data, or a stand-in.
        known: whether ``world`` is the data, so that gaps mean something.
        losses: of its training, if that was watched.
    """

    core: Diffusion
    world: World
    name: str
    schedule: str
    known: bool = True
    losses: list[float] = field(default_factory=list)


def trained_digits(seed: int, on_step: Callable[[int, int, float], None] | None = None) -> Subject:
    """A small network trained on the digits, now."""
    core, losses = quick_digits(seed, on_step=on_step)
    return Subject(core, library.digits(), "digits, network", "cosine", losses=losses)


def untrained(seed: int) -> Subject:
    """A small network with random weights in every layer, for what holds of any core."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = networks.MLP(2, width=32, depth=2)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    core = Diffusion(Schedule.cosine(), Denoiser(network, (2,), "v")).eval()
    return Subject(core, library.mixture_2d(), "mixture-2d, network", "cosine")


def from_checkpoint(path: str | Path) -> Subject:
    """The core in a checkpoint, on the data that it was trained on where they can be had again."""
    kept = checkpoints.read(path)
    core = checkpoints.restore_core(kept, path, ema=True)
    world, known = stand_in(core.event_shape), False
    about = kept.about.get("data", {})
    if (data := _trained_on(kept.about)) is not None:
        if about["name"] in LAWS:
            world, known = LAWS[about["name"]](), True
        elif data.x.numel() <= MOST_NUMBERS:
            world, known = PointCloud(data.x.to(torch.float64).reshape(len(data), *core.event_shape)), True
    return Subject(core, world, Path(path).name, core.schedule.kind, known)


def _trained_on(about: Mapping[str, Any]) -> Dataset | None:
    """The data of a run, drawn anew, if they are a named set; None if they are not, or not to the bit those that it had."""
    data = redraw(about) if "train" in about else None
    return data if data is not None and data.fingerprint() == about["data"].get("fingerprint") else None


def stand_in(event_shape: tuple[int, ...]) -> World:
    """Data for checks that hold for any: standard normal draws, or the standard normal law if data are flat."""
    dim = torch.Size(event_shape).numel()
    if len(event_shape) == 1:
        return Gaussian(torch.zeros(dim, dtype=torch.float64), torch.eye(dim, dtype=torch.float64))
    return PointCloud(torch.randn(256, *event_shape, generator=_generator(0), dtype=torch.float64))


def figures(subject: Subject, seed: int) -> dict[str, dict[str, Any]]:
    """What is worth looking at: samples, their exact counterpart, the loss, and the samplers' orders."""
    found: dict[str, dict[str, Any]] = {}
    first = next(iter(subject.core.parameters()))
    x = sample(subject.core, 64, steps=50, generator=_generator(seed, first.device), dtype=first.dtype).cpu()
    side = round(x[0].numel() ** 0.5)
    if side * side == x[0].numel() and side > 1:
        found["samples"] = {
            "title": "Sampled from the network (DDIM, 50 steps)", "kind": "image_grid",
            "data": x.reshape(-1, side, side).clamp(-1, 1).numpy(),
        }  # fmt: skip
        if subject.known:
            exact = Diffusion(Schedule.cosine(), OracleDenoiser(subject.world.to(torch.float32)))
            x = sample(exact, 64, steps=50, generator=_generator(seed))
            found["exact"] = {
                "title": "Sampled with the exact denoiser of the same data, which can only repeat them",
                "kind": "image_grid", "data": x.reshape(-1, side, side).clamp(-1, 1).numpy(),
            }  # fmt: skip
    elif x[0].numel() == 2:
        series = {
            "network": x.reshape(-1, 2).numpy(),
            "data": subject.world.sample(512, _generator(seed)).numpy(),
        }
        found["samples"] = {
            "title": "Sampled from the network (DDIM, 50 steps)",
            "kind": "scatter",
            "data": {"series": series},
        }
    if subject.losses:
        count = len(subject.losses)
        found["loss"] = {
            "title": "Training loss of the network", "kind": "lines",
            "data": {
                "x_label": "share of training", "y_label": "weighted loss", "log": False,
                "series": {"loss": {"x": [(k + 1) / count for k in range(count)], "y": list(subject.losses)}},
            },
        }  # fmt: skip
    found["orders"] = {
        "title": "Samplers against the closed-form flow of Gaussian data", "kind": "lines",
        "data": {
            "x_label": "steps", "y_label": "relative error", "log": True,
            "series": {
                method: {
                    "x": list(STEPS),
                    "y": sampler_errors(library.gaussian(), Schedule.cosine(), method, (-4.0, 4.0)),
                }
                for method in METHODS
            },
        },
    }  # fmt: skip
    return found


def _generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)
