"""Networks that train on toys, digits and 28×28 or 32×32 images, and the registry that builds them from a description.

A network says what it is by ``config()``, JSON through and through; :func:`build` makes it again, freshly initialised.
A checkpoint is that description and tensors, so nothing is ever unpickled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from unidiff.core.boundary import check_name, nearest
from unidiff.core.networks.embedding import NoiseFeatures
from unidiff.core.networks.gradient import FORMS, GradientField, build_gradient
from unidiff.core.networks.mlp import MLP
from unidiff.core.networks.unet import UNet

__all__ = ["FORMS", "KINDS", "MLP", "GradientField", "NoiseFeatures", "UNet", "build", "register"]

KINDS: dict[str, Callable[..., nn.Module]] = {"mlp": MLP, "unet": UNet, "gradient": build_gradient}


def register(kind: str, network: Callable[..., nn.Module]) -> None:
    """Let checkpoints name your own network: ``network(**options)`` for ``config() == {"kind": kind, **options}``.

    Raises:
        ValueError: the kind is taken by another network.
    """
    if KINDS.get(kind, network) is not network:
        raise ValueError(f"kind {kind!r} is taken by {KINDS[kind]!r}; choose another name")
    KINDS[kind] = network


def build(config: Mapping[str, Any]) -> nn.Module:
    """The network that ``config`` describes, with new parameters (drawn from torch's default generator).

    Raises:
        ValueError: no or an unknown ``kind``, an option that the network does not have, or an option out of range.
    """
    options = dict(config)
    if "kind" not in options:
        raise ValueError(f"config must name its kind; {nearest('', KINDS)}")
    kind = check_name("network", str(options.pop("kind")), KINDS)
    try:
        return KINDS[kind](**options)
    except TypeError as error:
        raise ValueError(f"config does not describe a network of kind {kind!r}: {error}") from error
