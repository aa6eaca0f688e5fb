r"""One loop for every sampler.

A method is a :class:`~unidiff.core.tables.Table`; this module runs its rows. Where the denoiser is a network with
x̂_0 = p x + q F, the two are folded into the row on the host, in float64:

    x ← (a + b p) x + (b q) F + g m + n ξ,      m ← (c + d p) x + (d q) F,

and the network's embedding of the noise level, a function of the row alone, becomes more columns of the table.
What is left in a step is the network and a few multiply-adds, in place. On a GPU one step is captured as a CUDA graph,
row counter included, and replayed R times: the host only launches; so are the embedding of the levels before the first
step and the look at the result after the last. The noise of a whole run is drawn at once and rides
in the table too, as long as it is small; a larger state draws row by row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import torch
from torch import Tensor

from unidiff.core.boundary import (
    check_alike,
    check_count,
    check_device,
    check_dtype,
    check_finite,
    check_generator,
    check_name,
    check_progress,
    check_real,
    check_type,
)
from unidiff.core.chain import ReverseChain, Variance
from unidiff.core.denoiser import Denoiser
from unidiff.core.diffusion import Diffusion
from unidiff.core.grid import TimeGrid
from unidiff.core.level import NoiseLevel
from unidiff.core.replay import Replay, lent, recorded
from unidiff.core.tables import METHODS, Method, Table, build, default_grid

MOST_NOISE_AHEAD = 2**22
"""How many numbers of noise a run draws at once; beyond it each row draws its own."""


class Sampler:
    """A method on a grid, ready to run many times.

    Args:
        core: the diffusion core.
        grid: the times.
        method: a name in :data:`~unidiff.core.tables.METHODS`.
        eta: DDIM's η in [0, 1] (None: 0), or the SDE's, 0 or more (None: 1): how much noise a step draws again.
        variance: the reverse chain's variance rule, for ``"ancestral"`` alone.
        guidance: classifier-free guidance weight; 1 is the plain conditional model.
        graph: whether a GPU run is captured once and replayed; None captures whenever the state is on a GPU, True makes
            a state on the CPU an error.

    Raises:
        ValueError: unknown method, η outside [0, 1], a variance or η that the method does not take, a grid on which
            the method or the network's prediction does not exist.
    """

    def __init__(
        self,
        core: Diffusion,
        grid: TimeGrid,
        method: Method = "ddim",
        *,
        eta: float | None = None,
        variance: Variance = "posterior",
        guidance: float = 1.0,
        graph: bool | None = None,
    ) -> None:
        check_type("core", core, Diffusion)
        check_type("grid", grid, TimeGrid)
        check_name("method", method, METHODS)
        if variance != "posterior" and method != "ancestral":
            raise ValueError(f"variance is the chain's: method must be 'ancestral', got {method!r}")
        if not math.isfinite(check_real("guidance", guidance)):
            raise ValueError(f"guidance must be finite, got {guidance}")
        self.core = core
        self.grid = grid
        self.method: Method = method
        self.guidance = guidance
        self.graph = graph
        self.table = build(core.schedule, grid, method, eta)
        core.check_levels(self.table.alpha)
        self.chain = ReverseChain(core, grid, variance) if variance != "posterior" else None
        self._captured: dict[object, _Captured] = {}

    @torch.no_grad()
    def __call__(
        self,
        x: Tensor,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
        condition: Tensor | None = None,
        on_row: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Walk ``x`` ``[B, *E]`` at t = 1 down to t_0.

        Args:
            x: the starting state, float32 or wider; draw it by :meth:`unidiff.Diffusion.prior`.
            generator: the source of ξ, on x's device.
            noise: ξ itself, ``[R, B, *E]``, one for each row of the table, in place of a generator.
            condition: class labels ``[B]``.
            on_row: called outside the loop's arithmetic with (rows done, R); for progress.

        Returns:
            the state at t_0, ``[B, *E]``.

        Raises:
            ValueError: x, noise or condition that do not fit the core; rows that overflow in x's dtype.
            FloatingPointError: the run ended in values that are not finite.
        """
        check_progress("on_row", on_row)
        condition = self._check_start(x, generator, condition)
        if noise is not None:
            check_type("noise", noise, Tensor)
            if noise.shape != (self.table.rows, *x.shape):
                expected = [self.table.rows, *x.shape]
                raise ValueError(f"noise must have shape {expected}, one draw a row, got {list(noise.shape)}")
            check_alike(x=x, noise=noise[0])
            check_finite("noise", noise)
        graph = x.is_cuda if self.graph is None else self.graph
        if graph and x.is_cuda and noise is None and self.chain is None:
            return self._replay(x, generator, condition, on_row)
        now = x
        for row, state in self._walk(x, generator, noise, condition):
            now = state
            if on_row is not None:
                on_row(row + 1, self.table.rows)
        return _checked(now, _bad_rows(now))

    @torch.no_grad()
    def trajectory(
        self, x: Tensor, generator: torch.Generator | None = None, condition: Tensor | None = None
    ) -> Tensor:
        """Where the walk of ``x`` ``[B, *E]`` passes each time of the grid, ``[N + 1, B, *E]``, t_0 first; not captured.

        Args:
            x, generator, condition: as in a call.

        Raises:
            ValueError, FloatingPointError: as in a call.
        """
        condition = self._check_start(x, generator, condition)
        step, states = self.table.step.tolist(), [x]
        for row, now in self._walk(x, generator, None, condition):
            if row + 1 == len(step) or step[row + 1] != step[row]:
                states.append(now.clone())
        _checked(states[-1], _bad_rows(states[-1]))
        return torch.stack(states[::-1])

    def _check_start(self, x: Tensor, generator: torch.Generator | None, condition: Tensor | None) -> Tensor | None:
        check_type("x", x, Tensor)
        check_generator(generator, x.device)
        if x.dtype in (torch.float16, torch.bfloat16):
            raise ValueError(f"x must be float32 or wider (the chain's state is never half precision), got {x.dtype}")
        if self.graph and not x.is_cuda:
            raise ValueError(f"x must be on a GPU with graph=True (only there is a run captured), got {x.device}")
        return self.core.check_arguments("x", x, condition, self.guidance)

    def _walk(
        self, x: Tensor, generator: torch.Generator | None, noise: Tensor | None, condition: Tensor | None
    ) -> Iterator[tuple[int, Tensor]]:
        """The rows as they are done, and the state after each, which the next one changes."""
        loop = _Loop(self, x, condition, noise is not None)
        loop.start(x, generator)
        for row in range(self.table.rows):
            loop.advance(loop.table[row], int(loop.step[row]), generator, None if noise is None else noise[row])
            yield row, loop.x

    def _replay(
        self,
        x: Tensor,
        generator: torch.Generator | None,
        condition: Tensor | None,
        on_row: Callable[[int, int], None] | None,
    ) -> Tensor:
        key = recorded(x, condition, self.core.training)
        if key not in self._captured:
            self._captured[key] = _Captured(self, x, condition)
        return self._captured[key].run(x, generator, condition, on_row)


def _bad_rows(x: Tensor) -> Tensor:
    """How many samples are not finite, looked at once, at the end of a run: a NaN on the way is a NaN there."""
    return (~torch.isfinite(x)).flatten(1).any(1).sum()


def _checked(x: Tensor, bad: Tensor) -> Tensor:
    """The result of a run, of which ``bad`` samples are not finite."""
    if count := int(bad):
        raise FloatingPointError(f"sampling ended in values that are not finite in {count} of {x.shape[0]} samples")
    return x


class _Loop:
    """The state, the register and the device's copy of the table, of one run."""

    def __init__(self, sampler: Sampler, x: Tensor, condition: Tensor | None, noise_given: bool = False) -> None:
        table, denoiser = sampler.table, sampler.core.denoiser
        self.chain = sampler.chain
        self.denoiser = denoiser
        self.guidance = sampler.guidance
        self.condition = condition
        self.uses_noise = bool((table.noise > 0).any()) or sampler.chain is not None
        self.step = sampler.grid.steps - table.step
        self.network = denoiser if isinstance(denoiser, Denoiser) and sampler.chain is None else None
        self.log_snr = table.log_snr.to(x)
        columns, embedding = _device_table(table, self.network, x), self._embedding(x)
        sampler.core.check_levels(columns[:, 2])
        self.columns = columns.shape[1]
        self.embedded = 0 if embedding is None else embedding.shape[1]
        draws = self.uses_noise and not noise_given
        self.ahead = x.numel() if draws and table.rows * x.numel() <= MOST_NOISE_AHEAD else 0
        self.table = x.new_empty(table.rows, self.columns + self.embedded + self.ahead)
        self.table[:, : self.columns] = columns
        if embedding is not None:
            self.table[:, self.columns : self.columns + self.embedded] = embedding
        self.x = torch.empty_like(x)
        self.register = torch.zeros_like(x) if bool((table.on_kept != 0).any()) else None

    def start(self, x: Tensor, generator: torch.Generator | None) -> None:
        """To the first row, from ``x``, with new noise."""
        self.x.copy_(x)
        if self.ahead:
            self.table[:, -self.ahead :].normal_(generator=generator)

    def renew(self) -> None:
        """Between runs of a loop that is kept: nothing in the register, and what the network says of the levels now."""
        if self.register is not None:
            self.register.zero_()
        embedding = self._embedding(self.x)
        if embedding is not None:
            self.table[:, self.columns : self.columns + self.embedded] = embedding

    def _embedding(self, like: Tensor) -> Tensor | None:
        """The network's embedding of each row's level ``[R, ·]``, in the state's dtype, or None if it makes none apart."""
        embedding = None if self.network is None else self.network.embed(self.log_snr)
        return None if embedding is None else embedding.to(like)

    def advance(self, row: Tensor, step: int, generator: torch.Generator | None, noise: Tensor | None) -> None:
        """One row of the table, on its own grid step: the arithmetic that eager runs and captures share."""
        t, log_snr, alpha, sigma, on_xt, on_output, on_kept, std, keep_xt, keep_output = row[: self.columns].unbind()
        level = NoiseLevel(t, log_snr, alpha, sigma)
        x = self.x
        if noise is None and self.ahead:
            noise = row[-self.ahead :].view_as(x)
        elif noise is None and self.uses_noise:
            noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        if self.chain is not None:
            prediction = self.denoiser(x, level, self.condition, self.guidance)
            x.copy_(self.chain.kernel(x, step, prediction).sample(noise=noise, check=False))
            return
        if self.network is not None:
            embedding = row[None, self.columns : self.columns + self.embedded] if self.embedded else None
            output, _ = self.network.evaluate(x, level, self.condition, self.guidance, embedding)
        else:
            output = self.denoiser(x, level, self.condition, self.guidance).x0
        if self.register is None:
            x.mul_(on_xt).addcmul_(on_output, output)
        else:
            kept = keep_xt * x
            x.mul_(on_xt).addcmul_(on_output, output).addcmul_(on_kept, self.register)
            torch.addcmul(kept, keep_output, output, out=self.register)
        if noise is not None and self.uses_noise:
            x.addcmul_(std, noise)


class _Captured:
    """A loop as three CUDA graphs: what begins a run; one step (read row k, advance, k ← k + 1); the look at its end."""

    def __init__(self, sampler: Sampler, x: Tensor, condition: Tensor | None) -> None:
        self.rows = sampler.table.rows
        self.condition = None if condition is None else condition.clone()
        self.loop = loop = _Loop(sampler, x, self.condition)
        self.own = torch.Generator(device=x.device)
        loop.start(x, self.own)
        self.draws = loop.uses_noise and not loop.ahead
        self.counter = torch.zeros(1, dtype=torch.long, device=x.device)
        self.bad = torch.zeros((), dtype=torch.long, device=x.device)
        self.begin = Replay(self._begin, [self.counter])
        registers = [self.counter, loop.x] if loop.register is None else [self.counter, loop.x, loop.register]
        self.step = Replay(self._step, registers, self.own if self.draws else None)
        self.look = Replay(self._look, [self.bad])

    def _begin(self) -> None:
        self.loop.renew()
        self.counter.zero_()

    def _step(self) -> None:
        row = self.loop.table.index_select(0, self.counter)[0]
        self.loop.advance(row, 0, self.own, None)
        self.counter.add_(1)

    def _look(self) -> None:
        self.bad.copy_(_bad_rows(self.loop.x))

    def run(
        self,
        x: Tensor,
        generator: torch.Generator | None,
        condition: Tensor | None,
        on_row: Callable[[int, int], None] | None,
    ) -> Tensor:
        self.begin()
        self.loop.start(x, generator)
        if condition is not None and self.condition is not None:
            self.condition.copy_(condition)
        with lent(self.own, generator) if self.draws else nullcontext():
            for row in range(self.rows):
                self.step()
                if on_row is not None:
                    on_row(row + 1, self.rows)
        self.look()
        return _checked(self.loop.x.clone(), self.bad)


def _device_table(table: Table, network: Denoiser | None, like: Tensor) -> Tensor:
    """Columns ``[R, 10]`` in the state's dtype, the network's affine reading folded in."""
    if network is None:
        skip, out = torch.zeros_like(table.t), torch.ones_like(table.t)
    else:
        level = NoiseLevel(table.t, table.log_snr, table.alpha, table.sigma)
        skip, out = network.x0_coefficients(level)
    columns = torch.stack(
        [
            table.t, table.log_snr, table.alpha, table.sigma,
            table.on_xt + table.on_x0 * skip, table.on_x0 * out, table.on_kept, table.noise,
            table.keep_xt + table.keep_x0 * skip, table.keep_x0 * out,
        ],
        1,
    )  # fmt: skip
    cast = columns.to(like)
    if not bool(torch.isfinite(cast[:, 2:]).all()):
        raise ValueError(
            f"x must be of a wider dtype on this grid: its coefficients overflow in {like.dtype} "
            f"at log-SNR {table.log_snr.min().item():.4g}; or predict 'x0' or 'v' there"
        )
    return cast


def sample(
    core: Diffusion,
    n: int,
    steps: int = 50,
    method: Method = "ddim",
    generator: torch.Generator | None = None,
    *,
    grid: TimeGrid | None = None,
    eta: float | None = None,
    variance: Variance = "posterior",
    condition: Tensor | None = None,
    guidance: float = 1.0,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    on_row: Callable[[int, int], None] | None = None,
) -> Tensor:
    """n samples of the core, ``[n, *E]``, at the grid's first time.

    Args:
        core: the diffusion core.
        n: how many.
        steps: the number of steps of the default grid (:func:`~unidiff.core.tables.default_grid`).
        method: ``"ancestral" "ddim" "euler" "heun" "dpm++2m" "sde" "sde-dpm++2m"``; :mod:`unidiff.core.tables`.
        generator: source of all randomness, on ``device``.
        grid: the times, in place of the default grid.
        eta, variance, guidance: as :class:`Sampler`.
        condition: class labels ``[n]``, or one label for all, shape ``[]``.
        device: where; None takes :meth:`unidiff.Diffusion.home`.
        dtype: float32 or wider.
        on_row: progress, called with (rows done, rows).

    Raises:
        TypeError: core, generator, grid or on_row of another type.
        ValueError: as :class:`Sampler`; n or steps below 1; another dtype; a device that is not there.
        FloatingPointError: the run ended in values that are not finite.
    """
    check_type("core", core, Diffusion)
    check_count("n", n)
    check_name("method", method, METHODS)
    if generator is not None:
        check_type("generator", generator, torch.Generator)
    if grid is not None:
        check_type("grid", grid, TimeGrid)
    check_progress("on_row", on_row)
    grid = default_grid(core.schedule, check_count("steps", steps), method) if grid is None else grid
    sampler = Sampler(core, grid, method, eta=eta, variance=variance, guidance=guidance)
    check_dtype(dtype)
    device = core.home(generator) if device is None else check_device(device)
    check_generator(generator, device)
    x = core.prior(n, generator, torch.empty(0, dtype=dtype, device=device))
    if isinstance(condition, Tensor):
        condition = condition.to(device)
    return sampler(x, generator, condition=condition, on_row=on_row)
