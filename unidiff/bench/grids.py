"""``unidiff bench grids``: the few times at which a trained network is best asked, beside those that people chose.

The data are halved, class by class; one half trains a core and a classifier, and prices the steps. Judged by the other half:

bound    the diffusion terms of the variational bound on K steps, above those of 1000: the path of the ELBO's own prices
samples  Fréchet distance of the classifier's features, for DDIM and DPM-Solver++(2M): the path of the sampler's own prices
         (searched), and where descent of the energy distance to the data, through the sampler, goes from the best grid
         (descended); it sees the half trained on, as pixels or by the features of another classifier, never the judge

Hand-made grids are uniform, quadratic, Karras', even in log-SNR, and the two published ones of AYS. A search's seconds are
beside those of drawing 10 000 samples in 50 steps. Written to the folder ``out``: grids.json, and every grid found.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from unidiff.bench import few_steps, machine
from unidiff.bench.images import FIT, SMALL, halves
from unidiff.bench.timing import seconds
from unidiff.core.boundary import check_count, check_name, check_once, check_positive, check_seed
from unidiff.core.diffusion import Diffusion
from unidiff.core.grid import TimeGrid
from unidiff.core.sampling import Sampler
from unidiff.core.times import finite_span
from unidiff.paths import Search, handmade, refine, search
from unidiff.rl import Classifier, FitConfig, fit_classifier
from unidiff.train import load_core, load_data, save_core
from unidiff.train.image_metrics import frechet
from unidiff.vae import HierarchicalVAE

Part = Literal["bound", "samples"]
Sampled = Literal["ddim", "dpm++2m"]
PARTS: tuple[Part, ...] = ("bound", "samples")
METHODS: tuple[Sampled, ...] = ("ddim", "dpm++2m")
FINE = 1000  # steps of the bound that excesses are above
MEASURED = 512  # held-out data of the bound
AFTER, STEPS_AFTER = 10_000, 50  # the draws that a search is to cost less than
RATE = 0.1  # of a descent: fewer rounds must go as far
OWN = ("searched", "descended")
Goal = Literal["features", "pixels"]
GOALS: tuple[Goal, ...] = ("features", "pixels")


@dataclasses.dataclass(frozen=True)
class GridsBenchOptions:
    """Few-step grids of a trained network, searched and hand-made.

    Attributes:
        data: labelled images: digits, or an .npz file.
        parts: what is judged: bound, samples.
        methods: samplers.
        steps: numbers of steps.
        seeds: searches of each.
        reference: a checkpoint of the core, of a run that saw the first half of each class alone (``core.safetensors`` of an
            earlier ``out``); it does not say so itself. One is trained if left out.
        minutes: of its training; the recipe's steps if left out.
        nodes: steps between a sampler's candidates; the bound has four times as many.
        walks: of the teacher, and data of the bound, that steps are priced on.
        samples: of each grid.
        goal: what descent compares: the features of a classifier that is not the judge, or pixels.
        passes: of the network in a descent, one a step and round, each for 128 samples and back.
        device: cpu, cuda or cuda:N; a GPU if there is one, if left out. On a GPU networks run in bfloat16.
        seed: of the first search.
        out: folder of grids.json, the grids found, and core.safetensors if one is trained.
        json: print the JSON document instead of the tables.

    Raises:
        TypeError, ValueError: naming the option.
    """

    data: str = "digits"
    parts: tuple[Part, ...] = PARTS
    methods: tuple[Sampled, ...] = METHODS
    steps: tuple[int, ...] = (4, 6, 8, 10)
    seeds: int = 3
    reference: Path | None = None
    minutes: float | None = None
    nodes: int = 64
    walks: int = 256
    samples: int = 5000
    goal: Goal = "features"
    passes: int = 350
    device: str | None = None
    seed: int = 0
    out: Path = Path("grids-bench")
    json: bool = False

    def __post_init__(self) -> None:
        for name, values, known in (("part", self.parts, PARTS), ("method", self.methods, METHODS)):
            for value in values:
                check_name(name, value, known)
            check_once(f"{name}s", values)
        for steps in self.steps:
            check_count("steps", steps, 2)
        check_once("steps", [str(steps) for steps in self.steps])
        check_name("goal", self.goal, GOALS)
        for name, least in (("seeds", 1), ("nodes", 2), ("walks", 16), ("samples", 100), ("passes", 1)):
            check_count(name, getattr(self, name), least)
        if not self.parts or not self.steps or max(self.steps) > self.nodes:
            raise ValueError(
                f"parts and steps must not be empty, nor steps above nodes ({self.nodes}), got {self.steps}"
            )
        check_seed(self.seed)
        if self.minutes is not None:
            check_positive("minutes", self.minutes)

    @property
    def place(self) -> torch.device:
        """Where to compute."""
        return machine.chosen(self.device)


class Bench:
    """The halves, the core, the judge, and the classifier whose features a descent goes by."""

    def __init__(self, options: GridsBenchOptions, console: Console) -> None:
        self.options, self.device = options, options.place
        data = load_data(options.data, dtype=torch.float32)
        if data.labels is None or data.image_shape is None:
            raise ValueError(f"data must be labelled images, got {options.data!r} of shape {list(data.x.shape[1:])}")
        kind = "mlp" if data.x[0].numel() <= SMALL else "unet"
        seen, held_out = halves(data.flatten() if kind == "mlp" else data, options.seed)
        self.seen, self.held_out = (part.x.to(self.device) for part in (seen, held_out))
        with console.status("the core"):
            self.core = self._core(few_steps.recipe(kind, options.data).teacher, seen)
        if "samples" in options.parts:
            with console.status("the classifiers"):
                self.judge = self._classifier(kind, seen, options.seed + 1)
                guided = options.goal == "features"
                self.guide = self._classifier(kind, seen, options.seed + 2).features if guided else None
            self.features = self.read(self.held_out)
            self.noise = frechet(self.read(self.seen), self.features)

    def _core(self, config: Any, seen: Any) -> Diffusion:
        options = self.options
        if options.reference is not None:
            core = load_core(options.reference)
        else:
            budget = {} if options.minutes is None else {"minutes": options.minutes, "steps": None}
            fast = {"amp": "bf16", "compile": True} if self.device.type == "cuda" else {}
            config = dataclasses.replace(config, device=str(self.device), seed=options.seed, out=None, **budget, **fast)
            core = few_steps.trained(None, config, seen)
            save_core(options.out / "core.safetensors", core)
        return core.to(self.device).requires_grad_(False).eval()

    def _classifier(self, kind: str, seen: Any, seed: int) -> Classifier:
        width, depth = (64, 2) if kind == "mlp" else (32, 3)
        fit = FitConfig(width=width, depth=depth, steps=FIT, seed=seed, device=str(self.device))
        return fit_classifier(seen.x, seen.labels, fit).model.requires_grad_(False)

    def read(self, x: Tensor) -> Tensor:
        """The judge's features of ``x``, ``[n, F]``."""
        with torch.no_grad():
            return torch.cat([self.judge.features(part) for part in x.split(4096)])

    def fast(self) -> Any:
        """Networks in bfloat16 where there is a GPU."""
        return torch.autocast("cuda", torch.bfloat16) if self.device.type == "cuda" else nullcontext()

    def drawn(self, grid: TimeGrid, method: Sampled, n: int, seed: int) -> Tensor:
        """n samples of the core."""
        with self.fast(), torch.no_grad():
            x = self.core.prior(n, machine.draws(seed, 0, self.device), self.core.first_parameter())
            return Sampler(self.core, grid, method)(x)

    def found(self, method: Sampled, seed: int) -> tuple[dict[int, dict[str, TimeGrid]], float]:
        """The grids by number of steps and name, and the seconds of the search and of its longest descent."""
        options = self.options
        paths: list[Search] = []
        grids: dict[int, dict[str, TimeGrid]] = {}

        def price() -> None:
            paths.append(
                search(
                    self.core,
                    self.seen,
                    max(options.steps),
                    method,
                    nodes=options.nodes,
                    samples=options.walks,
                    seed=seed,
                )
            )

        def descend(steps: int) -> None:
            made, searched = handmade(self.core.schedule, steps), paths[0].grid(steps)
            descended = refine(
                self.core,
                [searched, *made.values()],
                method,
                data=self.seen,
                features=self.guide,
                rounds=max(1, options.passes // steps),
                rate=RATE,
                seed=seed,
            )
            grids[steps] = {"searched": searched, "descended": descended} | made

        with self.fast():
            spent = seconds(price, self.device)
            longest = max(seconds(lambda steps=steps: descend(steps), self.device) for steps in options.steps)
        return grids, spent + longest

    def after(self) -> float:
        """Seconds of the draws that a search is to cost less than."""
        grid, each = TimeGrid.uniform(STEPS_AFTER), min(AFTER, 2000)
        self.drawn(grid, "ddim", each, 0)
        return AFTER / each * seconds(lambda: self.drawn(grid, "ddim", each, 0), self.device)


def samples(bench: Bench, progress: Progress) -> dict[str, Any]:
    """Fréchet distances by method, number of steps and grid, one for each seed; and the seconds."""
    options = bench.options
    distances: dict[str, dict[str, dict[str, list[float]]]] = {}
    spent: list[float] = []
    line = progress.add_task("grids", total=len(options.methods) * options.seeds * len(options.steps))
    for method in options.methods:
        rows = distances.setdefault(method, {})
        for seed in range(options.seed, options.seed + options.seeds):
            grids, took = bench.found(method, seed)
            spent.append(took)
            for steps, named in grids.items():
                for name, grid in named.items():
                    x = bench.drawn(grid, method, options.samples, seed + options.seeds)
                    rows.setdefault(str(steps), {}).setdefault(name, []).append(frechet(bench.read(x), bench.features))
                named["descended"].save(options.out / f"{method}-{steps}-{seed}.json", bench.core.schedule)
                progress.advance(line)
    progress.remove_task(line)
    return {"noise": bench.noise, "distances": distances, "seconds": {"search": spent, "draws": bench.after()}}


def bound(bench: Bench, progress: Progress) -> dict[str, Any]:
    """The bound's diffusion nats above those of many steps, by number of steps and grid, one for each seed."""
    options = bench.options
    vae, first = HierarchicalVAE(bench.core), finite_span(bench.core.schedule)[0]
    data = bench.held_out[:MEASURED]

    def nats(grid: TimeGrid) -> float:
        ledger = vae.elbo(data, grid, generator=machine.draws(options.seed, 1, bench.device))
        return float(ledger.diffusion.sum(0).double().mean())

    line = progress.add_task("the bound", total=options.seeds * len(options.steps) + 1)
    fine = nats(TimeGrid.uniform_log_snr(FINE, bench.core.schedule, first))
    progress.advance(line)
    excess: dict[str, dict[str, list[float]]] = {}
    for seed in range(options.seed, options.seed + options.seeds):
        found = search(
            bench.core,
            bench.seen,
            max(options.steps),
            "elbo",
            nodes=4 * options.nodes,
            samples=options.walks,
            seed=seed,
        )
        for steps in options.steps:
            rows = excess.setdefault(str(steps), {})
            for name, grid in ({"searched": found.grid(steps)} | handmade(bench.core.schedule, steps, first)).items():
                if name == "searched" or seed == options.seed:
                    rows.setdefault(name, []).append(nats(grid) - fine)
            progress.advance(line)
    progress.remove_task(line)
    return {"fine": fine, "excess": excess}


def best_made(rows: dict[str, list[float]]) -> tuple[str, float]:
    """The hand-made grid that is best in the mean, and its mean."""
    means = {name: statistics.mean(values) for name, values in rows.items() if name not in OWN}
    name = min(means, key=lambda name: means[name])
    return name, means[name]


def tables(told: dict[str, Any]) -> Iterator[Table]:
    """One for the bound, one for each sampler."""
    parts = {"the bound above 1000 steps, nats": told["bound"]["excess"]} if "bound" in told else {}
    if "samples" in told:
        parts |= {f"Fréchet distance, {method}": rows for method, rows in told["samples"]["distances"].items()}
    for title, blocks in parts.items():
        table = Table(title=f"{title}; {told['options']['data']}, {told['device']}, torch {torch.__version__}")
        table.add_column("steps", justify="right")
        names = list(dict.fromkeys(name for rows in blocks.values() for name in rows))
        for name in [*names, "own / best made"]:
            table.add_column(name, justify="right")
        for steps, rows in blocks.items():
            cells = [_cell(rows.get(name, [])) for name in names]
            own = min(statistics.mean(rows[name]) for name in OWN if name in rows)
            table.add_row(steps, *cells, f"{own / best_made(rows)[1]:.2f}")
        yield table


def _cell(values: list[float]) -> str:
    if not values:
        return "–"
    spread = f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4g}{spread}"


def run(options: GridsBenchOptions) -> dict[str, Any]:
    """Measure, print, and write ``grids.json``; returns the document."""
    console = Console(stderr=options.json, width=max(140, Console().width))
    options.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(options, console)
    named = json.loads(json.dumps(dataclasses.asdict(options), default=str))
    del named["json"]
    told: dict[str, Any] = {"options": named, "device": machine.named(bench.device)}
    work = {"bound": bound, "samples": samples}
    with Progress(console=console, transient=True) as progress:
        for part in options.parts:
            told[part] = work[part](bench, progress)
    text = json.dumps(told, indent=1, allow_nan=False) + "\n"
    (options.out / "grids.json").write_text(text, encoding="utf-8")
    if options.json:
        sys.stdout.write(text)
        return told
    for table in tables(told):
        console.print(table)
    if "samples" in told:
        spent = told["samples"]["seconds"]
        console.print(
            f"a search {statistics.mean(spent['search']):.1f} s; {AFTER} samples in {STEPS_AFTER} steps "
            f"{spent['draws']:.1f} s; the halves of the data are {told['samples']['noise']:.2g} apart"
        )
    return told
