"""What is asked of data to learn from, and of their labels, once and before any work."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unidiff.core.boundary import check_finite, check_floating, check_type


def check_data(argument: str, value: Any) -> Tensor:
    """``value`` if it is data: ``[N, *E]`` with N > 0, float32 or float64, finite.

    Raises:
        TypeError: no tensor of such numbers.
        ValueError: another shape, no data, NaN or infinity.
    """
    check_floating(argument, value)
    if value.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{argument} must be of float32 or float64, got {value.dtype}")
    if value.ndim < 2 or value.numel() == 0:
        raise ValueError(f"{argument} must have shape [N, *event] with N > 0, got {list(value.shape)}")
    return check_finite(argument, value)


def check_labels(argument: str, value: Any, like: Tensor, num_classes: int | None = None) -> Tensor:
    """The classes of data ``like`` ``[N, *E]`` as int64 ``[N]``: each at least 0, and below ``num_classes`` if it is given.

    Raises:
        TypeError: no tensor of integers.
        ValueError: not one for each datum, on another device, out of range.
    """
    check_type(argument, value, Tensor)
    if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        raise TypeError(f"{argument} must be a tensor of integers, got {value.dtype}")
    if value.shape != like.shape[:1]:
        raise ValueError(f"{argument} must have shape [{like.shape[0]}], one for each datum, got {list(value.shape)}")
    if value.device != like.device:
        raise ValueError(f"{argument} must be on {like.device}, where the data are, got {value.device}")
    labels = value.to(torch.int64)
    least, most = int(labels.min()), int(labels.max())
    if least < 0 or (num_classes is not None and most >= num_classes):
        allowed = "be at least 0" if num_classes is None else f"lie in 0 … {num_classes - 1}"
        raise ValueError(f"{argument} must {allowed}, got labels in {least} … {most}")
    return labels
