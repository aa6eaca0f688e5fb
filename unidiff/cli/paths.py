"""``unidiff paths``: the best grids of a few steps, beside those that people made, in a table and a picture."""

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from unidiff.cli.measured import check_world, label, labels_of, measured_on
from unidiff.cli.parsing import check_folder, parse, print_json
from unidiff.cli.sample import load
from unidiff.core.boundary import check_condition, check_count, check_device, check_name, check_once, check_seed

if TYPE_CHECKING:
    from unidiff.core.diffusion import Diffusion
    from unidiff.core.grid import TimeGrid
    from unidiff.paths import Search

_JUDGED = 0x5EED_0F_7A57E
SEARCHED, LEARNED, DESCENDED = FOUND = ("searched", "learned", "descended")
NEAREST = "hand-made grids at the candidates nearest to them"


@dataclasses.dataclass(frozen=True)
class PathsOptions:
    """Find the times at which a few steps cost least.

    Attributes:
        checkpoint: a checkpoint's file, or a run's folder.
        world: a closed-form world instead (mixture-2d, mixture-8d, gaussian, eight-gaussians, digits).
        data: a named data set, an .npz file or a folder of images; if left out, the world's own draws, or the data set of
            that name that the checkpoint was trained on.
        steps: numbers of steps.
        cost: elbo, elbo-prior, elbo-optimal or elbo-learned (nats of the bound); ddim, euler or dpm++2m (a step's distance
            from a teacher's trajectory); kl-bound (nats of holding the network's answer still).
        nodes: how many steps the candidates make.
        n: how many data (or walks of the teacher) costs are measured on.
        descend: go on from the best grid by gradient descent through the sampler, to where the law of its ends is nearest to
            the data's; for ddim, euler and dpm++2m.
        learn: rounds for which a policy on ``unidiff/Schedule-v0`` is taught by its walks alone, to be shown beside the
            best; some 800 are needed. 0 teaches none. Not for dpm++2m, whose price reads the step before.
        draws: samples of each grid whose distances to the data are measured, sliced W₁ and, of the first 1000, W₂; 0 for
            none. Of a cost in nats they are ancestral.
        condition: a class, or "labels", each datum's own; None is the unconditional model.
        device: where to compute.
        dtype: float32 or float64.
        seed: of every random draw.
        out: folder of index.html, paths.json, paths.png and a grid for each number of steps, for ``sample --grid`` and
            ``elbo --grid``.
        json: print the JSON document instead of the table.
    """

    checkpoint: Path | None = None
    world: str | None = None
    data: str | None = None
    steps: tuple[int, ...] = (4, 6, 8, 10)
    cost: str = "elbo"
    nodes: int = 128
    n: int = 256
    descend: bool = False
    learn: int = 0
    draws: int = 2000
    condition: str | None = None
    device: str = "cpu"
    dtype: str = "float32"
    seed: int = 0
    out: Path = Path("paths")
    json: bool = False

    def check(self) -> None:
        """Find out before any work what cannot be. Raises ValueError."""
        from unidiff.identities.subjects import DTYPES
        from unidiff.paths import COSTS

        check_name("cost", self.cost, COSTS)
        check_count("nodes", self.nodes)
        if not self.steps:
            raise ValueError("steps must name at least one number of steps, got none")
        for steps in self.steps:
            if check_count("steps", steps) > self.nodes:
                raise ValueError(
                    f"steps must be at most the {self.nodes} steps between candidates (nodes), got {steps}"
                )
        check_once("steps", [str(steps) for steps in self.steps])
        check_count("n", self.n, least=2)
        check_count("draws", self.draws, 0)
        if self.descend and self.cost not in ("ddim", "euler", "dpm++2m"):
            raise ValueError(f"descend is for the cost of a sampler, ddim, euler or dpm++2m, got {self.cost!r}")
        if self.descend and self.condition is not None:
            raise ValueError(f"descend is for the unconditional law, got condition = {self.condition}")
        if check_count("learn", self.learn, 0) and self.cost == "dpm++2m":
            raise ValueError("learn is for costs whose price reads one step alone, got 'dpm++2m'")
        check_name("dtype", self.dtype, DTYPES)
        check_seed(self.seed)
        check_world(self.world, dense=False)
        label(self.condition)
        check_device(self.device)
        check_folder("out", self.out)

    @property
    def method(self) -> str:
        """The sampler whose draws are measured."""
        return self.cost if self.cost in ("ddim", "euler", "dpm++2m") else "ancestral"


def run(arguments: Sequence[str]) -> int:
    """The command; returns the exit status."""
    options = parse(PathsOptions, arguments, "unidiff paths")
    options.check()
    from unidiff.identities.subjects import DTYPES

    core = load(options.checkpoint, options.world, options.device, DTYPES[options.dtype])
    document, figure = measure(options, core)
    figure.savefig(options.out / "paths.png", dpi=150, facecolor="white")
    text = json.dumps(document, indent=1, allow_nan=False) + "\n"
    (options.out / "paths.json").write_text(text, encoding="utf-8")
    page = _page(options.out, document, figure)
    if options.json:
        print_json(document)
    else:
        show(document, Console())
        Console().print(f"the page: {page}", highlight=False, soft_wrap=True)
    return 0


def measure(options: PathsOptions, core: "Diffusion") -> tuple[dict[str, Any], Any]:
    """The document and the picture; writes the grids. Raises ValueError for data or a cost that do not fit the core."""
    from unidiff.paths import search
    from unidiff.report import Bars
    from unidiff.report.paths import paths

    # As many data as draws, so that the distance between them is not the data's own scatter.
    data, _, _ = measured_on(dataclasses.replace(options, n=max(options.n, options.draws)), core)
    condition = check_condition(labels_of(options, data), 1.0, len(data.x), getattr(core.denoiser, "num_classes", None))
    began = time.monotonic()
    found = search(
        core, data.x, max(options.steps), options.cost, nodes=options.nodes, samples=options.n, condition=condition,
        seed=options.seed,
    )  # fmt: skip
    spent = time.monotonic() - began
    options.out.mkdir(parents=True, exist_ok=True)
    blocks: dict[str, dict[str, Any]] = {}
    grids: dict[str, TimeGrid] = {}
    with Bars() as bars:
        learned = _learned(options, core, found, bars) if options.learn else {}
        for number, steps in enumerate(sorted(options.steps)):
            bars.update("paths", number, len(options.steps), f"{steps} steps")
            grids = _grids(options, core, found, data.x, steps, learned.get(steps))
            blocks[str(steps)] = {
                name: _row(options, core, found, grid, data.x, condition) for name, grid in grids.items()
            }
            ranking = found.rank(steps)
            best = grids.get(DESCENDED, grids[SEARCHED])
            best.save(options.out / f"{options.cost}-{steps}.json", core.schedule)
            blocks[str(steps)][SEARCHED] |= {"rival": ranking.rival, "needed": ranking.needed}
    document = {
        "cost": options.cost, "unit": found.prices.unit, "search": found.label, "data": data.name, "n": found.prices.samples,
        "nodes": found.candidates.steps, "method": options.method, "draws": options.draws, "seconds": spent,
        "device": options.device, "steps": blocks,
    }  # fmt: skip
    levels = {name: core.schedule.log_snr(grid.times).detach().cpu().numpy() for name, grid in grids.items()}
    inner = core.schedule.log_snr(found.candidates.times[[-1, 1]]).detach().clamp(-30.0, 30.0).tolist()
    names = [name for name in grids if name != DESCENDED]
    costs = {name: [(int(k), block[name]["cost"]) for k, block in blocks.items() if name in block] for name in names}
    return document, paths(levels, costs, found.prices.unit, (inner[0], inner[1]))


def _learned(options: PathsOptions, core: "Diffusion", found: "Search", bars: Any) -> "dict[int, TimeGrid]":
    """Where the policy stops that was taught on the prices by walks, for each number of steps."""
    from unidiff.core.grid import TimeGrid
    from unidiff.paths import ScheduleMDP
    from unidiff.train.schedule_policy import SchedulePolicyConfig, fit_schedule_policy

    levels = core.schedule.log_snr(found.candidates.times).detach().clamp(-40.0, 40.0)
    mdp = ScheduleMDP(found.prices.mean, max(options.steps), log_snr=levels)
    config = SchedulePolicyConfig(rounds=options.learn, seed=options.seed)
    fit = fit_schedule_policy(
        mdp, config, steps=options.steps, on_round=lambda done, rounds: bars.update("policy", done, rounds)
    )
    return {steps: TimeGrid(found.candidates.times[fit.policy.path(mdp, steps)]) for steps in options.steps}


def _grids(
    options: PathsOptions, core: "Diffusion", found: "Search", data: Any, steps: int, learned: "TimeGrid | None"
) -> "dict[str, TimeGrid]":
    from unidiff.paths import handmade, refine

    made = handmade(core.schedule, steps, float(found.candidates.times[0]))
    grids = {SEARCHED: found.grid(steps)} | ({} if learned is None else {LEARNED: learned})
    if options.descend:
        method: Any = options.cost
        grids[DESCENDED] = refine(core, [grids[SEARCHED], *made.values()], method, data=data, seed=options.seed)
    return grids | made


def _row(
    options: PathsOptions, core: "Diffusion", found: "Search", grid: "TimeGrid", data: Any, condition: Any
) -> dict[str, Any]:
    """A grid's cost at the candidates nearest to it, and how far its draws are from the data."""
    cost, error = found.prices.total(found.nearest(grid))
    row: dict[str, Any] = {"cost": cost, "standard_error": error, "times": grid.times.tolist()}
    if options.draws:
        row |= _distances(options, core, grid, data, condition)
    return row


def _distances(
    options: PathsOptions, core: "Diffusion", grid: "TimeGrid", data: Any, condition: Any
) -> dict[str, float]:
    import torch

    from unidiff.core.sampling import sample
    from unidiff.train import metrics

    # Not the starts that a descent of this seed looked at.
    generator = torch.Generator(data.device).manual_seed((options.seed + _JUDGED) % 2**63)
    method: Any = options.method
    told = (
        None if condition is None else condition[torch.arange(options.draws, device=condition.device) % len(condition)]
    )
    x = sample(core, options.draws, method=method, grid=grid, condition=told, generator=generator, dtype=data.dtype)
    lines = metrics.directions(data[0].numel(), 256, torch.Generator().manual_seed(0))
    return {"distance": metrics.sliced_wasserstein(x, data, lines), "wasserstein2": metrics.wasserstein2(x, data)}


def show(document: dict[str, Any], console: Console) -> None:
    """The document as a table, a block for each number of steps."""
    from rich.table import Table

    table = Table(
        title=f"{document['search']} search, cost {document['cost']} on {document['n']} of {document['data']}, "
        f"{document['nodes']} steps between candidates, {document['seconds']:.1f} s",
        title_justify="left",
    )
    for name in _head(document):
        table.add_column(name, justify="left" if name == "grid" else "right")
    for steps, block in document["steps"].items():
        for name, row in block.items():
            table.add_row(*_line(steps, name, row), style="bold" if name in FOUND else None)
        table.add_section()
    console.print(table)
    console.print(NEAREST, style="dim")
    for line in _untold(document):
        console.print(line)


def _head(document: dict[str, Any]) -> tuple[str, ...]:
    return ("steps", "grid", f"cost, {document['unit']}", "± s.e.", "W2", "sliced W1")


def _line(steps: str, name: str, row: dict[str, Any]) -> list[str]:
    distances = [f"{row[key]:.4f}" if key in row else "–" for key in ("wasserstein2", "distance")]
    return [steps, name, f"{row['cost']:.5g}", f"{row['standard_error']:.2g}", *distances]


def _untold(document: dict[str, Any]) -> list[str]:
    """Where the samples do not tell the path from the next grid."""
    return [
        f"{steps} steps: {document['n']} samples do not tell the path from {block[SEARCHED]['rival']}; "
        f"about {block[SEARCHED]['needed']} would"
        for steps, block in document["steps"].items()
        if block[SEARCHED]["needed"]
    ]


def _page(folder: Path, document: dict[str, Any], figure: Any) -> Path:
    from unidiff.report import Sheet, write_sheet

    rows = [(steps, name, row) for steps, block in document["steps"].items() for name, row in block.items()]
    few = min(document["steps"], key=int)
    block = document["steps"][few]
    best = min((name for name in block if name not in FOUND), key=lambda name: block[name]["cost"])
    sheet = Sheet(
        "unidiff paths",
        f"{few} steps cost {block[SEARCHED]['cost']:.4g} {document['unit']}; the best grid made by hand, {best}, "
        f"{block[best]['cost']:.4g}.",
        f"The times at which a few steps cost least: {document['search']} search among {document['nodes']} steps, by the "
        f"cost {document['cost']} on {document['n']} of {document['data']}, beside grids that people made.",
        [
            (f"{document['seconds']:.1f} s", "for the search"), (document["n"], "data priced"),
            (document["draws"], "draws of each grid measured"),
        ],
        {"Where each grid stops, and what grids of each number of steps cost": figure},
        _head(document), [_line(*row) for row in rows], frozenset(k for k, row in enumerate(rows) if row[1] in FOUND),
        (f"{NEAREST[0].upper()}{NEAREST[1:]}.", *(f"{line}." for line in _untold(document))),
    )  # fmt: skip
    return write_sheet(sheet, folder)
