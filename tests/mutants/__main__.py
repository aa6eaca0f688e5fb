"""``python -m tests.mutants``: break a copy of the package in one place at a time, and see whether verify notices.

Each mutant is judged by what ``unidiff verify --quick`` runs, on the copy, up to the first check that fails or cannot be
decided: that kills it. A run that ends without a verdict kills nothing: it is shown with what it said. The runs are
forks of one process that has already imported torch, and never unidiff.

``killers.json`` holds the identity that killed each mutant last time (``--learn`` writes it anew). It is asked first, which
saves time and decides nothing: an identity's draws do not depend on which others run, and if it passes all are asked.
A mutant that has no killer there counts as alive, and is not asked again but with ``--learn``: all identities are long.
"""

from __future__ import annotations

import argparse
import compileall
import importlib.util
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import scipy.stats
import sklearn.datasets
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from tests.mutants.catalogue import MUTANTS
from tests.mutants.mutant import Mutant

PACKAGE = Path(__file__).parents[2] / "unidiff"
KILLERS = Path(__file__).with_name("killers.json")
LIMIT = 300.0
WARM = (numpy, scipy.stats, sklearn.datasets, torch)  # what the forks need not import again


@dataclass(frozen=True)
class Outcome:
    """What verify said of one mutant: the identity that killed it, or how the run broke off, or neither."""

    mutant: Mutant | None
    killer: str
    crash: str
    seconds: float

    @property
    def killed(self) -> bool:
        """Whether a user would have been told."""
        return bool(self.killer)


def run(mutant: Mutant | None, package: Path, seed: int = 0, first: str | None = None) -> Outcome:
    """The verdict of a quick verification of ``package`` with ``mutant`` in it (as it is, for None).

    Args:
        mutant, package, seed: what is verified, and with which draws.
        first: an identity to ask before all of them.

    Raises:
        ValueError: the mutant's text does not occur exactly once.
    """
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "unidiff"
        shutil.copytree(package, copy)
        if mutant is not None:
            mutate(copy / mutant.file, mutant)
        context = multiprocessing.get_context("fork")
        mine, theirs = context.Pipe(duplex=False)
        child = context.Process(target=_verify, args=(folder, seed, first, theirs))
        child.start()
        theirs.close()
        try:
            killer, crash = mine.recv() if mine.poll(LIMIT) else ("", f"no end after {LIMIT:.0f} s")
        except EOFError:
            killer, crash = "", "the process ended without a word"
        child.kill()
        child.join()
    return Outcome(mutant, killer, crash, time.perf_counter() - start)


class _Dead(BaseException):
    """Past every handler of the package: the mutant is dead, and by whom."""


def _verify(folder: str, seed: int, first: str | None, answer: Any) -> None:
    """In the fork: import the copy, verify it, answer (killer, crash)."""
    sys.path.insert(0, folder)
    sys.dont_write_bytecode = True
    torch.set_num_threads(1)

    def on_check(check: Any, done: int, total: int) -> None:
        if check.verdict in ("fail", "inconclusive"):
            raise _Dead(check.identity)

    try:
        import unidiff

        assert unidiff.__file__ is not None
        assert Path(unidiff.__file__).is_relative_to(folder), unidiff.__file__
        if first in {identity.name for identity in unidiff.identities.all()}:
            unidiff.verify(quick=True, seed=seed, on_check=on_check, only=first)
        unidiff.verify(quick=True, seed=seed, on_check=on_check)
        answer.send(("", ""))
    except _Dead as dead:
        answer.send((str(dead), ""))
    except BaseException as error:
        answer.send(("", f"{type(error).__name__}: {error}"))


def mutate(path: Path, mutant: Mutant) -> None:
    """Apply ``mutant`` to its file."""
    text = path.read_text(encoding="utf-8")
    if text.count(mutant.old) != 1:
        raise ValueError(
            f"{mutant.name}: {mutant.old!r} must occur once in {mutant.file}, got {text.count(mutant.old)}"
        )
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    # What was compiled before is told by the time in seconds and the length, which may both be the same.
    Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)


def main() -> int:
    """Run them all; exit status 0 if at least 95% are killed and the unbroken package passes."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", default="", help="run the mutants whose name contains this")
    parser.add_argument("--learn", action="store_true", help=f"write {KILLERS.name}: who killed whom")
    options = parser.parse_args()
    assert not any(name.partition(".")[0] == "unidiff" for name in sys.modules)
    console = Console(width=max(110, Console().width))
    chosen = [m for m in MUTANTS if options.only in m.name]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.workers) as pool:
        # Of one moment, so that an edit during the run changes nothing.
        package = Path(folder) / "unidiff"
        shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
        compileall.compile_dir(package, quiet=1)  # once for all the copies
        whole = pool.submit(run, None, package)
        known = json.loads(KILLERS.read_text(encoding="utf-8")) if KILLERS.exists() else {}

        def judge(mutant: Mutant) -> Outcome:
            if options.learn or mutant.name in known:
                return run(mutant, package, first=known.get(mutant.name))
            return Outcome(mutant, "", "no killer is known", 0.0)

        judged = pool.map(judge, chosen)
        outcomes = []
        for outcome in track(judged, total=len(chosen), console=console, transient=True):
            outcomes.append(outcome)
            if options.learn and outcome.killed and outcome.mutant is not None:
                known[outcome.mutant.name] = outcome.killer
                KILLERS.write_text(json.dumps(known, indent=0, sort_keys=True, ensure_ascii=False), encoding="utf-8")
        itself = whole.result()
    if itself.killer or itself.crash:
        console.print(f"the package itself does not pass: {itself.killer} {itself.crash}", style="red")
        return 1
    console.print(kill_table(outcomes))
    killed = sum(outcome.killed for outcome in outcomes)
    for outcome in outcomes:
        if not outcome.killed and outcome.mutant is not None:
            console.print(f"survives: {outcome.mutant.name} ({outcome.mutant.file})", style="yellow")
    console.print(f"killed {killed} of {len(outcomes)}")
    return 0 if killed >= 0.95 * len(outcomes) else 1


def kill_table(outcomes: list[Outcome]) -> Table:
    """One line for each mutant: who killed it first."""
    table = Table(box=None, header_style="dim")
    for name in ("mutant", "file", "killed by"):
        table.add_column(name, overflow="fold")
    table.add_column("seconds", justify="right")
    for outcome in outcomes:
        if outcome.mutant is not None:
            by = outcome.killer or outcome.crash or "nobody"
            table.add_row(outcome.mutant.name, outcome.mutant.file, by, f"{outcome.seconds:.0f}")
    return table


if __name__ == "__main__":
    raise SystemExit(main())
