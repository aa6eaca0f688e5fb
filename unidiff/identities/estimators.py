r"""Items 13, 41 and 47 for an energy: the gradients of denoising, recovery and noise contrast, as the methods take them.

As in :mod:`unidiff.identities.contrastive`, a method's loss is differentiated on the world's energy plus θ·φ(x), and what it
should be is written out on the same draws.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from unidiff.core.times import antithetic_times, finite_span
from unidiff.ebm.learning import DenoisingScoreMatching, NoiseContrastive, RatioChain, RecoveryLikelihood
from unidiff.ebm.learning.denoising import denoising_errors
from unidiff.ebm.learning.recovery import Conditional
from unidiff.ebm.model import EnergyModel
from unidiff.identities.case import Case, smooth
from unidiff.identities.contrastive import FEATURES, TAU, Tilted, gradient_of, pair, seeded, smooth_once
from unidiff.identities.laws import Algebraic, MonteCarlo, Sides
from unidiff.identities.registry import register
from unidiff.identities.truths import log_prob_kappa
from unidiff.mcmc import ULA
from unidiff.worlds import Gaussian

_ROWS = 12


def _times(case: Case, count: int) -> tuple[float, ...]:
    """Times between equal scales and a log-SNR of 3, from data to noise."""
    low, high = case.window(-1.0, 3.0)
    return tuple(
        float(case.schedule.time(high + (low - high) * (k + 0.5) / count).detach().to("cpu")) for k in range(count)
    )


class _Step(Algebraic):
    """A method's gradient on twelve data; κ as the contrastive step's."""

    views = ("ebm",)
    subject = "schedule"
    conditions = "a smooth law"

    def applies(self, case: Case) -> bool:
        return smooth_once(case)


@register
class DenoisingStep(_Step):
    """Denoising's gradient at one noise, over chosen levels and over all of a schedule's, from the world's own score."""

    name = "denoising-step"
    statement = (
        r"g=2\,E\left(\varepsilon+\sigma\hat s\right)\cdot\sigma\,\partial_\theta\hat s,\quad\hat s=-\nabla E/\tau"
    )
    views = ("ebm", "score")
    source = "Vincent 2011, eq. 11"

    def sides(self, case: Case) -> Iterable[Sides]:
        draws, x, some = seeded(case), case.x0[:_ROWS], _times(case, 3)
        sigma = 0.4 * float(torch.linalg.eigvalsh(case.world.covariance)[0].sqrt())
        for method in (
            DenoisingScoreMatching(sigma=sigma),
            DenoisingScoreMatching(times=some),
            DenoisingScoreMatching(),
        ):
            timed = method.sigma is None
            energy, generator = Tilted(case, 0.3, timed=timed), draws()
            found = gradient_of(method.learner(energy.model()).loss(x, generator), energy)
            generator = draws()
            t = _drawn(case, method.times, len(x), generator) if timed else None
            noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
            one = torch.ones(len(x), 1, dtype=x.dtype, device=x.device)
            alpha, spread = one, sigma * one
            if t is not None:
                level = case.schedule.level(t, x)
                alpha, spread, t = level.alpha.detach()[:, None], level.sigma.detach()[:, None], level.t
            z = alpha * x + spread * noise
            residual = noise + spread * energy.score(z, t)
            wanted = 2 * ((spread * residual)[:, :, None] * energy.slopes(z, t)).sum(1).mean(0)
            yield pair(case, found, wanted[None], energy.units(z, t), residual)


def _drawn(case: Case, times: tuple[float, ...] | None, n: int, generator: torch.Generator) -> Tensor:
    if times is None:
        return antithetic_times(n, generator, span=finite_span(case.schedule), device=case.device)
    known = torch.tensor(times, dtype=torch.float64, device=case.device)
    return known[torch.randint(len(times), (n,), generator=generator, device=case.device)]


@register
class DenoisingIsExplicit(MonteCarlo):
    """Item 13 for an energy: the gradient in θ of the denoising error and of σ²‖ŝ − s‖², s the world's own, draw by draw.

    E/τ = −log q_t + ½θ·φ with θ = (2, 2, 2): far from the optimum, where both are zero. Size: the explicit gradient's mean.
    """

    name = "energy-denoising-gradient"
    statement = (
        r"\partial_\theta E\|\varepsilon+\sigma\hat s\|^2=\partial_\theta E\,\sigma^2\|\hat s-\nabla\log q_t\|^2,"
        r"\quad\hat s=-\nabla E/\tau"
    )
    views = ("ebm", "score")
    source = "Vincent 2011, section 4; item 13"
    conditions = "a smooth law; log-SNR over [-3, 3]"
    subject = "schedule"

    def applies(self, case: Case) -> bool:
        return smooth_once(case)

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        draws, tilt = case.mixed, 2.0
        energy = Tilted(case, tilt, timed=True, rows=len(draws.x0))
        errors = denoising_errors(energy.model(), draws.x0, draws.noise, draws.level)
        denoising = gradient_of(errors.sum(), energy)
        # ŝ − s = θ·(∂ŝ/∂θ).
        slopes = energy.slopes(draws.xt, draws.level.t)
        apart = tilt * slopes.sum(-1)
        explicit = 2 * draws.level.sigma.square()[:, None] * (apart[:, :, None] * slopes).sum(1)
        known = min(FEATURES, case.dim)
        return (denoising - explicit)[:, :known], explicit.mean(0)[:known]


@register
class RecoveryConditional(Algebraic):
    """Item 41: with the exact energy, recovery's conditional law is Bayes' reverse posterior, its constant included.

    Against the noised law's own posterior given a further noising. κ: the densities' conditions, at both times.
    """

    name = "recovery-conditional"
    statement = (
        r"q(x_t|x_s)\,e^{-E(x_s)/\tau}/Z=q(x_s|x_t),\quad Z=q_t(x_t)\ \mathrm{for}\ E=-\tau\log q_s,\quad"
        r"\int q(x_s|x_t)\,\mathrm{d}x_s=1"
    )
    views = ("ebm", "core")
    source = "Gao et al. 2021, eq. 8; item 41"
    conditions = "a smooth law; where data and noise are both heard"
    subject = "optimal"

    def applies(self, case: Case) -> bool:
        return smooth(case) and case.exact and case.overlaps(-4.0, 4.0)

    def sides(self, case: Case) -> Iterable[Sides]:
        case = case.heard
        model = EnergyModel.of(case.core, TAU)
        law = Conditional.of(case.schedule, case.xt, case.s, case.t)
        alpha_ts, log_var = case.process.transition_coefficients(case.s, case.t)
        constant = 0.5 * case.dim * (math.log(2 * math.pi) + log_var.detach().to(case.dtype))
        total = case.world.diffuse(case.level.alpha, case.level.sigma).log_prob(case.xt)
        earlier = case.world.diffuse(case.level_s.alpha, case.level_s.sigma)
        alpha, sigma = (v.detach().to(case.dtype) for v in (alpha_ts, (0.5 * log_var).exp()))
        bayes = earlier.posterior(case.xt, alpha, sigma).log_prob(case.xs)
        kappa = log_prob_kappa(case, case.xt, case.level.alpha, case.level.sigma)
        kappa = kappa + log_prob_kappa(case, case.xs, case.level_s.alpha, case.level_s.sigma)
        reach = case.xt.norm(dim=1) + case.xs.norm(dim=1)
        yield Sides(
            -law.energy(model, case.xs) - constant - total,
            bayes,
            kappa + case.dim * (4 + (reach / sigma).square()),
        )


@register
class RecoveryStep(_Step):
    """Recovery likelihood's gradient: x_s, x_t and the chain between them walked by hand, in the units of x."""

    name = "recovery-step"
    statement = (
        r"g=\frac{E\,\partial E(x_s)-E_{\pi_k}\partial E}{\tau},\quad x\leftarrow x+\delta\rho^2\left(-\frac{\nabla E}{\tau}"
        r"+\frac{x_t/\alpha_{t|s}-x}{\varsigma^2}\right)+\sqrt{2\delta}\,\rho\,\xi"
    )
    source = "Gao et al. 2021, algorithm 1; item 41"

    def sides(self, case: Case) -> Iterable[Sides]:
        draws, x, times, delta = seeded(case), case.x0[:_ROWS], _times(case, 3), 0.02
        energy, generator = Tilted(case, 0.3, timed=True), draws()
        method = RecoveryLikelihood(times, 2, ULA(delta), graph=False)
        found = gradient_of(method.learner(energy.model()).loss(x, generator), energy)
        generator, known = draws(), torch.tensor(times, dtype=torch.float64, device=case.device)
        k = torch.randint(2, (len(x),), generator=generator, device=case.device)
        levels = [case.schedule.level(known[k + i]) for i in (0, 1)]
        alpha, sigma = ([getattr(level, name).detach() for level in levels] for name in ("alpha", "sigma"))
        step = alpha[1] / alpha[0]
        width2 = (sigma[1].square() - step.square() * sigma[0].square()) / step.square()
        rho2 = 1 / (1 / width2 + 1 / (alpha[0].square() + sigma[0].square()))
        near, far, step, width2, rho2 = (v.to(x)[:, None] for v in (alpha[0], sigma[0], step, width2, rho2))
        eps = [torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device) for _ in range(2)]
        xs = near * x + far * eps[0]
        centre = xs + width2.sqrt() * eps[1]
        chain = rho2 / width2 * centre
        t = known[k].to(x)
        for xi in torch.randn((2, *x.shape), generator=generator, dtype=x.dtype, device=x.device):
            drift = energy.score(chain, t) + (centre - chain) / width2
            chain = chain + delta * rho2 * drift + (2 * delta * rho2).sqrt() * xi
        wanted = 0.5 * (energy.features(xs, t) - energy.features(chain, t)).mean(0)
        yield pair(case, found, wanted[None], energy.units(xs, t), energy.units(chain, t))


@register
class NoiseContrastiveStep(_Step):
    """Item 47: noise contrast's gradients in θ and z, from the two densities and ν; fewer draws than data, and more."""

    name = "noise-contrastive-step"
    statement = (
        r"g=-E_p\frac{\nu p_n}{p_\theta+\nu p_n}\,\partial\log p_\theta+\nu\,E_{p_n}\frac{p_\theta}{p_\theta+\nu p_n}\,"
        r"\partial\log p_\theta"
    )
    source = "Gutmann & Hyvarinen 2010, eq. 3 and theorem 1; item 47"

    def sides(self, case: Case) -> Iterable[Sides]:
        draws, x, world = seeded(case), case.x0[:_ROWS], case.world
        noise = Gaussian(world.mean + 0.1 * world.variance.sqrt(), 1.5 * world.covariance)
        for count in (6, 24):
            energy, generator, nu = Tilted(case, 0.1), draws(), count / _ROWS
            learner = NoiseContrastive(noise, nu).learner(energy.model())
            assert learner.module is not None
            constant = learner.module.log_z
            constant.data.fill_(0.2)
            found = torch.autograd.grad(learner.loss(x, generator), [energy.theta, constant])
            other = noise.sample(count, draws())
            wanted = torch.zeros(FEATURES + 1, dtype=x.dtype, device=x.device)
            for z, weight, of_data in ((x, 1.0, True), (other, nu, False)):
                odds = nu * (noise.log_prob(z) - energy.density(z) + 0.2).exp()
                share = -odds / (1 + odds) if of_data else 1 / (1 + odds)
                slopes = torch.cat([-0.5 * energy.features(z), -torch.ones_like(z[:, :1])], 1)
                wanted += weight * (share[:, None] * slopes).mean(0)
            states = energy.units(x), energy.units(other)
            yield pair(case, torch.cat([v.flatten() for v in found]), wanted.detach(), *states)


@register
class RatioChainStep(_Step):
    """Item 47 along the noise: the chain of ratios' gradients in θ and every level's constant, from densities alone."""

    name = "ratio-chain-step"
    statement = (
        r"\log q_{t_0}=\log N(0,\varsigma^2)+\sum_k\log\frac{q_{t_k}}{q_{t_{k+1}}},\quad "
        r"g=-E_{q_k}(1-r)\,\partial\log\frac{q_k}{q_{k+1}}+E_{q_{k+1}}r\,\partial\log\frac{q_k}{q_{k+1}}"
    )
    source = "Rhodes et al. 2020, section 3; item 47"

    def sides(self, case: Case) -> Iterable[Sides]:
        draws, x, times = seeded(case), case.x0[:_ROWS], _times(case, 3)
        energy, generator = Tilted(case, 0.1, timed=True), draws()
        learner = RatioChain(times).learner(energy.model())
        constants = learner.module.log_z
        known = torch.tensor(times, dtype=torch.float64, device=case.device)
        shifts = torch.tensor([0.3, -0.1, 0.2]).to(x)
        constants.data = shifts.clone()
        found = torch.autograd.grad(learner.loss(x, generator), [energy.theta, constants])
        generator = draws()
        k = torch.randint(3, (len(x),), generator=generator, device=x.device)
        eps = torch.randn((2, *x.shape), generator=generator, dtype=x.dtype, device=x.device)
        scale = case.schedule.prior_std
        wanted = torch.zeros(FEATURES + 3, dtype=x.dtype, device=x.device)
        states = []
        for i, own in enumerate(k.tolist()):
            below, above = (case.schedule.level(known[min(own + j, 2)], x) for j in (0, 1))
            near = (below.alpha * x[i] + below.sigma * eps[0, i]).detach()
            far = scale * eps[1, i] if own == 2 else (above.alpha * x[i] + above.sigma * eps[1, i]).detach()
            for z, of_near in ((near[None], True), (far[None], False)):
                log_ratio, slope = self._of(energy, z, below.t, own, shifts)
                if own == 2:
                    normal = -0.5 * (z / scale).square() - math.log(scale * math.sqrt(2 * math.pi))
                    log_ratio = log_ratio - normal.sum()
                else:
                    other, its_slope = self._of(energy, z, above.t, own + 1, shifts)
                    log_ratio, slope = log_ratio - other, slope - its_slope
                share = torch.sigmoid(-log_ratio)
                wanted += (-share if of_near else 1 - share) * slope / len(x)
                states.append(energy.units(z, below.t[None])[0])
        yield pair(case, torch.cat([v.flatten() for v in found]), wanted.detach(), torch.stack(states))

    @staticmethod
    def _of(energy: Tilted, z: Tensor, t: Tensor, k: int, shifts: Tensor) -> tuple[Tensor, Tensor]:
        """log of level k's density at one state, and its slope in θ and the constants."""
        unit = torch.eye(len(shifts)).to(z)[k]
        slope = torch.cat([-0.5 * energy.features(z, t[None])[0], -unit])
        return energy.density(z, t[None])[0] - shifts[k], slope
