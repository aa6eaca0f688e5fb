"""The whole state of a fine-tuning run as a checkpoint, and back.

Tensors: ``parameters.*``, ``world.*`` and ``ema.*`` of the core with its low-rank changes added in, where it can be
described (:func:`unidiff.train.build.describe`), so that :func:`unidiff.train.load_core` loads it as any other;
``tuned.*`` (what is trained), ``tuned_ema.*``, ``besides.*`` (a value), ``optimizer.*``, ``random.generator``.
"""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from unidiff.core.diffusion import Diffusion
from unidiff.rl.mdp import DenoisingMDP
from unidiff.rl.methods.method import Method
from unidiff.rl.methods.preference import OnPairs
from unidiff.rl.trainable import merged
from unidiff.train import checkpoint as checkpoints
from unidiff.train.build import describe
from unidiff.train.checkpoint import MISFITS, Checkpoint, CheckpointError, one_line
from unidiff.train.digest import digest
from unidiff.train.exact import kind_of, tensors_of
from unidiff.train.finetune_config import FineTuneConfig
from unidiff.train.state import moments_of

if TYPE_CHECKING:
    from unidiff.train.finetune import FineTuner


def collect(tuner: FineTuner) -> Checkpoint:
    """The state of ``tuner`` between two rounds."""
    about, tensors = dict[str, Any](), dict[str, Tensor]()
    # A core that cannot be described can be trained all the same, and its run resumed.
    with contextlib.suppress(ValueError):
        whole = merged(tuner.policy.core)
        about["core"] = describe(whole)
        tensors |= checkpoints.tensors_of_core(whole)
        averaged = checkpoints.averaged_of(merged(tuner.averaged))
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
        "reference": fingerprint(tuner.policy.mdp),
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
    try:
        config = FineTuneConfig(**kept.about["finetune"])
        progress, process, way, reference = (
            kept.about[name] for name in ("progress", "process", "method", "reference")
        )
    except MISFITS as error:
        raise CheckpointError(f"{path} holds no fine-tuning run to resume: {one_line(error)}") from error
    for name, own, theirs in (
        ("mdp", describe_process(mdp), process),
        ("method", describe_method(method), way),
    ):
        for key, value in sorted(theirs.items(), key=lambda item: (item[0] != "name", item[0])):
            if own.get(key) != value:
                raise ValueError(f"{name} must be the run's: its {key} is {value!r}, got {own.get(key)!r}")
    if fingerprint(mdp) != reference:
        raise ValueError("mdp must be the run's: the parameters of its reference are others")
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
    """What a process is, as far as numbers and names tell, JSON-ready; of rewards, which are functions, if there are any."""
    spread, table = mdp.chain.x0_variance, mdp.chain.given
    return {
        "reward": mdp.reward is not None,
        "step_reward": mdp.step_reward is not None,
        "x0_variance": None if spread is None else spread.tolist(),
        "log_var": None if table is None else table.tolist(),
        "beta": mdp.beta,
        "guidance": mdp.guidance,
        "variance": mdp.chain.variance,
        "times": mdp.chain.grid.times.tolist(),
        "schedule": mdp.chain.core.schedule.config(),
        "event_shape": list(mdp.chain.core.event_shape),
    }


def describe_method(method: Method) -> dict[str, Any]:
    """A method's name and options, JSON-ready; of its pairs, if it has any, a digest."""
    told = {"name": method.name, **method.options_told()}
    if isinstance(method, OnPairs):
        pairs = method.pairs
        named = {"winner": pairs.winner, "loser": pairs.loser, "condition": pairs.condition}
        told["digest of the pairs"] = digest({name: t for name, t in named.items() if t is not None})
    return told


def fingerprint(mdp: DenoisingMDP) -> str:
    """A digest of the reference's tensors, of its network or of the world that it is exact for."""
    core = mdp.chain.core
    own = dict(core.state_dict())
    if kind_of(core.denoiser) is not None:
        own |= tensors_of(core.denoiser.world)  # pyright: ignore[reportAttributeAccessIssue]
    return digest(own)


def _put(parameter: Tensor, value: Tensor) -> None:
    if parameter.shape != value.shape:
        raise ValueError(f"a parameter must have shape {list(parameter.shape)}, got {list(value.shape)}")
    parameter.data.copy_(value)
