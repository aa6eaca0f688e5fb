r"""A residual perceptron for flat data: toys, and the digits as 64 numbers.

    h_1 = silu(A_1 x + c_1),   h_i = h_{i−1} + silu(A_i h_{i−1} + c_i),   F = A_out h_n,   c = c(λ) + c(class)

The noise level enters as the biases c, so they are all one function of λ, made once for every level of a sampler
(``embed``); what is left for each state (``body``) is n + 1 matrix products with the additions fused into them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unidiff.core.boundary import check_count, check_positive
from unidiff.core.networks.embedding import NoiseFeatures


class MLP(nn.Module):
    """``network(x [B, D], noise [B], condition [B] or None) -> [B, D]``, or ``[B, 2D]`` with a learned variance.

    With ``outputs`` it is a head of that many numbers instead: one for an energy.

    Args:
        dim: D.
        width: units of a hidden layer.
        depth: how many hidden layers.
        num_classes: for class conditioning; the class ``num_classes`` is the null one.
        learned_variance: whether a second D outputs hold the variance fraction.
        outputs: how many numbers it returns; None for D (2D with a learned variance).
        frequencies: sin ωx and cos ωx of these ω, in units of 1/x, join x: a perceptron is slow to learn what is narrow
            beside the whole (Tancik et al. 2020).

    Raises:
        ValueError: a count below 1; a frequency that is not positive; outputs and a learned variance at once.
    """

    def __init__(
        self,
        dim: int,
        width: int = 256,
        depth: int = 3,
        num_classes: int | None = None,
        learned_variance: bool = False,
        outputs: int | None = None,
        frequencies: Sequence[float] = (),
    ) -> None:
        super().__init__()
        for name, value in (("dim", dim), ("width", width), ("depth", depth)):
            check_count(name, value)
        if outputs is not None and learned_variance:
            raise ValueError(f"outputs must be left out with a learned variance, got {outputs}")
        self._config = {
            "kind": "mlp", "dim": dim, "width": width, "depth": depth,
            "num_classes": num_classes, "learned_variance": learned_variance,
        }  # fmt: skip
        if outputs is not None:
            self._config["outputs"] = check_count("outputs", outputs)
        for omega in frequencies:
            check_positive("frequencies", omega)
        if len(frequencies):
            self._config["frequencies"] = [float(omega) for omega in frequencies]
        self.frequencies = tuple(float(omega) for omega in frequencies)
        self.depth = depth
        features = NoiseFeatures()
        self.noise = nn.Sequential(
            features, nn.Linear(features.width, width), nn.SiLU(), nn.Linear(width, depth * width)
        )
        self.classes = None
        if num_classes is not None:
            self.classes = nn.Embedding(check_count("num_classes", num_classes) + 1, depth * width)
        self.first = nn.Linear(dim * (1 + 2 * len(self.frequencies)), width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
        self.last = nn.Linear(width, dim * (2 if learned_variance else 1) if outputs is None else outputs)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def config(self) -> dict[str, Any]:
        """What :func:`unidiff.core.networks.build` needs to make it again."""
        return dict(self._config)

    def embed(self, noise: Tensor) -> Tensor:
        """The biases c(λ) of all the hidden layers, ``[K, depth·width]``, for log-SNRs ``[K]``."""
        return self.noise(noise)

    def body(self, x: Tensor, embedding: Tensor, condition: Tensor | None = None) -> Tensor:
        """F at ``x`` ``[B, D]`` for an embedding ``[B, ·]`` or ``[1, ·]``."""
        if self.classes is not None and condition is not None:
            embedding = embedding + self.classes(condition)
        bias = embedding.chunk(self.depth, dim=-1)
        if self.frequencies:
            waves = [wave(omega * x) for omega in self.frequencies for wave in (torch.sin, torch.cos)]
            x = torch.cat([x, *waves], dim=1)
        h = F.silu(self.first(x) + bias[0])
        for layer, b in zip(self.hidden, bias[1:], strict=True):
            h = h + F.silu(layer(h) + b)
        return self.last(h)

    def forward(self, x: Tensor, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """F at ``x`` ``[B, D]`` and log-SNR ``[B]``."""
        return self.body(x, self.embed(noise), condition)
