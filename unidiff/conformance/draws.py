r"""Every Gaussian draw that a foreign sampler makes, answered by us.

A sampler that is fed answers which do not depend on its state is an affine map of its start, the answers and its draws.
Answered with unit vectors, one in each row of a batch, one walk gives the whole matrix: no Monte Carlo, float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_GAUSSIAN: tuple[Callable[..., Any], ...] = (torch.randn, torch.randn_like, torch.normal, Tensor.normal_)


class Draws(TorchFunctionMode):
    """Within it, the j-th Gaussian draw is 1 in row ``first`` + j of the batch, if there is such a row, and 0 elsewhere.

    Args:
        first: the row of the first draw; None answers every draw with zeros.

    Attributes:
        count: how many draws were made.
    """

    def __init__(self, first: int | None = None) -> None:
        super().__init__()
        self.first, self.count = first, 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Answer Gaussian draws; everything else is torch's."""
        out = func(*args, **(kwargs or {}))
        if func not in _GAUSSIAN:
            return out
        unit = out.zero_() if func is Tensor.normal_ else torch.zeros_like(out)
        if self.first is not None and unit.ndim > 0 and self.first + self.count < len(unit):
            unit[self.first + self.count] = 1.0
        self.count += 1
        return unit
