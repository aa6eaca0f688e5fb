"""A report's checks, one row for each identity: the worst of them speaks."""

from __future__ import annotations

import math
from dataclasses import dataclass

from unidiff.identities.registry import VIEWS, get
from unidiff.identities.report import Check, Report, Verdict

_WORST_FIRST: tuple[Verdict, ...] = ("fail", "inconclusive", "convention", "pass", "gap")


@dataclass(frozen=True)
class Row:
    """One identity over all the subjects it was measured on.

    Attributes:
        name, statement, views, law: of the identity.
        worst: the judged check whose residual is nearest to (or furthest beyond) its tolerance; a gap if all are gaps.
        verdict: the worst verdict; ``gap`` only if nothing was judged.
        members: all of its checks.
        gap: the check with the largest gap, if there are any.
    """

    name: str
    statement: str
    views: tuple[str, ...]
    law: str
    worst: Check
    verdict: Verdict
    members: tuple[Check, ...]
    gap: Check | None

    @property
    def checks(self) -> int:
        """How many checks there were."""
        return len(self.members)

    @property
    def source(self) -> str:
        """The paper and equation, where the identity is one of the registry's."""
        try:
            return get(self.name).source
        except ValueError:
            return ""


def rows(report: Report) -> list[Row]:
    """A row for each identity, in the order they were first measured."""
    groups: dict[str, list[Check]] = {}
    for check in report.checks:
        groups.setdefault(check.identity, []).append(check)
    return [_row(checks) for checks in groups.values()]


def by_view(found: list[Row]) -> dict[tuple[str, ...], list[Row]]:
    """Rows by the views that they tie, in the order of the views; none twice."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in found:
        groups.setdefault(tuple(view for view in VIEWS if view in row.views), []).append(row)
    return dict(sorted(groups.items(), key=lambda item: [VIEWS.index(view) for view in item[0]]))


def tightness(check: Check) -> float:
    """Residual over tolerance; above 1 is a violation. Of an order or a z-score too."""
    if not math.isfinite(check.residual):
        return math.inf
    if check.tolerance <= 0:
        return 0.0 if check.residual <= check.tolerance else math.inf
    return max(0.0, check.residual / check.tolerance)


def _row(checks: list[Check]) -> Row:
    first = checks[0]
    judged = [c for c in checks if c.verdict != "gap"]
    gaps = [c for c in checks if c.verdict == "gap"]
    verdict: Verdict = next(v for v in _WORST_FIRST if any(c.verdict == v for c in checks))
    speaking = [c for c in judged if c.verdict == verdict] or judged or gaps
    return Row(
        first.identity, first.statement, first.views, first.law, max(speaking, key=tightness), verdict,
        tuple(checks), max(gaps, key=tightness) if gaps else None,
    )  # fmt: skip
