r"""A learned schedule, trained: its ends by the bound, its inside by the variance of the bound's estimate.

With γ = −λ, one draw of x_0, ε and t ~ U[0, 1] estimates the bound's diffusion term by L = ½γ'(t)‖ε − ε̂(x_t, λ_t)‖².
Its mean depends on λ's ends alone (Kingma et al. 2021, eq. 17 and 18), so

    ends:    ∇ E[L] + ∇ KL(q(x_1|x_0) ‖ N(0, I)) − ∇ E log p(x_0|x_{t_0})       (the whole bound)
    inside:  ∇ Var[L] = ∇ E[L²] = E[2 L ∇L]                                     (their appendix I.2)

L is a function of the schedule through λ_t and λ'_t alone. So the backward pass that trains the network also gives
∂L/∂λ_t, one number a datum, and both gradients are products of these with ∂λ_t and ∂λ'_t. Whatever the network's own
loss weighting W is, ‖ε − ε̂‖² and its slope are had from W‖ε − ε̂‖² by the ratio of the two weights.

As λ_min falls the bound never rises, so its noise would carry that end away, and grids that are even in λ with it. The
ends stay within ±20, for which the library's arithmetic is verified; at −20 the prior costs 1e-8 nats a number or less.

The least E[L²] is known: under the density p(λ) of λ it is ∫E[(½‖ε − ε̂‖²)² | λ]/p dλ, least for p ∝ √E[‖ε − ε̂‖⁴ | λ].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unidiff.core.boundary import Time, check_time, send
from unidiff.core.decoders import ContinuousDecoder, Decoder, DiscretisedDecoder, Levels
from unidiff.core.diffusion import Diffusion
from unidiff.core.gaussian import Gaussian
from unidiff.core.level import NoiseLevel
from unidiff.core.schedule import Schedule
from unidiff.core.schedule_learned import Learned
from unidiff.train.average import Average
from unidiff.train.config import Learn, TrainConfig
from unidiff.train.data import Dataset
from unidiff.train.weighting import Weighting, WeightingOptions, log_weight

_REACH = 20.0  # |λ|


class Sampled(Schedule):
    """A schedule at the times of one batch, its λ there a leaf: what reads levels has a slope in it, weights have none.

    The times are known by the host, which looks at them; what follows from them stays on the schedule's device, so that
    nobody waits for it.

    Attributes:
        t: the times ``[B]``, float64; no others may be asked for.
        at: the same, on the schedule's device.
        leaf: λ_t ``[B]``, float64, there, whose gradient a backward pass fills in.
        rate: dλ/dt there.
    """

    def __init__(self, schedule: Learned, t: Tensor) -> None:
        self.of, self.t = schedule, t
        self.at = send(check_time("t", t), schedule.log_snr_max)
        self.leaf = schedule._log_snr(self.at).detach().requires_grad_()
        self.rate = schedule._log_snr_derivative(self.at).detach()

    def log_snr_derivative(self, t: Time) -> Tensor:
        """dλ/dt at the batch's times; a learned schedule has one everywhere."""
        return self._log_snr_derivative(check_time("t", t))

    def _log_snr(self, t: Tensor) -> Tensor:
        self._check_own(t)
        return self.leaf.detach()

    def _log_snr_derivative(self, t: Tensor) -> Tensor:
        self._check_own(t)
        return self.rate

    def _time(self, log_snr: Tensor) -> Tensor:
        return self.of._time(log_snr)

    def _options(self) -> dict[str, object]:
        return self.of._options()

    def _level(self, t: Tensor, log_snr: Tensor, like: Tensor | None) -> NoiseLevel:
        return super()._level(self.at, self.leaf, like)

    def _check_own(self, t: Tensor) -> None:
        if t is not self.t:
            raise ValueError("t must be the batch's own times, which were sampled")


@dataclass(frozen=True, eq=False)
class Slopes:
    """L and its slopes, one a datum, float64 ``[B]``: what one backward pass tells of the schedule."""

    loss: Tensor
    by_log_snr: Tensor
    by_rate: Tensor

    @staticmethod
    def of(
        sampled: Sampled, weighted: Tensor, share: float, weighting: Weighting, options: WeightingOptions | None = None
    ) -> Slopes:
        """From the weighted loss ``[B]`` of the batch, after a backward pass of ``share`` times its sum."""
        assert sampled.leaf.grad is not None
        with torch.no_grad():
            t = sampled.t
            ratio = (log_weight("elbo", sampled, t) - log_weight(weighting, sampled, t, options)).exp()
            loss = weighted.detach().to(ratio) * ratio
            return Slopes(loss, sampled.leaf.grad / share * ratio, loss / sampled.log_snr_derivative(t))


def learn_inside(sampled: Sampled, slopes: Slopes, dim: int = 1) -> Tensor:
    """Put ∇ mean(L²)/D² into the inside's gradients; returns mean(L²)/D²."""
    schedule, scale = sampled.of, 2 * slopes.loss / (sampled.t.numel() * dim**2)
    outputs = [schedule._log_snr(sampled.at), schedule._log_snr_derivative(sampled.at)]
    found = torch.autograd.grad(outputs, schedule.inside, [scale * slopes.by_log_snr, scale * slopes.by_rate])
    _adopt(schedule.inside, found)
    return slopes.loss.square().mean() / dim**2


def learn_ends(sampled: Sampled, slopes: Slopes, costs: Tensor, dim: int = 1) -> None:
    """Put ∇ (mean(L) + costs)/D into the ends' gradients; ``costs`` ``[]`` is :func:`end_costs`'."""
    schedule, n = sampled.of, sampled.t.numel() * dim
    outputs = [schedule._log_snr(sampled.at), schedule._log_snr_derivative(sampled.at), costs]
    weights = [slopes.by_log_snr / n, slopes.by_rate / n, torch.full_like(costs, 1 / dim)]
    _adopt(schedule.ends, torch.autograd.grad(outputs, schedule.ends, weights))


def confine_ends(schedule: Learned, reach: float = _REACH) -> None:
    """Put ends that have left [−reach, reach] back on its edge; the host waits for nothing."""
    with torch.no_grad():
        schedule.log_snr_max.clamp_(max=reach)
        schedule.log_span.copy_(torch.minimum(schedule.log_span, (schedule.log_snr_max + reach).log()))


def end_costs(schedule: Learned, x0: Tensor, decoder: Decoder, noise: Tensor) -> Tensor:
    """KL(q(x_1|x_0) ‖ N(0, I)) − log p(x_0|x_0's noisy copy at t = 0), in nats, a mean over x0 ``[B, *E]``.

    The bound's two ends, all on the schedule's device; ``decoder`` asks no network.
    """
    t = torch.arange(2, dtype=torch.float64, device=schedule.log_snr_max.device)
    log_snr = schedule._log_snr(t)
    level = schedule._level(t, log_snr, x0)
    first, last = level[0], level[1]
    log_var = send(2 * schedule._log_sigma_at(log_snr[1]), x0)
    prior = Gaussian(last.alpha * x0, log_var).kl(Gaussian(torch.zeros_like(x0), torch.zeros_like(log_var)))
    xt = first.alpha * x0 + first.sigma * noise
    return (prior - decoder.log_prob(x0, xt, first, None)).mean()


def decoder_of(data: Dataset) -> Decoder:
    """The law of data given x_{t_0} under which the ends are trained; it asks no network (Kingma et al. 2021, eq. 11).

    Of data with levels (``scale`` apart in [−1, 1]) a probability, of numbers a density.
    """
    if data.scale == 1.0:
        return ContinuousDecoder("state")
    return DiscretisedDecoder(Levels(round(2 / data.scale) + 1), "state")


class ScheduleLearner:
    """A trainer's share in its core's learned schedule.

    Args:
        core: with a :class:`~unidiff.core.schedule_learned.Learned` schedule.
        learn: "all", or "inside" with the ends held.
        decoder: of the ends.
    """

    def __init__(self, core: Diffusion, learn: Learn, decoder: Decoder) -> None:
        assert isinstance(core.schedule, Learned)
        self.core, self.schedule, self.learn, self.decoder = core, core.schedule, learn, decoder
        self.ema = Average(core.schedule)
        # A schedule that starts wider may stay so.
        built = core.schedule._options()
        self.reach = max(_REACH, abs(built["log_snr_max"]), abs(built["log_snr_min"]))

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is trained."""
        return [*self.schedule.inside, *(self.schedule.ends if self.learn == "all" else ())]

    def line(self) -> dict[str, float]:
        """The ends, for a line of the log."""
        high, low = self.schedule.log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
        return {"log_snr_max": high, "log_snr_min": low}

    def draw(self, t: Tensor) -> tuple[Diffusion, Sampled]:
        """The core at the batch's times."""
        sampled = Sampled(self.schedule, t)
        return Diffusion(sampled, self.core.denoiser), sampled

    def take(self, sampled: Sampled, slopes: Slopes, x0: Tensor, generator: torch.Generator) -> None:
        """Fill in the schedule's gradients, after the network's backward pass."""
        dim = x0[0].numel()
        learn_inside(sampled, slopes, dim)
        if self.learn == "all":
            noise = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
            learn_ends(sampled, slopes, end_costs(self.schedule, x0, self.decoder, noise), dim)

    def moved(self, decay: float) -> None:
        """After the optimiser's step: keep the ends in reach, and average."""
        if self.learn == "all":
            confine_ends(self.schedule, self.reach)
        self.ema.update(decay)


def learner_of(core: Diffusion, config: TrainConfig, data: Dataset) -> ScheduleLearner | None:
    """The learner of the core's schedule; None if that is not learned, or to be left alone.

    Raises:
        ValueError: a loss other than denoising, whose slope in λ is not the bound's.
    """
    if not isinstance(core.schedule, Learned) or config.learn_schedule == "none":
        return None
    if config.loss != "denoising":
        raise ValueError(
            f"loss must be 'denoising' to train a learned schedule (or learn_schedule 'none'), got {config.loss!r}"
        )
    return ScheduleLearner(core, config.learn_schedule, decoder_of(data))


def _adopt(parameters: tuple[nn.Parameter, ...], gradients: tuple[Tensor, ...]) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
