"""``unidiff likelihood``: log p of data under a checkpoint or a world's exact denoiser, and how well it is known."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor

from unidiff.cli.measured import check_world, label, labels_of, level_count, measured_on
from unidiff.cli.parsing import parse, print_json
from unidiff.cli.sample import load
from unidiff.core.boundary import check_condition, check_count, check_device, check_name, check_seed
from unidiff.core.diffusion import Diffusion

BLOCK = 256
"""Data carried at once."""
EXACT_UP_TO = 64
"""Dimensions up to which the divergence is exact unless told otherwise."""


@dataclass(frozen=True)
class LikelihoodOptions:
    """Measure log p of data by the probability-flow ODE.

    Attributes:
        checkpoint: a checkpoint's file, or a run's folder.
        world: a closed-form world instead (mixture-2d, mixture-8d, gaussian, eight-gaussians).
        data: a named data set, an .npz file (its test part if it has one) or a folder of images; if left out, the world's
            own draws, or the data set of that name that the checkpoint was trained on, drawn anew.
        n: how many data, at most.
        dequantise: spread data on levels (bytes, digits) evenly over their cells, so that the bits bound those of the levels
            from above; without it they are those of a density at single points, comparable with nothing.
        solver: euler, heun, rk4 or dopri5.
        steps: even steps of the solver.
        tolerance: of the local error instead of steps (dopri5, heun); 1e-5 if neither is given.
        probes: exact, or the number of random probes of the divergence; exact up to 64 dimensions if left out, else 1.
        first: the time to start from; 0, or where the schedule has no noise there, a little later.
        condition: a class, for a conditional model: log p given it, of a world's draws of that class or of the data as they
            are; or "labels", each datum's own. None is the unconditional model.
        guidance: classifier-free guidance weight; 1 is the plain conditional model.
        device: where to compute.
        dtype: float32 or float64.
        seed: of every random draw.
        json: print one JSON document instead of the table.
    """

    checkpoint: Path | None = None
    world: str | None = None
    data: str | None = None
    n: int = 1024
    dequantise: bool = True
    solver: str = "dopri5"
    steps: int | None = None
    tolerance: float | None = None
    probes: str | None = None
    first: float | None = None
    condition: str | None = None
    guidance: float = 1.0
    device: str = "cpu"
    dtype: str = "float64"
    seed: int = 0
    json: bool = False

    def check(self) -> None:
        """Find out before any work what cannot be. Raises ValueError."""
        from unidiff.score.ode import check_solver

        check_count("n", self.n, least=2)
        if self.steps is not None or self.tolerance is not None:
            check_solver(self.solver, self.steps, self.tolerance)
        else:
            check_solver(self.solver, None, 1e-5)
        self.probe_count(1)
        label(self.condition)
        check_world(self.world, dense=True)

    def probe_count(self, dim: int) -> int | None:
        """K, or None for the exact divergence. Raises ValueError for what is neither a count nor "exact"."""
        if self.probes is None:
            return None if dim <= EXACT_UP_TO else 1
        if self.probes == "exact":
            return None
        try:
            count = int(self.probes)
        except ValueError:
            raise ValueError(f"probes must be 'exact' or a number of probes, got {self.probes!r}") from None
        return check_count("probes", count)


def run(arguments: Sequence[str]) -> int:
    """The command; returns the exit status."""
    options = parse(LikelihoodOptions, arguments, "unidiff likelihood")
    from unidiff.identities.subjects import DTYPES

    check_name("dtype", options.dtype, DTYPES)
    check_seed(options.seed)
    options.check()
    check_device(options.device)
    document = measure(options, load(options.checkpoint, options.world, options.device, DTYPES[options.dtype]))
    if options.json:
        print_json(document)
    else:
        show(document, Console())
    return 0


def measure(options: LikelihoodOptions, core: Diffusion) -> dict[str, Any]:
    """The document that the command prints. Raises ValueError for data that do not fit the core."""
    import torch

    from unidiff.report import Bars
    from unidiff.score import Likelihood, likelihood
    from unidiff.score.arguments import conditional_law
    from unidiff.vae import Levels, dequantise
    from unidiff.worlds import Interval

    data, world, drawn = measured_on(options, core)
    x, condition, count = data.x, labels_of(options, data), level_count(data) if options.dequantise else None
    if count is not None:
        # On the host, so that a device's own generator is not asked for.
        x = dequantise(x.cpu(), Levels(count), drawn).to(x.device)
    condition = check_condition(condition, options.guidance, len(x), getattr(core.denoiser, "num_classes", None))
    # A guided model's law is no world's.
    known = world if options.guidance == 1.0 else None
    law = None if known is None else conditional_law(core, known, condition, "the world's own log p")
    probes = options.probe_count(x[0].numel())
    generator = torch.Generator(x.device).manual_seed(options.seed)
    solver: Any = options.solver
    told = {"solver": solver, "steps": options.steps, "tolerance": options.tolerance, "guidance": options.guidance}
    told |= {"probes": probes, "generator": generator, "first": options.first}
    parts = []
    with Bars() as bars:
        for k in range(0, len(x), BLOCK):
            some = None if condition is None else condition[k : k + BLOCK]
            parts.append(likelihood(core, x[k : k + BLOCK], condition=some, world=known, **told))
            done = min(k + BLOCK, len(x))
            bars.update("likelihood", done, len(x), f"{done} of {len(x)}")
    found = Likelihood.joined(parts)
    nats, bits = found.nats(), found.bits_per_dim(data.scale)
    document: dict[str, Any] = {
        "data": data.name, "n": len(x), "dim": x[0].numel(), "dtype": options.dtype, "device": str(x.device),
        "nats": {"mean": nats.mean, "standard_error": nats.standard_error},
        "bits_per_dim": {"mean": bits.mean, "low": bits.low, "high": bits.high},
        "dequantised": count is not None,
        "condition": options.condition, "guidance": options.guidance,
        "solver": options.solver, "steps": options.steps,
        "tolerance": options.tolerance if options.steps or options.tolerance else 1e-5,
        "probes": "exact" if probes is None else probes, "evaluations": found.evaluations,
        "solver_error": _finite(found.solver_error.max()), "entry_error": _finite(found.entry_error.max()),
        "probe_error": _finite(found.probe_error.mean()),
        "prior_error": {"law": found.prior_law, "mean": _finite(found.prior_error.mean())},
    }  # fmt: skip
    if law is not None:
        truth = law.log_prob(x)
        gap = Interval.of(found.with_exact_prior - truth)
        document["truth"] = {
            "mean": float(truth.mean()), "gap": gap.mean, "gap_standard_error": gap.standard_error,
            "largest_error": float((found.with_exact_prior - truth).abs().max()),
        }  # fmt: skip
    return document


def show(document: dict[str, Any], console: Console) -> None:
    """The document as a small table."""
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(justify="right")
    table.add_column(style="dim")
    nats, bits, prior = document["nats"], document["bits_per_dim"], document["prior_error"]
    table.add_row(
        "mean log p", f"{nats['mean']:.6f}", f"nats ± {nats['standard_error']:.2g} (s.e. over {document['n']} data)"
    )
    spread = ", of dequantised levels" if document["dequantised"] else ""
    table.add_row("bits/dim", f"{bits['mean']:.4f}", f"95% interval [{bits['low']:.4f}, {bits['high']:.4f}]{spread}")
    if document["condition"] is not None:
        note = "" if document["guidance"] == 1.0 else f"guidance {document['guidance']:g}"
        table.add_row("condition", document["condition"], note)
    effort = f"{document['steps']} steps" if document["steps"] else f"tolerance {document['tolerance']:g}"
    table.add_row("evaluations", str(document["evaluations"]), f"{document['solver']}, {effort}, D = {document['dim']}")
    table.add_row("solver error", _number(document["solver_error"]), "nats, the largest")
    table.add_row(
        "entry error", _number(document["entry_error"]), "nats, the largest: one step from data to the first time"
    )
    exact = document["probes"] == "exact"
    note = "exact divergence" if exact else f"nats, standard error of a datum ({document['probes']} probes)"
    table.add_row("probe error", _number(document["probe_error"]), note)
    words = {
        "exact": "nats to add, with the exact q(x_1)", "bound": "nats at most, by KL(q(x_1|x) ‖ N)",
        "unknown": "a guided flow ends in no law that is known",
    }  # fmt: skip
    table.add_row("prior error", _number(prior["mean"]), words[prior["law"]])
    if "truth" in document:
        truth = document["truth"]
        table.add_row("truth", f"{truth['mean']:.6f}", "nats, the world's own mean log p on these data")
        table.add_row("off by", f"{truth['gap']:+.2e}", f"nats ± {truth['gap_standard_error']:.1g}, prior error added")
    console.print(table)


def _finite(value: Tensor) -> float | None:
    number = float(value)
    return number if abs(number) < float("inf") else None


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2e}"
