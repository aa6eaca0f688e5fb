r"""The whole state of a run as a checkpoint, and back: what a resumed run needs to end in the same bits.

Parameters, their average, AdamW's moments, every random state, the position in the data, the log's open window.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from unidiff.core.boundary import check_name
from unidiff.train import checkpoint as checkpoints
from unidiff.train.build import describe, redraw, shaped
from unidiff.train.checkpoint import MISFITS, Checkpoint, CheckpointError, one_line
from unidiff.train.config import TrainConfig
from unidiff.train.data import Dataset

if TYPE_CHECKING:
    from unidiff.train.trainer import Trainer

CHANGEABLE = (
    "steps", "minutes", "out", "device", "log_every", "checkpoint_every", "tensorboard", "compile"
)  # fmt: skip
"""The options that a resumed run may change; the others would make it another run."""


def collect(trainer: Trainer) -> Checkpoint:
    """The state of ``trainer`` between two steps."""
    tensors = checkpoints.parameters(trainer.core)
    tensors |= {f"ema.{name}": t for name, t in trainer.ema.module.state_dict().items()}
    if trainer.learner is not None:
        tensors |= {f"ema_schedule.{name}": t for name, t in trainer.learner.ema.module.state_dict().items()}
    tensors["progress.window"] = trainer.window
    moments = trainer.optimizer.state_dict()["state"]
    tensors |= {f"optimizer.{i}.{name}": t for i, slot in moments.items() for name, t in slot.items()}
    tensors |= {"random.noise": trainer.noise.get_state(), "random.times": trainer.times.get_state()}
    tensors |= {f"random.{name}": t for name, t in trainer.default_states.items()}
    about = {
        "core": describe(trainer.core),
        "train": trainer.config.to_dict(),
        "data": trainer.about_data,
        "progress": {
            "step": trainer.step,
            "position": trainer.order.position,
            "elapsed": trainer.elapsed,
            "slots": sorted(moments),
        },
    }
    return Checkpoint(tensors, about)


def reopen(
    path: str | Path, data: Dataset | None, changes: dict[str, Any]
) -> tuple[Checkpoint, TrainConfig, dict[str, Any], Dataset]:
    """What a run is resumed from: its checkpoint, its configuration as changed, its progress and its data.

    Raises:
        CheckpointError, ValueError: as :meth:`unidiff.train.Trainer.resume`.
    """
    for name in changes:
        check_name("change", name, CHANGEABLE)
    kept = checkpoints.read(path)
    try:
        config, progress = TrainConfig.from_dict(kept.about["train"]), kept.about["progress"]
        about = {name: kept.about["data"][name] for name in ("name", "n", "event_shape", "fingerprint")}
    except MISFITS as error:
        raise CheckpointError(f"{path} holds no training state to resume: {one_line(error)}") from error
    if changes.get("steps") is not None and "minutes" not in changes:
        changes["minutes"] = None
    if changes.get("minutes") is not None and "steps" not in changes:
        changes["steps"] = None
    config = dataclasses.replace(config, **changes)
    data = redraw(kept.about) if data is None else data
    if data is None:
        raise ValueError(f"data must be given to resume a run on {about['name']}")
    data = shaped(data, config)
    if data.to(config.torch_dtype).fingerprint() != about["fingerprint"]:
        raise ValueError(
            f"data must be what the run trained on ({about['name']}, {about['n']} × {about['event_shape']}), to the "
            f"bit as {config.dtype}, labels included; {data.name} with {len(data)} × {list(data.event_shape)} is not"
        )
    return kept, config, progress, data


def restore(trainer: Trainer, kept: Checkpoint, progress: dict[str, Any]) -> None:
    """Put ``trainer``, just built from the same configuration and data, where ``kept`` was taken.

    Raises:
        KeyError, ValueError, RuntimeError, TypeError: tensors or numbers that are missing or of another shape.
    """
    trainer.ema.module.load_state_dict(kept.under("ema"))
    parameters = list(trainer.network.parameters())
    if trainer.learner is not None:
        trainer.learner.ema.module.load_state_dict(kept.under("ema_schedule"))
        parameters += trainer.learner.parameters
    trainer.window.copy_(kept.tensors["progress.window"])
    moments = moments_of(kept, progress["slots"], parameters)
    trainer.optimizer.load_state_dict({**trainer.optimizer.state_dict(), "state": moments})
    trainer.noise.set_state(kept.tensors["random.noise"])
    trainer.times.set_state(kept.tensors["random.times"])
    trainer.default_states = {name: kept.tensors[f"random.{name}"] for name in trainer.default_states}
    trainer.order.position = int(progress["position"])
    trainer.step, trainer.elapsed = int(progress["step"]), float(progress["elapsed"])


def moments_of(
    kept: Checkpoint, slots: list[int], parameters: Sequence[Tensor], prefix: str = "optimizer"
) -> dict[int, dict[str, Tensor]]:
    """AdamW's moments in ``kept``, by the place of their parameter. Raises ValueError if they are not those parameters'."""
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in kept.under(prefix).items():
        index, slot = name.split(".")
        moments.setdefault(int(index), {})[slot] = tensor
    _check_slots(moments, slots, parameters)
    return moments


def _check_slots(state: dict[int, dict[str, Tensor]], kept: list[int], parameters: Sequence[Tensor]) -> None:
    """AdamW takes whatever state it is given; here it must be of the parameters that had one, in their shapes."""
    if sorted(state) != kept:
        raise ValueError(f"the optimizer's state must be of parameters {kept}, got {sorted(state)}")
    for i, slot in state.items():
        shape = list(parameters[i].shape)
        expected = {"step": [], "exp_avg": shape, "exp_avg_sq": shape}
        found = {name: list(t.shape) for name, t in slot.items()}
        if found != expected:
            raise ValueError(f"the optimizer's state of parameter {i} must have shapes {expected}, got {found}")
