"""``python -m unidiff.bench.energies``: a step of contrastive divergence beside torchebm's, on one network and one MCMC.

A step is the chains, the loss and its gradient in the network's parameters. torchebm's is its ContrastiveDivergence with
its LangevinDynamics, without a regulariser, ours :class:`unidiff.ebm.ContrastiveDivergence` with ULA of the same step size:
k steps from the data (CD), or from a buffer of 10 000 chains (PCD). Before anything is timed, both take one CD step from the
same draws in float64 on the CPU, and must agree in loss and gradient. Each figure is the median of steps taken in turn.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

from unidiff.bench import machine
from unidiff.bench.timing import medians
from unidiff.ebm import ContrastiveDivergence, EnergyModel, PersistentCD
from unidiff.mcmc import ULA

STEP_SIZE, CAPACITY = 0.01, 10_000


@dataclass(frozen=True)
class Problem:
    """A network, a batch, and how long the chains are."""

    dim: int
    width: int
    batch: int
    steps: int


PROBLEMS = (
    Problem(2, 64, 256, 1),
    Problem(2, 64, 256, 10),
    Problem(2, 128, 1024, 10),
    Problem(64, 256, 128, 10),
    Problem(64, 256, 128, 40),
    Problem(784, 512, 128, 20),
)


def network(problem: Problem, device: torch.device, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """A perceptron of two hidden layers with one output, as one would write it."""
    torch.manual_seed(0)
    width = problem.width
    layers = nn.Linear(problem.dim, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1)
    return nn.Sequential(*layers).to(device, dtype)


def peer(problem: Problem, net: nn.Module, like: Tensor, persistent: bool) -> Callable[..., tuple[Tensor, Tensor]]:
    """torchebm's loss on that network, ``(x, generator=…) -> (loss, chains)``."""
    from torchebm import core, losses, samplers  # pyright: ignore

    class Model(core.BaseModel):
        def __init__(self) -> None:
            super().__init__(dtype=like.dtype, device=like.device)
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x).squeeze(-1)

    model = Model()
    options: dict[str, Any] = {"dtype": like.dtype, "device": like.device}
    sampler = samplers.LangevinDynamics(model, step_size=STEP_SIZE, noise_scale=1.0, **options)
    return losses.ContrastiveDivergence(
        model, sampler, k_steps=problem.steps, persistent=persistent, buffer_size=CAPACITY, init_steps=0,
        new_sample_ratio=0.05 if persistent else 0.0, energy_reg_weight=0.0, **options,
    )  # fmt: skip


def step(net: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The chains, the loss and its gradient in the network's parameters; returns the loss."""

    def work() -> Tensor:
        net.zero_grad(set_to_none=True)
        value = loss()
        value.backward()
        return value.detach()

    return work


def works(problem: Problem, x: Tensor, persistent: bool) -> dict[str, tuple[nn.Module, Callable[[], Tensor]]]:
    """Each one's network and step."""
    own, other = (network(problem, x.device, x.dtype) for _ in range(2))
    ula = ULA(STEP_SIZE)
    method = (
        PersistentCD(problem.steps, ula, capacity=CAPACITY) if persistent else ContrastiveDivergence(problem.steps, ula)
    )
    learner = method.learner(EnergyModel(own, (problem.dim,)))
    rival = peer(problem, other, x, persistent)
    mine, theirs = (torch.Generator(x.device).manual_seed(1) for _ in range(2))
    return {
        "ours": (own, step(own, lambda: learner.loss(x, mine))),
        "torchebm": (other, step(other, lambda: rival(x, generator=theirs)[0])),
    }


def agreement(problem: Problem) -> float:
    """How far the two are apart in loss and gradient after one CD step from the same draws, relative to the gradient.

    Raises:
        RuntimeError: by more than 1e-9.
    """
    x = torch.randn(problem.batch, problem.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    told = {}
    for name, (net, work) in works(problem, x, persistent=False).items():
        value = work()
        told[name] = torch.cat([value.reshape(1), *(p.grad.flatten() for p in net.parameters() if p.grad is not None)])
    off = float((told["ours"] - told["torchebm"]).abs().max() / told["torchebm"].abs().max())
    if not off < 1e-9:
        raise RuntimeError(f"{problem}: the steps differ by {off:.1e}; nothing to compare")
    return off


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m unidiff.bench.energies", description=__doc__)
    parser.add_argument("--device", help="cpu or cuda; a GPU if there is one, unless named")
    device = machine.chosen(parser.parse_args().device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    title = f"{machine.named(device)}, torch {torch.__version__}, float32; milliseconds a step"
    table = Table(title=title)
    for name in ("dim", "width", "batch", "k", "start", "ours", "torchebm", "torchebm / ours", "off by"):
        table.add_column(name, justify="right")
    console = Console(width=120)
    for problem in track(PROBLEMS, "steps", console=console, transient=True):
        off = agreement(problem)
        x = torch.randn(problem.batch, problem.dim, device=device)
        for persistent in (False, True):
            each: dict[str, Callable[[], object]] = {
                name: work for name, (_, work) in works(problem, x, persistent).items()
            }
            found = {name: 1e3 * value for name, value in medians(each, device, runs=60).items()}
            table.add_row(
                str(problem.dim), str(problem.width), str(problem.batch), str(problem.steps),
                "buffer" if persistent else "data", f"{found['ours']:.3f}", f"{found['torchebm']:.3f}",
                f"{found['torchebm'] / found['ours']:.2f}", f"{off:.0e}",
            )  # fmt: skip
    console.print(table)


if __name__ == "__main__":
    main()
