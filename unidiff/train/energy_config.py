"""What a run that learns an energy is told, whatever its method."""

from __future__ import annotations

from dataclasses import dataclass

from unidiff.core.boundary import (
    check_count,
    check_name,
    check_not_negative,
    check_positive,
    check_real,
    check_seed,
    check_type,
)
from unidiff.train.config import Decay


@dataclass(frozen=True)
class EnergyConfig:
    """The options of a run that learns an energy, whatever its method.

    Attributes:
        steps: of the optimiser.
        batch_size: data a step.
        lr: AdamW's peak rate.
        warmup: steps of linear warm-up.
        decay: "cosine" to zero over the run, or "constant".
        weight_decay: AdamW's.
        ema: decay a step of the parameters' average, in [0, 1).
        clip: largest gradient norm.
        seed: of all that is random; below 2⁶³.
        log_every: steps between two lines of the log.
        checkpoint_every: steps between two checkpoints.
        out: folder for the checkpoint and the log; None writes nothing.

    Raises:
        TypeError, ValueError: naming the option.
    """

    steps: int = 2000
    batch_size: int = 256
    lr: float = 1e-3
    warmup: int = 0
    decay: Decay = "cosine"
    weight_decay: float = 0.0
    ema: float = 0.999
    clip: float = 1.0
    seed: int = 0
    log_every: int = 100
    checkpoint_every: int = 1000
    out: str | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "log_every", "checkpoint_every"):
            check_count(name, getattr(self, name))
        check_count("warmup", self.warmup, 0)
        check_seed(self.seed)
        for name in ("lr", "clip"):
            check_positive(name, getattr(self, name))
        check_name("decay", self.decay, ("cosine", "constant"))
        check_not_negative("weight_decay", self.weight_decay)
        if not 0.0 <= check_real("ema", self.ema) < 1.0:
            raise ValueError(f"ema must lie in [0, 1), got {self.ema}")
        if self.out is not None:
            check_type("out", self.out, str)
