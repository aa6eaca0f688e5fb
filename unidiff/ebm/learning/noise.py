r"""Noise-contrastive estimation: a density by telling its draws from those of a law that is known.

    logit(x) = log p_θ(x) − log p_n(x) − log ν,   L = −E_p log sig(logit) − ν E_{p_n} log sig(−logit)

with ν draws of noise for each datum. At the optimum logit* = log p − log p_n − log ν (Gutmann & Hyvarinen 2010, theorem 1;
IDENTITIES item 47), so that p_θ = e^{−E/τ − z} is learned with its constant z: no partition function is ever computed.

Where p and p_n hardly overlap, nothing is learned from telling them apart. Between adjacent levels of noise there is
overlap (Rhodes et al. 2020, section 3; here with the noise of a schedule), and the ratios telescope:

    log q_{t_0}(x) = log N(x; 0, prior) + Σ_k log q_{t_k}(x)/q_{t_{k+1}}(x).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unidiff.core.boundary import check_flag, check_positive, check_type, right_expand
from unidiff.core.gaussian import Gaussian
from unidiff.ebm.learning.method import (
    EnergyLearner,
    EnergyMethod,
    check_energies,
    check_one_law,
    check_timed,
    check_timeless,
    check_times_told,
    known_levels,
)
from unidiff.ebm.model import EnergyModel
from unidiff.worlds.world import World


class Normaliser(nn.Module):
    """The constants z ``[K]`` with which e^{−E/τ − z} is a density, in nats, learned; zeros at first."""

    def __init__(self, count: int, like: Tensor) -> None:
        super().__init__()
        self.log_z = nn.Parameter(torch.zeros(count, dtype=like.dtype, device=like.device))


@dataclass(frozen=True)
class NoiseContrastive(EnergyMethod):
    """Data against draws of one known law.

    Attributes:
        noise: p_n, a world with a density, in the shape of the data.
        ratio: ν, draws of noise for each datum, above 0. For a batch of B the nearest whole number is drawn, and ν is that
            number over B.
        constant: whether z is learned besides; without it the energy must carry its own.

    Raises:
        TypeError, ValueError: naming the option.
    """

    name: ClassVar[str] = "nce"
    source: ClassVar[str] = "Gutmann & Hyvarinen 2010, eq. 3 and theorem 1"

    noise: World
    ratio: float = 1.0
    constant: bool = True

    def __post_init__(self) -> None:
        check_type("noise", self.noise, World)
        check_positive("ratio", self.ratio)
        check_flag("constant", self.constant)

    def learner(self, model: EnergyModel) -> NoiseContrastiveLearner:
        """What runs.

        Raises:
            ValueError: an energy with a schedule; a noise of another shape than the model's, of many laws, or without a
                density (a cloud of points).
        """
        return NoiseContrastiveLearner(model, self)


class NoiseContrastiveLearner(EnergyLearner):
    """Noise-contrastive estimation at work; see :class:`NoiseContrastive`."""

    module: Normaliser | None = None

    def __init__(self, model: EnergyModel, method: NoiseContrastive) -> None:
        super().__init__(model)
        check_timeless(method.name, model)
        check_one_law("noise", method.noise, model)
        method.noise.log_prob(torch.zeros_like(method.noise.mean)[None])
        self.method = method
        if method.constant:
            self.module = Normaliser(1, _first(model, method.noise.mean))

    def log_prob(self, x: Tensor) -> Tensor:
        """log p_θ = −E/τ − z at ``x`` ``[B, *E]``, in nats, ``[B]``: a density's once it has been learned."""
        value = -self.model.at(x) / self.model.tau
        return value if self.module is None else value - self.module.log_z[0]

    def _loss(self, x: Tensor, generator: torch.Generator | None, progress: float) -> Tensor:
        n = x.shape[0]
        m = max(1, round(self.method.ratio * n))
        law = self.method.noise.to(x.dtype, x.device)
        both = torch.cat([x, law.sample(m, generator)])
        log_prob = self.log_prob(both)
        check_energies(data=log_prob[:n], noise=log_prob[n:])
        logit = log_prob - law.log_prob(both, check=False) - math.log(m / n)
        return F.softplus(-logit[:n]).mean() + m / n * F.softplus(logit[n:]).mean()


@dataclass(frozen=True)
class RatioChain(EnergyMethod):
    """Each level of noise against the next, and the last against the prior.

    Attributes:
        times: t_0 < … < t_K in [0, 1], at least two; at the last, q_t must be near the schedule's prior.

    Raises:
        TypeError, ValueError: naming the option.
    """

    name: ClassVar[str] = "ratio-chain"
    source: ClassVar[str] = "Rhodes et al. 2020, section 3; Gutmann & Hyvarinen 2010, theorem 1"

    times: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

    def __post_init__(self) -> None:
        check_times_told(self.times, 2)

    def learner(self, model: EnergyModel) -> RatioChainLearner:
        """What runs. Raises ValueError for an energy without a schedule."""
        return RatioChainLearner(model, self)


class RatioChainLearner(EnergyLearner):
    """The chain of ratios at work; see :class:`RatioChain`. Its constants are one for each level."""

    module: Normaliser

    def __init__(self, model: EnergyModel, method: RatioChain) -> None:
        super().__init__(model)
        self.schedule = check_timed(method.name, model)
        self.method = method
        self.module = Normaliser(len(method.times), _first(model, torch.zeros(())))

    def log_prob(self, x: Tensor, k: Tensor | int = 0) -> Tensor:
        """log q at time ``times[k]`` (one, or ``[B]``) at ``x`` ``[B, *E]``, in nats, ``[B]``, once it has been learned."""
        known = known_levels(self.model, self.schedule, self.method.times, x)
        index = torch.as_tensor(k, device=x.device).expand(x.shape[0])
        return -self.model.at(x, known[index]) / self.model.tau - self.module.log_z[index]

    def _loss(self, x: Tensor, generator: torch.Generator | None, progress: float) -> Tensor:
        known = known_levels(self.model, self.schedule, self.method.times, x)
        last = len(self.method.times) - 1
        k = torch.randint(last + 1, x.shape[:1], generator=generator, device=x.device)
        noise, others = torch.randn((2, *x.shape), generator=generator, dtype=x.dtype, device=x.device).unbind()
        ends, after = right_expand(k == last, x), (k + 1).clamp(max=last)
        here, there = known[k], known[after]
        near = right_expand(here.alpha, x) * x + right_expand(here.sigma, x) * noise
        far = right_expand(there.alpha, x) * x + right_expand(there.sigma, x) * others
        far = torch.where(ends, self.schedule.prior_std * others, far)
        both, index, above = torch.cat([near, far]), k.repeat(2), after.repeat(2)
        log_near, log_far = self.log_prob(both.repeat(*_twice(x)), torch.cat([index, above])).chunk(2)
        log_std = torch.full_like(both, self.schedule.prior_std).log()
        log_prior = Gaussian(torch.zeros_like(both), 2 * log_std).log_prob(both)
        check_energies(**{"data and their noisings": log_near, "the next level's": log_far})
        logit = log_near - torch.where(index == last, log_prior, log_far)
        of_near, of_far = logit.chunk(2)
        return F.softplus(-of_near).mean() + F.softplus(of_far).mean()


def _twice(x: Tensor) -> tuple[int, ...]:
    return (2, *(1,) * (x.ndim - 1))


def _first(model: EnergyModel, otherwise: Tensor) -> Tensor:
    """A parameter of the model, whose dtype and device a constant shares; ``otherwise`` where it has none."""
    return next((p for p in model.parameters() if p.is_floating_point()), otherwise)
