"""``unidiff bench dxmi``: samplers and energies of eight Gaussians in the plane, DxMI beside what it competes with.

The data are eight round Gaussians on a circle (Yoon et al. 2024, section 5.1; its code was never released). All networks
are perceptrons of one size. A row of the table is a way to sample and an energy, its columns means over the seeds:

sliced W1   of 10 000 draws to as many data, in units of x; two sets of data are the floor
AUC         of the energy, data against even draws of a square: the data's own density has 0.9025
KL          of the data from e^{-E}, normalised on a grid, in nats
seconds     of training

ddpm-T        a denoiser's ancestral chain of T steps
dxmi-T        DxMI on a chain of T steps, its value at t_0 the energy
no-anchor-T   the same without what holds the value to the noised data
gradient-T    the same without a policy: the chain along the value's own gradient
cd            contrastive divergence; sampled by Langevin chains on its energy
dsm           denoising score matching of an energy at every level; sampled by the ancestral chain of 100 steps
"""

from __future__ import annotations

import dataclasses
import json
import math
import multiprocessing
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from unidiff.bench import machine
from unidiff.core import networks
from unidiff.core.boundary import check_count, check_name, check_once, check_seed
from unidiff.core.chain import ReverseChain
from unidiff.core.denoiser import Denoiser
from unidiff.core.diffusion import Diffusion
from unidiff.core.grid import TimeGrid
from unidiff.core.schedule import Schedule
from unidiff.ebm import ContrastiveDivergence, DenoisingScoreMatching, EnergyModel
from unidiff.mcmc import ULA
from unidiff.train import Dataset, DxMIConfig, DxMITrainer, EnergyConfig, EnergyTrainer, TrainConfig, Trainer, metrics
from unidiff.worlds import library

DRAWS = 10_000
HALF = 4.0  # of the square's side
MOVES = 1000  # of a Langevin chain that samples an energy
GRID = 201  # points along a side of the grid, on [-5, 5]
WAVES = (1.0, 2.0, 4.0)  # frequencies that join a perceptron's input
ROWS = ("ddpm-5", "ddpm-10", "ddpm-100", "ddpm-1000", "dxmi-5", "dxmi-10", "no-anchor-5", "no-anchor-10", "gradient-5",
        "gradient-10", "cd", "dsm")  # fmt: skip
Figures = dict[str, float]


@dataclasses.dataclass(frozen=True)
class DxMIBenchOptions:
    """Eight Gaussians: DxMI beside few-step diffusion and energies learned otherwise.

    Attributes:
        rows: only these; all of them if left out.
        seeds: how many runs of each.
        share: of the rounds of every training; less than 1 for a quick look.
        jobs: runs at a time, each on one thread.
        device: cpu, cuda or cuda:N; the CPU if left out: the networks are small.
        seed: of the first run.
        out: folder of dxmi.json and dxmi.png.
        json: print the JSON document instead of the table.

    Raises:
        TypeError, ValueError: naming the option.
    """

    rows: tuple[str, ...] = ()
    seeds: int = 5
    share: float = 1.0
    jobs: int = 1
    device: str = "cpu"
    seed: int = 0
    out: Path = Path("dxmi-bench")
    json: bool = False

    def __post_init__(self) -> None:
        check_count("seeds", self.seeds)
        check_count("jobs", self.jobs)
        check_seed(self.seed)
        if not 0 < self.share <= 1:
            raise ValueError(f"share must lie in (0, 1], got {self.share}")
        for name in self.rows:
            check_name("row", name, ROWS)
        check_once("rows", self.rows)
        machine.chosen(self.device)

    @property
    def chosen(self) -> tuple[str, ...]:
        """The rows."""
        return self.rows or ROWS


@dataclasses.dataclass(frozen=True)
class Task:
    """A run: the rows that come of it, its seed, its share of the rounds, its device."""

    rows: tuple[str, ...]
    seed: int
    share: float
    device: str

    def rounds(self, count: int) -> int:
        """Of ``count``, this run's share."""
        return max(1, round(self.share * count))


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """What a run came to: figures for each of its rows, and draws and an energy to look at."""

    figures: dict[str, Figures]
    draws: dict[str, Tensor]
    energy: dict[str, Tensor]


def tasks(options: DxMIBenchOptions) -> list[Task]:
    """The runs, the longest first; all of a denoiser's chains are one."""
    own = [name for name in options.chosen if not name.startswith("ddpm")]
    ddpm = tuple(name for name in options.chosen if name.startswith("ddpm"))
    groups = sorted([(name,) for name in own], key=lambda names: -_steps(names[0])) + ([ddpm] if ddpm else [])
    return [
        Task(names, options.seed + i, options.share, options.device) for names in groups for i in range(options.seeds)
    ]


def done(task: Task) -> tuple[Task, Found]:
    """A run, on one thread."""
    torch.set_num_threads(1)
    device = torch.device(task.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(task.seed)
        kind = task.rows[0].split("-")[0] if not task.rows[0].startswith("no-anchor") else "no-anchor"
        way = {"ddpm": _ddpm, "cd": _cd, "dsm": _dsm}.get(kind, _dxmi)
        return task, way(task, device)


def schedule() -> Schedule:
    """λ even from 6 to −8: from a noise of a seventh of a component's deviation to hardly a trace of the data."""
    return Schedule.polynomial(1.0, 6.0, -8.0)


def core(energy: bool) -> Diffusion:
    """A core around a perceptron of 3 × 128, with an energy or without."""
    spread = float(library.eight_gaussians().variance.mean().sqrt())
    network: Any = networks.MLP(2, 128, 3, outputs=1 if energy else None, frequencies=WAVES)
    if energy:
        network = networks.GradientField(network)
    return Diffusion(schedule(), Denoiser(network, (2,), "x0", "edm", data_std=spread))


def _dxmi(task: Task, device: torch.device) -> Found:
    (row,) = task.rows
    kind, steps = row.rsplit("-", 1)
    value = EnergyModel.of(core(energy=True)).to(device)
    shared = kind == "gradient"
    own = value.source if shared else core(energy=False).to(device)
    assert isinstance(own, Diffusion)
    config = DxMIConfig(
        iterations=task.rounds(4500),
        start=task.rounds(1500),
        velocity="schedule" if shared else "adaptive",
        seed=task.seed,
        log_every=500,
    )
    if kind == "no-anchor":
        config = config.changed(anchor=0.0, ladder=0.0)
    trainer = DxMITrainer(own.chain(TimeGrid.uniform(int(steps))), value, library.eight_gaussians(), config)
    began = time.monotonic()
    chain = trainer.fit()
    spent = time.monotonic() - began
    first = float(chain.grid.times[0])
    return _found(row, task.seed, _draws(chain, task.seed, device), trainer.value, first, spent)


def _ddpm(task: Task, device: torch.device) -> Found:
    own = core(energy=False)
    config = TrainConfig(steps=task.rounds(6000), seed=task.seed, device=str(device), schedule="polynomial", warmup=100)
    began = time.monotonic()
    trained = Trainer(own, _data(task.seed), config).fit()
    spent = time.monotonic() - began
    figures, draws = {}, {}
    for row in task.rows:
        chain = trained.chain(TimeGrid.uniform(int(row.split("-")[1])))
        found = _found(row, task.seed, _draws(chain, task.seed, device), None, None, spent)
        figures |= found.figures
        draws |= found.draws
    return Found(figures, draws, {})


def _dsm(task: Task, device: torch.device) -> Found:
    model = EnergyModel.of(core(energy=True)).to(device)
    config = EnergyConfig(steps=task.rounds(6000), seed=task.seed, warmup=100)
    began = time.monotonic()
    trained = EnergyTrainer(model, _data(task.seed), DenoisingScoreMatching(), config).fit()
    spent = time.monotonic() - began
    own = trained.source
    assert isinstance(own, Diffusion)
    draws = _draws(own.chain(TimeGrid.uniform(100)), task.seed, device)
    return _found("dsm", task.seed, draws, trained, 0.0, spent)


def _cd(task: Task, device: torch.device) -> Found:
    model = EnergyModel(Flat(), (2,)).to(device)
    method = ContrastiveDivergence(steps=20, kernel=ULA(0.02), regulariser=0.1)
    config = EnergyConfig(steps=task.rounds(4500), seed=task.seed, warmup=100)
    began = time.monotonic()
    trained = EnergyTrainer(model, _data(task.seed), method, config).fit()
    spent = time.monotonic() - began
    generator = machine.draws(task.seed, 0, device)
    start = 2 * HALF * torch.rand(DRAWS, 2, generator=generator, device=device) - HALF
    draws = trained.langevin(start, MOVES, warmup=200, generator=generator).x.cpu()
    return _found("cd", task.seed, draws, trained, None, spent)


class Flat(torch.nn.Module):
    """An energy without time: a perceptron and the well that keeps it normalisable."""

    def __init__(self) -> None:
        super().__init__()
        self.network = networks.MLP(2, 128, 3, outputs=1, frequencies=WAVES)

    def forward(self, x: Tensor) -> Tensor:
        """E at ``x`` ``[B, 2]``, ``[B]``."""
        variance = 4.0
        return self.network(x / 2, torch.zeros_like(x[:, 0]))[:, 0] + 0.5 * x.square().sum(1) / variance


def _data(seed: int) -> Dataset:
    world = library.eight_gaussians()
    return Dataset(world.sample(2**17, torch.Generator().manual_seed(seed)).float(), name="eight-gaussians")


def _draws(chain: ReverseChain, seed: int, device: torch.device) -> Tensor:
    return chain.sample(DRAWS, machine.draws(seed, 0, device)).cpu()


def _found(row: str, seed: int, draws: Tensor, model: EnergyModel | None, t: float | None, spent: float) -> Found:
    world, generator = library.eight_gaussians(), machine.draws(seed, 1, torch.device("cpu"))
    data, again = (world.sample(DRAWS, generator) for _ in range(2))
    lines = metrics.directions(2, 256, torch.Generator().manual_seed(0))
    told = {
        "w1": metrics.sliced_wasserstein(draws, data, lines),
        "floor": metrics.sliced_wasserstein(again, data, lines),
        "seconds": spent,
    }
    if model is None:
        return Found({row: told}, {row: draws}, {})
    from sklearn.metrics import roc_auc_score

    first = next(model.parameters())
    square = 2 * HALF * torch.rand(DRAWS, 2, generator=generator, dtype=torch.float64) - HALF
    axis = torch.linspace(-5, 5, GRID, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        scores, ceiling, height = (
            torch.cat([energy(v.to(first)).double().cpu() for v in states])
            for energy, states in (
                (lambda x: model.energy(x, t) / model.tau, (data, square)),
                (lambda x: -world.to(x.dtype, x.device).log_prob(x), (data, square)),
                (lambda x: model.energy(x, t) / model.tau, (grid,)),
            )
        )
    labels = torch.cat([torch.zeros(DRAWS), torch.ones(DRAWS)]).numpy()
    told["auc"] = float(roc_auc_score(labels, scores.numpy()))
    told["ceiling"] = float(roc_auc_score(labels, ceiling.numpy()))
    cell = 2 * math.log(10 / (GRID - 1))
    log_q = -height - torch.logsumexp(-height, 0) - cell
    log_p = world.log_prob(grid)
    told["kl"] = float((log_p.exp() * (log_p - log_q)).sum() * math.exp(cell))
    return Found({row: told}, {row: draws}, {row: height.reshape(GRID, GRID)})


def _steps(row: str) -> int:
    return int(row.rsplit("-", 1)[1]) if row[-1].isdigit() else 1


def measure(options: DxMIBenchOptions, console: Console) -> Iterator[tuple[Task, Found]]:
    """The runs as they end."""
    todo = tasks(options)
    with Progress(console=console, transient=True) as progress:
        line = progress.add_task("runs", total=len(todo))
        if options.jobs == 1:
            for task in todo:
                yield done(task)
                progress.advance(line)
            return
        with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
            for ended in pool.imap_unordered(done, todo):
                yield ended
                progress.advance(line)


def document(options: DxMIBenchOptions, runs: dict[str, list[Figures]]) -> dict[str, Any]:
    """All runs' figures, JSON-ready, in the order of the rows."""
    told = dataclasses.asdict(options) | {"rows": list(options.chosen), "out": str(options.out)}
    del told["json"]
    device = machine.named(torch.device(options.device))
    return {"options": told, "device": device, "rows": {name: runs[name] for name in options.chosen if name in runs}}


def table(told: dict[str, Any]) -> Table:
    """A line for each row: means over the runs, and their deviations."""
    floors = [run["floor"] for runs in told["rows"].values() for run in runs]
    tops = [run["ceiling"] for runs in told["rows"].values() for run in runs if "ceiling" in run]
    top = f"{statistics.mean(tops):.4f}" if tops else "0.9025"
    shown = Table(
        title=f"eight Gaussians, {told['options']['seeds']} seeds; {told['device']}, torch {torch.__version__}",
        caption=f"two sets of data: sliced W1 {statistics.mean(floors):.4f}; the data's own density: AUC {top}",
    )
    shown.add_column("row")
    for name in ("sliced W1", "AUC", "KL, nats", "seconds"):
        shown.add_column(name, justify="right")
    for name, runs in told["rows"].items():
        cells = [
            _cell([run[key] for run in runs if key in run], digits)
            for key, digits in (("w1", 4), ("auc", 4), ("kl", 3))
        ]
        shown.add_row(name, *cells, f"{statistics.mean(run['seconds'] for run in runs):.0f}")
    return shown


def _cell(values: list[float], digits: int) -> str:
    if not values:
        return "–"
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def run(options: DxMIBenchOptions) -> dict[str, Any]:
    """Measure, print, and write ``dxmi.json`` and ``dxmi.png``, after each run too; returns the document."""
    console = Console(stderr=options.json, width=max(100, Console().width))
    options.out.mkdir(parents=True, exist_ok=True)
    runs: dict[str, list[Figures]] = {}
    shown: dict[str, tuple[Tensor, Tensor | None]] = {}
    told: dict[str, Any] = {}
    for task, found in measure(options, console):
        for name, figures in found.figures.items():
            runs.setdefault(name, []).append({"seed": task.seed, **figures})
            if task.seed == options.seed:
                shown[name] = found.draws[name], found.energy.get(name)
        told = document(options, runs)
        (options.out / "dxmi.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    from unidiff.report.energies import planes

    names = [name for name in options.chosen if name in shown]
    figure = planes({name: (draws.numpy(), None if e is None else e.numpy()) for name, (draws, e) in
                     ((n, shown[n]) for n in names)}, 5.0)  # fmt: skip
    figure.savefig(options.out / "dxmi.png", dpi=110, facecolor="white")
    if options.json:
        sys.stdout.write(json.dumps(told, indent=1) + "\n")
    else:
        console.print(table(told))
        console.print(f"{options.out}: dxmi.json, and dxmi.png, draws and energies of the first seed", style="dim")
    return told
