r"""Contrastive divergence: lower the energy of data, raise it where the model's own chains go.

    ∂_θ KL(p ‖ q_θ) = (E_p ∂_θE − E_{q_θ} ∂_θE)/τ,   q_θ = e^{−E/τ}/Z

With draws of another law π in the place of q_θ's, held, it is ∂_θ[KL(p ‖ q_θ) − KL(π ‖ q_θ)] (Hinton 2002, eq. 5; IDENTITIES
item 39). π is k steps of a kernel of q_θ from the data (CD-k), or from where earlier chains stopped (persistent: Tieleman
2008; with a buffer of many chains and fresh starts now and then, Du & Mordatch 2019, section 3.2).

The regulariser γ(E_p E² + E_π E²) (Du & Mordatch 2019, section 3.3) keeps energies near zero, and has a price: its fixed
point obeys (π − p)/(π + p) = 2γE = −2γτ(log π + c), so that π misses p by about γτ and never by 0 (item 48). Here γ falls
linearly to 0 over the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unidiff.core.boundary import (
    check_count,
    check_flag,
    check_not_negative,
    check_share,
    check_time,
    check_type,
    right_expand,
)
from unidiff.core.level import NoiseLevel
from unidiff.ebm.learning.chains import ShortRun
from unidiff.ebm.learning.method import EnergyLearner, EnergyMethod, check_energies, check_one_law, known_levels
from unidiff.ebm.model import EnergyModel
from unidiff.mcmc import ULA, Kernel
from unidiff.worlds.world import World


def contrastive_loss(at_data: Tensor, at_model: Tensor, tau: float, regulariser: float = 0.0) -> Tensor:
    """(E_p E − E_π E + γ(E_p E² + E_π E²))/τ, ``[]``, in nats.

    Args:
        at_data: energies of draws of p, ``[n]``.
        at_model: energies of draws of π, ``[m]``, the draws held.
        tau: τ, in units of energy.
        regulariser: γ, per unit of energy.
    """
    contrast = at_data.mean() - at_model.mean()
    if regulariser:
        contrast = contrast + regulariser * (at_data.square().mean() + at_model.square().mean())
    return contrast / tau


_KERNEL = ULA(0.01)


@dataclass(frozen=True)
class ContrastiveDivergence(EnergyMethod):
    """CD-k: chains that start at the data.

    Attributes:
        steps: k.
        kernel: of the chains; its step size is in units of the data's. One that rejects keeps q_θ as it is.
        regulariser: γ at the beginning, per unit of energy; it falls linearly to 0.
        t: for an energy with a schedule, the time at which it is learned; the data are noised to there.
        graph: on a GPU, capture the chains' steps once and replay them; False for an energy that cannot be captured,
            one that looks at values from the host, say.

    Raises:
        TypeError, ValueError: naming the option.
    """

    name: ClassVar[str] = "cd"
    source: ClassVar[str] = "Hinton 2002, eq. 5"

    steps: int = 10
    kernel: Kernel = _KERNEL
    regulariser: float = 0.0
    t: float | None = None
    graph: bool = True

    def __post_init__(self) -> None:
        check_count("steps", self.steps)
        check_type("kernel", self.kernel, Kernel)
        check_flag("graph", self.graph)
        check_not_negative("regulariser", self.regulariser)
        if self.t is not None:
            check_time("t", self.t)

    def learner(self, model: EnergyModel) -> ContrastiveLearner:
        """What runs. Raises ValueError for a time where the energy has none, or none where it has."""
        return ContrastiveLearner(model, self)


@dataclass(frozen=True)
class PersistentCD(ContrastiveDivergence):
    """Chains that go on from batch to batch, in a buffer of many.

    Attributes:
        capacity: chains in the buffer, at least as many as a batch has data. Each batch takes as many as it has data, no
            two of them one.
        restart: the probability with which a chain that is taken starts anew, in [0, 1].
        start: the law of starts, at the beginning too; None is N(0, I).

    Raises:
        TypeError, ValueError: naming the option.
    """

    name: ClassVar[str] = "pcd"
    source: ClassVar[str] = "Tieleman 2008; Du & Mordatch 2019, section 3.2"

    capacity: int = 10_000
    restart: float = 0.05
    start: World | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("capacity", self.capacity)
        check_share("restart", self.restart)
        if self.start is not None:
            check_type("start", self.start, World)

    def learner(self, model: EnergyModel) -> PersistentLearner:
        """What runs. Raises as for CD, and ValueError for starts of another shape than the model's, or of many laws."""
        return PersistentLearner(model, self)


class ContrastiveLearner(EnergyLearner):
    """Contrastive divergence at work; see :class:`ContrastiveDivergence`.

    Attributes:
        negatives: the chains' last ends, ``[B, *E]``, held; None before the first batch.
    """

    def __init__(self, model: EnergyModel, method: ContrastiveDivergence) -> None:
        super().__init__(model)
        self.method = method
        if (model.schedule is None) != (method.t is None):
            told = (
                "left out for an energy without a schedule" if method.t is not None else "given for one with a schedule"
            )
            raise ValueError(f"t must be {told}, got t = {method.t}")
        self.negatives: Tensor | None = None
        self._run = ShortRun(self._nats, method.kernel, method.steps, method.graph)

    def _loss(self, x: Tensor, generator: torch.Generator | None, progress: float) -> Tensor:
        level = self._level(x)
        if level is not None:
            noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
            x = level.alpha * x + level.sigma * noise
        self.negatives = negatives = self._walk(x, generator, () if level is None else tuple(vars(level).values()))
        # One pass over data and chains: the network is asked once a batch.
        energies = self.model.at(torch.cat([x, negatives]), level)
        at_data, at_model = energies.split([x.shape[0], negatives.shape[0]])
        check_energies(data=at_data, chains=at_model)
        return contrastive_loss(at_data, at_model, self.model.tau, self.method.regulariser * (1 - progress))

    def _walk(self, x: Tensor, generator: torch.Generator | None, context: tuple[Tensor, ...]) -> Tensor:
        return self._run(x, generator, *context)

    def _nats(self, x: Tensor, *level: Tensor) -> Tensor:
        return self.model.at(x, NoiseLevel(*level) if level else None) / self.model.tau

    def _level(self, like: Tensor) -> NoiseLevel | None:
        t, schedule = self.method.t, self.model.schedule
        return None if t is None or schedule is None else known_levels(self.model, schedule, (t,), like)[0]


class PersistentLearner(ContrastiveLearner):
    """Persistent contrastive divergence at work; see :class:`PersistentCD`.

    Attributes:
        buffer: the chains, ``[capacity, *E]``; None before the first batch.
    """

    method: PersistentCD

    def __init__(self, model: EnergyModel, method: PersistentCD) -> None:
        super().__init__(model, method)
        if method.start is not None:
            check_one_law("start", method.start, model)
        self.buffer: Tensor | None = None

    def _walk(self, x: Tensor, generator: torch.Generator | None, context: tuple[Tensor, ...]) -> Tensor:
        n, capacity = x.shape[0], self.method.capacity
        if n > capacity:
            raise ValueError(f"capacity must be at least the batch's {n}, got {capacity}")
        if self.buffer is None:
            self.buffer = self._starts(capacity, generator, x)
        if self.buffer.dtype != x.dtype or self.buffer.device != x.device:
            raise ValueError(
                f"x must be {self.buffer.dtype} on {self.buffer.device}, as the chains in the buffer, got {x.dtype} on "
                f"{x.device}"
            )
        taken = torch.randperm(capacity, generator=generator, device=x.device)[:n]
        chains = self.buffer[taken]
        if self.method.restart:
            anew = torch.rand(n, generator=generator, dtype=x.dtype, device=x.device) < self.method.restart
            chains = torch.where(right_expand(anew, x), self._starts(n, generator, x), chains)
        chains = self._run(chains, generator, *context)
        self.buffer[taken] = chains
        return chains

    def _starts(self, n: int, generator: torch.Generator | None, like: Tensor) -> Tensor:
        law = self.method.start
        if law is None:
            return torch.randn((n, *like.shape[1:]), generator=generator, dtype=like.dtype, device=like.device)
        return law.to(like.dtype, like.device).sample(n, generator)

    def state(self) -> dict[str, Tensor]:
        """The buffer, once there is one."""
        return {} if self.buffer is None else {"buffer": self.buffer}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on with another run's chains. Raises ValueError for what is no such state."""
        if not state:
            self.buffer = None
            return
        shape = [self.method.capacity, *self.model.event_shape]
        if set(state) != {"buffer"} or list(state["buffer"].shape) != shape:
            got = {name: list(t.shape) for name, t in state.items()}
            raise ValueError(f"state must hold buffer, of shape {shape}, got {got}")
        self.buffer = state["buffer"].clone()
