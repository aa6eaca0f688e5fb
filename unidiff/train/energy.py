r"""The loop that learns an energy by itself: a batch of data, a method's loss on it, a step.

Every method of :mod:`unidiff.ebm.learning` runs in it. A run is a function of (configuration, data, method, model): all that
is random comes from one generator whose state the checkpoint holds, with the order of the data and what the method remembers
(a buffer of chains), so that a run killed anywhere and resumed ends in the same bits. What it returns has the averaged
parameters (:mod:`unidiff.train.average`).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unidiff.core.boundary import check_name, check_type
from unidiff.ebm.learning import EnergyMethod
from unidiff.ebm.model import EnergyModel
from unidiff.train import checkpoint as checkpoints
from unidiff.train.average import Average
from unidiff.train.data import Dataset
from unidiff.train.energy_config import EnergyConfig
from unidiff.train.energy_state import CHANGEABLE, collect, restore
from unidiff.train.loop import played
from unidiff.train.order import DataOrder
from unidiff.train.pace import ema_decay, rate

OnLog = Callable[["EnergyTrainer", dict[str, float]], None]


class EnergyTrainer:
    """Learns an energy from data by a method.

    Args:
        model: what is trained, in place and in evaluation mode (no dropout); its parameters say dtype and device.
        data: a :class:`~unidiff.train.Dataset`, or data ``[N, *E]``; labels are not used.
        method: which way.
        config: the run's options.
        clock: seconds, for speed.

    Attributes:
        learner: the method at work, with what it learns besides and remembers.
        step: how many steps are done.

    Raises:
        TypeError: an argument of another kind.
        ValueError: data of another shape than the model's, a model without parameters to train, one of which the method
            says nothing.
    """

    def __init__(
        self,
        model: EnergyModel,
        data: Dataset | Tensor,
        method: EnergyMethod,
        config: EnergyConfig | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = EnergyConfig() if config is None else config
        for name, value, kind in (
            ("model", model, EnergyModel),
            ("method", method, EnergyMethod),
            ("config", self.config, EnergyConfig),
        ):
            check_type(name, value, kind)
        data = Dataset(data) if isinstance(data, Tensor) else data
        check_type("data", data, Dataset)
        if data.event_shape != model.event_shape:
            expected, got = list(model.event_shape), list(data.event_shape)
            raise ValueError(f"data must have the model's event shape {expected}, {data.name} has {got}")
        first = next((p for p in model.parameters() if p.requires_grad), None)
        if first is None:
            raise ValueError(
                "model must have parameters to train: make its source an nn.Module, or a core with a network"
            )
        # An energy is a function: a layer that draws would be another law at each step of a chain.
        self.model, self.method, self.clock = model.eval(), method, clock
        self.device = first.device
        self.data = data.to(first.dtype, self.device)
        self.learner = method.learner(model)
        # One module for the average: what is learned besides is averaged as the energy is.
        self.whole = nn.ModuleDict({"model": model})
        if self.learner.module is not None:
            self.whole["besides"] = self.learner.module
        self.trained = [p for p in self.whole.parameters() if p.requires_grad]
        self.ema = Average(self.whole)
        self.optimizer = torch.optim.AdamW(self.trained, lr=self.config.lr, weight_decay=self.config.weight_decay)
        self.order = DataOrder(len(self.data), self.config.seed, device=self.device)
        self.generator = torch.Generator(self.device).manual_seed(self.config.seed)
        self.step = 0
        self.elapsed = 0.0
        self.window: dict[str, list[float]] = {}

    @classmethod
    def resume(
        cls, path: str | Path, model: EnergyModel, data: Dataset | Tensor, method: EnergyMethod, **changes: Any
    ) -> EnergyTrainer:
        """A run in the state of its checkpoint, on the same data and method and a model made as the run's was.

        Args:
            path: the checkpoint, or the run's folder.
            model, data, method: as the run's.
            changes: new values for ``steps``, ``out``, ``log_every`` or ``checkpoint_every``.

        Raises:
            CheckpointError: no checkpoint of such a run, or one that does not fit.
            ValueError: other data, or another method, than the run's; a change that would make it another run.
        """
        for name in changes:
            check_name("change", name, CHANGEABLE)
        return restore(cls, checkpoints.read(path), path, model, data, method, changes)

    @property
    def averaged(self) -> EnergyModel:
        """The energy with the averaged parameters, in evaluation mode: a copy."""
        return copy.deepcopy(self.ema.module["model"]).eval()  # pyright: ignore

    @property
    def besides(self) -> nn.Module | None:
        """What is learned besides, averaged: a copy; None for nothing."""
        return copy.deepcopy(self.ema.module["besides"]) if "besides" in self.ema.module else None

    def fit(self, on_log: OnLog | None = None) -> EnergyModel:
        """Run to the last step; returns :attr:`averaged`.

        Args:
            on_log: called with the trainer and each line of the log.

        Raises:
            FloatingPointError: energies, a loss or a gradient that are not finite, with the step, and how many energies of
                how many; the last checkpoint stays as it is.
            KeyboardInterrupt: Ctrl-C, once the step is whole and, with ``out``, saved.
        """
        played(self, "on_log", on_log)
        return self.averaged

    @property
    def done(self) -> int:
        """Steps done."""
        return self.step

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        return self.config.steps

    def advance(self) -> None:
        """One step. Raises as :meth:`fit`."""
        config, progress = self.config, self.step / self.config.steps
        lr = rate(config, self.step, progress)
        self.optimizer.param_groups[0]["lr"] = lr
        x = self.data.x[self.order.next(config.batch_size)]
        try:
            loss = self.learner.loss(x, self.generator, progress)
        except FloatingPointError as error:
            raise FloatingPointError(f"{error}, in step {self.step + 1}; lower lr (now {config.lr:g})") from None
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward(inputs=self.trained)
        norm = torch.nn.utils.clip_grad_norm_(self.trained, config.clip)
        told, length = torch.stack([loss.detach(), norm]).tolist()
        if not (math.isfinite(told) and math.isfinite(length)):
            raise FloatingPointError(
                f"the loss ({told:g}) or its gradient ({length:g}) is not finite in step {self.step + 1}; lower lr (now "
                f"{config.lr:g})"
            )
        self.optimizer.step()
        # The first parameters are no part of the average.
        self.ema.update(ema_decay(config.ema, self.step) if self.step else 0.0)
        self.step += 1
        for name, value in (("loss", told), ("grad_norm", length), ("lr", lr)):
            self.window.setdefault(name, []).append(value)

    def line(self) -> dict[str, float]:
        """A line of the log: means since the last one."""
        means = {name: sum(values) / len(values) for name, values in self.window.items()}
        self.window.clear()
        return {"step": self.step, **means, "seconds": round(self.elapsed, 3)}

    def save(self, path: str | Path) -> Path:
        """Write the whole state to ``path``, atomically."""
        return checkpoints.write(path, collect(self))
