"""The whole state of a DxMI run as a checkpoint, and back; and what a run leaves: its chain and its value.

Tensors: ``parameters.*`` and ``ema.*`` of the chain's core where it can be described, so that
:func:`unidiff.train.load_core` loads it as any other; ``value.*`` and ``value_ema.*``, ``value_lagged.*``; ``policy.*`` and
``policy_ema.*`` (network and table of variances); ``law.*``; ``optimizer.value.*``, ``optimizer.policy.*``;
``random.generator``.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unidiff.core.boundary import check_name
from unidiff.core.chain import ReverseChain
from unidiff.core.diffusion import Diffusion
from unidiff.core.grid import TimeGrid
from unidiff.ebm.model import EnergyModel
from unidiff.train import checkpoint as checkpoints
from unidiff.train.build import describe, rebuild
from unidiff.train.checkpoint import MISFITS, Checkpoint, CheckpointError, one_line
from unidiff.train.digest import digest
from unidiff.train.dxmi_config import DxMIConfig
from unidiff.train.state import moments_of
from unidiff.worlds.world import World

if TYPE_CHECKING:
    from unidiff.train.dxmi import DxMITrainer

CHANGEABLE = ("out", "log_every", "checkpoint_every")


def collect(trainer: DxMITrainer) -> Checkpoint:
    """The state of ``trainer`` between two rounds."""
    work, about, tensors = trainer.work, dict[str, Any](), dict[str, Tensor]()
    core = work.policy.core
    with contextlib.suppress(ValueError):
        about["core"] = describe(core)
        tensors |= checkpoints.tensors_of_core(core)
        averaged = checkpoints.averaged_of(trainer.mean_core)
        tensors |= {f"ema.{name}": t for name, t in averaged.state_dict().items()}
    if isinstance(work.model.source, Diffusion):
        with contextlib.suppress(ValueError):
            about["value"] = {"core": describe(work.model.source), "tau": work.model.tau}
    for prefix, module in _modules(trainer).items():
        tensors |= {f"{prefix}.{name}": t for name, t in module.state_dict().items()}
    slots = {name: optimizer.state_dict()["state"] for name, (optimizer, _) in _optimizers(trainer).items()}
    for name, own in slots.items():
        tensors |= {f"optimizer.{name}.{i}.{key}": t for i, slot in own.items() for key, t in slot.items()}
    tensors["random.generator"] = trainer.generator.get_state()
    tensors |= {"progress.sums": work.sums, "progress.rounds": work.rounds}
    about |= {
        "dxmi": dataclasses.asdict(trainer.config),
        "grid": work.policy.grid.times.tolist(),
        "run": _describe(trainer),
        "progress": {
            "round": trainer.round, "elapsed": trainer.elapsed,
            "slots": {name: sorted(own) for name, own in slots.items()},
        },
    }  # fmt: skip
    return Checkpoint({name: t.detach().clone() for name, t in tensors.items()}, about)


def restore(
    make: Any, path: str | Path, chain: ReverseChain, value: EnergyModel, data: Tensor | World, changes: dict[str, Any]
) -> DxMITrainer:
    """The trainer of which the checkpoint was taken. Errors as :meth:`unidiff.train.DxMITrainer.resume`."""
    for name in changes:
        check_name("change", name, CHANGEABLE)
    kept = checkpoints.read(path)
    try:
        config, progress, times = DxMIConfig(**kept.about["dxmi"]), kept.about["progress"], kept.about["grid"]
        run: dict[str, Any] = dict(kept.about["run"])
    except MISFITS as error:
        raise CheckpointError(f"{path} holds no DxMI run to resume: {one_line(error)}") from error
    if chain.grid.times.tolist() != times:
        raise ValueError(f"chain must have the run's grid, of {len(times) - 1} steps, got {chain.grid.steps} others")
    trainer: DxMITrainer = make(chain, value, data, dataclasses.replace(config, **changes))
    work = trainer.work
    for name, own in _describe(trainer).items():
        if own != run.get(name):
            raise ValueError(f"{name} must be the run's, {_RUN[name]}")
    try:
        for prefix, module in _modules(trainer).items():
            module.load_state_dict(kept.under(prefix))
        for name, (optimizer, parameters) in _optimizers(trainer).items():
            moments = moments_of(kept, progress["slots"][name], parameters, f"optimizer.{name}")
            optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
        trainer.generator.set_state(kept.tensors["random.generator"])
        trainer.round, trainer.elapsed = int(progress["round"]), float(progress["elapsed"])
        work.sums.copy_(kept.tensors["progress.sums"])
        work.rounds.copy_(kept.tensors["progress.rounds"])
        work.done.fill_(trainer.round)
    except MISFITS as error:
        raise CheckpointError(f"{path} does not hold the DxMI run that it describes: {one_line(error)}") from error
    return trainer


def load_chain(path: str | Path) -> ReverseChain:
    """The averaged chain that a DxMI run left, its table of variances included.

    Raises:
        CheckpointError: no checkpoint of a DxMI run whose core can be built again.
    """
    kept = checkpoints.read(path)
    try:
        core = checkpoints.restore_core(kept, path, ema=True)
        grid, log_var = (
            TimeGrid(torch.tensor(kept.about["grid"], dtype=torch.float64)),
            kept.tensors["policy_ema.log_var"],
        )
        return core.chain(grid, "given", log_var=log_var)
    except MISFITS as error:
        raise CheckpointError(f"{path} does not hold a chain of DxMI: {one_line(error)}") from error


def load_value(path: str | Path) -> EnergyModel:
    """The averaged energy and value that a DxMI run left.

    Raises:
        CheckpointError: no checkpoint of a DxMI run whose value is a core's that can be built again.
    """
    kept = checkpoints.read(path)
    try:
        about = kept.about["value"]
        model = EnergyModel.of(rebuild(about["core"]), about["tau"])
        checkpoints.adopt(model, kept.under("value_ema"))
    except MISFITS as error:
        raise CheckpointError(f"{path} does not hold a value of DxMI: {one_line(error)}") from error
    return model.eval()


def _modules(trainer: DxMITrainer) -> dict[str, torch.nn.Module]:
    work = trainer.work
    return {
        "value": work.model, "value_ema": work.mean_model, "value_lagged": work.lagged,
        "policy": work.policy, "policy_ema": work.mean_policy, "law": work.law,
    }  # fmt: skip


def _optimizers(trainer: DxMITrainer) -> dict[str, tuple[torch.optim.AdamW, Sequence[Tensor]]]:
    work = trainer.work
    return {
        "value": (work.value_optimizer, work.value_parameters),
        "policy": (work.policy_optimizer, work.policy_parameters),
    }


_RUN = {
    "data": "to the bit, in the core's dtype",
    "chain": "with its schedule's levels on the grid",
    "value": "with its temperature, and of the chain's own core or not as there",
}


def _describe(trainer: DxMITrainer) -> dict[str, Any]:
    """What of a run is no tensor of its state, JSON-ready."""
    work = trainer.work
    levels = work.chain.levels
    return {
        "data": digest({"x": work.data}),
        "chain": digest({"alpha": levels.alpha, "log_snr": levels.log_snr}),
        "value": [work.model.tau, work.shared],
    }
