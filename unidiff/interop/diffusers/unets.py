"""A diffusers UNet and its scheduler as a core.

A core's condition is a label. For a class-conditional UNet it is the class; for a text-conditional one it is the index of a
row in a table of prompts' embeddings, which the core holds, its last row the empty prompt's: what guidance takes away from.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import torch
from torch import Tensor, nn

from unidiff.core.boundary import check_count, check_finite, check_floating, check_name, check_type
from unidiff.core.denoiser import Denoiser, check_event_shape
from unidiff.core.diffusion import Diffusion
from unidiff.interop.diffusers.schedules import PREDICTIONS, attribute, schedule
from unidiff.interop.dropout import warn_of_dropout
from unidiff.interop.timesteps import TimestepNetwork

UNETS = ("UNet2DModel", "UNet2DConditionModel")
"""The classes of diffusers' that are read; a module that is none of diffusers' is held to their call."""


def core(
    unet: Any,
    scheduler: Any,
    *,
    prompts: Tensor | None = None,
    null: Tensor | None = None,
    num_classes: int | None = None,
    event_shape: tuple[int, ...] | None = None,
) -> Diffusion:
    """The core of a diffusers UNet under a scheduler's ᾱ.

    The parameters are the UNet's own, not copies. What a scheduler does beside its ᾱ is no part of a core: clipping and
    thresholding, its spacing, its order.

    Args:
        unet: a ``UNet2DModel`` or ``UNet2DConditionModel``.
        scheduler: with ``alphas_cumprod`` and ``config.prediction_type`` "epsilon", "sample" or "v_prediction". With
            ``variance_type="learned_range"`` the UNet returns twice the channels, and variance "learned" can be asked for.
        prompts: for a text-conditional UNet, the embeddings ``[K, L, D]`` of K prompts; condition k is the k-th.
        null: with prompts, the empty prompt's embeddings ``[L, D]``: condition K.
        num_classes: for a class-conditional UNet, how many of its ``num_class_embeds`` are classes: all (None), or all but
            the last, which is then the null class that guidance needs.
        event_shape: ``[C, H, W]`` of a datum; None for what the UNet's config says.

    Raises:
        TypeError: a unet that is no module, a model of diffusers' that is no such UNet, or one that
            lacks an attribute that its kind has; a scheduler that lacks one.
        ValueError: a prediction or variance that a core has none of; channels that do not match; prompts that are missing,
            of another shape, or for a UNet that takes none; any other condition than these; a time embedding or
            a kind of timestep that is not of n = 0 … T − 1.

    Warns:
        UserWarning: dropout that is on.
    """
    check_type("unet", unet, nn.Module)
    _check_class(unet)
    config = attribute(unet, "config", "unet")
    _refuse(config, "time_embedding_type", (None, "positional"))
    _refuse(config, "time_cond_proj_dim", (None,))
    if num_classes is not None:
        check_count("num_classes", num_classes)
    kind = attribute(attribute(scheduler, "config"), "prediction_type")
    check_name("scheduler.config.prediction_type", kind, PREDICTIONS)
    _refuse(scheduler.config, "timestep_type", (None, "discrete"), "scheduler.config")
    learned = _learned(scheduler)
    own = schedule(scheduler)
    shape = _event_shape(config, event_shape)
    channels = attribute(config, "out_channels", "unet.config")
    if channels != (2 if learned else 1) * shape[0]:
        raise ValueError(
            f"unet must return {'twice its' if learned else 'its'} {shape[0]} channels of a datum under this scheduler "
            f"(variance_type {getattr(scheduler.config, 'variance_type', None)!r}), got out_channels = {channels}"
        )
    warn_of_dropout("unet", unet)
    model, labels = _conditioned(unet, config, prompts, null, num_classes)
    network = TimestepNetwork(model, own)
    return Diffusion(own, Denoiser(network, shape, PREDICTIONS[kind], learned_variance=learned, num_classes=labels))


def _check_class(unet: nn.Module) -> None:
    peer = importlib.import_module("diffusers")
    if isinstance(unet, peer.ModelMixin) and not isinstance(unet, tuple(getattr(peer, name) for name in UNETS)):
        raise TypeError(f"unet must be a {' or '.join(UNETS)}, got {type(unet).__name__}")


def _learned(scheduler: Any) -> bool:
    variance = getattr(scheduler.config, "variance_type", None)
    if variance == "learned":
        raise ValueError(
            "scheduler.config.variance_type must be a fixed one or 'learned_range', got 'learned' (a variance by itself)"
        )
    return variance == "learned_range"


def _event_shape(config: Any, given: tuple[int, ...] | None) -> tuple[int, ...]:
    channels = attribute(config, "in_channels", "unet.config")
    if given is None:
        size = getattr(config, "sample_size", None)
        if size is None:
            raise ValueError("event_shape must be given for a UNet whose config has no sample_size, got None")
        height, width = (size, size) if isinstance(size, int) else size
        return check_event_shape((channels, height, width))
    shape = check_event_shape(given)
    if len(shape) != 3 or shape[0] != channels:
        raise ValueError(f"event_shape must be [{channels}, H, W], as the UNet takes it, got {list(shape)}")
    return shape


def _conditioned(
    unet: nn.Module, config: Any, prompts: Tensor | None, null: Tensor | None, num_classes: int | None
) -> tuple[nn.Module, int | None]:
    """The model, and the number of its labels."""
    takes = inspect.signature(unet.forward).parameters
    embeds = getattr(config, "num_class_embeds", None)
    if "encoder_hidden_states" in takes:
        _refuse(config, "class_embed_type", (None,))
        _refuse(config, "num_class_embeds", (None,))
        _refuse(config, "addition_embed_type", (None, "text"))
        _refuse(config, "encoder_hid_dim_type", (None, "text_proj"))
        _check_pooling(config)
        if num_classes is not None:
            raise ValueError(f"num_classes must be left out for a UNet conditional on text, got {num_classes}")
        return Prompted(unet, _table(config, prompts, null)), len(prompts)  # pyright: ignore[reportArgumentType]
    for name, value in (("prompts", prompts), ("null", null)):
        if value is not None:
            raise ValueError(f"{name} must be left out for a UNet that takes no encoder_hidden_states")
    _refuse(config, "class_embed_type", (None,))
    if embeds is None:
        if num_classes is not None:
            raise ValueError(f"num_classes must be left out for a UNet without num_class_embeds, got {num_classes}")
        return Labelled(unet, None, None), None
    labels = embeds if num_classes is None else num_classes
    if labels not in (embeds, embeds - 1) or labels < 1:
        raise ValueError(f"num_classes must be {embeds}, or {embeds - 1} where the last is no class, got {num_classes}")
    return Labelled(unet, embeds, labels), labels


def _check_pooling(config: Any) -> None:
    if getattr(config, "addition_embed_type", None) != "text":
        return
    heads = attribute(config, "addition_embed_type_num_heads", "unet.config")
    width = getattr(config, "encoder_hid_dim", None) or attribute(config, "cross_attention_dim", "unet.config")
    if not isinstance(width, int) or width % heads:
        raise ValueError(
            "unet.config.addition_embed_type_num_heads must divide the width of the embeddings that "
            f"addition_embed_type='text' pools, {width}, got {heads}"
        )


def _refuse(config: Any, name: str, known: tuple[Any, ...], owner: str = "unet.config") -> None:
    value = getattr(config, name, None)
    if value not in known:
        raise ValueError(f"{owner}.{name} must be {' or '.join(map(repr, known))} for a core, got {value!r}")


def _table(config: Any, prompts: Tensor | None, null: Tensor | None) -> Tensor:
    """``[K + 1, L, D]``, the empty prompt last."""
    for name, value in (("prompts", prompts), ("null", null)):
        if value is None:
            raise ValueError(f"{name} must be given for a UNet conditional on text: embeddings, got None")
        check_finite(name, check_floating(name, value))
    assert prompts is not None
    assert null is not None
    width = getattr(config, "encoder_hid_dim", None) or getattr(config, "cross_attention_dim", None)
    known = isinstance(width, int)
    if prompts.ndim != 3 or len(prompts) == 0 or (known and prompts.shape[2] != width):
        raise ValueError(f"prompts must have shape [K, L, {width if known else 'D'}], got {list(prompts.shape)}")
    if null.shape != prompts.shape[1:]:
        raise ValueError(f"null must have shape {list(prompts.shape[1:])}, as one of prompts, got {list(null.shape)}")
    return torch.cat([prompts.detach(), null.detach().to(prompts)[None]])


class Prompted(nn.Module):
    """``model(x, timestep, condition)`` of a UNet that reads ``encoder_hidden_states``: the condition's row of ``table``."""

    table: Tensor

    def __init__(self, unet: nn.Module, table: Tensor) -> None:
        super().__init__()
        self.unet = unet
        self.register_buffer("table", table)

    def forward(self, x: Tensor, timestep: Tensor, condition: Tensor) -> Tensor:
        """The UNet's answer, ``[B, *E]``."""
        return self.unet(x, timestep, encoder_hidden_states=self.table[condition].to(x.dtype), return_dict=False)[0]


class Labelled(nn.Module):
    """``model(x, timestep, condition)`` of a UNet that reads ``class_labels``, or nothing.

    Args:
        unet: the UNet.
        embeds: how many labels it knows; None for none.
        num_classes: how many of them are classes; where all are, there is no null class to ask for.
    """

    def __init__(self, unet: nn.Module, embeds: int | None, num_classes: int | None) -> None:
        super().__init__()
        self.unet = unet
        self.embeds = embeds
        self.has_null = embeds is not None and num_classes != embeds

    def forward(self, x: Tensor, timestep: Tensor, condition: Tensor | None) -> Tensor:
        """The UNet's answer, ``[B, *E]``; on a GPU, where looking would wait, it is NaN for a label that it lacks.

        Raises:
            ValueError: the null class, of a UNet that has none (looked at on the CPU only).
        """
        if self.embeds is None or condition is None:
            return self.unet(x, timestep, return_dict=False)[0]
        if self.has_null:
            return self.unet(x, timestep, class_labels=condition, return_dict=False)[0]
        known = condition < self.embeds
        if condition.device.type == "cpu" and not bool(known.all()):
            raise ValueError(
                f"condition must be a class, 0 … {self.embeds - 1}: this UNet has no null class, so it needs one, and "
                "takes no guidance (num_classes says that its last label is no class)"
            )
        output = self.unet(x, timestep, class_labels=condition.clamp(max=self.embeds - 1), return_dict=False)[0]
        return torch.where(known.reshape(-1, *[1] * (output.ndim - 1)), output, torch.nan)
