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
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unidiff.core.denoiser import Denoiser
from unidiff.core.diffusion import Diffusion
from unidiff.core.times import antithetic_times, finite_span
from unidiff.train import checkpoint as checkpoints
from unidiff.train.average import Average
from unidiff.train.build import build_core, describe, shaped
from unidiff.train.checkpoint import MISFITS, CheckpointError, one_line
from unidiff.train.config import TrainConfig
from unidiff.train.data import Dataset
from unidiff.train.interrupt import held
from unidiff.train.journal import Journal
from unidiff.train.objective import law_of, training_loss
from unidiff.train.order import DataOrder
from unidiff.train.pace import ema_decay, rate
from unidiff.train.randomness import adopt_default_states, cuda_devices, default_states, seeded_default_states
from unidiff.train.schedule import Slopes, learner_of
from unidiff.train.state import CHANGEABLE, collect, reopen, restore
from unidiff.train.variance import VarianceLoss
from unidiff.worlds import World

__all__ = ["CHANGEABLE", "Trainer"]

OnLog = Callable[["Trainer", dict[str, float]], None]


class Trainer:
    """Trains a core's network on a data set.

    Args:
        core: what to train; its network's parameters are updated in place, and those of a learned schedule as
            ``config.learn_schedule`` says (:mod:`unidiff.train.schedule`).
        data: in the shape of the core.
        config: :class:`~unidiff.train.TrainConfig`; of it, only what is not already built into ``core`` is read.
        world: the data's law, for the loss "explicit"; None looks for it by the data's name.
        clock: seconds, for a budget in minutes and for speed.

    Raises:
        ValueError: data that do not fit the core (in shape, in classes, or all the same although the weighting divides
            by their deviation), a core that cannot be saved although ``out`` is given, the loss "explicit" for data of no
            known law, a schedule or a variance to be learned that this core or loss cannot learn.
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
        law = law_of(config.loss, data.name, world)
        self.world = None if law is None else law.to(dtype, self.device)
        self.network = network
        self.trained = [p for p in network.parameters() if p.requires_grad]
        # Averaged before it is compiled: a copy of a compiled module would share the compiled forward.
        self.ema = Average(network)
        self.learner = learner_of(core, config, data)
        self.bound = VarianceLoss.of(core, config)
        groups: list[dict[str, Any]] = [{"params": list(network.parameters())}]
        if self.learner is not None:
            groups.append({"params": self.learner.parameters, "lr": config.schedule_lr, "weight_decay": 0.0})
        self.optimizer = torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay, fused=True)
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
            # On a GPU the compiled kernels are replayed as CUDA graphs: launching them would take longer than they do.
            network.compile(mode="reduce-overhead" if self.device.type == "cuda" else "default")

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
        kept, config, progress, data = reopen(path, data, changes)
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
        schedule = self.core.schedule if self.learner is None else copy.deepcopy(self.learner.ema.module)
        return Diffusion(schedule, denoiser).eval()  # pyright: ignore

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
        config, learner = self.config, self.learner
        now = rate(config, self.step, self.progress)
        self.optimizer.param_groups[0]["lr"] = now
        if learner is not None:
            self.optimizer.param_groups[1]["lr"] = now / config.lr * config.schedule_lr
        index = self.order.next(config.batch_size)
        x0, condition = self.data.x[index], self._condition(index)
        t = antithetic_times(config.batch_size, self.times, span=self.span)
        core, sampled = (self.core, None) if learner is None else learner.draw(t)
        autocast = torch.bfloat16 if config.amp == "bf16" else None
        loss = training_loss(
            core,
            x0,
            t,
            config.loss,
            weighting=config.weighting,
            options=self.options,
            condition=condition,
            world=self.world,
            probes=config.probes,
            generator=self.noise,
            autocast=autocast,
        )
        whole = loss if self.bound is None else loss + self.bound(x0, condition, self.times, self.noise, autocast)
        dim = math.prod(self.data.event_shape)
        mean = whole.mean() / dim
        self.optimizer.zero_grad(set_to_none=True)
        # A schedule is no input: it has gradients of its own, from the slopes at the batch's log-SNRs.
        mean.backward(inputs=self.trained if sampled is None else [*self.trained, sampled.leaf])
        if learner is not None and sampled is not None:
            slopes = Slopes.of(sampled, loss, 1 / (len(x0) * dim), config.weighting, self.options)
            learner.take(sampled, slopes, x0, self.noise)
        norm = torch.nn.utils.clip_grad_norm_(self.trained, config.clip)
        self.optimizer.step()
        # The first parameters are no part of the average.
        decay = ema_decay(config.ema, self.step) if self.step else 0.0
        self.ema.update(decay)
        if learner is not None:
            learner.moved(decay)
        self.window += torch.stack([mean.detach().double(), norm.double(), torch.ones_like(self.window[0])])
        self.step += 1

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
        learned = {} if self.learner is None else self.learner.line()
        return {
            "step": self.step,
            "loss": loss / count,
            "grad_norm": norm / count,
            "lr": self.optimizer.param_groups[0]["lr"],
            "seconds": round(self.elapsed, 3),
            "samples_per_second": round((self.step - step) * self.config.batch_size / seconds, 1),
            **learned,
        }

    def _check_finite(self) -> None:
        if not torch.isfinite(self.window).all():
            raise FloatingPointError(
                f"the loss or its gradient became NaN or infinite by step {self.step}; lower lr (now {self.config.lr:g})"
            )

    def save(self, path: str | Path) -> Path:
        """Write the whole state to ``path``, atomically."""
        return checkpoints.write(path, collect(self))
