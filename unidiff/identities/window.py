r"""A part of a schedule as a schedule: λ(first + (last − first) t), its time stretched to [0, 1] again.

The kernels between two times know nothing of the times outside them (item 1), so whatever holds of any schedule holds
of its inside; and there a chain of float32 steps can be judged where its terms do not cancel.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unidiff.core.schedule import Schedule


class Window(Schedule):
    """λ(first + (last − first) t): a schedule's inside as a schedule."""

    kind = "window"

    def __init__(self, parent: Schedule, first: float, last: float) -> None:
        self.parent, self.first, self.last = parent, first, last
        self.variance_preserving = parent.variance_preserving  # pyright: ignore

    @staticmethod
    def between(parent: Schedule, low: float, high: float) -> Window:
        """The part of ``parent`` between two log-SNRs that it has."""
        last, first = parent.time(torch.tensor([low, high], dtype=torch.float64)).detach().tolist()
        return Window(parent, first, last)

    def _inner(self, t: Tensor) -> Tensor:
        return (self.first + (self.last - self.first) * t).clamp(0.0, 1.0)

    def _log_snr(self, t: Tensor) -> Tensor:
        return self.parent._log_snr(self._inner(t))

    def _log_snr_derivative(self, t: Tensor) -> Tensor:
        return (self.last - self.first) * self.parent._log_snr_derivative(self._inner(t))

    def _time(self, log_snr: Tensor) -> Tensor:
        return (self.parent._time(log_snr) - self.first) / (self.last - self.first)

    def _options(self) -> dict[str, object]:
        return {"parent": self.parent.config(), "first": self.first, "last": self.last}
