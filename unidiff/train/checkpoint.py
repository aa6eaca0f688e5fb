r"""A checkpoint is one safetensors file: tensors, and a JSON document in its header. Nothing is ever unpickled.

It is replaced, never overwritten: written beside itself, flushed to the disk, renamed over the old one, the folder
flushed. So at every moment, power cut included, the name holds one whole checkpoint. The header carries sha256 over the
document and all the tensors, checked on every read.

``about``: ``core`` (see :func:`unidiff.train.build.describe`), and from a trainer ``train``, ``data`` and ``progress``.
Tensors: ``parameters.*``, ``world.*`` (of a closed form that is corrected), ``ema.*`` (of the network), ``ema_schedule.*``
(of a schedule that is trained), ``optimizer.*``, ``random.*``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from unidiff.core.boundary import check_device, check_type
from unidiff.core.denoiser import Denoiser
from unidiff.core.diffusion import Diffusion
from unidiff.rl.trainable import CorrectedDenoiser
from unidiff.train.build import describe, rebuild
from unidiff.train.digest import digest
from unidiff.train.exact import tensors_of
from unidiff.worlds.oracle import OracleDenoiser

FORMAT = "unidiff-checkpoint"
VERSION = "1"
NAME = "checkpoint.safetensors"


MISFITS = (KeyError, IndexError, TypeError, AttributeError, ValueError, RuntimeError)
"""What Python and torch raise when a document or a tensor is not what it should be."""
_LONGEST = 240


class CheckpointError(ValueError):
    """A file that is no checkpoint, or no longer one; the message names it."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Tensors by name, and a JSON-ready document about them."""

    tensors: Mapping[str, Tensor]
    about: Mapping[str, Any]

    def under(self, prefix: str) -> dict[str, Tensor]:
        """The tensors named ``prefix.*``, without the prefix."""
        start = prefix + "."
        return {name.removeprefix(start): t for name, t in self.tensors.items() if name.startswith(start)}


def write(path: str | Path, checkpoint: Checkpoint) -> Path:
    """Put ``checkpoint`` at ``path``, atomically; the folder is made if need be."""
    path = Path(path)
    tensors = {name: t.detach().cpu().contiguous() for name, t in checkpoint.tensors.items()}
    document = json.dumps(checkpoint.about, sort_keys=True, allow_nan=False)
    header = {"format": FORMAT, "version": VERSION, "about": document, "sha256": digest(tensors, document)}
    replace_file(path, safetensors.torch.save(tensors, header))
    return path


def read(path: str | Path) -> Checkpoint:
    """What is at ``path`` (a file, or a run's folder), every byte of it checked.

    Raises:
        CheckpointError: missing, truncated, corrupted, not written by unidiff, of another version, or without its
            document.
    """
    path = Path(path)
    if path.is_dir():
        path = path / NAME
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            _check_header(path, header)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except CheckpointError:
        raise
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is truncated or not a checkpoint: {error}") from error
    if header.get("sha256") != digest(tensors, header["about"]):
        raise CheckpointError(f"{path} is corrupted: its contents do not have the digest in its header")
    return Checkpoint(tensors, _document(path, header["about"]))


def save_core(path: str | Path, core: Diffusion) -> Path:
    """A checkpoint with nothing but the core: what a fine-tuned model is kept in. Raises TypeError for no core."""
    check_type("core", core, Diffusion)
    return write(path, Checkpoint(tensors_of_core(core), {"core": describe(core)}))


def load_core(path: str | Path, ema: bool = True, device: torch.device | str = "cpu") -> Diffusion:
    """The core kept in a checkpoint, in evaluation mode.

    Args:
        path: a checkpoint file, or a run's folder.
        ema: take the averaged parameters where the checkpoint has them.
        device: where to.

    Raises:
        CheckpointError: as :func:`read`, and for tensors that do not fit the core described.
        ValueError: a device that is not there.
    """
    device = check_device(device)
    return restore_core(read(path), path, ema).to(device)


def restore_core(checkpoint: Checkpoint, path: str | Path, ema: bool) -> Diffusion:
    """The core in ``checkpoint``; ``path`` is for messages."""
    try:
        core = rebuild(checkpoint.about["core"], checkpoint.under("world"))
        adopt(core, checkpoint.under("parameters"))
        averaged = checkpoint.under("ema")
        if ema and averaged:
            adopt(averaged_of(core), averaged)
        schedule = checkpoint.under("ema_schedule")
        if ema and schedule and isinstance(core.schedule, nn.Module):
            core.schedule.load_state_dict(schedule)
    except MISFITS as error:
        raise CheckpointError(f"{path} does not hold the core that it describes: {one_line(error)}") from error
    return core.eval()


def parameters(module: nn.Module) -> dict[str, Tensor]:
    """The own tensors of a core (or of a reward model, a classifier), by their names in a checkpoint."""
    return {f"parameters.{name}": t for name, t in module.state_dict().items()}


def tensors_of_core(core: Diffusion) -> dict[str, Tensor]:
    """All that :func:`unidiff.train.build.rebuild` needs of a core that can be described, by their names in a checkpoint."""
    corrects = core.denoiser.reference if isinstance(core.denoiser, CorrectedDenoiser) else None
    known = tensors_of(corrects.world) if isinstance(corrects, OracleDenoiser) else {}
    return parameters(core) | {f"world.{name}": t for name, t in known.items()}


def network_of(core: Diffusion) -> nn.Module:
    """The network of a core that has one. Raises ValueError for a core without."""
    if not isinstance(core.denoiser, Denoiser) or not isinstance(core.denoiser.network, nn.Module):
        raise ValueError(f"core must hold a Denoiser with a network, got {type(core.denoiser).__name__}")
    return core.denoiser.network


def averaged_of(core: Diffusion) -> nn.Module:
    """What ``ema.*`` in a checkpoint are the parameters of: the network, or that of a correction."""
    return core.denoiser.network if isinstance(core.denoiser, CorrectedDenoiser) else network_of(core)


def adopt(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give ``module`` these tensors, by name, and their dtype. Raises torch's own errors where they do not fit."""
    dtypes = {t.dtype for t in tensors.values() if t.is_floating_point()}
    if len(dtypes) == 1:
        module.to(dtypes.pop())
    module.load_state_dict(dict(tensors))


def one_line(error: Exception) -> str:
    """What ``error`` says, on one line and not at length: torch names every tensor that does not fit on its own line."""
    words = " ".join((repr(error) if isinstance(error, KeyError) else str(error)).split())
    return words if len(words) <= _LONGEST else words[: _LONGEST - 1] + "…"


def replace_file(path: Path, content: bytes) -> None:
    """Put ``content`` at ``path`` so that every reader, and every crash, finds the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # One fixed name, so that a killed run leaves at most one such file, and the next run takes it over.
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _check_header(path: Path, header: Mapping[str, str]) -> None:
    if header.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is a safetensors file, but not a unidiff checkpoint (its header says no {FORMAT})"
        )
    if header.get("version") != VERSION:
        raise CheckpointError(f"{path} is of version {header.get('version')}; this unidiff reads version {VERSION}")
    if "about" not in header:
        raise CheckpointError(f"{path} is not a unidiff checkpoint: its header has no 'about'")


def _document(path: Path, text: str) -> dict[str, Any]:
    try:
        about = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is not a unidiff checkpoint: 'about' in its header is no JSON: {error}"
        ) from error
    if not isinstance(about, dict):
        raise CheckpointError(
            f"{path} is not a unidiff checkpoint: 'about' in its header must be a JSON object, "
            f"got {type(about).__name__}"
        )
    return about
