"""``unidiff bench images``: few-step sampling of images, DxMI beside the teacher's own samplers.

The data are halved, class by class. On one half a teacher is trained by denoising, DxMI's chains of a few steps from it, and
a classifier; the other half is held out. A row of the table is a method: the squared Fréchet distance of the classifier's
features to the held-out half and to the half that was trained on, precision and recall for the held-out half (k = 3), the
share of copies of what was trained on (nearer than half the way to the datum's nearest neighbour), the seconds of training
beyond the teacher's and those of drawing. The halves have rows of their own: what the data themselves score. Of the
teacher's samplers each is at its best of a few grids, by the held-out half.
Written to the folder ``out``: the figures as JSON, a sheet of samples, a row for each method, and the teacher if it was
trained here, for ``reference``.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from unidiff.bench import few_steps, machine
from unidiff.bench.timing import seconds
from unidiff.core.boundary import check_count, check_name, check_once, check_positive, check_seed
from unidiff.core.diffusion import Diffusion
from unidiff.core.grid import TimeGrid
from unidiff.core.tables import Method
from unidiff.report import save_grid
from unidiff.rl import FitConfig, fit_classifier
from unidiff.train import Dataset, load_core, load_data
from unidiff.train.checkpoint import save_core
from unidiff.train.image_metrics import copy_rate, frechet, precision_recall

NetworkChoice = Literal["auto", "mlp", "unet"]
FIT = 1500  # steps of the classifier, at most
LONG = 100  # steps of the teacher at leisure
MANIFOLD = 5000  # points of each set for precision and recall, at most
COPIES = 2000  # samples that are looked at for copies, at most
SHOWN = 24  # samples a row of the sheet
SMALL = 256  # numbers of a datum up to which a perceptron is enough
RIVALS: tuple[Method, ...] = ("ddim", "ancestral")


@dataclasses.dataclass(frozen=True)
class ImagesBenchOptions:
    """Sample images in few steps: DxMI beside DDIM and ancestral sampling of its own teacher.

    Attributes:
        data: labelled images: digits, or an .npz file.
        network: an MLP on flat data or a U-Net; an MLP for small images, if "auto".
        steps: numbers of steps to sample in.
        reference: a checkpoint of a teacher; one is trained if left out.
        minutes: of the teacher's training, and half as long of the value's; the recipe's steps if left out.
        rounds: of DxMI; the recipe's if left out.
        samples: of each method.
        device: cpu, cuda or cuda:N; a GPU if there is one, if left out.
        seed: of all draws.
        out: folder of images.json and images.png, and of teacher.safetensors if one is trained.
        json: print the JSON document instead of the table.

    Raises:
        TypeError, ValueError: naming the option.
    """

    data: str = "digits"
    network: NetworkChoice = "auto"
    steps: tuple[int, ...] = (4, 10)
    reference: Path | None = None
    minutes: float | None = None
    rounds: int | None = None
    samples: int = 5000
    device: str | None = None
    seed: int = 0
    out: Path = Path("images-bench")
    json: bool = False

    def __post_init__(self) -> None:
        check_name("network", self.network, get_args(NetworkChoice))
        if not self.steps:
            raise ValueError("steps must name at least one number of steps, got none")
        for steps in self.steps:
            check_count("steps", steps, 2)
        check_once("steps", [str(steps) for steps in self.steps])
        check_count("samples", self.samples, 100)
        check_seed(self.seed)
        if self.rounds is not None:
            check_count("rounds", self.rounds)
        if self.minutes is not None:
            check_positive("minutes", self.minutes)

    @property
    def place(self) -> torch.device:
        """Where to compute."""
        return machine.chosen(self.device)


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """What a method's samples are.

    Attributes:
        x0: some of them, ``[SHOWN, *E]``.
        steps: how many it took, 0 for data.
        grid: which grid of times, if it could choose.
        held_out, seen: Fréchet distance to the data held out, and to those trained on.
        precision, recall: for the data held out.
        copies: the share of copies of data trained on.
        trained: seconds of training beyond the teacher's.
        drawn: seconds of drawing.
    """

    x0: Tensor
    steps: int
    grid: str
    held_out: float
    seen: float
    precision: float
    recall: float
    copies: float
    trained: float = 0.0
    drawn: float = 0.0


FIGURES = ("steps", "grid", "held_out", "seen", "precision", "recall", "copies", "trained", "drawn")


class Bench:
    """What all methods are given: the halves of the data, the teacher, the value, the classifier's features."""

    def __init__(self, options: ImagesBenchOptions, console: Console) -> None:
        self.options, self.device = options, options.place
        data = load_data(options.data, dtype=torch.float32)
        if data.labels is None or data.image_shape is None:
            raise ValueError(f"data must be labelled images, got {options.data!r} of shape {list(data.x.shape[1:])}")
        self.image_shape = data.image_shape
        small = data.x[0].numel() <= SMALL
        self.network = options.network if options.network != "auto" else "mlp" if small else "unet"
        data = data.flatten() if self.network == "mlp" else data
        self.plan = few_steps.recipe(self.network, options.data)
        seen, held_out = halves(data, options.seed)
        self.seen, self.held_out = (part.x.to(self.device) for part in (seen, held_out))
        self.seconds: dict[str, float] = {}
        parts: list[Any] = []
        works = {
            "classifier": lambda: parts.append(self._classifier(seen)),
            "teacher": lambda: parts.append(self._teacher(seen)),
            "value": lambda: parts.append(self._value(seen, parts[1])),
        }
        for name, work in works.items():
            with console.status(f"the {name}"):
                self.seconds[name] = seconds(work, self.device)
        self.classifier, self.teacher, self.value = parts
        with torch.no_grad():
            right = self.classifier(self.held_out).argmax(1).cpu() == held_out.labels
        self.accuracy = float(right.double().mean())
        self.features = self.read(self.seen), self.read(self.held_out)
        order = torch.randperm(len(held_out), generator=machine.draws(options.seed, 3, torch.device("cpu")))
        one, other = (self.features[1][part] for part in order.chunk(2))
        self.noise = frechet(one, other)

    def _classifier(self, seen: Dataset) -> Any:
        width, depth = (64, 2) if self.network == "mlp" else (32, 3)
        seed = (self.options.seed + 1) % 2**63
        fit = FitConfig(width=width, depth=depth, steps=FIT, seed=seed, device=str(self.device))
        assert seen.labels is not None
        return fit_classifier(seen.x, seen.labels, fit).model

    def _teacher(self, seen: Dataset) -> Diffusion:
        options = self.options
        if options.reference is not None:
            core = load_core(options.reference)
            if tuple(core.event_shape) != seen.event_shape:
                raise ValueError(
                    f"reference must be of data of shape {list(seen.event_shape)}, {options.reference} is of "
                    f"{list(core.event_shape)}"
                )
        else:
            config = self._config(self.plan.teacher, 1.0)
            if self.device.type == "cuda":
                config = dataclasses.replace(config, amp="bf16", compile=True)
            core = few_steps.trained(None, config, seen)
            save_core(options.out / "teacher.safetensors", core)
        return core.to(self.device).requires_grad_(False).eval()

    def _value(self, seen: Dataset, teacher: Diffusion) -> Diffusion:
        core = few_steps.value_core(self.plan, seen, teacher.schedule, self.options.seed)
        return few_steps.trained(core, self._config(self.plan.value, 0.5), seen).to(self.device)

    def _config(self, config: Any, share: float) -> Any:
        minutes = self.options.minutes
        budget = {} if minutes is None else {"minutes": share * minutes, "steps": None}
        return dataclasses.replace(config, device=str(self.device), seed=self.options.seed, out=None, **budget)

    def read(self, x: Tensor) -> Tensor:
        """The classifier's features of ``x``, ``[n, F]``."""
        with torch.no_grad():
            return torch.cat([self.classifier.features(part) for part in x.split(4096)])

    def judged(self, x: Tensor, steps: int, grid: str = "", *, trained: float = 0.0, drawn: float = 0.0) -> Row:
        """The figures of samples ``x``."""
        features, (seen, held_out) = self.read(x), self.features
        points = min(len(features), len(held_out), MANIFOLD)
        precision, recall = precision_recall(features[:points], held_out[:points])
        return Row(
            x[:SHOWN], steps, grid, frechet(features, held_out), frechet(features, seen), precision, recall,
            copy_rate(x[:COPIES], self.seen), trained, drawn,
        )  # fmt: skip

    def rival(self, method: Method, steps: int, grids: dict[str, TimeGrid]) -> Row:
        """One of the teacher's samplers, on the grid where it is nearest to the data held out."""
        options, found = self.options, dict[str, tuple[float, Tensor, float]]()
        for name, grid in grids.items():
            kept: list[Tensor] = []
            generator = machine.draws(options.seed, 0, self.device)

            def draw(grid: TimeGrid = grid, kept: list[Tensor] = kept, g: torch.Generator = generator) -> None:
                kept.append(few_steps.sampled(self.teacher, grid, method, options.samples, g))

            spent = seconds(draw, self.device)
            found[name] = frechet(self.read(kept[0]), self.features[1]), kept[0], spent
        best = min(found, key=lambda name: found[name][0])
        return self.judged(found[best][1], steps, best, drawn=found[best][2])

    def dxmi(self, steps: int, progress: Progress) -> Row:
        """DxMI's chain."""
        options, config = self.options, self.plan.dxmi
        rounds = config.iterations if options.rounds is None else options.rounds
        config = config.changed(iterations=rounds, seed=options.seed, log_every=min(config.log_every, rounds))
        line, kept = progress.add_task(f"DxMI, {steps} steps", total=rounds), []

        def train() -> None:
            kept.append(
                few_steps.dxmi(
                    self.teacher, self.value, self.seen, steps, config, lambda n: progress.update(line, completed=n)
                )
            )

        spent = seconds(train, self.device) + self.seconds["value"]
        progress.remove_task(line)
        samples: list[Tensor] = []
        generator = machine.draws(options.seed, 0, self.device)
        drawn = seconds(lambda: samples.append(few_steps.walked(kept[0], options.samples, generator)), self.device)
        return self.judged(samples[0], steps, "its own", trained=spent, drawn=drawn)


def halves(data: Dataset, seed: int) -> tuple[Dataset, Dataset]:
    """The data in two halves, drawn within each class, so that both have each class as often."""
    assert data.labels is not None
    order = torch.randperm(len(data), generator=machine.draws(seed, 2, torch.device("cpu")))
    by_class = order[data.labels[order].argsort(stable=True)]
    first = torch.zeros(len(data), dtype=torch.bool)
    first[by_class[::2]] = True
    # In the drawn order, not the classes': a part of a half is then of all classes too.
    one, other = (
        dataclasses.replace(data, x=data.x[rows], labels=data.labels[rows])
        for rows in (order[first[order]], order[~first[order]])
    )
    return one, other


def measure(bench: Bench, console: Console) -> Iterator[dict[str, Row]]:
    """The rows so far, each time there are more: the data, the teacher at leisure, then for each number of steps."""
    rows = {"data trained on": bench.judged(bench.seen, 0), "data held out": bench.judged(bench.held_out, 0)}
    for method in RIVALS:
        rows[f"teacher, {method}"] = bench.rival(method, LONG, {"uniform": TimeGrid.uniform(LONG)})
    yield rows
    with Progress(console=console, transient=True) as progress:
        for steps in progress.track(bench.options.steps, description="numbers of steps"):
            for method in RIVALS:
                grids = few_steps.grids(bench.teacher.schedule, steps)
                rows[f"{method}, {steps}"] = bench.rival(method, steps, grids)
            rows[f"DxMI, {steps}"] = bench.dxmi(steps, progress)
            yield rows


def ratios(rows: dict[str, Row], steps: tuple[int, ...]) -> dict[str, dict[str, float]]:
    """How many times nearer DxMI's samples are than each rival's, to the data held out and to those trained on."""
    found: dict[str, dict[str, float]] = {}
    for n in steps:
        if (own := rows.get(f"DxMI, {n}")) is None:
            continue
        for method in RIVALS:
            other = rows[f"{method}, {n}"]
            found[f"{method}, {n}"] = {"held_out": other.held_out / own.held_out, "seen": other.seen / own.seen}
    return found


def table(options: ImagesBenchOptions, bench: Bench, rows: dict[str, Row]) -> Table:
    """A line for each method."""
    told = ", ".join(f"{name} {spent:.0f} s" for name, spent in bench.seconds.items())
    shown = Table(
        title=f"{options.data} in few steps, {bench.network}; {machine.named(bench.device)}, torch {torch.__version__}",
        caption=f"training: {told}; held-out accuracy of the classifier {bench.accuracy:.1%}; two halves of the data held "
        f"out are {bench.noise:.3g} apart",
    )
    shown.add_column("method, steps")
    names = ("grid", "Fréchet, held out", "to trained on", "precision", "recall", "copies", "training s", "drawing s")
    for name in names:
        shown.add_column(name, justify="left" if name == "grid" else "right")
    for name, row in rows.items():
        steps = f", {row.steps}" if name.startswith("teacher") else ""
        shown.add_row(
            name + steps, row.grid, f"{row.held_out:.3g}", f"{row.seen:.3g}", f"{row.precision:.3f}", f"{row.recall:.3f}",
            f"{row.copies:.1%}", f"{row.trained:.0f}", f"{row.drawn:.2f}",
        )  # fmt: skip
    return shown


def document(options: ImagesBenchOptions, bench: Bench, rows: dict[str, Row]) -> dict[str, Any]:
    """The same, JSON-ready."""
    told = dataclasses.asdict(options) | {"device": str(options.place), "network": bench.network}
    told = {name: str(v) if isinstance(v, Path) else v for name, v in told.items() if name != "json"}
    return {
        "options": told | {"steps": list(options.steps)},
        "seconds": bench.seconds,
        "accuracy": bench.accuracy,
        "noise": bench.noise,
        "rows": [{"method": name} | {key: getattr(row, key) for key in FIGURES} for name, row in rows.items()],
        "times_nearer": ratios(rows, options.steps),
    }


def run(options: ImagesBenchOptions) -> dict[str, Any]:
    """Measure, print, and write ``images.json`` and ``images.png``, after each number of steps too; returns the document."""
    console = Console(stderr=options.json, width=max(130, Console().width))
    bench, told, text, rows = Bench(options, console), {}, "", {}
    options.out.mkdir(parents=True, exist_ok=True)
    for rows in measure(bench, console):
        told = document(options, bench, rows)
        text = json.dumps(told, indent=2, allow_nan=False) + "\n"
        (options.out / "images.json").write_text(text, encoding="utf-8")
        shown = torch.cat([row.x0 for row in rows.values()]).float().cpu().reshape(-1, *bench.image_shape)
        save_grid(options.out / "images.png", shown.numpy(), columns=SHOWN)
    if options.json:
        sys.stdout.write(text)
    else:
        console.print(table(options, bench, rows))
        console.print(f"{options.out}: images.json, and images.png, a row of samples for each", style="dim")
    return told
