"""``unidiff sample``, and the drawing that ``unidiff train`` ends with."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unidiff.cli.parsing import check_picture, parse, tell
from unidiff.core.boundary import check_count, check_device, check_name, check_positive, check_seed, check_time
from unidiff.core.tables import METHODS

CHAINS = ("annealed", "pc", "langevin")
"""The methods that are the score view's."""
KERNELS = ("ula", "mala", "hmc", "baoab")
ONLY_LANGEVIN = ("at", "kernel", "step_size", "warmup")
LOG_SNR = 6.0
"""Of the law that chains run on: noise a twentieth of the data's scale, so that x̂_0 is a datum but for what it took off."""
START_STEPS, WARMUP = 50, 200
MOST_KEPT = 2**22
"""Numbers of a trace that R-hat is asked of."""


@dataclasses.dataclass(frozen=True)
class SampleOptions:
    """Draw samples from a checkpoint, or from a world's exact denoiser.

    Attributes:
        checkpoint: a checkpoint's file, or a run's folder.
        world: a closed-form world instead (mixture-2d, mixture-8d, gaussian, eight-gaussians, digits).
        n: how many.
        steps: of the sampler; the levels of annealed, at least 2; of each chain of langevin, after its warm-up.
        grid: a grid of times saved as JSON (unidiff paths writes them), in place of steps even ones; for the samplers.
        method: ancestral, ddim, euler, heun, dpm++2m, sde or sde-dpm++2m; annealed (Langevin: steps levels of twenty), pc
            (predictor-corrector) or langevin: 50 steps of dpm++2m down to the noised law at time at, there a chain from
            each, and the data that its end is denoised to. Samples of the law even where chains are too short to mix, if
            the core's own are; acceptance, R-hat and effective draws (with arviz) say how far they went.
        at: the time of the noised law, for langevin; where the log-SNR is 6 (noise a twentieth of the data), if left out.
        kernel: of langevin: ula, mala, hmc or baoab; mala if left out.
        step_size: of the kernel, in its own unit (x² for ula and mala, x for hmc and baoab). If left out, a twentieth of
            the noise's variance (ula, mala) or three tenths of its deviation, from where mala and hmc adapt it.
        warmup: steps of langevin before the chains count; in them mala and hmc find their step size. 200 if left out.
        guidance: classifier-free guidance weight; 1 is the plain conditional model.
        condition: class of the samples, for a conditional network.
        device: where to compute: cpu, cuda or cuda:N.
        dtype: float32 or float64.
        seed: of every random draw.
        out: the picture, a .png; the samples go beside it as .npz.
        json: print one JSON document about what was written.
    """

    checkpoint: Path | None = None
    world: str | None = None
    n: int = 64
    steps: int = 50
    grid: Path | None = None
    method: str = "ddim"
    at: float | None = None
    kernel: str | None = None
    step_size: float | None = None
    warmup: int | None = None
    guidance: float = 1.0
    condition: int | None = None
    device: str = "cpu"
    dtype: str = "float32"
    seed: int = 0
    out: Path = Path("samples.png")
    json: bool = False

    def check(self) -> None:
        """Find out before any work what cannot be. Raises ValueError."""
        check_name("method", self.method, (*METHODS, *CHAINS))
        check_count("n", self.n)
        check_count("steps", self.steps, 2 if self.method == "annealed" else 1)
        check_seed(self.seed)
        if self.grid is not None and self.method in CHAINS:
            raise ValueError(f"grid is for a sampler, got {self.grid} with method {self.method!r}")
        for name in ONLY_LANGEVIN:
            value = getattr(self, name)
            if value is not None and self.method != "langevin":
                raise ValueError(f"{name} is for method 'langevin', got {self.method!r} with {name} = {value}")
        if self.at is not None:
            check_time("at", self.at)
        if self.kernel is not None:
            check_name("kernel", self.kernel, KERNELS)
        if self.step_size is not None:
            check_positive("step_size", self.step_size)
        if self.warmup is not None:
            check_count("warmup", self.warmup, 0)


def run(arguments: Sequence[str]) -> int:
    """The command; returns the exit status."""
    options = parse(SampleOptions, arguments, "unidiff sample")
    import torch

    from unidiff.core.boundary import check_condition
    from unidiff.core.grid import TimeGrid
    from unidiff.identities.subjects import DTYPES
    from unidiff.report import save_samples

    options.check()
    check_name("dtype", options.dtype, DTYPES)
    check_device(options.device)
    core = load(options.checkpoint, options.world, options.device, DTYPES[options.dtype])
    condition = None if options.condition is None else torch.tensor(options.condition)
    check_condition(condition, options.guidance, options.n, getattr(core.denoiser, "num_classes", None))
    check_picture("out", options.out)
    dtype, facts = DTYPES[options.dtype], {}
    if options.method == "langevin":
        x, facts = _langevin(core, options, dtype, condition)
    else:
        x = draw(
            core, options.n, options.steps, options.method, options.seed, options.device, dtype, condition,
            options.guidance, None if options.grid is None else TimeGrid.load(options.grid, core.schedule),
        )  # fmt: skip
    return tell(options.json, {"n": options.n, **facts, **save_samples(options.out, x)})


def load(checkpoint: Path | None, world: str | None, device: str, dtype: Any) -> Any:
    """The core of a checkpoint or of a named world (cosine schedule). Raises ValueError unless it is one of the two."""
    from unidiff.core.diffusion import Diffusion
    from unidiff.core.schedule import Schedule
    from unidiff.train import load_core
    from unidiff.worlds import OracleDenoiser, library

    if (checkpoint is None) == (world is None):
        raise ValueError(f"give a checkpoint or a world, got checkpoint = {checkpoint} and world = {world}")
    if checkpoint is not None:
        return load_core(checkpoint).to(device=device, dtype=dtype)
    return Diffusion(Schedule.cosine(), OracleDenoiser(library.get(str(world)).to(dtype, device)))


def draw(
    core: Any,
    n: int,
    steps: int,
    method: Any,
    seed: int,
    device: Any,
    dtype: Any,
    condition: Any = None,
    guidance: float = 1.0,
    grid: Any = None,
) -> Any:
    """n samples ``[n, *E]`` as an array, behind a progress bar."""
    import torch

    from unidiff.core.sampling import sample
    from unidiff.report import Bars
    from unidiff.score import ScoreModel

    generator = torch.Generator(device).manual_seed(seed)
    told = {"generator": generator, "guidance": guidance, "dtype": dtype}
    with Bars() as bars:
        if method not in CHAINS:
            return (
                sample(core, n, steps, method, grid=grid, condition=condition, on_row=bars.on_row, **told).cpu().numpy()
            )
        if condition is not None:
            told["condition"] = condition.to(device).expand(n)
        model = ScoreModel(core)
        if method == "annealed":
            x = model.annealed_langevin(n, levels=steps, denoise=True, on_row=bars.on_row, **told)
        else:
            x = model.predictor_corrector(n, steps=steps, on_row=bars.on_row, **told)
        return x.cpu().numpy()


def _langevin(core: Any, options: SampleOptions, dtype: Any, condition: Any) -> tuple[Any, dict[str, Any]]:
    """Chains on q_t from draws of it: the x̂_0 of their ends ``[n, *E]`` as an array, and what is known of the chains."""
    import torch

    from unidiff.report import Bars
    from unidiff.score import ScoreModel

    model, generator = ScoreModel(core), torch.Generator(options.device).manual_seed(options.seed)
    at = options.at
    if at is not None and not float(core.schedule.sigma(at).detach()) > 0:
        raise ValueError(f"at must be a time with noise (sigma > 0), where the law has a score, got {at}")
    if at is None:
        most = float(core.schedule.log_snr(0.0).detach())
        at = float(core.schedule.time(min(LOG_SNR, most)).detach())
    law: dict[str, Any] = {"guidance": options.guidance}
    if condition is not None:
        law["condition"] = condition.to(options.device).expand(options.n)
    every = _kept(options, core.event_shape)
    with Bars() as bars, torch.no_grad():
        x = _start(core, options.n, at, generator, dtype, law)
        kernel = _kernel(options, float(core.schedule.sigma(at).detach()))
        warmup = WARMUP if options.warmup is None else options.warmup
        chains = model.langevin(
            x, at, options.steps, kernel=kernel, warmup=warmup, keep_every=every, generator=generator,
            on_step=bars.on_row, **law,
        )  # fmt: skip
        return model.denoise(chains.x, at, **law).cpu().numpy(), {"at": at, **_facts(chains)}


def _start(core: Any, n: int, at: float, generator: Any, dtype: Any, law: dict[str, Any]) -> Any:
    """n draws of q_t by the core's own sampler, the prior's at t = 1."""
    import torch

    from unidiff.core.grid import TimeGrid
    from unidiff.core.sampling import sample

    if at >= 1.0:
        return core.prior(n, generator, torch.empty(0, dtype=dtype, device=generator.device))
    told = {"generator": generator, "dtype": dtype, **law}
    # Where λ(1) = −∞, nothing is evenly spaced in it, or extrapolated from there.
    if math.isfinite(float(core.schedule.log_snr(1.0).detach())):
        return sample(
            core, n, method="dpm++2m", grid=TimeGrid.uniform_log_snr(START_STEPS, core.schedule, first=at), **told
        )
    return sample(core, n, method="ddim", grid=TimeGrid.uniform(START_STEPS, at), **told)


def _kernel(options: SampleOptions, sigma: float) -> Any:
    from unidiff.score import BAOAB, HMC, MALA, ULA

    name = "mala" if options.kernel is None else options.kernel
    natural = 0.05 * sigma**2 if name in ("ula", "mala") else 0.3 * sigma
    kinds = {"ula": ULA, "mala": MALA, "hmc": HMC, "baoab": BAOAB}
    return kinds[name](natural if options.step_size is None else options.step_size)


def _kept(options: SampleOptions, shape: tuple[int, ...]) -> int | None:
    """How often a state is kept, for R-hat: about a hundred times; None where arviz is missing or would be lost in it."""
    from importlib.util import find_spec

    every = max(1, options.steps // 100)
    numbers = options.steps // every * options.n * math.prod(shape)
    few = options.steps // every < 4 or options.n < 2
    return None if few or numbers > MOST_KEPT or find_spec("arviz") is None else every


def _facts(chains: Any) -> dict[str, Any]:
    facts: dict[str, Any] = {"kernel": type(chains.kernel).__name__.lower(), "step_size": chains.step_size}
    if chains.acceptance is not None:
        facts |= {"acceptance": float(chains.acceptance.mean()), "divergent": int(chains.divergent.sum())}
    if chains.trace is not None:
        summary = chains.summary()
        worst = {"rhat": float(summary.rhat.max()), "effective_draws": float(summary.ess_bulk.min())}
        facts |= {name: value if math.isfinite(value) else None for name, value in worst.items()}
    return facts
