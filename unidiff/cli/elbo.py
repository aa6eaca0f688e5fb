"""``unidiff elbo``: the variational bound of data as a ledger, term by term, with a picture of its steps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from unidiff.cli.measured import check_world, label, labels_of, level_count, measured_on, part_of
from unidiff.cli.parsing import check_folder, check_picture, parse, print_json
from unidiff.cli.sample import load
from unidiff.core.boundary import check_condition, check_count, check_device, check_name, check_seed

if TYPE_CHECKING:
    from unidiff.core.diffusion import Diffusion

BLOCK = 128
"""Data measured at once."""
REPEATS = 4
"""Of the drawn terms, which tell their error."""
HEAD = ("", "nats", "± s.e.", "bits/dim", "")
DENSITY = "bits/dim are of a density: comparable at one scale of the data only"
DECODERS = ("auto", "continuous", "discretised", "categorical")
GRIDS = ("uniform", "log-snr")
PICTURED = 1000
"""Steps in the picture of infinitely many."""
PASS = 512
"""Data whose errors make the table of the optimal variance."""


@dataclass(frozen=True)
class ElboOptions:
    """Measure the variational bound of data: prior, every step of the chain, reconstruction.

    Attributes:
        checkpoint: a checkpoint's file, or a run's folder.
        world: a closed-form world instead (mixture-2d, mixture-8d, gaussian, eight-gaussians, digits).
        data: a named data set, an .npz file (its test part if it has one) or a folder of images; if left out, the world's
            own draws, or the data set of that name that the checkpoint was trained on, drawn anew.
        n: how many data, at most.
        steps: of the chain; 0 for the bound of infinitely many, which needs draws.
        grid: log-snr (even in log-SNR), uniform (in time), or the path of a grid saved as JSON, which says its own steps.
        first: the time to start from; 0, or where the schedule has no noise there, a little later.
        variance: of the chain's steps: posterior, prior, optimal (the exact denoiser's, or by a pass over data) or learned.
        decoder: of the last step: continuous (a density), discretised or categorical (probabilities of levels); auto is
            discretised for bytes and the data set of digits, else continuous.
        draws: terms of each datum in each of 4 repeats, in place of all the steps; 0 for all. The picture is then of the
            first 128 data.
        sampling: how terms are drawn: stratified, antithetic, independent, or importance (of steps, by a pilot).
        paths: paths of each datum for the importance-weighted bound beside the ledger; 0 for none.
        condition: a class, or "labels", each datum's own; None is the unconditional model.
        device: where to compute.
        dtype: float32 or float64.
        seed: of every random draw.
        out: the picture of the terms, a .png.
        report: folder of a page that shows the ledger and the picture; none if left out.
        json: print one JSON document instead of the table.
    """

    checkpoint: Path | None = None
    world: str | None = None
    data: str | None = None
    n: int = 256
    steps: int = 1000
    grid: str = "log-snr"
    first: float | None = None
    variance: str = "posterior"
    decoder: str = "auto"
    draws: int = 0
    sampling: str = "stratified"
    paths: int = 0
    condition: str | None = None
    device: str = "cpu"
    dtype: str = "float32"
    seed: int = 0
    out: Path = Path("elbo.png")
    report: Path | None = None
    json: bool = False

    def check(self) -> None:
        """Find out before any work what cannot be. Raises ValueError."""
        from unidiff.core.chain import VARIANCES
        from unidiff.identities.subjects import DTYPES
        from unidiff.vae.sampled import SAMPLINGS

        check_count("n", self.n, least=2)
        check_count("steps", self.steps, 0)
        check_count("draws", self.draws, 0)
        check_name("sampling", self.sampling, SAMPLINGS)
        if not self.steps:
            self._check_continuous()
        check_count("paths", self.paths, 0)
        check_name("variance", self.variance, VARIANCES)
        check_name("decoder", self.decoder, DECODERS)
        check_name("dtype", self.dtype, DTYPES)
        check_seed(self.seed)
        check_world(self.world, dense=False)
        label(self.condition)
        check_device(self.device)
        check_picture("out", self.out)
        if self.report is not None:
            check_folder("report", self.report)
        if Path(self.grid).suffix != ".json":
            check_name("grid", self.grid, GRIDS)
        elif self.first is not None:
            raise ValueError(f"first is for a grid that is made, got {self.first:g} with the grid {self.grid}")

    def _check_continuous(self) -> None:
        if not self.draws:
            raise ValueError("steps must be at least 1, or draws given: infinitely many steps cannot all be taken")
        for name, value, needed in (
            ("variance", self.variance, ("posterior",)), ("grid", self.grid, GRIDS),
            ("sampling", self.sampling, ("stratified", "antithetic", "independent")),
        ):  # fmt: skip
            if value not in needed:
                raise ValueError(f"{name} must be {' or '.join(needed)} for infinitely many steps, got {value!r}")
        if self.paths:
            raise ValueError(f"paths need a chain of steps, got {self.paths} with steps = 0")


def run(arguments: Sequence[str]) -> int:
    """The command; returns the exit status."""
    options = parse(ElboOptions, arguments, "unidiff elbo")
    options.check()
    from unidiff.identities.subjects import DTYPES

    core = load(options.checkpoint, options.world, options.device, DTYPES[options.dtype])
    document, figure = measure(options, core)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=150, facecolor="white")
    document["picture"] = str(options.out)
    if options.report is not None:
        document["page"] = str(_page(options.report, document, figure))
    if options.json:
        print_json(document)
    else:
        show(document, Console())
    return 0


def measure(options: ElboOptions, core: "Diffusion") -> tuple[dict[str, Any], Any]:
    """The document and the picture. Raises ValueError for data, a grid or a variance that do not fit the core."""
    import torch

    from unidiff.report import Bars
    from unidiff.report.ledger import ledger
    from unidiff.vae import ELBO, HierarchicalVAE, SampledELBO, importance_of
    from unidiff.worlds import Interval, PointCloud

    data, world, _ = measured_on(options, core)
    condition = check_condition(labels_of(options, data), 1.0, len(data.x), getattr(core.denoiser, "num_classes", None))
    grid, decoder = _grid(options, core), _decoder(options, data)
    generator = torch.Generator(data.x.device).manual_seed(options.seed)
    variance: Any = options.variance
    vae = HierarchicalVAE(core, decoder, variance, _table(options, core, grid, data.x, condition, generator))
    vae.chain(grid)
    decoder.check(data.x)
    whole, drawn, bounds = [], [], []
    chained = options.steps > 0
    with Bars() as bars:
        for k in range(0, len(data.x), BLOCK):
            x, own = data.x[k : k + BLOCK], None if condition is None else condition[k : k + BLOCK]
            if not options.draws or k == 0:
                whole.append(vae.elbo(x, grid, condition=own, generator=generator))
            if options.draws:
                some: dict[str, Any] = {
                    "draws": options.draws, "repeats": REPEATS, "sampling": options.sampling, "condition": own,
                    "generator": generator,
                }  # fmt: skip
                if not chained:
                    drawn.append(vae.continuous_elbo(x, first=float(grid.times[0]), **some))
                else:
                    proposal = importance_of(whole[0]) if options.sampling == "importance" else None
                    drawn.append(vae.sampled_elbo(x, grid, proposal=proposal, **some))
            if options.paths:
                bounds.append(vae.iwae(x, grid, options.paths, condition=own, generator=generator))
            bars.update("elbo", k + len(x), len(data.x), f"{k + len(x)} of {len(data.x)}")
    pictured, scale = ELBO.joined(whole), 1.0 if decoder.discrete else data.scale
    found = SampledELBO.joined(drawn) if drawn else pictured
    diffusion = found.diffusion if isinstance(found, SampledELBO) else found.diffusion.sum(0)
    bits, nats = found.bits_per_dim(scale), found.nats()
    rows = {
        "prior": found.prior, "diffusion": diffusion, "reconstruction": found.reconstruction
    }  # fmt: skip
    document: dict[str, Any] = {
        "data": data.name, "n": len(data.x), "dim": found.dim, "dtype": options.dtype, "device": str(data.x.device),
        "part": part_of(options, data.name), "scale": scale, "steps": grid.steps if chained else 0,
        "grid": options.grid, "variance": options.variance, "condition": options.condition,
        "decoder": type(decoder).__name__, "probabilities": decoder.discrete,
        "ledger": {name: _told(Interval.of(value)) for name, value in rows.items()},
        "elbo": _told(nats), "bits_per_dim": {"mean": bits.mean, "low": bits.low, "high": bits.high},
    }  # fmt: skip
    if isinstance(found, SampledELBO):
        document["drawn"] = {"terms": REPEATS * options.draws, "standard_error": found.standard_error}
    if bounds:
        many = torch.cat([b.bound for b in bounds])
        document["importance"] = {
            "paths": options.paths, **_told(Interval.of(many)),
            "bits_per_dim": Interval.of(-many / (found.dim * math.log(2))).mean - math.log2(scale),
            "ess": float(torch.cat([b.ess for b in bounds]).mean()),
        }  # fmt: skip
    own_law = options.world is None or options.data is None
    if (
        world is not None
        and own_law
        and not isinstance(world, PointCloud)
        and not decoder.discrete
        and condition is None
    ):
        document["truth"] = float(world.log_prob(data.x).mean())
    terms = pictured.diffusion.to("cpu", torch.float64)
    levels = core.schedule.log_snr(grid.times).detach().cpu().numpy()
    ends = (document["ledger"]["prior"]["mean"], document["ledger"]["reconstruction"]["mean"])
    errors = (terms.std(1) / terms.shape[1] ** 0.5).numpy()
    return document, ledger(levels, terms.mean(1).numpy(), errors, ends, found.dim)


def show(document: dict[str, Any], console: Console) -> None:
    """The document as a ledger."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name, justify in zip(HEAD, ("left", "right", "right", "right", "left"), strict=True):
        table.add_column(name, justify=justify, style=None if name else "dim")  # pyright: ignore
    for line in lines(document):
        table.add_row(*line)
    console.print(table)
    if not document["probabilities"]:
        console.print(DENSITY, style="dim")
    console.print(f"the picture: {document['picture']}", highlight=False, soft_wrap=True)
    if "page" in document:
        console.print(f"the page: {document['page']}", highlight=False, soft_wrap=True)


def lines(document: dict[str, Any]) -> list[list[str]]:
    """The ledger's rows, as text under :data:`HEAD`."""
    unit = document["dim"] * math.log(2)
    # A density's is of one unit of the raw data, of which x is a multiple: that part belongs to what was reconstructed.
    offset = -math.log2(document["scale"])
    steps = f"{document['steps'] or 'infinitely many'} steps"
    own = document.get("drawn")
    drawn = "" if own is None else f", {own['terms']} drawn for each (± {own['standard_error']:.2g} nats)"
    notes = {
        "prior": "KL(q(x_N|x) ‖ p)", "diffusion": f"{steps}, {document['variance']} variance{drawn}",
        "reconstruction": f"−log p(x|x_0), {document['decoder']}",
    }  # fmt: skip
    rows = []
    for name, row in document["ledger"].items():
        bits = row["mean"] / unit + (offset if name == "reconstruction" else 0.0)
        rows.append([name, f"{row['mean']:.4f}", f"{row['standard_error']:.4f}", f"{bits:.4f}", notes[name]])
    bits, elbo = document["bits_per_dim"], document["elbo"]
    spread = f"95% interval [{bits['low']:.4f}, {bits['high']:.4f}] over {document['n']} of {document['data']}"
    spread += "" if document["part"] is None else f" ({document['part']} data)"
    rows.append(["−ELBO", f"{-elbo['mean']:.4f}", f"{elbo['standard_error']:.4f}", f"{bits['mean']:.4f}", spread])
    if "importance" in document:
        own = document["importance"]
        note = f"{own['paths']} paths a datum, {own['ess']:.2f} of them effective"
        rows.append(
            ["−IWAE", f"{-own['mean']:.4f}", f"{own['standard_error']:.4f}", f"{own['bits_per_dim']:.4f}", note]
        )
    if "truth" in document:
        bits_of_truth = -document["truth"] / unit + offset
        rows.append(["−log p", f"{-document['truth']:.4f}", "", f"{bits_of_truth:.4f}", "the data's own law"])
    return rows


def _page(folder: Path, document: dict[str, Any], figure: Any) -> Path:
    from unidiff.report import Sheet, write_sheet

    bits, elbo = document["bits_per_dim"], document["elbo"]
    found = lines(document)
    sheet = Sheet(
        "unidiff elbo",
        f"{bits['mean']:.4f} bits per dimension.",
        "The variational bound as a ledger: what the prior costs, what each step from noise to data costs, and what is left "
        "to the decoder. All of it adds up to the bound, in nats a datum.",
        [
            (f"{elbo['mean']:.3f}", "nats, the bound"), (f"{bits['low']:.4f}", "bits/dim, from"),
            (f"{bits['high']:.4f}", "to, of 95% intervals"), (document["n"], f"of {document['data']}"),
            (document["steps"] or "∞", "steps"),
        ],
        {"Each step's cost over log-SNR, and the sum from noise to data": figure},
        HEAD, found, frozenset(k for k, line in enumerate(found) if line[0] == "−ELBO"),
        () if document["probabilities"] else (f"{DENSITY[0].upper()}{DENSITY[1:]}.",),
    )  # fmt: skip
    return write_sheet(sheet, folder)


def _told(interval: Any) -> dict[str, float]:
    return {"mean": interval.mean, "standard_error": interval.standard_error}


def _grid(options: ElboOptions, core: "Diffusion") -> Any:
    from unidiff.core.grid import TimeGrid
    from unidiff.core.times import finite_span

    if Path(options.grid).suffix == ".json":
        return TimeGrid.load(options.grid, core.schedule)
    first = finite_span(core.schedule)[0] if options.first is None else options.first
    steps = options.steps or PICTURED
    if options.grid == "uniform":
        return TimeGrid.uniform(steps, first)
    return TimeGrid.uniform_log_snr(steps, core.schedule, first)


def _decoder(options: ElboOptions, data: Any) -> Any:
    from unidiff.vae import CategoricalDecoder, ContinuousDecoder, DiscretisedDecoder, Levels

    count = level_count(data)
    kind = options.decoder if options.decoder != "auto" else "continuous" if count is None else "discretised"
    if kind == "continuous":
        return ContinuousDecoder()
    if count is None:
        raise ValueError(f"decoder must be continuous for data that are real numbers ({data.name}), got {kind!r}")
    return DiscretisedDecoder(Levels(count)) if kind == "discretised" else CategoricalDecoder(Levels(count))


def _table(options: ElboOptions, core: "Diffusion", grid: Any, x: Any, condition: Any, generator: Any) -> Any:
    """The optimal variance's table for a network, from its own errors on a part of the data; else None."""
    if options.variance != "optimal" or hasattr(core.denoiser, "x0_variance"):
        return None
    from unidiff.vae import optimal_variance

    own = None if condition is None else condition[:PASS]
    return optimal_variance(core, x[:PASS], grid, condition=own, generator=generator).x0_variance
