r"""Items 35 and 36: fluctuation theorems and Jarzynski's equality; on Gaussian data p_θ(x_0) is a formula.

Where data and noise are both heard, and little of the way, so that the two laws of paths overlap and a violation would be
heard: a mean carried by rare paths passes for nothing.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from scipy.stats import binom
from torch import Tensor
from torch.distributions import MultivariateNormal

from unidiff.core.decoders import ContinuousDecoder
from unidiff.core.diffusion import Diffusion
from unidiff.core.grid import TimeGrid
from unidiff.identities.case import Case, sampled, smooth
from unidiff.identities.chains import grid_of
from unidiff.identities.laws import Bound, MonteCarlo
from unidiff.identities.registry import register
from unidiff.identities.window import Window
from unidiff.thermo import Fluctuation, Thermodynamics
from unidiff.vae import HierarchicalVAE
from unidiff.worlds import Gaussian

_SPAN = 1.5  # of log-SNR, where the data are faint


def _paths_of(case: Case, most: int = 16384) -> int:
    return min(most, 1024 if case.dim > 16 else 16384)


def _faint(case: Case, nats: float, span: float = _SPAN) -> tuple[Thermodynamics, TimeGrid]:
    """The view and three steps on the part of the schedule where SNR·E‖x_0‖² is at most ``nats``, over ``span`` of λ.

    Not over more: further down the data are silent, and a prior that is forgotten would be too.
    """
    power = float(case.world.variance.sum() + case.world.mean.square().sum())
    high = math.log(nats / power)
    inside = Window.between(case.schedule, *case.window(high - span, high))
    core = Diffusion(inside, case.core.denoiser)
    return Thermodynamics(core, case.world), TimeGrid.uniform_log_snr(3, inside)


def _reaches(case: Case) -> bool:
    """Whether the schedule has the part that :func:`_faint` asks for."""
    power = float(case.world.variance.sum() + case.world.mean.square().sum())
    return power > 0 and case.overlaps(math.log(0.3 / power) - _SPAN, math.log(0.3 / power))


def _told(case: Case) -> bool:
    """Three schedules or a network; in float64, since what draws leave undecided is far above what float32 rounds."""
    return case.dtype == torch.float64 and (sampled(case) or not case.exact)


def _faint_fluctuation(case: Case) -> Fluctuation:
    return case.once("faint fluctuation", lambda: _drawn_faint(case))


def _drawn_faint(case: Case) -> Fluctuation:
    # A network that has learned nothing strays by what it says of the noise, D a unit of λ: its way is a shorter one.
    view, grid = _faint(case, 0.3) if case.exact else _faint(case, 0.1, 0.03)
    paths = 32768 if not case.exact and case.dim <= 16 else _paths_of(case)
    x0 = case.world.sample(paths, generator=case.generator("fluctuation"))
    x0 = x0.reshape(-1, *case.core.event_shape)
    return Thermodynamics(view.core).fluctuation(x0, grid, generator=case.generator("fluctuation paths"))


@register
class IntegralFluctuation(MonteCarlo):
    """Item 35 given the data, which holds of any core: the chain's law of paths is normalised. Size: 1."""

    name = "integral-fluctuation"
    statement = (
        r"E_Q\left[e^{-\Sigma}\right]=1,\quad"
        r"\Sigma=\log\frac{q(x_{t_0:1}|x_0)}{p_\theta(x_{t_0:1})}"
    )
    views = ("thermo", "vae", "rl")
    source = "Seifert 2005, eq. 15; Jarzynski 1997, eq. 2"
    conditions = "any core, where the data are faint; three schedules, a data set under one; in float64"
    bound = 0.35

    def applies(self, case: Case) -> bool:
        return _told(case) and _reaches(case)

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        sigma = _faint_fluctuation(case).forward
        return torch.expm1(-sigma), torch.ones(1, dtype=torch.float64)


@register
class DetailedFluctuation(MonteCarlo):
    """Crooks' relation for Bennett's function, which has no tail: the encoder's paths and the chain's. Size: its mean."""

    name = "detailed-fluctuation"
    statement = (
        r"P_Q(\Sigma)=P_{P_\theta}(\Sigma)\,e^\Sigma\ \Rightarrow\ "
        r"E_Q\left[\frac{1}{1+e^\Sigma}\right]=E_{P_\theta}\left[\frac{1}{1+e^{-\Sigma}}\right]"
    )
    views = ("thermo", "vae", "rl")
    source = "Crooks 1999, eq. 2; Bennett 1976, eq. 7"
    conditions = "any core, where the data are faint; three schedules, a data set under one; in float64"
    bound = 0.25

    def applies(self, case: Case) -> bool:
        return _told(case) and _reaches(case)

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        found = _faint_fluctuation(case)
        left, right = torch.sigmoid(-found.forward), torch.sigmoid(found.reverse)
        return left - right, right.mean().reshape(1)


@register
class JointFluctuation(MonteCarlo):
    """Item 35 on whole paths, data and decoder included, for a law of data that has a density.

    Bennett's function, and Σ's mean against the steps' KLs, path by path. Sizes: its mean, and the path KL's terms.
    """

    name = "joint-fluctuation"
    statement = (
        r"\Sigma=\log\frac{q(x_0)\,q(x_{t_0:1}|x_0)}{p_\theta(x_0,x_{t_0:1})}:\quad "
        r"E_Q\left[\frac{1}{1+e^\Sigma}\right]=E_{P_\theta}\left[\frac{1}{1+e^{-\Sigma}}\right],\quad "
        r"E_Q[\Sigma]=\mathrm{KL}(Q\,\|\,P_\theta)"
    )
    views = ("thermo", "vae")
    source = "Crooks 1999, eq. 2; Seifert 2005"
    conditions = "data with a smooth density, an exact denoiser; three schedules"
    bound = 0.35

    def applies(self, case: Case) -> bool:
        return smooth(case) and case.exact and sampled(case) and not case.reaches_zero_snr

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        inside = Window.between(case.schedule, *case.window(-1.5, 1.0))
        own = replace(case, core=Diffusion(inside, case.core.denoiser))
        view = Thermodynamics(own.core, own.world)
        x0 = own.world.sample(16384 if own.dim > 4 else 12288, generator=own.generator("joint fluctuation"))
        # The prior rule: with the encoder's own variance a KL is the same both ways round.
        found = view.fluctuation(
            x0, grid_of(own, 6), joint=True, generator=own.generator("joint paths"), variance="prior"
        )
        left, right = torch.sigmoid(-found.forward), torch.sigmoid(found.reverse)
        columns = torch.stack([left - right, found.forward - found.divergence], 1)
        return columns, torch.stack([right.mean(), found.divergence.mean()])


@register
class WorkIsBound(MonteCarlo):
    """Item 36: the mean work is what the VAE's ledger comes to, KL by KL, on draws of its own. Sizes: the ledger's."""

    name = "work-is-bound"
    statement = (
        r"\left\langle W\right\rangle=-\mathrm{ELBO},\quad W=\log\frac{q(x_{t_0:1}|x_0)}{p_\theta(x_0,x_{t_0:1})}"
    )
    views = ("thermo", "vae")
    source = "Sohl-Dickstein et al. 2015, section 2.3; Jarzynski 1997"
    conditions = "any core; data that are more than one point; three schedules, a data set under one; in float64"
    bound = 0.35

    def applies(self, case: Case) -> bool:
        return _told(case) and case.has_spread and not case.reaches_zero_snr

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        own = case.heard
        n = _paths_of(own, 4096)
        x0 = own.world.sample(n, generator=own.generator("work")).reshape(-1, *own.core.event_shape)
        grid, decoder = grid_of(own, 5), ContinuousDecoder(std=float(own.world.variance.mean().sqrt()))
        done = Thermodynamics(own.core).work(x0, grid, generator=own.generator("work paths"), decoder=decoder)
        ledger = HierarchicalVAE(own.core, decoder).elbo(x0, grid, generator=own.generator("work ledger"))
        parts = [done.diffusion[0] - ledger.diffusion.sum(0), done.reconstruction[0] - ledger.reconstruction]
        sizes = [ledger.diffusion.sum(0).mean(), ledger.reconstruction.abs().mean()]
        return torch.stack([done.total[0] + ledger.total, *parts], 1), torch.stack([sizes[0] + sizes[1], *sizes])


def log_marginal(core: Diffusion, world: Gaussian, grid: TimeGrid, x0: Tensor) -> Tensor:
    """log p_θ(x_0) ``[B]`` of the posterior rule and the denoiser's decoder on Gaussian data, by mean and covariance.

    x̂_0 = m + G(z − αm) with G = αS(α²S + σ²I)⁻¹ makes every step linear: μ ← aμ + b x̂_0(μ), Σ ← AΣAᵀ + vI, A = aI + bG;
    a, b, v by the textbook (Ho et al. 2020, eq. 7). In float64 on the CPU.
    """
    schedule = core.schedule
    m, cov = world.mean.to("cpu", torch.float64), world.covariance.to("cpu", torch.float64)
    eye = torch.eye(len(m), dtype=torch.float64)
    alpha, var = schedule.alpha(grid.times).detach(), schedule.sigma(grid.times).detach().square()
    mean, spread = torch.zeros_like(m), schedule.prior_std**2 * eye

    def denoiser(k: int) -> Tensor:
        return alpha[k] * cov @ torch.linalg.inv(alpha[k] ** 2 * cov + var[k] * eye)

    for k in range(grid.steps, 0, -1):
        ratio = alpha[k] / alpha[k - 1]
        jump = var[k] - ratio**2 * var[k - 1]
        a, b = ratio * var[k - 1] / var[k], alpha[k - 1] * jump / var[k]
        step = a * eye + b * denoiser(k)
        mean = step @ mean + b * (m - alpha[k] * denoiser(k) @ m)
        spread = step @ spread @ step.mT + var[k - 1] * jump / var[k] * eye
    last = denoiser(0)
    mean, spread = last @ mean + m - alpha[0] * last @ m, last @ spread @ last.mT + var[0] / alpha[0] ** 2 * eye
    return MultivariateNormal(mean, 0.5 * (spread + spread.mT)).log_prob(x0.to("cpu", torch.float64))


def _gaussian(case: Case) -> bool:
    return isinstance(case.world, Gaussian) and case.exact and sampled_gaussian(case) and not case.reaches_zero_snr


def sampled_gaussian(case: Case) -> bool:
    """One schedule of each convention."""
    return case.schedule_name == "sigmoid" or not case.schedule.variance_preserving


@register
class CrooksRelation(MonteCarlo):
    """Item 36 with the data: W on q's path and on the path that made x_0, about the free energy in closed form.

    Bennett's function about F, and about F − 1, where the two laws' places cannot be exchanged. Sizes: the acceptances.
    """

    name = "crooks-relation"
    statement = (
        r"\frac{P_q(W)}{P_{p_\theta}(W)}=e^{W-F}\ \Rightarrow\ "
        r"E_q\left[\frac{1}{1+e^{W-F}}\right]=E_{p_\theta}\left[\frac{1}{1+e^{F-W}}\right],\quad F=-\log p_\theta(x_0)"
    )
    views = ("thermo", "vae")
    source = "Crooks 1999, eq. 2; Bennett 1976, eq. 7; Grosse et al. 2015"
    conditions = "Gaussian data, the exact denoiser; one schedule of each convention"
    subject = "optimal"

    def applies(self, case: Case) -> bool:
        return _gaussian(case)

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        own = case.heard
        assert isinstance(own.world, Gaussian)
        grid, view = grid_of(own, 6), Thermodynamics(own.core, own.world)
        like = torch.empty(0, dtype=own.dtype, device=own.device)
        n = 12288
        found = view.crooks(n, grid, like, own.generator("crooks"))
        # The same draws again, for the data that they end in.
        x0 = view.paths(grid).model(n, like, own.generator("crooks")).x0
        free = -log_marginal(own.core, own.world, grid, x0).to(found.forward)
        left = torch.stack([torch.sigmoid(free - found.forward - c) for c in (0, 1)], 1)
        right = torch.stack([math.exp(-c) * torch.sigmoid(found.reverse - free + c) for c in (0, 1)], 1)
        return left - right, right.mean(0)


@register
class Jarzynski(MonteCarlo):
    """Item 36: e^{−W}'s mean is p_θ(x_0) in closed form, datum by datum. Size: 1."""

    name = "jarzynski"
    statement = r"\left\langle e^{-W}\right\rangle=e^{-F}=p_\theta(x_0)"
    views = ("thermo", "vae")
    source = "Jarzynski 1997, eq. 2; Neal 2001"
    conditions = "Gaussian data, the exact denoiser; one schedule of each convention"
    subject = "optimal"
    bound = 0.35

    def applies(self, case: Case) -> bool:
        return _gaussian(case)

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        view, grid, x0, truth = _cheap_paths(case, 2, -1.5, 1.5)
        # Estimates of 16 paths: each is an unbiased mean, and repeats of them are what is independent.
        many = x0.repeat(1024, 1)
        found = view.free_energy(many, grid, 16, generator=case.generator("jarzynski"))
        return (found.log_prob.reshape(1024, 2) - truth.to(found.log_prob)).expm1(), torch.ones(2, dtype=torch.float64)


@register
class FreeEnergyInterval(Bound):
    """The interval for log p_θ holds it as often as it says, and is stated; its floor too. Misses against the binomial's.

    Of 400 intervals at 90% from 256 paths each; as many misses as are too many have a chance of 1e-13.
    """

    name = "free-energy-interval"
    statement = (
        r"P\left(\log p_\theta(x_0)\in[l,h]\right)\geq1-\delta,\quad "
        r"P\left(\hat p>\frac{p_\theta}{\delta}\right)\leq\delta"
    )
    views = ("thermo", "vae")
    source = "Johnson 1978, eq. 2.5; Markov's inequality"
    conditions = "Gaussian data, the exact denoiser; one schedule of each convention"
    subject = "optimal"

    def applies(self, case: Case) -> bool:
        return _gaussian(case)

    def excess(self, case: Case) -> tuple[float, float]:
        repeats, level = 400, 0.9
        view, grid, x0, truth = _cheap_paths(case, 1, -6.0, 0.0)
        many = x0.repeat(repeats, 1)
        found = view.free_energy(many, grid, 256, level, case.generator("free energy interval"))
        inside = (found.low <= truth.item()) & (truth.item() <= found.high)
        limit = float(binom.isf(1e-13, repeats, 1 - level))
        # Too wide an interval is no interval, and neither is one that is seldom stated.
        wide = float((found.high - found.low)[found.stated].median()) if bool(found.stated.any()) else math.inf
        unheard = max(0.5 - float(found.stated.to(torch.float64).mean()), wide - 0.15)
        misses = int((~inside).sum()) - limit
        below = int((found.floor > truth.item()).sum()) - limit
        return max(misses / repeats, below / repeats, unheard), 0.0


def _cheap_paths(case: Case, data: int, low: float, high: float) -> tuple[Thermodynamics, TimeGrid, Tensor, Tensor]:
    """A view, a grid in a window of λ on which works spread little, that many data near the mean, and their log p_θ."""
    inside = Window.between(case.schedule, *case.window(low, high))
    own = replace(case, core=Diffusion(inside, case.core.denoiser))
    assert isinstance(own.world, Gaussian)
    grid = TimeGrid.uniform_log_snr(8, inside)
    shift = own.world.variance.sqrt() * torch.linspace(-0.5, 0.5, 2).to(own.world.mean)[:data, None]
    x0 = own.world.mean + shift
    return Thermodynamics(own.core, own.world), grid, x0, log_marginal(own.core, own.world, grid, x0)
