r"""The trainer of DxMI: a chain and an energy that is its value function, learned together.

A run is a function of (configuration, chain, value, data): all that is random comes from one generator whose state the
checkpoint holds. On a GPU a round is captured once and replayed. What the run returns is the averages of its parameters:
:attr:`DxMITrainer.chain`, a chain like any other, and :attr:`DxMITrainer.value`, an :class:`~unidiff.EnergyModel`, which
means −log of the noised data at every level, and so plugs into every other view.
"""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unidiff.core.boundary import check_finite, check_state, check_type
from unidiff.core.chain import ReverseChain
from unidiff.core.diffusion import Diffusion
from unidiff.core.replay import Replay
from unidiff.ebm.dxmi.value import on_device, trainable
from unidiff.ebm.model import EnergyModel
from unidiff.mcmc.chains import caller_depth
from unidiff.train import checkpoint as checkpoints
from unidiff.train.dxmi_config import DxMIConfig
from unidiff.train.dxmi_round import FIGURES, Round
from unidiff.train.loop import played
from unidiff.train.pace import ema_decay
from unidiff.worlds.world import World

OnRound = Callable[["DxMITrainer", dict[str, float]], None]
LOOK_EVERY = 20
"""Rounds of a replayed run between two looks at whether its energies are finite."""
DRAWS = 2**17
"""How many data are drawn of a world."""


class DxMITrainer:
    """Trains a chain's core and variances, and an energy that is its value, by maximum-entropy inverse RL.

    Args:
        chain: where the policy starts: its core is trained in place and in evaluation mode (no dropout), as the value is;
            its variances become a table of their own. If the value is the energy of this very core, there is no policy
            network: the chain steps along the value's gradient.
        value: energy and value, trained in place: :meth:`unidiff.EnergyModel.of` an energy-parameterised core, or an energy
            that is a function of the grid's times (:class:`~unidiff.ebm.GridValue`). With adaptive velocities a function of
            time t_k is learned at the level of ``work.law.levels()[k]``, not at the schedule's of t_k: from k = 1 on its
            ``score``, ``core()`` and guidance, which read the schedule, are then another law's.
        data: ``[n, *E]``, or a world, of which 2¹⁷ are drawn.
        config: the run's options.
        graph: whether rounds are captured and replayed; None captures on a GPU where the value is a core's.

    Attributes:
        round: how many rounds are done, those of the start included.

    Raises:
        TypeError: no chain, no energy, no data.
        ValueError: a chain or a value without parameters to train, of different shapes, dtypes or devices, or with a part of
            their parameters in common; a value without a time or of another schedule; a chain with the network's own
            variance, or with a level without noise or without signal; data that do not fit or are not finite.

    Warns:
        UserWarning: a value that is a function of time, with adaptive velocities.
    """

    def __init__(
        self,
        chain: ReverseChain,
        value: EnergyModel,
        data: Tensor | World,
        config: DxMIConfig | None = None,
        *,
        graph: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        check_type("chain", chain, ReverseChain)
        check_type("value", value, EnergyModel)
        self.config = DxMIConfig() if config is None else config
        check_type("config", self.config, DxMIConfig)
        like = _check_pair(chain, value)
        if value.source is chain.core and self.config.velocity != "schedule":
            raise ValueError(
                "velocity must be 'schedule' where the value is the chain's own energy: the chain's step is the value's "
                f"only then, got {self.config.velocity!r}"
            )
        if not value.is_core and self.config.velocity == "adaptive" and self.config.velocity_rate > 0:
            warnings.warn(
                "value is a function of time, and with velocity 'adaptive' its times come to stand for the auxiliary law's "
                "levels (trainer.work.law.levels()), not the schedule's: its score, core() and guidance are off at t_1 and "
                "later; take velocity='schedule', or the energy of a core, which knows levels",
                UserWarning,
                stacklevel=caller_depth(),
            )
        self.generator = torch.Generator(like.device).manual_seed(self.config.seed)
        self.work = Round(chain, value, _data(data, chain.core, like, self.config.seed), self.config, self.generator)
        wanted = isinstance(value.source, Diffusion) and like.is_cuda
        self.graph = wanted if graph is None else graph
        if self.graph and not wanted:
            raise ValueError("graph=True needs a GPU and a value that is a core's energy")
        self.clock, self.round, self.elapsed = clock, 0, 0.0
        self._replays: dict[bool, Replay] = {}

    @property
    def total(self) -> int:
        """Rounds of the whole run."""
        return self.config.start + self.config.iterations

    @property
    def chain(self) -> ReverseChain:
        """The averaged chain in evaluation mode, with a table of variances: a copy."""
        policy = self.work.mean_policy
        core = copy.deepcopy(self.mean_core).eval()
        return core.chain(policy.grid, "given", log_var=policy.log_var.detach().clone())

    @property
    def value(self) -> EnergyModel:
        """The averaged energy and value in evaluation mode: a copy."""
        return copy.deepcopy(self.work.mean_model).eval()

    @property
    def mean_core(self) -> Diffusion:
        """The averaged chain's core itself, which goes on being averaged."""
        core = self.work.mean_model.source if self.work.shared else self.work.mean_policy.core
        assert isinstance(core, Diffusion)
        return core

    def fit(self, on_round: OnRound | None = None) -> ReverseChain:
        """Run to the last round; returns :attr:`chain`.

        Args:
            on_round: called with the trainer and each line of the log.

        Raises:
            TypeError: an on_round that is not callable.
            FloatingPointError: energies or gradients that are not finite: in which round, and how many; the last checkpoint
                stays as it is.
            KeyboardInterrupt: Ctrl-C, once the round is whole and, with ``out``, saved.
        """
        played(self, "on_round", on_round)
        return self.chain

    @property
    def done(self) -> int:
        """Rounds done."""
        return self.round

    def advance(self) -> None:
        """One round."""
        config, starting = self.config, self.round < self.config.start
        done, length = (self.round, config.start) if starting else (self.round - config.start, config.iterations)
        warm = min(1.0, (done + 1) / config.warmup) if config.warmup else 1.0
        fall = 0.5 * (1 + math.cos(math.pi * done / length)) if config.decay == "cosine" else 1.0
        self.work.set_rates(warm * fall)
        lagged = config.target_average if self.round else 0.0
        self.work.set_averages(1 - lagged, 1 - (ema_decay(config.average, self.round) if self.round else 0.0))
        job = self.work.begin if starting else self.work.play
        if not self.graph:
            job()
        else:
            if starting not in self._replays:
                self._replays[starting] = self._capture(job)
            self._replays[starting]()
        self.round += 1
        if not self.graph or self.round % LOOK_EVERY == 0 or self.round >= self.total:
            self._look()

    def _capture(self, job: Callable[[], None]) -> Replay:
        # AdamW makes its moments on its first step; a capture must find them.
        work = self.work
        for optimizer in (work.value_optimizer, work.policy_optimizer):
            for group in optimizer.param_groups:
                for p in group["params"]:
                    if not optimizer.state[p]:
                        zero = torch.zeros_like(p, memory_format=torch.preserve_format)
                        step = torch.zeros((), dtype=torch.float32, device=p.device)
                        optimizer.state[p] = {"step": step, "exp_avg": zero, "exp_avg_sq": zero.clone()}
        return Replay(job, work.registers(), self.generator)

    def _look(self) -> None:
        energies, gradients, at = self.work.bad.tolist()
        if at:
            raise FloatingPointError(
                f"energies and gradients must be finite, got NaN or infinity in {energies} energies and {gradients} numbers "
                f"of losses and gradients in round {at}; lower value_lr (now {self.config.value_lr:g}) or policy_lr (now "
                f"{self.config.policy_lr:g}), or raise gamma (now {self.config.gamma:g}) or anchor"
            )

    @property
    def floored(self) -> dict[int, float]:
        """The steps k whose standard deviation stands on the floor, and that of each, in units of x."""
        table = self.work.policy.log_var.detach()
        down = (table <= self.work.least + 1e-6).nonzero().flatten().tolist()
        return {k + 1: float((0.5 * table[k]).exp()) for k in down}

    def floor_told(self) -> str:
        """In words, which steps stand on the floor and how wide they are; empty if none does."""
        found = self.floored
        if not found:
            return ""
        stds = ", ".join(f"{k}: {std:.4g}" for k, std in found.items())
        return (
            f"{len(found)} of {self.work.chain.steps} steps stand on floor = {self.config.floor:g} (step: width {stds})"
        )

    def line(self) -> dict[str, float]:
        """A line of the log: means since the last one, and how the variances stand.

        The last of a run names the ``floor`` too if a step stands on it, and ``std_k`` of each such step k.
        """
        work = self.work
        count = max(float(work.rounds), 1.0)
        figures = dict(zip(FIGURES, (work.sums / count).tolist(), strict=True))
        work.sums.zero_()
        work.rounds.zero_()
        floored = self.floored
        named = {"floor": self.config.floor} | {f"std_{k}": std for k, std in floored.items()} if floored else {}
        ends = named if self.round >= self.total else {}
        least = float((0.5 * work.policy.log_var.detach().min()).exp())
        return {
            "step": self.round, **figures, "least_std": least, "on_floor": len(floored), **ends,
            "seconds": round(self.elapsed, 3),
        }  # fmt: skip

    def save(self, path: str | Path) -> Path:
        """Write the whole state to ``path``, atomically.

        Raises:
            FloatingPointError: a state that is not finite: nothing is written.
        """
        from unidiff.train.dxmi_state import collect

        self._look()
        return checkpoints.write(path, collect(self))

    @classmethod
    def resume(
        cls,
        path: str | Path,
        chain: ReverseChain,
        value: EnergyModel,
        data: Tensor | World,
        **changes: Any,
    ) -> DxMITrainer:
        """A run in the state of its checkpoint, on a chain, value and data made as the run's were.

        Args:
            path: the checkpoint, or the run's folder.
            chain, value, data: as the run's.
            changes: new values for ``out``, ``log_every`` or ``checkpoint_every``.

        Raises:
            CheckpointError: no checkpoint of a DxMI run, or one that does not fit.
            ValueError: other data, another grid, schedule or temperature than the run's, a value that is of the chain's own
                core where the run's was not; a change that would make it another run.
        """
        from unidiff.train.dxmi_state import restore

        return restore(cls, path, chain, value, data, changes)


def _check_pair(chain: ReverseChain, value: EnergyModel) -> Tensor:
    core = chain.core
    like = core.first_parameter()
    if like is None or not any(p.requires_grad for p in core.denoiser.parameters()):  # pyright: ignore
        raise ValueError("chain must be of a core with parameters to train, got one without")
    if chain.variance == "learned":
        raise ValueError("chain must have a fixed rule or a table for its variance, got 'learned', the network's own")
    if value.event_shape != core.event_shape:
        raise ValueError(
            f"value must be of states {list(core.event_shape)}, as the chain, got {list(value.event_shape)}"
        )
    if value.schedule is None:
        raise ValueError("value must be a function of time (EnergyModel(..., schedule=...)), got an energy without")
    policy = {id(p) for p in core.denoiser.parameters()}  # pyright: ignore
    if value.source is not core and any(id(p) in policy for p in trainable(value)):
        raise ValueError("value must be the energy of the chain's own core, or have no parameter in common with it")
    own, theirs = (s.level(chain.grid.times) for s in (value.schedule, core.schedule))
    if not torch.equal(own.log_snr, theirs.log_snr) or not torch.equal(own.alpha, theirs.alpha):
        raise ValueError("value must have the chain's schedule: its levels on the chain's grid are others")
    if not bool((theirs.sigma > 0).all()):
        raise ValueError(
            f"chain must end at a time with noise, where the data have a density, got t_0 = {chain.grid.times[0]}"
        )
    if not bool((theirs.alpha > 0).all()):
        raise ValueError("chain must have some signal at each of its times, got a level with alpha = 0")
    on_device(value, like)
    return like


def _data(data: Any, core: Diffusion, like: Tensor, seed: int) -> Tensor:
    if isinstance(data, World):
        data = data.sample(DRAWS, torch.Generator(data.device).manual_seed(seed))
    check_state("data", data, core.event_shape)
    if not len(data):
        raise ValueError(f"data must hold at least one datum, got shape {list(data.shape)}")
    return check_finite("data", data.detach().to(like))
