r"""torch's own generators, from which dropout draws: kept with a run, lent to it, given back."""

from __future__ import annotations

import torch
from torch import Tensor


def cuda_devices(device: torch.device) -> list[torch.device]:
    """What ``torch.random.fork_rng`` is to fork beside the CPU."""
    return [device] if device.type == "cuda" else []


def default_states(device: torch.device) -> dict[str, Tensor]:
    """The states of the default generators that work on ``device`` draws from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def seeded_default_states(seed: int, device: torch.device) -> dict[str, Tensor]:
    """What they are after ``torch.manual_seed(seed)``, which is not done."""
    with torch.random.fork_rng(devices=cuda_devices(device)):
        torch.manual_seed(seed)
        return default_states(device)


def adopt_default_states(states: dict[str, Tensor], device: torch.device) -> None:
    """Put them in place."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
