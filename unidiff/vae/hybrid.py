r"""The variational bound as a loss for the variance alone (Nichol & Dhariwal 2021, eq. 16).

    L_hybrid = L_w + λ L_vlb,   L_vlb = N E_{k ~ U{1..N}} KL(q(x_{k−1}|x_k, x_0) ‖ N(stop(μ̂), v_θ)),   λ = 10⁻³

with v_θ = v_prior^f v_posterior^{1−f}, f the network's fraction, at x_k ~ q(x_k|x_0). The mean is held, so the bound moves
the output f and what lies below it, and never the output F from which μ̂ is made: that one is L_w's. At a fixed mean the
best v has the value of :mod:`unidiff.vae.optimal`, here one for each number and state.
"""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor

from unidiff.core.boundary import check_alike, check_generator
from unidiff.core.chain import ReverseChain
from unidiff.core.gaussian import Gaussian
from unidiff.core.ladder import chain_rows
from unidiff.vae.bound import check_grid

HYBRID = 1e-3
"""λ of the hybrid loss (Nichol & Dhariwal 2021, section 3.1)."""


def variance_bound(
    chain: ReverseChain,
    x0: Tensor,
    k: Tensor,
    *,
    condition: Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    autocast: torch.dtype | None = None,
) -> Tensor:
    """L_vlb by one step of each member of the batch, in nats, ``[B]``; its gradient reaches F nowhere.

    Args:
        chain: of the rule "learned", between finite log-SNRs.
        x0: data ``[B, *E]``.
        k: the steps ``[B]``, in 1 … N, on the host; uniform ones make the mean that of the bound's diffusion terms.
        condition: class labels ``[B]``.
        generator: the source of the noise of x_k, on x0's device.
        noise: in its place, ``[B, *E]``.
        autocast: run the network in this dtype.

    Raises:
        TypeError: x0 is no floating-point tensor, k or the labels none of integers.
        ValueError: another rule, a grid with an infinite end, steps out of range or not one a member, x0 or labels as
            :meth:`unidiff.Diffusion.check_batch`, noise unlike x0.
    """
    if chain.variance != "learned":
        raise ValueError(f"chain must have the variance 'learned', got {chain.variance!r}")
    check_grid(chain)
    condition = chain.core.check_batch("x0", x0, condition)
    check_generator(generator, x0.device)
    if not isinstance(k, Tensor) or k.dtype == torch.bool:
        raise TypeError(f"k must be a tensor of integers, got {k.dtype if isinstance(k, Tensor) else type(k).__name__}")
    if k.shape != x0.shape[:1] or k.is_floating_point() or not bool(((k >= 1) & (k <= chain.steps)).all()):
        raise ValueError(
            f"k must be {x0.shape[0]} integers in 1 … {chain.steps}, got shape {list(k.shape)} of {k.dtype}"
            + (f" in [{k.min().item()}, {k.max().item()}]" if k.numel() else "")
        )
    if noise is None:
        noise = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
    else:
        check_alike(x0=x0, noise=noise)
    half = contextlib.nullcontext() if autocast is None else torch.autocast(x0.device.type, autocast)
    with half:
        found = chain_rows(chain, x0, noise, k, condition)
    held = Gaussian(found.decoder.mean.detach(), found.decoder.log_var)
    return chain.steps * found.encoder.kl(held)
