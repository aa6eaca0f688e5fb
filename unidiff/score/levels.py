r"""What annealed runs over a core share: a table whose rows are run in turn, eagerly or as one captured step.

The denoiser is asked at levels that rows of the table hold, so that the same captured step serves every row.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from unidiff.core.boundary import check_count, check_finite, check_state
from unidiff.core.diffusion import Diffusion
from unidiff.core.level import NoiseLevel
from unidiff.core.replay import Replay, lent
from unidiff.score.chains import Divergence, finite_rows

# (x, row of the table, draws of that row [K, B, *E]) -> x
Step = Callable[[Tensor, Tensor, Tensor], Tensor]
OnRow = Callable[[int, int], None]


def run_rows(
    step: Step,
    x: Tensor,
    columns: Tensor,
    draws: int,
    generator: torch.Generator | None,
    noise: Tensor | None,
    on_row: OnRow | None,
    graph: bool | None,
) -> Tensor:
    """``x`` ``[B, *E]`` after ``step`` by each row of ``columns`` ``[R, C]``, float64 on the host.

    Args:
        step: one row's work.
        x: the start; it is not changed.
        columns: the table; cast once to x's dtype and device.
        draws: how many normal draws ``[B, *E]`` a row takes.
        generator: their source, on x's device.
        noise: the draws themselves, ``[R, draws, B, *E]``.
        on_row: progress, called with (rows done, R).
        graph: whether a GPU run is captured; None captures whenever x is on a GPU.
    """
    table = columns.to(x)
    rows = table.shape[0]
    if rows and x.is_cuda and noise is None and graph is not False:
        return _replayed(step, x, table, draws, generator, on_row)
    for row in range(rows):
        if noise is None:
            xi = torch.randn((draws, *x.shape), generator=generator, dtype=x.dtype, device=x.device)
        else:
            xi = noise[row]
        x = step(x, table[row], xi)
        if on_row is not None:
            on_row(row + 1, rows)
    return x


def _replayed(
    step: Step, x: Tensor, table: Tensor, draws: int, generator: torch.Generator | None, on_row: OnRow | None
) -> Tensor:
    register, counter = x.clone(), torch.zeros(1, dtype=torch.long, device=x.device)
    own, rows = torch.Generator(device=x.device), table.shape[0]

    def work() -> None:
        xi = torch.randn((draws, *x.shape), generator=own, dtype=x.dtype, device=x.device)
        row = table.index_select(0, counter)[0]
        register.copy_(step(register, row, xi))
        counter.add_(1)

    replay = Replay(work, [register, counter], own)
    with lent(own, generator):
        for row in range(rows):
            replay()
            if on_row is not None:
                on_row(row + 1, rows)
    return register


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
        ValueError: both or neither of n and x; x not ``[B, *E]``, half precision or not finite.
    """
    if (n is None) == (x is None):
        raise ValueError(f"give n or x, one of them, got n = {n!r} and x {'given' if x is not None else 'left out'}")
    if x is None:
        device = core.home(generator) if device is None else device
        shape = (check_count("n", n), *core.event_shape)  # pyright: ignore[reportArgumentType]
        x = std * torch.randn(shape, generator=generator, dtype=dtype, device=device)
    check_state("x", x, core.event_shape)
    if x.dtype in (torch.float16, torch.bfloat16):
        raise ValueError(f"x must be float32 or wider (a chain's state is never half precision), got {x.dtype}")
    return check_finite("x", x.detach())


def check_noise(noise: Tensor | None, shape: tuple[int, ...]) -> None:
    """Refuse draws of another shape."""
    if noise is not None and noise.shape != shape:
        raise ValueError(f"noise must have shape {list(shape)}, got {list(noise.shape)}")


def check_end(x: Tensor, rows: int, knob: str, value: float) -> Tensor:
    """``x``, or :class:`~unidiff.score.chains.Divergence` with the finite rows."""
    finite = finite_rows(x)
    if not bool(finite.all()):
        raise Divergence(x[finite], len(x), "row", rows, knob, value)
    return x
