r"""The training loop: θ ← AdamW(θ, ∇ mean_B L_w / D), with θ̄ ← d θ̄ + (1 − d) θ beside it (Polyak & Juditsky 1992).

The decay d rises with the steps taken to the one that is configured (:mod:`unidiff.train.pace`), so that the average of
a short run is one of its late parameters, not of its first.

A run with a budget in steps is a function of (configuration, data): every random draw comes from states that the
checkpoint holds, the rate is a function of the step, the data's order of the position. Killed anywhere and resumed it
ends in the same bits as one never killed (on one machine, with one number of threads). A budget in minutes makes the
rate a function of the clock, and gives that up.

The loop waits for the device at the lines of the log and at checkpoints, and nowhere else. Ctrl-C ends it at the end
of a step, after a checkpoint.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from unidiff.core.boundary import check_name
from unidiff.core.denoiser import Denoiser
from unidiff.core.diffusion import Diffusion
from unidiff.core.times import antithetic_times, finite_span
from unidiff.train import checkpoint as checkpoints
from unidiff.train.build import build_core, describe, redraw, shaped
from unidiff.train.checkpoint import MISFITS, CheckpointError, one_line
from unidiff.train.config import TrainConfig
from unidiff.train.data import Dataset
from unidiff.train.interrupt import held
from unidiff.train.journal import Journal
from unidiff.train.objective import training_loss
from unidiff.train.order import DataOrder
from unidiff.train.pace import ema_decay, rate
from unidiff.train.randomness import adopt_default_states, cuda_devices, default_states, seeded_default_states
from unidiff.train.state import collect, restore
from unidiff.train.toys import LAWS
from unidiff.worlds import World

CHANGEABLE = (
    "steps", "minutes", "out", "device", "log_every", "checkpoint_every", "tensorboard", "compile"
)  # fmt: skip
"""The options that a resumed run may change; the others would make it another run."""

_Tensors = list[Tensor] | tuple[Tensor, ...]
OnLog = Callable[["Trainer", dict[str, float]], None]


class Trainer:
    """Trains a core's network on a data set.

    Args:
        core: what to train; its network's parameters are updated in place, its schedule is left alone.
        data: in the shape of the core.
        config: :class:`~unidiff.train.TrainConfig`; of it, only what is not already built into ``core`` is read.
        world: the data's law, for the loss "explicit"; None looks for it by the data's name.
        clock: seconds, for a budget in minutes and for speed.

    Raises:
        ValueError: data that do not fit the core (in shape, in classes, or all the same although the weighting divides
            by their deviation), a core that cannot be saved although ``out`` is given, or the loss "explicit" for data
            of no known law.
    """

    def __init__(
        self,
        core: Diffusion,
        data: Dataset,
        config: TrainConfig,
        *,
        world: World | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        network = checkpoints.network_of(core)
        if data.event_shape != core.event_shape:
            raise ValueError(
                f"data must have the core's event shape {list(core.event_shape)}, {data.name} has {list(data.event_shape)}"
            )
        if config.out is not None:
            describe(core)
        self.core, self.config, self.clock = core, config, clock
        self.device, dtype = config.torch_device, config.torch_dtype
        core.to(device=self.device, dtype=dtype)
        # The bits that are trained on, described where the sums are the same on every device.
        data = data.to(dtype, "cpu")
        self.data = data.to(device=self.device)
        self.about_data = data.describe()
        self.options = config.weighting_options(data.spread("weighting 'edm'") if config.weighting == "edm" else 1.0)
        self.num_classes = core.denoiser.num_classes if isinstance(core.denoiser, Denoiser) else None
        if self.num_classes is not None and (data.labelled().num_classes or 0) > self.num_classes:
            raise ValueError(
                f"data must have at most the core's {self.num_classes} classes, {data.name} has {data.num_classes}"
            )
        law = _law(config, data, world)
        self.world = None if law is None else law.to(dtype, self.device)
        self.network = network
        self.trained = [p for p in network.parameters() if p.requires_grad]
        # Averaged before it is compiled: a copy of a compiled module would share the compiled forward.
        self.ema = AveragedModel(network, multi_avg_fn=self._average)
        self.optimizer = torch.optim.AdamW(
            network.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True
        )
        self.order = DataOrder(len(data), config.seed, device=self.device)
        self.noise = torch.Generator(self.device).manual_seed(config.seed)
        self.times = torch.Generator().manual_seed(config.seed + 1)
        self.span = finite_span(core.schedule)
        self.default_states = seeded_default_states(config.seed, self.device)
        self.step = 0
        self.elapsed = 0.0
        self._logged = (0, 0.0)
        self.window = torch.zeros(3, dtype=torch.float64, device=self.device)  # loss, gradient norm, steps
        if config.compile:
            network.compile()

    @classmethod
    def start(cls, config: TrainConfig, data: Dataset, **options: Any) -> Trainer:
        """A trainer of a new core; flat data for an MLP."""
        data = shaped(data, config)
        data = data.to(config.torch_dtype)
        return cls(build_core(config, data), data, config, **options)

    @classmethod
    def resume(cls, path: str | Path, data: Dataset | None = None, **changes: Any) -> Trainer:
        """A trainer in the state of a checkpoint.

        Args:
            path: a checkpoint file or a run's folder.
            data: what the run trained on; may be left out for data sets that have a name.
            changes: new values for the options in :data:`CHANGEABLE`.

        Raises:
            CheckpointError: as :func:`unidiff.train.checkpoint.read`, or a checkpoint without a training state.
            ValueError: other data than the run's, or a change that a resumed run may not make.
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
        trainer = cls(checkpoints.restore_core(kept, path, ema=False).train(), data, config)
        try:
            restore(trainer, kept, progress)
        except MISFITS as error:
            raise CheckpointError(f"{path} holds no training state to resume: {one_line(error)}") from error
        return trainer

    @property
    def averaged(self) -> Diffusion:
        """A core with the averaged parameters, in evaluation mode: a copy, to sample from."""
        denoiser = copy.copy(self.core.denoiser)
        denoiser._modules = dict(self.core.denoiser._modules)  # pyright: ignore
        denoiser.network = copy.deepcopy(self.ema.module)  # pyright: ignore
        return Diffusion(self.core.schedule, denoiser).eval()

    @property
    def progress(self) -> float:
        """The share of the budget that is spent, from 0 to 1."""
        if self.config.steps is not None:
            return min(1.0, self.step / self.config.steps)
        assert self.config.minutes is not None
        return min(1.0, self.elapsed / (60 * self.config.minutes))

    def fit(self, on_log: OnLog | None = None) -> Diffusion:
        """Train to the end of the budget; returns :attr:`averaged`.

        Args:
            on_log: called with the trainer and each line of the log.

        Raises:
            FloatingPointError: the loss or a gradient became NaN or infinite; the last checkpoint is left as it was.
            KeyboardInterrupt: Ctrl-C, or ``on_log``'s own, once the step is whole and, with ``out``, saved.
        """
        journal = Journal(self.config.out, self.step, self.config.tensorboard)
        self.core.train()
        # Dropout draws from torch's default generator: lent for the run, and given back as it was.
        with contextlib.closing(journal), held() as check, torch.random.fork_rng(devices=cuda_devices(self.device)):
            adopt_default_states(self.default_states, self.device)
            began, spent = self.clock(), self.elapsed
            self._logged = (self.step, self.elapsed)
            whole = True
            try:
                while self.progress < 1.0:
                    whole = False
                    self.advance()
                    self.elapsed = spent + self.clock() - began
                    whole = True
                    self._tell(journal, on_log)
                    check()
            except KeyboardInterrupt:
                if whole:
                    self._keep()
                raise
            self.default_states = default_states(self.device)
        return self.averaged

    def _tell(self, journal: Journal, on_log: OnLog | None) -> None:
        """After a step: its line of the log and its checkpoint, if it has them."""
        config, last = self.config, self.progress >= 1.0
        if self.step % config.log_every == 0 or last:
            line = self._line()
            journal.write(line)
            if on_log is not None:
                on_log(self, line)
        if self.step % config.checkpoint_every == 0 or last:
            self._keep()

    def _keep(self) -> None:
        """The state as it is now: for the next :meth:`fit`, and with ``out`` on the disk."""
        self.default_states = default_states(self.device)
        if self.config.out is not None:
            self._check_finite()
            self.save(Path(self.config.out) / checkpoints.NAME)

    def advance(self) -> None:
        """One step."""
        config, group = self.config, self.optimizer.param_groups[0]
        group["lr"] = rate(config, self.step, self.progress)
        index = self.order.next(config.batch_size)
        x0, condition = self.data.x[index], self._condition(index)
        loss = training_loss(
            self.core,
            x0,
            antithetic_times(config.batch_size, self.times, span=self.span),
            config.loss,
            weighting=config.weighting,
            options=self.options,
            condition=condition,
            world=self.world,
            probes=config.probes,
            generator=self.noise,
            autocast=torch.bfloat16 if config.amp == "bf16" else None,
        )
        mean = loss.mean() / math.prod(self.data.event_shape)
        self.optimizer.zero_grad(set_to_none=True)
        # A learned schedule is not trained here: its leaves are left out, so no gradient of theirs piles up.
        mean.backward(inputs=self.trained)
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), config.clip)
        self.optimizer.step()
        self.ema.update_parameters(self.network)
        self.window += torch.stack([mean.detach().double(), norm.double(), torch.ones_like(self.window[0])])
        self.step += 1

    def _average(self, averaged: _Tensors, current: _Tensors, updates: Tensor | int) -> None:
        """θ̄ ← d θ̄ + (1 − d) θ by torch's rule, d from the host's count of steps: ``updates`` may be on the device."""
        get_ema_multi_avg_fn(ema_decay(self.config.ema, self.step))(averaged, current, updates)

    def _condition(self, index: Tensor) -> Tensor | None:
        if self.num_classes is None or self.data.labels is None:
            return None
        labels = self.data.labels[index]
        drop = torch.rand(labels.shape, generator=self.noise, device=self.device) < self.config.label_dropout
        return torch.where(drop, self.num_classes, labels)

    def _line(self) -> dict[str, float]:
        self._check_finite()
        loss, norm, count = self.window.tolist()
        self.window.zero_()
        (step, elapsed), self._logged = self._logged, (self.step, self.elapsed)
        seconds = max(self.elapsed - elapsed, 1e-9)
        return {
            "step": self.step,
            "loss": loss / count,
            "grad_norm": norm / count,
            "lr": self.optimizer.param_groups[0]["lr"],
            "seconds": round(self.elapsed, 3),
            "samples_per_second": round((self.step - step) * self.config.batch_size / seconds, 1),
        }

    def _check_finite(self) -> None:
        if not torch.isfinite(self.window).all():
            raise FloatingPointError(
                f"the loss or its gradient became NaN or infinite by step {self.step}; lower lr (now {self.config.lr:g})"
            )

    def save(self, path: str | Path) -> Path:
        """Write the whole state to ``path``, atomically."""
        return checkpoints.write(path, collect(self))


def _law(config: TrainConfig, data: Dataset, world: World | None) -> World | None:
    if config.loss != "explicit" or world is not None:
        return world
    if data.name not in LAWS:
        raise ValueError(f"loss 'explicit' needs data of a known law ({', '.join(LAWS)}), or world=, got {data.name}")
    return LAWS[data.name]()
