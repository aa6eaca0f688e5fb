"""``unidiff sample``, and the drawing that ``unidiff train`` ends with."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unidiff.cli.parsing import check_picture, parse, tell
from unidiff.core.boundary import check_count, check_device, check_name, check_seed, check_time
from unidiff.core.tables import METHODS

CHAINS = ("annealed", "pc", "langevin")
"""The methods that are the score view's."""


@dataclasses.dataclass(frozen=True)
class SampleOptions:
    """Draw samples from a checkpoint, or from a world's exact denoiser.

    Attributes:
        checkpoint: a checkpoint's file, or a run's folder.
        world: a closed-form world instead (mixture-2d, mixture-8d, gaussian, eight-gaussians, digits).
        n: how many.
        steps: of the sampler.
        method: ancestral, ddim, euler, heun, dpm++2m, sde or sde-dpm++2m; annealed (Langevin: steps levels of ten steps), pc
            (predictor-corrector) or langevin (chains on one noised law from the prior, and what they are denoised to).
        at: the time of the noised law, for langevin; where the log-SNR is 3, if left out.
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
    method: str = "ddim"
    at: float | None = None
    guidance: float = 1.0
    condition: int | None = None
    device: str = "cpu"
    dtype: str = "float32"
    seed: int = 0
    out: Path = Path("samples.png")
    json: bool = False


def run(arguments: Sequence[str]) -> int:
    """The command; returns the exit status."""
    options = parse(SampleOptions, arguments, "unidiff sample")
    import torch

    from unidiff.core.boundary import check_condition
    from unidiff.identities.subjects import DTYPES
    from unidiff.report import save_samples

    check_name("method", options.method, (*METHODS, *CHAINS))
    check_name("dtype", options.dtype, DTYPES)
    for name in ("n", "steps"):
        check_count(name, getattr(options, name))
    check_seed(options.seed)
    if options.at is not None:
        check_time("at", options.at)
        if options.method != "langevin":
            raise ValueError(f"at is for method 'langevin', got {options.method!r} with at = {options.at}")
    check_device(options.device)
    core = load(options.checkpoint, options.world, options.device, DTYPES[options.dtype])
    condition = None if options.condition is None else torch.tensor(options.condition)
    check_condition(condition, options.guidance, options.n, getattr(core.denoiser, "num_classes", None))
    check_picture("out", options.out)
    x = draw(
        core, options.n, options.steps, options.method, options.seed, options.device, DTYPES[options.dtype], condition,
        options.guidance, options.at,
    )  # fmt: skip
    return tell(options.json, {"n": options.n, **save_samples(options.out, x)})


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
    at: float | None = None,
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
            return sample(core, n, steps, method, condition=condition, on_row=bars.on_row, **told).cpu().numpy()
        if condition is not None:
            told["condition"] = condition.to(device).expand(n)
        model = ScoreModel(core)
        if method == "langevin":
            x = _chains(model, n, steps, at, bars.on_row, told)
        elif method == "annealed":
            x = model.annealed_langevin(n, levels=max(2, steps), denoise=True, on_row=bars.on_row, **told)
        else:
            x = model.predictor_corrector(n, steps=steps, on_row=bars.on_row, **told)
        return x.cpu().numpy()


def _chains(model: Any, n: int, steps: int, at: float | None, on_step: Any, told: dict[str, Any]) -> Any:
    """ULA on q_t, with steps of a tenth of the noise's variance, and x̂_0 of where the chains end."""
    import torch

    from unidiff.score import ULA

    core, generator = model.core, told["generator"]
    t = float(core.schedule.time(3.0)) if at is None else at
    law = {name: told[name] for name in ("condition", "guidance") if name in told}
    x = core.prior(n, generator, torch.empty(0, dtype=told["dtype"], device=generator.device))
    kernel = ULA(0.1 * float(core.schedule.sigma(t).detach()) ** 2)
    chains = model.langevin(x, t, steps, kernel=kernel, generator=generator, on_step=on_step, **law)
    return model.denoise(chains.x, t, **law)
