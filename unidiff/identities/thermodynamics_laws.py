r"""Items 33 and 34: how laws under one forward process grow alike, and what a score that is not the law's costs.

Of the first coordinate of the data, as in :mod:`unidiff.identities.thermodynamics`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from unidiff.core.diffusion import Diffusion
from unidiff.core.level import NoiseLevel
from unidiff.core.prediction import Prediction
from unidiff.core.schedule import Schedule
from unidiff.identities.case import Case, sampled
from unidiff.identities.laws import Bound
from unidiff.identities.registry import register
from unidiff.identities.thermodynamics import OnLine, ends, line
from unidiff.identities.window import Window
from unidiff.thermo import Thermodynamics
from unidiff.thermo.divergence import decay, girsanov_path
from unidiff.worlds import Gaussian, OracleDenoiser, World


def _other(world: World) -> Gaussian:
    """Another law of one number: a Gaussian, wider than the world and off its mean."""
    return Gaussian(world.mean + 0.3, 1.5 * world.variance[:, None])


@register
class RelativeEntropyDecay(OnLine):
    """Item 33: two laws under one forward process, KL by densities and its loss by scores."""

    name = "relative-entropy-decay"
    statement = (
        r"\mathrm{KL}(q_s\,\|\,p_s)=\mathrm{KL}(q_t\,\|\,p_t)"
        r"+\frac{1}{2}\int_s^tg^2\,E_q\|\nabla\log q-\nabla\log p\|^2\,\mathrm{d}u"
    )
    views = ("thermo", "score")
    source = "Lyu 2009, theorem 1; Song et al. 2021 (likelihood), theorem 2"
    conditions = "data with a smooth density, by their first coordinate, three schedules; in float64"

    def applies(self, case: Case) -> bool:
        return super().applies(case) and sampled(case)

    def values(self, case: Case, n: int) -> tuple[Tensor, Tensor]:
        law = line(case.world)
        found = decay(case.schedule, law, _other(law), *ends(case), nodes=n)
        return found.lost.value, found.earlier.value - found.later.value


@register
class GirsanovOfLaw(OnLine):
    """Item 34 where it is an equality: the core's score is that of another law, noised, and the prior that law's own end."""

    name = "girsanov-of-a-law"
    statement = (
        r"\hat s=\nabla\log p_t,\ \pi=p_1:\quad\mathrm{KL}(q_s\,\|\,p_\theta)"
        r"=\mathrm{KL}(q_1\,\|\,\pi)+\frac{1}{2}\int_s^1g^2\,E\|\nabla\log q-\hat s\|^2\,\mathrm{d}u"
    )
    views = ("thermo", "score", "vae")
    source = "Song et al. 2021 (likelihood), theorem 1 and its case of equality"
    conditions = "data with a smooth density, by their first coordinate, three schedules; in float64"
    refinements = (32, 48, 64, 128)

    def applies(self, case: Case) -> bool:
        return super().applies(case) and sampled(case) and not case.reaches_zero_snr

    def values(self, case: Case, n: int) -> tuple[Tensor, Tensor]:
        law, s = line(case.world), ends(case)[0]
        other = _other(law)
        core = Diffusion(case.schedule, OracleDenoiser(other))
        laws = decay(case.schedule, law, other, s, 1.0, nodes=2)
        return girsanov_path(core, law, s, nodes=n).value, laws.earlier.value - laws.later.value


class _Overdone:
    """x̂_0 = (1 + δ)E[x_0|z] for centred Gaussian data on a line: no law's denoiser."""

    event_shape = (1,)

    def __init__(self, variance: float, excess: float) -> None:
        self.variance, self.excess = variance, excess

    def gain(self, level: NoiseLevel) -> Tensor:
        return (1 + self.excess) * level.alpha * self.variance / (level.alpha**2 * self.variance + level.sigma**2)

    def __call__(
        self, xt: Tensor, level: NoiseLevel, condition: Tensor | None = None, guidance: float = 1.0
    ) -> Prediction:
        return Prediction(xt, level, {"x0": self.gain(level).reshape(-1, *[1] * (xt.ndim - 1)) * xt}, guarded=False)


@register
class GirsanovBound(Bound):
    """Item 34 where the score is no law's: on centred Gaussian data the reverse SDE's law is its variance, an ODE's."""

    name = "girsanov-bound"
    statement = (
        r"\mathrm{KL}(q_s\,\|\,p_\theta)\leq\mathrm{KL}(q_1\,\|\,\pi)"
        r"+\frac{1}{2}\int_s^1g^2\,E\|\nabla\log q-\hat s\|^2\,\mathrm{d}u"
    )
    views = ("thermo", "score", "vae")
    source = "Song et al. 2021 (likelihood), theorem 1"
    conditions = (
        "Gaussian data, a denoiser that overdoes or underdoes them, three schedules that reach SNR 1; in float64"
    )
    subject = "schedule"

    def applies(self, case: Case) -> bool:
        usable = isinstance(case.world, Gaussian) and case.dtype == torch.float64
        return usable and sampled(case) and not case.reaches_zero_snr and case.log_snr_range[0] <= 0

    def excess(self, case: Case) -> tuple[float, float]:
        variance, worst = float(line(case.world).variance), -math.inf
        law = Gaussian([0.0], [[variance]])
        # The exact denoiser from a prior that is not the data's end: there the prior is all that is paid.
        early = Window.between(case.schedule, *case.window(0.0, 5.0))
        for off, schedule, s in (
            (-0.2, case.schedule, ends(case)[0]),
            (0.05, case.schedule, ends(case)[0]),
            (0.0, early, 0.5),
        ):
            denoiser = _Overdone(variance, off)
            view = Thermodynamics(Diffusion(schedule, denoiser), law)
            own = self._reached(schedule, denoiser, s)
            level = schedule.level(s)
            ratio = (float(level.alpha) ** 2 * variance + float(level.sigma) ** 2) / own
            bound = float(view.girsanov_bound(s).total)
            kl = 0.5 * (ratio - 1 - math.log(ratio))
            # The bound is to be near, too: it is within fifty times what it bounds here.
            worst = max(worst, kl - bound, bound - 50 * kl)
        return worst, 1e-7

    @staticmethod
    def _reached(schedule: Schedule, denoiser: _Overdone, s: float) -> float:
        """Var of p_θ at s: dv/dλ = 2(d log α/dλ + σ²k)v + σ² for ŝ = kz, by Runge and Kutta's method."""
        high, low = schedule.log_snr(torch.tensor([s, 1.0], dtype=torch.float64)).detach().tolist()
        steps = 400
        marks = torch.linspace(low, high, 2 * steps + 1, dtype=torch.float64)
        level = schedule.level_at(marks)
        alpha, sigma2 = level.alpha.detach(), level.sigma.detach() ** 2
        shrink = 0.5 * torch.sigmoid(-marks) if schedule.variance_preserving else torch.zeros_like(marks)
        detached = NoiseLevel(level.t, marks, alpha, level.sigma.detach())
        pull = (2 * (shrink + alpha * denoiser.gain(detached) - 1)).tolist()
        noise, h, v = sigma2.tolist(), (high - low) / steps, schedule.prior_std**2
        for k in range(steps):
            i = 2 * k
            a = pull[i] * v + noise[i]
            b = pull[i + 1] * (v + 0.5 * h * a) + noise[i + 1]
            c = pull[i + 1] * (v + 0.5 * h * b) + noise[i + 1]
            d = pull[i + 2] * (v + h * c) + noise[i + 2]
            v += h * (a + 2 * b + 2 * c + d) / 6
        return v
