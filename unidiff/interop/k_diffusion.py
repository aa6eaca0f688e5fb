r"""k-diffusion's models: ``model(x, sigma)`` is the denoised x_0 of x = x_0 + σ ε.

The convention is a call and no class, so nothing of k-diffusion is imported, and what else follows it is served as well. A
core of such a model predicts x_0 on Karras' schedule, α = 1; the other way, a core is asked at λ = −2 log σ and x α(λ).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from unidiff.core.boundary import check_count, check_real, check_type, right_expand
from unidiff.core.denoiser import Denoiser
from unidiff.core.diffusion import Diffusion
from unidiff.core.schedule_kinds import Karras
from unidiff.interop.dropout import warn_of_dropout

__all__ = ["CoreModel", "core", "model"]

_WIDEST = 1e6
_ROUNDING = 1e-5


def core(
    model: Callable[..., Tensor],
    event_shape: tuple[int, ...],
    *,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    rho: float = 7.0,
    num_classes: int | None = None,
    keyword: str = "class_cond",
) -> Diffusion:
    """The core of a model in k-diffusion's convention. The parameters are its own, not copies.

    Args:
        model: ``model(x [B, *E], sigma [B]) -> [B, *E]``.
        event_shape: the shape of one datum.
        sigma_min, sigma_max: the noise at t = 0 and t = 1; None for the model's own ``sigma_min`` and ``sigma_max``, which
            k-diffusion's wrappers of discrete models have.
        rho: of Karras' schedule; where times lie between, and nothing else.
        num_classes: of a model that takes labels; label ``num_classes`` is then its null class.
        keyword: as which it takes them.

    Raises:
        TypeError: model is not callable, keyword no string, or a σ no number; later, a model that returns no tensor.
        ValueError: a σ that neither is given nor the model has, is not within [1e-6, 1e6], or the least not below the most;
            event_shape, rho or num_classes.

    Warns:
        UserWarning: dropout that is on.
    """
    if not callable(model):
        raise TypeError(f"model must be callable, model(x, sigma), got {type(model).__name__}")
    check_type("keyword", keyword, str)
    if num_classes is not None:
        check_count("num_classes", num_classes)
    ends = {"sigma_min": sigma_min, "sigma_max": sigma_max}
    for name, given in ends.items():
        value = getattr(model, name, None) if given is None else given
        if value is None:
            raise ValueError(f"{name} must be given for a model that has none, got None")
        check_real(name, value)
        if not 1 / _WIDEST <= float(value) <= _WIDEST:
            raise ValueError(f"{name} must lie in [{1 / _WIDEST:g}, {_WIDEST:g}], got {float(value)}")
        ends[name] = float(value)
    warn_of_dropout("model", model)
    schedule = Karras(cast("float", ends["sigma_min"]), cast("float", ends["sigma_max"]), rho)
    return Diffusion(schedule, Denoiser(_Denoised(model, keyword), event_shape, "x0", num_classes=num_classes))


class _Denoised(nn.Module):
    """``network(x, log_snr, condition)`` of ``model(x, sigma)``; what it makes of a level is σ."""

    def __init__(self, model: Callable[..., Tensor], keyword: str) -> None:
        super().__init__()
        self.model = model
        self.keyword = keyword

    def embed(self, log_snr: Tensor) -> Tensor:
        """σ of log-SNRs ``[K]``, ``[K, 1]``."""
        return (-0.5 * log_snr).exp()[:, None]

    def body(self, x: Tensor, embedding: Tensor, condition: Tensor | None) -> Tensor:
        """The denoised state at σ ``[B, 1]``, or ``[1, 1]`` for all."""
        labels = {} if condition is None else {self.keyword: condition}
        output = self.model(x, embedding[:, 0].to(x.dtype).expand(x.shape[0]), **labels)
        if not isinstance(output, Tensor):
            raise TypeError(f"model must return a Tensor, the denoised state, got {type(output).__name__}")
        return output

    def forward(self, x: Tensor, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """The denoised state at ``x`` ``[B, *E]`` and log-SNRs ``[B]``, or one."""
        return self.body(x, self.embed(noise.reshape(-1)), condition)


class CoreModel(nn.Module):
    """A core as ``model(x, sigma)``, for k-diffusion's samplers.

    Args:
        core: of any convention.
    """

    def __init__(self, core: Diffusion) -> None:
        super().__init__()
        check_type("core", core, Diffusion)
        self.core = core
        ends = core.schedule.log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64)).detach()
        self._most, self._least = ends.tolist()

    @property
    def sigma_min(self) -> float:
        """σ/α at t = 0; 0 where there is no noise."""
        return float(torch.tensor(-0.5 * self._most, dtype=torch.float64).exp())

    @property
    def sigma_max(self) -> float:
        """σ/α at t = 1."""
        return float(torch.tensor(-0.5 * self._least, dtype=torch.float64).exp())

    def forward(
        self, x: Tensor, sigma: Tensor, condition: Tensor | None = None, guidance: float = 1.0, **extra: Any
    ) -> Tensor:
        """The denoised state at ``x`` ``[B, *E]``, x_0 + σ ε, and σ ``[B]``, or one, ``[]``.

        Args:
            x, sigma: the state and its noise.
            condition, guidance: as :meth:`unidiff.Diffusion.predict`; what k-diffusion calls ``extra_args``.
            extra: nothing; an argument that a core does not take is refused.

        Raises:
            TypeError: sigma is no tensor, or extra arguments.
            ValueError: σ outside of the core's; x, condition or guidance as :meth:`unidiff.Diffusion.predict`.
        """
        if extra:
            raise TypeError(f"extra_args must be condition and guidance, got {', '.join(map(repr, extra))}")
        check_type("sigma", sigma, Tensor)
        condition = self.core.check_arguments("x", x, condition, guidance)
        level = self.core.schedule.level_at(self._log_snr(sigma, x), x)
        self.core.check_levels(level.alpha)
        return self.core.denoiser(right_expand(level.alpha, x) * x, level, condition, guidance).x0

    def _log_snr(self, sigma: Tensor, x: Tensor) -> Tensor:
        if sigma.ndim > 1 or (sigma.ndim == 1 and len(sigma) != len(x)):
            raise ValueError(f"sigma must have shape [{len(x)}] or [], got {list(sigma.shape)}")
        value = -2 * sigma.to(torch.float64).log()
        # σ may be an end's rounded to float32.
        beyond = (value > self._most + _ROUNDING) | (value < self._least - _ROUNDING) | torch.isnan(value)
        if bool(beyond.any()):
            raise ValueError(
                f"sigma must lie in [{self.sigma_min:.6g}, {self.sigma_max:.6g}], this core's, got {sigma.tolist()}"
            )
        return value.clamp(self._least, self._most)


def model(core: Diffusion) -> CoreModel:
    """A core as ``model(x, sigma)``. The parameters are the core's own. Raises TypeError for what is no core."""
    return CoreModel(core)
