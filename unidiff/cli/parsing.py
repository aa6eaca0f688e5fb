"""What the commands share: parsing, the checks made before any work, and how they answer."""

# No `from __future__ import annotations` in the modules of commands: tyro reads the annotations of their options.

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console

USAGE = 64
INTERRUPTED = 130


def parse(kind: type[Any], arguments: Sequence[str], program: str, default: Any = None) -> Any:
    """``kind`` filled in from the command line. Raises SystemExit with 0 after --help and 64 after a word on an error."""
    options = {} if default is None else {"default": default}
    try:
        return tyro.cli(kind, args=list(arguments), prog=program, config=(tyro.conf.FlagCreatePairsOff,), **options)
    except SystemExit as stop:
        raise SystemExit(USAGE if stop.code else 0) from None


def value(arguments: Sequence[str], name: str) -> str | None:
    """What the command line says of the option ``name``, unparsed; None if it says nothing."""
    for argument, following in zip(arguments, (*arguments[1:], None), strict=True):
        flag, equals, rest = argument.partition("=")
        if flag in _spellings(name):
            return rest if equals else following
    return None


def given(arguments: Iterable[str], name: str) -> bool:
    """Whether the command line says anything of the option ``name``, flags that turn it off included."""
    spellings = _spellings(name) | {f"--no-{name}", f"--no-{name.replace('_', '-')}"}
    return any(argument.partition("=")[0] in spellings for argument in arguments)


def _spellings(name: str) -> set[str]:
    return {f"--{name}", f"--{name.replace('_', '-')}"}


def check_folder(argument: str, folder: Path) -> Path:
    """``folder`` if it can be made and written into, tried and left as it was; else a ValueError that names ``argument``."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    try:
        with tempfile.TemporaryDirectory(dir=there):
            return folder
    except OSError as error:
        raise ValueError(
            f"{argument} must be a folder that can be written to, got {folder}: {error.strerror}"
        ) from None


def check_picture(argument: str, path: Path) -> Path:
    """``path`` if it is a .png, no folder, and its folder can be written to; else a ValueError that names ``argument``."""
    if path.suffix != ".png" or path.is_dir():
        raise ValueError(f"{argument} must be a file that ends in .png, got {path}")
    check_folder(argument, path.parent)
    return path


def tell(as_json: bool, facts: dict[str, Any]) -> int:
    """Print what was done: one JSON document, or a line for each fact. Returns 0."""
    if as_json:
        print_json(facts)
    else:
        for name, fact in facts.items():
            Console().print(f"{name}: {fact}", highlight=False, soft_wrap=True, markup=False, emoji=False)
    return 0


def print_json(document: Any) -> None:
    """One document, one line, on standard output."""
    sys.stdout.write(json.dumps(document, allow_nan=False) + "\n")
