"""What a verification says: one :class:`Check` for each identity on each subject, and the :class:`Report` of them all."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Law = Literal["algebraic", "quadrature", "monte_carlo", "order", "bound"]
Verdict = Literal["pass", "fail", "inconclusive", "gap", "convention"]

_COLUMNS = (
    "identity", "views", "world", "schedule", "dtype", "device", "law", "residual", "tolerance", "verdict"
)  # fmt: skip


@dataclass(frozen=True)
class Check:
    """One identity, measured on one subject.

    Attributes:
        identity, views, statement: of the identity; the statement is LaTeX without dollar signs.
        world, schedule, dtype, device: of the subject.
        law: which of the five tolerance laws judged it.
        residual, tolerance: in the law's unit; ``pass`` means residual ≤ tolerance.
        verdict: ``gap`` is the figure of an identity that holds for the exact denoiser alone, on a network; ``convention`` a
            departure that a foreign target's documents state.
        power: for the algebraic law and Monte Carlo, the smallest relative violation that would have been caught.
        detail: a sentence for the reader.
        target: whose code was measured, where it is not this package's.
    """

    identity: str
    views: tuple[str, ...]
    world: str
    schedule: str
    dtype: str
    device: str
    law: Law
    residual: float
    tolerance: float
    verdict: Verdict
    statement: str = ""
    power: float | None = None
    detail: str = ""
    target: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The JSON row; a residual that is no finite number becomes null (JSON has no NaN)."""
        row = {name: value for name, value in asdict(self).items() if name in _COLUMNS}
        row["views"] = list(self.views)
        for name in ("residual", "tolerance"):
            row[name] = row[name] if math.isfinite(row[name]) else None
        return row | {"target": self.target, "detail": self.detail} if self.target else row


@dataclass
class Report:
    """All the checks of one run, how long it took, and what is worth looking at.

    Attributes:
        checks: in the order they were made.
        seconds: wall clock.
        figures: by name, ``{"title", "kind": "image_grid" | "scatter" | "maps" | "lines", "data", …}`` for the HTML report.
    """

    checks: list[Check] = field(default_factory=list)
    seconds: float = 0.0
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """How many identities and checks there were, and how they came out."""
        verdicts = Counter(c.verdict for c in self.checks)
        return {
            "identities": len({c.identity for c in self.checks}),
            "checks": len(self.checks),
            "pass": verdicts["pass"],
            "fail": verdicts["fail"],
            "inconclusive": verdicts["inconclusive"],
            "gaps": verdicts["gap"],
            **({"conventions": verdicts["convention"]} if any(c.target for c in self.checks) else {}),
            "seconds": round(self.seconds, 3),
        }

    def to_dict(self) -> dict[str, Any]:
        """The document that ``unidiff verify --json`` prints."""
        return {"checks": [c.to_dict() for c in self.checks], "summary": self.summary()}

    @property
    def exit_status(self) -> int:
        """0 if all is well, 1 if anything is violated, 2 if something could not be decided."""
        verdicts = {c.verdict for c in self.checks}
        return 1 if "fail" in verdicts else 2 if "inconclusive" in verdicts else 0
