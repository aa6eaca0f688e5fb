r"""Exact means over a chain's noises: a rule of degree 5 for N(0, I), of 2n² + 1 nodes (Stroud 1971, E_n^{r²} 5-2).

    E f(ξ) = w_0 f(0) + w_1 Σ_i f(±√3 e_i) + w_2 Σ_{i<j} f(±√3 e_i ± √3 e_j),
    w_0 = 1 + n(n − 7)/18,   w_1 = (4 − n)/18,   w_2 = 1/36,

exact for polynomials of at most the fifth degree. Some weights are negative; κ grows by Σ|w|.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unidiff.identities.laws import Sides
from unidiff.identities.tuned import Parameters, Tuned


@dataclass(frozen=True)
class Nodes:
    """A rule of degree 5 for N(0, I) in n dimensions.

    Attributes:
        noise: the nodes, ``[P, n]``.
        shells: the nodes of one weight, and that weight.
    """

    noise: Tensor
    shells: tuple[tuple[Tensor, float], ...]

    @staticmethod
    def of(n: int) -> Nodes:
        """The centre, the axes and the diagonals of each plane."""
        eye = 3**0.5 * torch.eye(n, dtype=torch.float64)
        first, second = torch.triu_indices(n, n, 1)
        pairs = [s * eye[first] + t * eye[second] for s in (1, -1) for t in (1, -1)]
        noise = torch.cat([0 * eye[:1], eye, -eye, *pairs])
        weights = (1 + n * (n - 7) / 18, (4 - n) / 18, 1 / 36)
        parts = torch.arange(len(noise)).split([1, 2 * n, len(noise) - 2 * n - 1])
        return Nodes(noise, tuple(zip(parts, weights, strict=True)))

    @property
    def size(self) -> float:
        """Σ |weight|: by how much a mean's rounding grows."""
        return sum(abs(weight) * len(index) for index, weight in self.shells)

    def mean(self, value: Tensor, dim: int = 0) -> Tensor:
        """The mean of values at the nodes, which are ``dim`` of it."""
        return sum((w * value.index_select(dim, index).sum(dim) for index, w in self.shells), torch.zeros(()))

    def loss(self, loss: Callable[[Any], Tensor], rows: Any) -> Tensor:
        """The mean of what is a plain mean over some of the rows; a node has one row, or one for each step."""
        steps = len(rows) // len(self.noise)
        start = len(self.noise) * torch.arange(steps)[:, None]
        parts = [w * len(index) * loss(rows[(start + index).flatten()]) for index, w in self.shells]
        return torch.stack(parts).sum()


def nodes_of(tuned: Tuned) -> tuple[Nodes, Tensor]:
    """The rule over all of a chain's noises, and its nodes ``[P, H + 1, D]``."""
    nodes = Nodes.of(tuned.dims)
    return nodes, nodes.noise.view(len(nodes.noise), -1, tuned.case.dim)


def gradients(value: Tensor, tuned: Tuned) -> Parameters:
    """Of ``value`` in W and w."""
    W, w = torch.autograd.grad(value, tuned.parameters)
    return W, w


def downhill(value: Tensor, tuned: Tuned) -> Parameters:
    """What a step on a loss moves towards: −∇."""
    W, w = gradients(value, tuned)
    return -W, -w


def compared(found: Parameters, known: Parameters, size: float) -> Iterator[Sides]:
    """Each decision's part of a gradient; κ is ``size`` times the largest of all."""
    scale = torch.cat([v.flatten() for v in known]).abs().max()
    for mine, theirs in zip(found, known, strict=True):
        yield Sides(mine, theirs, size * scale.expand_as(mine))
