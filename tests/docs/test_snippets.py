"""The Python of the pages that no builder runs: from top to bottom, one page one run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
ELSEWHERE = {"conformance", "interop", "testing"}  # have tests of their own
TEXTS = {path.stem: path.read_text(encoding="utf-8") for path in DOCS.glob("*.md")}
# A page of cells is run by the builder; its other blocks are parts of something.
PAGES = sorted(
    page
    for page, text in TEXTS.items()
    if "```python\n" in text and "{code-cell}" not in text and page not in ELSEWHERE
)


def test_the_pages_are_found() -> None:
    assert {"energy", "energy-training", "dxmi", "paths"} <= set(PAGES)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_a_pages_python_runs(page, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", TEXTS[page], re.DOTALL)
    for k, block in enumerate(blocks):
        exec(compile(block, f"{page}.md, block {k}", "exec"), names)
    if page == "energy":
        # Closed forms, as the page has them: 7 standard errors have probability below 1e-11 by the normal law.
        assert off(names["found"].log_z, -2.724, names["found"].standard_error) < 7  # pyright: ignore
        assert off(names["flow"].log_z[0], -0.193, names["flow"].standard_error[0]) < 7  # pyright: ignore
    if page == "paths":
        assert (tmp_path / "six.json").is_file()
        assert names["fit"].kl < 1.0  # pyright: ignore[reportAttributeAccessIssue]


def off(value: object, truth: float, error: object) -> float:
    return abs(float(value) - truth) / float(error)  # pyright: ignore[reportArgumentType]
