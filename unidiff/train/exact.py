"""The exact denoiser of a world in a checkpoint: which world it is, and its tensors, to the bit.

A correction of it (:func:`unidiff.rl.corrected`) is kept with the world that it corrects, so that what was fine-tuned from a
closed form is loaded and sampled as any network is.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from unidiff.core.boundary import check_name
from unidiff.worlds import Gaussian, GaussianMixture, OracleDenoiser, PointCloud
from unidiff.worlds.normals import Normals
from unidiff.worlds.world import World

KINDS = ("gaussian", "mixture", "cloud")
_NORMALS = ("mean", "basis", "values")
_CLOUD = ("points", "log_weights", "alpha", "sigma")


def kind_of(denoiser: object) -> str | None:
    """The name in a checkpoint of the world that ``denoiser`` is exact for; None for anything else."""
    world = denoiser.world if isinstance(denoiser, OracleDenoiser) else None
    for kind, made in zip(KINDS, (Gaussian, GaussianMixture, PointCloud), strict=True):
        if type(world) is made:
            return kind
    return None


def tensors_of(world: World) -> dict[str, Tensor]:
    """The tensors that a world is made of, by name. Raises TypeError for a world of another kind."""
    if isinstance(world, PointCloud):
        return {name: getattr(world, name) for name in _CLOUD}
    if isinstance(world, Gaussian):
        return {name: getattr(world.normals, name) for name in _NORMALS}
    if isinstance(world, GaussianMixture):
        own = {name: getattr(world.components, name) for name in _NORMALS}
        return own | {"log_weights": world.log_weights}
    raise TypeError(f"world must be a Gaussian, a GaussianMixture or a PointCloud, got {type(world).__name__}")


def rebuilt(kind: str, tensors: Mapping[str, Tensor]) -> OracleDenoiser:
    """The exact denoiser of the world of this kind. Raises ValueError for an unknown kind, KeyError for a tensor missing."""
    check_name("world", kind, KINDS)
    if kind == "cloud":
        return OracleDenoiser(PointCloud.of(*(tensors[name] for name in _CLOUD)))
    normals = Normals(*(tensors[name] for name in _NORMALS))
    if kind == "gaussian":
        return OracleDenoiser(Gaussian.of(normals))
    return OracleDenoiser(GaussianMixture.of(tensors["log_weights"], normals))
