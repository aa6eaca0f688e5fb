"""The reports in a headless Chromium: on a phone and on a desk, light and dark, with nothing fetched and no link lost."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import unidiff as ud
from tests.report.browser import look
from unidiff.cli import main
from unidiff.identities import Check, Report
from unidiff.report import Formulas, write_conformance, write_html

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def verified(folder: Path) -> None:
    report = ud.verify(ud.worlds.library.mixture_2d(), only=["tweedie", "elbo-term", "chapman-kolmogorov"])
    bad = report.checks[0]
    report.checks.append(
        Check(**vars(bad) | {"residual": 1.0, "verdict": "fail", "detail": "planted, <so> that it shows"})
    )
    report.figures["scatter"] = {"title": "points", "kind": "scatter", "data": {"series": {"a": [[0, 0], [1, 1]]}}}
    report.figures["lines"] = {
        "title": "a line", "kind": "lines",
        "data": {"series": {"a": {"x": [1, 2, 4], "y": [3, 2, 1]}}, "x_label": "x", "y_label": "y"},
    }  # fmt: skip
    write_html(report, folder)


def conforming(folder: Path) -> None:
    def check(target, verdict, residual):
        return Check(
            "point", ("core",), "a point", "linspace, 8 steps", "float64", "cpu", "algebraic", residual, 1e-14, verdict,
            r"x_s = \alpha_s x_0 + \sigma_s \varepsilon", None, "mean 0.28 for 1.00", target,
        )  # fmt: skip

    report = Report(
        [check("lib.Good", "pass", 1e-16), check("lib.Bad", "fail", 1.0), check("lib.Odd", "convention", 1.0)]
    )
    write_conformance(report, folder, {"lib": "1.0"}, Formulas())


def bounded(folder: Path) -> None:
    arguments = ["elbo", "--world", "mixture-2d", "--steps", "20", "--n", "16", "--out", str(folder / "elbo.png")]
    assert main([*arguments, "--report", str(folder), "--json"]) == 0


def searched(folder: Path) -> None:
    arguments = ["paths", "--world", "mixture-2d", "--steps", "4", "6", "--nodes", "32", "--n", "64", "--draws", "64"]
    assert main([*arguments, "--out", str(folder), "--json"]) == 0


PAGES = {"verify": verified, "conformance": conforming, "elbo": bounded, "paths": searched}


@pytest.fixture(scope="module", params=list(PAGES))
def page(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    PAGES[request.param](folder)
    return folder / "index.html"


@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_and_fetches_nothing(page, width) -> None:
    found = look(page, width)
    assert found["width"] == width
    assert found["wide"] == []
    assert found["scroll"] <= width
    assert found["fetched"] == []
    assert found["lost"] == []
    assert found["pictures"] == 0
    assert found["focus"] >= 2  # the skip link, and what scrolls by keyboard
    assert all(height > 5 for height in found["formulas"])


def test_dark_is_dark_and_can_be_read(page) -> None:
    def brightness(colour: str) -> float:
        red, green, blue = (int(v) for v in re.findall(r"\d+", colour)[:3])
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    light, dark = look(page, 1280), look(page, 1280, dark=True)
    assert brightness(light["paper"]) > 200 > 100 > brightness(light["ink"])
    assert brightness(dark["paper"]) < 60 < 180 < brightness(dark["ink"])
    if light["text"]:
        assert brightness(dark["text"][0]) > 180 > 100 > brightness(light["text"][0])
