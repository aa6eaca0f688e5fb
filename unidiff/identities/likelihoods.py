r"""Item 17 by the score view's own code: its flow, its likelihood and its solvers, against worlds and closed forms."""

from __future__ import annotations

import torch
from torch import Tensor

from unidiff.identities.case import Case, affordable
from unidiff.identities.laws import Bound, MonteCarlo, Order, Quadrature
from unidiff.identities.registry import register
from unidiff.score import ORDERS, ProbabilityFlow, likelihood
from unidiff.score.ode import Solver
from unidiff.worlds import Gaussian


def _flows(case: Case) -> bool:
    # The flow has two finite ends, and starts near enough to the data for the one step between.
    return affordable(case) and not case.reaches_zero_snr and case.log_snr_range[1] >= 9.0


@register
class EncodeDecode(Quadrature):
    """Item 17's map there and back: what the flow encodes it decodes, by Dormand and Prince's method.

    From a log-SNR of 5 on (or a nat above the schedule's lowest), where the step from the data is long enough to be heard:
    undone but in part, it would leave a thousandth of the data.
    """

    name = "encode-decode"
    statement = r"\Phi_{1\to0}(\Phi_{0\to1}(x_0))=x_0"
    views = ("score", "core")
    source = "Song et al. 2021 (SDE), section 4.3 and appendix D.4"
    conditions = (
        "float64; the exact denoiser of a world with a smooth density (ProbabilityFlow.round_trip tells any other's)"
    )
    subject = "optimal"
    refinements = (8, 12, 16, 32, 64, 128)
    tolerance = 1e-4

    def applies(self, case: Case) -> bool:
        return case.exact and _flows(case)

    def values(self, case: Case, n: int) -> tuple[Tensor, Tensor]:
        x = case.x0[:8]
        first = float(case.schedule.time(max(5.0, case.log_snr_range[0] + 1)).detach())
        return ProbabilityFlow(case.core, first).round_trip(x, "dopri5", steps=n).data, x

    def rounding(self, case: Case) -> float:
        return case.eps * 8 * float(case.x0.abs().max() + 3)


@register
class ModelLikelihood(Quadrature):
    """Item 17: the view's log p of data, to the data themselves and with the exact q_1, against the world's own."""

    name = "likelihood"
    statement = (
        r"\log p(x)=\log q_1(x_1)+\int\nabla\cdot\hat v\,\mathrm{d}\theta"
        r"+\log\left|\frac{\partial y_{\theta_0}}{\partial x}\right|"
    )
    views = ("score", "thermo")
    source = "Song et al. 2021 (SDE), eq. 39; Chen et al. 2018, eq. 8"
    conditions = (
        "the exact denoiser; a world with a smooth density; log-SNR from 9 or more to a finite end; float32 on "
        "Gaussian data alone"
    )
    subject = "optimal"
    refinements = (8, 12, 16, 32, 64, 128)
    tolerance = 1e-3

    def applies(self, case: Case) -> bool:
        return _flows(case)

    def values(self, case: Case, n: int) -> tuple[Tensor, Tensor]:
        x = case.x0[:8]
        found = likelihood(case.core, x, world=case.world, solver="dopri5", steps=n, estimate=False)
        return found.with_exact_prior, case.world.log_prob(x)

    def rounding(self, case: Case) -> float:
        return case.eps * case.dim * 64 * float(case.x0.abs().max() + 3)


@register
class StepToData(Order):
    """Item 17's first stretch: from data to the level of t_0 in one step, off by the square of (σ_0/α_0)²."""

    name = "step-to-data"
    statement = (
        r"\log p(x)=\log p_{t_0}(x')+\frac12\left(D-\nabla\cdot\hat x_0\right)+O(\mathrm{SNR}_0^{-2}),"
        r"\quad x'=x+\frac12(x-\hat x_0)"
    )
    views = ("score",)
    source = "Song et al. 2021 (DDIM), eq. 13, backwards; Karras et al. 2022, eq. 3"
    conditions = "Gaussian data, the exact denoiser, log-SNR 5 … 7 at t_0; one schedule of each convention"
    subject = "optimal"

    def applies(self, case: Case) -> bool:
        return ordered(case) and case.log_snr_range[1] >= 7.0

    def errors(self, case: Case) -> tuple[list[float], list[float], float]:
        x = corners(case)
        exact, steps, errors = case.world.log_prob(x), [], []
        for log_snr in (5.0, 6.0, 7.0):
            first = float(case.schedule.time(log_snr).detach())
            found = likelihood(case.core, x, world=case.world, steps=16, first=first, estimate=False)
            steps.append(float(case.schedule.log_snr(first).detach().neg().exp()))
            errors.append(float((found.with_exact_prior - exact).norm()))
        return steps, errors, 2.0


@register
class StepToDataIsTold(Bound):
    """What is reported of the first stretch: at least a third of each datum's error, at most 20 times the largest."""

    name = "step-to-data-is-told"
    statement = r"\frac{1}{3}\,d\leq \hat e\leq 20\,\max\,d,\quad d=|\log p-\log\hat p|"
    views = ("score",)
    source = "Richardson 1911; Hairer et al. 1993, section II.4"
    conditions = "Gaussian data, the exact denoiser, log-SNR 6 at t_0; one schedule of each convention"
    subject = "optimal"

    def applies(self, case: Case) -> bool:
        return ordered(case) and case.log_snr_range[0] <= 4.0 and case.log_snr_range[1] >= 6.0

    def excess(self, case: Case) -> tuple[float, float]:
        x = corners(case)
        first = float(case.schedule.time(6.0).detach())
        found = likelihood(case.core, x, world=case.world, steps=16, first=first)
        off, told = (found.with_exact_prior - case.world.log_prob(x)).abs(), found.entry_error
        return float(torch.maximum(off / (3 * told), told / (20 * off.max())).max()) - 1, 0.0


@register
class LikelihoodByProbes(MonteCarlo):
    """Item 17's Hutchinson form, unbiased in log p at any number of steps: with probes against exact. Size: D."""

    name = "likelihood-by-probes"
    statement = r"E_v\left[\log p_v(x)\right]=\log p(x),\quad\nabla\cdot\hat v\mapsto v^\top(\nabla\hat v)\,v"
    views = ("score",)
    source = "Grathwohl et al. 2019, eq. 7; Song et al. 2021 (SDE), appendix D.2"

    def applies(self, case: Case) -> bool:
        return _flows(case)

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        # A random network's Jacobian scatters the probes more, and is cheap.
        every, probes = (16, 1) if case.exact else (2, 4)
        x = case.mixed.x0[::every]
        options = {"solver": "heun", "steps": 4, "estimate": False}
        exact = likelihood(case.core, x, **options)
        found = likelihood(case.core, x, probes=probes, generator=case.generator("likelihood probes"), **options)
        return found.log_prob - exact.log_prob, torch.full((1,), float(case.dim), dtype=torch.float64)


@register
class ProbeError(MonteCarlo):
    """The standard error that K = 4 probes report, against how far off they are. Size: the mean variance reported.

    On Gaussian data every datum has one Jacobian, so that no few data make up the mean.
    """

    name = "probe-error"
    statement = r"E_v\left[(\log p_v-\log p)^2\right]=E_v\left[\frac{s_v^2}{K}\right]"
    views = ("score",)
    source = "Hutchinson 1989; Bessel's correction"
    conditions = "Gaussian data, the exact denoiser, float64"
    subject = "optimal"
    # Of one probe's variance for four's, or four's for sixteen's, 75% and more. Squares spread by √2 of themselves.
    bound = 0.4

    def applies(self, case: Case) -> bool:
        return case.exact and case.dtype == torch.float64 and isinstance(case.world, Gaussian) and _flows(case)

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        x = case.mixed.x0[::4]
        options = {"solver": "euler", "steps": 4, "estimate": False}
        exact = likelihood(case.core, x, **options)
        found = likelihood(case.core, x, probes=4, generator=case.generator("probe errors"), **options)
        told = found.probe_error.square()
        return (found.log_prob - exact.log_prob).square() - told, told.mean().reshape(1)


@register
class PriorCost(MonteCarlo):
    """Item 8 as a likelihood reports it where q_1 is not known. On Gaussian data both terms are closed forms."""

    name = "prior-cost"
    statement = r"E_x\mathrm{KL}(q(x_1|x)\,\|\,N)=\mathrm{KL}(q_1\,\|\,N)+I(x_0;x_1)"
    views = ("score", "vae", "thermo")
    source = "Cover & Thomas 2006, eq. 2.36; Ho et al. 2020, eq. 5"
    conditions = "Gaussian data, float64"
    subject = "schedule"

    def applies(self, case: Case) -> bool:
        return isinstance(case.world, Gaussian) and case.dtype == torch.float64 and not case.reaches_zero_snr

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        found = likelihood(case.core, case.mixed.x0[::4], solver="euler", steps=1, estimate=False)
        level, wanted = case.schedule.level(1.0), case.schedule.prior_std**2
        snr, var = level.log_snr.exp().detach(), level.sigma.square().detach()
        assert isinstance(case.world, Gaussian)
        scales = torch.linalg.eigvalsh(case.world.covariance)
        noised = var * (1 + snr * scales)
        shift = snr * var * case.world.mean.square().sum() / wanted
        divergence_1 = 0.5 * ((noised / wanted - 1 - (noised / wanted).log()).sum() + shift)
        mutual = 0.5 * torch.log1p(snr * scales).sum()
        whole = divergence_1 + mutual
        return found.prior_error - whole, whole.reshape(1)


def ordered(case: Case) -> bool:
    """Whether an order is measured here: Gaussian data, exact, in float64, one schedule of each convention."""
    # In the angle nothing is left of a schedule but its ends and its convention.
    chosen = case.schedule_name == "sigmoid" or not case.schedule.variance_preserving
    return chosen and isinstance(case.world, Gaussian) and case.exact and case.dtype == torch.float64


def corners(case: Case) -> Tensor:
    """The data's mean, and a deviation from it along each axis: where an order is measured must not hang on a draw."""
    spread = torch.diag(case.world.variance.sqrt())
    return case.world.mean + torch.cat([torch.zeros_like(spread[:1]), spread, -1.5 * spread])


class _SolverOrder(Order):
    """A solver's declared order, on the flow map of Gaussian data, which is known."""

    solver: Solver
    views = ("score", "core")
    conditions = "Gaussian data, the exact denoiser, even steps of the angle; one schedule of each convention"
    subject = "optimal"
    counts: tuple[int, ...]

    def applies(self, case: Case) -> bool:
        return ordered(case)

    def errors(self, case: Case) -> tuple[list[float], list[float], float]:
        assert isinstance(case.world, Gaussian)
        # From λ = 1 on: over the whole way the higher terms of a method of order 5 are still heard at an affordable N.
        flow = ProbabilityFlow(case.core, first=float(case.schedule.time(1.0).detach()), to_data=False)
        first, last = flow.ends[0], flow.ends[1]
        x = corners(case)
        exact = case.world.flow(first.alpha * x, first, last)
        errors = [
            float((flow.encode(x, self.solver, steps=n).state - exact).norm() / exact.norm()) for n in self.counts
        ]
        return [1 / n for n in self.counts], errors, float(ORDERS[self.solver])


def _declare(solver: Solver, source: str, counts: tuple[int, ...]) -> None:
    members = {
        "__doc__": f"The order of {solver}.",
        "name": f"solver-order-{solver}",
        "statement": rf"\|\Phi_N-\Phi\|=O(N^{{-{ORDERS[solver]}}})",
        "source": source,
        "solver": solver,
        "counts": counts,
    }
    register(type("SolverOrder_" + solver, (_SolverOrder,), members))


_declare("euler", "Euler 1768; Butcher 2016, section 20", (24, 36, 48))
_declare("heun", "Heun 1900; Butcher 2016, section 23", (16, 24, 32))
_declare("rk4", "Kutta 1901; Butcher 2016, section 32", (8, 12, 16))
_declare("dopri5", "Dormand & Prince 1980, table 2", (8, 12, 16))
