"""A peer library, imported when its adapter is, and its version held to what the adapter was tested with."""

from __future__ import annotations

import importlib
import re
import warnings
from importlib import metadata
from typing import Any

EXTRA = "interop"


def library(name: str, tested: tuple[str, str], distribution: str = "", extra: str = EXTRA) -> Any:
    """The module ``name``.

    Args:
        name: of the library.
        tested: the first version that the adapter was tested with, and the first beyond those.
        distribution: that brings it, if it has another name.
        extra: of unidiff's, that brings it.

    Raises:
        ImportError: it, or something that it needs, is not installed; says which extra brings it.

    Warns:
        UserWarning: a version outside of ``tested``.
    """
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        what = "which is not installed" if error.name == name else f"which lacks {error.name}"
        raise ImportError(
            f"unidiff.interop.{name} needs {name}, {what}: pip install 'unidiff[{extra}]'", name=error.name
        ) from error
    version = metadata.version(distribution or name)
    first, beyond = tested
    if not _release(first) <= _release(version) < _release(beyond):
        warnings.warn(
            f"unidiff.interop.{name} was tested with {name} >= {first} and < {beyond}, this is {version}",
            UserWarning,
            stacklevel=2,
        )
    return module


def _release(version: str) -> tuple[int, ...]:
    """Major and minor: 0.42.1.dev0 is (0, 42)."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])
