"""One call: every question, of every sampler of a library in every configuration, or of one object of yours."""

from __future__ import annotations

import functools
import importlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

import torch

from unidiff.conformance.checks import QUESTIONS
from unidiff.conformance.target import Target
from unidiff.conformance.yours import adapted
from unidiff.core.boundary import check_count, check_name, check_positive
from unidiff.identities.report import Check, Report

LIBRARIES = {"diffusers": "diffusers", "azula": "azula", "k-diffusion": "k_diffusion"}
"""What can be asked for by name, and the module of its adapter."""
OnCheck = Callable[[Check, int, int], None]


def conformance(
    target: object,
    *,
    only: Sequence[str] = (),
    order: float | None = None,
    point: bool | None = None,
    workers: int = 1,
    on_check: OnCheck | None = None,
) -> Report:
    """Hold somebody else's sampler to the theorems.

    Args:
        target: a library ("diffusers", "azula", "k-diffusion"), one of its classes or functions ("diffusers.DDIMScheduler"),
            ``"path.to:object"``, or the object itself: a scheduler with ``set_timesteps`` and ``step``, a function
            ``sample(model, x, sigmas)``, or a :class:`Target`.
        only: names of questions; all of them if empty.
        order: that an object of yours claims; a library's is known.
        point: whether an object of yours claims that data of one point keep their law; if you say nothing and they do not,
            nothing is decided.
        workers: processes, for a library.
        on_check: called with (check, done, total) after each.

    Returns:
        a report whose checks have a ``target``; ``exit_status`` is 1 if any statement is violated.

    Raises:
        ImportError: a library that is not installed, with the extra that brings it.
        ValueError: an unknown library, class, question or path, with the nearest known one.
        TypeError: an object that cannot be adapted; says what it lacks.
    """
    names = [question.name for question in QUESTIONS]
    if isinstance(only, str):
        raise TypeError(f"only must be a sequence of names, got {only!r}")
    if order is not None:
        check_positive("order", order)
    for name in only:
        check_name("only", name, names)
    check_count("workers", workers)
    chosen = tuple(name for name in names if not only or name in only)
    start = time.perf_counter()
    library, part = _library(target)
    if library:
        report = _many(library, part, chosen, workers, on_check)
    else:
        report = Report()
        mine = adapted(target, order, point)
        for check in _asked(mine, chosen):
            report.checks.append(check)
            if on_check is not None:
                on_check(check, len(report.checks), len(chosen))
    if not report.checks:
        raise ValueError(f"nothing was checked: {target!r} makes no claim that {', '.join(chosen)} could be asked of")
    report.seconds = time.perf_counter() - start
    return report


def _library(target: object) -> tuple[str, str]:
    """(library, class or function) of what was asked for by name; ("", "") of anything else."""
    if not isinstance(target, str) or ":" in target:
        return "", ""
    first, _, rest = target.partition(".")
    library = first.replace("_", "-")
    check_name("target", library, LIBRARIES)
    return library, rest


def _targets(library: str, part: str) -> list[Target]:
    module = importlib.import_module(f"unidiff.conformance.{LIBRARIES[library]}")
    found = list(module.targets())
    if part:
        known = dict.fromkeys(target.name.partition(".")[2] for target in found)
        check_name("target", part, known)
        found = [target for target in found if target.name.partition(".")[2] == part]
    return found


def _asked(target: Target, chosen: Sequence[str]) -> list[Check]:
    return [q.check(target) for q in QUESTIONS if q.name in chosen and q.applies(target)]


_known = functools.cache(_targets)
"""In a worker, which has one library for all its life."""


def _job(library: str, part: str, k: int, chosen: Sequence[str]) -> list[Check]:
    return _asked(_known(library, part)[k], chosen)


def _many(library: str, part: str, chosen: Sequence[str], workers: int, on_check: OnCheck | None) -> Report:
    targets = _targets(library, part)
    found: dict[int, list[Check]] = {}
    done = 0

    def add(k: int, checks: list[Check]) -> None:
        nonlocal done
        found[k] = checks
        for check in checks:
            done += 1
            if on_check is not None:
                on_check(check, done, max(done, len(targets) * len(chosen)))

    if workers == 1:
        for k, target in enumerate(targets):
            add(k, _asked(target, chosen))
    else:
        with ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
            waiting = {pool.submit(_job, library, part, k, chosen): k for k in range(len(targets))}
            for future in as_completed(waiting):
                add(waiting[future], future.result())
    return Report([check for k in sorted(found) for check in found[k]])
