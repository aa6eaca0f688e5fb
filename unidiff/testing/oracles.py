r"""Exact denoisers of a world in the conventions of other people's samplers: `(x, t) -> tensor`.

    a schedule         t in [0, 1]                       x = α_t x_0 + σ_t ε
    alphas_cumprod     t an integer, 0 … T − 1           x = √ᾱ_t x_0 + √(1 − ᾱ_t) ε         (Ho et al. 2020, eq. 4)
    neither            σ, as k-diffusion's models take    x = x_0 + σ ε                       (Karras et al. 2022)

A sampler fed with one has no network to blame: what it gets wrong is its own. 1 − ᾱ is −expm1(log ᾱ), from ᾱ as given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from unidiff.core.boundary import as_float64, as_sequence, check_batched, check_condition, check_name, check_state
from unidiff.core.level import NoiseLevel
from unidiff.core.prediction import KINDS, Kind
from unidiff.core.schedule import Schedule
from unidiff.worlds.oracle import OracleDenoiser
from unidiff.worlds.world import World


@dataclass(frozen=True)
class Oracle:
    """What :func:`oracle` returns: ``oracle(x, t, condition=None) -> tensor``.

    Attributes:
        world: whose denoiser it is.
        predicts: ``"x0"``, ``"eps"``, ``"v"`` or ``"score"``.
        convention: ``"schedule"``, ``"alphas_cumprod"`` or ``"sigma"``: what t is.
    """

    world: World
    predicts: Kind
    convention: str
    _level: Callable[[Tensor | float], NoiseLevel] = field(repr=False)
    _denoiser: OracleDenoiser = field(repr=False)

    def __call__(self, x: Tensor, t: Tensor | float, condition: Tensor | None = None) -> Tensor:
        """The exact value at ``x`` ``[B, *E]`` and t (``[]`` or ``[B]``), ``[B, *E]``, in x's dtype.

        ``condition``: the component of each row of a mixture, ``[B]`` integers.

        Raises:
            TypeError, ValueError: x that is no state of the world, t or a condition out of range.
            FloatingPointError: an answer that is not finite.
        """
        check_state("x", x, self._denoiser.event_shape)
        condition = check_condition(condition, 1.0, x.shape[0], self._denoiser.num_classes)
        level = self._level(t)
        check_batched("t", level.t, x)
        found = self._denoiser(x, level.to(x), condition)
        return getattr(replace(found, guarded=True), self.predicts)


def oracle(
    world: World,
    schedule: Schedule | None = None,
    predicts: Kind = "eps",
    *,
    alphas_cumprod: Sequence[float] | Tensor | None = None,
) -> Oracle:
    """The exact denoiser of ``world`` as a plain function of (x, t); without a schedule or ᾱ, of (x, σ).

    Args:
        world: one law.
        schedule: for t in [0, 1].
        predicts: what is returned; k-diffusion's models, whose t is σ, return ``"x0"``.
        alphas_cumprod: ᾱ_0 … ᾱ_{T−1} in [0, 1), decreasing, for integer t.

    Raises:
        TypeError: no world, no schedule.
        ValueError: a batch of laws, an unknown prediction, a schedule and ᾱ at once, ᾱ that are none.
    """
    check_name("predicts", predicts, KINDS)
    denoiser = OracleDenoiser(world)
    if schedule is not None and alphas_cumprod is not None:
        raise ValueError("alphas_cumprod must be left out with a schedule, got both")
    if schedule is not None:
        if not isinstance(schedule, Schedule):
            raise TypeError(f"schedule must be a unidiff Schedule, got {type(schedule).__name__}")
        return Oracle(world, predicts, "schedule", lambda t: _detached(schedule.level(t)), denoiser)
    if alphas_cumprod is not None:
        table = _Table(_checked(alphas_cumprod))
        return Oracle(world, predicts, "alphas_cumprod", table, denoiser)
    return Oracle(world, predicts, "sigma", _exploding, denoiser)


@dataclass(frozen=True)
class _Table:
    """The level at an integer timestep, from log ᾱ ``[T]`` in float64."""

    log_bar: Tensor

    def __call__(self, t: Tensor | float) -> NoiseLevel:
        index = as_float64("t", t)
        last = len(self.log_bar) - 1
        if not bool(((index >= 0) & (index <= last) & (index == index.round())).all()):
            raise ValueError(f"t must be integers in 0 … {last}, as alphas_cumprod has, got {index.tolist()}")
        log_bar = self.log_bar.to(index.device)[index.long()]
        log_var = (-torch.expm1(log_bar)).log()
        return NoiseLevel(index, log_bar - log_var, (0.5 * log_bar).exp(), (0.5 * log_var).exp())


def _exploding(t: Tensor | float) -> NoiseLevel:
    sigma = as_float64("sigma", t)
    if not bool(((sigma > 0) & torch.isfinite(sigma)).all()):
        raise ValueError(f"sigma must be positive and finite, got {sigma.tolist()}")
    return NoiseLevel(sigma, -2 * sigma.log(), torch.ones_like(sigma), sigma)


def _checked(alphas_cumprod: Sequence[float] | Tensor) -> Tensor:
    bar = as_sequence("alphas_cumprod", alphas_cumprod)
    outside = ~((bar >= 0) & (bar < 1))
    if not len(bar) or bool(outside.any()):
        bad = bar[outside][:1].tolist() if len(bar) else "none"
        raise ValueError(f"alphas_cumprod must lie in [0, 1), at least one, got {bad}")
    rises = bar.diff() >= 0
    if bool(rises.any()):
        i = int(rises.nonzero()[0])
        raise ValueError(f"alphas_cumprod must decrease, got {bar[i].item()} then {bar[i + 1].item()} at index {i}")
    return bar.log()


def _detached(level: NoiseLevel) -> NoiseLevel:
    return NoiseLevel(level.t.detach(), level.log_snr.detach(), level.alpha.detach(), level.sigma.detach())
