r"""The loop of fine-tuning: gather experience under the policy, take some epochs of gradient steps on it, gather anew.

Every method runs in it (:mod:`unidiff.rl.methods`). A run is a function of (configuration, process, method, core): all that
is random comes from one generator whose state the checkpoint holds, so that a run killed anywhere and resumed ends in the
same bits. The average of the parameters is what the run returns.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unidiff.core.boundary import check_condition, check_name, check_type
from unidiff.core.diffusion import Diffusion
from unidiff.rl.mdp import DenoisingMDP
from unidiff.rl.methods.gradients import figures
from unidiff.rl.methods.method import Method
from unidiff.rl.policy import Policy
from unidiff.rl.trainable import trained_parameters
from unidiff.train import checkpoint as checkpoints
from unidiff.train.average import Average
from unidiff.train.finetune_config import FineTuneConfig
from unidiff.train.finetune_state import collect, restore
from unidiff.train.loop import played
from unidiff.train.pace import ema_decay, rate

OnRound = Callable[["FineTuner", dict[str, float]], None]


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
        method.check_loop(self.config.chains, self.config.epochs)
        self.policy, self.method, self.clock = Policy(mdp, core), method, clock
        # A value's first parameters are of the seed too; torch's default generator is left as it was.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.config.seed)
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
            TypeError: an on_round that cannot be called.
            FloatingPointError: a loss, gradient, reward or control that is not finite; the last checkpoint stays as it is.
            KeyboardInterrupt: Ctrl-C, once the round is whole and, with ``out``, saved.
        """
        played(self, "on_round", on_round)
        return self.averaged

    @property
    def done(self) -> int:
        """Rounds done."""
        return self.round

    @property
    def total(self) -> int:
        """Rounds of the whole run."""
        return self.config.rounds

    def advance(self) -> None:
        """One round."""
        config = self.config
        lr = rate(config, self.round, self.round / config.rounds)
        self.optimizer.param_groups[0]["lr"] = lr
        labels = None if self.learner.condition is not None else self._condition(self.generator)
        experience, told = self.learner.gather(config.chains, self.generator, labels)
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

    def line(self) -> dict[str, float]:
        """A line of the log: means since the last one."""
        means = {name: sum(values) / len(values) for name, values in self.window.items()}
        self.window.clear()
        if "kl" not in means:
            means |= self._looked()
        return {"step": self.round, **means, "seconds": round(self.elapsed, 3)}

    def _looked(self) -> dict[str, float]:
        """Reward and KL of a method that walks nowhere, by a noise of their own: logging changes no bit of the run."""
        generator = torch.Generator(self.device).manual_seed((self.config.seed + self.round) % 2**63)
        walk = self.policy.walk(self.config.chains, generator, self._condition(generator))
        told = {name: float(v) for name, v in figures(walk).items()}
        return told if self.policy.mdp.reward is not None else {"kl": told["kl"]}

    def _classes(self) -> int | None:
        known = getattr(self.policy.mdp.chain.core.denoiser, "num_classes", None)
        wanted, own = self.config.condition, self.learner.condition
        if wanted is None:
            labels = None if own is None else own[:1]
            check_condition(labels, self.policy.mdp.guidance, 1, known)
            return None
        if known is None:
            raise ValueError(f"condition needs a core with classes, got {wanted!r} for one without")
        if own is not None:
            raise ValueError(f"condition must be left out where the pairs have their own, got {wanted!r}")
        if wanted != "random" and wanted >= known:
            raise ValueError(f"condition must be a class in 0 … {known - 1} or 'random', got {wanted!r}")
        return known

    def _condition(self, generator: torch.Generator) -> Tensor | None:
        wanted, n, own = self.config.condition, self.config.chains, self.learner.condition
        if own is not None:
            return own[torch.randint(len(own), (n,), generator=generator, device=self.device)]
        if wanted is None or self.classes is None:
            return None
        if wanted == "random":
            return torch.randint(self.classes, (n,), generator=generator, device=self.device)
        return torch.full((n,), wanted, device=self.device)

    def save(self, path: str | Path) -> Path:
        """Write the whole state to ``path``, atomically."""
        return checkpoints.write(path, collect(self))


def check_module(denoiser: Any) -> nn.Module:
    """``denoiser`` if it is a module. Raises TypeError."""
    check_type("denoiser", denoiser, nn.Module)
    return denoiser
