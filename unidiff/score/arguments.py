"""What the score view asks of a core, and of the law that a batch is compared with, once, before any work."""

from __future__ import annotations

from torch import Tensor

from unidiff.core.boundary import check_type
from unidiff.core.diffusion import Diffusion
from unidiff.worlds import GaussianMixture, World


def conditional_law(core: Diffusion, world: World, condition: Tensor | None, purpose: str) -> World:
    """The law of the data given their labels, one for each row; the world itself for those of no class, and for None.

    Args:
        core: whose labels they are; its null class is the world's.
        condition: ``[B]``, the world's components.
        purpose: what asks, for the error.

    Raises:
        TypeError: no world.
        ValueError: a world of data of another shape than the core's; labels, and a world that has no classes or another
            number of them than the core.
    """
    check_type("world", world, World)
    known = world.num_classes if isinstance(world, GaussianMixture) else None
    classes = getattr(core.denoiser, "num_classes", None)
    if condition is not None and (not isinstance(world, GaussianMixture) or known != classes):
        raise ValueError(
            f"{purpose} with a condition needs a world whose components are the classes: the core has {classes}, "
            f"the {type(world).__name__} has {known}; pass a GaussianMixture of {classes}, or leave condition out"
        )
    if tuple(world.event_shape) != core.event_shape:
        raise ValueError(f"world must be a law on {list(core.event_shape)}, as the core is, got {world!r}")
    return world.given(condition) if condition is not None and isinstance(world, GaussianMixture) else world
