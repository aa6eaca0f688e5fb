"""What a DxMI run is told."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from unidiff.core.boundary import (
    check_count,
    check_flag,
    check_name,
    check_not_negative,
    check_positive,
    check_real,
    check_seed,
    check_share,
    check_type,
)
from unidiff.ebm.dxmi.objectives import THEORY, Choices
from unidiff.train.config import Decay

Velocity = Literal["adaptive", "schedule"]


@dataclass(frozen=True)
class DxMIConfig:
    """The options of a DxMI run.

    Attributes:
        iterations: rounds of one walk, one step of the energy and value, and one step of the policy.
        start: rounds before them in which policy and value only learn to denoise; 0 where they come trained.
        batch: walks, and data, of a round.
        policy_lr: AdamW's peak rate of the policy's network.
        variance_lr: of its table of log-variances.
        value_lr: of the energy and value.
        warmup: rounds of linear warm-up of each phase.
        decay: "cosine" to zero over each phase, or "constant".
        contrast: weight of the contrastive loss of the energy.
        difference: weight of the value's temporal differences.
        anchor: weight of the value's denoising score matching, 0 for none.
        ladder: weight of telling adjacent levels' data apart by the value, 0 for none.
        gamma: γ of the energy's regulariser in nats (γτ of an energy of temperature τ); it follows the rates, to 0 under
            a cosine.
        velocity: "adaptive" lets the auxiliary law follow the chain, "schedule" keeps the forward process.
        velocity_rate: share of a round in the adaptive velocities' average.
        everywhere: take the contrast at every level below the prior, between the noised data and the chain's own states,
            summed, and not at t_0 alone; a level's height is then for γ to hold, so difference and ladder must be 0.
        weighted: weigh the energy's negatives so that they stand for draws of e^{-V} and not of the policy; not with
            everywhere. Either needs a contrast.
        target_average: decay a round of the average of the value that targets are of, in [0, 1).
        average: decay a round of what the run returns, in [0, 1).
        clip: largest gradient norm.
        floor: least standard deviation of a step, in units of x; where a step rests on it the log says so.
        published: take the published code's scale and places of cost and entropy, and its target of the value, for the
            theory's: :meth:`unidiff.ebm.Choices.published`. All other options stay as they are here.
        seed: of all that is random; below 2⁶³.
        log_every: rounds between two lines of the log.
        checkpoint_every: rounds between two checkpoints.
        out: folder for the checkpoint and the log; None writes nothing.

    Of no effect are gamma with contrast = 0; target_average with difference = 0 or published; velocity_rate with velocity
    "schedule"; policy_lr where the value is the energy of the chain's own core.

    Raises:
        TypeError, ValueError: naming the option.
    """

    iterations: int = 4500
    start: int = 0
    batch: int = 256
    policy_lr: float = 1e-3
    variance_lr: float = 3e-3
    value_lr: float = 1e-3
    warmup: int = 100
    decay: Decay = "cosine"
    contrast: float = 1.0
    difference: float = 1.0
    anchor: float = 3.0
    ladder: float = 10.0
    gamma: float = 0.1
    velocity: Velocity = "adaptive"
    velocity_rate: float = 0.01
    everywhere: bool = False
    weighted: bool = False
    target_average: float = 0.99
    average: float = 0.99
    clip: float = 3.0
    floor: float = 1e-3
    published: bool = False
    seed: int = 0
    log_every: int = 50
    checkpoint_every: int = 500
    out: str | None = None

    def __post_init__(self) -> None:
        for name in ("iterations", "batch", "log_every", "checkpoint_every"):
            check_count(name, getattr(self, name))
        check_count("start", self.start, 0)
        check_count("warmup", self.warmup, 0)
        check_seed(self.seed)
        for name in ("policy_lr", "variance_lr", "value_lr", "gamma", "clip", "floor"):
            check_positive(name, getattr(self, name))
        for name in ("contrast", "difference", "anchor", "ladder"):
            check_not_negative(name, getattr(self, name))
        if self.contrast == self.difference == self.anchor == self.ladder == 0:
            raise ValueError("contrast, difference, anchor and ladder must not all be 0: nothing would move the value")
        check_name("decay", self.decay, ("cosine", "constant"))
        check_name("velocity", self.velocity, ("adaptive", "schedule"))
        check_share("velocity_rate", self.velocity_rate)
        for name in ("target_average", "average"):
            if not 0.0 <= check_real(name, getattr(self, name)) < 1.0:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        check_flag("everywhere", self.everywhere)
        check_flag("weighted", self.weighted)
        check_flag("published", self.published)
        for name in ("everywhere", "weighted"):
            if getattr(self, name) and self.contrast == 0:
                raise ValueError(f"{name} must be False with contrast = 0, which it says how to take, got True")
        if self.everywhere and (self.difference > 0 or self.ladder > 0):
            raise ValueError(
                "everywhere leaves the levels' constants free, which difference and ladder hold: set both to 0, got "
                f"difference = {self.difference:g} and ladder = {self.ladder:g}"
            )
        if self.everywhere and self.weighted:
            raise ValueError(
                "everywhere must be False with weighted, whose weights stand for draws of e^{-V_0}, got True"
            )
        if self.out is not None:
            check_type("out", self.out, str)

    @property
    def choices(self) -> Choices:
        """The theory's, or the published code's."""
        return Choices.published() if self.published else THEORY

    def changed(self, **changes: Any) -> DxMIConfig:
        """The same with other values."""
        return replace(self, **changes)
