"""What a fine-tuning run is told, whatever its method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
class FineTuneConfig:
    """The options of a fine-tuning run, whatever its method.

    Attributes:
        rounds: how often experience is gathered.
        chains: chains (or pairs) a round.
        epochs: passes over a round's rows.
        rows: rows of a minibatch: decisions, chains or pairs, as the method has them.
        accumulate: minibatches whose gradients make one step.
        lr: AdamW's peak rate.
        value_lr: the rate of what the method learns besides, a value; not decayed.
        warmup: rounds of linear warm-up.
        decay: "cosine" to zero over the rounds, or "constant".
        weight_decay: AdamW's.
        ema: decay a step of the parameters' average, in [0, 1).
        clip: largest gradient norm.
        condition: a class, "random" for one a chain drawn evenly, or None.
        seed: of all that is random; below 2⁶³.
        log_every: rounds between two lines of the log.
        checkpoint_every: rounds between two checkpoints.
        out: folder for the checkpoint and the log; None writes nothing.

    Raises:
        TypeError, ValueError: naming the option.
    """

    rounds: int = 200
    chains: int = 512
    epochs: int = 1
    rows: int = 2048
    accumulate: int = 1
    lr: float = 1e-3
    value_lr: float = 3e-3
    warmup: int = 0
    decay: Decay = "cosine"
    weight_decay: float = 0.0
    ema: float = 0.99
    clip: float = 1.0
    condition: int | Literal["random"] | None = None
    seed: int = 0
    log_every: int = 10
    checkpoint_every: int = 50
    out: str | None = None

    def __post_init__(self) -> None:
        for name in ("rounds", "chains", "epochs", "rows", "accumulate", "log_every", "checkpoint_every"):
            check_count(name, getattr(self, name))
        check_count("warmup", self.warmup, 0)
        check_seed(self.seed)
        for name in ("lr", "value_lr", "clip"):
            check_positive(name, getattr(self, name))
        check_name("decay", self.decay, ("cosine", "constant"))
        check_not_negative("weight_decay", self.weight_decay)
        if not 0.0 <= check_real("ema", self.ema) < 1.0:
            raise ValueError(f"ema must lie in [0, 1), got {self.ema}")
        if self.condition is not None and self.condition != "random":
            integer = isinstance(self.condition, int) and not isinstance(self.condition, bool)
            if not integer or self.condition < 0:
                raise ValueError(f"condition must be a class (0 or more), 'random' or None, got {self.condition!r}")
        if self.out is not None:
            check_type("out", self.out, str)
