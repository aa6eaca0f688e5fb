"""Hypothesis strategies for diffusion code: schedules, times, grids, states, worlds, rewards and networks.

Whatever is drawn is valid, and shrinks to what a person would have written down: the plainest schedule, times of two
digits, one row of one number. A failing example shows it as the call that makes it again.
"""

from __future__ import annotations

try:
    import hypothesis as _hypothesis
except ModuleNotFoundError as _error:
    raise ModuleNotFoundError(
        "unidiff.testing.strategies needs hypothesis, which is not installed: pip install 'unidiff[testing]'"
    ) from _error

from unidiff.testing.strategies.networks import Wave, denoisers, networks
from unidiff.testing.strategies.numbers import decimals
from unidiff.testing.strategies.schedules import KINDS, schedules
from unidiff.testing.strategies.states import batches, dtypes, event_shapes, states
from unidiff.testing.strategies.times import Step, grids, steps, time_pairs, times
from unidiff.testing.strategies.worlds import mixtures, rewards

__all__ = [
    "KINDS",
    "Step",
    "Wave",
    "batches",
    "decimals",
    "denoisers",
    "dtypes",
    "event_shapes",
    "grids",
    "mixtures",
    "networks",
    "rewards",
    "schedules",
    "states",
    "steps",
    "time_pairs",
    "times",
]
