"""diffusers' models and schedulers. Needs the extra ``interop``.

diffusers counts its timesteps n from 0, and n = 0 has noise already: n is time t = (n + 1)/T here, and t = 0 is the data.
"""

from __future__ import annotations

from unidiff.interop.library import library

TESTED = ("0.42", "0.43")
"""The first version that these adapters were tested with, and the first beyond."""

library("diffusers", TESTED)

from unidiff.interop.diffusers.folder import load  # noqa: E402
from unidiff.interop.diffusers.schedules import grid, schedule, scheduler  # noqa: E402
from unidiff.interop.diffusers.unets import core  # noqa: E402

__all__ = ["core", "grid", "load", "schedule", "scheduler"]
