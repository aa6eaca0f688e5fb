r"""The training loop: θ ← AdamW(θ, ∇ mean_B L_w / D), with θ̄ ← d θ̄ + (1 − d) θ beside it (Polyak & Juditsky 1992).

A run with a budget in steps is a function of (configuration, data): every random draw comes from states that the
checkpoint holds, the rate is a function of the step, the data's order of the position. Killed anywhere and resumed it
ends in the same bits as one never killed (on one machine, with one number of threads). A budget in minutes makes the
rate a function of the clock, and gives that up.

The loop waits for the device at the lines of the log and at checkpoints, and nowhere else.
"""

from __future__ import annotations

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
from unidiff.train import checkpoint as checkpoints
from unidiff.train.build import build_core, describe
from unidiff.train.checkpoint import Checkpoint, CheckpointError
from unidiff.train.config import TrainConfig
from unidiff.train.data import Dataset, load_data, names
from unidiff.train.journal import Journal
from unidiff.train.objective import training_loss
from unidiff.train.order import DataOrder
from unidiff.train.times import antithetic_times, finite_span
from unidiff.train.toys import LAWS
from unidiff.worlds import World

CHANGEABLE = (
    "steps", "minutes", "out", "device", "log_every", "checkpoint_every", "tensorboard", "compile"
)  # fmt: skip
"""The options that a resumed run may change; the others would make it another run."""

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
        ValueError: data that do not fit the core, a core that cannot be saved although ``out`` is given, or the loss
            "explicit" for data of no known law.
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
        self.data = data.to(dtype, self.device)
        self.about_data = _describe_data(data)
        self.world = _law(config, data, world)
        if self.world is not None:
            self.world = self.world.to(dtype, self.device)
        self.options = config.weighting_options(self.about_data["std"])
        self.conditional = isinstance(core.denoiser, Denoiser) and core.denoiser.num_classes is not None
        if self.conditional and self.data.labels is None:
            raise ValueError(f"core is conditional, and {data.name} has no labels")
        self.network = network
        # Averaged before it is compiled: a copy of a compiled module would share the compiled forward.
        self.ema = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(config.ema))
        self.optimizer = torch.optim.AdamW(
            network.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True
        )
        self.order = DataOrder(len(data), config.seed, device=self.device)
        self.noise = torch.Generator(self.device).manual_seed(config.seed)
        self.times = torch.Generator().manual_seed(config.seed + 1)
        self.span = finite_span(core.schedule)
        self.default_states = _seeded_default_states(config.seed, self.device)
        self.step = 0
        self.elapsed = 0.0
        self.window = torch.zeros(3, dtype=torch.float64, device=self.device)  # loss, gradient norm, steps
        if config.compile:
            network.compile()

    @classmethod
    def start(cls, config: TrainConfig, data: Dataset, **options: Any) -> Trainer:
        """A trainer of a new core; flat data for an MLP."""
        data = data.flatten() if config.network == "mlp" else data
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
            config, about = TrainConfig.from_dict(kept.about["train"]), kept.about["data"]
            progress = kept.about["progress"]
        except (KeyError, ValueError, TypeError) as error:
            raise CheckpointError(f"{path} holds no training state to resume: {error!r}") from error
        if changes.get("steps") is not None and "minutes" not in changes:
            changes["minutes"] = None
        if changes.get("minutes") is not None and "steps" not in changes:
            changes["steps"] = None
        config = dataclasses.replace(config, **changes)
        if data is None:
            data = _regenerate(about, config)
        data = data.flatten() if config.network == "mlp" else data
        if data.fingerprint() != about["fingerprint"]:
            raise ValueError(
                f"data must be what the run trained on ({about['name']}, {about['n']} × {about['event_shape']}); "
                f"{data.name} with {len(data)} × {list(data.event_shape)} is not"
            )
        trainer = cls(checkpoints.restore_core(kept, path, ema=False).train(), data, config)
        try:
            trainer._restore(kept, progress)
        except (KeyError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{path} holds no training state to resume: {error!r}") from error
        return trainer

    # -- the run ---------------------------------------------------------------------------------------------------

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
        """
        config = self.config
        journal = Journal(config.out, self.step, config.tensorboard)
        self.core.train()
        # Dropout draws from torch's default generator: lent for the run, and given back as it was.
        with torch.random.fork_rng(devices=_cuda_devices(self.device)):
            self._adopt_default_states()
            began, spent = self.clock(), self.elapsed
            before = (self.step, self.elapsed)
            while self.progress < 1.0:
                self.advance()
                self.elapsed = spent + self.clock() - began
                last = self.progress >= 1.0
                if self.step % config.log_every == 0 or last:
                    line = self._line(before)
                    before = (self.step, self.elapsed)
                    journal.write(line)
                    if on_log is not None:
                        on_log(self, line)
                if config.out is not None and (self.step % config.checkpoint_every == 0 or last):
                    self._check_finite()
                    self.default_states = _default_states(self.device)
                    self.save(Path(config.out) / checkpoints.NAME)
            self.default_states = _default_states(self.device)
        journal.close()
        return self.averaged

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
        mean.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), config.clip)
        self.optimizer.step()
        self.ema.update_parameters(self.network)
        self.window += torch.stack([mean.detach().double(), norm.double(), torch.ones_like(self.window[0])])
        self.step += 1

    def _condition(self, index: Tensor) -> Tensor | None:
        if not self.conditional or self.data.labels is None:
            return None
        labels = self.data.labels[index]
        drop = torch.rand(labels.shape, generator=self.noise, device=self.device) < self.config.label_dropout
        return torch.where(drop, self.core.denoiser.num_classes, labels)  # pyright: ignore

    def _line(self, before: tuple[int, float]) -> dict[str, float]:
        self._check_finite()
        loss, norm, count = self.window.tolist()
        self.window.zero_()
        seconds = max(self.elapsed - before[1], 1e-9)
        return {
            "step": self.step,
            "loss": loss / count,
            "grad_norm": norm / count,
            "lr": self.optimizer.param_groups[0]["lr"],
            "seconds": round(self.elapsed, 3),
            "samples_per_second": round((self.step - before[0]) * self.config.batch_size / seconds, 1),
        }

    def _check_finite(self) -> None:
        if not torch.isfinite(self.window).all():
            raise FloatingPointError(
                f"the loss or its gradient became NaN or infinite by step {self.step}; lower lr (now {self.config.lr:g})"
            )

    # -- on disk ---------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write the whole state to ``path``, atomically."""
        tensors = checkpoints.parameters(self.core)
        tensors |= {f"ema.{name}": t for name, t in self.ema.module.state_dict().items()}
        tensors["progress.window"] = self.window
        tensors["progress.averaged"] = self.ema.n_averaged
        state = self.optimizer.state_dict()["state"]
        tensors |= {f"optimizer.{i}.{name}": t for i, slot in state.items() for name, t in slot.items()}
        tensors |= {"random.noise": self.noise.get_state(), "random.times": self.times.get_state()}
        tensors |= {f"random.{name}": t for name, t in self.default_states.items()}
        about = {
            "core": describe(self.core),
            "train": self.config.to_dict(),
            "data": self.about_data,
            "progress": {"step": self.step, "position": self.order.position, "elapsed": self.elapsed},
        }
        return checkpoints.write(path, Checkpoint(tensors, about))

    def _restore(self, kept: Checkpoint, progress: dict[str, Any]) -> None:
        self.ema.module.load_state_dict(kept.under("ema"))
        self.ema.n_averaged.copy_(kept.tensors["progress.averaged"])
        self.window.copy_(kept.tensors["progress.window"])
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in kept.under("optimizer").items():
            index, slot = name.split(".")
            state.setdefault(int(index), {})[slot] = tensor
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        self.noise.set_state(kept.tensors["random.noise"])
        self.times.set_state(kept.tensors["random.times"])
        self.default_states = {name: kept.tensors[f"random.{name}"] for name in self.default_states}
        self.order.position = int(progress["position"])
        self.step, self.elapsed = int(progress["step"]), float(progress["elapsed"])

    def _adopt_default_states(self) -> None:
        torch.set_rng_state(self.default_states["cpu"])
        if "cuda" in self.default_states:
            torch.cuda.set_rng_state(self.default_states["cuda"], self.device)


def rate(config: TrainConfig, step: int, progress: float) -> float:
    """The learning rate of a step: linear warm-up times ½(1 + cos π·progress) (Loshchilov & Hutter 2017, eq. 5)."""
    warm = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    fall = 0.5 * (1.0 + math.cos(math.pi * progress)) if config.decay == "cosine" else 1.0
    return config.lr * warm * fall


def _law(config: TrainConfig, data: Dataset, world: World | None) -> World | None:
    if config.loss != "explicit" or world is not None:
        return world
    if data.name not in LAWS:
        raise ValueError(f"loss 'explicit' needs data of a known law ({', '.join(LAWS)}), or world=, got {data.name}")
    return LAWS[data.name]()


def _describe_data(data: Dataset) -> dict[str, Any]:
    return {
        "name": data.name,
        "n": len(data),
        "event_shape": list(data.event_shape),
        "image_shape": None if data.image_shape is None else list(data.image_shape),
        "scale": data.scale,
        "std": data.std,
        "num_classes": data.num_classes,
        "fingerprint": data.fingerprint(),
    }


def _regenerate(about: dict[str, Any], config: TrainConfig) -> Dataset:
    if about["name"] not in names():
        raise ValueError(f"data must be given to resume a run on {about['name']}")
    generator = torch.Generator().manual_seed(config.seed)
    return load_data(about["name"], n=about["n"], generator=generator, dtype=config.torch_dtype)


def _cuda_devices(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []


def _default_states(device: torch.device) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _seeded_default_states(seed: int, device: torch.device) -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=_cuda_devices(device)):
        torch.manual_seed(seed)
        return _default_states(device)
