"""One call: every identity on every subject that it speaks of."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.context import BaseContext
from pathlib import Path

import torch

from unidiff.core.boundary import check_count, check_device, check_name, check_seed
from unidiff.core.diffusion import Diffusion
from unidiff.core.schedule import Schedule
from unidiff.identities import networks, registry
from unidiff.identities.case import Case
from unidiff.identities.laws import Identity
from unidiff.identities.pictures import pictures
from unidiff.identities.registry import VIEWS
from unidiff.identities.report import Check, Report
from unidiff.identities.subjects import DTYPES, WORLDS, Spec, exact_case, network_cases, standard
from unidiff.worlds import OracleDenoiser
from unidiff.worlds.world import World

Names = str | Sequence[str] | None
OnCheck = Callable[[Check, int, int], None]
OnStep = Callable[[int, int, float], None]


def verify(
    subject: Diffusion | World | Schedule | None = None,
    *,
    world: World | None = None,
    view: Names = None,
    only: Names = None,
    dtype: str | None = None,
    device: str = "cpu",
    seed: int = 0,
    quick: bool = False,
    checkpoint: str | Path | None = None,
    on_check: OnCheck | None = None,
    on_step: OnStep | None = None,
    workers: int = 1,
) -> Report:
    """Check the identities and report.

    Args:
        subject: None for the standard suite (closed-form worlds × schedules, the digits, and a network trained on the
            spot); a world, judged with its exact denoiser under a cosine schedule; a schedule, judged on the closed-form
            worlds; or a core. An exact core is judged by everything; a network by what holds for any core, and what
            holds for the exact denoiser alone is reported as its gap.
        world: the law of a network's data, against which gaps are measured; without one they are left out.
        view: only identities that tie this view, or one of these.
        only: only these identities.
        dtype: "float64" or "float32"; None for both.
        device: where to compute.
        seed: of every draw. A case's draws depend on nothing else.
        quick: fewer pairs of world and schedule, a network with random weights: seconds.
        checkpoint: a file of ``unidiff train``: its core is the subject.
        on_check: called with (check, done, total) after each check; total may grow.
        on_step: called with (steps done, steps, loss) while the network trains.
        workers: processes for the standard suite on the CPU. More than one needs an importable ``__main__``, as all of
            Python's multiprocessing does.

    Returns:
        the report; ``report.exit_status`` is 0 (all hold), 1 (violated) or 2 (inconclusive).

    Warns:
        UserWarning: identities of ``only`` that say nothing of this subject.

    Raises:
        ValueError: an unknown view, identity or dtype (with the nearest known one), both a subject and a checkpoint, a
            checkpoint that cannot be read, a world that is not the core's, or nothing that can be checked.
    """
    chosen = _chosen(view, only)
    dtypes = tuple(DTYPES) if dtype is None else (check_name("dtype", dtype, DTYPES),)
    check_seed(seed)
    check_count("workers", workers)
    where = str(check_device(device))
    if subject is not None and checkpoint is not None:
        raise ValueError("give a subject or a checkpoint, not both")
    start = time.perf_counter()
    report = Report()
    tally = _Tally(report, on_check)
    if checkpoint is not None:
        own = networks.from_checkpoint(checkpoint)
        cases = list(network_cases(own.core, own.world, own.name, own.schedule, dtypes, where, seed))
        tally.run(cases, chosen if own.known else _structural(chosen, "a checkpoint of data that cannot be drawn anew"))
        report.figures.update(networks.figures(own, seed))
    elif subject is not None:
        cases = list(_cases_of(subject, world, dtypes, where, seed))
        known = world is not None or any(case.exact for case in cases)
        tally.run(cases, chosen if known else _structural(chosen, "a network without world="))
    else:
        specs = standard(quick, dtypes, where, seed)
        _standard(tally, specs, chosen, quick, on_step, workers if where == "cpu" else 1)
    if not report.checks:
        names = ", ".join(identity.name for identity in chosen)
        raise ValueError(f"nothing was checked: of this subject none of these says anything: {names}")
    asked = {check.identity for check in report.checks}
    silent = [name for name in ([] if only is None else _each(only)) if name not in asked]
    if silent and view is None:
        warnings.warn(
            f"of this subject these identities say nothing, and were not asked: {', '.join(silent)}", stacklevel=2
        )
    report.seconds = time.perf_counter() - start
    return report


def _standard(
    tally: _Tally,
    specs: list[Spec],
    chosen: list[Identity],
    quick: bool,
    on_step: OnStep | None,
    workers: int,
) -> None:
    first = specs[0]
    names = [identity.name for identity in chosen]
    dtypes = tuple(dict.fromkeys(spec.dtype for spec in specs))
    on_network = [i for i in chosen if i.subject != "schedule"]

    def with_network() -> None:
        if not on_network:
            return
        own = networks.untrained(first.seed) if quick else networks.trained_digits(first.seed, on_step)
        cases = list(network_cases(own.core, own.world, own.name, own.schedule, dtypes, first.device, first.seed))
        tally.run(cases, on_network)
        if not quick:
            tally.report.figures.update(networks.figures(own, first.seed) | pictures(first.seed))

    tally.total = sum(spec.asks(identity, case) for spec, case in ((s, s.case()) for s in specs) for identity in chosen)
    if workers == 1:
        with_network()
        for spec in specs:
            tally.add(_run(spec, names))
    else:
        with (
            _one_thread(),
            ProcessPoolExecutor(workers, _context(), torch.set_num_threads, (1,)) as pool,
        ):
            # The dearest first, so that no worker is left with one at the end.
            waiting = [pool.submit(_run, spec, names) for spec in reversed(specs)]
            with_network()
            for done in as_completed(waiting):
                tally.add(done.result())
    order = {(spec.world, spec.schedule, spec.dtype): k for k, spec in enumerate(specs)}
    tally.report.checks.sort(key=lambda c: order.get((c.world, c.schedule, c.dtype), len(order)))


def _context() -> BaseContext:
    """Workers that begin anew, not as copies of this process and its threads; where they can, as copies of one that did."""
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


@contextmanager
def _one_thread() -> Iterator[None]:
    """Threads that wait for each other by spinning would take the workers' cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _run(spec: Spec, names: list[str]) -> list[Check]:
    case = spec.case()
    return [identity.check(case) for identity in map(registry.get, names) if spec.asks(identity, case)]


class _Tally:
    """The report as it grows, and who is told."""

    def __init__(self, report: Report, on_check: OnCheck | None) -> None:
        self.report, self.on_check, self.total = report, on_check, 0

    def run(self, cases: list[Case], chosen: list[Identity]) -> None:
        """Check here and now."""
        jobs = [(identity, case) for case in cases for identity in chosen if identity.applies(case)]
        self.total += len(jobs)
        for identity, case in jobs:
            self.add([identity.check(case)])

    def add(self, checks: Iterable[Check]) -> None:
        """Enter what was checked."""
        for check in checks:
            self.report.checks.append(check)
            if self.on_check is not None:
                done = len(self.report.checks)
                self.on_check(check, done, max(done, self.total))


def _cases_of(
    subject: Diffusion | World | Schedule,
    world: World | None,
    dtypes: tuple[str, ...],
    device: str,
    seed: int,
) -> Iterator[Case]:
    where = torch.device(device)
    if isinstance(subject, World):
        name = type(subject).__name__
        for dtype in dtypes:
            yield exact_case(subject, name, Schedule.cosine(20.0, -20.0), "cosine", dtype, where, seed)
    elif isinstance(subject, Schedule):
        for name in ("mixture-2d", "mixture-8d", "gaussian"):
            for dtype in dtypes:
                yield exact_case(WORLDS[name](), name, subject, subject.kind, dtype, where, seed)
    elif isinstance(subject, Diffusion):
        kind = subject.schedule.kind
        if isinstance(subject.denoiser, OracleDenoiser):
            if world is not None:
                raise ValueError("world is for a network's core; an exact denoiser has its own, got another one")
            own = subject.denoiser.world
            for dtype in dtypes:
                yield exact_case(own, type(own).__name__, subject.schedule, kind, dtype, where, seed)
        else:
            data = networks.stand_in(subject.event_shape) if world is None else world
            if data.dim != torch.Size(subject.event_shape).numel():
                raise ValueError(
                    f"world must have the core's shape {list(subject.event_shape)}, got {data.dim} numbers"
                )
            yield from network_cases(subject, data, "network", kind, dtypes, device, seed)
    else:
        raise TypeError(f"subject must be a Diffusion, a World or a Schedule, got {type(subject).__name__}")


def _chosen(view: Names, only: Names) -> list[Identity]:
    known = {identity.name: identity for identity in registry.all()}
    chosen = list(known.values())
    if only is not None:
        chosen = [known[check_name("identity", name, known)] for name in _each(only)]
    if view is not None:
        views = {check_name("view", name, VIEWS) for name in _each(view)}
        chosen = [identity for identity in chosen if views & set(identity.views)]
    if not chosen:
        raise ValueError(f"no identity is left: view = {view!r} and only = {only!r} have none in common")
    return chosen


def _structural(chosen: list[Identity], what: str) -> list[Identity]:
    left = [identity for identity in chosen if identity.subject == "core"]
    if not left:
        names = ", ".join(identity.name for identity in chosen)
        raise ValueError(f"no identity is left: for {what} only what holds for any core can be checked, got {names}")
    return left


def _each(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)
