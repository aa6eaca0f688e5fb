"""How each view looks, everywhere: one colour (Okabe and Ito 2008, told apart by the colour-blind), and a second cue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from unidiff.core.boundary import check_name
from unidiff.identities.registry import VIEWS


@dataclass(frozen=True)
class Look:
    """A view's colour, and what tells it apart without one.

    Attributes:
        title: what the view is called in text.
        colour: of lines and fills, hexadecimal.
        ink: the same hue, dark enough for text on white (contrast of at least 4.5).
        line: matplotlib's line style, which is also the border's in HTML.
        marker: matplotlib's marker.
    """

    title: str
    colour: str
    ink: str
    line: str
    marker: str

    @property
    def marker_text(self) -> str:
        """The marker as a letter of text."""
        return _MARKERS[self.marker]


_MARKERS = {"x": "×", "o": "●", "s": "■", "D": "◆", "^": "▲", "v": "▼", "P": "✚"}

LOOKS: Mapping[str, Look] = {
    "core": Look("core", "#5b6770", "#4d585f", "-", "x"),
    "score": Look("score", "#0072b2", "#0068a3", "-", "o"),
    "vae": Look("VAE", "#d55e00", "#b04e00", "--", "s"),
    "thermo": Look("thermodynamics", "#cc79a7", "#a2487a", "-.", "D"),
    "ebm": Look("energy", "#009e73", "#007757", ":", "^"),
    "rl": Look("RL", "#e69f00", "#8f6300", "--", "v"),
    "paths": Look("paths", "#56b4e9", "#1f739f", "-.", "P"),
}
"""By the view's name in the registry."""
assert tuple(LOOKS) == VIEWS


def look(view: str) -> Look:
    """The look of a view.

    Raises:
        ValueError: no view has this name.
    """
    return LOOKS[check_name("view", view, LOOKS)]
