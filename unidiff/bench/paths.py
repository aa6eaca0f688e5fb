"""``python -m unidiff.bench.paths``: the cheapest paths of every number of steps, beside the triple loop that defines them.

The loop is Bellman's recursion in plain Python over lists, its argmins kept, one thread; it runs once on the whole problem.
Ours is :func:`unidiff.paths.dynamic.shortest` with its checks and all its paths, the median of runs on one and on two
threads. Nothing is printed unless both have found the same values, to the last bit, and the same paths.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from unidiff.bench.timing import medians
from unidiff.paths.dynamic import shortest

THREADS = (1, 2)


@dataclass(frozen=True)
class Problem:
    """N steps in the finest grid, and the most steps of a path."""

    last: int
    most: int


@dataclass(frozen=True)
class Times:
    """Seconds: the loop's one run, and the median of ours for each number of threads."""

    loop: float
    ours: dict[int, float]


PROBLEM = Problem(1000, 64)


def costs(problem: Problem) -> Tensor:
    """Even draws in [0, 1) above the diagonal, ``[N + 1, N + 1]``, always the same."""
    size = (problem.last + 1, problem.last + 1)
    return torch.rand(size, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).triu(1)


def loop(cost: list[list[float]], most: int) -> tuple[list[float], list[list[int]]]:
    """V_1 … V_K and the path of each, by three loops."""
    size = len(cost)
    least = [0.0] + [math.inf] * (size - 1)
    values, came_from, paths = [], [], []
    for k in range(1, most + 1):
        new, sources = [math.inf] * size, [-1] * size
        for j in range(1, size):
            best, source = math.inf, -1
            for i in range(j):
                value = least[i] + cost[i][j]
                if value < best:
                    best, source = value, i
            new[j], sources[j] = best, source
        least = new
        values.append(least[-1])
        came_from.append(sources)
        path = [size - 1]
        for steps in range(k, 0, -1):
            path.append(came_from[steps - 1][path[-1]])
        paths.append(path[::-1])
    return values, paths


def measured(problem: Problem, runs: int = 25) -> Times:
    """Both on one problem.

    Raises:
        RuntimeError: they have found different values or paths.
    """
    cost = costs(problem)
    table = cost.tolist()
    start = time.perf_counter()
    values, paths = loop(table, problem.most)
    slow = time.perf_counter() - start
    ours, before = {}, torch.get_num_threads()
    try:
        for threads in THREADS:
            torch.set_num_threads(threads)
            found = shortest(cost, problem.most)
            same = found.values.tolist() == values
            if not same or [found.path(k + 1).tolist() for k in range(problem.most)] != paths:
                raise RuntimeError(f"{problem}: the {'paths' if same else 'values'} differ; nothing to compare")
            work: dict[str, Callable[[], object]] = {"ours": lambda: shortest(cost, problem.most)}
            ours[threads] = medians(work, torch.device("cpu"), runs)["ours"]
    finally:
        torch.set_num_threads(before)
    return Times(slow, ours)


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(prog="python -m unidiff.bench.paths", description=__doc__).parse_args()
    times = measured(PROBLEM)
    table = Table(title=f"N = {PROBLEM.last}, every K ≤ {PROBLEM.most}, torch {torch.__version__}, float64; seconds")
    for name in ("threads", "ours", "triple loop", "triple loop / ours"):
        table.add_column(name, justify="right")
    for threads, ours in times.ours.items():
        table.add_row(str(threads), f"{ours:.3f}", f"{times.loop:.2f}", f"{times.loop / ours:.0f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
