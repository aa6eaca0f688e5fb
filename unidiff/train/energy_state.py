"""The whole state of a run that learns an energy as a checkpoint, and back.

Tensors: ``parameters.*``, ``world.*`` and ``ema.*`` of a core that can be described
(:func:`unidiff.train.build.describe`), so that :func:`unidiff.train.load_core` loads it as any other; ``trained.*`` (the
energy, and what is learned besides), ``trained_ema.*``, ``remembered.*`` (what the method remembers: a buffer),
``optimizer.*``, ``random.generator``.
"""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from unidiff.core.diffusion import Diffusion
from unidiff.ebm.learning import EnergyMethod
from unidiff.ebm.model import EnergyModel
from unidiff.mcmc import Kernel
from unidiff.train import checkpoint as checkpoints
from unidiff.train.build import describe
from unidiff.train.checkpoint import MISFITS, Checkpoint, CheckpointError, one_line
from unidiff.train.data import Dataset
from unidiff.train.digest import digest
from unidiff.train.energy_config import EnergyConfig
from unidiff.train.exact import tensors_of
from unidiff.train.state import moments_of
from unidiff.worlds.world import World

if TYPE_CHECKING:
    from unidiff.train.energy import EnergyTrainer

CHANGEABLE = ("steps", "out", "log_every", "checkpoint_every")
"""The options that a resumed run may change; the others would make it another run."""


def collect(trainer: EnergyTrainer) -> Checkpoint:
    """The state of ``trainer`` between two steps."""
    about, tensors = dict[str, Any](), dict[str, Tensor]()
    source = trainer.model.source
    if isinstance(source, Diffusion):
        # A core that cannot be described can be trained all the same, and its run resumed.
        with contextlib.suppress(ValueError):
            about["core"] = describe(source)
            tensors |= checkpoints.tensors_of_core(source)
            averaged = checkpoints.averaged_of(trainer.averaged.source)  # pyright: ignore
            tensors |= {f"ema.{name}": t for name, t in averaged.state_dict().items()}
    tensors |= {f"trained.{name}": t for name, t in trainer.whole.state_dict().items()}
    tensors |= {f"trained_ema.{name}": t for name, t in trainer.ema.module.state_dict().items()}
    tensors |= {f"remembered.{name}": t for name, t in trainer.learner.state().items()}
    moments = trainer.optimizer.state_dict()["state"]
    tensors |= {f"optimizer.{i}.{name}": t for i, slot in moments.items() for name, t in slot.items()}
    tensors["random.generator"] = trainer.generator.get_state()
    about |= {
        "energy": dataclasses.asdict(trainer.config),
        "method": describe_method(trainer.method),
        "data": trainer.data.fingerprint(),
        "tau": trainer.model.tau,
        "progress": {
            "step": trainer.step, "position": trainer.order.position, "elapsed": trainer.elapsed,
            "window": trainer.window, "slots": sorted(moments),
        },
    }  # fmt: skip
    return Checkpoint({name: t.detach().clone() for name, t in tensors.items()}, about)


def restore(
    make: Any,
    kept: Checkpoint,
    path: str | Path,
    model: EnergyModel,
    data: Dataset | Tensor,
    method: EnergyMethod,
    changes: dict[str, Any],
) -> EnergyTrainer:
    """The trainer that ``kept`` was taken from; ``make`` builds one. As :meth:`unidiff.train.EnergyTrainer.resume`."""
    try:
        config = EnergyConfig(**kept.about["energy"])
        progress, way, seen, tau = (kept.about[name] for name in ("progress", "method", "data", "tau"))
    except MISFITS as error:
        raise CheckpointError(f"{path} holds no run of an energy to resume: {one_line(error)}") from error
    trainer: EnergyTrainer = make(model, data, method, dataclasses.replace(config, **changes))
    own = describe_method(method)
    for key, value in sorted(way.items(), key=lambda item: (item[0] != "name", item[0])):
        if own.get(key) != value:
            raise ValueError(f"method must be the run's: its {key} is {value!r}, got {own.get(key)!r}")
    if trainer.data.fingerprint() != seen:
        raise ValueError("data must be what the run trained on, to the bit, in the model's dtype")
    if model.tau != tau:
        raise ValueError(f"model must have the run's tau, {tau:g}, got {model.tau:g}")
    try:
        trainer.whole.load_state_dict(kept.under("trained"))
        trainer.ema.module.load_state_dict(kept.under("trained_ema"))
        trainer.learner.restore({name: t.to(trainer.device) for name, t in kept.under("remembered").items()})
        moments = moments_of(kept, progress["slots"], trainer.trained)
        trainer.optimizer.load_state_dict({**trainer.optimizer.state_dict(), "state": moments})
        trainer.generator.set_state(kept.tensors["random.generator"])
        trainer.step, trainer.order.position = int(progress["step"]), int(progress["position"])
        trainer.elapsed = float(progress["elapsed"])
        trainer.window = {name: [float(v) for v in values] for name, values in progress["window"].items()}
    except MISFITS as error:
        raise CheckpointError(f"{path} does not hold the run that it describes: {one_line(error)}") from error
    return trainer


def describe_method(method: EnergyMethod) -> dict[str, Any]:
    """A method's name and options, JSON-ready; of a world, a digest."""
    return {"name": method.name} | {name: _told(value) for name, value in method.options_told().items()}


def _told(value: Any) -> Any:
    if isinstance(value, Kernel):
        return {"kind": type(value).__name__, **dataclasses.asdict(value)}
    if isinstance(value, World):
        return digest(tensors_of(value))
    return list(value) if isinstance(value, tuple) else value
