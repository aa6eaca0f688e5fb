"""The command line: ``unidiff verify``, ``unidiff train``, ``unidiff sample``.

Exit status: 0 all is well, 1 an identity is violated (or a run failed), 2 something could not be decided, 64 the
command was not understood.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from unidiff.train.config import TrainConfig

USAGE = 64


@dataclasses.dataclass(frozen=True)
class VerifyOptions:
    """Check every identity that unidiff knows, and show what was found.

    Attributes:
        view: only identities that tie these views (core, score, vae, thermo, ebm, rl, paths).
        only: only these identities, by name.
        dtype: float64 or float32; both if left out.
        device: where to compute.
        seed: of every random draw.
        checkpoint: verify the network in this checkpoint instead of the standard suite.
        quick: fewer worlds and schedules, no training: seconds.
        workers: processes on the CPU; 0 takes as many as there are cores, up to 4.
        out: folder of the report.
        json: print one JSON document instead of the table.
    """

    view: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    dtype: str | None = None
    device: str = "cpu"
    seed: int = 0
    checkpoint: Path | None = None
    quick: bool = False
    workers: int = 0
    out: Path = Path("report")
    json: bool = False


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """Train a denoiser. The defaults are those that suit the data.

    Attributes:
        config: the run.
        data: a named data set (8 Gaussians and other toys, digits), an .npz file or a folder of images.
        resume: go on from the checkpoint in the run's folder.
        json: print one JSON document at the end.
    """

    config: Annotated[TrainConfig, tyro.conf.OmitArgPrefixes]
    data: str = "eight-gaussians"
    resume: bool = False
    json: bool = False


@dataclasses.dataclass(frozen=True)
class SampleOptions:
    """Draw samples from a checkpoint, or from a world's exact denoiser.

    Attributes:
        checkpoint: a file or a run's folder.
        world: a closed-form world instead (mixture-2d, mixture-8d, gaussian, eight-gaussians, digits).
        n: how many.
        steps: of the sampler.
        method: ancestral, ddim, euler, heun, dpm++2m, sde or sde-dpm++2m.
        guidance: classifier-free guidance weight; 1 is the plain conditional model.
        condition: class of the samples, for a conditional network.
        device: where to compute; the checkpoint's data type is kept.
        dtype: float32 or float64.
        seed: of every random draw.
        out: the picture (.png); the samples go beside it (.npz).
        json: print one JSON document about what was written.
    """

    checkpoint: Path | None = None
    world: str | None = None
    n: int = 64
    steps: int = 50
    method: str = "ddim"
    guidance: float = 1.0
    condition: int | None = None
    device: str = "cpu"
    dtype: str = "float32"
    seed: int = 0
    out: Path = Path("samples.png")
    json: bool = False


def verify(options: VerifyOptions) -> int:
    """``unidiff verify``."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from unidiff.identities.verify import verify as run
    from unidiff.report import print_report, write_html

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        checking = progress.add_task("checking identities", total=None)
        training: list[Any] = []

        def on_check(check: Any, done: int, total: int) -> None:
            progress.update(checking, completed=done, total=total)

        def on_step(done: int, total: int, loss: float) -> None:
            if not training:
                training.append(progress.add_task("training on the digits", total=total))
            progress.update(training[0], completed=done, description=f"training on the digits, loss {loss:.2f}")

        report = run(
            view=options.view or None, only=options.only or None, dtype=options.dtype, device=options.device,
            seed=options.seed, quick=options.quick, checkpoint=options.checkpoint, on_check=on_check, on_step=on_step,
            workers=options.workers or min(4, os.cpu_count() or 1),
        )  # fmt: skip
    if options.json:
        _print_json(report.to_dict())
        return report.exit_status
    console = Console()
    print_report(report, console)
    console.print(f"the report: {write_html(report, options.out)}", highlight=False)
    return report.exit_status


def train(arguments: Sequence[str]) -> int:
    """``unidiff train``."""
    options = _parse_train(arguments)
    import torch
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from unidiff.train import Trainer, load_data
    from unidiff.train.data import names

    config = options.config
    folder = Path(config.out or f"runs/{Path(options.data).stem}")
    config = dataclasses.replace(config, out=str(folder))
    if options.resume:
        changes = {"steps": config.steps} if _given(arguments, "--steps") else {}
        changes |= {"minutes": config.minutes} if _given(arguments, "--minutes") else {}
        data = load_data(options.data, dtype=config.torch_dtype) if options.data not in names() else None
        trainer = Trainer.resume(folder, data, out=str(folder), **changes)
    else:
        kept = folder / "checkpoint.safetensors"
        if kept.exists():
            raise ValueError(f"out must be a new folder, or give --resume: {kept} exists already")
        generator = torch.Generator().manual_seed(config.seed)
        trainer = Trainer.start(config, load_data(options.data, generator=generator, dtype=config.torch_dtype))
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("training", total=1.0)

        def on_log(trainer: Trainer, line: dict[str, float]) -> None:
            text = f"training, step {trainer.step}, loss {line['loss']:.4g}"
            progress.update(bar, completed=trainer.progress, description=text)

        core = trainer.fit(on_log)
    written = {"checkpoint": str(folder / "checkpoint.safetensors"), "metrics": str(folder / "metrics.jsonl")}
    x = _draw(core, 64, 50, "ddim", trainer.config.seed)
    written |= _save_samples(folder / "samples.png", x, trainer.data.image_shape)
    return _tell(options.json, {"steps": trainer.step, "seconds": round(trainer.elapsed, 3), **written})


def sample(options: SampleOptions) -> int:
    """``unidiff sample``."""
    import torch

    from unidiff.core.boundary import check_count, check_name
    from unidiff.core.diffusion import Diffusion
    from unidiff.core.schedule import Schedule
    from unidiff.core.tables import METHODS
    from unidiff.identities.subjects import DTYPES
    from unidiff.train import load_core
    from unidiff.worlds import OracleDenoiser, library

    check_name("method", options.method, METHODS)
    check_name("dtype", options.dtype, DTYPES)
    check_count("n", options.n)
    check_count("steps", options.steps)
    if (options.checkpoint is None) == (options.world is None):
        raise ValueError(f"give a checkpoint or a world, got checkpoint = {options.checkpoint} and world = {options.world}")
    dtype = DTYPES[options.dtype]
    if options.checkpoint is not None:
        core = load_core(options.checkpoint).to(device=options.device, dtype=dtype)
    else:
        world = library.get(str(options.world)).to(dtype, options.device)
        core = Diffusion(Schedule.cosine(), OracleDenoiser(world))
    condition = None
    if options.condition is not None:
        classes = getattr(core.denoiser, "num_classes", None)
        if classes is None or not 0 <= options.condition <= classes:
            expected = "left out (this model takes no condition)" if classes is None else f"in 0 … {classes}"
            raise ValueError(f"condition must be {expected}, got {options.condition}")
        condition = torch.tensor(options.condition, device=options.device)
    x = _draw(core, options.n, options.steps, options.method, options.seed, options.device, dtype, condition, options.guidance)
    shape = x.shape[1:]
    return _tell(options.json, {"n": options.n, **_save_samples(options.out, x, shape if len(shape) == 3 else None)})


def _draw(
    core: Any, n: int, steps: int, method: Any, seed: int, device: Any = None, dtype: Any = None, condition: Any = None,
    guidance: float = 1.0,
) -> Any:  # fmt: skip
    import torch
    from rich.progress import Progress

    from unidiff.core.sampling import sample as draw

    first = next(core.parameters(), None)
    device = device or ("cpu" if first is None else first.device)
    dtype = dtype or (torch.float32 if first is None else first.dtype)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("sampling")
        return draw(
            core, n, steps, method, torch.Generator(device).manual_seed(seed), condition=condition, guidance=guidance,
            dtype=dtype, on_row=lambda done, rows: progress.update(bar, completed=done, total=rows),
        ).cpu()  # fmt: skip


def _save_samples(picture: Path, x: Any, image_shape: Any) -> dict[str, str]:
    import numpy as np

    from unidiff.report import save_grid, save_scatter

    values = x.numpy()
    written: dict[str, str] = {}
    side = round(values[0].size ** 0.5)
    if image_shape is None and values.ndim == 2 and values.shape[1] > 2 and side * side == values.shape[1]:
        image_shape = (1, side, side)
    if image_shape is not None:
        written["picture"] = str(save_grid(picture, values.reshape(-1, *image_shape)))
    elif values.shape[1:] == (2,):
        written["picture"] = str(save_scatter(picture, {"samples": values}))
    arrays = picture.with_suffix(".npz")
    arrays.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(arrays, x=values)
    return {**written, "samples": str(arrays)}


def _tell(as_json: bool, facts: dict[str, Any]) -> int:
    if as_json:
        _print_json(facts)
    else:
        for name, value in facts.items():
            Console().print(f"{name}: {value}", highlight=False, soft_wrap=True)
    return 0


def _print_json(document: Any) -> None:
    sys.stdout.write(json.dumps(document, allow_nan=False) + "\n")


def _parse_train(arguments: Sequence[str]) -> TrainOptions:
    from unidiff.train import presets

    data = _value(arguments, "--data") or "eight-gaussians"
    preset = presets.for_data(data)
    # A budget is steps or minutes; naming one takes the preset's other away.
    if _given(arguments, "--steps"):
        preset = dataclasses.replace(preset, steps=preset.steps or 1, minutes=None)
    elif _given(arguments, "--minutes"):
        preset = dataclasses.replace(preset, minutes=preset.minutes or 1.0, steps=None)
    return _parse(TrainOptions, arguments, "unidiff train", TrainOptions(preset, data))


def _value(arguments: Sequence[str], flag: str) -> str | None:
    for k, argument in enumerate(arguments):
        if argument.startswith(flag + "="):
            return argument.split("=", 1)[1]
        if argument == flag and k + 1 < len(arguments):
            return arguments[k + 1]
    return None


def _given(arguments: Sequence[str], flag: str) -> bool:
    return _value(arguments, flag) is not None


def _parse(kind: type[Any], arguments: Sequence[str], program: str, default: Any = None) -> Any:
    options = {} if default is None else {"default": default}
    try:
        return tyro.cli(kind, args=list(arguments), prog=program, config=(tyro.conf.FlagCreatePairsOff,), **options)
    except SystemExit as stop:
        raise SystemExit(USAGE if stop.code not in (0, None) else 0) from None


_COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "verify": (
        lambda a: verify(_parse(VerifyOptions, a, "unidiff verify")),
        "check every identity, on closed-form worlds and on a network trained in front of you",
    ),
    "train": (train, "train a denoiser on a toy, the digits, an .npz file or a folder of images"),
    "sample": (
        lambda a: sample(_parse(SampleOptions, a, "unidiff sample")),
        "draw samples from a checkpoint or a closed-form world, as a picture and an .npz",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        _help(Console())
        return 0 if arguments else USAGE
    name, rest = arguments[0], arguments[1:]
    if name == "--version":
        from unidiff import __version__

        Console().print(__version__, highlight=False)
        return 0
    if name not in _COMMANDS:
        from unidiff.core.boundary import nearest

        return _fail(f"unknown command {name!r}; {nearest(name, _COMMANDS)}", USAGE)
    try:
        return _COMMANDS[name][0](rest)
    except (ValueError, TypeError) as error:
        return _fail(str(error), USAGE)
    except (OSError, RuntimeError, ArithmeticError) as error:
        return _fail(f"{type(error).__name__}: {error}", 1)


def _help(console: Console) -> None:
    console.print("[bold]unidiff[/bold]: one diffusion process, read in several ways, and a machine that checks it\n")
    for name, (_, words) in _COMMANDS.items():
        console.print(f"  unidiff [bold]{name:8}[/bold]{words}", highlight=False)
    console.print("\nunidiff COMMAND --help tells more.", highlight=False)


def _fail(message: str, status: int) -> int:
    Console(stderr=True).print(f"unidiff: {message}", style="red", markup=False, highlight=False, soft_wrap=True)
    return status


if __name__ == "__main__":
    raise SystemExit(main())
