"""The command line: ``unidiff verify``, ``train``, ``sample``, ``likelihood``, ``elbo``, ``reward``,
``finetune``, ``paths``, ``conformance``, ``cite``, ``bench``; a module for each.

Exit status: 0 all is well, 1 an identity is violated (or a run failed), 2 something could not be decided, 64 the
command was not understood, or asked for what cannot be: that is found out before any work. 130 it was interrupted.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from rich.console import Console

from unidiff.cli.parsing import INTERRUPTED, USAGE
from unidiff.core.boundary import check_name

_COMMANDS = {
    "verify": "check every identity",
    "train": "train a denoiser on toys, digits, an .npz, images",
    "sample": "draw samples of a checkpoint or a closed-form world",
    "likelihood": "measure log p of data, in nats and bits per dimension",
    "elbo": "measure the variational bound of data, term by term",
    "reward": "fit a reward model to preferences, or a classifier",
    "finetune": "train on a reward or on preferences, and say how far the optimum is",
    "paths": "find the times at which a few steps cost least",
    "conformance": "hold another library's samplers, or your own, to the theorems",
    "cite": "print how to cite it",
    "bench": "measure methods beside each other and beside what is known",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status, or raises SystemExit with it where tyro stops the parsing."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        _help(Console() if arguments else Console(stderr=True))
        return 0 if arguments else USAGE
    name, rest = arguments[0], arguments[1:]
    if name == "--version":
        from unidiff import __version__

        Console().print(f"unidiff {__version__}", highlight=False)
        return 0
    try:
        check_name("command", name, _COMMANDS)
        return importlib.import_module(f"unidiff.cli.{name}").run(rest)
    except (ValueError, TypeError) as error:
        return _fail(str(error), USAGE)
    except (OSError, ArithmeticError, RuntimeError, MemoryError) as error:
        return _fail(f"{type(error).__name__}: {error}", 1)
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)


def _help(console: Console) -> None:
    console.print("[bold]unidiff[/bold]: one diffusion process, read in several ways, and all of them checked\n")
    for name, words in _COMMANDS.items():
        console.print(f"  unidiff [bold]{name:12}[/bold]{words}", highlight=False, soft_wrap=True)
    console.print("\nunidiff COMMAND --help tells more.", highlight=False)


def _fail(message: str, status: int) -> int:
    first = message.strip().splitlines()[0] if message.strip() else "no message"
    Console(stderr=True).print(
        f"unidiff: {first}", style="red", markup=False, emoji=False, highlight=False, soft_wrap=True
    )
    return status
