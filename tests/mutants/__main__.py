"""``python -m tests.mutants``: break a copy of the package in one place at a time, and see whether verify notices.

Each mutant is judged by ``unidiff verify --quick`` on the copy. It is killed if an identity fails or cannot be decided.
A run that ends without a report kills nothing: it is shown with what it said.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from tests.mutants.catalogue import MUTANTS
from tests.mutants.mutant import Mutant

PACKAGE = Path(__file__).parents[2] / "unidiff"
LIMIT = 300.0


@dataclass(frozen=True)
class Outcome:
    """What verify said of one mutant."""

    mutant: Mutant | None
    killers: tuple[str, ...]
    crash: str
    seconds: float

    @property
    def killed(self) -> bool:
        """Whether a user would have been told."""
        return bool(self.killers)


def run(mutant: Mutant | None, package: Path, seed: int = 0) -> Outcome:
    """The verdict of a quick verification of ``package`` with ``mutant`` in it (as it is, for None).

    Raises:
        ValueError: the mutant's text does not occur exactly once.
    """
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "unidiff"
        shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
        if mutant is not None:
            mutate(copy / mutant.file, mutant)
        command = [
            sys.executable,
            "-m",
            "unidiff.cli",
            "verify",
            "--quick",
            "--json",
            "--workers",
            "1",
            "--seed",
            str(seed),
        ]
        environment = {**os.environ, "PYTHONPATH": folder, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            done = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
            )
        except subprocess.TimeoutExpired:
            return Outcome(mutant, (), f"no end after {LIMIT:.0f} s", time.perf_counter() - start)
    seconds = time.perf_counter() - start
    try:
        checks = json.loads(done.stdout)["checks"]
    except (json.JSONDecodeError, KeyError):
        words = done.stderr.strip().splitlines()
        return Outcome(mutant, (), words[-1] if words else "no report", seconds)
    bad = [c["identity"] for c in checks if c["verdict"] in ("fail", "inconclusive")]
    return Outcome(mutant, tuple(dict.fromkeys(bad)), "", seconds)


def mutate(path: Path, mutant: Mutant) -> None:
    """Apply ``mutant`` to its file."""
    text = path.read_text(encoding="utf-8")
    if text.count(mutant.old) != 1:
        raise ValueError(
            f"{mutant.name}: {mutant.old!r} must occur once in {mutant.file}, got {text.count(mutant.old)}"
        )
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")


def main() -> int:
    """Run them all; exit status 0 if at least 95% are killed and the unbroken package passes."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", default="", help="run the mutants whose name contains this")
    options = parser.parse_args()
    console = Console(width=max(110, Console().width))
    chosen = [m for m in MUTANTS if options.only in m.name]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.workers) as pool:
        # Of one moment, so that an edit during the run changes nothing.
        package = Path(shutil.copytree(PACKAGE, Path(folder) / "unidiff"))
        whole = run(None, package)
        if whole.killers or whole.crash:
            console.print(f"the package itself does not pass: {', '.join(whole.killers)} {whole.crash}", style="red")
            return 1
        judged = pool.map(partial(run, package=package), chosen)
        outcomes = list(track(judged, total=len(chosen), console=console, transient=True))
    console.print(kill_table(outcomes))
    killed = sum(outcome.killed for outcome in outcomes)
    for outcome in outcomes:
        if not outcome.killed and outcome.mutant is not None:
            console.print(f"survives: {outcome.mutant.name} ({outcome.mutant.file})", style="yellow")
    console.print(f"killed {killed} of {len(outcomes)}")
    return 0 if killed >= 0.95 * len(outcomes) else 1


def kill_table(outcomes: list[Outcome]) -> Table:
    """One line for each mutant: who killed it."""
    table = Table(box=None, header_style="dim")
    for name in ("mutant", "file", "killed by"):
        table.add_column(name, overflow="fold")
    table.add_column("seconds", justify="right")
    for outcome in outcomes:
        if outcome.mutant is None:
            continue
        more = f" and {len(outcome.killers) - 3} more" if len(outcome.killers) > 3 else ""
        by = ", ".join(outcome.killers[:3]) + more or outcome.crash or "nobody"
        table.add_row(outcome.mutant.name, outcome.mutant.file, by, f"{outcome.seconds:.0f}")
    return table


if __name__ == "__main__":
    raise SystemExit(main())
