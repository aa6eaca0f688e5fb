"""What a mutant is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One change to one line.

    Attributes:
        name: what the bug is, in a few words.
        file: relative to the package.
        old, new: the text and what it becomes.
    """

    name: str
    file: str
    old: str
    new: str
