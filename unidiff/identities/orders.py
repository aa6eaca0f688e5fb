r"""Items 9 and 20: each sampler's declared order, measured on Gaussian data, where the flow map is known.

With the exact denoiser of N(m, C) every sampler is an affine map of its start and its noises, so its law is had
exactly from a batch of unit vectors: no Monte Carlo. Deterministic methods are held to the closed-form flow of
x_1 ↦ x_{t_0}; stochastic ones, whose order is weak, to the mean and covariance of q_{t_0}.
"""

from __future__ import annotations

import torch

from unidiff.core.diffusion import Diffusion
from unidiff.core.grid import TimeGrid
from unidiff.core.process import bridge
from unidiff.core.sampling import Sampler
from unidiff.core.schedule import Schedule
from unidiff.core.schedule_kinds import FromBetas
from unidiff.core.tables import ORDERS, Method
from unidiff.identities.case import Case
from unidiff.identities.laws import Order
from unidiff.identities.registry import register
from unidiff.identities.window import Window
from unidiff.worlds import Gaussian, OracleDenoiser

STEPS = (32, 64, 128, 256, 512)
FINE = 1000
"""How many betas make a schedule whose jumps of λ' are lost in a step of the longest grid."""


def narrowed(schedule: Schedule, low: float, high: float, steps: int) -> tuple[Schedule, TimeGrid]:
    """The schedule's own λ(t) between two log-SNRs, its time stretched to end at 1, and ``steps`` steps of λ.

    The steps are uneven, 1 : 2 in turn: a multistep method that misjudges the ratio of two steps loses its order there.
    """
    window = Window.between(schedule, low, high)
    places = torch.cat([torch.zeros(1), torch.tensor([1.0, 2.0]).repeat(steps // 2).cumsum(0)]).to(torch.float64)
    ends = window.log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64))
    times = window.time(ends[0] + (ends[1] - ends[0]) * places / places[-1])
    times[0], times[-1] = 0.0, 1.0
    return window, TimeGrid(times)


def sampler_errors(world: Gaussian, schedule: Schedule, method: Method, span: tuple[float, float]) -> list[float]:
    """The method's error over STEPS: of the flow map on unit vectors, or of mean and covariance; relative, float64."""
    weak = method in ("ancestral", "sde", "sde-dpm++2m")
    dim, errors = world.dim, []
    for n in STEPS:
        narrow, grid = narrowed(schedule, *span, n)
        core = Diffusion(narrow, OracleDenoiser(world))
        sampler = Sampler(core, grid, method, graph=False)
        start, end = narrow.level(1.0), narrow.level(0.0)
        at_end = world.diffuse(end.alpha, end.sigma)
        if not weak:
            x = torch.cat([torch.zeros(1, dim), torch.eye(dim)]).to(torch.float64)
            x = start.alpha * world.mean + (start.alpha**2 + start.sigma**2).sqrt() * x
            exact = world.flow(x, start, end)
            errors.append(float((sampler(x) - exact).norm() / exact.norm()))
            continue
        at_start = world.diffuse(start.alpha, start.sigma)
        rows = sampler.table.rows
        root = torch.linalg.cholesky(at_start.covariance)
        x = at_start.mean + torch.cat([torch.zeros(1, dim, dtype=root.dtype), root.T, torch.zeros(rows * dim, dim)])
        noise = torch.zeros(rows, x.shape[0], dim, dtype=torch.float64)
        for row in range(rows):
            first = 1 + dim + row * dim
            noise[row, first : first + dim] = torch.eye(dim, dtype=torch.float64)
        out = sampler(x, noise=noise)
        columns = out[1:] - out[0]
        covariance = columns.T @ columns
        off = (covariance - at_end.covariance).norm() / at_end.covariance.norm()
        errors.append(float(off + (out[0] - at_end.mean).norm() / at_end.covariance.norm().sqrt()))
    return errors


class _SamplerOrder(Order):
    """A method's order in the step of log-SNR."""

    method: Method
    views = ("core", "score", "paths")
    conditions = "Gaussian data, the exact denoiser, steps of log-SNR 1 : 2 in turn over [-4, 4], N = 32 … 512"
    subject = "optimal"

    def applies(self, case: Case) -> bool:
        # Between the knots of a few betas λ' jumps, and a method that asks for it has an order only piece by piece.
        smooth = self.method not in ("euler", "sde") or not 0 < knots_of(case.schedule) < FINE
        told = isinstance(case.world, Gaussian) and case.exact and case.dtype == torch.float64
        return told and smooth and case.overlaps(-4.0, 4.0)

    def errors(self, case: Case) -> tuple[list[float], list[float], float]:
        span = case.window(-4.0, 4.0)
        world = Gaussian(torch.tensor([0.8, -0.3]), torch.tensor([[0.6, 0.2], [0.2, 0.3]]))
        found = sampler_errors(world.to(torch.float64), case.schedule, self.method, span)
        return [1 / n for n in STEPS], found, ORDERS[self.method]


def _declare(method: Method, source: str) -> None:
    weak = method in ("ancestral", "sde", "sde-dpm++2m")
    kind = r"\mathrm{weak\ error}" if weak else r"\|\Phi_N-\Phi\|"
    members = {
        "__doc__": f"The order of {method}.",
        "name": f"order-{method}",
        "statement": kind + rf"=O(N^{{-{ORDERS[method]}}})",
        "source": source,
        "method": method,
    }
    register(type("Order_" + method, (_SamplerOrder,), members))


_declare("ddim", "Song et al. 2021 (DDIM), eq. 13")
_declare("euler", "Song et al. 2021 (SDE), eq. 13")
_declare("heun", "Karras et al. 2022, algorithm 1")
_declare("dpm++2m", "Lu et al. 2022 (DPM-Solver++), theorem 3.2")
_declare("ancestral", "Ho et al. 2020, algorithm 2")
_declare("sde", "Song et al. 2021 (SDE), appendix E")
_declare("sde-dpm++2m", "Lu et al. 2022 (DPM-Solver++), section 5")


def smooth_time(schedule: Schedule, log_snr: float) -> tuple[float, float]:
    """A time near ``log_snr``, and how long before it λ is smooth: a schedule made of T betas has knots at i/T."""
    knots = knots_of(schedule) or 1000
    place = min(int(float(schedule.time(log_snr).detach()) * knots), knots - 1)
    return (place + 0.9) / knots, 0.8 / knots


def knots_of(schedule: Schedule) -> int:
    """T, for a schedule made of T betas in either convention; 0 for a smooth one."""
    while not isinstance(schedule, FromBetas) and isinstance(getattr(schedule, "parent", None), Schedule):
        schedule = schedule.parent  # pyright: ignore
    return schedule.steps if isinstance(schedule, FromBetas) else 0


class _StepOrder(Order):
    """One step of the DDIM(η) family against one Euler step of Anderson's SDE with the same η, in means."""

    eta: float
    views = ("core", "score")
    source = "Anderson 1982; Song et al. 2021 (SDE), eq. 6 and 13"

    def errors(self, case: Case) -> tuple[list[float], list[float], float]:
        t, room = smooth_time(case.schedule, 0.5 * sum(case.window(-4.0, 4.0)))
        level = case.schedule.level(t)
        xt = (level.alpha * case.x0 + level.sigma * case.noise).detach().to(case.dtype)
        prediction = case.core.predict(xt, t)
        x, x0 = xt.to(torch.float64), prediction.x0.detach().to(torch.float64)
        score = prediction.score.detach().to(torch.float64)
        f, g2 = case.schedule.drift(t).detach(), case.schedule.diffusion2(t).detach()
        slope = -float(case.schedule.log_snr_derivative(t).detach())
        steps, errors = [], []
        for k in range(4):
            dt = min(0.02 / slope, room) / 2**k
            member = bridge(case.schedule, t - dt, t, self.eta)
            jump = member.on_xt.detach() * x + member.on_x0.detach() * x0
            euler = x - dt * (f * x - 0.5 * (1 + self.eta**2) * g2 * score)
            variance = member.log_var.exp().detach() - self.eta**2 * g2 * dt
            steps.append(dt)
            errors.append(float((jump - euler).norm() + variance.abs() * x.numel() ** 0.5))
        return steps, errors, 2.0


@register
class FlowStep(_StepOrder):
    """Item 20: a DDIM step is a step of the probability-flow ODE."""

    name = "ddim-is-flow-step"
    statement = r"x_s^\mathrm{DDIM}=x_t-\left(fx_t-\frac12g^2s\right)\Delta t+O(\Delta t^2)"
    eta = 0.0

    def applies(self, case: Case) -> bool:
        return case.dtype == torch.float64


@register
class ReverseSdeStep(_StepOrder):
    """Item 20: an ancestral step is a step of the reverse SDE, mean and variance."""

    name = "ancestral-is-sde-step"
    statement = r"x_s^\mathrm{ancestral}=x_t-(fx_t-g^2s)\Delta t+g\,\Delta\bar W+O(\Delta t^2)"
    eta = 1.0

    def applies(self, case: Case) -> bool:
        return case.dtype == torch.float64


@register
class AndersonStep(_StepOrder):
    """Item 16: between them, the family follows Anderson's SDE with η² of the noise."""

    name = "anderson-family"
    statement = r"\mathrm{d}z=\left[fz-\frac12(1+\eta^2)g^2s\right]\mathrm{d}t+\eta g\,\mathrm{d}\bar W"
    eta = 0.6

    def applies(self, case: Case) -> bool:
        return case.dtype == torch.float64
