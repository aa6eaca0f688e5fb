r"""The loop of fine-tuning: gather experience under the policy, take some epochs of gradient steps on it, gather anew.

Every method runs in it (:mod:`unidiff.rl.methods`). A run is a function of (configuration, process, method, core): all that
is random comes from one generator whose state the checkpoint holds, so that a run killed anywhere and resumed ends in the
same bits. The average of the parameters is what the run returns.
"""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from unidiff.core.boundary import check_count, check_name, check_positive, check_seed, check_type
from unidiff.core.diffusion import Diffusion
from unidiff.rl.mdp import DenoisingMDP
from unidiff.rl.methods.method import Method
from unidiff.rl.policy import Policy
from unidiff.rl.trainable import trained_parameters
from unidiff.train import checkpoint as checkpoints
from unidiff.train.average import Average
from unidiff.train.config import Decay
from unidiff.train.finetune_state import collect, restore
from unidiff.train.interrupt import held
from unidiff.train.journal import Journal
from unidiff.train.pace import ema_decay, rate

OnRound = Callable[["FineTuner", dict[str, float]], None]


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
        if not 0.0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay must be at least 0 and finite, got {self.weight_decay}")
        if not 0.0 <= self.ema < 1.0:
            raise ValueError(f"ema must lie in [0, 1), got {self.ema}")


class FineTuner:
    """Trains a core by a method, on the chain of a decision process.

    Args:
        mdp: the process: its chain is the reference, its reward what is sought, its β the temperature.
        core: what is trained, in place: :func:`unidiff.rl.trainable` or :func:`unidiff.rl.corrected` makes one.
        method: which way.
        config: the run's options.
        clock: seconds, for speed.

    Attributes:
        policy: the core on the chain.
        round: how many rounds are done.

    Raises:
        TypeError, ValueError: as :class:`~unidiff.rl.Policy` and the method; nothing to train; a class of a core without.
    """

    def __init__(
        self,
        mdp: DenoisingMDP,
        core: Diffusion,
        method: Method,
        config: FineTuneConfig | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        check_type("method", method, Method)
        self.config = FineTuneConfig() if config is None else config
        check_type("config", self.config, FineTuneConfig)
        self.policy, self.method, self.clock = Policy(mdp, core), method, clock
        self.learner = method.learner(self.policy)
        self.trained = trained_parameters(core, mdp.chain.core)
        if not self.trained:
            raise ValueError("core must have parameters of its own to train: all of them are the reference's")
        self.classes = self._classes()
        self.ema = Average(check_module(core.denoiser))
        groups: list[dict[str, Any]] = [{"params": self.trained}]
        if self.learner.module is not None:
            groups.append({"params": list(self.learner.module.parameters()), "lr": self.config.value_lr})
        self.optimizer = torch.optim.AdamW(groups, lr=self.config.lr, weight_decay=self.config.weight_decay)
        self.device = self.policy.like.device
        self.generator = torch.Generator(self.device).manual_seed(self.config.seed)
        self.round = self.step = 0
        self.elapsed = 0.0
        self.window: dict[str, list[float]] = {}

    @classmethod
    def resume(
        cls,
        path: str | Path,
        mdp: DenoisingMDP,
        core: Diffusion,
        method: Method,
        **changes: Any,
    ) -> FineTuner:
        """A run in the state of its checkpoint, on the same process, method and a core made as the run's was.

        Args:
            path: the checkpoint, or the run's folder.
            mdp, core, method: as the run's.
            changes: new values for ``rounds``, ``out``, ``log_every`` or ``checkpoint_every``.

        Raises:
            CheckpointError: no checkpoint of a fine-tuning run, or one that does not fit.
            ValueError: another process or method than the run's; a change that would make it another run.
        """
        for name in changes:
            check_name("change", name, ("rounds", "out", "log_every", "checkpoint_every"))
        kept = checkpoints.read(path)
        return restore(cls, kept, path, mdp, core, method, changes)

    @property
    def averaged(self) -> Diffusion:
        """A core with the averaged parameters, in evaluation mode: a copy."""
        return Diffusion(self.policy.core.schedule, copy.deepcopy(self.ema.module)).eval()  # pyright: ignore

    def fit(self, on_round: OnRound | None = None) -> Diffusion:
        """Run to the last round; returns :attr:`averaged`.

        Args:
            on_round: called with the tuner and each line of the log.

        Raises:
            FloatingPointError: a loss, gradient, reward or control that is not finite; the last checkpoint stays as it is.
            KeyboardInterrupt: Ctrl-C, once the round is whole and, with ``out``, saved.
        """
        config = self.config
        journal = Journal(config.out, self.round)
        began, spent = self.clock(), self.elapsed
        with contextlib.closing(journal), held() as check:
            while self.round < config.rounds:
                self.advance()
                self.elapsed = spent + self.clock() - began
                last = self.round >= config.rounds
                if self.round % config.log_every == 0 or last:
                    line = self._line()
                    journal.write(line)
                    if on_round is not None:
                        on_round(self, line)
                if config.out is not None and (self.round % config.checkpoint_every == 0 or last):
                    self.save(Path(config.out) / checkpoints.NAME)
                try:
                    check()
                except KeyboardInterrupt:
                    if config.out is not None:
                        self.save(Path(config.out) / checkpoints.NAME)
                    raise
        return self.averaged

    def advance(self) -> None:
        """One round."""
        config = self.config
        lr = rate(config, self.round, self.round / config.rounds)
        self.optimizer.param_groups[0]["lr"] = lr
        experience, told = self.learner.gather(config.chains, self.generator, self._condition())
        for _ in range(config.epochs):
            order = torch.randperm(len(experience), generator=self.generator, device=self.device)
            batches = order.split(config.rows)
            for first in range(0, len(batches), config.accumulate):
                self._descend(experience, batches[first : first + config.accumulate])
        # What a method tells may come from its losses.
        self._note({name: float(v) for name, v in told.items()} | {"lr": lr})
        self.round += 1

    def _descend(self, experience: Any, batches: tuple[Tensor, ...]) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        besides = [] if self.learner.module is None else list(self.learner.module.parameters())
        count = sum(len(b) for b in batches)
        total = 0.0
        for batch in batches:
            loss = self.learner.loss(experience[batch])
            # A share of the step's rows, so that accumulated minibatches are one batch.
            (loss * (len(batch) / count)).backward(inputs=[*self.trained, *besides])
            total += float(loss.detach()) * len(batch) / count
        norm = float(torch.nn.utils.clip_grad_norm_(self.trained, self.config.clip))
        if not (math.isfinite(total) and math.isfinite(norm)):
            raise FloatingPointError(
                f"the loss ({total:g}) or its gradient ({norm:g}) is not finite in round {self.round + 1}; "
                f"lower lr (now {self.config.lr:g})"
            )
        self.optimizer.step()
        self.ema.update(ema_decay(self.config.ema, self.step) if self.step else 0.0)
        self.step += 1
        self._note({"loss": total, "grad_norm": norm})

    def _note(self, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self.window.setdefault(name, []).append(value)

    def _line(self) -> dict[str, float]:
        means = {name: sum(values) / len(values) for name, values in self.window.items()}
        self.window.clear()
        return {"step": self.round, **means, "seconds": round(self.elapsed, 3)}

    def _classes(self) -> int | None:
        known = getattr(self.policy.mdp.chain.core.denoiser, "num_classes", None)
        wanted = self.config.condition
        if wanted is None:
            return None
        if known is None:
            raise ValueError(f"condition needs a core with classes, got {wanted!r} for one without")
        integer = isinstance(wanted, int) and not isinstance(wanted, bool)
        if wanted != "random" and not (integer and 0 <= wanted < known):
            raise ValueError(f"condition must be a class in 0 … {known - 1} or 'random', got {wanted!r}")
        return known

    def _condition(self) -> Tensor | None:
        wanted, n = self.config.condition, self.config.chains
        if wanted is None or self.classes is None:
            return None
        if wanted == "random":
            return torch.randint(self.classes, (n,), generator=self.generator, device=self.device)
        return torch.full((n,), wanted, device=self.device)

    def save(self, path: str | Path) -> Path:
        """Write the whole state to ``path``, atomically."""
        return checkpoints.write(path, collect(self))


def check_module(denoiser: Any) -> nn.Module:
    """``denoiser`` if it is a module. Raises TypeError."""
    check_type("denoiser", denoiser, nn.Module)
    return denoiser
