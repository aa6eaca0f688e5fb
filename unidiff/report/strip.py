"""One identity's checks on a line: how far each residual is from its tolerance, as a small inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence

from unidiff.identities.report import Check
from unidiff.report.plots import FLOOR
from unidiff.report.summary import tightness

_WIDTH, _HEIGHT, _LEAST, _MOST = 240.0, 20.0, math.log10(FLOOR), 1.0


def strip(checks: Sequence[Check]) -> str:
    """A dot for each judged check at log10(residual / tolerance), from 1e-6 to 10; the upright line is 1.

    What lies further out is drawn at the ends. Empty if every check is a gap.
    """
    judged = [check for check in checks if check.verdict != "gap"]
    if not judged:
        return ""
    line = _place(1.0)
    parts = [
        f'<path class="axis" d="M0 {_HEIGHT / 2:g}H{_WIDTH:g}"/><path class="limit" d="M{line:g} 1V{_HEIGHT - 1:g}"/>'
    ]
    for verdict in ("pass", "convention", "inconclusive", "fail"):
        mine = [check for check in judged if check.verdict == verdict]
        # Golden-ratio heights: spread out evenly however many there are, and the same in every run.
        dots = "".join(f"M{_place(tightness(c)):.1f} {4 + 12 * (k * 0.618034 % 1):.1f}h0" for k, c in enumerate(mine))
        parts.append(f'<path class="dots {verdict}" d="{dots}"/>' if dots else "")
    label = f"{len(judged)} checks; the nearest to its tolerance is at {max(map(tightness, judged)):.2g} of it"
    return f'<svg class="strip" viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _place(share: float) -> float:
    position = (math.log10(min(max(share, FLOOR), 10**_MOST)) - _LEAST) / (_MOST - _LEAST)
    return round(3 + (_WIDTH - 6) * position, 1)
