r"""azula's denoisers and schedules. Needs the extra ``interop``.

azula's denoiser says E[x_0|x_t] of a state α_t x_0 + σ_t ε, with any α and σ. A core of it is a network that predicts x_0 on
the schedule of the same λ(t), asked at x_t scaled by α_azula(t)/α(t). Times are the same number on both sides.
"""

from __future__ import annotations

import importlib
from typing import Any, cast

import torch
from torch import Tensor, nn

from unidiff.core.boundary import check_count, check_type, send
from unidiff.core.denoiser import Denoiser
from unidiff.core.diffusion import Diffusion
from unidiff.core.schedule import Schedule
from unidiff.interop.dropout import warn_of_dropout
from unidiff.interop.foreign import Foreign, foreign
from unidiff.interop.library import library

TESTED = ("0.11", "0.12")
"""The first version that this adapter was tested with, and the first beyond."""

library("azula", TESTED)
_denoise: Any = importlib.import_module("azula.denoise")
_noise: Any = importlib.import_module("azula.noise")

__all__ = ["CoreDenoiser", "CoreSchedule", "core", "denoiser", "schedule"]


def schedule(schedule: Any) -> Foreign:
    """The schedule with the λ(t) of an azula ``Schedule``; variance exploding where its α is 1, else variance preserving.

    Raises:
        TypeError: not one.
        ValueError: an α/σ that is not finite, positive and falling.
    """
    if not isinstance(schedule, _noise.Schedule):
        raise TypeError(f"schedule must be an azula Schedule, got {type(schedule).__name__}")
    return foreign(schedule)


def core(
    denoiser: Any, event_shape: tuple[int, ...], *, num_classes: int | None = None, keyword: str = "label"
) -> Diffusion:
    """The core of an azula ``Denoiser``, on its own schedule's λ(t). The parameters are its own, not copies.

    Args:
        denoiser: the denoiser; the mean of its posterior is x̂_0. Its variance is not read.
        event_shape: the shape of one datum.
        num_classes: of a denoiser that takes labels; label ``num_classes`` is then its null class.
        keyword: as which it takes them.

    Raises:
        TypeError: no azula denoiser, or one without a schedule.
        ValueError: event_shape, num_classes or the schedule.

    Warns:
        UserWarning: dropout that is on.
    """
    if not isinstance(denoiser, _denoise.Denoiser):
        raise TypeError(f"denoiser must be an azula Denoiser, got {type(denoiser).__name__}")
    check_type("keyword", keyword, str)
    if num_classes is not None:
        check_count("num_classes", num_classes)
    own = schedule(getattr(denoiser, "schedule", None))
    warn_of_dropout("denoiser", denoiser)
    network = _PosteriorMean(cast("nn.Module", denoiser), own, keyword)
    return Diffusion(own, Denoiser(network, event_shape, "x0", num_classes=num_classes))


class _PosteriorMean(nn.Module):
    """``network(x, log_snr, condition)`` of a denoiser of theirs; what it makes of a level is (t, α_azula/α)."""

    def __init__(self, denoiser: nn.Module, schedule: Foreign, keyword: str) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.schedule = schedule
        self.keyword = keyword

    def embed(self, log_snr: Tensor) -> Tensor:
        """(t, α_azula(t)/α(t)) of log-SNRs ``[K]``, ``[K, 2]``, in their dtype; an end's rounding is the end."""
        return torch.stack(self.schedule.place(log_snr), 1).to(log_snr.dtype)

    def body(self, x: Tensor, embedding: Tensor, condition: Tensor | None) -> Tensor:
        """The posterior's mean at embeddings ``[B, 2]``, or ``[1, 2]`` for all, whose time is then one, ``[]``."""
        t, scale = embedding.to(x.dtype).unbind(1)
        one = len(embedding) == 1
        labels = {} if condition is None else {self.keyword: condition}
        scaled = (scale[0] if one else scale.reshape(-1, *[1] * (x.ndim - 1))) * x
        return self.denoiser(scaled, t[0] if one else t, **labels).mean

    def forward(self, x: Tensor, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """The posterior's mean at ``x`` ``[B, *E]`` and log-SNRs ``[B]``, or one."""
        return self.body(x, self.embed(noise.reshape(-1)), condition)


class CoreSchedule(_noise.Schedule):
    """A schedule of unidiff's as azula's: t to (α, σ), computed in float64 and cast to t's dtype."""

    def __init__(self, schedule: Schedule) -> None:
        check_type("schedule", schedule, Schedule)
        self.own = schedule

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """α and σ at t, in its shape. Raises ValueError for t outside [0, 1]."""
        level = self.own.level(t)
        return send(level.alpha, t), send(level.sigma, t)


class CoreDenoiser(_denoise.Denoiser):
    """A core as azula's denoiser, for its samplers and guidance: its posterior is a point, x̂_0."""

    def __init__(self, core: Diffusion) -> None:
        super().__init__()
        check_type("core", core, Diffusion)
        self.core = core
        self.schedule = CoreSchedule(core.schedule)

    def forward(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None, guidance: float = 1.0) -> Any:
        """The posterior at ``x_t`` ``[B, *E]`` and t, ``[]`` or ``[B]``; arguments and errors as ``core.predict``."""
        return _denoise.DiracPosterior(mean=self.core.predict(x_t, t, condition, guidance).x0)


def denoiser(core: Diffusion) -> CoreDenoiser:
    """A core as azula's denoiser. The parameters are the core's own. Raises TypeError for what is no core."""
    return CoreDenoiser(core)
