"""``python -m unidiff.bench.langevin``: Langevin chains beside their floor, a plain PyTorch loop and torchebm.

On a GPU the floor is the bare gradient of the energy, replayed as a CUDA graph once a step; on a CPU there is none. The
plain loop is the same arithmetic as one writes it by hand; given the same noise it must first end where ours ends.
torchebm is measured where it is installed. Each figure is the median of runs taken in turn.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from unidiff.bench import machine
from unidiff.bench.timing import medians
from unidiff.mcmc.metropolis import HMC, MALA
from unidiff.mcmc.running import Langevin
from unidiff.mcmc.state import Kernel, Noise
from unidiff.mcmc.target import Target
from unidiff.mcmc.unadjusted import BAOAB, ULA
from unidiff.worlds import library

Energy = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Problem:
    """An energy, how many chains and steps, and ULA's step size."""

    name: str
    energy: Energy
    dim: int
    chains: int
    steps: int
    step_size: float


def double_well(x: Tensor) -> Tensor:
    """(x_0² − 1)² + ½ the squares of the rest."""
    return (x[:, 0].square() - 1).square() + 0.5 * x[:, 1:].square().sum(1)


def eight_gaussians(device: torch.device) -> Energy:
    """−log density of :func:`unidiff.worlds.library.eight_gaussians`, up to a constant, as one would write it."""
    means = library.eight_gaussians().means.to(device=device, dtype=torch.float32)
    precision = (1.414 / 0.5) ** 2

    def energy(x: Tensor) -> Tensor:
        return -torch.logsumexp(-0.5 * precision * (x[:, None] - means).square().sum(-1), 1)

    return energy


def problems(device: torch.device) -> list[Problem]:
    """What is measured there."""
    mixture = eight_gaussians(device)
    if device.type == "cuda":
        return [
            Problem("8 Gaussians", mixture, 2, 10_000, 1000, 0.01),
            Problem("double well", double_well, 2, 10_000, 1000, 0.01),
            Problem("double well, 64-D", double_well, 64, 10_000, 1000, 0.01),
        ]
    return [
        Problem("8 Gaussians", mixture, 2, 100, 500, 0.01),
        Problem("8 Gaussians", mixture, 2, 10_000, 60, 0.01),
        Problem("double well", double_well, 2, 100, 500, 0.01),
        Problem("double well", double_well, 2, 10_000, 200, 0.01),
        Problem("double well, 64-D", double_well, 64, 1000, 100, 0.01),
    ]


def gradient(energy: Energy, x: Tensor) -> Tensor:
    """∇E as one writes it."""
    x = x.detach().requires_grad_()
    return torch.autograd.grad(energy(x).sum(), x)[0]


def plain(problem: Problem, x: Tensor, noise: Tensor | None = None) -> Tensor:
    """ULA by hand."""
    for k in range(problem.steps):
        xi = torch.randn_like(x) if noise is None else noise[k]
        x = x - problem.step_size * gradient(problem.energy, x) + (2 * problem.step_size) ** 0.5 * xi
    return x


def floor(problem: Problem, x: Tensor) -> Callable[[], object]:
    """The bare gradient as a CUDA graph, replayed once a step."""
    static = x.clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            gradient(problem.energy, static)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        gradient(problem.energy, static)

    def replay() -> None:
        for _ in range(problem.steps):
            graph.replay()

    return replay


def peer(problem: Problem, x: Tensor) -> Callable[[], object] | None:
    """torchebm's LangevinDynamics on the same energy with the same steps; None where it is not installed."""
    try:
        from torchebm import core, samplers  # pyright: ignore
    except ImportError:
        return None
    base = getattr(core, "BaseModel", None) or core.BaseEnergyFunction  # pyright: ignore

    class Model(base):
        def forward(self, x: Tensor) -> Tensor:
            return problem.energy(x)

    model = Model().to(x.device)
    # Its step is x − η ∇E + √(2η)·(noise scale)·ξ.
    try:
        sampler = samplers.LangevinDynamics(model, step_size=problem.step_size, noise_scale=1.0, device=x.device)
    except TypeError:
        sampler = samplers.LangevinDynamics(
            energy_function=model, step_size=problem.step_size, noise_scale=1.0, device=x.device
        )
    return lambda: sampler.sample(x=x.clone(), n_steps=problem.steps)


def agreement(problem: Problem, x: Tensor) -> float:
    """How far our chains end from the plain loop's on the same noise, relative; 32 steps in float64."""
    short = Problem(problem.name, problem.energy, problem.dim, problem.chains, 32, problem.step_size)
    x = x.double()
    noise = torch.randn(32, *x.shape, dtype=x.dtype, device=x.device)
    by_hand = plain(short, x, noise)
    run = Langevin(Target.from_energy(problem.energy), ULA(problem.step_size))
    off = float((run(x, 32, noise=Noise(noise)).x - by_hand).abs().max() / by_hand.abs().max())
    if not off < 1e-9:
        raise RuntimeError(f"{problem.name}: our chains differ from the plain loop's by {off:.1e}; nothing to compare")
    return off


def kernels(problem: Problem) -> dict[str, Kernel]:
    """The kernels beside ULA, each at a step of the same size."""
    step = (2 * problem.step_size) ** 0.5
    return {"MALA": MALA(problem.step_size), "HMC(5)": HMC(step, 5), "BAOAB": BAOAB(step)}


def main() -> None:
    """Print the table."""
    device = machine.chosen(None)
    table = Table(title=f"{machine.named(device)}, torch {torch.__version__}, float32; microseconds a step")
    for name in ("energy", "chains", "steps", "floor", "ours", "ratio", "plain", "torchebm", "off by", "others"):
        table.add_column(name, justify="right")
    warnings.simplefilter("ignore")
    console = Console(width=150)
    for problem in track(problems(device), "energies", console=console, transient=True):
        x = torch.randn(problem.chains, problem.dim, device=device)
        off = agreement(problem, x)
        target = Target.from_energy(problem.energy)
        own = Langevin(target, ULA(problem.step_size))
        works: dict[str, Callable[[], object]] = {
            "ours": lambda own=own, x=x, p=problem: own(x, p.steps),
            "plain": lambda x=x, p=problem: plain(p, x),
        }
        if device.type == "cuda":
            works["floor"] = floor(problem, x)
        rival = peer(problem, x)
        if rival is not None:
            works["torchebm"] = rival
        for name, kernel in kernels(problem).items():
            held = Langevin(target, kernel)
            works[name] = lambda held=held, x=x, p=problem: held(x, p.steps)
        found = {name: 1e6 * value / problem.steps for name, value in medians(works, device).items()}
        base = found.get("floor")
        table.add_row(
            problem.name, str(problem.chains), str(problem.steps), "" if base is None else f"{base:.2f}",
            f"{found['ours']:.2f}", "" if base is None else f"{found['ours'] / base:.3f}",
            _beside(found, "plain"), _beside(found, "torchebm"), f"{off:.0e}",
            ", ".join(f"{name} {found[name]:.1f}" for name in kernels(problem)),
        )  # fmt: skip
    console.print(table)


def _beside(found: dict[str, float], name: str) -> str:
    return f"{found[name]:.2f} ({found[name] / found['ours']:.2f}x)" if name in found else ""


if __name__ == "__main__":
    main()
