r"""The whole state of a run as a checkpoint, and back: what a resumed run needs to end in the same bits.

Parameters, their average, AdamW's moments, every random state, the position in the data, the log's open window.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from unidiff.train import checkpoint as checkpoints
from unidiff.train.build import describe
from unidiff.train.checkpoint import Checkpoint

if TYPE_CHECKING:
    from unidiff.train.trainer import Trainer


def collect(trainer: Trainer) -> Checkpoint:
    """The state of ``trainer`` between two steps."""
    tensors = checkpoints.parameters(trainer.core)
    tensors |= {f"ema.{name}": t for name, t in trainer.ema.module.state_dict().items()}
    tensors["progress.window"] = trainer.window
    tensors["progress.averaged"] = trainer.ema.n_averaged
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


def restore(trainer: Trainer, kept: Checkpoint, progress: dict[str, Any]) -> None:
    """Put ``trainer``, just built from the same configuration and data, where ``kept`` was taken.

    Raises:
        KeyError, ValueError, RuntimeError, TypeError: tensors or numbers that are missing or of another shape.
    """
    trainer.ema.module.load_state_dict(kept.under("ema"))
    trainer.ema.n_averaged.copy_(kept.tensors["progress.averaged"])
    trainer.window.copy_(kept.tensors["progress.window"])
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in kept.under("optimizer").items():
        index, slot = name.split(".")
        moments.setdefault(int(index), {})[slot] = tensor
    _check_slots(moments, progress["slots"], list(trainer.network.parameters()))
    trainer.optimizer.load_state_dict({**trainer.optimizer.state_dict(), "state": moments})
    trainer.noise.set_state(kept.tensors["random.noise"])
    trainer.times.set_state(kept.tensors["random.times"])
    trainer.default_states = {name: kept.tensors[f"random.{name}"] for name in trainer.default_states}
    trainer.order.position = int(progress["position"])
    trainer.step, trainer.elapsed = int(progress["step"]), float(progress["elapsed"])


def _check_slots(state: dict[int, dict[str, Tensor]], kept: list[int], parameters: list[nn.Parameter]) -> None:
    """AdamW takes whatever state it is given; here it must be of the parameters that had one, in their shapes."""
    if sorted(state) != kept:
        raise ValueError(f"the optimizer's state must be of parameters {kept}, got {sorted(state)}")
    for i, slot in state.items():
        shape = list(parameters[i].shape)
        expected = {"step": [], "exp_avg": shape, "exp_avg_sq": shape}
        found = {name: list(t.shape) for name, t in slot.items()}
        if found != expected:
            raise ValueError(f"the optimizer's state of parameter {i} must have shapes {expected}, got {found}")
