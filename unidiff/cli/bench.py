"""``unidiff bench NAME``: measure what can be measured against what is known.

rl       every method and the training-free rivals in the plane, beside the optimum that is known
classes  a network of labelled images turned towards one class, judged by a classifier that was not asked
dxmi     energies and few-step samplers of eight Gaussians in the plane, beside their data
images   few-step sampling of images: DxMI beside the teacher's own samplers
grids    few-step grids of a trained network, searched and descended, beside those that people made
anomaly  each class of images left out in turn: an energy's score beside PCA's and one-class SVMs'
"""

import importlib
from collections.abc import Sequence

from rich.console import Console

from unidiff.cli.parsing import check_folder, parse
from unidiff.core.boundary import check_name

OPTIONS = {
    "rl": "RLBenchOptions",
    "classes": "ClassesBenchOptions",
    "dxmi": "DxMIBenchOptions",
    "images": "ImagesBenchOptions",
    "grids": "GridsBenchOptions",
    "anomaly": "AnomalyBenchOptions",
}
"""What each is told, by the name of its module."""


def run(arguments: Sequence[str]) -> int:
    """The command; returns the exit status."""
    if arguments and arguments[0] in ("-h", "--help"):
        Console().print(__doc__, markup=False, emoji=False, highlight=False)
        return 0
    if not arguments or arguments[0].startswith("-"):
        raise ValueError(f"bench must be told what to measure first, one of {', '.join(OPTIONS)}, got {arguments[:1]}")
    name = check_name("benchmark", arguments[0], OPTIONS)
    bench = importlib.import_module(f"unidiff.bench.{name}")
    options = parse(getattr(bench, OPTIONS[name]), arguments[1:], f"unidiff bench {name}")
    check_folder("out", options.out)
    bench.run(options)
    return 0
