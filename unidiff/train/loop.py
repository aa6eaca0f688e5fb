"""The loop of a run that is counted in steps: advance, tell, keep, until the last; Ctrl-C where the state is whole.

What a run does in a step is its own (:class:`Run`); when its log is written, its checkpoint kept and its clock read is here.
A budget in minutes, and draws that are torch's own, are :class:`~unidiff.train.Trainer`'s, which has a loop for them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from unidiff.core.boundary import check_progress
from unidiff.train import checkpoint as checkpoints
from unidiff.train.interrupt import held
from unidiff.train.journal import Journal


class Timing(Protocol):
    """What a run's options say of its log and its checkpoints."""

    @property
    def log_every(self) -> int:
        """Steps between two lines."""
        ...

    @property
    def checkpoint_every(self) -> int:
        """Steps between two checkpoints."""
        ...

    @property
    def out(self) -> str | None:
        """Their folder, or None."""
        ...


class Run(Protocol):
    """A run between two steps."""

    clock: Callable[[], float]
    elapsed: float

    @property
    def config(self) -> Timing:
        """Its options."""
        ...

    @property
    def done(self) -> int:
        """Steps taken."""
        ...

    @property
    def total(self) -> int:
        """Steps in all."""
        ...

    def advance(self) -> None:
        """One step, whole."""
        ...

    def line(self) -> dict[str, float]:
        """A line of the log, of what happened since the last."""
        ...

    def save(self, path: str | Path) -> Path:
        """Write the whole state, atomically."""
        ...


def played(run: Run, argument: str, told: Callable[[Any, dict[str, float]], None] | None) -> None:
    """Run to the last step.

    Args:
        run: what is run, from where it stands.
        argument: what ``told`` is called in errors.
        told: called with the run and each line of the log.

    Raises:
        TypeError: a ``told`` that cannot be called.
        KeyboardInterrupt: Ctrl-C, once the step is whole and, with ``out``, saved.
    """
    check_progress(argument, told)
    config = run.config
    journal = Journal(config.out, run.done)
    began, spent = run.clock(), run.elapsed
    with contextlib.closing(journal), held() as check:
        while run.done < run.total:
            run.advance()
            run.elapsed = spent + run.clock() - began
            last = run.done >= run.total
            if run.done % config.log_every == 0 or last:
                line = run.line()
                journal.write(line)
                if told is not None:
                    told(run, line)
            if run.done % config.checkpoint_every == 0 or last:
                _keep(run)
            try:
                check()
            except KeyboardInterrupt:
                _keep(run)
                raise


def _keep(run: Run) -> None:
    if run.config.out is not None:
        run.save(Path(run.config.out) / checkpoints.NAME)
