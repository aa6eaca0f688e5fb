"""What the score view asks of the law that a batch is compared with, once, before any work."""

from __future__ import annotations

from torch import Tensor

from unidiff.core.diffusion import Diffusion
from unidiff.worlds import GaussianMixture, World


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
