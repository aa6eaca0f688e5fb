r"""The samplers' tables: each row against its paper's, what is folded into it, and what a multistep method extrapolates."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from unidiff.core.denoiser import Denoiser, DenoiserLike
from unidiff.core.diffusion import Diffusion
from unidiff.core.grid import TimeGrid
from unidiff.core.level import NoiseLevel
from unidiff.core.prediction import Kind, Prediction
from unidiff.core.sampling import Sampler
from unidiff.core.tables import Method, build
from unidiff.identities.case import Case
from unidiff.identities.chains import Frozen, grid_of
from unidiff.identities.laws import Algebraic, Sides
from unidiff.identities.registry import register


@register
class SdeRows(Algebraic):
    """Euler's rows from f, g² and the score, all at t; f and g² from the marginals by automatic differentiation.

    κ: 1 + |λ| for a scale, which is the exponential of it, times 1 + |λ'| min(t, 1 − t), the condition of λ in t; the
    row's terms 1, Δt|f| and Δt g²/σ².
    """

    name = "euler-rows"
    statement = (
        r"x_s=x_t-\Delta t\left(fx_t-w\,g^2\,\frac{\alpha\hat x_0-x_t}{\sigma^2}\right)+\sqrt{(2w-1)\Delta t}\,g\,\xi,"
        r"\quad w=\frac12,\,1"
    )
    views = ("core", "score")
    source = "Song et al. 2021 (SDE), eq. 6, 13 and appendix E"
    conditions = "a last level with some signal, where f and g² are finite"
    subject = "schedule"
    worldless = True

    def applies(self, case: Case) -> bool:
        return not case.reaches_zero_snr

    def sides(self, case: Case) -> Iterable[Sides]:
        schedule, grid = case.schedule, _inner_grid(case)
        t = grid.times[1:].flip(0).to(case.device)
        dt = -grid.times.flip(0).diff().to(case.device)
        moving = t.clone().requires_grad_()
        alpha, var = schedule.alpha(moving), schedule.sigma(moving).square()
        (dot_alpha,) = torch.autograd.grad(alpha.sum(), moving) if alpha.requires_grad else (torch.zeros_like(t),)
        (dot_var,) = torch.autograd.grad(var.sum(), moving)
        alpha, var = alpha.detach(), var.detach()
        f = dot_alpha / alpha
        g2 = dot_var - 2 * f * var
        slope = schedule.log_snr_derivative(t).detach().abs()
        condition = (1 + schedule.log_snr(t).detach().abs()) * (1 + slope * torch.minimum(t, 1 - t))
        shares: dict[Method, float] = {"euler": 0.5, "sde": 1.0}
        for method, share in shares.items():
            row = build(schedule, grid, method)
            pull = share * dt * g2 / var
            sides = (
                (row.on_xt, 1 - dt * f - pull, 1 + (dt * f).abs() + pull),
                (row.on_x0, pull * alpha, pull * alpha),
                (row.noise.square(), (2 * share - 1) * dt * g2, (2 * share - 1) * dt * g2),
            )
            for own, plain, size in sides:
                yield Sides(own.to(t).to(case.dtype), plain.to(case.dtype), size * condition)


def _inner_grid(case: Case) -> TimeGrid:
    """Five steps of unlike lengths: where all the levels differ, s cannot stand for t."""
    low, high = case.window(-6.0, 6.0)
    marks = low + (high - low) * torch.tensor([1.0, 0.7, 0.45, 0.25, 0.1], dtype=torch.float64)
    times = case.schedule.time(marks.to(case.device)).detach().cpu()
    return TimeGrid([*times.tolist(), 1.0])


@register
class FamilyRows(Algebraic):
    """The rows of ancestral, DDIM and both 2M methods from exponential integrators' e^{−h} and DDPM's textbook.

    A multistep row's two weights on x̂_0 sum to the one-step weight. κ: the terms; 1 − e^{−2h} loses 1/(1 − e^{−2h}).
    """

    name = "exponential-rows"
    statement = (
        r"x_s=\tfrac{\sigma_s}{\sigma_t}e^{-wh}x_t+\alpha_s(1-e^{-(1+w)h})\hat x_0+\sigma_s\sqrt{1-e^{-2wh}}\,\xi,"
        r"\quad w=0,\,1,\ h=\tfrac12(\lambda_s-\lambda_t)"
    )
    views = ("core", "score", "vae")
    source = "Lu et al. 2022 (DPM-Solver++), eq. 9 and 18; Ho et al. 2020, eq. 7"
    subject = "schedule"
    worldless = True

    def sides(self, case: Case) -> Iterable[Sides]:
        schedule, grid = case.schedule, _inner_grid(case)
        t, s = (v.flip(0).to(case.device) for v in (grid.times[1:], grid.times[:-1]))
        log_t, log_s = (schedule.log_snr(v).detach() for v in (t, s))
        shrunk = (0.5 * (log_t - log_s)).exp()
        alpha_s, sigma_s, sigma_t = (v.detach() for v in (schedule.alpha(s), schedule.sigma(s), schedule.sigma(t)))
        keep = sigma_s / sigma_t
        condition = 2 + log_s.abs() + log_t.abs().clamp(max=1e3) + 1 / (1 - shrunk)
        weights: dict[Method, int] = {"ddim": 0, "ancestral": 1, "dpm++2m": 0, "sde-dpm++2m": 1}
        for method, w in weights.items():
            row = build(schedule, grid, method)
            noise = sigma_s.square() * (1 - shrunk ** (2 * w))
            sides = (
                (row.on_xt, keep * shrunk**w, keep * shrunk**w),
                (row.on_x0 + row.on_kept, alpha_s * (1 - shrunk ** (1 + w)), alpha_s + row.on_kept.abs().to(t)),
                (row.noise.square(), noise, noise),
            )
            for own, plain, size in sides:
                yield Sides(own.to(t).to(case.dtype), plain.to(case.dtype), size * condition)


@register
class FoldedTables(Algebraic):
    """A network's output folded into a sampler's rows gives the rows' own result, for each prediction and method.

    κ: for each row |a x| + |b|·(|p x| + |q F|), carried through the run by its gains.
    """

    name = "folded-tables"
    statement = r"(a+bp)\,x+(bq)\,F = a\,x+b\,\hat x_0,\quad \hat x_0=p\,x+q\,F"
    views = ("core", "paths")
    source = "Salimans & Ho 2022, appendix D"
    conditions = "a last level with some signal; in float32 where data and noise are both heard"
    subject = "schedule"
    worldless = True

    def applies(self, case: Case) -> bool:
        return not case.reaches_zero_snr

    def sides(self, case: Case) -> Iterable[Sides]:
        case = case.legible
        grid = grid_of(case, 4)
        x = case.schedule.prior_std * case.noise
        plain = Diffusion(case.schedule, Frozen(case.core.event_shape))
        kinds: tuple[Kind, ...] = ("x0", "v", "eps")
        for method in ("ddim", "heun", "dpm++2m"):
            expected = Sampler(plain, grid, method, graph=False)(x)
            for kind in kinds:
                network = _as_network(plain.denoiser, kind, case)
                core = Diffusion(case.schedule, Denoiser(network, case.core.event_shape, kind))
                found = Sampler(core, grid, method, graph=False)(x)
                # Each row's x̂_0 rounds as σ/α·|F|, at most the ratio of the noisiest level; α of the next shrinks it.
                ratios = (-0.5 * case.schedule.log_snr(grid.times).detach()).exp()
                gain = (1 + (ratios[1:] / ratios[:-1]).max()) * (1 + ratios[-1] / ratios[-2])
                yield Sides(found, expected, gain.to(x) * (expected.abs() + case.noise.abs() + 1))


@register
class FoldedOnce(Algebraic):
    """A row folded in float64 is cast once: one step from x = 0 or x = 1 with F = 1 or F = 0 reads it off.

    κ: half a spacing of the dtype (1/2c) in float32, where the fold's own rounding is not seen; the terms in float64.
    """

    name = "folded-once"
    statement = r"\mathrm{fl}(a+bp),\ \mathrm{fl}(bq)\ \mathrm{are\ the\ nearest\ of\ their\ dtype}"
    views = ("core", "paths")
    source = "Higham 2002, section 2.1"
    conditions = "any schedule; x_0, v and EDM's F, which stay finite whatever the level"
    subject = "schedule"
    worldless = True

    def sides(self, case: Case) -> Iterable[Sides]:
        low, high = case.window(-4.0, 4.0)
        shape = case.core.event_shape
        zero = torch.zeros(1, *shape, dtype=case.dtype, device=case.device)
        one = zero + 1
        for mark in torch.linspace(low, high, 3, dtype=torch.float64):
            first = float(case.schedule.time(mark).detach())
            if first > 1 - 1e-6:
                continue
            grid = TimeGrid([first, 1.0])
            row = build(case.schedule, grid, "ddim")
            level = NoiseLevel(row.t, row.log_snr, row.alpha, row.sigma)
            for denoiser in (
                Denoiser(_Constant(one), shape, "x0"),
                Denoiser(_Constant(one), shape, "v"),
                Denoiser(_Constant(one), shape, "x0", "edm", 0.7),
            ):
                a, s2 = level.alpha, level.sigma**2
                p, q = {
                    "x0": (torch.zeros_like(a), torch.ones_like(a)),
                    "v": (a / (a**2 + s2), -level.sigma / (a**2 + s2)),
                }[denoiser.prediction]
                if denoiser.preconditioning == "edm":
                    p, q = 0.49 * a / (0.49 * a**2 + s2), 0.7 * (s2 / (0.49 * a**2 + s2)).sqrt()
                core = Diffusion(case.schedule, denoiser)
                on_output = Sampler(core, grid, "ddim", graph=False)(zero)
                denoiser.network.value = zero  # pyright: ignore[reportAttributeAccessIssue]
                on_x = Sampler(core, grid, "ddim", graph=False)(one)
                for own, terms in ((on_output, (row.on_x0 * q,)), (on_x, (row.on_xt, row.on_x0 * p))):
                    exact = torch.stack(terms).sum(0).to(case.device)
                    size = torch.stack(terms).abs().sum(0).to(case.device)
                    half = exact.abs() / 128 * (1 + 1e-5) + torch.finfo(torch.float64).eps / case.eps * size
                    yield Sides(own.to(torch.float64).flatten(), exact, half)


class _Constant:
    """A network that says one thing."""

    def __init__(self, value: Tensor) -> None:
        self.value = value

    def __call__(self, x: Tensor, noise: Tensor, condition: Tensor | None) -> Tensor:
        return self.value


class _Affine:
    """x̂_0 = u + λ w whatever the state: what a multistep method extrapolates without error."""

    def __init__(self, at_zero: Tensor, slope: Tensor) -> None:
        self.at_zero, self.slope = at_zero, slope

    @property
    def event_shape(self) -> tuple[int, ...]:
        return tuple(self.at_zero.shape[1:])

    def at(self, log_snr: Tensor) -> Tensor:
        return self.at_zero + log_snr.to(self.slope) * self.slope

    def __call__(
        self, xt: Tensor, level: NoiseLevel, condition: Tensor | None = None, guidance: float = 1.0
    ) -> Prediction:
        return Prediction(xt, level, {"x0": self.at(level.log_snr)}, guarded=False)


@register
class MultistepMidpoint(Algebraic):
    """Two steps of unequal length, the first DDIM's, the second with x̂_0 as it is in the middle of the step.

    The order alone does not see a wrong ratio of the steps: its errors (h² − h_before²)/2 telescope. κ: the terms.
    """

    name = "multistep-midpoint"
    statement = (
        r"\frac{x_s}{\sigma_s}=\frac{x_t}{\sigma_t}+\left(\frac{\alpha_s}{\sigma_s}-\frac{\alpha_t}{\sigma_t}\right)"
        r"\hat x_0\left(\tfrac{\lambda_s+\lambda_t}{2}\right)"
    )
    views = ("core", "paths")
    source = "Lu et al. 2022 (DPM-Solver++), algorithm 2"
    conditions = "a finite last log-SNR; a denoiser that is affine in the log-SNR"
    subject = "schedule"

    def applies(self, case: Case) -> bool:
        return not case.reaches_zero_snr

    def sides(self, case: Case) -> Iterable[Sides]:
        low, high = case.log_snr_range
        last = torch.tensor([1.0], dtype=torch.float64, device=case.device)
        start = max(float(case.schedule.log_snr(last).detach()), low)
        marks = torch.tensor([start + 0.6 * (high - start), start + 0.25 * (high - start)], dtype=torch.float64)
        grid = TimeGrid([*case.schedule.time(marks.to(case.device)).detach().tolist(), 1.0])
        law = _Affine(case.x0, 0.1 * case.normal("affine", *case.x0.shape))
        end, middle, first = (case.schedule.level(grid.times[k], case.x0) for k in (2, 1, 0))
        xt = case.schedule.prior_std * case.noise
        walked, kappa = xt, xt.abs()
        for before, after, seen in (
            (end, middle, law.at(end.log_snr)),
            (middle, first, law.at(0.5 * (middle.log_snr + first.log_snr))),
        ):
            keep = after.sigma / before.sigma
            gain = after.alpha - keep * before.alpha
            walked = (keep * walked + gain * seen).detach()
            reach = case.x0.abs() + law.slope.abs() * (before.log_snr.abs() + after.log_snr.abs())
            # The coefficient on x̂_0 is extrapolated from two values, 1 + 1/2r and −1/2r.
            kappa = (keep * kappa + after.alpha * 4 * reach).detach()
        found = Sampler(Diffusion(case.schedule, law), grid, "dpm++2m", graph=False)(xt)
        yield Sides(found, walked, kappa)


def _as_network(denoiser: DenoiserLike, kind: Kind, case: Case):  # noqa: ANN202 - a closure of the network protocol
    ends = torch.tensor([1.0, 0.0], dtype=torch.float64)

    def network(x: Tensor, noise: Tensor, condition: Tensor | None) -> Tensor:
        # A log-SNR in float32 may round past the schedule's own end.
        low, high = case.schedule.log_snr(ends.to(noise.device)).detach()
        level = case.schedule.level_at(noise[:1].to(torch.float64).clamp(low, high), x)
        return getattr(denoiser(x, level), kind)

    return network
