"""``unidiff bench rl``: every way to a better reward beside the optimum that is known, and what each cost.

On a world in the plane p* ∝ p_ref e^{r/β} is known, and what can be reached of it: the best policy that keeps the
reference's σ (:func:`unidiff.rl.reachable`) is the floor of every method that trains a mean. A row of the table is a
method: the rewards that it asked for, its seconds, the share gained of what p* has more than the reference,

    (E r − E_ref r)/(E* r − E_ref r),

which above 1 is paid for by leaving p* on its other side, and the KL of its paths to p* and to p_ref in nats, each with its
standard error. ``*`` marks an upper bound. Written to the folder ``out``: the figures as JSON, and a picture of samples.

What is spent is in :mod:`unidiff.bench.rl_methods`: by device, or ``--quick``, about a minute.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from unidiff.bench import machine
from unidiff.bench.rl_methods import CPU, GPU, METHODS, QUICK, Bench, Found, Size
from unidiff.core.boundary import check_count, check_name, check_once, check_positive, check_seed
from unidiff.core.diffusion import Diffusion
from unidiff.core.grid import TimeGrid
from unidiff.core.schedule import Schedule
from unidiff.report import Sheet, write_sheet
from unidiff.report.tilted import beside
from unidiff.rl import DenoisingMDP, EstimatedOptimum, Policy, Reachable, estimated_optimum, reachable
from unidiff.worlds import Estimate, OracleDenoiser, World, library
from unidiff.worlds.rewards import Linear, Quadratic, QuadraticReward

WORLDS = ("mixture-2d", "eight-gaussians")
REWARDS: dict[str, QuadraticReward] = {
    "linear": Linear(torch.tensor([1.0, 0.0], dtype=torch.float64)),
    "quadratic": Quadratic(
        torch.tensor([[1.0, 0.0], [0.0, 0.5]], dtype=torch.float64), torch.tensor([0.5, -0.5], dtype=torch.float64)
    ),
}
BOUNDED = ("smc_steering",)
HEAD = (
    "method", "queries", "a sample", "seconds", "E r", "gained", "overshoot", "KL to p*", "over floor", "KL to p_ref"
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class RLBenchOptions:
    """Fine-tuning and steering, each beside the optimum that is known and the floor of its class.

    Attributes:
        world: mixture-2d or eight-gaussians.
        reward: linear (x_0's first number) or quadratic.
        beta: the KL temperature β, in units of reward.
        steps: of the chain.
        variance: of the chain: prior or posterior.
        methods: only these; all of them if left out.
        device: cpu, cuda or cuda:N; a GPU if there is one, if left out.
        seed: of all draws.
        quick: about a minute, for trying it.
        out: folder of index.html, rl.json and rl.png.
        json: print the JSON document instead of the table.

    Raises:
        TypeError, ValueError: naming the option.
    """

    world: str = "mixture-2d"
    reward: Literal["linear", "quadratic"] = "quadratic"
    beta: float = 1.0
    steps: int = 40
    variance: Literal["prior", "posterior"] = "prior"
    methods: tuple[str, ...] = ()
    device: str | None = None
    seed: int = 0
    quick: bool = False
    out: Path = Path("rl-bench")
    json: bool = False

    def __post_init__(self) -> None:
        check_name("world", self.world, WORLDS)
        check_name("reward", self.reward, REWARDS)
        check_name("variance", self.variance, ("prior", "posterior"))
        check_positive("beta", self.beta)
        check_count("steps", self.steps, 2)
        check_seed(self.seed)
        for name in self.methods:
            check_name("method", name, METHODS)
        check_once("methods", self.methods)

    @property
    def place(self) -> torch.device:
        """Where to compute."""
        return machine.chosen(self.device)

    @property
    def size(self) -> Size:
        """How much is spent."""
        return QUICK if self.quick else GPU if self.place.type == "cuda" else CPU


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """What was found.

    Attributes:
        world: the data, float64.
        mdp: the process, float32, on the device.
        floor: the best policy with the reference's σ.
        optimum: p*, by reweighted draws of the reference.
        rows: by method, the reference first and the best policy with its σ last.
    """

    world: World
    mdp: DenoisingMDP
    floor: Reachable
    optimum: EstimatedOptimum
    rows: dict[str, Found]

    def gained(self, found: Found) -> float:
        """The share of E* r − E_ref r."""
        base = float(self.optimum.reference_reward.value)
        return (float(found.reward.value) - base) / (float(self.optimum.reward.value) - base)

    def overshoot(self, found: Found) -> float:
        """E r − E* r where that is above 0."""
        return max(0.0, float(found.reward.value - self.optimum.reward.value))


def process(options: RLBenchOptions, dtype: torch.dtype, device: torch.device) -> tuple[World, DenoisingMDP]:
    """The world and the decision process of these options."""
    world = library.get(options.world).to(dtype, device)
    core = Diffusion(Schedule.cosine(10.0, -10.0), OracleDenoiser(world))
    chain = core.chain(TimeGrid.uniform(options.steps), options.variance)
    return world, DenoisingMDP(chain, REWARDS[options.reward], beta=options.beta)


def measure(options: RLBenchOptions, console: Console) -> Measured:
    """Run them all, one after the other."""
    size, device, names = options.size, options.place, options.methods or METHODS
    wide, exact = process(options, torch.float64, torch.device("cpu"))
    _, mdp = process(options, torch.float32, device)
    like = torch.empty(0, 2, device=device)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("the floor", total=len(names) + 2)
        began = time.perf_counter()
        floor = reachable(exact, points=size.points)
        log_z = _of_lattice(floor.log_z, floor.error)
        bench, spent = Bench(mdp, log_z, size, like, options.seed), time.perf_counter() - began
        progress.update(task, advance=1, description="the optimum")
        # Of other draws than any method's.
        optimum = estimated_optimum(mdp, size.reference_draws, bench.generator(3), like=like, rows=2**15)
        walk = Policy(mdp, mdp.chain.core).walk(size.draws, bench.generator(0), like=like)
        rows = {"reference": bench.read(walk, 0, 0.0)}
        for name in names:
            progress.update(task, advance=1, description=name)
            line = progress.add_task("", total=None)

            def tell(tuner: Any, _: dict[str, float], line: Any = line) -> None:
                progress.update(line, total=tuner.config.rounds, completed=tuner.round)

            rows[name] = bench.found(name, tell)
            progress.remove_task(line)
        rows["best σ kept"] = _best(bench, exact, floor, spent)
    return Measured(wide, mdp, floor, optimum, rows)


def _best(bench: Bench, exact: DenoisingMDP, floor: Reachable, spent: float) -> Found:
    """The floor's policy: its figures as they were found, and draws of it for the picture."""
    like, generator = torch.empty(0, dtype=torch.float64), torch.Generator().manual_seed(bench.seed)
    state = exact.start(2048, generator, like=like)
    done = False
    while not done:
        noise = torch.randn(state.x.shape, generator=generator, dtype=like.dtype)
        outcome = exact.step(state, floor.control(state.x, state.k) + noise)
        state, done = outcome.state, outcome.done
    told = (floor.reward, floor.gap, floor.kl)
    return Found(state.x, 0, 0, spent, *(_of_lattice(value, floor.error) for value in told))


def table(options: RLBenchOptions, measured: Measured) -> Table:
    """A line for each method."""
    optimum, floor = measured.optimum, measured.floor
    shown = Table(
        title=f"{options.world}, {options.reward} reward, β = {options.beta:g}, {options.steps} steps, "
        f"{options.variance} variance; {machine.named(options.place)}, torch {torch.__version__}",
        caption=f"E* r = {_with_error(optimum.reward)}, E_ref r = {_with_error(optimum.reference_reward)}, "
        f"KL(p*‖p_ref) = {_with_error(optimum.kl)}, log Z = {floor.log_z:.4f} ± {floor.error:.0e} "
        f"({_with_error(optimum.log_z)} by draws); no policy that keeps σ ends below KL to p* = {floor.gap:.4f}. "
        "* an upper bound",
    )
    shown.add_column(HEAD[0])
    for name in HEAD[1:]:
        shown.add_column(name, justify="right")
    for line in lines(measured):
        shown.add_row(*line)
    return shown


def lines(measured: Measured) -> list[list[str]]:
    """The table's rows, as text under :data:`HEAD`."""
    found_lines = []
    for name, found in measured.rows.items():
        star, over = "*" if name in BOUNDED else "", measured.overshoot(found)
        found_lines.append([
            name, f"{found.queries:,}", f"{found.queries_each:g}", f"{found.seconds:.1f}", _with_error(found.reward),
            f"{measured.gained(found):.1%}", f"{over:.3f}" if over else "", star + _with_error(found.kl_star),
            f"{float(found.kl_star.value) - measured.floor.gap:.4f}", star + _with_error(found.kl_ref),
        ])  # fmt: skip
    return found_lines


def page(options: RLBenchOptions, measured: Measured, figure: Figure) -> Path:
    """Write ``index.html``: the picture, the table, and what could be had."""
    optimum, floor = measured.optimum, measured.floor
    tried = {name: found for name, found in measured.rows.items() if name in METHODS and name not in BOUNDED}
    best = min(tried, key=lambda name: float(tried[name].kl_star.value)) if tried else "reference"
    sheet = Sheet(
        "unidiff bench rl",
        f"{best} ends {_with_error(measured.rows[best].kl_star, 3)} nats from the optimum.",
        f"{options.world}, {options.reward} reward, β = {options.beta:g}, {options.steps} steps, {options.variance} "
        "variance. Each method is held to the one optimum p* ∝ p_ref e^{r/β} over paths, which is known here, and to the "
        "least KL that any policy can have that keeps the reference's σ.",
        [
            (_with_error(optimum.reward, 3), "E* r, what could be had"),
            (_with_error(optimum.reference_reward, 3), "E_ref r, the reference"),
            (f"{floor.gap:.4f}", "nats, the least KL to p* with σ kept"),
            (f"{floor.log_z:.4f}", "log Z"),
        ],
        {"The tilted law, and each method's samples over its contours": figure},
        HEAD, lines(measured), frozenset(k for k, name in enumerate(measured.rows) if name == best),
        ("* an upper bound.", f"{machine.named(options.place)}, torch {torch.__version__}."),
    )  # fmt: skip
    return write_sheet(sheet, options.out)


def document(options: RLBenchOptions, measured: Measured) -> dict[str, Any]:
    """The same, JSON-ready."""
    optimum, floor = measured.optimum, measured.floor
    told = dataclasses.asdict(options) | {"out": str(options.out), "device": str(options.place)}
    return {
        "options": {name: value for name, value in told.items() if name != "json"},
        "optimum": {
            name: _pair(getattr(optimum, name)) for name in ("reward", "reference_reward", "kl", "log_z")
        } | {"ess": float(optimum.ess), "draws": optimum.n},
        "floor": {
            name: getattr(floor, name) for name in ("value", "reward", "kl", "log_z", "gap", "error", "points")
        },
        "rows": [
            {
                "method": name, "queries": found.queries, "queries_each": found.queries_each, "seconds": found.seconds,
                "reward": _pair(found.reward), "gained": measured.gained(found), "overshoot": measured.overshoot(found),
                "kl_star": _pair(found.kl_star), "kl_ref": _pair(found.kl_ref), "bound": name in BOUNDED,
            }
            for name, found in measured.rows.items()
        ],
    }  # fmt: skip


def picture(options: RLBenchOptions, measured: Measured) -> Figure:
    """The world tilted by r/β, and each method's samples over its contours."""
    tilted, _ = measured.world.tilt_by(REWARDS[options.reward], options.beta)
    every = measured.rows["reference"].x0.double().cpu()
    low, high = (every.quantile(q, 0).sub(m) for q, m in ((0.001, 0.4), (0.999, -0.4)))
    # The density's own samples too, where the reward leads beyond the reference's.
    own = tilted.sample(4096, torch.Generator().manual_seed(0))
    low, high = torch.minimum(low, own.quantile(0.001, 0) - 0.4), torch.maximum(high, own.quantile(0.999, 0) + 0.4)
    axes = [torch.linspace(float(a), float(b), 241, dtype=torch.float64) for a, b in zip(low, high, strict=True)]
    at = torch.cartesian_prod(*axes)
    log_density = tilted.log_prob(at).reshape(241, 241).T
    samples = {
        f"{name}: {'≤ ' if name in BOUNDED else ''}{_with_error(found.kl_star, 3)} nats": found.x0.cpu().numpy()
        for name, found in measured.rows.items()
    }
    title = f"p e^(r/β)/Z, {options.reward}, β = {options.beta:g}"
    return beside(axes[0].numpy(), axes[1].numpy(), log_density.numpy(), samples, title)


def run(options: RLBenchOptions) -> dict[str, Any]:
    """Measure, print, and write ``index.html``, ``rl.json`` and ``rl.png``; returns the document."""
    console = Console(stderr=options.json, width=max(150, Console().width))
    options.out.mkdir(parents=True, exist_ok=True)
    measured = measure(options, console)
    told = document(options, measured)
    text = json.dumps(told, indent=2, allow_nan=False)
    (options.out / "rl.json").write_text(text + "\n", encoding="utf-8")
    figure = picture(options, measured)
    figure.savefig(options.out / "rl.png", dpi=144, facecolor="white")
    shown = page(options, measured, figure)
    if options.json:
        sys.stdout.write(text + "\n")
    else:
        console.print(table(options, measured))
        console.print(f"{options.out / 'rl.json'}, {shown}", style="dim")
    return told


def _with_error(estimate: Estimate, digits: int = 4) -> str:
    value, error = _pair(estimate)
    return f"{value:.{digits}f}" + (f" ± {error:.{digits}f}" if error else "")


def _of_lattice(value: float, error: float) -> Estimate:
    return Estimate(*torch.tensor([value, error], dtype=torch.float64), law="quadrature")


def _pair(estimate: Estimate) -> list[float]:
    return [float(estimate.value), float(estimate.standard_error)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse and run."""
    run(tyro.cli(RLBenchOptions, args=arguments, prog="unidiff bench rl"))


if __name__ == "__main__":
    main(sys.argv[1:])
