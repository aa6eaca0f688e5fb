"""The whole state of a fine-tuning run as a checkpoint, and back. A network's core can be loaded from it as from any other.

Tensors: ``parameters.*`` and ``ema.*`` of the core with its low-rank changes added in, where it can be described;
``tuned.*`` (what is trained), ``tuned_ema.*``, ``besides.*`` (a value), ``optimizer.*``, ``random.generator``.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from unidiff.core.denoiser import Denoiser
from unidiff.core.diffusion import Diffusion
from unidiff.rl.mdp import DenoisingMDP
from unidiff.rl.methods.method import Method
from unidiff.rl.trainable import merged
from unidiff.train import checkpoint as checkpoints
from unidiff.train.build import describe
from unidiff.train.checkpoint import MISFITS, Checkpoint, CheckpointError, one_line
from unidiff.train.state import moments_of

if TYPE_CHECKING:
    from unidiff.train.finetune import FineTuner


def collect(tuner: FineTuner) -> Checkpoint:
    """The state of ``tuner`` between two rounds."""
    core, about = tuner.policy.core, dict[str, Any]()
    tensors: dict[str, Tensor] = {}
    if isinstance(core.denoiser, Denoiser):
        whole = merged(core)
        about["core"] = describe(whole)
        tensors |= checkpoints.parameters(whole)
        averaged = checkpoints.network_of(merged(tuner.averaged))
        tensors |= {f"ema.{name}": t for name, t in averaged.state_dict().items()}
    tensors |= {f"tuned.{i}": p for i, p in enumerate(tuner.trained)}
    tensors |= {f"tuned_ema.{name}": t for name, t in tuner.ema.module.named_parameters()}
    if tuner.learner.module is not None:
        tensors |= {f"besides.{name}": t for name, t in tuner.learner.module.state_dict().items()}
    moments = tuner.optimizer.state_dict()["state"]
    tensors |= {f"optimizer.{i}.{name}": t for i, slot in moments.items() for name, t in slot.items()}
    tensors["random.generator"] = tuner.generator.get_state()
    about |= {
        "finetune": dataclasses.asdict(tuner.config),
        "process": describe_process(tuner.policy.mdp),
        "method": describe_method(tuner.method),
        "progress": {
            "round": tuner.round, "step": tuner.step, "elapsed": tuner.elapsed,
            "window": tuner.window, "slots": sorted(moments),
        },
    }  # fmt: skip
    return Checkpoint({name: t.detach().clone() for name, t in tensors.items()}, about)


def restore(
    make: Any,
    kept: Checkpoint,
    path: str | Path,
    mdp: DenoisingMDP,
    core: Diffusion,
    method: Method,
    changes: dict[str, Any],
) -> FineTuner:
    """The tuner that ``kept`` was taken from; ``make`` builds one. Errors as :meth:`unidiff.train.FineTuner.resume`."""
    from unidiff.train.finetune import FineTuneConfig

    try:
        config = FineTuneConfig(**kept.about["finetune"])
        progress, process, way = (kept.about[name] for name in ("progress", "process", "method"))
    except MISFITS as error:
        raise CheckpointError(f"{path} holds no fine-tuning run to resume: {one_line(error)}") from error
    for name, own, theirs in (
        ("mdp", describe_process(mdp), process),
        ("method", describe_method(method), way),
    ):
        for key, value in theirs.items():
            if own.get(key) != value:
                raise ValueError(f"{name} must be the run's: its {key} is {value!r}, got {own.get(key)!r}")
    tuner: FineTuner = make(mdp, core, method, dataclasses.replace(config, **changes))
    try:
        for i, parameter in enumerate(tuner.trained):
            _put(parameter, kept.tensors[f"tuned.{i}"])
        averaged = dict(tuner.ema.module.named_parameters())
        for name, parameter in averaged.items():
            _put(parameter, kept.tensors[f"tuned_ema.{name}"])
        parameters = list(tuner.trained)
        if tuner.learner.module is not None:
            tuner.learner.module.load_state_dict(kept.under("besides"))
            parameters += list(tuner.learner.module.parameters())
        state = moments_of(kept, progress["slots"], parameters)
        tuner.optimizer.load_state_dict({**tuner.optimizer.state_dict(), "state": state})
        tuner.generator.set_state(kept.tensors["random.generator"])
        tuner.round, tuner.step = (int(progress[name]) for name in ("round", "step"))
        tuner.elapsed = float(progress["elapsed"])
        tuner.window = {name: [float(v) for v in values] for name, values in progress["window"].items()}
    except MISFITS as error:
        raise CheckpointError(
            f"{path} does not hold the fine-tuning run that it describes: {one_line(error)}"
        ) from error
    return tuner


def describe_process(mdp: DenoisingMDP) -> dict[str, Any]:
    """What a process is, as far as numbers and names tell, JSON-ready; rewards are functions, and are not told."""
    return {
        "beta": mdp.beta,
        "guidance": mdp.guidance,
        "variance": mdp.chain.variance,
        "times": mdp.chain.grid.times.tolist(),
        "schedule": mdp.chain.core.schedule.config(),
        "event_shape": list(mdp.chain.core.event_shape),
    }


def describe_method(method: Method) -> dict[str, Any]:
    """A method's name and options, JSON-ready; data are not told."""
    return {"name": method.name, **method.options_told()}


def _put(parameter: Tensor, value: Tensor) -> None:
    if parameter.shape != value.shape:
        raise ValueError(f"a parameter must have shape {list(parameter.shape)}, got {list(value.shape)}")
    parameter.data.copy_(value)
