"""What the score view asks of a batch and of the law it is compared with, once, before any work."""

from __future__ import annotations

import torch
from torch import Tensor

from unidiff.core.boundary import check_finite
from unidiff.core.diffusion import Diffusion
from unidiff.worlds import GaussianMixture, World


def check_batch(
    core: Diffusion, argument: str, x: Tensor, condition: Tensor | None = None, guidance: float = 1.0
) -> Tensor | None:
    """Refuse a batch ``[B, *E]``, labels or a weight that no answer can be given for; returns the labels ``[B]``.

    Raises:
        TypeError: x is no floating-point tensor, or the labels no integers.
        ValueError: as :meth:`unidiff.Diffusion.check_arguments`; an empty batch, half precision, a value not finite.
    """
    if isinstance(x, Tensor) and x.dtype in (torch.float16, torch.bfloat16):
        raise ValueError(f"{argument} must be float32 or wider (what is computed needs the digits), got {x.dtype}")
    condition = core.check_arguments(argument, x, condition, guidance)
    if x.numel() == 0:
        raise ValueError(f"{argument} must hold at least one datum, got shape {list(x.shape)}")
    check_finite(argument, x.detach())
    return condition


def conditional_law(core: Diffusion, world: World, condition: Tensor | None, purpose: str) -> World:
    """The law of the data given their labels, one for each row; the world itself for those of no class, and for None.

    Args:
        core: whose labels they are; its null class is the world's.
        condition: ``[B]``, the world's components.
        purpose: what asks, for the error.

    Raises:
        ValueError: labels, and a world that has no classes or another number of them than the core.
    """
    if condition is None:
        return world
    known = world.num_classes if isinstance(world, GaussianMixture) else None
    classes = getattr(core.denoiser, "num_classes", None)
    if not isinstance(world, GaussianMixture) or known != classes:
        raise ValueError(
            f"{purpose} with a condition needs a world whose components are the classes: the core has {classes}, "
            f"the {type(world).__name__} has {known}; pass a GaussianMixture of {classes}, or leave condition out"
        )
    return world.given(condition)
