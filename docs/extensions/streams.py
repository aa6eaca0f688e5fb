"""What a command prints in pieces, as one: myst-nb ends each piece with a line break, wherever it was cut."""

from __future__ import annotations

from typing import Any

from myst_nb.core import render
from sphinx.application import Sphinx


def joined(outputs: list[Any]) -> list[Any]:
    """The outputs of a cell, all pieces of a stream put to its first as they are."""
    found: list[Any] = []
    streams: dict[str, Any] = {}
    for output in outputs:
        if output["output_type"] != "stream":
            found.append(output)
        elif output["name"] in streams:
            streams[output["name"]]["text"] += output["text"]
        else:
            streams[output["name"]] = output
            found.append(output)
    return found


def setup(app: Sphinx) -> dict[str, Any]:
    """Take the place of myst-nb's own."""
    render.coalesce_streams = joined
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
