r"""Items 7 and 10: a chain in the other convention, and every sampler's step as the chain's kernel or one of its kin."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from unidiff.core.boundary import right_expand
from unidiff.core.denoiser import RescaledDenoiser
from unidiff.core.diffusion import Diffusion
from unidiff.core.grid import TimeGrid
from unidiff.core.level import NoiseLevel
from unidiff.core.prediction import Prediction
from unidiff.core.sampling import Sampler
from unidiff.identities.case import Case
from unidiff.identities.laws import Algebraic, Sides
from unidiff.identities.registry import register

STEPS = 5


def grid_of(case: Case, steps: int = STEPS) -> TimeGrid:
    """A grid over the log-SNRs that the case visits, from the highest to t = 1."""
    low, high = case.window(-8.0, 8.0)
    inner = torch.linspace(high, low, steps, dtype=torch.float64)
    times = case.schedule.time(inner.to(case.device)).detach().cpu()
    if times[-1] > 1 - 1e-6:
        times = times[:-1]
    return TimeGrid([*times.tolist(), 1.0])


class Frozen:
    """A denoiser whose x̂_0 is a fixed linear map of the state: the subject of one-row comparisons."""

    def __init__(self, event_shape: tuple[int, ...]) -> None:
        self.event_shape = event_shape

    def __call__(
        self, xt: Tensor, level: NoiseLevel, condition: Tensor | None = None, guidance: float = 1.0
    ) -> Prediction:
        gain = level.alpha / (level.alpha**2 + level.sigma**2)
        return Prediction(xt, level, {"x0": right_expand(gain, xt) * xt}, guarded=False)


@register
class VpVe(Algebraic):
    """Item 7: a chain's step in the other convention, the denoiser rescaled. κ: |a x_t| + |b x̂_0| with x̂_0's own."""

    name = "vp-ve"
    statement = r"p_\theta(x_s|x_t)\ \mathrm{and\ the\ kernel\ of}\ x/\alpha\ \mathrm{are\ one}"
    views = ("core", "score")
    source = "Kingma et al. 2021, section 3.3; Karras et al. 2022, appendix C"

    def sides(self, case: Case) -> Iterable[Sides]:
        core = case.core
        other = core.schedule.as_ve() if core.schedule.variance_preserving else core.schedule.as_vp()
        twin = Diffusion(other, RescaledDenoiser(core.denoiser, core.schedule))
        grid = grid_of(case)
        own, theirs = core.chain(grid), twin.chain(grid)
        for k in (2, grid.steps // 2, grid.steps - 1):
            t, s = grid.times[k], grid.times[k - 1]
            at_t, at_s = (core.schedule.level(v, case.x0) for v in (t, s))
            to_t, to_s = (other.level(v, case.x0) for v in (t, s))
            xt = (at_t.alpha * case.x0 + at_t.sigma * case.noise).detach()
            scale = (to_t.alpha / at_t.alpha).detach()
            step, moved = own.step(xt, k), theirs.step(scale * xt, k)
            back = (at_s.alpha / to_s.alpha).detach()
            kappa = _mean_kappa(case, xt, at_t, own.table.on_xt[k - 1], own.table.on_x0[k - 1])
            yield Sides(step.mean, back * moved.mean, kappa)
            stored = 1 + step.log_var.abs() + moved.log_var.abs()
            yield Sides(step.var, back.square() * moved.var, step.var * stored)


def denoiser_kappa(case: Case, xt: Tensor, level: NoiseLevel) -> Tensor:
    r"""What rounding costs the exact x̂_0 = Σ w_i x_i: ‖x̂_0‖ + δℓ·‖std‖, δℓ = (D + ‖z‖√D/σ) the logits' own condition.

    Norms, not entries: a world works in the axes of its covariances. A logit −‖z − αx‖²/2σ² is of size D at the points
    that count, and inherits the rounding of z as ‖z‖‖z − αx‖/σ² with ‖z − αx‖ ≈ σ√D. A network has no such known
    condition; it is asked to the same one.
    """
    posterior = case.world.posterior(xt, level.alpha, level.sigma)
    std = posterior.variance.clamp(min=0).sqrt().flatten(1)
    dim = std.shape[1]
    norm = xt.flatten(1).norm(dim=1)
    logit = dim + norm * dim**0.5 / level.sigma
    spread = std.norm(dim=1)
    return right_expand(posterior.mean.flatten(1).norm(dim=1) + logit * spread, xt)


def _mean_kappa(case: Case, xt: Tensor, level: NoiseLevel, on_xt: Tensor, on_x0: Tensor) -> Tensor:
    return on_xt.to(xt).abs() * xt.abs() + on_x0.to(xt).abs() * denoiser_kappa(case, xt, level)


@register
class DdimExponential(Algebraic):
    """Item 10: DDIM's row against the integrator of dx/α = ε̂ d(σ/α) over one step with ε̂ held.

    κ: α_s|x_t/α_t| + α_s|σ_s/α_s − σ_t/α_t| |ε̂|, the integrator's own terms.
    """

    name = "ddim-exponential"
    statement = (
        r"\frac{x_s}{\alpha_s}=\frac{x_t}{\alpha_t}+\left(\frac{\sigma_s}{\alpha_s}-\frac{\sigma_t}{\alpha_t}\right)"
        r"\hat\varepsilon"
    )
    views = ("core", "score", "paths")
    source = "Song et al. 2021 (DDIM), eq. 13; Lu et al. 2022, eq. 3.3"
    conditions = "a last level with some signal; in float32 where data and noise are both heard"

    def applies(self, case: Case) -> bool:
        return not case.reaches_zero_snr

    def sides(self, case: Case) -> Iterable[Sides]:
        case = case.legible
        core = Diffusion(case.schedule, Frozen(case.core.event_shape))
        grid = grid_of(case, 3)
        own = Sampler(core, grid, "ddim", graph=False)
        t, s = (case.schedule.level(v, case.x0) for v in (grid.times[-1], grid.times[-2]))
        xt = (t.alpha * case.x0 + t.sigma * case.noise).detach()
        first = Sampler(core, TimeGrid([float(grid.times[-2]), 1.0]), "ddim", graph=False)(xt)
        eps = core.predict(xt, 1.0).eps
        moved = s.alpha * (xt / t.alpha + (s.sigma / s.alpha - t.sigma / t.alpha) * eps)
        kappa = s.alpha * ((xt / t.alpha).abs() * 2 + (s.sigma / s.alpha - t.sigma / t.alpha).abs() * eps.abs())
        yield Sides(first, moved.detach(), kappa.detach())
        walked = xt
        size = xt.abs()
        for k in range(grid.steps, 0, -1):
            t, s = (case.schedule.level(v, case.x0) for v in (grid.times[k], grid.times[k - 1]))
            eps = core.predict(walked, grid.times[k]).eps
            walked = (s.alpha * (walked / t.alpha + (s.sigma / s.alpha - t.sigma / t.alpha) * eps)).detach()
            size = (s.alpha / t.alpha).detach() * (size + xt.abs() + t.sigma.detach() * eps.abs().detach())
        yield Sides(own(xt), walked, size)


@register
class AncestralIsChain(Algebraic):
    """The ancestral table, DDIM at η = 1 and the chain's own kernels walk one path on one noise: DDPM's textbook's.

    The three share :func:`~unidiff.core.process.bridge`, by design; the textbook's coefficients are made here from α
    and σ². κ: the walk's sizes.
    """

    name = "ancestral-is-chain"
    statement = (
        r"\mathrm{ancestral}=\mathrm{DDIM}(\eta{=}1)=\prod_k p_\theta(x_{k-1}|x_k),\quad "
        r"\mu=\frac{\alpha_{t|s}\sigma_s^2}{\sigma_t^2}x_t+\frac{\alpha_s\sigma_{t|s}^2}{\sigma_t^2}\hat x_0"
    )
    views = ("core", "vae", "rl")
    source = "Ho et al. 2020, eq. 7 and algorithm 2; Song et al. 2021 (DDIM), section 4.1"
    conditions = "any schedule; in float32 where data and noise are both heard"

    def sides(self, case: Case) -> Iterable[Sides]:
        case = case.legible
        core = Diffusion(case.schedule, Frozen(case.core.event_shape))
        grid = grid_of(case)
        xt = case.schedule.prior_std * case.noise
        noise = case.normal("ancestral", grid.steps, *xt.shape)
        chain, walked, by_book, size = core.chain(grid), xt, xt, xt.abs()
        alpha, var = (v.detach() for v in (case.schedule.alpha(grid.times), case.schedule.sigma(grid.times).square()))
        for k in range(grid.steps, 0, -1):
            step = chain.step(walked, k)
            walked = step.sample(noise=noise[grid.steps - k])
            ratio = alpha[k] / alpha[k - 1]
            jump = var[k] - ratio.square() * var[k - 1]
            on_xt, on_x0 = ratio * var[k - 1] / var[k], alpha[k - 1] * jump / var[k]
            guess = alpha[k] / (alpha[k].square() + var[k])
            std = (var[k - 1] * jump / var[k]).sqrt()
            by_book = (on_xt + on_x0 * guess).to(xt) * by_book + std.to(xt) * noise[grid.steps - k]
            gain = (on_xt + on_x0 * guess).to(xt)
            size = gain * size + step.std * noise[grid.steps - k].abs() * (1 + step.log_var.abs())
        kappa = size + walked.detach().abs()
        yield Sides(walked.detach(), by_book, kappa)
        for sampler in (
            Sampler(core, grid, "ancestral", graph=False),
            Sampler(core, grid, "ddim", eta=1.0, graph=False),
        ):
            yield Sides(sampler(xt, noise=noise), by_book, kappa)


@register
class ChainMean(Algebraic):
    """The chain's mean is the posterior's with x̂_0 for x_0, by the precision-weighted form.

    κ: its two terms, x̂_0's with its own condition: the chain's level comes from its table, the other from the schedule.
    """

    name = "chain-mean"
    statement = r"p_\theta(x_s|x_t) = q(x_s|x_t,\,x_0=\hat x_0(x_t))"
    views = ("core", "vae", "rl", "ebm")
    source = "Kingma et al. 2021, eq. 8"

    def sides(self, case: Case) -> Iterable[Sides]:
        grid = grid_of(case)
        chain = case.core.chain(grid)
        for k in (2, grid.steps - case.reaches_zero_snr):
            s, t = grid.times[k - 1], grid.times[k]
            at_t = case.schedule.level(t, case.x0)
            xt = (at_t.alpha * case.x0 + at_t.sigma * case.noise).detach()
            x0 = case.core.predict(xt, t).x0.detach()
            var_s, var_t = (case.schedule.sigma(v).detach().square() for v in (s, t))
            ratio = (case.schedule.alpha(t) / case.schedule.alpha(s)).detach()
            share = (ratio.square() * var_s / var_t).to(xt)
            mean = share * xt / ratio.to(xt) + (1 - share) * case.schedule.alpha(s).detach().to(xt) * x0
            kappa = _mean_kappa(case, xt, at_t, share / ratio, case.schedule.alpha(s).detach())
            yield Sides(chain.step(xt, k).mean.detach(), mean, kappa)
