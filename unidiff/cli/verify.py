"""``unidiff verify``."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from unidiff.cli.parsing import check_folder, given, parse, print_json
from unidiff.core.boundary import check_device, check_seed

if TYPE_CHECKING:
    from unidiff.identities.report import Check


@dataclasses.dataclass(frozen=True)
class VerifyOptions:
    """Check every identity that unidiff knows, and show what was found.

    Attributes:
        view: only identities that tie one of these views (core, score, vae, thermo, ebm, rl, paths).
        only: only these identities, by name.
        dtype: float64 or float32; both if left out.
        device: where to compute: cpu, cuda or cuda:N.
        seed: of every random draw.
        checkpoint: verify the network in this checkpoint instead of the standard suite.
        quick: fewer worlds and schedules, no training; a minute or two.
        workers: processes on the CPU; 0 takes one for each core, up to 4.
        out: folder of the report; report/ if left out, and with --json none unless it is named.
        json: print one JSON document instead of the table.
    """

    view: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    dtype: str | None = None
    device: str = "cpu"
    seed: int = 0
    checkpoint: Path | None = None
    quick: bool = False
    workers: int = 0
    out: Path | None = None
    json: bool = False


def run(arguments: Sequence[str]) -> int:
    """The command; returns the exit status."""
    options = parse(VerifyOptions, arguments, "unidiff verify")
    for name in ("view", "only"):
        if given(arguments, name) and not getattr(options, name):
            raise ValueError(f"{name} must name at least one, got none")
    check_seed(options.seed)
    check_device(options.device)
    folder = options.out or (None if options.json else Path("report"))
    if folder is not None:
        check_folder("out", folder)
    from unidiff.identities.verify import verify
    from unidiff.report import Bars, Formulas, print_report, write_html

    formulas = Formulas()
    with Bars() as bars:

        def on_check(check: Check, done: int, total: int) -> None:
            bars.on_check(check, done, total)
            if folder is not None:
                # While the workers are at theirs.
                formulas.draw(check.statement)

        report = verify(
            view=options.view or None, only=options.only or None, dtype=options.dtype, device=options.device,
            seed=options.seed, quick=options.quick, checkpoint=options.checkpoint,
            workers=cores() if options.workers == 0 else options.workers, on_check=on_check, on_step=bars.on_step,
        )  # fmt: skip
    page = None if folder is None else write_html(report, folder, formulas)
    if options.json:
        print_json(report.to_dict())
    else:
        console = Console()
        print_report(report, console)
        console.print(f"the report: {page}", highlight=False, soft_wrap=True)
    return report.exit_status


def cores() -> int:
    """As many workers as this process may use cores, up to 4."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(4, there)
