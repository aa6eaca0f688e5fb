r"""What is asked of a foreign sampler: five statements, each judged by the registry's own laws.

schedule    a table of ᾱ or σ is what the formula of its name gives.
levels      the log-SNR falls to none, and the network is told the level at which its state is.
point       data that are one point: the walk's law at every level it lists is q(x_k | x_0) = N(α_k x_0, σ_k²). The DDIM
            family keeps it whatever the variance (Song et al. 2021, lemma 1), and every solver that takes x̂_0 or ε̂ for
            constant over a step, since on a point's path both are.
variance    of a step's own draw, where a rule is named.
order       data N(m, c): the walk is affine, so its mean and variance are known exactly; their error falls as steps^−p.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from unidiff.conformance.response import Response, law, response
from unidiff.conformance.tables import Table
from unidiff.conformance.target import Convention, Target
from unidiff.identities.laws import ALGEBRAIC_C, ORDER_SLACK, Judgement, Sides, fitted_order, judge_algebraic
from unidiff.identities.report import Check, Law

WINDOW = 3.0
"""Orders are fitted at log-SNRs within ± this."""
MEAN, SPREAD = 0.8, 0.3


class Question(ABC):
    """One statement about any sampler.

    Attributes:
        name, statement, source, law: as an identity's.
        world: the data of which it is asked.
    """

    name: ClassVar[str]
    statement: ClassVar[str]
    source: ClassVar[str]
    law: ClassVar[Law] = "algebraic"
    world: ClassVar[str] = "a point"

    def applies(self, target: Target) -> bool:
        """Whether the target makes the claim."""
        return True

    @abstractmethod
    def judge(self, target: Target) -> Judgement:
        """Compute both sides and apply the law."""

    def excused(self, target: Target, convention: Convention) -> bool:
        """Whether the departure is the one that is stated."""
        return False

    def check(self, target: Target) -> Check:
        """The row of the report; an error in the target's own code is a violation, told as such."""
        convention = target.claims.conventions.get(self.name)
        try:
            found = self.judge(target)
            if found.verdict == "fail" and convention is not None and self.excused(target, convention):
                found = replace(found, verdict="convention", detail=f"{found.detail}; {convention.words}")
            if found.verdict == "fail" and self.name == "point" and target.claims.point is None:
                asked = "only a sampler that claims it must keep this: point=True, or --point yes, says that it does"
                found = replace(found, verdict="inconclusive", detail=f"{found.detail}; {asked}")
        except Exception as error:
            found = Judgement(math.inf, 0.0, "fail", detail=f"{type(error).__name__}: {error}")
        dtype = str(target.claims.dtype).removeprefix("torch.")
        return Check(
            self.name, ("core",), self.world, target.configuration, dtype, "cpu", self.law, found.residual,
            found.tolerance, found.verdict, self.statement, found.power, found.detail, target.name,
        )  # fmt: skip


class Schedules(Question):
    """A table beside its formula."""

    name = "schedule"
    statement = r"\bar\alpha_n=\prod_{j\leq n}(1-\beta_j)=\bar\alpha(t_n)/\bar\alpha(0)"
    source = "Nichol and Dhariwal 2021, eq. 17; Hang et al. 2024, table 1; Karras et al. 2022, eq. 5"
    world = "none"

    def applies(self, target: Target) -> bool:
        return isinstance(target, Table)

    def judge(self, target: Target) -> Judgement:
        assert isinstance(target, Table)
        pair = Sides(target.got, target.expected, target.condition)
        found = judge_algebraic([pair], target.claims.dtype)
        return (
            found if found.verdict != "fail" else replace(found, detail=_worst([("entry", pair)], target.claims.dtype))
        )


class _Smallest(Question):
    """An algebraic statement, asked with few steps first."""

    @abstractmethod
    def sides(self, target: Target, steps: int) -> Iterator[tuple[str, Sides]]:
        """Pairs with a word for each."""

    def judge(self, target: Target) -> Judgement:
        found: list[Judgement] = []
        for steps in target.claims.smallest:
            pairs = list(self.sides(target, steps))
            judged = judge_algebraic((pair for _, pair in pairs), target.claims.dtype)
            if judged.verdict == "fail":
                return replace(judged, detail=f"{steps} steps: {_worst(pairs, target.claims.dtype)}")
            found.append(judged)
        # What few steps could not have seen, more may.
        seen = [judged for judged in found if judged.verdict == "pass"]
        return max(seen or found, key=lambda judged: judged.residual)


def _worst(pairs: list[tuple[str, Sides]], dtype: torch.dtype) -> str:
    """The first member of the first pair that is off, with both its sides."""
    for word, pair in pairs:
        allowed = ALGEBRAIC_C * torch.finfo(dtype).eps * pair.kappa
        off = ~((pair.lhs - pair.rhs).abs() <= allowed)
        if bool(off.any()):
            k = int(off.nonzero()[0])
            return f"{word} {k}: got {float(pair.lhs[k]):.6g}, expected {float(pair.rhs[k]):.6g}"
    return "not a number"


def carried(found: Response) -> tuple[Tensor, Tensor]:
    r"""κ ``[K + 1]`` of the mean and of the spread of each state: the sizes of the numbers that each step forms, carried on.

    A step multiplies what was there by r = σ_{k+1}/σ_k, up to numbers of that size, and mixes states, α + σ, and answers
    with coefficients b: a slope at a small σ, or an extrapolation, has large ones that cancel.
    """
    alpha, sigma = found.walk.alpha, found.walk.sigma
    own = torch.where(alpha > 0, 1 / alpha, 0.0)  # a rectified flow starts at α = 0, with no answer yet
    mixed = (1 + found.answers.abs().sum(1) * own) * (alpha + sigma)
    mixed[1:] += found.answers[:-1].abs().sum(1) * own[:-1] * alpha[1:]
    means, spreads = [mixed[0]], [mixed[0] * sigma[0]]
    for k in range(1, len(alpha)):
        by = sigma[k] / sigma[k - 1]
        means.append(by * means[-1] + mixed[k])
        spreads.append(by * spreads[-1] + mixed[k] * sigma[k - 1] * (1 + alpha[k] * own[k - 1]))
    return torch.stack(means), torch.stack(spreads)


class Levels(_Smallest):
    """The list of levels, and what the network is told."""

    name = "levels"
    statement = r"\lambda_0<\dots<\lambda_K,\quad \lambda_{\mathrm{told}}=\lambda_k"
    source = "Kingma et al. 2021, section 3.1; Karras et al. 2022, table 1"

    def applies(self, target: Target) -> bool:
        return target.claims.levels and not isinstance(target, Table)

    def excused(self, target: Target, convention: Convention) -> bool:
        for steps in target.claims.smallest:
            walk = response(target, steps).walk
            if walk.told is None or walk.room is None or not bool((walk.log_snr.diff() > 0).all()):
                return False
            told, held = walk.told.unbind(1)
            rounding = ALGEBRAIC_C * torch.finfo(target.claims.dtype).eps * (1 + held.abs())
            if not bool(((told - held).abs() <= walk.room + rounding).all()):
                return False
        return convention.rounded

    def sides(self, target: Target, steps: int) -> Iterator[tuple[str, Sides]]:
        walk = response(target, steps).walk
        ahead = walk.log_snr.diff()
        yield (
            "rise of the log-SNR before state",
            Sides((ahead > 0).double(), torch.ones_like(ahead), torch.ones_like(ahead)),
        )
        if walk.told is not None:
            # At zero SNR both are −∞, and no difference is a number.
            told, held = walk.told[~(walk.told == -math.inf).all(1)].unbind(1)
            yield "told at call", Sides(told, held, target.claims.condition * (1 + held.abs()))


class Point(_Smallest):
    """The law on one point, at every level."""

    name = "point"
    statement = r"x_0\ \mathrm{fixed}:\quad p(x_k)=N(\alpha_k x_0,\sigma_k^2)"
    source = "Song et al. 2021 (DDIM), lemma 1"

    def applies(self, target: Target) -> bool:
        return target.claims.point is not False

    def sides(self, target: Target, steps: int) -> Iterator[tuple[str, Sides]]:
        found = response(target, steps)
        walk, loss = found.walk, target.claims.condition
        mean = found.start * walk.alpha[0] + found.answers.sum(1)
        spread = (found.start.square() * walk.sigma[0] ** 2 + found.draws.square().sum(1)).sqrt()
        of_mean, of_spread = carried(found)
        yield "mean of x_0 = 1 in state", Sides(mean, walk.alpha, loss * of_mean)
        yield "standard deviation in state", Sides(spread, walk.sigma, loss * of_spread)


class StepVariance(_Smallest):
    """The variance of each step's own draw."""

    name = "variance"
    statement = r"\mathrm{Var}[x_s\mid x_t,\hat x_0]=\varsigma^2(s,t)"
    source = "Ho et al. 2020, section 3.2; Song et al. 2021 (DDIM), eq. 16"

    def applies(self, target: Target) -> bool:
        return target.claims.variance is not None

    def excused(self, target: Target, convention: Convention) -> bool:
        other = copy.copy(target)
        other.claims = replace(target.claims, variance=convention.variance)
        return convention.variance is not None and self.judge(other).verdict == "pass"

    def sides(self, target: Target, steps: int) -> Iterator[tuple[str, Sides]]:
        found = response(target, steps)
        walk, rule = found.walk, target.claims.variance
        assert rule is not None
        got = torch.stack([_own(found, k) for k in range(1, len(walk.alpha))])
        was, now = (walk.alpha[:-1], walk.sigma[:-1]), (walk.alpha[1:], walk.sigma[1:])
        expected = rule(*was, *now)
        # 1 − α²_t σ²_s/(α²_s σ²_t), by subtraction, has an error of one rounding of 1, times what a step multiplies it by.
        size = torch.maximum(expected, torch.minimum(now[1].square(), was[1].square()))
        inner = now[1] > 0
        yield "step", Sides(got[inner], expected[inner], target.claims.condition * size[inner])
        # Ho et al. 2020, algorithm 2: the step to the data draws nothing. A floor of 1e-20 is as good.
        if not bool(inner.all()):
            one = torch.ones_like(got[~inner])
            yield "1 and the variance of the last step", Sides(1 + got[~inner], one, one)


def _own(found: Response, k: int) -> Tensor:
    """The variance of what first reaches state k."""
    new = (found.draws[:k] == 0).all(0)
    return found.draws[k][new].square().sum()


class GlobalOrder(Question):
    """How fast the error of the mean and the variance falls."""

    name = "order"
    statement = r"\|\mathrm{law}(x_k)-q_k\|=O(N^{-p})"
    source = "Kloeden and Platen 1992, sections 8 to 10; Lu et al. 2022 (DPM-Solver++), theorem 3.2"
    law = "order"
    world = f"N({MEAN}, {SPREAD})"

    def applies(self, target: Target) -> bool:
        return target.claims.order is not None

    def judge(self, target: Target) -> Judgement:
        declared = target.claims.order
        assert declared is not None
        if not target.claims.steps:
            told = "an order shows in 64 to 256 steps, and there are too few timesteps for them"
            return Judgement(math.inf, ORDER_SLACK, "inconclusive", detail=told)
        sizes: list[float] = []
        errors: list[float] = []
        for steps in target.claims.steps:
            walk, mean, variance = law(target, MEAN, SPREAD, steps)
            exact = walk.alpha.square() * SPREAD + walk.sigma.square()
            seen = walk.log_snr.abs() <= WINDOW
            seen[0] = False  # what it began with
            if not bool(seen.any()):
                told = f"{steps} steps: no state at a log-SNR within ±{WINDOW:g}"
                return Judgement(math.inf, ORDER_SLACK, "inconclusive", detail=told)
            off = ((mean - walk.alpha * MEAN) / exact.sqrt()).abs() + (variance / exact - 1).abs()
            sizes.append(1 / steps)
            errors.append(float(off[seen].max()))
        # Rounding that steps add up; a target of float32 holds its tables so, and may compute wider.
        wide = target.claims.dtype == torch.float64
        floors = [(ALGEBRAIC_C / size if wide else 4) * torch.finfo(target.claims.dtype).eps for size in sizes]
        above = [k for k, (error, floor) in enumerate(zip(errors, floors, strict=True)) if not error <= floor]
        if not above:
            return Judgement(0.0, ORDER_SLACK, "pass", detail=f"exact to rounding in {target.claims.steps} steps")
        if len(above) < 2:
            told = f"errors {', '.join(f'{e:.1e}' for e in errors)} are rounding: fewer steps would show an order"
            return Judgement(math.inf, ORDER_SLACK, "inconclusive", detail=told)
        slope = fitted_order([sizes[k] for k in above], [errors[k] for k in above])
        # A method that does better than it says breaks nothing.
        short = math.inf if math.isnan(slope) else max(0.0, declared - slope)
        told = ", ".join(f"{e:.1e}" for e in errors)
        detail = f"measured order {slope:.2f}, declared {declared:g}; errors {told} in {target.claims.steps} steps"
        return Judgement(short, ORDER_SLACK, "pass" if short <= ORDER_SLACK else "fail", detail=detail)


QUESTIONS: tuple[Question, ...] = (Schedules(), Levels(), Point(), StepVariance(), GlobalOrder())
