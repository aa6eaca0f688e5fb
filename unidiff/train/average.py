r"""The average of parameters in time, θ̄ ← d θ̄ + (1 − d) θ (Polyak & Juditsky 1992)."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

M = TypeVar("M", bound=nn.Module)


class Average(Generic[M]):
    """A module's parameters, averaged in a copy of it.

    Torch's ``AveragedModel`` with the lists of parameters kept and the decay the host's: it neither walks through the
    module nor waits for the device.

    Args:
        source: whose parameters are averaged; its buffers are taken as they are.

    Attributes:
        module: the copy, which holds θ̄.
    """

    def __init__(self, source: M) -> None:
        self.module = copy.deepcopy(source)
        self._current: list[Tensor] = list(source.parameters())
        self._averaged: list[Tensor] = list(self.module.parameters())

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """Take in the parameters as they are now, with d = ``decay``; 0 makes θ̄ the same bits as θ."""
        get_ema_multi_avg_fn(decay)(self._averaged, self._current, 0)
