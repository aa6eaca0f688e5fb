r"""Recovery likelihood: the model's conditional law of x_s given a noisier x_t, by maximum likelihood.

    p_θ(x_s|x_t) ∝ q(x_t|x_s) e^{−E(x_s,s)/τ},   −∂_θ log p_θ(x_s|x_t) = (∂_θE(x_s) − E_{p_θ(·|x_t)} ∂_θE)/τ

(Gao et al. 2021, eq. 8 and 9; IDENTITIES item 41). The pull of q(x_t|x_s), a Gaussian in x_s of centre x_t/α_{t|s} and
deviation ς = σ_{t|s}/α_{t|s}, makes the conditional law nearly a Gaussian, in which a short run of a chain mixes; E is
nevertheless learned as −τ log q_s + const, a marginal's. The chain walks in units in which that law would be N(0, I) for
data N(0, I), from its mean there:

    x_s = m + ρu,   N(m, ρ²) ∝ N(x_t/α_{t|s}, ς²) · N(0, α_s² + σ_s²),   U(u) = E(x_s, s)/τ + ½‖x_s − x_t/α_{t|s}‖²/ς²,

so that one step size serves every pair of levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unidiff.core.boundary import check_count, check_flag, check_type, right_expand
from unidiff.core.gaussian import Gaussian
from unidiff.core.level import NoiseLevel
from unidiff.core.process import ForwardProcess
from unidiff.core.schedule import Schedule
from unidiff.ebm.learning.chains import ShortRun
from unidiff.ebm.learning.contrast import contrastive_loss
from unidiff.ebm.learning.method import (
    EnergyLearner,
    EnergyMethod,
    check_energies,
    check_timed,
    check_times_told,
    known_levels,
)
from unidiff.ebm.model import EnergyModel
from unidiff.mcmc import ULA, Kernel

_KERNEL = ULA(0.1)


@dataclass(frozen=True)
class RecoveryLikelihood(EnergyMethod):
    """Recovery likelihood between adjacent times.

    Attributes:
        times: t_0 < … < t_K in [0, 1], at least two: a datum gets a pair of neighbours.
        steps: k of the chain.
        kernel: of the chain; its step size is in units of u, where data of unit variance make a unit Gaussian.
        graph: on a GPU, capture the chain's steps once and replay them; False for an energy that cannot be captured.

    Raises:
        TypeError, ValueError: naming the option.
    """

    name: ClassVar[str] = "recovery"
    source: ClassVar[str] = "Gao et al. 2021, eq. 8-10 and algorithm 1"

    times: tuple[float, ...] = (0.05, 0.2, 0.4, 0.6, 0.8, 1.0)
    steps: int = 20
    kernel: Kernel = _KERNEL
    graph: bool = True

    def __post_init__(self) -> None:
        check_times_told(self.times, 2)
        check_flag("graph", self.graph)
        check_count("steps", self.steps)
        check_type("kernel", self.kernel, Kernel)

    def learner(self, model: EnergyModel) -> RecoveryLearner:
        """What runs. Raises ValueError for an energy without a schedule, or a time where nothing is left of the data."""
        return RecoveryLearner(model, self)


@dataclass(frozen=True)
class Conditional:
    """The law ∝ q(x_t|x_s) e^{−E(x_s,s)/τ} of x_s, one for each row.

    Attributes:
        centre: x_t/α_{t|s}, ``[B, *E]``.
        width: ς = σ_{t|s}/α_{t|s}, ``[B, 1, …]``, in units of x.
        start: m, ``[B, *E]``.
        scale: ρ, ``[B, 1, …]``, in units of x.
        level: of s, ``[B]``.
    """

    centre: Tensor
    width: Tensor
    start: Tensor
    scale: Tensor
    level: NoiseLevel

    @staticmethod
    def of(schedule: Schedule, xt: Tensor, s: Tensor, t: Tensor) -> Conditional:
        """The law at times s given ``xt`` ``[B, *E]`` at times t, each ``[B]``, float64. Raises ValueError unless s < t."""
        alpha_ts, log_var = ForwardProcess(schedule).transition_coefficients(s, t)
        alpha_ts, log_width = alpha_ts.detach(), (0.5 * log_var - alpha_ts.log()).detach()
        exact = schedule.level(s)
        level = NoiseLevel(*(v.detach().to(xt) for v in vars(exact).values()))
        log_spread = (exact.alpha.square() + exact.sigma.square()).log().detach()
        centre = xt / right_expand(alpha_ts.to(xt), xt)
        wide, spread = (right_expand(v.to(xt), xt) for v in (2 * log_width, log_spread))
        near, _ = Gaussian(centre, wide).product(Gaussian(torch.zeros_like(xt), spread))
        return Conditional(centre, (0.5 * wide).exp(), near.mean, near.std, level)

    def state(self, u: Tensor) -> Tensor:
        """x_s at ``u`` ``[B, *E]``, ``[B, *E]``."""
        return self.start + self.scale * u

    def energy(self, model: EnergyModel, xs: Tensor) -> Tensor:
        """U at ``xs`` ``[B, *E]``, in nats, ``[B]``: −log p_θ(x_s|x_t) up to what does not depend on x_s."""
        pull = ((xs - self.centre) / self.width).flatten(1).square().sum(1)
        return model.at(xs, self.level) / model.tau + 0.5 * pull

    def tensors(self) -> tuple[Tensor, ...]:
        """All of it, in order."""
        return (self.centre, self.width, self.start, self.scale, *vars(self.level).values())

    @staticmethod
    def from_tensors(centre: Tensor, width: Tensor, start: Tensor, scale: Tensor, *level: Tensor) -> Conditional:
        """What :meth:`tensors` gave."""
        return Conditional(centre, width, start, scale, NoiseLevel(*level))


class RecoveryLearner(EnergyLearner):
    """Recovery likelihood at work; see :class:`RecoveryLikelihood`."""

    def __init__(self, model: EnergyModel, method: RecoveryLikelihood) -> None:
        super().__init__(model)
        self.schedule = check_timed(method.name, model)
        self.method = method
        if not float(self.schedule.alpha(method.times[-1]).detach()) > 0:
            raise ValueError(
                f"times must have alpha > 0, where x_t still knows of x_s, got {method.times[-1]} at the end"
            )
        self._run = ShortRun(self._nats, method.kernel, method.steps, method.graph)

    def _loss(self, x: Tensor, generator: torch.Generator | None, progress: float) -> Tensor:
        known_levels(self.model, self.schedule, self.method.times, x)
        times = torch.tensor(self.method.times, dtype=torch.float64, device=x.device)
        k = torch.randint(len(times) - 1, x.shape[:1], generator=generator, device=x.device)
        s, t = times[k], times[k + 1]
        process = ForwardProcess(self.schedule)
        xs = process.marginal(x, s).sample(generator).detach()
        xt = process.transition(xs, s, t).sample(generator).detach()
        law = Conditional.of(self.schedule, xt, s, t)
        found = law.state(self._run(torch.zeros_like(x), generator, *law.tensors()))
        energies = self.model.at(torch.cat([xs, found]), law.level.repeat(2))
        at_data, at_model = energies.chunk(2)
        check_energies(data=at_data, chains=at_model)
        return contrastive_loss(at_data, at_model, self.model.tau)

    def _nats(self, u: Tensor, *law: Tensor) -> Tensor:
        conditional = Conditional.from_tensors(*law)
        return conditional.energy(self.model, conditional.state(u))
