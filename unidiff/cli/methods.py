"""Methods of fine-tuning by name, with options given as ``name=value``: the fields of the method's own dataclass."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from unidiff.core.boundary import check_name


def kinds() -> dict[str, Any]:
    """The methods, by the names that they have on the command line."""
    from unidiff.rl import D3PO, DDPO, DPO, DPOK, AdjointMatching, Backprop

    return {kind.name: kind for kind in (DDPO, DPOK, Backprop, AdjointMatching, DPO, D3PO)}


def made(name: str, options: Sequence[str]) -> Any:
    """The method of this name with ``options``, each ``name=value``.

    Raises:
        TypeError, ValueError: an unknown method, or option of it; one that is no such pair, given twice or out of range.
    """
    kind = kinds()[check_name("method", name, (*kinds(), "dxmi"))]
    return kind(**chosen(kind, name, options))


def chosen(kind: Any, name: str, options: Sequence[str]) -> dict[str, Any]:
    """``options`` of a method, each ``name=value``, as values of its dataclass's fields. Raises as :func:`made`."""
    known = {field.name for field in dataclasses.fields(kind)}
    found: dict[str, Any] = {}
    for option in options:
        key, equals, text = option.partition("=")
        if not equals:
            raise ValueError(f"set must be name=value, an option of the method, got {option!r}")
        if not known:
            raise ValueError(f"set must be left out: {name} has no options, got {option!r}")
        key = check_name(f"option of {name}", key.strip().replace("-", "_"), known)
        if key in found:
            raise ValueError(f"set must name an option once, got {key} twice")
        found[key] = _read(text.strip())
    return found


def _read(text: str) -> Any:
    """A value as it is written: none, true, false, an integer, a number, or a name."""
    constants = {"none": None, "true": True, "false": False}
    if text.lower() in constants:
        return constants[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
