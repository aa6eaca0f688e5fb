r"""Temporary."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Paths:
    values: Tensor
    found: tuple[Tensor, ...]
    label: str

    @staticmethod
    def of(values: Tensor, paths: list[Tensor], label: str) -> Paths:
        return Paths(values, tuple(paths), label)

    def path(self, steps: int) -> Tensor:
        return self.found[steps - 1]


def shortest(cost: Tensor, most: int) -> Paths:
    n = len(cost)
    c = cost.masked_fill(~torch.ones(n, n, dtype=torch.bool).triu(1), torch.inf)
    value, came, values, paths = c[0], [], [], []
    for k in range(1, most + 1):
        if k > 1:
            value, where = (value[:, None] + c).min(0)
            came.append(where)
        path = [n - 1]
        for where in reversed(came):
            path.append(int(where[path[-1]]))
        values.append(value[-1])
        paths.append(torch.tensor([0, *path[::-1]]))
    return Paths.of(torch.stack(values), paths, "exact")


def brute_force(cost: Tensor, steps: int): ...
