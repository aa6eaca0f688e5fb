"""``unidiff conformance TARGET``."""

import dataclasses
import warnings
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from unidiff.cli.parsing import check_folder, parse, print_json
from unidiff.cli.verify import cores

HELP = """unidiff conformance TARGET: hold somebody else's sampler to the theorems.

TARGET is a library (diffusers, azula, k-diffusion), one of its classes or functions (diffusers.DDIMScheduler), or
path.to:object, a scheduler or a sampler of yours.
"""


POINT = {"unsaid": None, "yes": True, "no": False}


@dataclasses.dataclass(frozen=True)
class ConformanceOptions:
    """Ask a sampler of somebody else's what theory says of it, and show what holds.

    Attributes:
        only: only these questions (schedule, levels, point, variance, order).
        order: that an object of yours claims; a library's is known.
        point: whether an object of yours claims that data of one point keep their law at every level; if it is unsaid and
            they do not, that is undecided and no violation.
        workers: processes, for a library; 0 takes one for each core, up to 4.
        out: folder of the page; conformance/ if left out, and with --json none unless it is named.
        json: print one JSON document instead of the table.
    """

    only: tuple[str, ...] = ()
    order: float | None = None
    point: Literal["unsaid", "yes", "no"] = "unsaid"
    workers: int = 0
    out: Path | None = None
    json: bool = False


def run(arguments: Sequence[str]) -> int:
    """The command; returns the exit status."""
    if arguments and arguments[0] in ("-h", "--help"):
        Console().print(HELP, markup=False, emoji=False, highlight=False)
        parse(ConformanceOptions, ["--help"], "unidiff conformance TARGET")
    if not arguments or arguments[0].startswith("-"):
        raise ValueError(
            f"conformance must be told its target first: a library or path.to:object, got {list(arguments[:1])}"
        )
    target = arguments[0]
    options = parse(ConformanceOptions, arguments[1:], f"unidiff conformance {target}")
    folder = options.out or (None if options.json else Path("conformance"))
    if folder is not None:
        check_folder("out", folder)
    from unidiff.conformance import conformance
    from unidiff.report import Bars, Formulas, print_conformance, write_conformance

    with Bars() as bars, warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        try:
            report = conformance(
                target, only=options.only, order=options.order, point=POINT[options.point],
                workers=options.workers or cores(), on_check=bars.on_check,
            )  # fmt: skip
        except ImportError as error:
            raise ValueError(str(error)) from error
    if folder is not None:
        path = write_conformance(report, folder, _versions(target), Formulas())
    if options.json:
        print_json(report.to_dict() | {"versions": _versions(target)})
    else:
        console = Console()
        print_conformance(report, console)
        console.print(f"the page: {path}", highlight=False, soft_wrap=True)
    return report.exit_status


def _versions(target: str) -> dict[str, Any]:
    names = [target.partition(".")[0].partition(":")[0].replace("_", "-"), "torch", "unidiff"]
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "yours"
    return found
