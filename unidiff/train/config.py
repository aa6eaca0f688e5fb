"""Everything a training run can be told, in one frozen value: the Python API's argument and the command line's options."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import torch

from unidiff.core.boundary import check_count, check_device, check_device_name, check_name, check_positive
from unidiff.core.denoiser import PRECONDITIONINGS, Preconditioning
from unidiff.core.prediction import KINDS, Kind
from unidiff.train.objective import LOSSES, Loss
from unidiff.train.weighting import WEIGHTINGS, Weighting, WeightingOptions

ScheduleName = Literal["linear", "cosine", "sigmoid", "polynomial", "karras", "ddpm", "learned"]
Network = Literal["mlp", "unet"]
Precision = Literal["none", "bf16"]
DType = Literal["float32", "float64"]
Decay = Literal["cosine", "constant"]
Learn = Literal["all", "inside", "none"]
LearnVariance = Literal["fixed", "learned"]

_CHOICES: dict[str, tuple[str, ...]] = {
    "schedule": get_args(ScheduleName),
    "prediction": KINDS,
    "preconditioning": PRECONDITIONINGS,
    "network": get_args(Network),
    "loss": LOSSES,
    "weighting": WEIGHTINGS,
    "amp": get_args(Precision),
    "dtype": get_args(DType),
    "decay": get_args(Decay),
    "learn_schedule": get_args(Learn),
    "variance": get_args(LearnVariance),
}
_COUNTS = {
    "width": 1, "depth": 1, "blocks": 1, "probes": 1, "batch_size": 1, "warmup": 0, "log_every": 1,
    "checkpoint_every": 1, "seed": 0, "vlb_steps": 1,
}  # fmt: skip
_SIZES = {"multipliers": 1, "attention": 0}
"""Sequences of positive integers, and how many they hold at least."""
_SWITCHES = ("fourier_features", "conditional", "compile", "tensorboard")
_SEEDS = 2**63
"""As many as torch's and the data order's generators tell apart, with room for the seed that follows."""


@dataclass(frozen=True)
class TrainConfig:
    """The options of a training run.

    Attributes:
        schedule: the noise schedule, by name, with its standard parameters.
        learn_schedule: of a learned schedule train "all" (its ends by the bound, its inside by the variance of the bound's
            estimate), the "inside", or "none".
        schedule_lr: its peak learning rate, warmed up and decayed like lr.
        prediction: what the network predicts; "x0" with EDM preconditioning.
        preconditioning: "none", or "edm" with the data's own standard deviation.
        network: "mlp" (flat data) or "unet" (images).
        width: units of a hidden layer, or channels at full resolution.
        depth: hidden layers of the MLP.
        multipliers: channels of each level of the U-Net, in units of width.
        blocks: residual blocks at each level of the U-Net.
        attention: resolutions at which the U-Net attends.
        dropout: in the U-Net's blocks.
        fourier_features: the U-Net's high-frequency inputs, for likelihoods.
        conditional: condition on the data's labels.
        label_dropout: share of labels replaced by the null class, for classifier-free guidance.
        variance: "fixed", or "learned": the network also says each step's variance, by the hybrid loss; a step of
            training then asks the network twice.
        vlb_steps: steps of the chain whose bound trains the variance.
        loss: denoising, or another way of score matching with the same gradient in expectation: implicit (exact divergence),
            hutchinson (by random probes), sliced, or explicit (against the law itself: eight-gaussians).
        probes: random probes a datum, for hutchinson and sliced.
        weighting: the loss weighting, whatever the loss.
        min_snr_gamma: its γ, if min-snr.
        sigmoid_bias: its b in nats, if sigmoid.
        steps: optimiser steps to take; the run is then the same bits however often it is interrupted.
        minutes: wall-clock minutes to train for, instead of steps; the rate then follows the clock.
        batch_size: data in a step.
        lr: peak learning rate of AdamW.
        warmup: steps of linear warm-up.
        decay: "cosine" to zero at the end of the budget, or "constant".
        weight_decay: AdamW's.
        ema: decay per step of the parameters' average, in [0, 1), once the run is long enough for it (see
            :mod:`unidiff.train.pace`).
        clip: largest gradient norm (of the loss per number of a datum).
        amp: "bf16" runs the network, and it alone, in bfloat16 by autocast.
        compile: compile the network (torch.compile); on a GPU its kernels are then replayed as CUDA graphs.
        seed: of the parameters, the data's order, the times and the noise; below 2⁶³.
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", …
        dtype: of data and parameters.
        log_every: steps between two lines of metrics.
        checkpoint_every: steps between two checkpoints.
        out: folder for the checkpoint and the metrics; without one nothing is written.
        tensorboard: also write TensorBoard events (needs the tensorboard extra).

    Raises:
        ValueError: an unknown name (with the nearest known one), a number out of range, two options that contradict
            each other, or not just one of steps and minutes. A device must be spelt right; that it is there is asked
            only by :attr:`torch_device`.
    """

    schedule: ScheduleName = "cosine"
    learn_schedule: Learn = "all"
    schedule_lr: float = 1e-2
    prediction: Kind = "v"
    preconditioning: Preconditioning = "none"
    network: Network = "mlp"
    width: int = 256
    depth: int = 3
    multipliers: tuple[int, ...] = (1, 2, 2)
    blocks: int = 2
    attention: tuple[int, ...] = ()
    dropout: float = 0.0
    fourier_features: bool = False
    conditional: bool = False
    label_dropout: float = 0.1
    variance: LearnVariance = "fixed"
    vlb_steps: int = 1000
    loss: Loss = "denoising"
    probes: int = 1
    weighting: Weighting = "simple"
    min_snr_gamma: float = 5.0
    sigmoid_bias: float = 2.0
    steps: int | None = None
    minutes: float | None = None
    batch_size: int = 256
    lr: float = 1e-3
    warmup: int = 100
    decay: Decay = "cosine"
    weight_decay: float = 0.0
    ema: float = 0.999
    clip: float = 1.0
    amp: Precision = "none"
    compile: bool = False
    seed: int = 0
    device: str = "auto"
    dtype: DType = "float32"
    log_every: int = 100
    checkpoint_every: int = 1000
    out: str | None = None
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            check_name(name, getattr(self, name), known)
        for name, least in _COUNTS.items():
            check_count(name, getattr(self, name), least)
        if self.seed >= _SEEDS:
            raise ValueError(f"seed must lie in 0 … 2**63 - 1, got {self.seed}")
        for name in ("lr", "schedule_lr", "clip", "min_snr_gamma"):
            check_positive(name, getattr(self, name))
        for name in ("ema", "dropout", "label_dropout"):
            value = getattr(self, name)
            if not 0.0 <= value < 1.0:
                raise ValueError(f"{name} must lie in [0, 1), got {value}")
        if not 0.0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay must be at least 0 and finite, got {self.weight_decay}")
        if not math.isfinite(self.sigmoid_bias):
            raise ValueError(f"sigmoid_bias must be finite, got {self.sigmoid_bias}")
        if (self.steps is None) == (self.minutes is None):
            raise ValueError(f"give either steps or minutes, got steps = {self.steps} and minutes = {self.minutes}")
        if self.steps is not None:
            check_count("steps", self.steps)
        if self.minutes is not None:
            check_positive("minutes", self.minutes)
        if self.preconditioning == "edm" and self.prediction != "x0":
            raise ValueError(f"prediction must be 'x0' with EDM preconditioning, got {self.prediction!r}")
        if self.amp == "bf16" and self.dtype != "float32":
            raise ValueError(
                f"dtype must be 'float32' with amp 'bf16', which rounds more than it keeps, got {self.dtype!r}"
            )
        if self.loss != "denoising" and (self.amp != "none" or self.compile):
            raise ValueError(
                f"loss {self.loss!r} differentiates the network's own derivative: amp must be 'none' and compile False, "
                f"got amp = {self.amp!r} and compile = {self.compile}"
            )
        for name, least in _SIZES.items():
            object.__setattr__(self, name, _sizes(name, getattr(self, name), least))
        for name in _SWITCHES:
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if self.device != "auto":
            check_device_name(self.device)

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype as torch's."""
        return torch.float64 if self.dtype == "float64" else torch.float32

    @property
    def torch_device(self) -> torch.device:
        """The device, "auto" resolved. Raises ValueError for one that is not there."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return check_device(self.device)

    def weighting_options(self, data_std: float) -> WeightingOptions:
        """The weighting's constants, for data of standard deviation ``data_std``."""
        return WeightingOptions(gamma=self.min_snr_gamma, bias=self.sigmoid_bias, data_std=data_std)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, for :meth:`from_dict`."""
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> TrainConfig:
        """The configuration that :meth:`to_dict` wrote. Raises ValueError for an option that does not exist."""
        for name in values:
            check_name("option", name, [f.name for f in fields(TrainConfig)])
        return TrainConfig(**values)


def _sizes(name: str, value: Any, least: int) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or len(value) < least:
        some = "at least one positive integer" if least else "positive integers"
        raise ValueError(f"{name} must be a tuple of {some}, got {value!r}")
    return tuple(check_count(f"{name}[{i}]", size) for i, size in enumerate(value))
