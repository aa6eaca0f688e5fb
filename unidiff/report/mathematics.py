"""LaTeX statements as inline SVG, drawn by matplotlib: a page with mathematics and without a network."""

from __future__ import annotations

import html
import io
import re

import matplotlib
from matplotlib.figure import Figure

_PT = 11.5
# What the registry's LaTeX uses and mathtext has under another name.
_SYNONYMS = ((r"\tfrac", r"\frac"), (r"\bigl", ""), (r"\bigr", ""), (r"\!", ""))
_TOKEN = r"\s*(\\[a-zA-Z]+|[^\s{\\])"
_BARE_FRACTION = re.compile(r"\\frac" + _TOKEN + _TOKEN)


def formula(latex: str) -> str:
    """``latex`` (without dollar signs) as an ``<svg>`` whose title is the source; the source itself if it cannot be drawn."""
    source = latex
    for old, new in _SYNONYMS:
        latex = latex.replace(old, new)
    latex = _BARE_FRACTION.sub(r"\\frac{\1}{\2}", latex)
    figure = Figure()
    figure.text(0, 0, f"${latex}$", fontsize=_PT, color="#111")
    out = io.StringIO()
    options = {"svg.fonttype": "path", "mathtext.fontset": "cm", "svg.hashsalt": source}
    try:
        with matplotlib.rc_context(options):
            figure.savefig(out, format="svg", bbox_inches="tight", pad_inches=0.02, transparent=True, metadata={"Date": None})
    except (ValueError, RuntimeError):
        return f"<code>{html.escape(source)}</code>"
    return _inline(out.getvalue(), source)


def _inline(text: str, source: str) -> str:
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    # Glyphs are defined once per picture under the font's own names; a prefix keeps pictures apart on one page.
    prefix = f"m{abs(hash_of(source)):x}-"
    text = re.sub(r'id="', f'id="{prefix}', text)
    text = re.sub(r'xlink:href="#', f'xlink:href="#{prefix}', text)
    text = re.sub(r"url\(#", f"url(#{prefix}", text)
    label = html.escape(source, quote=True)
    text = text.replace("<svg ", f'<svg class="math" role="img" aria-label="{label}" ', 1)
    text = re.sub(r"\s*\n\s*", "\n", text)
    return text.strip()


def hash_of(text: str) -> int:
    """A number that is the same in every run, unlike ``hash``."""
    import zlib

    return zlib.crc32(text.encode())
