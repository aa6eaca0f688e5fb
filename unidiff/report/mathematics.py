"""LaTeX statements as inline SVG, drawn by matplotlib: a page with mathematics and without a network."""

from __future__ import annotations

import html
import io
import re

import matplotlib
from matplotlib.backends.backend_svg import RendererSVG
from matplotlib.font_manager import FontProperties

_POINTS = 13.5
_PAD = 1.44
_COLOUR = "#16191d"
# What the registry's LaTeX uses and mathtext has under another name. A fraction in a line of its own stands tall.
_SYNONYMS = (
    (r"\\t?frac\s*(\\[a-zA-Z]+|[^\s{\\])\s*(\\[a-zA-Z]+|[^\s{\\])", r"\\tfrac{\1}{\2}"),
    (r"\\frac", r"\\dfrac"),
    (r"\\tfrac", r"\\frac"),
    (r"\\bigl|\\bigr|\\!", ""),
    (r"\\top\b", r"\\mathsf{T}"),
    (r"\\int(?![_a-z])", r"\\int\\,"),
)
_GLYPH = re.compile(r'<path id="([^"]+)"[^>]*/>')


class Formulas:
    """Formulas for one page, each drawn once; the page holds each glyph once, in :meth:`glyphs`."""

    def __init__(self) -> None:
        self._glyphs: dict[str, str] = {}
        self._drawn: dict[tuple[str, bool], str] = {}

    def draw(self, latex: str, display: bool = True) -> str:
        """``latex`` (no dollar signs) as an ``<svg>`` labelled with its source; the source itself if it cannot be drawn.

        Args:
            latex: what is drawn.
            display: whether it stands by itself: in a line of text fractions are small, and it stands on the line.
        """
        if (latex, display) not in self._drawn:
            self._drawn[latex, display] = self._draw(latex, display)
        return self._drawn[latex, display]

    def _draw(self, latex: str, display: bool) -> str:
        text = latex if display else latex.replace(r"\frac", r"\tfrac")
        for old, new in _SYNONYMS:
            text = re.sub(old, new, text)
        out, prop = io.StringIO(), FontProperties(size=_POINTS, math_fontfamily="stix")
        try:
            with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "unidiff"}):
                # One renderer measures and draws, so that the formula is parsed once: a figure cut to size parses twice.
                renderer = RendererSVG(1, 1, out, image_dpi=72)
                width, height, descent = renderer.get_text_width_height_descent(f"${text}$", prop, ismath=True)
                colour = renderer.new_gc()
                colour.set_foreground(_COLOUR)
                renderer.open_group("text")
                renderer.draw_text(colour, _PAD, _PAD + height - descent, f"${text}$", prop, 0, ismath=True)
                renderer.close_group("text")
                renderer.finalize()
        except (ValueError, RuntimeError):
            return f"<code>{html.escape(latex)}</code>"
        stands = "" if display else f' style="vertical-align: {-descent - _PAD:.2f}pt"'
        return self._inline(out.getvalue(), width + 2 * _PAD, height + 2 * _PAD, latex, stands)

    def glyphs(self) -> str:
        """The glyphs of every formula drawn so far, as an ``<svg>`` that takes no room."""
        paths = "".join(self._glyphs.values())
        return f'<svg width="0" height="0" style="position:absolute" aria-hidden="true"><defs>{paths}</defs></svg>'

    def _inline(self, text: str, width: float, height: float, source: str, stands: str) -> str:
        for found in _GLYPH.finditer(text):
            self._glyphs[found[1]] = re.sub(r"\s+", " ", found[0])
        body = text[text.index('<g id="text_1">') : text.rindex("</svg>")]
        body = re.sub(r"<!--.*?-->|<defs>.*?</defs>", "", body, flags=re.DOTALL)
        body = body.replace(_COLOUR, "currentColor")
        body = re.sub(r"\s+", " ", body.replace('<g id="text_1">', "<g>").replace("xlink:href", "href")).replace(
            "> <", "><"
        )
        size = f'width="{width:.2f}pt" height="{height:.2f}pt" viewBox="0 0 {width:.2f} {height:.2f}"'
        return (
            f'<svg class="math" role="img" aria-label="{html.escape(source, quote=True)}" {size}{stands}>{body}</svg>'
        )
