"""The clock of the benchmarks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

# Works of more than SLOW seconds are run fewer times: a rival's loop of a second is known well enough by then.
SLOW, SLOW_RUNS = 0.2, 7


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """The time of one run of ``work``."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def medians(
    works: dict[str, Callable[[], object]], device: torch.device, runs: int = 25, slow_runs: int = SLOW_RUNS
) -> dict[str, float]:
    """The median time of each, in seconds, the works taken in turn; the first fifth of the runs is warming up."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(runs):
        for name, work in works.items():
            if len(times[name]) < slow_runs or times[name][-1] < SLOW:
                times[name].append(seconds(work, device))
    return {name: statistics.median(column[len(column) // 5 :]) for name, column in times.items()}
