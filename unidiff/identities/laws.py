r"""The five laws of tolerance. An identity declares which one judges it; nobody picks a number by hand.

algebraic     |lhs − rhs| ≤ c·eps(dtype)·κ with c = 64 throughout, κ the identity's own stated condition, finite. What is
              allowed must be small beside what is compared: in each pair of sides, at most a tenth of the value for at
              least half of the members; else the verdict is inconclusive, never pass.
quadrature    |lhs − rhs| ≤ tolerance, both refined until their own error estimate is a tenth of it.
monte_carlo   a z-test of mean difference zero. The suite makes fewer than 2^20 z-scores in one run; each is tested at
              1e-6/2^20, so a run of true identities raises an alarm with probability below 1e-6 (Bonferroni). The
              smallest relative violation caught with probability 0.999 must be within the identity's stated bound,
              else the verdict is inconclusive, never pass.
order         the slope of log error on log step, within 0.2 of the declared order.
bound         an inequality, by its margin.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

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
Z_LIMIT = float(norm.isf(0.5 * FAMILY_ALARM / MOST_SCORES))
Z_POWER = Z_LIMIT + float(norm.isf(1e-3))

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
        tolerance = ALGEBRAIC_C * torch.finfo(case.dtype).eps
        worst, caught = 0.0, 0.0
        for pair in self.sides(case):
            # Compared on the host: a side may be a table's and the other a GPU's.
            lhs, rhs, kappa = (v.detach().to("cpu", torch.float64) for v in (pair.lhs, pair.rhs, pair.kappa))
            if not bool(torch.isfinite(kappa).all()):
                return Judgement(
                    math.inf, tolerance, "fail", detail="the condition κ is not finite: nothing is allowed"
                )
            difference, kappa = (lhs - rhs).abs(), kappa.abs()
            ratio = torch.where(difference == 0, difference, difference / kappa)
            found = float(ratio.max())
            if math.isnan(found):
                return Judgement(found, tolerance, "fail", detail="a side is not a number")
            worst, caught = max(worst, found), max(caught, _caught(lhs, rhs, tolerance * kappa))
        if worst > tolerance:
            verdict: Verdict = "fail"
        else:
            verdict = "pass" if caught <= BLIND else "inconclusive"
        detail = f"a relative violation of {caught:.1e} would have been caught (bound {BLIND:.0%})"
        return Judgement(worst, tolerance, verdict, caught, detail)


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
        difference = difference.detach().to("cpu", torch.float64).reshape(difference.shape[0], -1)
        size = size.detach().to("cpu", torch.float64).abs()
        error = difference.std(0) / math.sqrt(difference.shape[0])
        # Rounding in the terms, which no number of draws averages away; where their draws are all alike, it is all there is.
        floor = ALGEBRAIC_C * torch.finfo(case.dtype).eps * torch.maximum(size, difference.abs().mean(0))
        above = (difference.mean(0).abs() - floor).clamp(min=0)
        score = float(torch.where(above == 0, above, above / error).max())
        unseen = Z_POWER * error + floor
        caught = float(torch.where(unseen == 0, unseen, unseen / size).max())
        if not math.isfinite(score) or score > Z_LIMIT:
            verdict: Verdict = "fail"
        else:
            verdict = "pass" if caught <= self.bound else "inconclusive"
        return Judgement(
            score,
            Z_LIMIT,
            verdict,
            caught,
            f"a violation of {caught:.1%} would have been caught (bound {self.bound:.0%})",
        )


class Order(Identity):
    """A rate of convergence."""

    law = "order"

    @abstractmethod
    def errors(self, case: Case) -> tuple[list[float], list[float], float]:
        """Steps, errors, and the declared order."""

    def judge(self, case: Case) -> Judgement:
        steps, errors, declared = self.errors(case)
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
