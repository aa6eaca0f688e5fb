r"""Item 38, the normaliser: how log Z moves with a parameter and with time, and what annealing says of it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable

import torch
from torch import Tensor

from unidiff.ebm import EnergyModel, annealed_importance, log_z_rate, normaliser_flow
from unidiff.identities.case import Case, sampled, smooth
from unidiff.identities.chains import grid_of
from unidiff.identities.energies import TAU
from unidiff.identities.laws import Algebraic, MonteCarlo, Order, Sides
from unidiff.identities.registry import register
from unidiff.identities.truths import banded, log_prob_kappa, reference_log_prob
from unidiff.mcmc import HMC, MALA
from unidiff.worlds import Gaussian


@register
class NormaliserGradient(MonteCarlo):
    """Item 38: the slope of log Z in a parameter, by draws of the law itself, against the derivative of its closed form.

    E_θ = −τ log p − θ_1 bᵀx + ½θ_2‖x − m‖²/v, whose Z is the world's tilt. Sizes: E|∂_θ E|/τ.
    """

    name = "normaliser-gradient"
    statement = r"\partial_\theta\log Z=-\frac{1}{\tau}E_q[\partial_\theta E]"
    views = ("ebm", "rl")
    source = "Hinton 2002, eq. 4; item 38"
    conditions = "a Gaussian or a mixture, three schedules; in float64"
    subject = "schedule"

    def applies(self, case: Case) -> bool:
        return smooth(case) and case.dtype == torch.float64 and sampled(case)

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        world, n = case.world, case.draws
        scale = world.variance.mean()
        b = torch.ones_like(world.mean) / (case.dim * scale).sqrt()
        eye = torch.eye(case.dim).to(b) / scale
        theta = torch.tensor([0.6, 0.4]).to(b).requires_grad_()
        law, log_z = world.tilt(theta[1] * eye, theta[0] * b + theta[1] * (eye @ world.mean), TAU)
        # −½θ_2 mᵀm/v of the square's own constant, which the tilt leaves out.
        log_z = log_z - 0.5 * theta[1] * world.mean @ eye @ world.mean / TAU
        (slope,) = torch.autograd.grad(log_z, theta)
        x = law.to(b.dtype).sample(n, case.generator("normaliser")).detach()
        each = theta.detach().expand(n, 2).clone().requires_grad_()

        def energy(z: Tensor) -> Tensor:
            spread = (z - world.mean).square().sum(1) / scale
            return -TAU * world.log_prob(z, check=False) - each[:, 0] * (z @ b) + 0.5 * each[:, 1] * spread

        model = EnergyModel(energy, world.event_shape, tau=TAU)
        (rate,) = torch.autograd.grad(model.energy(x).sum(), each)
        told = -rate / model.tau
        return told - slope, told.abs().mean(0)


@register
class NormaliserRate(MonteCarlo):
    """Item 38 along t: the rate of log Z_t by draws of q_t, for an energy whose normaliser is e^{−Dλ(t)/2}.

    In units of λ, in each half of the levels. Size: D/2.
    """

    name = "normaliser-rate"
    statement = r"\frac{\mathrm{d}\log Z_t}{\mathrm{d}t}=-\frac{1}{\tau}E_{q_t}[\partial_tE]"
    views = ("ebm", "thermo", "score")
    source = "Kirkwood 1935; Gelman & Meng 1998, eq. 7; item 38"
    conditions = "a Gaussian or a mixture, three schedules; in float64"
    subject = "schedule"

    def applies(self, case: Case) -> bool:
        return smooth(case) and case.dtype == torch.float64 and sampled(case)

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        draws, schedule, world = case.mixed, case.schedule, case.world

        def energy(x: Tensor, t: Tensor) -> Tensor:
            level = schedule.level(t, x)
            own = world.diffuse(level.alpha, level.sigma).log_prob(x, check=False)
            return TAU * (0.5 * case.dim * level.log_snr - own)

        model = EnergyModel(energy, case.core.event_shape, schedule=schedule, tau=TAU)
        rate = log_z_rate(model, draws.xt, draws.t) / schedule.log_snr_derivative(draws.t).detach()
        return banded(rate + 0.5 * case.dim), torch.full((2,), 0.5 * case.dim, dtype=torch.float64)


@register
class NormaliserFlowOrder(Order):
    """The rates' integral is the trapezoidal rule's, of order 2, where the rate is the same for every draw.

    E = τ(½‖x‖²/v + sin 3t): log Z_t − log Z_1 = sin 3 − sin 3t, at the first of the times and within.
    """

    name = "normaliser-flow"
    statement = r"\log Z_t=\log Z_1-\int_t^1\frac{\mathrm{d}\log Z_s}{\mathrm{d}s}\,\mathrm{d}s+O(h^2)"
    views = ("ebm", "thermo")
    source = "Gelman & Meng 1998, eq. 7; Davis & Rabinowitz 1984, section 2.1"
    conditions = "Gaussian data; an energy that adds a function of time"
    subject = "schedule"

    def applies(self, case: Case) -> bool:
        return isinstance(case.world, Gaussian) and case.dtype == torch.float64 and sampled(case)

    def errors(self, case: Case) -> tuple[list[float], list[float], float]:
        def energy(x: Tensor, t: Tensor) -> Tensor:
            return TAU * (0.5 * x.square().sum(1) / case.world.variance.mean() + torch.sin(3 * t))

        model = EnergyModel(energy, case.core.event_shape, schedule=case.schedule, tau=TAU)
        steps, errors = [], []
        for count in (4, 8, 16, 32):
            times = torch.linspace(0.1, 1.0, count + 1, dtype=torch.float64)
            found = normaliser_flow(
                model, times, 2, world=case.world, generator=case.generator("flow"), dtype=case.dtype
            )
            known = math.sin(3.0) - torch.sin(3 * times)
            steps.append(0.9 / count)
            errors.append(float((found.log_z - known).abs()[[0, count // 4]].sum()))
        return steps, errors, 2.0


@register
class AnnealedImportanceUnbiased(MonteCarlo):
    """The mean of annealed importance weights is Z, for few laws and one step each, by MALA and by HMC.

    Along the geometric path to the data's energy, and down the noise to a noised law's; and from a world. Size: 1.
    """

    name = "annealed-importance"
    statement = r"E\left[\prod_k\frac{f_k(x_{k-1})}{f_{k-1}(x_{k-1})}\right]=\int e^{-E/\tau}\,\mathrm{d}x"
    views = ("ebm", "thermo")
    source = "Neal 2001, eq. 11; Jarzynski 1997"
    conditions = (
        "a Gaussian or a mixture of few numbers about the origin, three schedules that meet its scale; in float64"
    )
    subject = "schedule"
    bound = 0.25

    def applies(self, case: Case) -> bool:
        known = smooth(case) and case.dim <= 3 and case.dtype == torch.float64 and sampled(case)
        return known and case.overlaps(-1.0, 1.0) and bool((case.world.mean.square() <= 25 * case.world.variance).all())

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        world, n, constant = case.world, case.draws // 2, 0.8
        schedule = case.schedule if case.schedule.variance_preserving else case.schedule.as_vp()

        def still(x: Tensor) -> Tensor:
            return TAU * (constant - world.log_prob(x, check=False))

        def moving(x: Tensor, t: Tensor) -> Tensor:
            level = schedule.level(t, x)
            return TAU * (constant * (1 + t) - world.diffuse(level.alpha, level.sigma).log_prob(x, check=False))

        t = float(schedule.time(0.5 * sum(case.window(-1.0, 1.0))).detach())
        at = schedule.level(t)
        law = world.diffuse(at.alpha.detach().to(case.dtype), at.sigma.detach().to(case.dtype))
        reach = 1.2 * float((law.variance + law.mean.square()).max().sqrt())
        shape = case.core.event_shape
        one, two = EnergyModel(still, shape, tau=TAU), EnergyModel(moving, shape, schedule=schedule, tau=TAU)
        narrow, wide = float(world.variance.min()), Gaussian(world.mean, 1.3 * world.covariance)
        runs = (
            (one, constant, {"start": wide, "levels": 6, "kernel": MALA(0.4 * narrow)}),
            (two, constant * (1 + t), {"t": t, "levels": 4, "kernel": HMC(0.5 * narrow**0.5, 3)}),
            (two, constant * (1 + t), {"t": t, "start": reach, "path": "geometric", "levels": 3}),
        )
        columns = []
        for k, (model, told, options) in enumerate(runs):
            own = {"kernel": MALA(0.4 * narrow), "pilot": 0} | options
            with warnings.catch_warnings():
                # What is judged is the mean, by the spread that these weights have.
                warnings.simplefilter("ignore")
                found = annealed_importance(
                    model, n, dtype=case.dtype, generator=case.generator(f"annealed {k}"), **own
                )
            columns.append((found.log_weights + told).exp() - 1)
        return torch.stack(columns, 1), torch.ones(len(columns), dtype=torch.float64)


@register
class RatiosTelescope(Algebraic):
    """Item 47: the logits of neighbouring levels add up to the log-ratio of the ends; none but the last need be far apart.

    κ: ``log_prob_kappa`` at each level.
    """

    name = "ratios-telescope"
    statement = r"\sum_k\log\frac{q_{t_{k-1}}(x)}{q_{t_k}(x)}=\log q_{t_0}(x)-\log q_{t_N}(x)"
    views = ("ebm", "core")
    source = "Rhodes et al. 2020, eq. 4; item 47"
    conditions = "the exact denoiser, where data and noise are both heard"
    subject = "optimal"

    def applies(self, case: Case) -> bool:
        return case.exact and sampled(case)

    def sides(self, case: Case) -> Iterable[Sides]:
        case = case.heard
        x, model, grid = case.x0[:16], EnergyModel(case.core, tau=TAU), grid_of(case)
        total, size = torch.zeros(len(x)).to(x), torch.zeros(len(x)).to(x)
        ends = []
        for k in range(grid.steps + 1):
            level = case.schedule.level(grid.times[k], x)
            alpha, sigma = (v.detach().expand(len(x)) for v in (level.alpha, level.sigma))
            size = size + log_prob_kappa(case, x, alpha, sigma)
            if k in (0, grid.steps):
                ends.append(reference_log_prob(case, x, alpha, sigma))
            if k:
                s, t = float(grid.times[k - 1]), float(grid.times[k])
                total = total + (model.energy(x, t) - model.energy(x, s)) / TAU
        yield Sides(total, ends[0] - ends[1], 2 * size)


@register
class NceOptimum(MonteCarlo):
    """Item 47: at the logit log p − log p_n − log ν nothing is left of noise contrast's gradient, along two features.

    p and p_n are the laws at two levels half a nat apart, the logit from the core's own energies; ν = 1.5 of noise to one of
    data. Sizes: the data's half, E_p[(1 − s)|φ|].
    """

    name = "nce-optimum"
    statement = r"E_p[(1-s(\ell))\varphi]=\nu\,E_{p_n}[s(\ell)\varphi],\quad\ell=\log p-\log p_n-\log\nu"
    views = ("ebm", "core")
    source = "Gutmann & Hyvarinen 2012, theorem 1; item 47"
    conditions = "the exact denoiser, data of few numbers, three schedules; in float64"
    subject = "optimal"

    def applies(self, case: Case) -> bool:
        return smooth(case) and case.exact and case.dtype == torch.float64 and sampled(case)

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        nu, n, model = 1.5, case.draws, EnergyModel(case.core, tau=TAU)
        middle = 0.5 * sum(case.window(-1.0, 1.0))
        times = [float(case.schedule.time(middle + step).detach()) for step in (0.25, -0.25)]
        halves = []
        for k, t in enumerate(times):
            level = case.schedule.level(t, case.x0)
            noise = case.normal(f"contrast {k}", n, *case.core.event_shape)
            x = (
                level.alpha.detach() * case.world.sample(n, case.generator(f"contrasted {k}"))
                + level.sigma.detach() * noise
            )
            logit = (model.energy(x, times[1]) - model.energy(x, times[0])) / TAU - math.log(nu)
            share = torch.sigmoid(-logit) if k == 0 else nu * torch.sigmoid(logit)
            along = torch.cos(x.flatten(1).sum(1) / case.dim**0.5)
            halves.append(torch.stack([share, share * along], 1))
        return halves[0] - halves[1], halves[0].abs().mean(0)
