r"""Items 12, 16 and 20 as the score view computes them: covariance, drift and flow.

The groups ``scores`` and ``flows`` hold the theorems between closed forms; here :class:`unidiff.ScoreModel` and its
parts are one side, and a world or the core's own kernels the other. Items 13 and 14 are in ``objectives``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from unidiff.core.boundary import right_expand
from unidiff.core.grid import TimeGrid
from unidiff.core.level import NoiseLevel
from unidiff.core.process import bridge
from unidiff.identities.case import Case, smooth
from unidiff.identities.chains import denoiser_kappa, grid_of
from unidiff.identities.flows import motion_kappa, moving
from unidiff.identities.laws import Algebraic, MonteCarlo, Sides
from unidiff.identities.registry import register
from unidiff.identities.scores import jacobian_kappa
from unidiff.score import ProbabilityFlow, ScoreModel, divergence, reverse_drift, reverse_sde

ETAS = (0.0, 0.5, 1.0, 1.5)


def _some(case: Case, n: int) -> slice:
    """Every so many of the case's members: n of them (2 of a data set, whose Jacobian is dear), over all levels."""
    n = n if smooth(case) else 2
    return slice(None, n * (case.batch // n), case.batch // n)


@register
class ModelCovariance(Algebraic):
    """Item 12 by the core's own Jacobian: ScoreModel.covariance against the world's, along random directions.

    κ: σ²/α times the Jacobian's own (that of ``symmetric-jacobian``): what differentiating a softmax subtracts.
    """

    name = "score-model-covariance"
    statement = r"\mathrm{Cov}[x_0|z]=\frac{\sigma^2}{\alpha}\,\frac{\partial\hat x_0}{\partial z}"
    views = ("score", "vae")
    source = "Efron 2011, eq. 2.8; Meng et al. 2021, theorem 1"
    conditions = "the exact denoiser"
    subject = "optimal"

    def sides(self, case: Case) -> Iterable[Sides]:
        case = case.heard
        some = _some(case, 16)
        z, t, level = case.xt[some], case.t[some], case.level[some]
        own = ScoreModel(case.core).covariance(z, t)
        exact = case.world.posterior(z, level.alpha, level.sigma).covariance
        u = case.normal("covariance", *z.shape).flatten(1)
        w = torch.einsum("bij,bj->bi", exact, u)
        gain = level.sigma.square() / level.alpha
        for left, right in ((u, u), (w, u)):
            found, known = (torch.einsum("bi,bij,bj->b", left, m, right) for m in (own, exact))
            yield Sides(found, known, gain * jacobian_kappa(case, z, level, left, right))


@register
class VarianceByProbes(MonteCarlo):
    """Item 12's trace by one random probe a draw, against the world's. Size compared: σ²D/α² + tr, the two it is made of."""

    name = "variance-by-probes"
    statement = (
        r"E_v\left[\frac{\sigma^2}{\alpha}v^\top\frac{\partial\hat x_0}{\partial z}v\right]=\mathrm{tr\,Cov}[x_0|z]"
    )
    views = ("score",)
    source = "Hutchinson 1989; Bekas et al. 2007"
    conditions = "the exact denoiser"
    subject = "optimal"

    def applies(self, case: Case) -> bool:
        return smooth(case) or not case.exact

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        draws = case.mixed
        every = slice(None, None, 8)
        z, t, level, trace = draws.xt[every], draws.t[every], draws.level[every], draws.trace[every]
        found = ScoreModel(case.core).variance(z, t, 1, generator=case.generator("variance probes"))
        scale = (level.alpha / level.sigma).square()
        return (found.trace - trace) * scale, torch.full((1,), float(case.dim), dtype=torch.float64)


@register
class AndersonMarginals(Algebraic):
    """Item 16 for η = 0, ½, 1, 1½: the law that this drift and noise η g leave standing moves as q_t does.

    Per unit of λ; the drift is the view's, its divergence exact by automatic differentiation; ∂_t log q is the world's.
    κ: that of ``fokker-planck``, the score's terms once for each of drift and noise.
    """

    name = "anderson-marginals"
    statement = (
        r"\partial_t\log q+\nabla\cdot\mu_\eta+\mu_\eta\cdot s+\frac12\eta^2g^2\left(\nabla\cdot s+\|s\|^2\right)=0,"
        r"\quad\mu_\eta=fz-\frac12(1+\eta^2)g^2s"
    )
    views = ("score", "thermo")
    source = "Anderson 1982; Song et al. 2021 (SDE), appendix D.1"
    conditions = "the exact denoiser; a world with a smooth density"
    subject = "optimal"

    def applies(self, case: Case) -> bool:
        return smooth(case)

    def sides(self, case: Case) -> Iterable[Sides]:
        case = case.heard
        some = _some(case, 16)
        z, t, level = case.xt[some], case.t[some], case.level[some]
        rate = -case.schedule.log_snr_derivative(t).detach()
        f, g2 = ((v / rate).detach().to(z) for v in (case.schedule.drift(t), case.schedule.diffusion2(t)))
        law = case.world.diffuse(level.alpha, level.sigma)
        score, curved = divergence(law.score, z)
        slope = score.flatten(1)
        moved, kappa = moving(case, z, t, level), motion_kappa(case, z, level, f, g2, slope)
        for eta in ETAS:
            drift, spread = divergence(lambda x, eta=eta: reverse_drift(case.core, x, t, eta), z)
            along = (drift.flatten(1) * slope).sum(1)
            noise = 0.5 * eta**2 * g2 * (curved + slope.square().sum(1))
            yield Sides(moved, -((spread + along) / rate.to(z) + noise), (1 + 2 * eta**2) * kappa)


@register
class SdeRow(Algebraic):
    """Item 20: a row of the reverse SDE's table is one step of the drift, with the noise η g √Δt.

    κ: |z| + Δt times the drift's terms, x̂_0's condition in the score included; |ξ| η g √Δt.
    """

    name = "sde-row-is-drift"
    statement = r"x_s=z-\mu_\eta(z)\,\Delta t+\eta\,g\sqrt{\Delta t}\,\xi"
    views = ("core", "score")
    source = "Song et al. 2021 (SDE), eq. 6; Anderson 1982"

    def applies(self, case: Case) -> bool:
        return not case.reaches_zero_snr

    def sides(self, case: Case) -> Iterable[Sides]:
        case = case.legible
        grid = grid_of(case)
        t, dt = float(grid.times[-1]), float(grid.times[-1] - grid.times[-2])
        level = case.schedule.level(grid.times[-1])
        level = NoiseLevel(*(v.detach().to(case.x0) for v in (level.t, level.log_snr, level.alpha, level.sigma)))
        some = _some(case, 16)
        z = level.alpha * case.x0[some] + level.sigma * case.noise[some]
        noise = case.normal("sde row", *z.shape)
        f, g2 = (float(v.detach()) for v in (case.schedule.drift(t), case.schedule.diffusion2(t)))
        each = denoiser_kappa(case, z, level)
        for eta in ETAS:
            # One step from t = 1: the first of the sampler's rows.
            sampler = reverse_sde(case.core, TimeGrid(grid.times[-2:]), eta)
            own = sampler(z, noise=noise[None])
            kick = eta * math.sqrt(g2 * dt) * noise
            moved = z - dt * reverse_drift(case.core, z, t, eta).detach() + kick
            pull = 0.5 * (1 + eta**2) * g2 * dt / level.sigma.square()
            kappa = (1 + abs(f) * dt + pull) * right_expand(z.flatten(1).norm(dim=1), z) + pull * level.alpha * each
            yield Sides(own, moved, kappa + kick.abs())


@register
class DdimRotation(Algebraic):
    """Item 20 in the flow's own angle: a DDIM step turns (y, v̂), exactly, wherever v̂ comes from.

    κ: |y| + |v̂|, each at the size of what it is a difference of: (|y| + κ(x̂_0))/sin θ.
    """

    name = "ddim-is-rotation"
    statement = (
        r"y_s=\cos(\theta_s-\theta_t)\,y_t+\sin(\theta_s-\theta_t)\,\hat v,"
        r"\quad\frac{\mathrm{d}y}{\mathrm{d}\theta}=\hat v"
    )
    views = ("core", "score")
    source = "Salimans & Ho 2022, appendix D"

    def applies(self, case: Case) -> bool:
        return not case.reaches_zero_snr

    def sides(self, case: Case) -> Iterable[Sides]:
        some = _some(case, 16)
        z, s, t = case.xt[some], case.s[some], case.t[some]
        at_s, at_t = case.level_s[some], case.level[some]
        member = bridge(case.schedule, s, t, 0.0)
        scale_s, scale_t = (torch.hypot(v.alpha, v.sigma) for v in (at_s, at_t))
        on_xt, on_x0, scale_s, scale_t = (
            right_expand(v.detach().to(z), z) for v in (member.on_xt, member.on_x0, scale_s, scale_t)
        )
        x0 = case.core.denoiser(z, at_t).x0.detach()
        stepped = (on_xt * z + on_x0 * x0) / scale_s
        angle_s, angle_t = ((-0.5 * case.schedule.log_snr(v).detach()).exp().atan() for v in (s, t))
        turn = angle_s - angle_t
        v = ProbabilityFlow(case.core).velocity(at_t)(z / scale_t).detach()
        turned = right_expand(turn.cos().to(z), z) * z / scale_t + right_expand(turn.sin().to(z), z) * v
        each = denoiser_kappa(case, z, at_t) + x0.abs()
        size = right_expand((z / scale_t).flatten(1).norm(dim=1), z)
        part = right_expand(turn.sin().abs().to(z) / angle_t.sin().to(z), z)
        # λ rounds at its size, and the angle with it; a short turn is a difference of two.
        stored = right_expand((1 + at_t.log_snr.abs()) * (angle_t / turn.abs()).to(z), z)
        yield Sides(stepped, turned, size + part * (size + each) * stored)
