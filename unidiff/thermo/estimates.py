r"""What a network says of the same quantities, from data alone, each a mean over the data with its standard error.

    H(x_t) = H(x_t|x_0) + I(x_0; x_t)                   I from the denoising error (:mod:`unidiff.thermo.information`)
    R = (D − E‖ε − ε̂‖²)/σ²                              of the exact denoiser: (Vincent 2011; IDENTITIES item 13)
    KL(q_t ‖ N(0, r²I)) = E KL(q(x_t|x_0) ‖ N(0, r²I)) − I(x_0; x_t)
    production = ½g²E‖ŝ + x_t/r²‖²

A network's denoising error is at least the mmse. So, beside the standard errors: I and H are too large, R, the entropy's
rate and the KL too small, by what the network is worse than the exact denoiser.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from unidiff.core.denoising import denoising_error
from unidiff.core.diffusion import Diffusion
from unidiff.core.gaussian import Gaussian
from unidiff.thermo.information import data_information, last_information
from unidiff.worlds import Estimate
from unidiff.worlds.estimate import monte_carlo


def information(core: Diffusion, x0: Tensor, t: float, generator: torch.Generator | None) -> Estimate:
    """I(x_0; x_t) from data ``[B, *E]``."""
    high, last = core.schedule.log_snr(torch.tensor([t, 1.0], dtype=torch.float64)).detach().tolist()
    return monte_carlo(data_information(core, x0, last, high, generator) + last_information(x0, last))


@torch.no_grad()
def fisher(core: Diffusion, x0: Tensor, t: float, generator: torch.Generator | None) -> Estimate:
    """R = E‖∇ log q_t‖² from data ``[B, *E]``."""
    sigma2 = float(core.schedule.sigma(t).detach()) ** 2
    at = torch.full((len(x0),), t, dtype=torch.float64)
    error = denoising_error(core, x0, at, generator=generator).to(torch.float64)
    return monte_carlo((x0[0].numel() - error) / sigma2)


@torch.no_grad()
def relative_fisher(
    core: Diffusion, x0: Tensor, t: float, variance: float, generator: torch.Generator | None
) -> Estimate:
    """E‖ŝ + x_t/r²‖² from data ``[B, *E]``."""
    xt = core.process.marginal(x0, t).sample(generator)
    return monte_carlo((core.predict(xt, t).score + xt / variance).flatten(1).square().sum(1))


@torch.no_grad()
def relative_entropy(
    core: Diffusion, x0: Tensor, t: float, variance: float, generator: torch.Generator | None
) -> Estimate:
    """KL(q_t ‖ N(0, r²I)) from data ``[B, *E]``."""
    wide = x0.to(torch.float64)
    reference = Gaussian(torch.zeros_like(wide), torch.full_like(wide[:1], math.log(variance)))
    each = core.process.marginal(wide, t).kl(reference)
    high, last = core.schedule.log_snr(torch.tensor([t, 1.0], dtype=torch.float64)).detach().tolist()
    return monte_carlo(each - data_information(core, x0, last, high, generator) - last_information(x0, last))
