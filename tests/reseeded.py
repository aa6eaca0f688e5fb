"""``python -m tests.reseeded``: quick runs of verify, each with a seed of its own, and every verdict that is not a pass.

The suite of true identities raises an alarm in fewer than one run in a million by its own account; this counts.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from collections import Counter
from functools import partial

import torch
from rich.console import Console
from rich.progress import track

import unidiff as ud


def troubles(seed: int, only: list[str] | None = None) -> list[str]:
    """What failed or stayed undecided in the quick run of ``seed``."""
    torch.set_num_threads(1)
    report = ud.verify(quick=True, seed=seed, only=only)
    bad = [c for c in report.checks if c.verdict in ("fail", "inconclusive")]
    return [
        f"seed {seed}: {c.verdict}, {c.identity} on {c.world}, {c.schedule}, {c.dtype}: {c.residual:.3g} against "
        f"{c.tolerance:.3g}; {c.detail}"
        for c in bad
    ]


def main() -> int:
    """Run them; exit status 0 if none alarmed."""
    parser = argparse.ArgumentParser(prog="python -m tests.reseeded", description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", nargs="*", help="these identities; an identity's draws do not depend on the others")
    options = parser.parse_args()
    console = Console(width=max(110, Console().width))
    seeds = range(options.first, options.first + options.runs)
    with multiprocessing.get_context("fork").Pool(options.workers, maxtasksperchild=20) as pool:
        judged = pool.imap(partial(troubles, only=options.only), seeds)
        found = list(track(judged, total=options.runs, console=console, transient=True))
    for line in (line for lines in found for line in lines):
        console.print(line, markup=False, highlight=False)
    runs = Counter("alarm" if any(": fail" in line for line in lines) else "undecided" for lines in found if lines)
    console.print(f"{options.runs} runs: {runs['alarm']} with a false alarm, {runs['undecided']} undecided")
    return 1 if runs else 0


if __name__ == "__main__":
    raise SystemExit(main())
