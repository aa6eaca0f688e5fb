"""What is measured against steering: guidance by a reward's gradient, and the best of n."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from unidiff.identities.case import Case
from unidiff.identities.laws import Algebraic, MonteCarlo, Sides
from unidiff.identities.registry import register
from unidiff.identities.steering import BETA, Line, OnLine
from unidiff.rl import best_of_n, guided


@register
class GuidanceCost(OnLine, Algebraic):
    """The control and the KL of guided paths: with x̂_0 linear, ½g²Σσ_k²‖Jᵀb/β‖², J = αe/(α²e + σ²), at every path alike.

    κ: the terms, with their stored log-variances.
    """

    name = "guidance-cost"
    statement = (
        r"\mathrm{KL}(q\,\|\,p_{\mathrm{ref}})=\sum_k\frac{1}{2}\|u_k\|^2,\quad "
        r"u_k=g\,\sigma_k\nabla_{x_k}\frac{r(\hat x_0(x_k))}{\beta}"
    )
    source = "Chung et al. 2023 (DPS); Fan et al. 2023 (DPOK), eq. 7"

    def sides(self, case: Case) -> Iterable[Sides]:
        for decoded, scale in ((False, 1.0), (True, -1.7)):
            line = Line.of(case, decoded)
            found = guided(line.mdp, 8, scale, beta=BETA, generator=case.generator("guided"), like=line.slope)
            cost, size = torch.zeros_like(found.path_kl), torch.zeros_like(found.path_kl)
            for _, var, slope in line.steps():
                terms = 0.5 * scale**2 * var * slope.square()
                cost, size = cost + terms.sum(), size + (terms * (2 + torch.log(var.clamp(min=1e-300)).abs())).sum()
            yield Sides(found.path_kl, cost, size)


@register
class GuidanceWeights(OnLine, MonteCarlo):
    """Guided paths weighed by e^{r/β} p_ref/q are Z in the mean, and their data have the mean that the control gives them.

    Sizes: 1, and the deviation of the data.
    """

    name = "guidance-weights"
    statement = (
        r"E_q\left[e^{r/\beta}\,\frac{p_{\mathrm{ref}}}{q}\right]=Z,\quad E_q[x_0]=\sum_k\prod_{j<k}G_j\,\sigma_ku_k"
    )
    source = "Girsanov 1960, on a grid"
    bound = 0.25

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        columns, sizes = [], []
        for decoded in (False, True):
            line, n = Line.of(case, decoded), 16384
            found = guided(line.mdp, n, 0.8, beta=BETA, generator=case.generator(f"guided {decoded}"), like=line.slope)
            columns.append((found.log_weights - line.log_z).expm1())
            mean = torch.zeros_like(line.values)
            for gain, var, slope in line.steps():
                mean = gain * mean + 0.8 * var * slope
            columns.append(((found.x0 - mean) / line.spread.sqrt()).mean(1))
            sizes += [torch.ones(()), torch.ones(())]
        return torch.stack(columns, 1), torch.stack(sizes).to(columns[0])


@register
class BestOfMany(OnLine, MonteCarlo):
    """The best of n normal rewards: its mean for two and three, and the KL of its law, log n + (n − 1) E log F(r).

    F is the normal law's, as the chain has it. Sizes: the reward's deviation, and the KL.
    """

    name = "best-of-n"
    statement = (
        r"\mathrm{KL}=E\left[\log nF(r)^{n-1}\right]=\log n-\frac{n-1}{n},\quad "
        r"E\,r_{(2)}=\frac{s}{\sqrt{\pi}},\quad E\,r_{(3)}=\frac{3s}{2\sqrt{\pi}}"
    )
    source = "Beirami et al. 2024, theorem 3.1; David and Nagaraja 2003, section 3.2"
    bound = 0.25

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        columns, sizes = [], []
        for decoded in (False, True):
            line = Line.of(case, decoded)
            deviation = (line.slope.square() * line.spread).sum().sqrt()
            for n, mean in ((2, 1 / math.sqrt(math.pi)), (3, 1.5 / math.sqrt(math.pi))):
                found = best_of_n(
                    line.mdp, 16384, n, generator=case.generator(f"best of {n} {decoded}"), like=line.slope
                )  # fmt: skip
                z = found.x0 @ line.slope / deviation
                gain = math.log(n) + (n - 1) * torch.special.log_ndtr(z)
                told = found.reward / deviation
                columns += [z - mean, told - mean, gain - found.kl_bound]
                sizes += [mean, mean, found.kl_bound]
        return torch.stack(columns, 1), torch.tensor(sizes)
