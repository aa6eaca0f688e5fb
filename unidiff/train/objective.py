"""What a step of training minimises: the denoising loss, or a score-matching objective of the same weight.

At one weighting all of them have one gradient in expectation (:mod:`unidiff.score.objectives`), so a weighting means the
same whichever is chosen; the losses themselves differ by constants, and the implicit ones are negative at their best.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unidiff.core.boundary import check_name
from unidiff.core.diffusion import Diffusion
from unidiff.score.objectives import OBJECTIVES, Objective, score_matching_loss
from unidiff.train.loss import denoising_loss
from unidiff.train.toys import LAWS
from unidiff.train.weighting import Weighting, WeightingOptions, weight
from unidiff.worlds import World

Loss = Objective
LOSSES = OBJECTIVES


def training_loss(
    core: Diffusion,
    x0: Tensor,
    t: Tensor,
    loss: Loss = "denoising",
    *,
    weighting: Weighting = "simple",
    options: WeightingOptions | None = None,
    condition: Tensor | None = None,
    world: World | None = None,
    probes: int = 1,
    generator: torch.Generator | None = None,
    autocast: torch.dtype | None = None,
) -> Tensor:
    """The weighted loss of each member of ``x0`` ``[B, *E]`` at times t ``[B]``, ``[B]``, summed over its D numbers.

    Args:
        loss: a name in :data:`LOSSES`.
        weighting, options: :mod:`unidiff.train.weighting`.
        world: the data's law, for "explicit".
        probes: of "hutchinson" and "sliced".
        generator: the source of noise and probes, on x0's device.
        autocast: as :func:`~unidiff.core.denoising.denoising_error`, for "denoising" alone.

    Raises:
        ValueError: an unknown loss (with the nearest known one), or as the loss itself.
    """
    check_name("loss", loss, LOSSES)
    if loss == "denoising":
        return denoising_loss(
            core, x0, condition, weighting=weighting, options=options, generator=generator, t=t, autocast=autocast
        )
    return score_matching_loss(
        core, x0, loss, t, weight=weight(weighting, core.schedule, t, options), world=world, probes=probes,
        generator=generator, condition=condition,
    )  # fmt: skip


def law_of(loss: Loss, name: str, world: World | None) -> World | None:
    """``world``, or for the loss "explicit" the law of the data named so. Raises ValueError where there is none."""
    if loss != "explicit" or world is not None:
        return world
    if name not in LAWS:
        raise ValueError(f"loss 'explicit' needs data of a known law ({', '.join(LAWS)}), or world=, got {name}")
    return LAWS[name]()
