from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from unidiff.identities import Check, Report, registry
from unidiff.report import write_html
from unidiff.report.html import page
from unidiff.report.mathematics import Formulas
from unidiff.report.strip import strip

_VOID = {"meta", "img", "br", "link", "hr", "input"}


class _Balanced(HTMLParser):
    """Fails on a tag that closes what is not open; collects addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [
            value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data", "action")
        ]
        assert tag not in ("script", "link", "iframe"), tag
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parsed(text: str) -> _Balanced:
    parser = _Balanced()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    return parser


def test_the_page_is_one_well_formed_file_that_fetches_nothing(report: Report, tmp_path: Path) -> None:
    path = write_html(report, tmp_path / "new" / "report")
    assert path == tmp_path / "new" / "report" / "index.html"
    assert [p.name for p in path.parent.iterdir()] == ["index.html"]
    text = path.read_text(encoding="utf-8")
    addresses = parsed(text).addresses
    assert addresses and all(address.startswith(("data:image/png", "#")) for address in addresses)
    assert "@import" not in text and "url(http" not in text


def test_every_link_within_the_page_leads_somewhere(report: Report) -> None:
    text = page(report)
    targets = {address[1:] for address in parsed(text).addresses if address.startswith("#")}
    assert targets <= set(re.findall(r'id=["\']([^"\']+)["\']', text))


def test_the_page_says_what_was_violated_and_where(report: Report) -> None:
    text = page(report)
    assert "1 of 6 checks are violated." in text
    assert "a sign, it seems" in text and "mixture-8d, cosine, float64" in text
    assert "not a number" in text


def test_a_sound_report_says_so_and_lists_no_trouble(sound: Report) -> None:
    text = page(sound)
    assert "Every identity holds." in text and "What went wrong" not in text


def test_inconclusive_is_not_called_holding(report: Report) -> None:
    report.checks = [c for c in report.checks if c.verdict != "fail"]
    text = page(report)
    assert "could not be decided" in text and "Every identity holds." not in text


def test_every_identity_and_every_figure_is_on_the_page(report: Report) -> None:
    text = page(report)
    for check in report.checks:
        assert f"id='{check.identity}'" in text
    for title in ("Samples &lt;8×8&gt;", "Plane", "Fields", "Orders"):
        assert title in text
    assert text.count("<figcaption>") == 4


def test_the_same_report_gives_the_same_page(report: Report) -> None:
    assert page(report) == page(report)


@pytest.mark.parametrize("checks", [[], "gaps"])
def test_a_page_with_nothing_judged_is_still_a_page(report: Report, checks: list[Check] | str) -> None:
    kept = [c for c in report.checks if c.verdict == "gap"] if checks == "gaps" else []
    parsed(page(Report(kept)))


@pytest.mark.slow
def test_every_statement_of_the_registry_is_drawn() -> None:
    formulas = Formulas()
    used = set()
    for identity in registry.all():
        drawn = formulas.draw(identity.statement)
        assert drawn.startswith("<svg"), identity.name
        used |= set(re.findall(r'href="#([^"]+)"', drawn))
    assert used == set(re.findall(r'id="([^"]+)"', formulas.glyphs()))


def test_a_formula_that_cannot_be_drawn_is_shown_as_its_source() -> None:
    assert Formulas().draw(r"\nosuch{<x>}") == r"<code>\nosuch{&lt;x&gt;}</code>"


def test_a_strip_puts_violations_beyond_the_line_and_passes_before_it(report: Report) -> None:
    def places(verdict: str) -> list[float]:
        dots = re.findall(rf'dots {verdict}" d="([^"]+)"', strip(report.checks))
        return [float(x) for x in re.findall(r"M([\d.]+) ", dots[0])]

    limit = float(re.findall(r'limit" d="M([\d.]+)', strip(report.checks))[0])
    assert len(places("pass")) == 3 and max(places("pass")) < limit < min(places("fail"))
    assert strip([c for c in report.checks if c.verdict == "gap"]) == ""
