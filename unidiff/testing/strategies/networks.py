"""Networks that are formulas: deterministic, of any event shape, and readable when one of them fails."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from unidiff.core.boundary import check_name, right_expand
from unidiff.core.denoiser import Denoiser, check_event_shape
from unidiff.core.prediction import KINDS, Kind
from unidiff.testing.strategies.numbers import decimals


@dataclass(frozen=True)
class Wave:
    """F(x, λ) = a x + b tanh x + c sin(λ/4): a network for :class:`~unidiff.Denoiser`, without parameters.

    Attributes:
        linear, bent, level: a, b and c.
    """

    linear: float = 0.0
    bent: float = 0.0
    level: float = 0.0

    def __call__(self, x: Tensor, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """F at ``x`` ``[B, *E]`` and log-SNR ``[B]`` or ``[]``; a condition is not heard."""
        shift = right_expand(torch.sin(0.25 * noise.to(x)), x)
        return self.linear * x + self.bent * torch.tanh(x) + self.level * shift


def networks() -> SearchStrategy[Wave]:
    """:class:`Wave` with coefficients of one digit in [−1, 1], towards F = 0."""
    entry = decimals(-1, 1, 0)
    return st.builds(Wave, entry, entry, entry)


def denoisers(event_shape: tuple[int, ...], prediction: Kind | None = None) -> SearchStrategy[Denoiser]:
    """Denoisers around :func:`networks`, without preconditioning.

    Args:
        event_shape: E.
        prediction: what the network is read as; None for any of ``"x0"``, ``"eps"``, ``"v"``, ``"score"``.

    Raises:
        ValueError: a shape that no datum has, an unknown prediction.
    """
    shape = check_event_shape(event_shape)
    kinds: tuple[Kind, ...] = KINDS
    if prediction is not None:
        check_name("prediction", prediction, KINDS)
        kinds = (prediction,)
    return st.builds(Denoiser, networks(), st.just(shape), st.sampled_from(kinds))
