"""``python -m unidiff.bench.shortest``: shortest paths of many candidates beside loops in Python.

One table of N + 1 candidates, every number of steps up to K. Rivals are the same recursion as three loops: over lists, and
over a NumPy array, which is how it is often written. All must give the same values and the same paths before a time is told;
ours is the median of runs, the loops are run once.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from unidiff.bench import machine
from unidiff.bench.timing import medians
from unidiff.paths import shortest


def looped(cost: Any, nodes: int, most: int) -> tuple[list[float], list[list[int]]]:
    """Values and paths by three loops; ``cost[i][j]`` is a step's."""
    value = [math.inf, *(float(cost[0][j]) for j in range(1, nodes + 1))]
    came: list[list[int]] = []
    values, paths = [], []
    for steps in range(1, most + 1):
        if steps > 1:
            after, where = [math.inf] * (nodes + 1), [0] * (nodes + 1)
            for j in range(1, nodes + 1):
                best, place = math.inf, 0
                for i in range(j):
                    total = value[i] + cost[i][j]
                    if total < best:
                        best, place = total, i
                after[j], where[j] = best, place
            value = after
            came.append(where)
        path = [nodes]
        for where in reversed(came):
            path.append(where[path[-1]])
        values.append(float(value[-1]))
        paths.append([0, *reversed(path)])
    return values, paths


def table_of(nodes: int, seed: int) -> Tensor:
    """Costs as they come of samples: a smooth price of the step's length, a tenth of it noise."""
    t = torch.linspace(0, 1, nodes + 1, dtype=torch.float64)
    noise = torch.rand(nodes + 1, nodes + 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return (t[None] - t[:, None]).square() * (1 + t[None]) * (0.9 + 0.2 * noise)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m unidiff.bench.shortest", description=__doc__)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--most", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    cost, device = table_of(options.nodes, 0), torch.device(options.device)
    there = cost.to(device)
    times: dict[str, float] = {}
    for name, own in (("lists", cost.tolist()), ("a NumPy array", cost.numpy())):
        began = time.perf_counter()
        values, paths = looped(own, options.nodes, options.most)
        times[name] = time.perf_counter() - began
        found = shortest(there, options.most)
        if values != found.values.tolist() or any(found.path(k).tolist() != path for k, path in enumerate(paths, 1)):
            raise ArithmeticError("the loop's paths must be those of the search")
    shown = Table(title=f"{options.nodes} steps between candidates, K up to {options.most}; {machine.named(device)}")
    for column in ("threads", "search, ms", *(f"loops over {name}, s" for name in times), "ratios"):
        shown.add_column(column, justify="right")
    for threads in (1, 2) if device.type == "cpu" else (1,):
        torch.set_num_threads(threads)
        own = medians({"search": lambda: shortest(there, options.most)}, device)["search"]
        ratios = ", ".join(f"{spent / own:.0f}" for spent in times.values())
        shown.add_row(str(threads), f"{1e3 * own:.1f}", *(f"{spent:.1f}" for spent in times.values()), ratios)
    Console().print(shown)


if __name__ == "__main__":
    main()
