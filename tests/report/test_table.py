from __future__ import annotations

import io
import math
import re

import pytest
from rich.console import Console

from unidiff.identities import Report, registry
from unidiff.report import by_view, print_report, rows
from unidiff.report.plain import commands, plain
from unidiff.report.progress import Bars
from unidiff.report.summary import tightness


def printed(report: Report, width: int) -> str:
    out = io.StringIO()
    print_report(report, Console(file=out, width=width))
    return out.getvalue()


def test_the_exit_status_is_the_worst_verdict(report: Report, sound: Report) -> None:
    assert (report.exit_status, sound.exit_status) == (1, 0)
    assert Report([c for c in report.checks if c.verdict != "fail"]).exit_status == 2


def test_a_row_is_spoken_for_by_the_check_nearest_to_its_tolerance(report: Report) -> None:
    row = rows(report)[0]
    assert (row.worst.residual, row.worst.world, row.verdict, row.checks) == (7e-15, "gaussian", "pass", 3)
    assert row.gap is not None and row.gap.residual == 0.5


def test_a_violation_speaks_louder_than_any_pass(report: Report) -> None:
    report.checks.append(report.checks[0])
    assert {row.name: row.verdict for row in rows(report)} == {
        "tweedie": "pass", "stein": "pass", "broken": "fail", "vague": "inconclusive"
    }  # fmt: skip


def test_every_row_stands_under_all_its_views_and_under_them_once(report: Report) -> None:
    groups = by_view(rows(report))
    assert list(groups) == [("core", "score"), ("core", "vae"), ("score",)]
    assert sorted(row.name for group in groups.values() for row in group) == sorted(row.name for row in rows(report))


def test_no_number_is_further_out_than_every_number(report: Report) -> None:
    assert tightness(report.checks[-1]) == math.inf


def test_eighty_columns_hold_every_figure(report: Report) -> None:
    text = printed(report, 80)
    assert max(map(len, text.splitlines())) <= 80
    lines = text.splitlines()
    first = next(k for k, line in enumerate(lines) if line.startswith("tweedie"))
    assert lines[first].split() == ["tweedie", "7.0e-15", "1.0e-14", "algebraic", "3", "pass"]
    assert lines[first + 1] == "  gap 5.0e-01  E[x₀|z] = (z+σ²s)/α"


def test_a_wide_terminal_has_the_statement_beside_the_figures(report: Report) -> None:
    line = next(line for line in printed(report, 160).splitlines() if line.startswith("tweedie"))
    assert "pass" in line and "E[x₀|z] = (z+σ²s)/α" in line


def test_what_is_wrong_is_told_where_and_how(report: Report) -> None:
    text = " ".join(printed(report, 80).split())
    assert (
        "fail: broken on mixture-8d, cosine, float64 on cpu: residual 3e-14, tolerance 1e-14. a sign, it seems" in text
    )
    assert "4 identities, 6 checks in 12 s: 3 pass, 1 fail, 1 inconclusive, 1 gap" in text


def test_a_flood_of_violations_is_told_in_part(report: Report) -> None:
    report.checks += [report.checks[4]] * 99
    text = printed(report, 80)
    assert text.count("fail: broken") < 30 and "more; the page" in text


@pytest.mark.parametrize("identity", registry.all(), ids=lambda identity: identity.name)
def test_every_statement_of_the_registry_has_a_plain_line(identity: registry.Identity) -> None:
    line = plain(identity.statement)
    assert line and "\n" not in line
    assert "\\" not in line
    assert set(re.findall(r"\\([a-zA-Z]+)", identity.statement)) <= commands()


@pytest.mark.parametrize(
    ("latex", "line"),
    [
        (r"\frac12\|x\|^2", "½‖x‖²"),
        (r"\tfrac{x_t-\alpha_t x_0}{\sigma_t}", "(xₜ−αₜx₀)/σₜ"),
        (r"\frac{\sqrt{\bar\alpha_{s}}\,\beta_t}{1-\bar\alpha_t}x_0", "(√(ᾱₛ) βₜ)/(1−ᾱₜ) x₀"),
        (r"q(x_{k-1}|x_k)", "q(xₖ₋₁|xₖ)"),
        (r"s=-\varepsilon/\sigma", "s = −ε/σ"),
        (r"\left(A\right)^{\!\top}", "(A)ᵀ"),
        (r"c_\mathrm{skip}x_t", "c_skip xₜ"),
        (r"a\unknown b", "aunknownb"),
        (r"\frac{1}{3}\,d\leq\hat e,\ \vert t\vert\geq\xi", "1/3 d ≤ ê, |t| ≥ ξ"),
        (r"x\leftarrow a\circ b,\ c=\varnothing", "x ← a∘b, c = ∅"),
    ],
)
def test_plain_lines_read_like_the_formula(latex: str, line: str) -> None:
    assert plain(latex) == line


def test_progress_counts_troubles_and_needs_no_terminal(report: Report) -> None:
    out = io.StringIO()
    with Bars(Console(file=out)) as bars:
        for k, each in enumerate(report.checks):
            bars.on_check(each, k + 1, 6)
        bars.on_step(10, 20, 0.5)
    assert out.getvalue() == ""
    terminal = io.StringIO()
    with Bars(Console(file=terminal, force_terminal=True, width=100)) as bars:
        for k, each in enumerate(report.checks):
            bars.on_check(each, k + 1, 6)
    assert bars.troubles == {"fail": 1, "inconclusive": 1}
    assert "checking identities" in terminal.getvalue()
