r"""The error of the step from data to t_0 as it is told, in closed form on Gaussian data.

In the axes of the covariance, with c an eigenvalue, z the datum's deviation there, r_0 = σ_0²/α_0² and r a doubling of it:
one step of denoiser z ↦ c z/(c + r) goes to a = z (1 + r/2(c + r)), and the flow from the step at r_0 to
b = z (1 + r_0/2(c + r_0)) √((c + r)/(c + r_0)), stretching by ½ log of the same ratio on the way.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from unidiff.core.diffusion import Diffusion
from unidiff.identities.case import Case
from unidiff.identities.laws import Bound
from unidiff.identities.likelihoods import corners, ordered
from unidiff.identities.registry import register
from unidiff.score import likelihood
from unidiff.worlds import Gaussian, OracleDenoiser


@register
class EntryErrorIsClosed(Bound):
    """What is told from log-SNRs of 6 and 2 at t_0, where the data are heard and less so, and of data that are not.

    To a hundredth: its doublings are walked in two steps each.
    """

    name = "entry-error-of-gaussian"
    statement = (
        r"\hat e=\frac{d_2}{\min(\max(d_4/d_2-2,\,1/10),\,1)},\quad\frac{d_4}{d_2}-2<\frac{1}{10}:\ "
        r"\max\left(10\,d_2,\,\frac{1}{2}\sum_i\left(J_i-1-\log J_i\right)\right)"
    )
    views = ("score",)
    source = "Richardson 1911; Hairer et al. 1993, section II.4"
    conditions = "Gaussian data, the exact denoiser; one schedule of each convention"
    subject = "optimal"

    def applies(self, case: Case) -> bool:
        return ordered(case) and case.log_snr_range[0] <= 0.0 and case.log_snr_range[1] >= 6.0

    def excess(self, case: Case) -> tuple[float, float]:
        worst, law = 0.0, case.world
        assert isinstance(law, Gaussian)
        for scale, log_snr in ((1.0, 6.0), (1.0, 2.0), (1e-3, 2.0)):
            own, x = Gaussian(scale * law.mean, scale**2 * law.covariance), scale * corners(case)
            first = float(case.schedule.time(log_snr).detach())
            core = Diffusion(case.schedule, OracleDenoiser(own))
            told = likelihood(core, x, solver="euler", steps=1, first=first).entry_error
            known = _closed(own, x, math.exp(-log_snr))
            worst = max(worst, float((told / known).log().abs().max()))
        return worst - 0.01, 0.0


def _closed(law: Gaussian, x: Tensor, near: float) -> Tensor:
    c, axes = torch.linalg.eigh(law.covariance)
    z = (x - law.mean) @ axes
    two, four = (_apart(c, z, near, k * near) for k in (2.0, 4.0))
    shrinks, slope = four / two - 2, c / (c + near)
    unheard = 0.5 * (slope - 1 - slope.log()).sum()
    return torch.where(shrinks < 0.1, torch.maximum(10 * two, unheard), two / shrinks.clamp(0.1, 1.0))


def _apart(c: Tensor, z: Tensor, near: float, far: float) -> Tensor:
    """What one step to ``far`` and one to ``near`` with the flow from there disagree by, in log p, ``[B]``."""
    stretch = 0.5 * ((c + far) / (c + near)).log()
    stepped, walked = (z * (1 + 0.5 * r / (c + r)) for r in (far, near))
    volume = (0.5 * far / (c + far) - 0.5 * near / (c + near) - stretch).sum()
    moved = 0.5 * ((stepped.square() - (walked * stretch.exp()).square()) / (c + far)).sum(1)
    return volume.abs() + moved.abs()
