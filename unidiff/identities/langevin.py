r"""Items 18 and 19: what each Langevin kernel leaves as it is, measured on the kernels' own steps.

On Gaussian laws a kernel without rejection is an affine map of its state and its noise, so what it does to a covariance
is had exactly from unit vectors. On others a step of ULA keeps an expectation to first order in δ.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from unidiff.core.boundary import right_expand
from unidiff.identities.case import Case
from unidiff.identities.laws import Algebraic, MonteCarlo, Order, Quadrature, Sides
from unidiff.identities.registry import register
from unidiff.identities.truths import log_prob_kappa, score_kappa
from unidiff.mcmc.adaptation import DualAveraging
from unidiff.mcmc.state import State
from unidiff.mcmc.target import Target
from unidiff.mcmc.unadjusted import BAOAB, ULA, langevin_step
from unidiff.worlds import Gaussian, GaussianMixture
from unidiff.worlds.world import World


def gaussian_levels(case: Case) -> Iterable[Gaussian]:
    """The noised law of a Gaussian world at three levels, one law each."""
    low, high = case.window(-2.0, 2.0)
    for place in (low, 0.5 * (low + high), high):
        level = case.schedule.level_at(place, case.x0)
        yield case.world.diffuse(level.alpha.detach(), level.sigma.detach())  # pyright: ignore


class _Stationary(Algebraic):
    """Σ after one step from Σ, against Σ; κ: the largest variance times the condition of the law."""

    views = ("score", "thermo")
    subject = "schedule"
    conditions = "Gaussian data"

    def applies(self, case: Case) -> bool:
        return isinstance(case.world, Gaussian)


@register
class UlaVariance(_Stationary):
    """Item 18: ULA's stationary law is not the target. On N(m, C): C(I − ½δC⁻¹)⁻¹."""

    name = "ula-stationary-variance"
    statement = r"v_\mathrm{ULA}=\frac{v}{1-\delta/(2v)}"
    source = "Roberts & Tweedie 1996, section 1.4; Wibisono 2018, example 1"

    def sides(self, case: Case) -> Iterable[Sides]:
        for law in gaussian_levels(case):
            eigenvalues = torch.linalg.eigvalsh(law.covariance)
            for share in (0.1, 1.0):
                delta = share * float(eigenvalues[0])
                precision = torch.linalg.inv(law.covariance.to(torch.float64))
                stationary = torch.linalg.inv(precision - 0.5 * delta * precision @ precision).to(case.dtype)
                eye, root = torch.eye(law.dim).to(stationary), torch.linalg.cholesky(stationary)
                x = law.mean + torch.cat([torch.zeros_like(eye[:1]), root.T, torch.zeros_like(eye)])
                noise = torch.cat([torch.zeros(1 + law.dim, law.dim).to(eye), eye])
                target, kernel = Target.of(law), ULA(delta)
                out = kernel.step(target, kernel.start(target, x), delta, noise).state.x
                yield Sides(*_columns(out, stationary), _size(law, stationary))


@register
class BaoabVariance(_Stationary):
    """Item 18's analogue: BAOAB keeps N(m, C) in x exactly, and N(0, I − ¼h²C⁻¹) in the velocity, at any friction."""

    name = "baoab-stationary-variance"
    statement = r"x\sim N(0,v),\quad u\sim N\!\left(0,1-\frac{h^2}{4v}\right)"
    source = "Leimkuhler & Matthews 2013, section III"

    def sides(self, case: Case) -> Iterable[Sides]:
        for law in gaussian_levels(case):
            step = float(torch.linalg.eigvalsh(law.covariance)[0].sqrt())
            eye = torch.eye(law.dim).to(law.mean)
            precision = torch.linalg.inv(law.covariance.to(torch.float64)).to(law.mean)
            velocity = eye - 0.25 * step**2 * precision
            whole = torch.block_diag(law.covariance, velocity)
            root = torch.linalg.cholesky(whole).T
            zero = torch.zeros_like(eye)
            x = law.mean + torch.cat([zero[:1], root[:, : law.dim], zero])
            u = torch.cat([zero[:1], root[:, law.dim :], zero])
            noise = torch.cat([zero[:1], zero, zero, eye])
            # A step size on the host, and one on the device, as a warm-up has it.
            for friction, length in ((0.3, step), (4.0, x.new_full((), step))):
                target, kernel = Target.of(law), BAOAB(step, friction)
                end = kernel.step(target, kernel.start(target, x, u), length, noise).state
                out = torch.cat([end.x, end.velocity], 1)  # pyright: ignore
                yield Sides(*_columns(out, whole), _size(law, whole))


def _columns(out: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    columns = out[1:] - out[0]
    return columns.T @ columns, covariance


def _size(law: Gaussian, covariance: Tensor) -> Tensor:
    values = torch.linalg.eigvalsh(law.covariance)
    return covariance.abs().max() * (values[-1] / values[0]) + law.mean.abs().max() * covariance.abs().max().sqrt()


@register
class EnergyTarget(Algebraic):
    """Item 38 for a user's own energy: chains on E = −log q_t have q_t's score and its log-density.

    κ: the score's (``score_kappa``), and the log-density's.
    """

    name = "energy-target"
    statement = r"E=-\log q_t\;\Rightarrow\;s=-\nabla E,\quad\log\pi=-E"
    views = ("score", "ebm")
    source = "Neal 2011, section 2.1; item 38"
    conditions = "any schedule; in float32 where data and noise are both heard"
    subject = "schedule"

    def sides(self, case: Case) -> Iterable[Sides]:
        case = case.legible
        law = case.world.diffuse(case.level.alpha, case.level.sigma)
        score, log_prob = Target.from_energy(lambda z: -law.log_prob(z)).evaluate(case.xt)
        yield Sides(score, law.score(case.xt), score_kappa(case))
        kappa = log_prob_kappa(case, case.xt, case.level.alpha, case.level.sigma)
        yield Sides(log_prob, law.log_prob(case.xt), kappa)  # pyright: ignore


@register
class DualAveragingMeets(Quadrature):
    """Dual averaging ends where the mean acceptance is what was asked for, from far below and from far above.

    On an acceptance known in closed form, a(ε) = e^{−ε/ς}, ς the law's narrowest deviation: no chance in it, and the root
    ε = −ς log a* is what ε̄ is compared with, in logs.
    """

    name = "dual-averaging"
    statement = r"\bar\varepsilon_m\to\varepsilon^*,\quad a(\varepsilon^*)=a^*"
    views = ("score",)
    source = "Hoffman & Gelman 2014, section 3.2; Nesterov 2009, theorem 2"
    conditions = "Gaussian data; an acceptance that falls with the step size"
    subject = "schedule"
    tolerance = 0.1
    refinements = (400, 800, 1600)

    def applies(self, case: Case) -> bool:
        return isinstance(case.world, Gaussian) and case.dtype == torch.float64

    def values(self, case: Case, n: int) -> tuple[Tensor, Tensor]:
        narrow = float(torch.linalg.eigvalsh(case.world.covariance)[0].sqrt())
        found = []
        for first in (0.01, 100.0):
            search = DualAveraging(first * narrow, 0.6, case.x0)
            for _ in range(n):
                search.update(-search.step_size[None] / narrow)
            found.append(search.log_average.clone())
        return torch.stack(found), torch.full_like(torch.stack(found), math.log(-narrow * math.log(0.6)))

    def rounding(self, case: Case) -> float:
        return case.eps


@register
class LangevinKeeps(MonteCarlo):
    """Item 19 on any world: a ULA step on exact draws of q_t leaves E cos(a·x + b) as it is, as δ → 0.

    δ = 2e-3 σ², far below where its O(δ²) would be heard; the mean over ξ is exact (Gauss–Hermite along a). Size: the
    share of the noise alone, δ‖a‖²E|cos|, which the drift must undo.
    """

    name = "langevin-keeps-marginal"
    statement = r"E\,\varphi\!\left(x+\delta s_t(x)+\sqrt{2\delta}\,\xi\right)=E\,\varphi(x)+O(\delta^2)"
    views = ("score", "thermo")
    source = "Roberts & Tweedie 1996, section 1.1; item 19"
    conditions = "exact draws of q_t, log-SNR over [-3, 3]"
    subject = "optimal"

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        draws = case.mixed
        x, sigma = draws.xt, right_expand(draws.level.sigma, draws.xt)
        delta = 2e-3 * sigma.square()
        count = min(case.dim, 8)
        axes = torch.linalg.qr(case.normal("axes", case.dim, count)).Q.T.reshape(count, *x.shape[1:])
        state = State(x, draws.core_score)
        idle = Target(torch.zeros_like, lambda x: (torch.zeros_like(x), None))
        moved, size = torch.zeros_like(sigma.flatten()), torch.zeros_like(sigma.flatten())
        for k, axis in enumerate(axes):
            before = _wave(x, axis / sigma, k)
            after = _noise_mean(
                lambda xi, axis=axis, k=k: _wave(
                    ULA(1.0).step(idle, state, delta, xi.expand_as(x)).state.x, axis / sigma, k
                ),
                axis,
                4,
            )
            moved += (after - before) / (2e-3 * count)
            size += before.abs() / count
        return moved, size.mean()


@register
class LangevinOrder(Order):
    """Item 19, its order: one ULA step moves E cos(a·x + b) over q_t by O(δ²). All expectations by Gauss–Hermite."""

    name = "langevin-step-order"
    statement = r"E_{q_t}\!\left[\varphi(x')-\varphi(x)\right]=O(\delta^2)"
    views = ("score", "thermo")
    source = "item 19"
    conditions = "a Gaussian or a mixture in up to three dimensions; log-SNRs near 0"
    subject = "schedule"

    def applies(self, case: Case) -> bool:
        known = isinstance(case.world, (Gaussian, GaussianMixture)) and case.dim <= 3
        return known and case.dtype == torch.float64 and case.overlaps(-2.0, 2.0)

    def errors(self, case: Case) -> tuple[list[float], list[float], float]:
        level = case.schedule.level_at(0.5 * sum(case.window(-2.0, 2.0)), case.x0)
        law: World = case.world.diffuse(level.alpha.detach(), level.sigma.detach())
        x, weights = _nodes(law, 32 if case.dim <= 2 else 16)
        axis = torch.linspace(1.0, 0.4, case.dim).to(x)
        axis, slope = axis / axis.norm(), 0.9 * axis / float(law.variance.mean().sqrt())
        before = (weights * _wave(x, slope, 1)).sum()
        score, steps, errors = law.score(x), [], []
        for k in range(4):
            delta = 0.1 * float(level.sigma.detach()) ** 2 / 2**k
            after = _noise_mean(
                lambda xi, delta=delta: _wave(langevin_step(x, score, delta, xi.expand_as(x)), slope, 1), axis, 8
            )
            steps.append(delta)
            errors.append(abs(float((weights * after).sum() - before)))
        return steps, errors, 2.0


def _wave(x: Tensor, slope: Tensor, k: int) -> Tensor:
    return torch.cos((slope * x).flatten(1).sum(1) + 0.7 * k)


def _hermite(count: int, like: Tensor) -> tuple[Tensor, Tensor]:
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    return torch.from_numpy(nodes).to(like), torch.from_numpy(weights / weights.sum()).to(like)


def _noise_mean(value, axis: Tensor, count: int) -> Tensor:  # noqa: ANN001 - a function of the noise
    """E over ξ ~ N(0, I) of a function that hears ξ along the unit vector ``axis`` alone."""
    nodes, weights = _hermite(count, axis)
    return torch.stack([w * value(z * axis) for z, w in zip(nodes, weights, strict=True)]).sum(0)


def _nodes(law: World, count: int) -> tuple[Tensor, Tensor]:
    """Nodes ``[n, D]`` and weights ``[n]`` of an expectation over a Gaussian or a mixture."""
    like = law.mean
    line, weight = _hermite(count, like)
    grid = torch.cartesian_prod(*[line] * law.dim).reshape(-1, law.dim)
    weights = torch.cartesian_prod(*[weight] * law.dim).reshape(-1, law.dim).prod(1)
    if isinstance(law, GaussianMixture):
        points = law.components.sample(grid[:, None])
        return points.flatten(0, 1), (weights[:, None] * law.weights).flatten()
    return law.normals.sample(grid), weights  # pyright: ignore
