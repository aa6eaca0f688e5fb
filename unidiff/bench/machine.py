"""Where a benchmark runs, what that is called, and what it draws from."""

from __future__ import annotations

import torch

from unidiff.core.boundary import check_device


def chosen(device: str | None) -> torch.device:
    """The device of this name; a GPU if there is one, else the CPU, if none is named."""
    return check_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def named(device: torch.device) -> str:
    """What a table says of it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}"


def draws(seed: int, purpose: int, device: torch.device) -> torch.Generator:
    """The source of one of seven purposes' draws, 0 … 6: none is another's, and none a run's that has ``seed`` itself."""
    return torch.Generator(device).manual_seed((8 * seed + 1 + purpose) % 2**63)
