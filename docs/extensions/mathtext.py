"""Formulas as inline SVG, drawn as the report draws its own: the site needs no script and no network for them."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util import logging

from unidiff.report import Formulas

log = logging.getLogger(__name__)


def _drawn(node: nodes.Node, display: bool) -> str:
    latex = " ".join(node.astext().split())
    formulas = Formulas()
    text = formulas.draw(latex, display)
    if text.startswith("<code>"):
        log.warning("cannot draw the formula %s", latex, location=node, type="mathtext")
    return formulas.glyphs() + text


def inline(translator: Any, node: nodes.Node) -> None:
    """A formula in a line of text."""
    translator.body.append(f'<span class="math-inline">{_drawn(node, False)}</span>')
    raise nodes.SkipNode


def block(translator: Any, node: nodes.Node) -> None:
    """A formula by itself."""
    translator.body.append(f'<div class="math-block" tabindex="0">{_drawn(node, True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the renderer ``mathtext``."""
    try:
        app.add_html_math_renderer("mathtext", (inline, None), (block, None))
    except ExtensionError as error:
        raise ExtensionError("the renderer mathtext is registered twice") from error
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
