r"""The order in which data are seen: one endless stream of indices, a fresh permutation each epoch.

Epoch e's permutation is a function of (seed, e) alone, so the place in the stream is one integer, and a run resumed at
position p sees what an uninterrupted one would have seen from p on, whatever the batch size was before.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unidiff.core.boundary import check_count

_EPOCHS_PER_SEED = 2**32


class DataOrder:
    """The stream for ``n`` data, at ``position``, indices on ``device``.

    Raises:
        ValueError: n below 1, position below 0.
    """

    def __init__(self, n: int, seed: int = 0, position: int = 0, device: torch.device | str = "cpu") -> None:
        self.n = check_count("n", n)
        self.seed = seed
        self.position = check_count("position", position, least=0)
        self.device = device
        self._epoch, self._permutation = -1, torch.empty(0)

    def next(self, batch_size: int) -> Tensor:
        """The next ``batch_size`` indices, across the end of an epoch where need be."""
        parts: list[Tensor] = []
        left = check_count("batch_size", batch_size)
        while left:
            epoch, start = divmod(self.position, self.n)
            part = self._of(epoch)[start : start + left]
            parts.append(part)
            left -= part.numel()
            self.position += part.numel()
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _of(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed((self.seed * _EPOCHS_PER_SEED + epoch) % 2**63)
            self._permutation = torch.randperm(self.n, generator=generator).to(self.device)
            self._epoch = epoch
        return self._permutation
