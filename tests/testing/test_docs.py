"""docs/testing.md: its scheduler is caught as the page shows, passes when it is mended, and the rest of the page runs."""

from __future__ import annotations

import importlib
import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import Phase, settings

import unidiff as ud
from unidiff.testing import assert_samples_from, oracle

# Runs in this process leave it the modules that it had.
importlib.import_module("unidiff.testing.strategies")
PAGE = (Path(__file__).parents[2] / "docs" / "testing.md").read_text(encoding="utf-8")
SCHEDULER, TEST, *REST = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
SHOWN = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(autouse=True)
def quick():
    """The suite's profile without the phase that explains a failure, which takes most of its time."""
    before = settings.get_current_profile_name()
    settings.register_profile("docs", settings.get_profile(before), phases=set(Phase) - {Phase.explain})
    settings.load_profile("docs")
    yield
    settings.load_profile(before)


def run(pytester: pytest.Pytester, scheduler: str) -> pytest.RunResult:
    pytester.makepyfile(my_scheduler=scheduler, test_my_scheduler=TEST)
    pytester.syspathinsert()
    return pytester.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:benchmark", "-q")


def test_ten_lines_they_are() -> None:
    assert len([line for line in TEST.splitlines() if line.strip() and not line.startswith("#")]) == 10


def test_the_planted_bug_is_caught_and_shrunk_to_what_the_page_shows(pytester: pytest.Pytester) -> None:
    found = run(pytester, SCHEDULER)
    found.assert_outcomes(failed=1)
    assert len(SHOWN) == 1
    for line in SHOWN[0].splitlines():
        assert any(line in told for told in found.outlines), (line, "\n".join(found.outlines[-40:]))


def test_the_mended_scheduler_passes(pytester: pytest.Pytester) -> None:
    mended = SCHEDULER.replace("beta * (1 - now) / (1 - now)", "beta * (1 - before) / (1 - now)")
    assert mended != SCHEDULER
    run(pytester, mended).assert_outcomes(passed=1)


def test_the_rest_of_the_page_runs() -> None:
    assert len(REST) == 2
    names: dict[str, object] = {}
    for block in REST:
        exec(compile(block, "testing.md", "exec"), names)


def test_euler_in_twenty_steps_leaves_the_law_as_the_page_says() -> None:
    world = ud.worlds.library.mixture_2d()
    denoised = oracle(world, predicts="x0")
    sigmas = ud.Schedule.karras().sigma(torch.linspace(1, 0, 20))
    x = sigmas[0] * torch.randn(20_000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for now, after in pairwise(sigmas):
        x = x + (after - now) * (x - denoised(x, now)) / now
    with pytest.raises(AssertionError, match=r"(mean|covariance)\["):
        assert_samples_from(x, world)
