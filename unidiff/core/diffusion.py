"""A diffusion core: a schedule and a denoiser. The views read it; none of them changes it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from unidiff.core.boundary import Time, check_batched, check_condition, check_finite, check_state, check_time
from unidiff.core.denoiser import DenoiserLike
from unidiff.core.prediction import Prediction, check_informative
from unidiff.core.process import ForwardProcess
from unidiff.core.schedule import Schedule

if TYPE_CHECKING:
    from unidiff.core.chain import ReverseChain, Variance
    from unidiff.core.grid import TimeGrid


class Diffusion(nn.Module):
    """The one core under all the views.

    Args:
        schedule: λ(t) and its convention.
        denoiser: a :class:`~unidiff.core.denoiser.Denoiser` around a network, or a world's exact denoiser.
    """

    def __init__(self, schedule: Schedule, denoiser: DenoiserLike) -> None:
        super().__init__()
        if not isinstance(schedule, Schedule):
            raise TypeError(f"schedule must be a unidiff Schedule, got {type(schedule).__name__}")
        if not callable(denoiser) or not hasattr(denoiser, "event_shape"):
            raise TypeError(f"denoiser must be callable and have an event_shape, got {type(denoiser).__name__}")
        self.schedule = schedule
        self.denoiser = denoiser

    @property
    def process(self) -> ForwardProcess:
        """The forward kernels."""
        return ForwardProcess(self.schedule)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape E of one datum."""
        return tuple(self.denoiser.event_shape)

    def predict(self, xt: Tensor, t: Time, condition: Tensor | None = None, guidance: float = 1.0) -> Prediction:
        """What the denoiser says of ``xt`` ``[B, *E]`` at time t (one, or ``[B]`` of them).

        Raises:
            ValueError: xt is not ``[B, *E]``, finite and in the network's dtype, t is outside [0, 1], an eps- or
                score-network is asked at zero SNR, or condition and guidance are not what this denoiser takes
                (:func:`~unidiff.core.boundary.check_condition`).
            FloatingPointError: the answer, once it is read, is not finite (looked at on the CPU only).
        """
        condition = self.check_arguments("xt", xt, condition, guidance)
        check_batched("t", check_time("t", t), xt)
        level = self.schedule.level(t, xt)
        self.check_levels(level.alpha)
        return replace(self.denoiser(xt, level, condition, guidance), guarded=True)

    def check_arguments(self, argument: str, xt: Tensor, condition: Tensor | None, guidance: float) -> Tensor | None:
        """Refuse a state, condition or guidance that this denoiser cannot take; returns the condition, one for each row."""
        check_state(argument, xt, self.event_shape)
        first = self.first_parameter()
        for what in ("dtype", "device") if first is not None else ():
            mine, theirs = getattr(xt, what), getattr(first, what)
            if mine != theirs:
                raise ValueError(f"{argument} must have the network's {what}, {theirs}, got {mine}")
        return check_condition(condition, guidance, xt.shape[0], getattr(self.denoiser, "num_classes", None))

    def first_parameter(self) -> Tensor | None:
        """The denoiser's first floating-point parameter, whose dtype and device states must have; None without any."""
        return next((p for p in getattr(self.denoiser, "parameters", list)() if p.is_floating_point()), None)

    def check_batch(
        self, argument: str, x: Tensor, condition: Tensor | None = None, guidance: float = 1.0
    ) -> Tensor | None:
        """Refuse a batch ``[B, *E]``, labels or a weight that no answer can be given for; returns the labels ``[B]``.

        Raises:
            TypeError: x is no floating-point tensor, or the labels no integers.
            ValueError: as :meth:`check_arguments`; an empty batch, half precision, a value not finite.
        """
        if isinstance(x, Tensor) and x.dtype in (torch.float16, torch.bfloat16):
            raise ValueError(f"{argument} must be float32 or wider (what is computed needs the digits), got {x.dtype}")
        condition = self.check_arguments(argument, x, condition, guidance)
        if x.numel() == 0:
            raise ValueError(f"{argument} must hold at least one datum, got shape {list(x.shape)}")
        check_finite(argument, x.detach())
        return condition

    def check_levels(self, alpha: Tensor) -> None:
        """Refuse the levels at which this denoiser's network says nothing of x_0."""
        if getattr(self.denoiser, "preconditioning", "none") == "none":
            kind = getattr(self.denoiser, "prediction", "x0")
            if kind in ("eps", "score"):
                check_informative(kind, alpha)

    def chain(
        self,
        grid: TimeGrid,
        variance: Variance = "posterior",
        x0_variance: Tensor | None = None,
        log_var: Tensor | None = None,
    ) -> ReverseChain:
        """The reverse kernels p_θ(x_s|x_t) on ``grid``; see :class:`~unidiff.core.chain.ReverseChain`."""
        from unidiff.core.chain import ReverseChain

        return ReverseChain(self, grid, variance, x0_variance, log_var)

    def home(self, generator: torch.Generator | None = None) -> torch.device:
        """Where states are drawn unless a device is named: the generator's device, else the parameters', else the CPU."""
        first = next(self.parameters(), None)
        return generator.device if generator is not None else torch.device("cpu") if first is None else first.device

    def prior(self, n: int, generator: torch.Generator | None = None, like: Tensor | None = None) -> Tensor:
        """n draws of N(0, prior_std²), ``[n, *E]``, in ``like``'s dtype and on its device (float32, CPU)."""
        like = torch.empty(0) if like is None else like
        noise = torch.randn((n, *self.event_shape), generator=generator, dtype=like.dtype, device=like.device)
        return self.schedule.prior_std * noise
