"""``unidiff bench classes``: samples of a network turned into one class, by every method, judged by who was not asked.

A class-conditional network is trained on labelled images and used without its labels, so that about a tenth of its samples
are of any one digit. The reward is log p(target|x_0) of a classifier fitted to one half of the data; the judge is another,
of another shape, fitted to the other half: what fools the first need not please the second. A row of the table is a method:
its seconds, the share of its samples that the judge reads as the target, the mean distance between two of those beside that
of the class's real images (1 is as diverse as they are), the mean of log p by the reward, and the KL of its paths to the
reference's in nats. Written to the folder ``out``: the figures as JSON, and a sheet of samples, a row for each method.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from unidiff.bench import machine
from unidiff.bench.timing import seconds
from unidiff.core.boundary import check_count, check_name, check_once, check_positive, check_seed
from unidiff.core.diffusion import Diffusion
from unidiff.core.grid import TimeGrid
from unidiff.report import save_grid
from unidiff.rl import (
    D3PO,
    DDPO,
    DPO,
    DPOK,
    AdjointMatching,
    Backprop,
    Classifier,
    ClassLogProb,
    DenoisingMDP,
    FitConfig,
    Method,
    Policy,
    bradley_terry,
    fit_classifier,
    trainable,
)
from unidiff.train import Dataset, FineTuneConfig, FineTuner, Trainer, load_core, load_data, presets

PAIRS = 4000  # of DPO's data set
FIT = 1500  # steps of a classifier, at most
SHOWN = 24  # samples a row of the sheet
Setting = tuple[Method, dict[str, Any]]

GPU: dict[str, Setting] = {
    "backprop": (Backprop(), {"rounds": 25, "chains": 64, "rows": 32, "lr": 2e-4, "warmup": 2}),
    "dpok": (DPOK(), {"rounds": 80, "chains": 256, "rows": 1280, "epochs": 2, "warmup": 5}),
    "adjoint": (AdjointMatching(), {"rounds": 80, "chains": 256, "rows": 1280, "warmup": 5}),
    "ddpo": (DDPO(), {"rounds": 80, "chains": 256, "rows": 1280, "warmup": 5}),
    "dpo": (DPO(draws=None, walks=True), {"rounds": 60, "chains": 512, "rows": 32, "warmup": 5}),
    "d3po": (D3PO(level="walk"), {"rounds": 60, "chains": 256, "rows": 32, "lr": 5e-5, "warmup": 5}),
}
CPU: dict[str, dict[str, Any]] = {name: {"rounds": 20} for name in ("dpok", "adjoint", "ddpo", "dpo", "d3po")}
"""What differs there: minutes, not hours."""


@dataclasses.dataclass(frozen=True)
class ClassesBenchOptions:
    """Fine-tune a network of labelled images towards one class, by every method; judged by another classifier.

    Attributes:
        data: labelled images: digits, or an .npz file.
        target: the class that is sought.
        beta: the KL temperature β, in units of reward.
        steps: of the chain.
        methods: only these; all of them if left out, on a CPU backprop alone.
        reference: a checkpoint of a network of these data; one is trained if left out.
        minutes: of its training: 3 on a CPU, 1 on a GPU, if left out.
        samples: of each policy, for its figures.
        device: cpu, cuda or cuda:N; a GPU if there is one, if left out.
        seed: of all draws.
        out: folder of classes.json and classes.png.
        json: print the JSON document instead of the table.

    Raises:
        TypeError, ValueError: naming the option.
    """

    data: str = "digits"
    target: int = 3
    beta: float = 1.0
    steps: int = 20
    methods: tuple[str, ...] = ()
    reference: Path | None = None
    minutes: float | None = None
    samples: int = 1000
    device: str | None = None
    seed: int = 0
    out: Path = Path("classes-bench")
    json: bool = False

    def __post_init__(self) -> None:
        check_count("target", self.target, 0)
        check_positive("beta", self.beta)
        check_count("steps", self.steps, 2)
        check_count("samples", self.samples, 100)
        check_seed(self.seed)
        if self.minutes is not None:
            check_positive("minutes", self.minutes)
            if self.reference is not None:
                raise ValueError(f"minutes are of a network that is trained, got {self.minutes} with a reference")
        for name in self.methods:
            check_name("method", name, GPU)
        check_once("methods", self.methods)

    @property
    def place(self) -> torch.device:
        """Where to compute."""
        return machine.chosen(self.device)

    @property
    def chosen(self) -> tuple[str, ...]:
        """The methods."""
        return self.methods or (tuple(GPU) if self.place.type == "cuda" else ("backprop",))


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """What a policy's samples are.

    Attributes:
        x0: its data, ``[n, *E]``.
        seconds: of the fine-tuning.
        hit: the share that the judge reads as the target.
        diversity: mean distance between two of those, beside that of the class's real images; 0 for fewer than two.
        reward: mean log p(target|x_0) by the classifier that was asked.
        kl: KL to the reference over paths, in nats.
    """

    x0: Tensor
    seconds: float
    hit: float
    diversity: float
    reward: float
    kl: float


class Bench:
    """What all methods are given: a network, the classifier of the reward, the judge."""

    def __init__(self, options: ClassesBenchOptions, console: Console) -> None:
        self.options, self.device = options, options.place
        data = load_data(options.data, dtype=torch.float32)
        classes = data.num_classes
        if data.labels is None or classes is None or data.x.ndim != 4:
            raise ValueError(f"data must be labelled images, got {options.data!r} of shape {list(data.x.shape[1:])}")
        if options.target >= classes:
            raise ValueError(f"target must be a class in 0 … {classes - 1}, got {options.target}")
        real = data.x[data.labels == options.target]
        self.real = spread(real[:2000].to(self.device))
        self.prepared = 0.0
        parts: list[Any] = []

        def prepare() -> None:
            parts.append(self._reference(data))
            halves = torch.randperm(len(data.x), generator=torch.Generator().manual_seed(options.seed)).chunk(2)
            for i, (half, shape) in enumerate(zip(halves, ((16, 3), (24, 2)), strict=True)):
                fit = FitConfig(
                    width=shape[0],
                    depth=shape[1],
                    steps=FIT,
                    seed=(options.seed + 1 + i) % 2**63,
                    device=str(self.device),
                )
                parts.append(fit_classifier(data.x[half], data.labels[half], fit))  # pyright: ignore

        with console.status("the network and the classifiers"):
            self.prepared = seconds(prepare, self.device)
        core, asked, judge = parts
        self.accuracy = asked.accuracy, judge.accuracy
        self.judge: Classifier = judge.model
        self.core: Diffusion = core.to(self.device).requires_grad_(False).eval()
        grid = TimeGrid.heard(options.steps, self.core.schedule)
        self.mdp = DenoisingMDP(
            self.core.chain(grid, "posterior"), ClassLogProb(asked.model, options.target), beta=options.beta
        )

    def _reference(self, data: Dataset) -> Diffusion:
        options = self.options
        if options.reference is not None:
            core = load_core(options.reference)
            if tuple(core.event_shape) != tuple(data.x.shape[1:]):
                raise ValueError(
                    f"reference must be of data of shape {list(data.x.shape[1:])}, {options.reference} is of "
                    f"{list(core.event_shape)}"
                )
            return core
        config = presets.for_data(options.data)
        gpu = self.device.type == "cuda"
        minutes = options.minutes or (1.0 if gpu else 3.0)
        config = dataclasses.replace(
            config, minutes=minutes, steps=None, amp="bf16" if gpu else "none", device=str(self.device),
            seed=options.seed, out=None,
        )  # fmt: skip
        return Trainer.start(config, data).fit()

    def generator(self, purpose: int) -> torch.Generator:
        """Of one purpose's draws: 0 a policy's figures, 1 samples to be compared, 2 their preferences."""
        return machine.draws(self.options.seed, purpose, self.device)

    def trained(self, name: str, progress: Progress) -> tuple[Diffusion, float]:
        """The core that a method ends at, and its seconds."""
        method, config = GPU[name]
        changes = CPU.get(name, {}) if self.device.type == "cpu" else {}
        asked: dict[str, Any] = {"lr": 1e-4} | config | changes
        run = FineTuneConfig(**asked, seed=self.options.seed, log_every=1)
        if isinstance(method, DPO):
            x = Policy(self.mdp, self.core).walk(2 * PAIRS, self.generator(1)).x0
            assert self.mdp.reward is not None
            method = method.on(bradley_terry(x[:PAIRS], x[PAIRS:], self.mdp.reward, self.generator(2)))
        line, tuned = progress.add_task(name, total=run.rounds), []

        def told(tuner: FineTuner, _: dict[str, float]) -> None:
            progress.update(line, completed=tuner.round)

        def train() -> None:
            tuned.append(FineTuner(self.mdp, trainable(self.core), method, run).fit(told))

        spent = seconds(train, self.device)
        progress.remove_task(line)
        return tuned[0], spent

    def read(self, core: Diffusion, spent: float) -> Row:
        """The figures of a policy."""
        walk = Policy(self.mdp, core).walk(self.options.samples, self.generator(0))
        with torch.no_grad():
            hit = self.judge(walk.x0).argmax(1) == self.options.target
        kl = float(walk.kl.sum(0).mean())
        diversity = spread(walk.x0[hit]) / self.real
        return Row(walk.x0, spent, float(hit.double().mean()), diversity, float(walk.reward.mean()), kl)


def spread(x: Tensor) -> float:
    """The mean distance between two of ``x`` ``[n, *E]``; 0 for fewer than two."""
    flat, n = x.flatten(1), len(x)
    return float(torch.cdist(flat, flat).sum()) / (n * (n - 1)) if n > 1 else 0.0


def measure(bench: Bench, console: Console) -> Iterator[dict[str, Row]]:
    """The rows so far, each time there is one more: the reference's own samples, then each method's."""
    rows = {"reference": bench.read(bench.core, 0.0)}
    yield rows
    with Progress(console=console, transient=True) as progress:
        for name in progress.track(bench.options.chosen, description="methods"):
            rows[name] = bench.read(*bench.trained(name, progress))
            yield rows


def table(options: ClassesBenchOptions, bench: Bench, rows: dict[str, Row]) -> Table:
    """A line for each method."""
    shown = Table(
        title=f"{options.data} towards {options.target}, β = {options.beta:g}, {options.steps} steps; "
        f"{machine.named(bench.device)}, torch {torch.__version__}",
        caption=f"the network and both classifiers took {bench.prepared:.0f} s; held-out accuracy of the one that is asked "
        f"{bench.accuracy[0]:.1%}, of the judge {bench.accuracy[1]:.1%}",
    )
    shown.add_column("method")
    for name in ("seconds", "read as the target", "diversity", "reward", "KL to p_ref"):
        shown.add_column(name, justify="right")
    for name, row in rows.items():
        shown.add_row(
            name, f"{row.seconds:.1f}", f"{row.hit:.1%}", f"{row.diversity:.3f}", f"{row.reward:.3f}", f"{row.kl:.2f}"
        )
    return shown


def document(options: ClassesBenchOptions, bench: Bench, rows: dict[str, Row]) -> dict[str, Any]:
    """The same, JSON-ready."""
    told = dataclasses.asdict(options) | {"device": str(options.place), "methods": list(options.chosen)}
    told = {name: str(v) if isinstance(v, Path) else v for name, v in told.items() if name != "json"}
    keys = ("seconds", "hit", "diversity", "reward", "kl")
    return {
        "options": told, "prepared": bench.prepared, "accuracy": list(bench.accuracy),
        "rows": [{"method": name} | {key: getattr(row, key) for key in keys} for name, row in rows.items()],
    }  # fmt: skip


def run(options: ClassesBenchOptions) -> dict[str, Any]:
    """Measure, print, and write ``classes.json`` and ``classes.png``, after each method too; returns the document."""
    console = Console(stderr=options.json, width=max(110, Console().width))
    bench, told, text, rows = Bench(options, console), {}, "", {}
    options.out.mkdir(parents=True, exist_ok=True)
    for rows in measure(bench, console):
        told = document(options, bench, rows)
        text = json.dumps(told, indent=2, allow_nan=False) + "\n"
        (options.out / "classes.json").write_text(text, encoding="utf-8")
        images = torch.cat([row.x0[:SHOWN] for row in rows.values()]).float().cpu().numpy()
        save_grid(options.out / "classes.png", images, columns=SHOWN)
    if options.json:
        sys.stdout.write(text)
    else:
        console.print(table(options, bench, rows))
        console.print(f"{options.out}: classes.json, and classes.png, a row of samples for each", style="dim")
    return told
