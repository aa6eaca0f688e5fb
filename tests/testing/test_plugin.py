"""The plugin: options are checked, fixtures repeat, the marker selects, and a run that needs no torch imports none."""

from __future__ import annotations

import importlib

import pytest

# Runs in this process leave it the modules that it had: what cannot be imported twice must be there before the first.
importlib.import_module("unidiff")
PLUGIN = ("-p", "_unidiff_pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:benchmark")
DRAWS = """
    import pytest, torch

    @pytest.mark.parametrize("case", ["a", "b"])
    def test_draws(unidiff_generator, unidiff_dtype, unidiff_device, unidiff_seed, case):
        x = torch.randn(2, generator=unidiff_generator, dtype=unidiff_dtype, device=unidiff_device)
        print("drew", unidiff_seed, x.dtype, x.device, case, x.tolist())

    def test_else():
        pass
"""


def drawn(pytester: pytest.Pytester, *options: str) -> list[str]:
    found = pytester.runpytest_inprocess(*PLUGIN, "-s", *options)
    assert found.ret == 0
    return [line[line.index("drew") :] for line in found.outlines if "drew" in line]


def test_draws_repeat_are_each_tests_own_and_follow_the_options(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(DRAWS)
    first = drawn(pytester)
    assert len(first) == 2
    assert first[0].startswith("drew 0 torch.float64 cpu a [")
    assert first[0].split("[")[1] != first[1].split("[")[1]
    # Alone, and so before no other, the second draws what it drew.
    assert drawn(pytester, "-k", "test_draws and b") == first[1:]
    other = drawn(pytester, "--unidiff-seed=1", "--unidiff-dtype=float32", "--unidiff-device=cpu", "-m", "unidiff")
    assert other[0].startswith("drew 1 torch.float32 cpu a [")
    assert other[0].split("[")[1] != first[0].split("[")[1]


def test_draws_do_not_depend_on_the_root_of_the_run(pytester: pytest.Pytester) -> None:
    below = pytester.mkdir("below")
    pytester.makepyfile(DRAWS).rename(below / "test_own.py")
    found = [drawn(pytester, "--rootdir", str(root), str(below)) for root in (pytester.path, below)]
    assert found[0] == found[1]


def test_the_header_repeats_the_run_and_the_marker_selects(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(DRAWS)
    found = pytester.runpytest_inprocess(*PLUGIN, "--unidiff-seed=7", "-m", "unidiff", "--strict-markers", "--co", "-v")
    found.stdout.fnmatch_lines(["unidiff: --unidiff-seed=7 --unidiff-dtype=float64 --unidiff-device=cpu"])
    found.stdout.fnmatch_lines(["*2/3 tests collected (1 deselected)*"])


def test_a_run_that_asks_for_nothing_imports_no_torch(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        "def test_none():\n    import sys\n    assert not {'torch', 'unidiff', 'hypothesis'} & set(sys.modules)"
    )
    # Hypothesis' own plugin imports it only where it is used.
    pytester.runpytest_subprocess(*PLUGIN).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--unidiff-seed=-1", "*seed must be an integer in 0 * 2^63 - 1, got '-1'*"),
        ("--unidiff-seed=x", "*seed must be an integer in 0 * 2^63 - 1, got 'x'*"),
        ("--unidiff-dtype=float16", "*dtype must be float32 or float64, got 'float16'*"),
        ("--unidiff-device=tpu", "*device must be cpu, cuda or cuda:N, got 'tpu'*"),
    ],
)
def test_bad_options_are_refused(pytester: pytest.Pytester, option: str, words: str) -> None:
    found = pytester.runpytest_inprocess(*PLUGIN, option)
    assert found.ret == pytest.ExitCode.USAGE_ERROR
    found.stderr.fnmatch_lines([words])


def test_a_device_that_is_not_there_is_an_error_that_says_so(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_one(unidiff_device):\n    pass")
    found = pytester.runpytest_inprocess(*PLUGIN, "--unidiff-device=cuda:99")
    found.assert_outcomes(errors=1)
    found.stdout.fnmatch_lines(["*device must be cpu, cuda or cuda:N, and be there, got 'cuda:99'*"])
