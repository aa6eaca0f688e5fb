r"""The forward kernels, between any two times s < t (Kingma et al. 2021, eq. 1–4 and appendix A).

    q(x_t|x_0) = N(α_t x_0, σ_t²)
    q(x_t|x_s) = N(α_{t|s} x_s, σ²_{t|s}),   α_{t|s} = α_t/α_s,   σ²_{t|s} = c σ_t²,   c = −expm1(λ_t − λ_s)
    q(x_s|x_t, x_0) = N(a x_t + b x_0, ς²), of the DDIM family with η = 1

The family (Song et al. 2021, eq. 7) keeps the marginals at every ς² in [0, σ_s²], with a = √(σ_s² − ς²)/σ_t and
b = α_s − a α_t. Here ς² = η² c σ_s² with η in [0, 1]: the part of it from no noise to Bayes. With ℓ = log(1 − η²c)
this is a = (σ_s/σ_t) e^{ℓ/2} and, since α_t σ_s/(α_s σ_t) = e^{(λ_t − λ_s)/2},

    b = −α_s expm1(½ℓ + ½(λ_t − λ_s)),

in which nothing cancels. At η = 1, ℓ = λ_t − λ_s and b = α_s c: Bayes' rule. One formula, read by the posterior, the
reverse chain and every sampler.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unidiff.core.boundary import (
    Time,
    check_alike,
    check_batched,
    check_state,
    check_time,
    check_times,
    right_expand,
)
from unidiff.core.gaussian import Gaussian
from unidiff.core.schedule import Schedule


@dataclass(frozen=True)
class Bridge:
    """q_η(x_s|x_t, x_0) = N(on_xt·x_t + on_x0·x_0, variance), float64 coefficients in the shape of (s, t)."""

    on_xt: Tensor
    on_x0: Tensor
    log_var: Tensor


def bridge(schedule: Schedule, s: Time, t: Time, eta: float | Tensor = 1.0) -> Bridge:
    """The DDIM(η) family's coefficients; η = 0 is deterministic, η = 1 is Bayes.

    Raises:
        ValueError: not s < t, or η outside [0, 1] (the variance would exceed σ_s² c).
    """
    s, t = check_times(s, t)
    eta = torch.as_tensor(eta, dtype=torch.float64, device=t.device)
    if not bool(((eta >= 0) & (eta <= 1)).all()):
        raise ValueError(f"eta must lie in [0, 1], got {eta.tolist()}")
    eta2, rest = eta.square(), (1 - eta) * (1 + eta)
    delta = log_snr_step(schedule, s, t)
    c = -torch.expm1(delta)
    log_keep = torch.where(
        eta2 * c < 0.5,
        torch.log1p(-eta2 * c),
        torch.log(rest + eta2 * delta.exp()),
    )
    log_keep = torch.where(eta2 == 1, delta, log_keep)
    log_sigma_s = schedule.log_sigma(s)
    on_xt = (log_sigma_s - schedule.log_sigma(t) + 0.5 * log_keep).exp()
    on_x0 = -schedule.alpha(s) * torch.expm1(0.5 * (log_keep + delta))
    return Bridge(on_xt, on_x0, eta2.log() + c.log() + 2 * log_sigma_s)


def log_snr_step(schedule: Schedule, s: Tensor, t: Tensor) -> Tensor:
    """λ_t − λ_s < 0, float64. Raises ValueError where λ does not decrease, or by less than it rounds."""
    log_s, log_t = schedule.log_snr(s), schedule.log_snr(t)
    delta = log_t - log_s
    if not bool((delta < 0).all()):
        worst = (~(delta < 0)).expand_as(delta).flatten().nonzero()[0]
        at = [float(v.detach().expand_as(delta).flatten()[worst]) for v in (s, log_s, t, log_t)]
        raise ValueError(
            "schedule must have a log-SNR that decreases from s to t, "
            f"got {at[1]:.17g} at s = {at[0]:.17g} and {at[3]:.17g} at t = {at[2]:.17g}"
        )
    return delta


@dataclass(frozen=True)
class ForwardProcess:
    """The forward process of a schedule: the VAE's encoder, training's noise, DxMI's auxiliary law."""

    schedule: Schedule

    def marginal(self, x0: Tensor, t: Time) -> Gaussian:
        """q(x_t|x_0), for ``x0`` ``[B, *E]`` and a time or ``[B]`` of them. Raises ValueError for t outside [0, 1]."""
        check_state("x0", x0)
        t = check_batched("t", check_time("t", t).to(x0.device), x0)
        return self._gaussian(self.schedule.alpha(t), x0, 2 * self.schedule.log_sigma(t))

    def transition(self, xs: Tensor, s: Time, t: Time) -> Gaussian:
        """q(x_t|x_s), for ``xs`` ``[B, *E]`` and s < t. Raises ValueError unless s < t."""
        check_state("xs", xs)
        s, t = self._times(s, t, xs)
        alpha_ts, log_var = self.transition_coefficients(s, t)
        return self._gaussian(alpha_ts, xs, log_var)

    def posterior(self, xt: Tensor, x0: Tensor, s: Time, t: Time) -> Gaussian:
        """q(x_s|x_t, x_0), for ``xt`` and ``x0`` ``[B, *E]`` and s < t. Raises ValueError unless s < t."""
        check_state("xt", xt)
        check_state("x0", x0)
        check_alike(xt=xt, x0=x0)
        s, t = self._times(s, t, xt)
        step = bridge(self.schedule, s, t)
        mean = self._cast(step.on_xt, xt) * xt + self._cast(step.on_x0, xt) * x0
        return Gaussian(mean, self._cast(step.log_var, xt))

    def transition_coefficients(self, s: Time, t: Time) -> tuple[Tensor, Tensor]:
        """(α_{t|s}, log σ²_{t|s}), float64, in the shape of (s, t). Raises ValueError unless s < t."""
        s, t = check_times(s, t)
        delta = log_snr_step(self.schedule, s, t)
        log_ratio = self.schedule.log_alpha(t) - self.schedule.log_alpha(s)
        return log_ratio.exp(), torch.log(-torch.expm1(delta)) + 2 * self.schedule.log_sigma(t)

    def _times(self, s: Time, t: Time, like: Tensor) -> tuple[Tensor, Tensor]:
        s, t = check_times(s, t)
        return check_batched("s", s.to(like.device), like), check_batched("t", t.to(like.device), like)

    def _gaussian(self, scale: Tensor, x: Tensor, log_var: Tensor) -> Gaussian:
        return Gaussian(self._cast(scale, x) * x, self._cast(log_var, x))

    @staticmethod
    def _cast(value: Tensor, like: Tensor) -> Tensor:
        return right_expand(value.to(like), like)
