"""The denoising loss under a weighting, at antithetic times unless they are given."""

from __future__ import annotations

import torch
from torch import Tensor

from unidiff.core.boundary import check_state
from unidiff.core.denoising import denoising_error
from unidiff.core.diffusion import Diffusion
from unidiff.core.times import antithetic_times, finite_span
from unidiff.train.weighting import Weighting, WeightingOptions, log_weight


def denoising_loss(
    core: Diffusion,
    x0: Tensor,
    condition: Tensor | None = None,
    *,
    weighting: Weighting = "simple",
    options: WeightingOptions | None = None,
    generator: torch.Generator | None = None,
    t: Tensor | None = None,
    noise: Tensor | None = None,
    autocast: torch.dtype | None = None,
) -> Tensor:
    """The weighted loss of each member of the batch, ``[B]``, summed over its D numbers.

    With ``weighting="elbo"`` the mean is the ELBO's diffusion term, in nats, estimated without bias.

    Args:
        core: a schedule and a denoiser.
        x0: data ``[B, *E]``.
        condition: class labels ``[B]``.
        weighting, options: :mod:`unidiff.train.weighting`.
        generator: the source of t and ε, on x0's device.
        t: times ``[B]`` in place of drawn ones.
        noise, autocast: as :func:`~unidiff.core.denoising.denoising_error`.

    Raises:
        ValueError: shapes that do not fit the core, an unknown weighting, t outside [0, 1] or where the weight of this
            output is not finite.
    """
    check_state("x0", x0, core.event_shape)
    if t is None:
        t = antithetic_times(x0.shape[0], generator, span=finite_span(core.schedule), device=x0.device)
    return denoising_error(
        core, x0, t, log_weight=log_weight(weighting, core.schedule, t, options), noise=noise, condition=condition,
        generator=generator, autocast=autocast,
    )  # fmt: skip
