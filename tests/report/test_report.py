"""The table, the page and the sheets: what they say is what was measured."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser

import matplotlib.image
import numpy as np
import pytest
from rich.console import Console

from unidiff import identities
from unidiff.identities.report import Check, Report
from unidiff.report import by_view, print_report, rows, save_grid, save_scatter, write_html
from unidiff.report.images import sheet
from unidiff.report.mathematics import formula
from unidiff.report.plain import plain


def check(identity: str = "tweedie", verdict="pass", residual: float = 1e-16, **members) -> Check:
    values = {
        "identity": identity, "views": ("core", "score"), "world": "gaussian", "schedule": "cosine", "dtype": "float64",
        "device": "cpu", "law": "algebraic", "residual": residual, "tolerance": 1e-14, "verdict": verdict,
        "statement": r"E[x_0|z]=\frac{z}{\alpha}",
    }  # fmt: skip
    return Check(**{**values, **members})


def report(*checks: Check) -> Report:
    figures = {
        "samples": {"title": "digits", "kind": "image_grid", "data": np.zeros((4, 8, 8))},
        "loss": {
            "title": "loss", "kind": "lines",
            "data": {"x_label": "steps", "y_label": "loss", "log": True, "series": {"a": {"x": [1, 2], "y": [2.0, 1.0]}}},
        },
        "points": {"title": "points", "kind": "scatter", "data": {"series": {"a": np.zeros((5, 2)), "b": np.ones((5, 2))}}},
    }  # fmt: skip
    return Report(list(checks), 1.5, figures)


MIXED = report(
    check(), check(residual=5e-15, world="digits"), check(verdict="gap", residual=0.3, world="network"),
    check("stein", "fail", 2e-14, views=("score",), detail="off <by> much"), check("tele", "inconclusive", views=("vae", "thermo")),
)  # fmt: skip


def test_exit_status_is_the_worst_verdict() -> None:
    assert report(check()).exit_status == 0
    assert report(check(), check(verdict="gap")).exit_status == 0
    assert report(check(), check(verdict="inconclusive")).exit_status == 2
    assert report(check(verdict="fail"), check(verdict="inconclusive")).exit_status == 1


def test_a_residual_that_is_no_number_is_null_in_json() -> None:
    assert check(residual=float("nan")).to_dict()["residual"] is None


def test_rows_are_the_worst_of_each_identity() -> None:
    found = {row.name: row for row in rows(MIXED)}
    tweedie = found["tweedie"]
    assert (tweedie.worst.residual, tweedie.checks, tweedie.verdict) == (5e-15, 3, "pass")
    assert tweedie.gap is not None
    assert tweedie.gap.residual == 0.3
    assert found["stein"].verdict == "fail"


def test_each_identity_is_in_one_group_that_names_its_views() -> None:
    groups = by_view(rows(MIXED))
    assert list(groups) == [("core", "score"), ("score",), ("vae", "thermo")]
    assert sum(len(g) for g in groups.values()) == 3


def test_the_table_tells_what_failed_and_where() -> None:
    out = io.StringIO()
    print_report(MIXED, Console(file=out, width=110))
    text = out.getvalue()
    assert "fail: stein on gaussian, cosine, float64 on cpu" in text
    assert "network's gap" in text
    assert "3 identities, 5 checks in 2 s: 2 pass, 1 fail, 1 inconclusive, 1 gap" in text


class _Balanced(HTMLParser):
    void = {"meta", "img", "br", "use", "path", "rect", "image", "link"}

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        if tag not in self.void:
            self.open.append(tag)
        self.sources += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href")]

    def handle_startendtag(self, tag, attrs) -> None:
        self.sources += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag) -> None:
        if tag not in self.void:
            assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing_else(tmp_path) -> None:
    path = write_html(MIXED, tmp_path / "deep" / "report")
    text = path.read_text(encoding="utf-8")
    parser = _Balanced()
    parser.feed(text)
    assert parser.open == []
    assert all(source.startswith(("data:", "#")) for source in parser.sources)
    assert "<script" not in text
    assert "1 of 5 checks are violated." in text
    assert "off &lt;by&gt; much" in text
    for title in ("digits", "loss", "points"):
        assert title in text


def test_ids_on_the_page_are_unique_within_a_formula() -> None:
    one, two = formula(r"\alpha_t"), formula(r"\alpha_s")
    ids = [set(re.findall(r'id="([^"]+)"', text)) for text in (one, two)]
    assert ids[0]
    assert not ids[0] & ids[1]


@pytest.mark.parametrize("identity", identities.all(), ids=lambda i: i.name)
def test_every_statement_can_be_drawn_and_written(identity) -> None:
    assert formula(identity.statement).startswith("<svg")
    text = plain(identity.statement)
    assert text
    assert "\\" not in text


def test_what_cannot_be_drawn_is_shown_as_source() -> None:
    assert formula(r"\nosuchthing{<}") == r"<code>\nosuchthing{&lt;}</code>"


def test_a_sheet_puts_each_image_in_its_place() -> None:
    images = np.stack([np.full((2, 2), v) for v in (-1.0, 0.0, 1.0, 5.0)])
    page = sheet(images, columns=2, margin=1)
    assert page.shape == (7, 7)
    assert [page[1, 1], page[1, 4], page[4, 1], page[4, 4]] == [0.0, 0.5, 1.0, 1.0]
    assert sheet(np.zeros((3, 3, 4, 4))).shape[2] == 3
    with pytest.raises(ValueError, match="1 or 3 channels"):
        sheet(np.zeros((3, 2, 4, 4)))


def test_pictures_are_written(tmp_path) -> None:
    grid = save_grid(tmp_path / "a" / "grid.png", np.zeros((4, 8, 8)))
    assert matplotlib.image.imread(grid).shape[:2] == (8 * 19, 8 * 19)
    points = save_scatter(tmp_path / "points.png", {"x": np.random.default_rng(0).normal(size=(100, 2))})
    assert matplotlib.image.imread(points).std() > 0.01
