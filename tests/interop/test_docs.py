"""What docs/interop.md shows is run, from top to bottom."""

from __future__ import annotations

import re
from pathlib import Path

from tests.interop.peers import need

PAGE = (Path(__file__).parents[2] / "docs" / "interop.md").read_text(encoding="utf-8")


def test_the_python_of_the_page_runs(capsys) -> None:
    need("diffusers")
    need("azula")
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        exec(compile(block, "docs/interop.md", "exec"), names)
    assert capsys.readouterr().out.splitlines()[-1].endswith(" 0")


def test_what_the_page_points_to_is_there() -> None:
    root = Path(__file__).parents[2]
    for path in re.findall(r"`(tests/[\w/]+\.py)`", PAGE):
        assert (root / path).exists()
