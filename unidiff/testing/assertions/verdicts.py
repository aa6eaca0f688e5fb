"""What an assertion raises, and how it names the element that is furthest off."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


class Inconclusive(Exception):
    """The check could not have seen a violation of the size that it is to catch: it has not passed, and nothing is wrong.

    It is no AssertionError: more draws, a wider dtype or a better condition would decide.
    """


def as_tensor(argument: str, value: Any) -> Tensor:
    """A detached tensor of at least one real number, as it is; of an array or numbers, float64 unless it says otherwise.

    Raises:
        TypeError: no numbers, or complex ones.
        ValueError: none at all.
    """
    try:
        found = value if isinstance(value, Tensor) else torch.from_numpy(np.array(value, ndmin=0))
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{argument} must be a tensor, an array or numbers, got {value!r}") from None
    if found.is_complex():
        raise TypeError(f"{argument} must be real, got {found.dtype}")
    if found.numel() == 0:
        raise ValueError(f"{argument} must hold at least one number, got shape {list(found.shape)}")
    found = found.detach()
    return found if found.is_floating_point() else found.to(torch.float64)


def check_rounding(dtype: Any, *tensors: Tensor) -> torch.dtype:
    """``dtype``, a real floating one, or for None the coarsest of the tensors'."""
    if dtype is None:
        return coarsest(*tensors)
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"dtype must be a floating torch.dtype, got {dtype!r}")
    if not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating torch.dtype, got {dtype}")
    return dtype


def coarsest(*tensors: Tensor) -> torch.dtype:
    """The dtype of the fewest digits among them: its rounding is what must be forgiven."""
    return max((v.dtype for v in tensors), key=lambda dtype: torch.finfo(dtype).eps)


def place(flat: int, shape: torch.Size) -> str:
    """The index ``[i, j]`` of a flat one; nothing for a single number."""
    return "" if not shape else str([int(i) for i in np.unravel_index(flat, tuple(shape))])


def name_of(dtype: torch.dtype) -> str:
    """``float32`` for ``torch.float32``."""
    return str(dtype).removeprefix("torch.")
