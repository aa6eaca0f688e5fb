r"""A noise schedule is one decreasing function λ(t) = log(α²/σ²), and a convention for the scale of x_t.

x_t = α_t x_0 + σ_t ε. Variance preserving (VP): α² = sigmoid(λ), σ² = sigmoid(−λ). Variance exploding (VE): α = 1,
σ² = e^{−λ} (Song et al. 2021, Kingma et al. 2021 §3.3). The SDE dz = f z dt + g dW that has these marginals is

    f = d log α / dt = ½ σ² λ' (VP) or 0 (VE),      g² = −σ² λ',

and everything else in the package derives from λ, λ' and the convention. All of it is float64 in, float64 out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from unidiff.core.boundary import Time, as_float64, check_name, check_state, check_time
from unidiff.core.level import NoiseLevel

_KINDS: dict[str, type[Schedule]] = {}


class Schedule(ABC):
    """λ(t) on t ∈ [0, 1], strictly decreasing, with its analytic derivative and inverse.

    A kind implements ``_log_snr``, ``_log_snr_derivative`` and ``_time`` on checked float64 tensors, and ``_options``,
    the arguments that would build it again. λ may be +∞ at t = 0 and −∞ at t = 1, nowhere else.
    """

    kind: ClassVar[str]
    variance_preserving: ClassVar[bool] = True

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "kind" in cls.__dict__:
            _KINDS[cls.kind] = cls

    @abstractmethod
    def _log_snr(self, t: Tensor) -> Tensor: ...

    @abstractmethod
    def _log_snr_derivative(self, t: Tensor) -> Tensor: ...

    @abstractmethod
    def _time(self, log_snr: Tensor) -> Tensor: ...

    @abstractmethod
    def _options(self) -> dict[str, Any]: ...

    # -- the function itself -------------------------------------------------------------------------------------

    def log_snr(self, t: Time) -> Tensor:
        """λ(t), float64, in t's shape. Raises ValueError for t outside [0, 1]."""
        return self._log_snr(check_time("t", t))

    def log_snr_derivative(self, t: Time) -> Tensor:
        """dλ/dt, per unit of time, float64, in t's shape; never positive.

        Raises:
            ValueError: t outside [0, 1], or at an end where λ is infinite or infinitely steep.
        """
        t = check_time("t", t)
        return _known("log_snr_derivative", t, self._log_snr_derivative(t))

    def time(self, log_snr: Time) -> Tensor:
        """The t at which λ(t) = log_snr, float64. Raises ValueError outside [λ(1), λ(0)]."""
        value = as_float64("log_snr", log_snr)
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64, device=value.device)
        highest, lowest = self._log_snr(ends).detach().unbind()
        slack = 1e-12 * torch.maximum(highest.abs(), lowest.abs()).clamp(max=1e3)
        if ((value > highest + slack) | (value < lowest - slack)).any():
            raise ValueError(
                f"log_snr must lie in [{lowest.item():.6g}, {highest.item():.6g}], this schedule's range, "
                f"got values in [{value.min().item():.6g}, {value.max().item():.6g}]"
            )
        return self._time(torch.minimum(torch.maximum(value, lowest), highest)).clamp(0.0, 1.0)

    # -- what follows from it ------------------------------------------------------------------------------------

    def alpha(self, t: Time) -> Tensor:
        """The signal's scale α_t, float64, in t's shape. Raises ValueError for t outside [0, 1], as do the next three."""
        return self._log_alpha_at(self.log_snr(t)).exp()

    def sigma(self, t: Time) -> Tensor:
        """The noise's standard deviation σ_t, float64, in t's shape."""
        return self._log_sigma_at(self.log_snr(t)).exp()

    def log_alpha(self, t: Time) -> Tensor:
        """log α_t, float64, in t's shape; −∞ at zero SNR."""
        return self._log_alpha_at(self.log_snr(t))

    def log_sigma(self, t: Time) -> Tensor:
        """log σ_t, float64, in t's shape; −∞ where there is no noise."""
        return self._log_sigma_at(self.log_snr(t))

    def drift(self, t: Time) -> Tensor:
        """f(t) = d log α/dt of the forward SDE dz = f z dt + g dW, per unit of time, float64, in t's shape.

        Raises:
            ValueError: t outside [0, 1], or at an end where λ is infinite or infinitely steep and f has no finite limit
                that this kind knows.
        """
        t = check_time("t", t)
        return _known("drift", t, -0.5 * self._rate(t)) if self.variance_preserving else torch.zeros_like(t)

    def diffusion2(self, t: Time) -> Tensor:
        """g²(t) = −σ² λ' of the forward SDE, in x² per unit of time, float64, in t's shape. Raises as :meth:`drift`."""
        t = check_time("t", t)
        rate = self._rate(t)
        return _known("diffusion2", t, rate if self.variance_preserving else rate * (1 + torch.exp(-self._log_snr(t))))

    def _rate(self, t: Tensor) -> Tensor:
        """β(t) = −sigmoid(−λ)λ', the rate of the SDE read VP; a kind whose λ has an infinite end knows it there too."""
        return -torch.sigmoid(-self._log_snr(t)) * self._log_snr_derivative(t)

    @property
    def prior_std(self) -> float:
        """The standard deviation of the N(0, ·) that stands in for q(x_1): 1 when VP, σ_1 when VE."""
        return 1.0 if self.variance_preserving else float(self.sigma(1.0).detach())

    def level(self, t: Time, like: Tensor | None = None) -> NoiseLevel:
        """The noise level at t, computed in float64 and cast once to ``like``'s dtype and device.

        Args:
            t: a time, or one for each member of the batch ``[B]``.
            like: a tensor ``[B, *E]`` whose dtype and device to take; None keeps float64 on t's device.
        """
        t = check_time("t", t)
        if like is not None:
            check_state("like", like)
            t = t.to(like.device)
        return self._level(t, self._log_snr(t), like)

    def level_at(self, log_snr: Time, like: Tensor | None = None) -> NoiseLevel:
        """The noise level at a log-SNR (or ``[B]`` of them); as :meth:`level`. Raises ValueError out of λ's range."""
        t = self.time(log_snr)
        value = as_float64("log_snr", log_snr)
        if like is not None:
            t, value = t.to(like.device), value.to(like.device)
        return self._level(t, value, like)

    def _level(self, t: Tensor, log_snr: Tensor, like: Tensor | None) -> NoiseLevel:
        level = NoiseLevel(t, log_snr, self._log_alpha_at(log_snr).exp(), self._log_sigma_at(log_snr).exp())
        return level if like is None else level.to(like)

    def _log_alpha_at(self, log_snr: Tensor) -> Tensor:
        return 0.5 * F.logsigmoid(log_snr) if self.variance_preserving else torch.zeros_like(log_snr)

    def _log_sigma_at(self, log_snr: Tensor) -> Tensor:
        return 0.5 * F.logsigmoid(-log_snr) if self.variance_preserving else -0.5 * log_snr

    # -- the same function in the other convention, and on disk ---------------------------------------------------

    def as_ve(self) -> Schedule:
        """The schedule with the same λ(t) and α = 1 (item 7: x_t/α_t)."""
        return self if not self.variance_preserving else _kinds().VarianceExploding(self)

    def as_vp(self) -> Schedule:
        """The schedule with the same λ(t) and α² + σ² = 1."""
        return self if self.variance_preserving else _kinds().VariancePreserving(self)

    def config(self) -> dict[str, Any]:
        """The JSON-ready description from which :meth:`from_config` builds the schedule again."""
        return {"kind": self.kind, **self._options()}

    @staticmethod
    def from_config(config: dict[str, Any]) -> Schedule:
        """The schedule that ``config`` (of :meth:`config`) describes. Raises ValueError for an unknown kind."""
        _kinds()
        options = dict(config)
        return _KINDS[check_name("schedule", options.pop("kind", "(none)"), _KINDS)]._from_options(options)

    @classmethod
    def _from_options(cls, options: dict[str, Any]) -> Schedule:
        return cls(**options)

    @staticmethod
    def named(name: str) -> Schedule:
        """The kind ``name`` with its standard parameters: what a configuration file or the command line asks for."""
        kinds = _kinds().STANDARD
        return kinds[check_name("schedule", name, kinds)]()

    # -- the kinds -----------------------------------------------------------------------------------------------

    @staticmethod
    def linear(beta_min: float = 0.1, beta_max: float = 20.0) -> Schedule:
        """VP with the SDE rate β(t) = β_min + t(β_max − β_min) (Song et al. 2021, eq. 32); no noise at t = 0."""
        return _kinds().Linear(beta_min, beta_max)

    @staticmethod
    def cosine(log_snr_max: float = 15.0, log_snr_min: float = -15.0) -> Schedule:
        """VP with α = cos(πt/2) (Nichol & Dhariwal 2021), cut to a log-SNR range as in Hoogeboom et al. 2023."""
        return _kinds().Cosine(log_snr_max, log_snr_min)

    @staticmethod
    def sigmoid(
        start: float = -3.0,
        end: float = 3.0,
        tau: float = 1.0,
        log_snr_max: float = 15.0,
        log_snr_min: float = -15.0,
    ) -> Schedule:
        """VP with α² an affine image of sigmoid(−u), u from start/tau to end/tau (Jabri et al. 2023), cut to a range."""
        return _kinds().Sigmoid(start, end, tau, log_snr_max, log_snr_min)

    @staticmethod
    def polynomial(power: float = 1.0, log_snr_max: float = 13.3, log_snr_min: float = -5.0) -> Schedule:
        """VP with λ(t) = λ_max − (λ_max − λ_min) t^power; power 1 is VDM's fixed schedule (Kingma et al. 2021)."""
        return _kinds().Polynomial(power, log_snr_max, log_snr_min)

    @staticmethod
    def karras(sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Schedule:
        """VE with σ^{1/ρ} linear in t (Karras et al. 2022, eq. 5)."""
        return _kinds().Karras(sigma_min, sigma_max, rho)

    @staticmethod
    def from_betas(betas: Sequence[float] | Tensor) -> Schedule:
        """DDPM's β_1…β_T, each in (0, 1): α²(i/T) = ᾱ_i exactly, log ᾱ linear between (Ho et al. 2020, eq. 4)."""
        return _kinds().FromBetas(betas)

    @staticmethod
    def learned(log_snr_max: float = 13.3, log_snr_min: float = -5.0, units: int = 16, seed: int = 0) -> Schedule:
        """VP with a trainable monotone λ(t), ends included (Kingma et al. 2021, appendix H); an ``nn.Module``."""
        return _kinds().Learned(log_snr_max, log_snr_min, units, seed)


def _known(name: str, t: Tensor, value: Tensor) -> Tensor:
    lost = ~torch.isfinite(value.detach())
    if lost.any():
        raise ValueError(
            f"{name} has no value at t = {t.detach()[lost].flatten()[:4].tolist()}: "
            "the log-SNR is infinite or infinitely steep there"
        )
    return value


def _kinds() -> Any:
    """The module of kinds; it imports this one."""
    from unidiff.core import schedule_kinds

    return schedule_kinds
