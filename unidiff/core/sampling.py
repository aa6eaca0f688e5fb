r"""One loop for every sampler.

A method is a :class:`~unidiff.core.tables.Table`; this module runs its rows. Where the denoiser is a network with
x̂_0 = p x + q F, the two are folded into the row on the host, in float64:

    x ← (a + b p) x + (b q) F + e D' + f x' + n ξ,

and the network's embedding of the noise level, a function of the row alone, becomes one more column of the table.
What is left in a step is the network and two multiply-adds. On a GPU one step is captured as a CUDA graph, row
counter included, and replayed R times: the host only launches.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from unidiff.core.boundary import check_count, check_name, check_state
from unidiff.core.chain import ReverseChain, Variance
from unidiff.core.denoiser import Denoiser
from unidiff.core.diffusion import Diffusion
from unidiff.core.grid import TimeGrid
from unidiff.core.level import NoiseLevel
from unidiff.core.tables import METHODS, Method, Table, build, default_grid


class Sampler:
    """A method on a grid, ready to run many times.

    Args:
        core: the diffusion core.
        grid: the times.
        method: a name in :data:`~unidiff.core.tables.METHODS`.
        eta: DDIM's η in [0, 1] (None: 0), or the SDE's, 0 or more (None: 1): how much noise a step draws again.
        variance: the reverse chain's variance rule, for ``"ancestral"`` alone.
        guidance: classifier-free guidance weight; 1 is the plain conditional model.
        graph: whether a GPU run is captured once and replayed; None captures whenever the state is on a GPU.

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
        check_name("method", method, METHODS)
        if variance != "posterior" and method != "ancestral":
            raise ValueError(f"variance is the chain's: method must be 'ancestral', got {method!r}")
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
        """
        check_state("x", x, self.core.event_shape)
        if x.dtype in (torch.float16, torch.bfloat16):
            raise ValueError(f"x must be float32 or wider (the chain's state is never half precision), got {x.dtype}")
        if noise is not None and noise.shape != (self.table.rows, *x.shape):
            expected = [self.table.rows, *x.shape]
            raise ValueError(f"noise must have shape {expected}, one draw a row, got {list(noise.shape)}")
        graph = x.is_cuda if self.graph is None else self.graph
        if graph and x.is_cuda and noise is None and self.chain is None:
            return self._replay(x, generator, condition, on_row)
        loop = _Loop(self, x, condition)
        loop.start(x)
        for row in range(self.table.rows):
            loop.advance(loop.row(row), generator, None if noise is None else noise[row])
            if on_row is not None:
                on_row(row + 1, self.table.rows)
        return loop.x

    def _replay(
        self,
        x: Tensor,
        generator: torch.Generator | None,
        condition: Tensor | None,
        on_row: Callable[[int, int], None] | None,
    ) -> Tensor:
        # Autocast and the modules' mode change what a capture records; parameters are read through their storage.
        key = (
            x.shape, x.dtype, x.device, None if condition is None else condition.shape,
            torch.is_autocast_enabled(x.device.type), self.core.training,
        )  # fmt: skip
        if key not in self._captured:
            self._captured[key] = _Captured(self, x, condition)
        return self._captured[key].run(x, generator, condition, on_row)


class _Loop:
    """The state, registers and device copy of the table of one run."""

    def __init__(self, sampler: Sampler, like: Tensor, condition: Tensor | None) -> None:
        table, denoiser = sampler.table, sampler.core.denoiser
        self.chain = sampler.chain
        self.denoiser = denoiser
        self.guidance = sampler.guidance
        self.condition = condition
        self.uses_registers = bool(table.keep.any())
        self.uses_noise = bool((table.noise > 0).any()) or sampler.chain is not None
        self.uses_kept_xt = bool((table.on_kept_xt != 0).any())
        self.all_keep = bool(table.keep.all())
        self.folded = isinstance(denoiser, Denoiser) and sampler.chain is None
        self.step = sampler.grid.steps - table.step
        network = denoiser if isinstance(denoiser, Denoiser) and self.folded else None
        self.columns = _device_table(table, network, like)
        self.log_snr = table.log_snr.to(like)
        self.network = network
        self.embedding = None if network is None else network.embed(self.log_snr)
        self.x = like

    def embed_again(self) -> None:
        """The network's parameters may have moved since its embeddings were captured."""
        if self.embedding is not None and self.network is not None:
            self.embedding.copy_(self.network.embed(self.log_snr))  # pyright: ignore

    def start(self, x: Tensor) -> None:
        self.x = x
        if self.uses_registers:
            self.kept_x0 = torch.zeros_like(x)
            self.kept_xt = torch.zeros_like(x)

    def row(self, index: int) -> tuple[Tensor, Tensor | None, int]:
        embedding = None if self.embedding is None else self.embedding[index : index + 1]
        return self.columns[index], embedding, int(self.step[index])

    def advance(
        self, row: tuple[Tensor, Tensor | None, int], generator: torch.Generator | None, noise: Tensor | None
    ) -> None:
        """One row: the arithmetic that eager runs and captures share."""
        columns, embedding, step = row
        t, log_snr, alpha, sigma, on_xt, on_output, on_kept_x0, on_kept_xt, std, keep, skip, out = columns.unbind()
        level = NoiseLevel(t, log_snr, alpha, sigma)
        x = self.x
        if self.uses_noise and noise is None:
            noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        if self.chain is not None:
            prediction = self.denoiser(x, level, self.condition, self.guidance)
            self.x = self.chain.kernel(x, step, prediction).sample(noise=noise)
            return
        if self.folded:
            output, _ = self.denoiser.evaluate(x, level, self.condition, self.guidance, embedding)  # pyright: ignore
        else:
            output = self.denoiser(x, level, self.condition, self.guidance).x0
        new = torch.addcmul(on_xt * x, on_output, output)
        if self.uses_registers:
            new = torch.addcmul(new, on_kept_x0, self.kept_x0)
            x0 = torch.addcmul(skip * x, out, output) if self.folded else output
            if self.uses_kept_xt:
                new = torch.addcmul(new, on_kept_xt, self.kept_xt)
                self.kept_xt = torch.where(keep > 0, x, self.kept_xt)
            self.kept_x0 = x0 if self.all_keep else torch.where(keep > 0, x0, self.kept_x0)
        if self.uses_noise and noise is not None:
            new = torch.addcmul(new, std, noise)
        self.x = new


class _Captured:
    """One step of a loop as a CUDA graph: read row k, advance, k ← k + 1."""

    def __init__(self, sampler: Sampler, x: Tensor, condition: Tensor | None) -> None:
        self.rows = sampler.table.rows
        self.generator = torch.Generator(device=x.device)
        self.condition = None if condition is None else condition.clone()
        self.loop = _Loop(sampler, x, self.condition)
        self.x = x.clone()
        self.kept = [torch.zeros_like(x), torch.zeros_like(x)] if self.loop.uses_registers else []
        self.counter = torch.zeros(1, dtype=torch.long, device=x.device)
        stream = torch.cuda.Stream(x.device)
        stream.wait_stream(torch.cuda.current_stream(x.device))
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.counter.zero_()
                self._step()
        torch.cuda.current_stream(x.device).wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        self.graph.register_generator_state(self.generator)
        with torch.cuda.graph(self.graph):
            self._step()

    def _step(self) -> None:
        loop = self.loop
        loop.x = self.x
        if self.kept:
            loop.kept_x0, loop.kept_xt = self.kept
        columns = loop.columns.index_select(0, self.counter)[0]
        embedding = None if loop.embedding is None else loop.embedding.index_select(0, self.counter)
        loop.advance((columns, embedding, 0), self.generator, None)
        self.x.copy_(loop.x)
        if self.kept:
            self.kept[0].copy_(loop.kept_x0)
            if loop.uses_kept_xt:
                self.kept[1].copy_(loop.kept_xt)
        self.counter.add_(1)

    def run(
        self,
        x: Tensor,
        generator: torch.Generator | None,
        condition: Tensor | None,
        on_row: Callable[[int, int], None] | None,
    ) -> Tensor:
        source = torch.cuda.default_generators[x.get_device()] if generator is None else generator
        if self.loop.uses_noise:
            self.generator.set_state(source.get_state())
        self.x.copy_(x)
        self.loop.embed_again()
        self.counter.zero_()
        for register in self.kept:
            register.zero_()
        if condition is not None and self.condition is not None:
            self.condition.copy_(condition)
        for row in range(self.rows):
            self.graph.replay()
            if on_row is not None:
                on_row(row + 1, self.rows)
        if self.loop.uses_noise:
            source.set_state(self.generator.get_state())
        return self.x.clone()


def _device_table(table: Table, network: Denoiser | None, like: Tensor) -> Tensor:
    """Columns ``[R, 12]`` in the state's dtype, the network's affine reading folded in."""
    if network is None:
        skip, out = torch.zeros_like(table.t), torch.ones_like(table.t)
    else:
        level = NoiseLevel(table.t, table.log_snr, table.alpha, table.sigma)
        skip, out = network.x0_coefficients(level)
    on_xt, on_output = table.on_xt + table.on_x0 * skip, table.on_x0 * out
    columns = torch.stack(
        [
            table.t, table.log_snr, table.alpha, table.sigma, on_xt, on_output, table.on_kept_x0,
            table.on_kept_xt, table.noise, table.keep.to(torch.float64), skip, out,
        ],
        1,
    )  # fmt: skip
    return columns.to(like)


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
        device: where; None takes the generator's device, else the denoiser's parameters', else the CPU.
        dtype: float32 or wider.
        on_row: progress, called with (rows done, rows).

    Raises:
        ValueError: as :class:`Sampler`; n or steps below 1.
    """
    check_count("n", n)
    check_name("method", method, METHODS)
    grid = default_grid(core.schedule, check_count("steps", steps), method) if grid is None else grid
    sampler = Sampler(core, grid, method, eta=eta, variance=variance, guidance=guidance)
    if device is None:
        first = next(core.parameters(), None)
        device = generator.device if generator is not None else "cpu" if first is None else first.device
    if condition is not None and condition.ndim == 0:
        condition = condition.expand(n)
    x = core.prior(n, generator, torch.empty(0, dtype=dtype, device=device))
    return sampler(x, generator, condition=None if condition is None else condition.to(device), on_row=on_row)
