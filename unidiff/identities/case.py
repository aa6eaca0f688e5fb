r"""A case: one core with one schedule, in one dtype, and the draws on which the identities are measured.

The levels are stratified in log-SNR over [−20, 20], or over as much of it as the schedule has; a quarter of the steps
are short (Δλ = 1e-3), where naive formulas cancel. All identities of a case share its draws, so that the exact
denoiser of a real data set is asked once. Path: x_r, x_s, x_t along the forward chain from x_0, r < s < t.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from unidiff.core.boundary import right_expand
from unidiff.core.diffusion import Diffusion
from unidiff.core.level import NoiseLevel
from unidiff.core.prediction import Prediction
from unidiff.core.process import ForwardProcess
from unidiff.core.schedule import Schedule
from unidiff.identities.window import Window
from unidiff.worlds import Gaussian, PointCloud
from unidiff.worlds.world import World

LOG_SNR_BOUND = 20.0
T = TypeVar("T")


@dataclass
class Case:
    """The subject of a check.

    Attributes:
        exact: whether the core's denoiser is the world's own.
        standard: whether it is one of the standard suite's many, of which some are enough where a schedule says little.
    """

    core: Diffusion
    world: World
    world_name: str
    schedule_name: str
    dtype: torch.dtype
    device: torch.device
    seed: int
    exact: bool = True
    batch: int = 64
    draws: int = 4096
    standard: bool = False
    _kept: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def dtype_name(self) -> str:
        """``float32`` or ``float64``."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def device_name(self) -> str:
        """The device's type."""
        return self.device.type

    @property
    def eps(self) -> float:
        """The dtype's spacing at 1."""
        return torch.finfo(self.dtype).eps

    @property
    def schedule(self) -> Schedule:
        """The core's schedule."""
        return self.core.schedule

    @property
    def process(self) -> ForwardProcess:
        """The core's forward kernels."""
        return self.core.process

    @property
    def dim(self) -> int:
        """D."""
        return self.x0[0].numel()

    def generator(self, purpose: str) -> torch.Generator:
        """A generator of its own for each purpose: no identity's draws depend on which others ran."""
        key = f"{self.seed}/{self.world_name}/{self.schedule_name}/{self.dtype_name}/{purpose}"
        digest = hashlib.sha256(key.encode()).digest()
        return torch.Generator(self.device).manual_seed(int.from_bytes(digest[:7], "big"))

    def normal(self, purpose: str, *shape: int) -> Tensor:
        """Standard normal draws in the case's dtype."""
        return torch.randn(shape, generator=self.generator(purpose), dtype=self.dtype, device=self.device)

    def uniform(self, purpose: str, *shape: int) -> Tensor:
        """Uniform draws, float64."""
        return torch.rand(shape, generator=self.generator(purpose), dtype=torch.float64, device=self.device)

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What ``make`` returns, made for the first identity that asks for it and kept for the others."""
        if name not in self._kept:
            self._kept[name] = make()
        return self._kept[name]

    # -- levels ----------------------------------------------------------------------------------------------------

    @cached_property
    def log_snr_range(self) -> tuple[float, float]:
        """The least and the greatest log-SNR that the case visits."""
        ends = self.schedule.log_snr(torch.tensor([1.0, 0.0], dtype=torch.float64, device=self.device)).detach()
        low, high = ends.clamp(-LOG_SNR_BOUND, LOG_SNR_BOUND).tolist()
        return low, high

    def window(self, low: float, high: float) -> tuple[float, float]:
        """What the schedule has of [low, high]; the nearest stretch of it as wide, where that is less than a nat."""
        least, most = self.log_snr_range
        inner = max(low, least), min(high, most)
        if inner[1] - inner[0] >= min(1.0, most - least):
            return inner
        width = min(high - low, most - least)
        start = min(max(low, least), most - width)
        return start, start + width

    def overlaps(self, low: float, high: float) -> bool:
        """Whether the schedule has at least a nat of [low, high]."""
        least, most = self.log_snr_range
        return min(high, most) - max(low, least) >= 1.0

    @cached_property
    def has_spread(self) -> bool:
        """Whether the data are more than one point, so that there is something to estimate."""
        return bool(self.world.variance.sum() > 0)

    @property
    def reaches_zero_snr(self) -> bool:
        """Whether α is 0 at t = 1, where nothing can be divided by it."""
        return float(self.schedule.alpha(1.0).detach()) == 0.0

    @cached_property
    def heard(self) -> Case:
        """The case on the part of its schedule where data and noise are both heard, as a schedule of its own.

        There (4 nats each side of equal scales; less for a data set, whose points are told apart sooner) the terms of a
        chain and of a second derivative are of the size of their sum.
        """
        span = (-6.0, -1.0) if isinstance(self.world, PointCloud) else (-4.0, 4.0)
        inside = Window.between(self.schedule, *self.window(*span))
        return replace(self, core=Diffusion(inside, self.core.denoiser))

    @property
    def legible(self) -> Case:
        """Itself in float64; in float32, which has seven digits to lose, :attr:`heard`."""
        return self if self.dtype == torch.float64 else self.heard

    @cached_property
    def times(self) -> tuple[Tensor, Tensor, Tensor]:
        """r < s < t, each ``[B]``, float64."""
        low, high = self.log_snr_range
        u = (
            torch.arange(self.batch, dtype=torch.float64, device=self.device) + self.uniform("t", self.batch)
        ) / self.batch
        room = min(0.1, 0.1 * (high - low))
        at_t = low + (high - room - low) * u
        share = 0.02 + 0.96 * self.uniform("s", 2, self.batch)
        at_s = at_t + (high - at_t) * share[0]
        at_s[::4] = at_t[::4] + 0.01 * room
        at_r = at_s + (high - at_s) * share[1]
        r, s, t = (self.schedule.time(v).detach() for v in (at_r, at_s, at_t))
        return r, s, t

    @property
    def r(self) -> Tensor:
        """The earliest time, ``[B]``."""
        return self.times[0]

    @property
    def s(self) -> Tensor:
        """The middle time, ``[B]``."""
        return self.times[1]

    @property
    def t(self) -> Tensor:
        """The latest time, ``[B]``."""
        return self.times[2]

    @cached_property
    def level(self) -> NoiseLevel:
        """The level at t, in the case's dtype."""
        return _detached(self.schedule.level(self.t, self.x0))

    @cached_property
    def level_s(self) -> NoiseLevel:
        """The level at s, in the case's dtype."""
        return _detached(self.schedule.level(self.s, self.x0))

    # -- states ----------------------------------------------------------------------------------------------------

    @cached_property
    def x0(self) -> Tensor:
        """Data, ``[B, *E]``."""
        return self.world.sample(self.batch, generator=self.generator("x0")).reshape(-1, *self.core.event_shape)

    @cached_property
    def noise(self) -> Tensor:
        """ε of x_t given x_0, ``[B, *E]``."""
        return self.normal("noise", *self.x0.shape)

    @cached_property
    def xt(self) -> Tensor:
        """x_t = α x_0 + σ ε, ``[B, *E]``."""
        return self.expand(self.level.alpha) * self.x0 + self.expand(self.level.sigma) * self.noise

    @cached_property
    def xs(self) -> Tensor:
        """x_s given x_t and x_0 by the reverse of the forward path: a draw of q(x_s|x_t, x_0)."""
        return self.process.posterior(self.xt, self.x0, self.s, self.t).sample(self.generator("xs")).detach()

    @cached_property
    def prediction(self) -> Prediction:
        """The core's word on x_t."""
        return self.core.predict(self.xt, self.t)

    @cached_property
    def mixed(self) -> Draws:
        """Many draws at a few informative levels, for expectations."""
        return Draws.of(self)

    def expand(self, value: Tensor) -> Tensor:
        """A per-member value, shaped to multiply a state."""
        return right_expand(value.to(self.dtype), self.x0)


@dataclass(frozen=True)
class Draws:
    """n joint draws (x_0, ε, x_t), what the world knows about each and what the core says of it.

    The log-SNRs lie between −3 and 3: where data and noise are both heard, so that nothing compared is negligible.

    Attributes:
        t, level, x0, noise, xt: the draws.
        score, trace: ∇ log q_t(x_t) ``[n, *E]`` and tr Cov[x_0|x_t] ``[n]``, by the world.
        core_x0, core_score: the core's own, ``[n, *E]``.
    """

    t: Tensor
    level: NoiseLevel
    x0: Tensor
    noise: Tensor
    xt: Tensor
    score: Tensor
    trace: Tensor
    core_x0: Tensor
    core_score: Tensor

    @staticmethod
    def of(case: Case) -> Draws:
        n = case.draws
        low, high = case.window(-3.0, 3.0)
        log_snr = low + (high - low) * (torch.arange(n, dtype=torch.float64, device=case.device) + 0.5) / n
        t = case.schedule.time(log_snr).detach()
        x0 = case.world.sample(n, generator=case.generator("draws")).reshape(-1, *case.core.event_shape)
        level = _detached(case.schedule.level(t, x0))
        noise = case.normal("draws noise", *x0.shape)
        xt = right_expand(level.alpha, x0) * x0 + right_expand(level.sigma, x0) * noise
        # In blocks, which keeps the weights of a whole data set in cache.
        size = 256 if case.dim > 16 else n
        blocks = [_asked(case, xt[k : k + size], level[slice(k, k + size)]) for k in range(0, n, size)]
        return Draws(t, level, x0, noise, xt, *(torch.cat(column) for column in zip(*blocks, strict=True)))


def _asked(case: Case, xt: Tensor, level: NoiseLevel) -> tuple[Tensor, ...]:
    score = case.world.diffuse(level.alpha, level.sigma).score(xt)
    trace = case.world.posterior(xt, level.alpha, level.sigma).variance.flatten(1).sum(1)
    own = case.core.denoiser(xt, level)
    return score, trace, own.x0.detach(), own.score.detach()


def _detached(level: NoiseLevel) -> NoiseLevel:
    return NoiseLevel(level.t.detach(), level.log_snr.detach(), level.alpha.detach(), level.sigma.detach())


def smooth(case: Case) -> bool:
    """Whether the law of the data has a smooth density; a data set's has none, and its flow is stiff."""
    return not isinstance(case.world, PointCloud)


def affordable(case: Case) -> bool:
    """Of what a flow makes dear: float32 adds rounding alone, and that is seen on the cheapest world."""
    return smooth(case) and (case.dtype == torch.float64 or isinstance(case.world, Gaussian))


def sampled(case: Case) -> bool:
    """Of what a schedule enters by its λ alone, in the standard suite: three schedules, one VE; a data set under one."""
    if not case.standard:
        return True
    if not smooth(case):
        return case.schedule_name == "cosine"
    return case.schedule_name in ("cosine", "polynomial") or not case.schedule.variance_preserving
