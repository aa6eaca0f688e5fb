"""``python -m unidiff.bench.step``: a captured sampling step beside its floor, the bare network replayed as a CUDA graph.

Both are replayed 50 times a run (10 where a step takes long); the median of 25 runs, the two in turn. The captured
sampler must first give what the eager loop gives.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table

from unidiff.core import networks
from unidiff.core.denoiser import Denoiser
from unidiff.core.diffusion import Diffusion
from unidiff.core.grid import TimeGrid
from unidiff.core.sampling import Sampler
from unidiff.core.schedule import Schedule
from unidiff.core.tables import METHODS, Method

RUNS, WARM = 25, 3


def cores() -> dict[str, tuple[Diffusion, tuple[int, ...]]]:
    """The networks measured, with random weights, and their batch sizes."""
    torch.manual_seed(0)
    flat = Denoiser(networks.MLP(2, width=256, depth=3), (2,), "eps")
    unet = networks.UNet(3, 32, width=64, multipliers=(1, 2, 2), blocks=2, attention=(16,))
    for module in (flat.network, unet):
        for p in module.parameters():  # pyright: ignore
            if p.ndim > 1 and not p.abs().sum() > 0:
                torch.nn.init.normal_(p, std=0.02)
    image = Denoiser(unet, (3, 32, 32), "eps")
    count = sum(p.numel() for p in unet.parameters()) / 1e6
    return {
        "MLP 256": (Diffusion(Schedule.cosine(), flat).cuda().eval(), (64, 4096, 65536)),
        f"UNet {count:.1f}M 32×32": (Diffusion(Schedule.cosine(), image).cuda().eval(), (64, 512)),
    }


def milliseconds(work: Callable[[], object]) -> float:
    """The time of one run of ``work`` on the GPU."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)


def floor(core: Diffusion, x: torch.Tensor, steps: int) -> Callable[[], None]:
    """The network's own forward, level embedding included, replayed ``steps`` times."""
    noise = torch.zeros(x.shape[0], device=x.device)
    network = core.denoiser.network  # pyright: ignore
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.no_grad(), torch.cuda.stream(stream):
        for _ in range(3):
            network(x, noise, None)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        network(x, noise, None)

    def replay() -> None:
        for _ in range(steps):
            graph.replay()

    return replay


def measure(core: Diffusion, batch: int, method: Method, steps: int) -> tuple[float, float, float]:
    """(floor, ours) in ms a network evaluation, and the largest difference from the eager loop."""
    generator = torch.Generator("cuda").manual_seed(0)
    x = core.prior(batch, generator, torch.empty(0, device="cuda"))
    grid = TimeGrid.uniform(steps)
    eager = Sampler(core, grid, method, graph=False)(x, torch.Generator("cuda").manual_seed(1))
    sampler = Sampler(core, grid, method)
    own = sampler(x, torch.Generator("cuda").manual_seed(1))
    difference = float((own - eager).abs().max() / eager.abs().max())
    bare = floor(core, x, steps)
    pairs = [(milliseconds(bare), milliseconds(lambda: sampler(x, generator))) for _ in range(WARM + RUNS)][WARM:]
    base, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
    return base / steps, ours / sampler.table.rows, difference


def main() -> None:
    """Print the table."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    console = Console(width=110)
    table = Table(title=f"{torch.cuda.get_device_name()}, torch {torch.__version__}, float32/tf32")
    for name in ("network", "batch", "method", "steps", "floor ms", "step ms", "ratio", "eager differs by"):
        table.add_column(name, justify="right")
    for name, (core, batches) in cores().items():
        for batch in batches:
            steps = 10 if "UNet" in name and batch > 64 else 50
            for method in METHODS if batch in (64, 65536) and "MLP" in name else ("ddim", "ancestral", "dpm++2m"):
                base, ours, off = measure(core, batch, method, steps)
                figures = f"{base:.4f}", f"{ours:.4f}", f"{ours / base:.3f}", f"{off:.1e}"
                table.add_row(name, str(batch), method, str(steps), *figures)
    console.print(table)


if __name__ == "__main__":
    main()
