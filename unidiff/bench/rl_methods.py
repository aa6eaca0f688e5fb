r"""What ``unidiff.bench.rl`` measures: every method's settings, in one place, and what each ended at.

All are held against the same p* ∝ p_ref e^{r/β} over paths, by figures that need no density of data:

    trained      KL(p_θ ‖ p*) = E_θ[Σ (u·a − ½‖u‖²) − r/β] + log Z, the terms of a path cancelling near p*
    guided       the same, of its exact weights: log Z − E log w
    best of n    log n − (n − 1)/n − E r/β + log Z          (Beirami et al. 2024, theorem 3.1; its paths are chosen by r)
    SMC          at most log Z − E log Ẑ                     (Naesseth et al. 2018, theorem 1, of one particle of a run)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from unidiff.bench import machine
from unidiff.bench.timing import seconds
from unidiff.core import networks
from unidiff.core.diffusion import Diffusion
from unidiff.rl import (
    D3PO,
    DDPO,
    DPO,
    DPOK,
    AdjointMatching,
    Backprop,
    DenoisingMDP,
    Method,
    Policy,
    best_of_n,
    bradley_terry,
    corrected,
    guided,
    smc_steering,
)
from unidiff.rl.mdp import Reward
from unidiff.rl.policy import Walk, log_ratio
from unidiff.train.finetune import FineTuneConfig, FineTuner
from unidiff.worlds import Estimate
from unidiff.worlds.estimate import monte_carlo

PAIRS = 10_000  # of DPO's data set
BEST_OF, PARTICLES = 4, 64


@dataclass(frozen=True)
class Size:
    """How much is spent.

    Attributes:
        config: of every training run, unless a method's own setting says otherwise.
        own: what differs from it, and from a method's own setting, by the method's name.
        draws: of each policy, for its figures.
        reference_draws: of the reference, for E* r.
        points: of the floor's lattice; None for its own choice.
    """

    config: dict[str, Any]
    own: dict[str, dict[str, Any]]
    draws: int
    reference_draws: int
    points: int | None = None


QUICK = Size(
    {"rounds": 32, "chains": 256, "epochs": 2, "rows": 2048, "lr": 3e-3},
    {"dpo": {"chains": 2500, "rounds": 8}, "backprop": {"rounds": 40}},
    4096, 2**15, 81,
)  # fmt: skip
CPU = Size(
    {"rounds": 150, "chains": 512, "epochs": 2, "rows": 2048, "lr": 3e-3},
    {"dpo": {"chains": 5000, "rounds": 30}},
    20_480, 2**17,
)  # fmt: skip
GPU = Size(
    {"rounds": 150, "chains": 4096, "epochs": 2, "rows": 16_384, "lr": 3e-3},
    {"adjoint": {"rounds": 220, "lr": 2e-3}, "backprop": {"chains": 1024}, "dpo": {"chains": 5000, "rounds": 300}},
    204_800, 2**21,
)  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """A training method as it is run here.

    Attributes:
        method: with its options; DPO is given its pairs by the run.
        config: what differs from the size's.
        width, depth: of the correction's network.
    """

    method: Method
    config: dict[str, Any] = field(default_factory=dict)
    width: int = 128
    depth: int = 3


# Rows are decisions for DDPO, DPOK and adjoint matching, chains for backprop, pairs for DPO and D3PO.
SETTINGS: dict[str, Setting] = {
    "ddpo": Setting(DDPO()),
    "dpok": Setting(DPOK()),
    "backprop": Setting(Backprop(), {"epochs": 1, "rows": 512}),
    "adjoint": Setting(AdjointMatching(decay=0.9), {"epochs": 1}),
    # What is known of the reward is what 10⁴ bits tell: a wide network and a low rate, once over fresh walks of each pair.
    "dpo": Setting(DPO(draws=None, walks=True), {"epochs": 1, "rows": 250, "lr": 1.5e-3}, width=256, depth=4),
    "d3po": Setting(D3PO(level="walk"), {"rows": 64}),
}
FREE = ("guided", "best_of_n", "smc_steering")
METHODS = (*SETTINGS, *FREE)


@dataclass(frozen=True, eq=False)
class Found:
    """What a method ended at.

    Attributes:
        x0: its data, ``[n, *E]``.
        queries: rewards of data that were asked for before the first sample.
        queries_each: and for each sample from then on.
        seconds: of the training; of all the sampling where there was none.
        reward: E r.
        kl_star: KL(p_θ ‖ p*) over paths, in nats; an upper bound of SMC's.
        kl_ref: KL(p_θ ‖ p_ref) over paths, in nats; an upper bound of SMC's.
    """

    x0: Tensor
    queries: int
    queries_each: float
    seconds: float
    reward: Estimate
    kl_star: Estimate
    kl_ref: Estimate


class Counted:
    """A reward that knows how many data it was asked of."""

    def __init__(self, reward: Reward) -> None:
        self.reward, self.queries = reward, 0

    def __call__(self, x: Tensor) -> Tensor:
        """r at ``x`` ``[B, *E]``, ``[B]``."""
        self.queries += len(x)
        return self.reward(x)


@dataclass(frozen=True, eq=False)
class Bench:
    """What all methods are given.

    Attributes:
        mdp: the reference, the reward and β > 0, all in float32 on one device.
        log_z: log E_ref e^{r/β}.
        size: how much is spent.
        like: what states are like.
        seed: of all draws.
    """

    mdp: DenoisingMDP
    log_z: Estimate
    size: Size
    like: Tensor
    seed: int

    def generator(self, purpose: int) -> torch.Generator:
        """Of one purpose's draws: 0 a policy's figures, 1 DPO's pairs, 2 SMC's resampling, 3 p*."""
        return machine.draws(self.seed, purpose, self.like.device)

    def counted(self) -> tuple[Counted, DenoisingMDP]:
        """The process with a reward of its own that counts."""
        assert self.mdp.reward is not None
        reward = Counted(self.mdp.reward)
        return reward, DenoisingMDP(self.mdp.chain, reward, beta=self.mdp.beta)

    def found(self, name: str, on_round: Callable[[FineTuner, dict[str, float]], None] | None = None) -> Found:
        """What a method ends at."""
        return self._trained(SETTINGS[name], on_round) if name in SETTINGS else self._free(name)

    def _trained(self, setting: Setting, on_round: Callable[[FineTuner, dict[str, float]], None] | None) -> Found:
        reward, mdp = self.counted()
        torch.manual_seed(self.seed)
        network = networks.MLP(self.like.shape[-1], setting.width, setting.depth).to(self.like)
        core, method = corrected(mdp.chain.core, network), setting.method
        tuned: list[Diffusion] = []

        def train() -> None:
            own = method.on(self.pairs(reward)) if isinstance(method, DPO) else method
            options = self.size.config | setting.config | self.size.own.get(method.name, {})
            config = FineTuneConfig(**options, seed=self.seed, log_every=1)
            # Pairs are all that DPO is told: a reward in its process would be asked for the log alone.
            process = DenoisingMDP(mdp.chain, beta=mdp.beta) if isinstance(method, DPO) else mdp
            tuned.append(FineTuner(process, core, own, config).fit(on_round))

        spent = seconds(train, self.like.device)
        walk = Policy(self.mdp, tuned[0]).walk(self.size.draws, self.generator(0), like=self.like)
        return self.read(walk, reward.queries, spent)

    def pairs(self, reward: Reward) -> Any:
        """Pairs of the reference's samples, compared once each by Bradley and Terry's odds."""
        generator = self.generator(1)
        x = Policy(self.mdp, self.mdp.chain.core).walk(2 * PAIRS, generator, like=self.like).x0
        return bradley_terry(x[:PAIRS], x[PAIRS:], reward, generator)

    def read(self, walk: Walk, queries: int, spent: float) -> Found:
        """The figures of a policy's walk."""
        gained = torch.stack([log_ratio(u, a).double() for u, a in zip(walk.control, walk.action, strict=True)]).sum(0)
        far = self._above(monte_carlo(gained - walk.reward.double() / self.mdp.beta))
        return Found(walk.x0, queries, 0, spent, monte_carlo(walk.reward), far, monte_carlo(walk.kl.sum(0)))

    def _free(self, name: str) -> Found:
        reward, mdp = self.counted()
        options: dict[str, Any] = {"generator": self.generator(0), "like": self.like}
        count, beta, done = self.size.draws, self.mdp.beta, []
        work: dict[str, Callable[[], Any]] = {
            "guided": lambda: guided(mdp, count, beta=beta, **options),
            "best_of_n": lambda: best_of_n(mdp, count, BEST_OF, **options),
            "smc_steering": lambda: smc_steering(mdp, PARTICLES, beta=beta, runs=count // PARTICLES, **options),
        }
        spent = seconds(lambda: done.append(work[name]()), self.like.device)
        ended = done[0]
        if name == "smc_steering":
            x0 = ended.draw(PARTICLES, self.generator(2)).transpose(0, 1).flatten(0, 1)
            shares = torch.softmax(ended.log_weights, 1)
            # Of a run, not of a particle: those of one run descend from few.
            earned = monte_carlo((shares * self._reward(ended.x0.flatten(0, 1)).view_as(shares)).sum(1))
            far = self._above(monte_carlo(-ended.log_z))
            kl = Estimate(
                far.value + earned.value / beta - self.log_z.value.to(far.value),
                torch.hypot(far.standard_error, earned.standard_error / beta),
                "monte_carlo",
            )
        else:
            x0 = ended.x0
            earned = monte_carlo(self._reward(x0))
            if name == "guided":
                far, kl = self._above(monte_carlo(-ended.log_weights)), monte_carlo(ended.path_kl)
            else:
                kl = Estimate.exact(torch.tensor(ended.kl_bound, dtype=torch.float64))
                far = self._above(monte_carlo(ended.kl_bound - self._reward(x0) / beta))
        return Found(x0, 0, reward.queries / count, spent, earned, far, kl)

    def _reward(self, x0: Tensor) -> Tensor:
        assert self.mdp.reward is not None
        return self.mdp.reward(x0).double()

    def _above(self, cost: Estimate) -> Estimate:
        """A cost in nats and log Z: what is lacking of p*."""
        value = cost.value + self.log_z.value.to(cost.value)
        error = math.hypot(float(cost.standard_error), float(self.log_z.standard_error))
        return Estimate(value, torch.full_like(value, error), "monte_carlo")
