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

    A draw of another mean or deviation is that mean and so many deviations.

    Args:
        first: the row of the first draw; None answers every draw with zeros.
        rows: of the batch; a draw of another number of rows is refused. None: any.

    Attributes:
        count: how many draws were made.
    """

    def __init__(self, first: int | None = None, rows: int | None = None) -> None:
        super().__init__()
        self.first, self.rows, self.count = first, rows, 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Answer Gaussian draws; everything else is torch's."""
        out = func(*args, **(kwargs or {}))
        if func not in _GAUSSIAN:
            return out
        rows = out.shape[0] if out.ndim else 0
        if self.rows is not None and rows != self.rows:
            raise ValueError(f"a draw must be of all of the batch's {self.rows} rows at once, got {list(out.shape)}")
        unit = torch.zeros_like(out)
        if self.first is not None and self.first + self.count < rows:
            unit[self.first + self.count] = 1.0
        self.count += 1
        if func in (torch.randn, torch.randn_like):
            return unit
        told = list(args[1:] if func is Tensor.normal_ else args[:2])
        named = kwargs or {}
        mean = told[0] if told else named.get("mean", 0.0)
        std = told[1] if len(told) > 1 else named.get("std", 1.0)
        answer = mean + std * unit
        return out.copy_(answer) if func is Tensor.normal_ else answer
