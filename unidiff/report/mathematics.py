"""LaTeX statements as inline SVG, drawn by matplotlib: a page with mathematics and without a network."""

from __future__ import annotations

import html
import io
import re
import zlib

import matplotlib
from matplotlib.figure import Figure

_POINTS = 12.5
# What the registry's LaTeX uses and mathtext has under another name. A fraction in a line of its own stands tall.
_SYNONYMS = ((r"\frac", r"\dfrac"), (r"\tfrac", r"\frac"), (r"\bigl", ""), (r"\bigr", ""), (r"\!", ""))
_TOKEN = r"\s*(\\[a-zA-Z]+|[^\s{\\])"
_BARE_FRACTION = re.compile(r"\\t?frac" + _TOKEN + _TOKEN)


def formula(latex: str) -> str:
    """``latex`` (without dollar signs) as an ``<svg>`` labelled with its source; the source itself if it cannot be drawn."""
    text = _BARE_FRACTION.sub(r"\\tfrac{\1}{\2}", latex)
    for old, new in _SYNONYMS:
        text = text.replace(old, new)
    options = {"svg.fonttype": "path", "mathtext.fontset": "stix", "svg.hashsalt": latex}
    out = io.StringIO()
    try:
        with matplotlib.rc_context(options):
            figure = Figure()
            figure.text(0, 0, f"${text}$", fontsize=_POINTS, color="#16191d")
            figure.savefig(out, format="svg", bbox_inches="tight", pad_inches=0.02, transparent=True, metadata={"Date": None})
    except (ValueError, RuntimeError):
        return f"<code>{html.escape(latex)}</code>"
    return _inline(out.getvalue(), latex)


def _inline(text: str, source: str) -> str:
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    # Glyphs are defined once per picture under the font's own names; a prefix keeps pictures apart on one page.
    prefix = f"m{zlib.crc32(source.encode()):x}-"
    text = re.sub(r'id="', f'id="{prefix}', text)
    text = re.sub(r'xlink:href="#', f'xlink:href="#{prefix}', text)
    text = re.sub(r"url\(#", f"url(#{prefix}", text)
    label = html.escape(source, quote=True)
    text = text.replace("<svg ", f'<svg class="math" role="img" aria-label="{label}" ', 1)
    text = re.sub(r"\s*\n\s*", "\n", text)
    return text.strip()

