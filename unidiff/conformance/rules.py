r"""The variances that papers give to a step, as functions of its two levels: c = 1 − SNR_t/SNR_s throughout.

Written from the papers' ᾱ, not from :class:`unidiff.ForwardProcess`: the tests hold one to the other.
"""

from __future__ import annotations

from torch import Tensor

from unidiff.conformance.target import Variance


def _share(alpha_t: Tensor, sigma_t: Tensor, alpha_s: Tensor, sigma_s: Tensor) -> Tensor:
    ratio = (alpha_t * sigma_s) / (alpha_s * sigma_t)
    return (1 - ratio) * (1 + ratio)


def posterior(alpha_t: Tensor, sigma_t: Tensor, alpha_s: Tensor, sigma_s: Tensor) -> Tensor:
    """β̃: Ho et al. 2020, eq. 7; 0 where s is the data."""
    return _share(alpha_t, sigma_t, alpha_s, sigma_s) * sigma_s**2


def prior(alpha_t: Tensor, sigma_t: Tensor, alpha_s: Tensor, sigma_s: Tensor) -> Tensor:
    """β: Ho et al. 2020, section 3.2, the other choice; the step to the data draws nothing."""
    return (_share(alpha_t, sigma_t, alpha_s, sigma_s) * sigma_t**2).where(sigma_s > 0, 0.0)


def eta(value: float) -> Variance:
    """η² β̃: Song et al. 2021 (DDIM), eq. 16."""

    def rule(alpha_t: Tensor, sigma_t: Tensor, alpha_s: Tensor, sigma_s: Tensor) -> Tensor:
        return value**2 * posterior(alpha_t, sigma_t, alpha_s, sigma_s)

    return rule
