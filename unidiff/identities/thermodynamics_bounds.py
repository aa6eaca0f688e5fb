r"""Item 37: Sohl-Dickstein's bounds on the entropy of a step back, and on Gaussian data the entropy itself."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from unidiff.identities.case import Case, smooth
from unidiff.identities.laws import Algebraic, Bound, Sides
from unidiff.identities.registry import register
from unidiff.identities.thermodynamics import of_line
from unidiff.thermo import Thermodynamics
from unidiff.worlds import Gaussian


@register
class StepBackEntropy(Algebraic):
    """On Gaussian data H(x_s|x_t) by Bayes, precisions added; the bounds by the kernels' own entropies. κ: D and logs.

    The lower one is the entropy of q(x_s|x_t, x_0), the upper one that of q(x_t|x_s).
    """

    name = "step-back-entropy"
    statement = (
        r"H(x_s|x_t)=\frac{1}{2}\log\left|2\pi e\,\left(S_s^{-1}+\frac{\alpha_{t|s}^2}{\sigma_{t|s}^2}I\right)^{-1}\right|,"
        r"\quad H(x_t|x_s)+H(x_s|x_0)-H(x_t|x_0)=H(x_s|x_t,x_0)"
    )
    views = ("thermo", "vae")
    source = "Sohl-Dickstein et al. 2015, eq. 25; Bishop 2006, eq. 2.117"
    conditions = "Gaussian data"
    subject = "schedule"

    def applies(self, case: Case) -> bool:
        return isinstance(case.world, Gaussian)

    def sides(self, case: Case) -> Iterable[Sides]:
        view, q = Thermodynamics(case.core, case.world), case.process
        axes = torch.linalg.eigvalsh(case.world.covariance.to(torch.float64))
        x0 = torch.zeros_like(case.x0[:1], dtype=torch.float64)
        for s, t in zip(case.s[:8].tolist(), case.t[:8].tolist(), strict=True):
            found = view.entropy_bounds(s, t)
            level = case.schedule.level(s)
            gain, log_var = (v.detach() for v in q.transition_coefficients(s, t))
            precision = 1 / (level.alpha.detach() ** 2 * axes + level.sigma.detach() ** 2) + gain**2 / log_var.exp()
            truth = 0.5 * (math.log(2 * math.pi * math.e) - precision.log()).sum()
            lower = q.posterior(x0, x0, s, t).entropy().detach()[0]
            upper = q.transition(x0, s, t).entropy().detach()[0]
            logs = [
                v.detach().log().abs() for v in (level.sigma, case.schedule.sigma(t), precision.max(), log_var.exp())
            ]
            kappa = case.dim * (4 + 2 * sum(logs, torch.zeros(())))
            pairs = [(found.value.value, truth), (found.lower, lower)]
            if found.upper is not None:
                pairs.append((found.upper, upper))
            left, right = (torch.stack([v.to("cpu", case.dtype) for v in side]) for side in zip(*pairs, strict=True))
            yield Sides(left, right, kappa)


@register
class StepBackBounds(Bound):
    """Item 37 where no entropy is a formula: the data's first coordinate. The upper one where the entropy rises, and there.

    It is told where it does not: over the short steps of a law wider than its noise, entropy falls when VP.
    """

    name = "step-back-bounds"
    statement = (
        r"H(x_t|x_s)+H(x_s|x_0)-H(x_t|x_0)\leq H(x_s|x_t)\leq H(x_t|x_s)"
        r"\quad\mathrm{where}\ H(x_t)\geq H(x_s)"
    )
    views = ("thermo", "vae")
    source = "Sohl-Dickstein et al. 2015, eq. 25 and appendix A"
    conditions = "data with a smooth density, by their first coordinate"
    subject = "schedule"

    def applies(self, case: Case) -> bool:
        return smooth(case)

    def excess(self, case: Case) -> tuple[float, float]:
        view, worst = of_line(case), -math.inf
        for s, t in zip(case.s[:6].tolist(), case.t[:6].tolist(), strict=True):
            found = view.entropy_bounds(s, t)
            value, lower = float(found.value.value), float(found.lower)
            worst = max(worst, lower - value)
            rise = float(view.entropy(t).value - view.entropy(s).value)
            if found.upper is not None:
                worst = max(worst, value - float(found.upper))
            # A bound that holds and is not told, or is told and does not hold, is wrong as well.
            worst = max(worst, -abs(rise) if (found.upper is not None) == (rise >= 0) else 1.0)
            # The least that a step forgets.
            known = [float(view.entropy(u).value) - self._noise(view, u) for u in (s, t)]
            worst = max(worst, abs(value - lower - (known[0] - known[1])) - 1e-9)
        return worst, 1e-9

    @staticmethod
    def _noise(view: Thermodynamics, u: float) -> float:
        x0: Tensor = torch.zeros(1, 1, dtype=torch.float64)
        return float(view.core.process.marginal(x0, u).entropy().detach())
