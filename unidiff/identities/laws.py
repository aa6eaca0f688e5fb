r"""The five laws of tolerance. An identity declares which one judges it; nobody picks a number by hand.

algebraic     |lhs − rhs| ≤ c·eps(dtype)·κ with c = 64 throughout, κ the identity's own stated condition, finite. What is
              allowed must be small beside what is compared: in each pair of sides, at most a tenth of the value for at
              least half of the members; else the verdict is inconclusive, never pass.
quadrature    |lhs − rhs| ≤ tolerance, both refined until their own error estimate is a tenth of it.
monte_carlo   a z-test of mean difference zero. The suite makes fewer than 2^20 z-scores in one run; each is tested at
              1e-6/2^20, so a run of true identities raises an alarm with probability below 1e-6 (Bonferroni) as far as
              their means are normal: in the limit of many draws, from above for normal draws (Student's tail), and
              slowly for skewed ones (`unidiff.testing` corrects its own for both). The smallest relative violation caught
              with probability 0.999 must be within the identity's stated bound, else the verdict is inconclusive, never
              pass.
order         the slope of log error on log step, within 0.2 of the declared order.
bound         an inequality, by its margin.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeVar

import torch
from scipy.stats import norm
from torch import Tensor

from unidiff.identities.case import Case
from unidiff.identities.report import Check, Law, Verdict

ALGEBRAIC_C = 64.0
BLIND = 0.1
ORDER_SLACK = 0.2
FAMILY_ALARM = 1e-6
MOST_SCORES = 2**20
MISS = 1e-3


Limit = TypeVar("Limit", float, Tensor)


def z_limit(alarm: float, scores: float) -> float:
    """The |z| that one of ``scores`` true identities exceeds with probability below ``alarm`` (Bonferroni, two tails)."""
    return float(norm.isf(0.5 * alarm / scores))


def z_power(limit: Limit) -> Limit:
    """The |z| of a violation that exceeds ``limit`` with probability 1 − ``MISS``."""
    return limit + float(norm.isf(MISS))


Z_LIMIT = z_limit(FAMILY_ALARM, MOST_SCORES)
Z_POWER = z_power(Z_LIMIT)

Subject = Literal["core", "optimal", "schedule"]


@dataclass(frozen=True)
class Judgement:
    """A law's finding on one subject."""

    residual: float
    tolerance: float
    verdict: Verdict
    power: float | None = None
    detail: str = ""


class Identity(ABC):
    """One entry of the registry.

    Attributes:
        name: kebab-case, unique.
        statement: LaTeX, without dollar signs.
        views: the readings that it ties.
        source: paper and equation.
        conditions: when it holds, in words.
        subject: ``"core"`` (structural), ``"optimal"`` (the exact denoiser; a network's residual is a gap), or
            ``"schedule"`` (anything with a log-SNR).
        worldless: whether the schedule alone is read, whatever the data: the standard suite asks it once a schedule.
    """

    name: ClassVar[str]
    statement: ClassVar[str]
    views: ClassVar[tuple[str, ...]]
    source: ClassVar[str]
    conditions: ClassVar[str] = "any schedule, any core"
    subject: ClassVar[Subject] = "core"
    worldless: ClassVar[bool] = False
    law: ClassVar[Law]

    def applies(self, case: Case) -> bool:
        """Whether the identity speaks of this case at all."""
        return True

    @abstractmethod
    def judge(self, case: Case) -> Judgement:
        """Compute both sides and apply the law."""

    def check(self, case: Case) -> Check:
        """The identity's row in the report; an error while computing it is a violation, told as such."""
        try:
            found = self.judge(case)
        except Exception as error:
            found = Judgement(math.inf, 0.0, "fail", detail=f"{type(error).__name__}: {error}")
        verdict = found.verdict
        if self.subject == "optimal" and not case.exact:
            verdict = "gap"
        return Check(
            self.name, self.views, case.world_name, case.schedule_name, case.dtype_name, case.device_name, self.law,
            found.residual, found.tolerance, verdict, self.statement, found.power, found.detail,
        )  # fmt: skip


@dataclass(frozen=True)
class Sides:
    """Two computations of one quantity, and κ: the size of the intermediate numbers whose rounding reaches it."""

    lhs: Tensor
    rhs: Tensor
    kappa: Tensor


class Algebraic(Identity):
    """Exact up to rounding."""

    law = "algebraic"

    @abstractmethod
    def sides(self, case: Case) -> Iterable[Sides]:
        """Each pair to be compared, in the case's dtype."""

    def judge(self, case: Case) -> Judgement:
        return judge_algebraic(self.sides(case), case.dtype)


def judge_algebraic(pairs: Iterable[Sides], dtype: torch.dtype) -> Judgement:
    """The algebraic law on pairs of sides that were computed in ``dtype``; the residual is the largest |lhs − rhs|/κ."""
    tolerance = ALGEBRAIC_C * torch.finfo(dtype).eps
    worst, caught = 0.0, 0.0
    for pair in pairs:
        # Compared on the host: a side may be a table's and the other a GPU's.
        lhs, rhs, kappa = (v.detach().to("cpu", torch.float64) for v in (pair.lhs, pair.rhs, pair.kappa))
        if not bool(torch.isfinite(kappa).all()):
            return Judgement(math.inf, tolerance, "fail", detail="the condition κ is not finite: nothing is allowed")
        kappa = kappa.abs()
        found = float(excess_ratio(lhs, rhs, kappa).max())
        if math.isnan(found):
            return Judgement(found, tolerance, "fail", detail="a side is not a number")
        worst, caught = max(worst, found), max(caught, _caught(lhs, rhs, tolerance * kappa))
    if worst > tolerance:
        verdict: Verdict = "fail"
    else:
        verdict = "pass" if caught <= BLIND else "inconclusive"
    detail = f"a relative violation of {caught:.1e} would have been caught (bound {BLIND:.0%})"
    return Judgement(worst, tolerance, verdict, caught, detail)


def excess_ratio(lhs: Tensor, rhs: Tensor, kappa: Tensor) -> Tensor:
    """|lhs − rhs|/κ, member by member, and 0 where both sides are equal, whatever κ."""
    difference = (lhs - rhs).abs()
    return torch.where(difference == 0, difference, difference / kappa)


def _caught(lhs: Tensor, rhs: Tensor, allowed: Tensor) -> float:
    """The relative violation that half of a pair's members would have shown; members that are zero have no such size."""
    size = torch.maximum(lhs.abs(), rhs.abs())
    size, allowed = torch.broadcast_tensors(size, allowed)
    relative = (allowed / size)[size > 0]
    return float(relative.median()) if relative.numel() else 0.0


class MonteCarlo(Identity):
    """True in expectation."""

    law = "monte_carlo"
    bound: ClassVar[float] = 0.2

    @abstractmethod
    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        """Per-draw differences ``[n]`` or ``[n, K]`` of mean zero, and the size of their terms, ``[]`` or ``[K]``."""

    def judge(self, case: Case) -> Judgement:
        difference, size = self.differences(case)
        return judge_means(difference, size, case.dtype, self.bound)


def judge_means(
    difference: Tensor, size: Tensor, dtype: torch.dtype, bound: float, limit: float = Z_LIMIT
) -> Judgement:
    """The Monte Carlo law: per-draw differences ``[n, …]`` of mean zero, whose terms, in ``dtype``, have a size ``[…]``."""
    means = Means.of(difference, size, dtype, limit)
    score, caught = float(means.score.max()), float(means.caught.max())
    if not math.isfinite(score) or score > limit:
        verdict: Verdict = "fail"
    else:
        verdict = "pass" if caught <= bound else "inconclusive"
    detail = f"a violation of {caught:.1%} would have been caught (bound {bound:.0%})"
    return Judgement(score, limit, verdict, caught, detail)


@dataclass(frozen=True)
class Means:
    """K means of draws, as the Monte Carlo law sees them, each ``[K]`` in float64.

    Attributes:
        mean, error: of the draws, and its standard error.
        floor: what rounding may move the mean by.
        score: by how many standard errors the mean is beyond that.
        caught: the smallest violation that would have been caught, in units of the size.
    """

    mean: Tensor
    error: Tensor
    floor: Tensor
    score: Tensor
    caught: Tensor

    @staticmethod
    def of(
        difference: Tensor,
        size: Tensor,
        dtype: torch.dtype,
        limit: float | Tensor = Z_LIMIT,
        terms: Tensor | None = None,
    ) -> Means:
        """Of draws ``[n, …]`` and a size ``[…]`` or ``[]``, which is that of the terms that were rounded.

        The limit is one for all, or ``[K]``; ``terms`` is the size of what was rounded, where it is another.
        """
        difference = difference.detach().to("cpu", torch.float64).reshape(difference.shape[0], -1)
        size = size.detach().to("cpu", torch.float64).abs().reshape(-1)
        mean, error = difference.mean(0), difference.std(0) / math.sqrt(difference.shape[0])
        # Rounding in the terms, which no number of draws averages away; where their draws are all alike, it is all there is.
        rounded = size if terms is None else terms.detach().to("cpu", torch.float64).abs().reshape(-1)
        floor = ALGEBRAIC_C * torch.finfo(dtype).eps * torch.maximum(rounded, difference.abs().mean(0))
        above = (mean.abs() - floor).clamp(min=0)
        unseen = z_power(torch.as_tensor(limit, dtype=torch.float64)) * error + floor
        return Means(
            mean, error, floor,
            torch.where(above == 0, above, above / error), torch.where(unseen == 0, unseen, unseen / size),
        )  # fmt: skip


class Order(Identity):
    """A rate of convergence."""

    law = "order"

    @abstractmethod
    def errors(self, case: Case) -> tuple[list[float], list[float], float]:
        """Steps, errors, and the declared order."""

    def judge(self, case: Case) -> Judgement:
        return judge_order(*self.errors(case))


def judge_order(steps: list[float], errors: list[float], declared: float) -> Judgement:
    """The law of a rate of convergence: the residual is the fitted slope's distance from the declared one."""
    slope = fitted_order(steps, errors)
    off = abs(slope - declared)
    return Judgement(
        off, ORDER_SLACK, "pass" if off <= ORDER_SLACK else "fail",
        detail=f"measured order {slope:.3f}, declared {declared:g}",
    )  # fmt: skip


def fitted_order(steps: list[float], errors: list[float]) -> float:
    """The least-squares slope of log error on log step; NaN if an error is zero or not finite."""
    if any(not math.isfinite(e) or e <= 0 for e in errors):
        return math.nan
    x, y = torch.tensor(steps, dtype=torch.float64).log(), torch.tensor(errors, dtype=torch.float64).log()
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / x.square().sum())


class Quadrature(Identity):
    """Exact up to an integral's discretisation."""

    law = "quadrature"
    tolerance: ClassVar[float] = 1e-5
    refinements: ClassVar[tuple[int, ...]] = (32, 64, 128, 256)

    @abstractmethod
    def values(self, case: Case, n: int) -> tuple[Tensor, Tensor]:
        """Both sides with n nodes."""

    @abstractmethod
    def rounding(self, case: Case) -> float:
        """What the dtype alone may cost, in the unit of the values."""

    def judge(self, case: Case) -> Judgement:
        tolerance = self.tolerance + ALGEBRAIC_C * self.rounding(case)
        before: tuple[Tensor, Tensor] | None = None
        residual, estimate = math.inf, math.inf
        for n in self.refinements:
            now = self.values(case, n)
            residual = float((now[0] - now[1]).abs().detach().max())
            if before is not None:
                estimate = max(float((a - b).abs().detach().max()) for a, b in zip(now, before, strict=True))
                if estimate <= 0.1 * tolerance or not math.isfinite(estimate):
                    break
            before = now
        settled = estimate <= max(0.1 * tolerance, ALGEBRAIC_C * self.rounding(case))
        verdict: Verdict = "inconclusive" if not settled else "pass" if residual <= tolerance else "fail"
        if not math.isfinite(residual):
            verdict = "fail"
        return Judgement(residual, tolerance, verdict, detail=f"quadrature error about {estimate:.1e}")


class Bound(Identity):
    """An inequality."""

    law = "bound"

    @abstractmethod
    def excess(self, case: Case) -> tuple[float, float]:
        """By how much the inequality is broken (negative where it holds), and the rounding to forgive."""

    def judge(self, case: Case) -> Judgement:
        excess, forgiven = self.excess(case)
        return Judgement(excess, forgiven, "pass" if excess <= forgiven else "fail", detail=f"margin {-excess:.3g}")
