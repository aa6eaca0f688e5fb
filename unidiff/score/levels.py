r"""What annealed runs over a core share: a table whose rows are run in turn, eagerly or as one captured step.

The denoiser is asked at levels that rows of the table hold, so that the same captured step serves every row.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from unidiff.core.boundary import (
    check_alike,
    check_count,
    check_device,
    check_dtype,
    check_finite,
    check_generator,
    check_progress,
    check_type,
)
from unidiff.core.diffusion import Diffusion
from unidiff.core.level import NoiseLevel
from unidiff.core.replay import Replay, lent, recorded
from unidiff.mcmc.chains import Divergence, steady_rows
from unidiff.mcmc.target import check_chains

# (x, row of the table, draws of that row [K, B, *E], condition) -> x
Step = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
OnRow = Callable[[int, int], None]
# (x, rows done) -> x, or an error: what tells chains that went astray.
Look = Callable[[Tensor, int], object]
LOOK_EVERY = 50


class Rows:
    """A table and what a row of it does, ready to run many times; captures are kept from run to run.

    Args:
        core: whose denoiser ``step`` asks.
        step: one row's work.
        columns: the table ``[R, C]``, float64 on the host; cast once to a run's dtype and device.
        draws: how many normal draws ``[B, *E]`` a row takes.
        graph: whether a GPU run is captured; None captures whenever the state is on a GPU.
    """

    def __init__(self, core: Diffusion, step: Step, columns: Tensor, draws: int, graph: bool | None) -> None:
        self.core, self.step, self.columns, self.draws, self.graph = core, step, columns, draws, graph
        self._captured: dict[object, _Captured] = {}

    def __call__(
        self,
        x: Tensor,
        generator: torch.Generator | None,
        noise: Tensor | None,
        condition: Tensor | None,
        on_row: Callable[[int], None],
        look: Look,
    ) -> Tensor:
        """``x`` ``[B, *E]`` after all rows.

        Args:
            x: the start; it is not changed.
            generator: the source of the draws, on x's device.
            noise: the draws themselves, ``[R, draws, B, *E]``.
            condition: class labels ``[B]``.
            on_row: progress, called with how many rows are done.
            look: called with the state and how many rows are done, every 50 rows.
        """
        rows = self.columns.shape[0]
        if rows and x.is_cuda and noise is None and self.graph is not False:
            return self._capture(x, condition).run(x, generator, condition, on_row, look)
        table = self.columns.to(x)
        for row in range(rows):
            if noise is None:
                xi = torch.randn((self.draws, *x.shape), generator=generator, dtype=x.dtype, device=x.device)
            else:
                xi = noise[row]
            x = self.step(x, table[row], xi, condition)
            on_row(row + 1)
            if (row + 1) % LOOK_EVERY == 0:
                look(x, row + 1)
        return x

    def _capture(self, x: Tensor, condition: Tensor | None) -> _Captured:
        key = recorded(x, condition, self.core.training)
        if key not in self._captured:
            self._captured[key] = _Captured(self, x, condition)
        return self._captured[key]


class _Captured:
    """One row as a CUDA graph: draw, read row k, step, k ← k + 1."""

    def __init__(self, rows: Rows, x: Tensor, condition: Tensor | None) -> None:
        self.rows = rows.columns.shape[0]
        self.state, self.counter = x.clone(), torch.zeros(1, dtype=torch.long, device=x.device)
        self.condition = None if condition is None else condition.clone()
        # A graph reads by address: what it reads lives as long as it does.
        self.own, self.table = torch.Generator(device=x.device), rows.columns.to(x)

        def work() -> None:
            xi = torch.randn((rows.draws, *x.shape), generator=self.own, dtype=x.dtype, device=x.device)
            row = self.table.index_select(0, self.counter)[0]
            self.state.copy_(rows.step(self.state, row, xi, self.condition))
            self.counter.add_(1)

        self.replay = Replay(work, [self.state, self.counter], self.own)

    def run(
        self,
        x: Tensor,
        generator: torch.Generator | None,
        condition: Tensor | None,
        on_row: Callable[[int], None],
        look: Look,
    ) -> Tensor:
        self.state.copy_(x)
        self.counter.zero_()
        if condition is not None and self.condition is not None:
            self.condition.copy_(condition)
        with lent(self.own, generator):
            for row in range(self.rows):
                self.replay()
                on_row(row + 1)
                if (row + 1) % LOOK_EVERY == 0:
                    look(self.state, row + 1)
        return self.state.clone()


def level_columns(level: NoiseLevel) -> list[Tensor]:
    """The four columns of levels ``[R]``, float64, for a table; :func:`level_of` reads them back."""
    return [v.detach().to(torch.float64) for v in (level.t, level.log_snr, level.alpha, level.sigma)]


def level_of(row: Tensor) -> NoiseLevel:
    """The level in the first four entries of a row."""
    return NoiseLevel(*row[:4].unbind())


def begin(
    core: Diffusion,
    n: int | None,
    x: Tensor | None,
    std: float,
    generator: torch.Generator | None,
    dtype: torch.dtype,
    device: torch.device | str | None,
) -> Tensor:
    """The start of an annealed run: ``x`` ``[B, *E]``, or n draws of N(0, std²).

    Raises:
        TypeError: a generator of another type.
        ValueError: both or neither of n and x; a dtype that is not float32 or float64, a device that is not there; x not
            ``[B, *E]`` with B at least 1, half precision or not finite.
    """
    if (n is None) == (x is None):
        raise ValueError(f"give n or x, one of them, got n = {n!r} and x {'given' if x is not None else 'left out'}")
    if x is None:
        if generator is not None:
            check_type("generator", generator, torch.Generator)
        check_dtype(dtype)
        device = core.home(generator) if device is None else check_device(device)
        check_generator(generator, device)
        shape = (check_count("n", n), *core.event_shape)  # pyright: ignore[reportArgumentType]
        x = std * torch.randn(shape, generator=generator, dtype=dtype, device=device)
    check_chains(x, core.event_shape)
    return check_finite("x", x.detach())


def told(on_row: OnRow | None, total: int) -> Callable[[int], None]:
    """A progress callback that knows how many rows there are, or one that does nothing."""
    return (lambda done: None) if on_row is None else (lambda done: on_row(done, total))


def check_run(
    core: Diffusion,
    x: Tensor,
    generator: torch.Generator | None,
    noise: Tensor | None,
    on_row: OnRow | None,
    rows: int,
    draws: int,
) -> None:
    """Refuse what is no state of chains, draws of another shape than ``[rows, draws, B, *E]``, no generator, no callback."""
    check_chains(x, core.event_shape)
    check_generator(generator, x.device)
    check_progress("on_row", on_row)
    if noise is not None:
        check_type("noise", noise, Tensor)
    if noise is not None and noise.shape != (rows, draws, *x.shape):
        raise ValueError(f"noise must have shape {[rows, draws, *x.shape]}, got {list(noise.shape)}")
    if noise is not None and noise.numel():
        check_alike(x=x, noise=noise[0, 0])
        check_finite("noise", noise)


def check_end(x: Tensor, beyond: Tensor, rows: int, knob: str, value: float) -> Tensor:
    """``x``, or :class:`~unidiff.mcmc.chains.Divergence` with the rows that are finite and within ``beyond``."""
    good = steady_rows(x, beyond)
    if not bool(good.all()):
        raise Divergence(x, good, "row", rows, knob, value)
    return x
