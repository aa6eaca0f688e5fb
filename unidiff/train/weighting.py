r"""Loss weightings, each as a weighted ELBO (Kingma & Gao 2023, "Understanding diffusion objectives as the ELBO").

Every denoising loss in use is, up to a constant,

    L_w = ½ ∫ w(λ) E‖ε − ε̂‖² dλ = E_{t ~ U[0,1]} [ ½ w(λ_t)(−λ'_t) ‖ε − ε̂‖² ],          (their eq. 8)

with w = 1 the ELBO. A weighting is therefore written twice, and on purpose by two routes: as what multiplies the
squared error under uniform t (:func:`weight`, each from its own paper), and as w (:func:`elbo_weight`, from their
table 1). That ``weight = ½ w (−λ')`` is an identity, and verified as one. With p = −dt/dλ, the density of λ:

==========  ==============================================  ===================================================
name        on ‖ε − ε̂‖² under uniform t                     w(λ)
==========  ==============================================  ===================================================
simple      1                       (Ho et al. 2020)        2p(λ)
elbo        ½(−λ')                  (Kingma et al. 2021)    1
min-snr     min(SNR, γ)/SNR         (Hang et al. 2023)      2p(λ) min(1, γ e^{−λ})
sigmoid     ½(−λ') sigmoid(b − λ)   (Kingma & Gao 2023)     sigmoid(b − λ)
edm         log-normal σ density ×                          2 N(λ; 2.4, 2.4²)(e^{−λ} + σ_d²)/σ_d²
            (σ² + σ_d²)/(σσ_d)² on x_0 (Karras et al. 2022)
==========  ==============================================  ===================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from unidiff.core.boundary import Time, as_float64, check_name, check_positive, check_time
from unidiff.core.schedule import Schedule

Weighting = Literal["simple", "elbo", "min-snr", "sigmoid", "edm"]
WEIGHTINGS: tuple[Weighting, ...] = get_args(Weighting)


@dataclass(frozen=True)
class WeightingOptions:
    """The constants in the table above.

    Attributes:
        gamma: γ of min-SNR, a signal-to-noise ratio.
        bias: b of the sigmoid weighting, in nats of log-SNR.
        data_std: σ_d of EDM, in the units of x.
        log_sigma_mean, log_sigma_std: of EDM's log-normal σ/α.
    """

    gamma: float = 5.0
    bias: float = 2.0
    data_std: float = 1.0
    log_sigma_mean: float = -1.2
    log_sigma_std: float = 1.2

    def __post_init__(self) -> None:
        for name in ("gamma", "data_std", "log_sigma_std"):
            check_positive(name, getattr(self, name))
        for name in ("bias", "log_sigma_mean"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} must be finite, got {getattr(self, name)}")


_LogWeight = Callable[[Tensor, Tensor, WeightingOptions], Tensor]


def _log_simple(log_snr: Tensor, log_rate: Tensor, options: WeightingOptions) -> Tensor:
    return torch.zeros_like(log_snr)


def _log_elbo(log_snr: Tensor, log_rate: Tensor, options: WeightingOptions) -> Tensor:
    return log_rate - math.log(2.0)


def _log_min_snr(log_snr: Tensor, log_rate: Tensor, options: WeightingOptions) -> Tensor:
    return log_snr.clamp(max=math.log(options.gamma)) - log_snr


def _log_sigmoid(log_snr: Tensor, log_rate: Tensor, options: WeightingOptions) -> Tensor:
    return log_rate - math.log(2.0) + F.logsigmoid(options.bias - log_snr)


def _log_edm(log_snr: Tensor, log_rate: Tensor, options: WeightingOptions) -> Tensor:
    log_sigma = -0.5 * log_snr
    z = (log_sigma - options.log_sigma_mean) / options.log_sigma_std
    # The density of log σ under uniform t is |d log σ/dt| = ½(−λ') times smaller than that of t; EDM draws from its own.
    log_density = -0.5 * z**2 - math.log(options.log_sigma_std * math.sqrt(2 * math.pi)) + log_rate - math.log(2.0)
    log_data = 2 * math.log(options.data_std)
    log_on_x0 = torch.logaddexp(2 * log_sigma, torch.full_like(log_sigma, log_data)) - 2 * log_sigma - log_data
    return log_density + log_on_x0 + 2 * log_sigma


_LOG_WEIGHT: dict[Weighting, _LogWeight] = {
    "simple": _log_simple,
    "elbo": _log_elbo,
    "min-snr": _log_min_snr,
    "sigmoid": _log_sigmoid,
    "edm": _log_edm,
}


def log_weight(name: Weighting, schedule: Schedule, t: Time, options: WeightingOptions | None = None) -> Tensor:
    """log of :func:`weight`; what the loss uses, so that 0·∞ has nowhere to arise."""
    check_name("weighting", name, WEIGHTINGS)
    t = check_time("t", t)
    log_rate = torch.log(-schedule.log_snr_derivative(t))
    return _LOG_WEIGHT[name](schedule.log_snr(t), log_rate, options or WeightingOptions())


def weight(name: Weighting, schedule: Schedule, t: Time, options: WeightingOptions | None = None) -> Tensor:
    """What multiplies ‖ε − ε̂‖² when t is uniform; float64, in t's shape.

    Raises:
        ValueError: unknown weighting (with the nearest known one), t outside [0, 1].
    """
    return log_weight(name, schedule, t, options).exp()


def elbo_weight(name: Weighting, schedule: Schedule, log_snr: Time, options: WeightingOptions | None = None) -> Tensor:
    """w(λ) of the weighted ELBO; float64, in ``log_snr``'s shape. Only simple and min-snr read the schedule.

    Raises:
        ValueError: unknown weighting, or a log-SNR outside the schedule's range for those two.
    """
    check_name("weighting", name, WEIGHTINGS)
    o = options or WeightingOptions()
    value = as_float64("log_snr", log_snr)
    if name == "elbo":
        return torch.ones_like(value)
    if name == "sigmoid":
        return 1.0 / (1.0 + torch.exp(value - o.bias))
    if name == "edm":
        mean, std = (value.new_tensor(v) for v in (-2.0 * o.log_sigma_mean, 2.0 * o.log_sigma_std))
        density = torch.distributions.Normal(mean, std).log_prob(value).exp()
        return 2.0 * density * (torch.exp(-value) / o.data_std**2 + 1.0)
    simple = 2.0 * log_snr_density(schedule, value)
    return simple if name == "simple" else simple * torch.clamp(o.gamma * torch.exp(-value), max=1.0)


def log_snr_density(schedule: Schedule, log_snr: Time) -> Tensor:
    """p(λ) = −dt/dλ, the density of λ under uniform t, per nat: by automatic differentiation of λ(t), not from λ'."""
    with torch.enable_grad():
        t = schedule.time(log_snr).detach().requires_grad_()
        (slope,) = torch.autograd.grad(schedule.log_snr(t).sum(), t)
    return -1.0 / slope
