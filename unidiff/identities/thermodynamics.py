r"""Items 31 and 32: what is known of x_0, and how entropy rises; entropies by density, rates by score.

Of the first coordinate of the data, where each side is a quadrature that stands still at once, under every schedule.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from unidiff.core.diffusion import Diffusion
from unidiff.identities.case import Case, sampled, smooth
from unidiff.identities.laws import MonteCarlo, Quadrature
from unidiff.identities.registry import register
from unidiff.thermo import Thermodynamics
from unidiff.thermo.information import world_information
from unidiff.worlds import Gaussian, GaussianMixture, OracleDenoiser, World


def of_line(case: Case) -> Thermodynamics:
    """The view of the case's schedule on the data's first coordinate, in float64."""
    law = line(case.world)
    return Thermodynamics(Diffusion(case.schedule, OracleDenoiser(law)), law)


def line(world: World) -> World:
    """The law of the first coordinate of a Gaussian or a mixture, in float64 on the host."""
    wide = world.to(torch.float64, "cpu")
    if isinstance(wide, Gaussian):
        return Gaussian(wide.mean[:1], wide.covariance[:1, :1])
    assert isinstance(wide, GaussianMixture)
    return GaussianMixture(wide.weights, wide.means[:, :1], wide.covariances[:, :1, :1])


def ends(case: Case, low: float = -5.0, high: float = 5.0) -> tuple[float, float]:
    """Two times, the earlier first, with their log-SNRs in a window."""
    least, most = case.window(low, high)
    times = case.schedule.time(torch.tensor([most, least], dtype=torch.float64)).detach()
    earlier, later = times.tolist()
    return earlier, later


def over(view: Thermodynamics, rate: Callable[[float], Tensor], s: float, t: float, n: int) -> Tensor:
    """∫_s^t of a rate per unit of time, by n nodes of Gauss and Legendre in λ, in which no schedule has kinks."""
    schedule = view.core.schedule
    high, low = schedule.log_snr(torch.tensor([s, t], dtype=torch.float64)).detach().tolist()
    x, w = np.polynomial.legendre.leggauss(n)
    at = schedule.time(torch.from_numpy(low + 0.5 * (high - low) * (1 + x))).detach()
    slope = schedule.log_snr_derivative(at).detach()
    rates = torch.stack([rate(float(u)) for u in at])
    return 0.5 * (high - low) * (torch.from_numpy(w) * rates / -slope).sum()


class OnLine(Quadrature):
    """Both sides on the data's first coordinate."""

    subject = "schedule"
    conditions = "data with a smooth density, by their first coordinate; in float64"
    refinements = (16, 24, 32, 48, 64, 128)
    tolerance = 1e-8

    def applies(self, case: Case) -> bool:
        return smooth(case) and case.dtype == torch.float64

    def rounding(self, case: Case) -> float:
        return case.eps * 64


@register
class InformationLost(OnLine):
    """Item 31: the mmse's integral, the posterior's, is what the noised law's entropy exceeds its noise's by.

    Between two levels, and from no signal at all to the later.
    """

    name = "i-mmse"
    statement = (
        r"\frac{1}{2}\int_{\mathrm{SNR}_t}^{\mathrm{SNR}_s}\mathrm{mmse}\,\mathrm{d}\,\mathrm{SNR}"
        r"=I(x_0;x_s)-I(x_0;x_t),\quad I(x_0;x_t)=H(x_t)-H(x_t|x_0)"
    )
    views = ("thermo", "score", "vae")
    source = "Guo, Shamai and Verdu 2005, theorem 1"
    conditions = "data with a smooth density, by their first coordinate, three schedules; in float64"

    def applies(self, case: Case) -> bool:
        return super().applies(case) and sampled(case)

    def values(self, case: Case, n: int) -> tuple[Tensor, Tensor]:
        view, (s, t) = of_line(case), ends(case)
        high, low = case.schedule.log_snr(torch.tensor([s, t], dtype=torch.float64)).detach().tolist()
        assert view.world is not None
        found = world_information(view.world, low, high, nodes=n).value
        x0 = torch.zeros(1, 1, dtype=torch.float64)
        known = [view.entropy(u).value - view.core.process.marginal(x0, u).entropy().detach()[0] for u in (s, t)]
        return torch.stack([found, view.mutual_information(t).value]), torch.stack([known[0] - known[1], known[1]])


@register
class InformationInPlane(Quadrature):
    """Item 31 in the plane, where the whole of a mixture in two dimensions is seen."""

    name = "i-mmse-plane"
    statement = InformationLost.statement
    views = ("thermo", "score")
    source = InformationLost.source
    conditions = "a mixture in the plane; once, in float64"
    subject = "schedule"
    refinements = (8, 16, 32)
    tolerance = 1e-8

    def applies(self, case: Case) -> bool:
        plane = isinstance(case.world, GaussianMixture) and case.dim == 2
        return plane and case.schedule_name == "polynomial" and case.dtype == torch.float64

    def values(self, case: Case, n: int) -> tuple[Tensor, Tensor]:
        view, (s, t) = Thermodynamics(case.core, case.world), ends(case, -2.0, 2.0)
        high, low = case.schedule.log_snr(torch.tensor([s, t], dtype=torch.float64)).detach().tolist()
        found = world_information(case.world, low, high, nodes=n).value
        x0 = torch.zeros(1, 2, dtype=torch.float64)
        known = [view.entropy(u).value - view.core.process.marginal(x0, u).entropy().detach()[0] for u in (s, t)]
        return found, known[0] - known[1]

    def rounding(self, case: Case) -> float:
        return case.eps * 64


@register
class DeBruijn(OnLine):
    """Item 32: the entropy's rate by the score, summed along the schedule, against the entropies by density.

    Of Gaussian data in D dimensions too.
    """

    name = "de-bruijn"
    statement = r"\frac{\mathrm{d}H(x_t)}{\mathrm{d}t}=fD+\frac{1}{2}g^2\,E\|\nabla\log q_t\|^2"
    views = ("thermo", "score")
    source = "Stam 1959, eq. 2.2; Cover & Thomas 2006, theorem 17.7.2"

    def values(self, case: Case, n: int) -> tuple[Tensor, Tensor]:
        view, (s, t) = of_line(case), ends(case)
        views = [view]
        if isinstance(case.world, Gaussian):  # the whole of it, D of them, is a formula
            views.append(Thermodynamics(case.core, case.world))
        summed = [over(each, lambda u, each=each: each.entropy_rate(u).value, s, t, n) for each in views]
        return torch.stack(summed), torch.stack([each.entropy(t).value - each.entropy(s).value for each in views])


@register
class EntropyProduction(OnLine):
    """Item 32: what the KL to the prior's own law loses is the entropy produced, VP and VE."""

    name = "entropy-production"
    statement = (
        r"-\frac{\mathrm{d}}{\mathrm{d}t}\mathrm{KL}(q_t\,\|\,N(0,r_t^2I))=\frac{1}{2}g^2\,"
        r"E\left\|\nabla\log q_t+\frac{x_t}{r_t^2}\right\|^2\geq0,\quad r_t=1\ \mathrm{(VP)},\ \sigma_t\ \mathrm{(VE)}"
    )
    views = ("thermo", "score")
    source = "Lyu 2009, theorem 1; Song et al. 2021, eq. 8"
    conditions = "data with a smooth density, by their first coordinate, three schedules; in float64"

    def applies(self, case: Case) -> bool:
        return super().applies(case) and sampled(case)

    def values(self, case: Case, n: int) -> tuple[Tensor, Tensor]:
        view, (s, t) = of_line(case), ends(case, -5.0, 3.0)
        summed = over(view, lambda u: view.entropy_production(u).value, s, t, n)
        return summed, view.kl_to_prior(s).value - view.kl_to_prior(t).value


@register
class InformationByDraws(MonteCarlo):
    """Item 31 from data alone, by the core's own denoising error, against the world's posterior variance or closed form.

    Repeats of the whole estimate are what is independent. Size: the information.
    """

    name = "information-by-draws"
    statement = (
        r"I(x_0;x_t)=\frac{1}{2}\int_0^{v_t}\frac{E\|\varepsilon-\hat\varepsilon\|^2}{\mathrm{sigmoid}(\lambda+\log c)}"
        r"\,\mathrm{d}v,\quad v=\log(1+c\,\mathrm{SNR})"
    )
    views = ("thermo", "score", "vae")
    source = "Guo, Shamai and Verdu 2005, theorem 1; Kingma et al. 2021, eq. 15"
    conditions = "the exact denoiser; three schedules that end in noise, a data set under one; in float64"
    subject = "optimal"
    bound = 0.3

    def applies(self, case: Case) -> bool:
        told = case.exact and case.has_spread and case.dtype == torch.float64
        return told and sampled(case) and case.log_snr_range[0] <= -8.0

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        cloud = not smooth(case)
        repeats, each = (32, 48) if cloud else (64, 128)
        t = float(case.schedule.time(0.5 * sum(case.window(*((-4.0, -2.0) if cloud else (-1.0, 3.0))))).detach())
        own, known = Thermodynamics(case.core), Thermodynamics(case.core, case.world)
        generator, found, truth = case.generator("information by draws"), [], []
        constant = None if cloud or case.dim > 3 else self._constant(case, t)
        for _ in range(repeats):
            x0 = case.world.sample(each, generator)
            found.append(own.mutual_information(t, x0, generator=generator).value)
            if constant is None:
                truth.append(known.mutual_information(t, draws=each, generator=generator).value)
        right = torch.stack(truth) if truth else constant
        assert right is not None
        return torch.stack(found) - right, right.mean().reshape(1)

    @staticmethod
    def _constant(case: Case, t: float) -> Tensor:
        """By entropies, which are cheaper than the mmse's integral in the plane."""
        entropy = Thermodynamics(case.core, case.world.to(torch.float64, "cpu")).entropy(t).value.cpu()
        sigma = case.schedule.log_sigma(t).detach().cpu()
        return entropy - case.dim * (sigma + 0.5 * math.log(2 * math.pi * math.e))


@register
class RatesByDraws(MonteCarlo):
    """The estimates from data against each other: R by the denoising error, G by the score; they are tied by E[z·s] = −D.

    G = R − 2D/r² + E‖z‖²/r⁴, E‖z‖² by the world. Repeats are what is independent. Size: R.
    """

    name = "rates-by-draws"
    statement = (
        r"E\left\|s+\frac{z}{r^2}\right\|^2=\frac{D-E\|\varepsilon-\hat\varepsilon\|^2}{\sigma^2}"
        r"-\frac{2D}{r^2}+\frac{E\|z\|^2}{r^4}"
    )
    views = ("thermo", "score")
    source = "Vincent 2011, eq. 11; Stein 1981"
    conditions = "the exact denoiser; three schedules, a data set under one; in float64"
    subject = "optimal"
    bound = 0.35

    def applies(self, case: Case) -> bool:
        return case.exact and case.has_spread and case.dtype == torch.float64 and sampled(case)

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        cloud = not smooth(case)
        repeats, each = (32, 32) if cloud else (64, 128)
        t = float(case.schedule.time(0.5 * sum(case.window(-3.0, 0.0))).detach())
        view, generator = Thermodynamics(case.core), case.generator("rates by draws")
        variance, half = view.reference_variance(t), 0.5 * float(case.schedule.diffusion2(t).detach())
        level = case.schedule.level(t)
        law = case.world.diffuse(float(level.alpha.detach()), float(level.sigma.detach()))
        second = float(law.variance.sum() + law.mean.square().sum())
        left, right, kept = [], [], []
        for _ in range(repeats):
            x0 = case.world.sample(each, generator)
            left.append(view.entropy_production(t, x0, generator=generator).value / half)
            fisher = view.fisher_information(t, x0, generator=generator).value
            right.append(fisher - 2 * case.dim / variance + second / variance**2)
            kept.append(fisher)
        return torch.stack(left) - torch.stack(right), torch.stack(kept).mean().reshape(1)
