"""``unidiff bench``: measure what can be measured against what is known; ``unidiff bench rl``, so far."""

from collections.abc import Sequence

from rich.console import Console

from unidiff.cli.parsing import check_folder, parse
from unidiff.core.boundary import check_name

NAMES = ("rl",)


def run(arguments: Sequence[str]) -> int:
    """The command; returns the exit status."""
    if not arguments or arguments[0].startswith("-"):
        told = bool(arguments) and arguments[0] in ("-h", "--help")
        if told:
            usage = f"usage: unidiff bench {{{','.join(NAMES)}}} [OPTIONS]\n\n{__doc__}"
            Console().print(usage, markup=False, emoji=False, highlight=False)
            return 0
        raise ValueError(f"bench must be told what to measure first, one of {', '.join(NAMES)}, got {arguments[:1]}")
    check_name("benchmark", arguments[0], NAMES)
    from unidiff.bench.rl import RLBenchOptions, run

    options = parse(RLBenchOptions, arguments[1:], "unidiff bench rl")
    check_folder("out", options.out)
    run(options)
    return 0
