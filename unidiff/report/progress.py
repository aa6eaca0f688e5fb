"""Live progress, on standard error: standard output belongs to the answer."""

from __future__ import annotations

import sys
from collections import Counter
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from unidiff.identities.report import Check
from unidiff.report.table import STYLES


class Bars:
    """Bars by name, each made when it is first heard of, gone when the work is done. A context manager."""

    def __init__(self, console: Console | None = None) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
        )
        # Asked of the stream: notebooks set FORCE_COLOR, which makes a terminal of a pipe to rich.
        shown = console.is_terminal if console else sys.stderr.isatty()
        console = console or Console(stderr=True)
        self.progress = Progress(*columns, console=console, transient=True, disable=not shown)
        self.tasks: dict[str, TaskID] = {}
        self.troubles: Counter[str] = Counter()

    def __enter__(self) -> Bars:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def update(self, name: str, done: float, total: float, note: str = "") -> None:
        """Move the bar ``name`` to ``done`` of ``total``."""
        if name not in self.tasks:
            self.tasks[name] = self.progress.add_task(name, total=total, note=note)
        self.progress.update(self.tasks[name], completed=done, total=total, note=note)

    def on_check(self, check: Check, done: int, total: int) -> None:
        """What :func:`unidiff.verify` calls after each check; trouble shows at once."""
        if check.verdict in ("fail", "inconclusive"):
            self.troubles[check.verdict] += 1
        trouble = "".join(f", [{STYLES[verdict]}]{count} {verdict}[/]" for verdict, count in self.troubles.items())
        self.update("checking identities", done, total, f"{done}/{total}{trouble}")

    def on_step(self, done: int, total: int, loss: float) -> None:
        """What :func:`unidiff.verify` calls while the network trains."""
        self.update("training on the digits", done, total, f"{done}/{total}, loss {loss:.3g}")

    def on_row(self, done: int, total: int) -> None:
        """What :func:`unidiff.sample` calls after each row of its table."""
        self.update("sampling", done, total, f"{done}/{total}")
