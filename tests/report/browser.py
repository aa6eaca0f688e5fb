"""A headless Chromium, asked what it makes of a page; where there is none, why a test is skipped."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_ASK = """<script>addEventListener("load", () => {
  const root = document.documentElement, found = {};
  const seen = e => { const r = e.getBoundingClientRect(); return r.width > 0 && r.height > 0; };
  const scrolls = e => { for (; e && e !== document.body; e = e.parentElement)
    if (["auto", "scroll", "hidden"].includes(getComputedStyle(e).overflowX)) return true; return false; };
  found.width = innerWidth; found.scroll = root.scrollWidth;
  found.wide = [...document.body.querySelectorAll("*")].filter(e => seen(e) && !scrolls(e.parentElement)
    && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.tagName + "." + e.getAttribute("class")).slice(0, 5);
  found.fetched = performance.getEntriesByType("resource").map(e => e.name).filter(n => !n.startsWith("data:"));
  found.paper = getComputedStyle(document.body).backgroundColor; found.ink = getComputedStyle(document.body).color;
  found.text = [...document.querySelectorAll("figure svg text")].slice(0, 1).map(e => getComputedStyle(e).fill);
  found.formulas = [...document.querySelectorAll("svg.math")].map(e => e.getBoundingClientRect().height);
  found.focus = [...document.querySelectorAll("a[href], [tabindex='0']")].length;
  found.lost = [...document.querySelectorAll("a[href^='#']")].map(e => e.getAttribute("href").slice(1))
    .filter(n => n && !document.getElementById(decodeURIComponent(n)));
  found.pictures = [...document.images].filter(e => !e.naturalWidth).length;
  root.setAttribute("data-found", JSON.stringify(found)); });</script>"""


def browser() -> str:
    """The command; skips the test where there is no browser."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"needs a browser: none of {', '.join(NAMES)} is installed")
    return found


def look(page: Path, width: int, dark: bool = False) -> dict[str, Any]:
    """What the page is at this width: its overflow, what it fetched, its colours, links that lead nowhere."""
    asked = page.with_name(f"asked-{width}-{dark}.html")
    asked.write_text(page.read_text(encoding="utf-8") + _ASK, encoding="utf-8")
    # Chromium's own window is never narrower than 500: a frame is.
    frame = page.with_name(f"frame-{width}-{dark}.html")
    frame.write_text(
        f"<iframe id='f' style='border:0;width:{width}px;height:900px' src='{asked.name}'></iframe>"
        "<script>addEventListener('load', () => setTimeout(() => document.body.setAttribute('data-found', "
        "document.getElementById('f').contentDocument.documentElement.getAttribute('data-found')), 50));</script>",
        encoding="utf-8",
    )
    command = [
        browser(), "--headless=new", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
        f"--user-data-dir={page.parent / 'browser'}", f"--window-size={max(width, 500)},900",
        *(["--blink-settings=preferredColorScheme=0"] if dark else []),
        "--virtual-time-budget=4000", "--dump-dom", frame.as_uri(),
    ]  # fmt: skip
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    told = re.search(r'<body[^>]* data-found="([^"]*)"', shown)
    assert told is not None, shown[:2000]
    return json.loads(unescape(told[1]))
