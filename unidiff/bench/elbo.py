"""``python -m unidiff.bench.elbo``: the bound over 1000 steps beside a loop over them, and beside the network alone.

On a CPU: one thread, 64 data, MLPs on the plane. The loop is the way of improved-diffusion's ``calc_bpd_loop``: for
each timestep one call of the network on the batch, both kernels from tables of float64 entries taken for each member,
the KL between them, and the last step's likelihood, of which one timestep's is kept. Given the same noise, each term
must first be the ledger's, in float64, and in float32 the sum. Its Φ is exact, where improved-diffusion has a tanh: with
the tanh the last step's likelihood is another one. "network" is the network's part of ours: as many states in the
same blocks, each level embedded once.

On a GPU: a UNet, and the network alone on the same blocks of states, without gradients in the same precision; the share
of its throughput that the ledger keeps.

Each figure is the median of runs taken in turn.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from unidiff.bench.timing import seconds
from unidiff.core import networks
from unidiff.core.denoiser import Denoiser
from unidiff.core.diffusion import Diffusion
from unidiff.core.grid import TimeGrid
from unidiff.core.schedule import Schedule
from unidiff.vae import DiscretisedDecoder, HierarchicalVAE, Levels
from unidiff.vae.bound import block_rows

STEPS, BATCH, RUNS, WARM = 1000, 64, 11, 2
WIDTHS = (32, 64, 128, 256)
BETAS = torch.linspace(1e-4, 0.02, STEPS, dtype=torch.float64)
# A loop that starts at x_1 has a step for each of t_2 … t_N and the last one's likelihood at t_1: so has this grid.
GRID = TimeGrid(torch.arange(1, STEPS + 1, dtype=torch.float64) / STEPS)


class Loop:
    """The bound of an ε-network over DDPM's β_1 … β_T, one timestep at a time, with DDPM's small variance."""

    def __init__(self, network: Callable[[Tensor, Tensor], Tensor], log_snr: Tensor) -> None:
        """The tables. ``network(x, noise)`` is ε̂ for log-SNRs ``[B]``; ``log_snr`` ``[T]`` is what it is told."""
        bars = (1 - BETAS).cumprod(0)
        before = torch.cat([bars.new_ones(1), bars[:-1]])
        self.network, self.log_snr, self.bars = network, log_snr, bars
        self.root_bars, self.root_rest = bars.sqrt(), (1 - bars).sqrt()
        self.root_inverse, self.root_inverse_less = (1 / bars).sqrt(), (1 / bars - 1).sqrt()
        variance = BETAS * (1 - before) / (1 - bars)
        self.log_variance = torch.cat([variance[1:2], variance[1:]]).log()
        self.on_x0 = BETAS * before.sqrt() / (1 - bars)
        self.on_xt = (1 - before) * (1 - BETAS).sqrt() / (1 - bars)

    @torch.no_grad()
    def __call__(self, x0: Tensor, noise: Tensor, levels: Levels) -> tuple[Tensor, Tensor]:
        """(terms of t_1 … t_T ``[T, B]``, the prior's KL ``[B]``), in nats; noise ``[T, B, *E]``."""
        terms = []
        for t in reversed(range(STEPS)):
            step = torch.full((x0.shape[0],), t, device=x0.device)
            xt = _taken(self.root_bars, step, x0) * x0 + _taken(self.root_rest, step, x0) * noise[t]
            terms.append(self.term(x0, xt, step, levels))
        end = torch.full((x0.shape[0],), STEPS - 1, device=x0.device)
        mean, log_var = _taken(self.root_bars, end, x0) * x0, _taken((1 - self.bars).log(), end, x0)
        prior = _kl(mean, log_var, torch.zeros_like(mean), torch.zeros_like(mean)).flatten(1).sum(1)
        return torch.stack(terms[::-1]), prior

    def term(self, x0: Tensor, xt: Tensor, step: Tensor, levels: Levels) -> Tensor:
        """The KL of this timestep, or at the first the last step's −log p, ``[B]``."""
        log_var = _taken(self.log_variance, step, xt)
        true = _taken(self.on_x0, step, xt) * x0 + _taken(self.on_xt, step, xt) * xt
        eps = self.network(xt, self.log_snr.to(xt)[step])
        guess = _taken(self.root_inverse, step, xt) * xt - _taken(self.root_inverse_less, step, xt) * eps
        mean = _taken(self.on_x0, step, xt) * guess + _taken(self.on_xt, step, xt) * xt
        kl = _kl(true, log_var, mean, log_var).flatten(1).sum(1)
        last = -_discretised(x0, mean, 0.5 * log_var, levels).flatten(1).sum(1)
        return torch.where(step == 0, last, kl)


def _taken(table: Tensor, step: Tensor, like: Tensor) -> Tensor:
    values = table.to(like.device)[step].to(like)
    return values.reshape(-1, *[1] * (like.ndim - 1)).expand(like.shape)


def _kl(mean: Tensor, log_var: Tensor, other: Tensor, other_log_var: Tensor) -> Tensor:
    ratio = torch.exp(log_var - other_log_var)
    return 0.5 * (-1 + other_log_var - log_var + ratio + (mean - other) ** 2 * torch.exp(-other_log_var))


def _discretised(x: Tensor, mean: Tensor, log_std: Tensor, levels: Levels) -> Tensor:
    centred, inverse, half = x - mean, torch.exp(-log_std), 0.5 * levels.width
    upper, lower = (torch.special.ndtr(inverse * (centred + side)) for side in (half, -half))
    log_upper, log_rest = upper.clamp(min=1e-12).log(), (1 - lower).clamp(min=1e-12).log()
    inner = (upper - lower).clamp(min=1e-12).log()
    end = torch.where(x > levels.high - half, log_rest, inner)
    return torch.where(x < levels.low + half, log_upper, end)


@dataclass(frozen=True, eq=False)
class Problem:
    """A core with an ε-network of random weights, data on 256 levels, and the last step's likelihood of DDPM."""

    core: Diffusion
    x0: Tensor
    vae: HierarchicalVAE
    loop: Loop

    @staticmethod
    def of(network: torch.nn.Module, shape: tuple[int, ...], batch: int, like: Tensor) -> Problem:
        """In ``like``'s dtype and on its device."""
        torch.manual_seed(0)
        for p in network.parameters():
            if not bool(p.any()):
                torch.nn.init.normal_(p, std=0.02)
        core = Diffusion(Schedule.from_betas(BETAS), Denoiser(network, shape, "eps")).to(like).eval()
        levels = Levels()
        x0 = levels.values(like)[torch.randint(levels.count, (batch, *shape)).to(like.device)]
        loop = Loop(lambda x, noise: network(x, noise, None), core.schedule.log_snr(GRID.times).clamp(-30, 30))
        decoder = DiscretisedDecoder(levels, std=math.exp(0.5 * float(loop.log_variance[0])))
        return Problem(core, x0, HierarchicalVAE(core, decoder), loop)

    def noise(self, generator: torch.Generator | None = None) -> Tensor:
        """ε at t_1 … t_T, ``[T, *x0]``."""
        return torch.randn((STEPS, *self.x0.shape), generator=generator, dtype=self.x0.dtype, device=self.x0.device)

    def ours(self) -> object:
        """The ledger, with its own draws."""
        return self.vae.elbo(self.x0, GRID)

    def by_hand(self) -> object:
        """The loop, with its own draws."""
        return self.loop(self.x0, self.noise(), Levels())

    def agreement(self) -> float:
        """How far the ledger is from the loop on the same noise, relative to the largest term; of the sums in float32."""
        noise = self.noise()
        found = self.vae.elbo(self.x0, GRID, noise=noise)
        terms, prior = self.loop(self.x0, noise, Levels())
        if self.x0.dtype == torch.float64:
            own, theirs = torch.cat([found.reconstruction[None], found.diffusion, found.prior[None]]), [*terms, prior]
            off = own - torch.stack(theirs)
            return float((off.abs() / torch.stack(theirs).abs().clamp(min=1e-6)).max())
        total = terms.sum(0) + prior
        return float(((found.total + total) / total).abs().max())

    @torch.no_grad()
    def network(self) -> object:
        """The network on as many states in as many blocks, each level embedded once."""
        rows, batch, denoiser, last = block_rows(self.x0), self.x0.shape[0], self.core.denoiser, self.x0
        embedding = denoiser.embed(self.core.schedule.log_snr(GRID.times).to(self.x0))  # pyright: ignore
        for start in range(0, STEPS * batch, rows):
            index = torch.arange(start, min(start + rows, STEPS * batch), device=self.x0.device)
            x, own = self.x0.index_select(0, index % batch), embedding.index_select(0, index // batch)
            last = denoiser.network.body(x, own, None)  # pyright: ignore
        return last


def medians(works: dict[str, Callable[[], object]], device: torch.device, runs: int = RUNS) -> dict[str, float]:
    """The median time of each, in seconds, the works taken in turn."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(WARM + runs):
        for name, work in works.items():
            times[name].append(seconds(work, device))
    return {name: statistics.median(column[WARM:]) for name, column in times.items()}


def agree(problem: Problem, exact: Problem) -> tuple[float, float]:
    """The differences in float64, term by term, and in float32, of the sums. Raises RuntimeError for what is no match."""
    wide, narrow = exact.agreement(), problem.agreement()
    if not (wide < 1e-6 and narrow < 1e-5):
        raise RuntimeError(f"the ledger differs from the loop by {wide:.1e} (float64), {narrow:.1e} (float32)")
    return wide, narrow


def on_cpu(console: Console) -> None:
    """The ledger, the loop and the network alone, one thread."""
    torch.set_num_threads(1)
    table = Table(title=f"CPU, 1 thread, torch {torch.__version__}, float32; {STEPS} steps, {BATCH} data, ms")
    for name in ("MLP on the plane", "ours", "loop", "ratio", "network", "ours/network", "terms off by", "sum off by"):
        table.add_column(name, justify="right")
    cpu = torch.device("cpu")
    for width in WIDTHS:
        problem, exact = (
            Problem.of(networks.MLP(2, width, 3).to(dtype), (2,), BATCH, torch.empty(0, dtype=dtype))
            for dtype in (torch.float32, torch.float64)
        )
        wide, narrow = agree(problem, exact)
        works = {"ours": problem.ours, "loop": problem.by_hand, "network": problem.network}
        found = {name: 1e3 * value for name, value in medians(works, cpu).items()}
        table.add_row(
            f"3 × {width}", f"{found['ours']:.1f}", f"{found['loop']:.0f}", f"{found['loop'] / found['ours']:.1f}",
            f"{found['network']:.1f}", f"{found['ours'] / found['network']:.2f}", f"{wide:.0e}", f"{narrow:.0e}",
        )  # fmt: skip
    console.print(table)


def on_gpu(console: Console) -> None:
    """The ledger and the network alone, a UNet on images."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    like, device = torch.empty(0, device="cuda"), torch.device("cuda")
    table = Table(title=f"{torch.cuda.get_device_name()}, torch {torch.__version__}, float32/tf32; {STEPS} steps, s")
    for name in ("network", "data", "states a block", "ours", "network alone", "throughput kept"):
        table.add_column(name, justify="right")
    for channels, side, width, batch in ((1, 28, 32, 64), (3, 32, 64, 16)):
        unet = networks.UNet(channels, side, width=width, multipliers=(1, 2, 2), blocks=2, attention=(side // 2,))
        problem = Problem.of(unet, (channels, side, side), batch, like)
        found = medians({"ours": problem.ours, "network": problem.network}, device, runs=5)
        count = sum(p.numel() for p in unet.parameters()) / 1e6
        table.add_row(
            f"UNet {count:.1f}M {side}×{side}", str(batch), str(block_rows(problem.x0)), f"{found['ours']:.2f}",
            f"{found['network']:.2f}", f"{100 * found['network'] / found['ours']:.1f}%",
        )  # fmt: skip
    console.print(table)


def main() -> None:
    """Print the tables."""
    console = Console(width=130)
    on_cpu(console)
    if torch.cuda.is_available():
        on_gpu(console)


if __name__ == "__main__":
    main()
