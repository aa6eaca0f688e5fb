"""The log of a run: ``metrics.jsonl``, one JSON object a line, and TensorBoard events if asked for.

A resumed run first cuts the log back to the step of its checkpoint, so each step is told once, whenever the last run
was killed, a line half written included.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unidiff.train.checkpoint import replace_file

NAME = "metrics.jsonl"


class Journal:
    """Appends lines to ``folder/metrics.jsonl``; without a folder it does nothing.

    Args:
        folder: of the run, or None.
        step: the step that the run is at; later lines are dropped.
        tensorboard: whether to write TensorBoard events to the folder too.

    Raises:
        ValueError: TensorBoard asked for without a folder, or not installed.
    """

    def __init__(self, folder: str | Path | None, step: int = 0, tensorboard: bool = False) -> None:
        self.path = None if folder is None else Path(folder) / NAME
        self._writer: Any = None
        if tensorboard:
            self._writer = _summary_writer(folder, step)
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in read(self.path) if line["step"] <= step] if self.path.exists() else []
        replace_file(self.path, "".join(json.dumps(line) + "\n" for line in kept).encode())

    def write(self, line: Mapping[str, float]) -> None:
        """Append one line; it must hold ``step``."""
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps(dict(line)) + "\n")
        if self._writer is not None:
            for name, value in line.items():
                if name != "step":
                    self._writer.add_scalar(name, value, int(line["step"]))

    def close(self) -> None:
        """Flush TensorBoard's events."""
        if self._writer is not None:
            self._writer.close()


def read(path: str | Path) -> list[dict[str, Any]]:
    """The whole lines of a journal; a last line cut short by a kill is left out."""
    lines = []
    for text in Path(path).read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def _summary_writer(folder: str | Path | None, step: int) -> Any:
    if folder is None:
        raise ValueError("tensorboard needs out, a folder to write its events to")
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError("tensorboard needs the extra of that name: pip install 'unidiff[tensorboard]'") from error
    return SummaryWriter(str(folder), purge_step=step + 1)
