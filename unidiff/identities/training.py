r"""What a trainer minimises and averages: each weighting as a weighted ELBO, the loss, the EMA, the times."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import cast

import torch

from unidiff.core.boundary import right_expand
from unidiff.core.denoiser import Denoiser, Preconditioning
from unidiff.core.diffusion import Diffusion
from unidiff.core.prediction import Kind
from unidiff.core.times import antithetic_times, finite_span
from unidiff.identities.case import Case
from unidiff.identities.laws import Algebraic, MonteCarlo, Sides
from unidiff.identities.registry import register
from unidiff.train.loss import denoising_loss
from unidiff.train.weighting import WEIGHTINGS, WeightingOptions, elbo_weight, weight


@register
class WeightIsElbo(Algebraic):
    """What multiplies the error under uniform t is ½ w(λ)(−λ'), for each weighting; the two are written apart.

    κ: the weight, times the condition of e^{−λ} in λ, 1 + |λ|, of λ in t, and of a squared logarithm in EDM's.
    """

    name = "weight-is-elbo"
    statement = r"\mathrm{weight}(t)=\frac12\,w(\lambda_t)\,(-\lambda'_t)"
    views = ("vae", "score")
    source = "Kingma & Gao 2023, eq. 8 and table 1"
    subject = "schedule"
    worldless = True

    def sides(self, case: Case) -> Iterable[Sides]:
        options = WeightingOptions(data_std=0.7)
        log_snr = case.schedule.log_snr(case.t).detach()
        rate = -case.schedule.log_snr_derivative(case.t).detach()
        condition = (1 + log_snr.abs()).square() + torch.minimum(case.t, 1 - case.t) * rate * (1 + log_snr.abs())
        # The inverse t(λ) is what w's density of λ goes through; λ' has its own condition there.
        condition = condition * (1 + log_snr.abs() / rate / torch.minimum(case.t, 1 - case.t))
        for name in WEIGHTINGS:
            own = weight(name, case.schedule, case.t, options).detach()
            through = 0.5 * elbo_weight(name, case.schedule, log_snr, options).detach() * rate
            yield Sides(own.to(case.dtype), through.to(case.dtype), own * condition)


@register
class LossIsWeighted(Algebraic):
    """The trainer's loss of the core against weight·‖ε − ε̂‖² from the core's own prediction of ε.

    κ: the weight times ‖ε − ε̂‖², each error at the size of what it is a difference of, α|x_0|/σ included.
    """

    name = "loss-is-weighted"
    statement = r"L_w=\frac12w(\lambda)(-\lambda')\,\|\varepsilon-\hat\varepsilon\|^2"
    views = ("core", "vae", "score")
    source = "Kingma & Gao 2023, eq. 8"
    conditions = "where data and noise are both heard"

    def sides(self, case: Case) -> Iterable[Sides]:
        case = case.heard
        x0, noise, t, level = case.x0, case.noise, case.t, case.level
        p = case.prediction
        error = (noise - p.eps.detach()).flatten(1)
        ratio = (level.alpha / level.sigma)[:, None]
        reach = ratio * (x0.flatten(1).abs() + p.x0.detach().flatten(1).abs())
        size = noise.flatten(1).abs() + p.eps.detach().flatten(1).abs() + reach
        square = error.square().sum(1)
        kappa = square + (2 * error.abs() * size + size.square() * case.eps).sum(1)
        for name in WEIGHTINGS:
            scale = weight(name, case.schedule, t).detach().to(case.dtype)
            own = denoising_loss(case.core, x0, weighting=name, t=t, noise=noise).detach()
            yield Sides(own, scale * square, scale * kappa * (1 + level.log_snr.abs()))


@register
class LossOfEachOutput(Algebraic):
    """The loss of a network that misses its target F* by a known d, for each F: weight·c²‖d‖², c = ∂ε̂/∂F.

    The targets are written from x_0, ε and s = σ/α, EDM's as Karras et al.'s on x/α; a network that is not given
    c_in x_t and λ misses by that much more. κ: the terms of F* − F, and of c²'s exponentials of λ, 1 + |λ|.
    """

    name = "loss-of-each-output"
    statement = (
        r"L_w=\frac12w(-\lambda')\,c^2\|d\|^2,\quad c^2=1\ (\varepsilon),\ e^\lambda\ (x_0),\ "
        r"\alpha^2/\rho^4\ (v),\ \sigma^2\ (s),\ \sigma_d^2/(e^{-\lambda}+\sigma_d^2)\ (\mathrm{EDM})"
    )
    views = ("core", "vae", "score")
    source = "Karras et al. 2022, eq. 7 and table 1; Salimans & Ho 2022, appendix D"
    conditions = "any schedule; steps of |λ| up to 20, a level with some signal"
    subject = "schedule"

    def sides(self, case: Case) -> Iterable[Sides]:
        x0, noise, t, std = case.x0, case.noise, case.t, 0.7
        alpha, sigma = case.expand(case.level.alpha), case.expand(case.level.sigma)
        s, log_snr = sigma / alpha, case.schedule.log_snr(t).detach()
        wide = (s.square() + std**2).sqrt()
        miss = case.normal("miss", *x0.shape)
        rho2 = case.level.alpha.to(torch.float64).square() + case.level.sigma.to(torch.float64).square()
        outputs: tuple[tuple[Kind, Preconditioning, torch.Tensor, torch.Tensor, torch.Tensor | float], ...] = (
            ("eps", "none", noise, torch.ones_like(log_snr), 1.0),
            ("x0", "none", x0, log_snr.exp(), 1.0),
            ("v", "none", alpha * noise - sigma * x0, case.level.alpha.to(torch.float64).square() / rho2.square(), 1.0),
            ("score", "none", -noise / sigma, case.level.sigma.to(torch.float64).square(), 1.0),
            ("x0", "edm", (s * x0 - std**2 * noise) / (std * wide), std**2 / ((-log_snr).exp() + std**2), 1 / wide),
        )
        for kind, preconditioning, target, scale2, shrink in outputs:
            # On x_t/α where EDM scales it, on x_t itself elsewhere.
            seen = shrink * case.xt / alpha if preconditioning == "edm" else case.xt
            said = (target + target.abs().flatten(1).mean().clamp(min=1) * miss).detach()

            def network(x: torch.Tensor, level: torch.Tensor, condition: torch.Tensor | None) -> torch.Tensor:
                off = right_expand(level - case.level.log_snr, x)
                return said + (x - seen) + off  # noqa: B023 - called before the loop moves on

            core = Diffusion(case.schedule, Denoiser(network, case.core.event_shape, kind, preconditioning, std))
            square = (said - target).flatten(1).to(torch.float64).square().sum(1)
            size = (2 * (said - target).abs() * (target.abs() + said.abs() + seen.abs())).flatten(1).sum(1)
            for name in WEIGHTINGS:
                factor = weight(name, case.schedule, t).detach() * scale2
                own = denoising_loss(core, x0, weighting=name, t=t, noise=noise).detach()
                kappa = factor * (square + size.to(torch.float64)) * (1 + log_snr.abs())
                yield Sides(own, (factor * square).to(case.dtype), kappa)


@register
class AverageInTime(Algebraic):
    """The trainer's EMA against its closed form over the parameters θ_0 … θ_n that it saw, one after each step.

    The trainer multiplies by d_i = min(d, (1 + i)/(10 + i)). Up to the last i on the ramp, m, the product telescopes into
    w_i = C(i + 9, 8)/C(m + 10, 9), θ_0 taking the share of i = −1 too; from there on it is a power of d. κ: Σ|terms|.
    """

    name = "ema-closed-form"
    statement = (
        r"\bar\theta_n=d^{\,n-m}\sum_{i=0}^m w_i\theta_i+(1-d)\sum_{i=m+1}^n d^{\,n-i}\theta_i,"
        r"\quad w_i=\frac{9\,(i+9)!\,(m+1)!}{(i+1)!\,(m+10)!}"
    )
    views = ("core",)
    source = "Polyak & Juditsky 1992; Karras et al. 2024, section 3.1 (power functions)"
    conditions = "a trainer of its own, eight steps: four on the ramp, four after it"
    subject = "schedule"

    def applies(self, case: Case) -> bool:
        return case.world_name == "mixture-2d" and case.schedule_name == "linear" and case.device.type == "cpu"

    def sides(self, case: Case) -> Iterable[Sides]:
        from unidiff.train.config import DType, TrainConfig
        from unidiff.train.data import Dataset
        from unidiff.train.trainer import Trainer

        decay, ramp = 0.35, 3  # 4/13 < 0.35 < 5/14
        config = TrainConfig(
            network="mlp", width=8, depth=1, steps=8, batch_size=16, lr=1e-2, warmup=0, ema=decay, log_every=1,
            dtype=cast("DType", case.dtype_name), device="cpu", seed=case.seed,
        )  # fmt: skip
        seen: list[torch.Tensor] = []

        def keep(trainer: Trainer, line: dict[str, float]) -> None:
            seen.append(_flat(trainer.network))

        trainer = Trainer.start(config, Dataset(case.x0.cpu(), None, "drawn"))
        trainer.fit(keep)
        last = len(seen) - 1
        first = [math.comb(i + 9, 8) + (i == 0) for i in range(ramp + 1)]
        weights = [decay ** (last - ramp) * w / math.comb(ramp + 10, 9) for w in first]
        weights += [(1 - decay) * decay ** (last - i) for i in range(ramp + 1, last + 1)]
        closed, size = torch.zeros_like(seen[0]), torch.zeros_like(seen[0])
        for weight_of, theta in zip(weights, seen, strict=True):
            closed, size = closed + weight_of * theta, size + theta.abs()
        yield Sides(_flat(trainer.ema.module), closed, size)


def _flat(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()]).clone()


@register
class AntitheticTimes(MonteCarlo):
    """Stratified times stay uniform: the estimate of an ELBO-weighted mean of a function of t keeps its value.

    The other side is the integral's substitution to λ, over all that the schedule has: E_t[(−λ')φ(λ)] = ∫φ dλ,
    φ = sech²(λ/2)/2, in closed form, on each side of λ = 0.
    """

    name = "antithetic-times"
    statement = r"E_u\left[\frac1B\sum_i h\left((u+i/B)\,\mathrm{mod}\,1\right)\right]=\int_0^1h\,\mathrm{d}t"
    views = ("core", "vae")
    source = "Kingma et al. 2021, appendix I.1"
    subject = "schedule"
    worldless = True
    bound = 0.15

    def applies(self, case: Case) -> bool:
        low, high = case.log_snr_range
        return case.dtype == torch.float64 and low < -1.0 and high > 1.0

    def differences(self, case: Case) -> tuple[torch.Tensor, torch.Tensor]:
        generator, size = case.generator("times"), 16
        span = finite_span(case.schedule)
        t = torch.stack([antithetic_times(size, generator, span=span, device=case.device) for _ in range(3072)])
        width = span[1] - span[0]
        ends = case.schedule.log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64, device=case.device)).detach()
        whole = torch.tanh(ends / 2).abs()
        log_snr = case.schedule.log_snr(t).detach()
        rate = -case.schedule.log_snr_derivative(t).detach()
        value = rate / 2 / torch.cosh(log_snr / 2).square() * width
        sides = torch.stack([(value * side).mean(1) for side in (log_snr > 0, log_snr <= 0)], 1)
        return sides - whole, whole


@register
class StratifiedTimes(Algebraic):
    """One time falls to each interval of length 1/B, and each as far into it. κ: 1, the times' own size."""

    name = "stratified-times"
    statement = r"\{\lfloor Bt_i\rfloor\}=\{0,\ldots,B-1\},\quad Bt_i\ \mathrm{mod}\ 1=Bt_j\ \mathrm{mod}\ 1"
    views = ("core", "vae")
    source = "Kingma et al. 2021, appendix I.1"
    subject = "schedule"
    worldless = True

    def sides(self, case: Case) -> Iterable[Sides]:
        first, last = finite_span(case.schedule)
        t = antithetic_times(case.batch, case.generator("strata"), span=(first, last), device=case.device)
        place, _ = ((t - first) / (last - first)).sort()
        even = torch.arange(1, case.batch, dtype=torch.float64, device=case.device) / case.batch
        yield Sides((place[1:] - place[0]).to(case.dtype), even.to(case.dtype), torch.ones_like(even))
