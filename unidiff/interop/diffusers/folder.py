"""A core of a folder that a diffusers pipeline saved: ``unet/`` and ``scheduler/``, nothing fetched, nothing unpickled."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unidiff.core.boundary import check_dtype, check_name
from unidiff.core.diffusion import Diffusion
from unidiff.interop.diffusers.unets import UNETS, core

_WEIGHTS = "diffusion_pytorch_model"


def load(
    folder: str | Path,
    *,
    prompts: Tensor | None = None,
    null: Tensor | None = None,
    num_classes: int | None = None,
    event_shape: tuple[int, ...] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Diffusion:
    """The core of a saved pipeline's UNet and scheduler, on the CPU, in evaluation mode.

    Args:
        folder: what ``save_pretrained`` of a pipeline wrote; ``unet/`` with weights as safetensors, and ``scheduler/``.
        prompts, null, num_classes, event_shape: as :func:`~unidiff.interop.diffusers.core`.
        dtype: of the weights; float32 or float64.

    Raises:
        TypeError: folder is no path.
        FileNotFoundError: no such folder, or a part of it is not there.
        ValueError: weights that are pickled (``.bin``), which are never read, or of which the UNet lacks one, knows
            one not, or has one of another shape; a class that is no UNet or scheduler of
            diffusers'; otherwise as :func:`~unidiff.interop.diffusers.core`.
    """
    check_dtype(dtype)
    if not isinstance(folder, (str, Path)):
        raise TypeError(f"folder must be a str or a Path, got {folder!r}")
    root = Path(folder)
    unet_class = check_name("class in unet/config.json", _class_name(root / "unet" / "config.json"), UNETS)
    scheduler_class = _class_name(root / "scheduler" / "scheduler_config.json")
    _check_weights(root / "unet")
    peer = importlib.import_module("diffusers")
    own = getattr(peer, scheduler_class, None)
    if not isinstance(own, type) or not issubclass(own, peer.SchedulerMixin):
        raise ValueError(f"folder must hold a scheduler of diffusers', got {scheduler_class!r} in {root / 'scheduler'}")
    unet = _whole(getattr(peer, unet_class), root / "unet")
    scheduler: Any = own.from_pretrained(root / "scheduler", local_files_only=True)
    made = core(unet, scheduler, prompts=prompts, null=null, num_classes=num_classes, event_shape=event_shape)
    return made.to(dtype).eval()


def _whole(unet_class: Any, folder: Path) -> Any:
    """The UNet, if the folder's weights are its own, all and no others: what is not there would be drawn at random."""
    try:
        unet, info = unet_class.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            low_cpu_mem_usage=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except RuntimeError as error:
        raise ValueError(f"folder must hold the UNet's weights, {folder} does not: {error}") from error
    told = []
    for name in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        keys = sorted(str(key if isinstance(key, str) else key[0]) for key in info[name])
        if keys:
            told.append(f"{name.partition('_')[0]} {', '.join(keys[:3])}{' …' if len(keys) > 3 else ''} ({len(keys)})")
    if told:
        raise ValueError(f"folder must hold the UNet's weights, all and no others, got in {folder}: {'; '.join(told)}")
    return unet


def _class_name(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"folder must be a saved pipeline's, with unet/ and scheduler/: there is no {path}")
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["_class_name"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"folder must hold configurations that name their class, {path} does not: {error}") from error


def _check_weights(folder: Path) -> None:
    if any((folder / f"{_WEIGHTS}.safetensors{index}").is_file() for index in ("", ".index.json")):
        return
    pickled = sorted(path.name for end in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(end))
    if pickled:
        raise ValueError(
            f"folder must hold its weights as safetensors, got {pickled[0]} in {folder}, which would have to be unpickled; "
            "save it anew with safe_serialization=True"
        )
    raise FileNotFoundError(f"folder must hold the weights unet/{_WEIGHTS}.safetensors: there are none in {folder}")
