"""``unidiff cite``: how to cite the version that is installed."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from unidiff.cli.parsing import parse, print_json

TITLE = "unidiff: one diffusion process, five ways to read it"
AUTHORS = "the unidiff authors"
YEAR = 2026


@dataclass(frozen=True)
class CiteOptions:
    """Print how to cite the version that is installed.

    Attributes:
        format: bibtex, cff (a Citation File, as the repository's CITATION.cff) or text.
        json: print one JSON document instead.
    """

    format: Literal["bibtex", "cff", "text"] = "bibtex"
    json: bool = False


def bibtex(version: str) -> str:
    """An entry of BibLaTeX's kind ``software``."""
    fields = {"title": f"{{{TITLE}}}", "author": f"{{{AUTHORS}}}", "year": str(YEAR), "version": version}
    body = ",\n".join(f"  {name:7} = {{{value}}}" for name, value in fields.items())
    return f"@software{{unidiff,\n{body}\n}}"


def cff(version: str) -> str:
    """A Citation File, format 1.2.0."""
    return "\n".join(
        [
            "cff-version: 1.2.0",
            "message: If you use unidiff in your work, please cite it as below.",
            f'title: "{TITLE}"',
            "type: software",
            "authors:",
            f"  - name: {AUTHORS}",
            "license: MIT",
            f"version: {version}",
        ]
    )


def text(version: str) -> str:
    """A line of a list of references."""
    return f"{AUTHORS[0].upper()}{AUTHORS[1:]} ({YEAR}). {TITLE}, version {version}. Software."


FORMATS: Mapping[str, Callable[[str], str]] = {"bibtex": bibtex, "cff": cff, "text": text}


def run(arguments: Sequence[str]) -> int:
    """The command; returns the exit status."""
    options = parse(CiteOptions, arguments, "unidiff cite")
    from unidiff import __version__

    if options.json:
        print_json({"title": TITLE, "authors": [AUTHORS], "year": YEAR, "version": __version__, "license": "MIT"})
    else:
        sys.stdout.write(FORMATS[options.format](__version__) + "\n")
    return 0
