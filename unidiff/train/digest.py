"""The sha256 of named tensors: equal just where dtypes, shapes and every bit are."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def digest(tensors: Mapping[str, Tensor], document: str = "") -> str:
    """sha256, in hexadecimal, over ``document`` and each tensor's name, dtype, shape and bytes, in the order of names."""
    total = hashlib.sha256(document.encode())
    for name in sorted(tensors):
        t = tensors[name].detach().cpu().contiguous()
        total.update(f"{name}:{t.dtype}:{tuple(t.shape)};".encode())
        total.update(t.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
