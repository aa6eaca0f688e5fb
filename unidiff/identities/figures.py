r"""The figures that a likelihood ends in: a mean with its interval, and bits per dimension of the raw data."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from unidiff.identities.case import Case
from unidiff.identities.laws import Algebraic, Sides
from unidiff.identities.registry import register
from unidiff.score import Likelihood
from unidiff.worlds import Gaussian, Interval


def _once(case: Case) -> bool:
    return isinstance(case.world, Gaussian) and case.schedule_name == "sigmoid" and case.dtype == torch.float64


def _wide(figure: float) -> Tensor:
    return torch.tensor(figure, dtype=torch.float64)


@register
class StudentInterval(Algebraic):
    """A 95% interval of two and of three values, where Student's quantiles are elementary.

    κ: the values' size; the quantile is a root, found to some tens of roundings.
    """

    name = "student-interval"
    statement = (
        r"t_1(p)=\tan\,\pi(p-\tfrac{1}{2}),\quad t_2(p)=\frac{2p-1}{\sqrt{2p(1-p)}},\quad"
        r"\frac{h-l}{2}=t_{n-1}(0.975)\,\frac{s}{\sqrt{n}}"
    )
    views = ("score",)
    source = "Student 1908; Johnson, Kotz & Balakrishnan 1995, section 28.2"
    conditions = "float64; once, for it knows of no schedule"
    subject = "schedule"

    def applies(self, case: Case) -> bool:
        return _once(case)

    def sides(self, case: Case) -> Iterable[Sides]:
        p = 0.975
        quantiles = {2: math.tan(math.pi * (p - 0.5)), 3: (2 * p - 1) / math.sqrt(2 * p * (1 - p))}
        for n, quantile in quantiles.items():
            values = case.normal(f"interval {n}", n)
            found = Interval.of(values)
            # s²/n by the pairs' differences, Σ_{i<j} (x_i − x_j)²/(n²(n − 1)): no mean in it.
            pairs = (values[:, None] - values).square().sum() / 2
            error = (pairs / (n**2 * (n - 1))).sqrt()
            size = quantile * (error + values.abs().max())
            yield Sides(_wide(0.5 * (found.high - found.low)), quantile * error, size)
            yield Sides(_wide(found.mean), values.sum() / n, size)


@register
class BitsOfRawData(Algebraic):
    """What is scaled before it is modelled has its bits counted as it was: by the law of the raw data itself.

    κ: the terms' sizes.
    """

    name = "bits-of-raw-data"
    statement = (
        r"-\frac{\log_2\,p_{\mathrm{raw}}(y)}{D}=-\frac{1}{\log 2}\left(\frac{\log p(x)}{D}+\log c\right),"
        r"\quad x=c\,y+d"
    )
    views = ("score",)
    source = "Theis et al. 2016, section 3.1"
    conditions = "Gaussian data, float64; once, for it knows of no schedule"
    subject = "schedule"

    def applies(self, case: Case) -> bool:
        return _once(case)

    def sides(self, case: Case) -> Iterable[Sides]:
        x, world = case.x0, case.world
        log_prob, none = world.log_prob(x), torch.zeros_like(x[:, 0])
        told = Likelihood(log_prob, none, "exact", none, none, none, x, 1)
        for scale in (2 / 255, 3.0):
            raw = world.diffuse(1 / scale, 0.0).log_prob(x / scale) / (case.dim * math.log(2.0))
            found = told.bits_per_dim(scale)
            size = log_prob.abs().max() + abs(math.log(scale)) * case.dim
            yield Sides(_wide(found.mean), -raw.mean(), size)
            yield Sides(_wide(found.standard_error), raw.std() / len(x) ** 0.5, size)
