"""The page's code runs, and its figures are those of the suite."""

from __future__ import annotations

import re
from pathlib import Path

from tests.conformance.test_findings import CONFIRMED

PAGE = (Path(__file__).parents[2] / "docs" / "conformance.md").read_text(encoding="utf-8")


def test_a_target_of_ones_own_runs_as_it_stands(capsys) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(code, "docs/conformance.md", "exec"), {"__name__": "page"})
    told = capsys.readouterr().out
    assert "'fail': 0" in told
    assert "'checks': 3" in told


def test_every_accusation_is_on_the_page() -> None:
    for found in CONFIRMED.values():
        for target, _ in found:
            assert target.partition(".")[2] in PAGE
