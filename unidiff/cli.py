"""The command line: ``unidiff verify``, ``unidiff train``, ``unidiff sample``, ``unidiff likelihood``.

Exit status: 0 all is well, 1 an identity is violated (or a run failed), 2 something could not be decided, 64 the
command was not understood, or asked for what cannot be: that is found out before any work.
"""

# No `from __future__ import annotations` here: tyro reads the annotations of a class that is made inside a function.
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import tyro
from rich.console import Console

from unidiff.commands.likelihood import LikelihoodOptions

USAGE = 64
INTERRUPTED = 130


@dataclasses.dataclass(frozen=True)
class VerifyOptions:
    """Check every identity that unidiff knows, and show what was found.

    Attributes:
        view: only identities that tie one of these views (core, score, vae, thermo, ebm, rl, paths).
        only: only these identities, by name.
        dtype: float64 or float32; both if left out.
        device: where to compute.
        seed: of every random draw.
        checkpoint: verify the network in this checkpoint instead of the standard suite.
        quick: fewer worlds and schedules, no training; half a minute.
        workers: processes on the CPU; 0 takes one for each core, up to 4.
        out: folder of the report; report/ if left out, and with --json none unless it is named.
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
    out: Path | None = None
    json: bool = False


@dataclasses.dataclass(frozen=True)
class SampleOptions:
    """Draw samples from a checkpoint, or from a world's exact denoiser.

    Attributes:
        checkpoint: a checkpoint's file, or a run's folder.
        world: a closed-form world instead (mixture-2d, mixture-8d, gaussian, eight-gaussians, digits).
        n: how many.
        steps: of the sampler.
        method: ancestral, ddim, euler, heun, dpm++2m, sde or sde-dpm++2m.
        guidance: classifier-free guidance weight; 1 is the plain conditional model.
        condition: class of the samples, for a conditional network.
        device: where to compute.
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
    guidance: float = 1.0
    condition: int | None = None
    device: str = "cpu"
    dtype: str = "float32"
    seed: int = 0
    out: Path = Path("samples.png")
    json: bool = False


def verify(options: VerifyOptions) -> int:
    """``unidiff verify``."""
    from unidiff.identities.verify import verify as run
    from unidiff.report import Bars, print_report, write_html

    folder = options.out or (None if options.json else Path("report"))
    if folder is not None and folder.exists() and not folder.is_dir():
        raise ValueError(f"out must be a folder, got the file {folder}")
    with Bars() as bars:
        report = run(
            view=options.view or None, only=options.only or None, dtype=options.dtype, device=options.device,
            seed=options.seed, quick=options.quick, checkpoint=options.checkpoint,
            workers=_workers() if options.workers == 0 else options.workers, on_check=bars.on_check, on_step=bars.on_step,
        )  # fmt: skip
    page = None if folder is None else write_html(report, folder)
    if options.json:
        _print_json(report.to_dict())
    else:
        console = Console()
        print_report(report, console)
        console.print(f"the report: {page}", highlight=False, soft_wrap=True)
    return report.exit_status


def train(arguments: Sequence[str]) -> int:
    """``unidiff train``."""
    options = _parse_train(arguments)
    import torch

    from unidiff.report import Bars
    from unidiff.train import Trainer, load_data
    from unidiff.train.data import names

    config = options.config
    folder = Path(config.out or f"runs/{Path(options.data).stem}")
    config = dataclasses.replace(config, out=str(folder))
    checkpoint = folder / "checkpoint.safetensors"
    if options.resume:
        changes = {name: getattr(config, name) for name in ("steps", "minutes") if _given(arguments, f"--{name}")}
        data = None if options.data in names() else load_data(options.data, dtype=config.torch_dtype)
        trainer = Trainer.resume(folder, data, out=str(folder), **changes)
    else:
        if checkpoint.exists():
            raise ValueError(f"out must be a new folder, or give --resume: {checkpoint} exists already")
        generator = torch.Generator().manual_seed(config.seed)
        trainer = Trainer.start(config, load_data(options.data, generator=generator, dtype=config.torch_dtype))
    with Bars() as bars:

        def on_log(trainer: Trainer, line: dict[str, float]) -> None:
            bars.update("training", trainer.progress, 1.0, f"step {trainer.step}, loss {line['loss']:.4g}")

        core = trainer.fit(on_log)
    written = {"checkpoint": str(checkpoint), "metrics": str(folder / "metrics.jsonl")}
    written |= _sheet(core, folder / "samples.png", trainer.config.seed, trainer.data.image_shape)
    return _tell(options.json, {"steps": trainer.step, "seconds": round(trainer.elapsed, 3), **written})


def sample(options: SampleOptions) -> int:
    """``unidiff sample``."""
    import torch

    from unidiff.core.boundary import check_count, check_name
    from unidiff.core.tables import METHODS
    from unidiff.identities.subjects import DTYPES
    from unidiff.report import save_samples

    check_name("method", options.method, METHODS)
    check_name("dtype", options.dtype, DTYPES)
    for name in ("n", "steps"):
        check_count(name, getattr(options, name))
    if options.out.suffix != ".png":
        raise ValueError(f"out must end in .png, got {options.out}")
    _check_device(options.device)
    core = _core(options, DTYPES[options.dtype])
    condition = None
    if options.condition is not None:
        classes = getattr(core.denoiser, "num_classes", None)
        if classes is None or not 0 <= options.condition <= classes:
            expected = (
                "left out (this model takes none)" if classes is None else f"in 0 … {classes} ({classes} is no class)"
            )
            raise ValueError(f"condition must be {expected}, got {options.condition}")
        condition = torch.tensor(options.condition, device=options.device)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    x = _draw(
        core, options.n, options.steps, options.method, options.seed, options.device, DTYPES[options.dtype], condition,
        options.guidance,
    )  # fmt: skip
    return _tell(options.json, {"n": options.n, **save_samples(options.out, x)})


def likelihood(options: LikelihoodOptions) -> int:
    """``unidiff likelihood``."""
    from unidiff.commands.likelihood import measure, show
    from unidiff.core.boundary import check_name
    from unidiff.identities.subjects import DTYPES

    check_name("dtype", options.dtype, DTYPES)
    options.check()
    _check_device(options.device)
    document = measure(options, _core(options, DTYPES[options.dtype]))
    if options.json:
        _print_json(document)
    else:
        show(document, Console())
    return 0


def _check_device(name: str) -> None:
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device must be one that torch can use here, got {name!r}: {error}") from None


def _core(options: SampleOptions | LikelihoodOptions, dtype: Any) -> Any:
    from unidiff.core.diffusion import Diffusion
    from unidiff.core.schedule import Schedule
    from unidiff.train import load_core
    from unidiff.worlds import OracleDenoiser, library

    if (options.checkpoint is None) == (options.world is None):
        raise ValueError(
            f"give a checkpoint or a world, got checkpoint = {options.checkpoint} and world = {options.world}"
        )
    if options.checkpoint is not None:
        return load_core(options.checkpoint).to(device=options.device, dtype=dtype)
    return Diffusion(Schedule.cosine(), OracleDenoiser(library.get(str(options.world)).to(dtype, options.device)))


def _draw(
    core: Any,
    n: int,
    steps: int,
    method: Any,
    seed: int,
    device: Any,
    dtype: Any,
    condition: Any,
    guidance: float = 1.0,
) -> Any:
    import torch

    from unidiff.core.sampling import sample as draw
    from unidiff.report import Bars

    with Bars() as bars:
        return draw(
            core, n, steps, method, torch.Generator(device).manual_seed(seed), condition=condition, guidance=guidance,
            dtype=dtype, on_row=bars.on_row,
        ).cpu().numpy()  # fmt: skip


def _sheet(core: Any, path: Path, seed: int, image_shape: Any) -> dict[str, str]:
    """What a run leaves to look at: eight of each class, a column for each; without classes 64 images or 2048 points."""
    import torch

    from unidiff.report import save_samples

    first, classes = next(core.parameters()), core.denoiser.num_classes
    n, columns, condition = (64 if image_shape else 2048), None, None
    if classes is not None and classes <= 20:
        n, columns = 8 * classes, classes
        condition = torch.arange(n, device=first.device) % classes
    x = _draw(core, n, 50, "ddim", seed, first.device, first.dtype, condition)
    return save_samples(path, x, image_shape, columns)


def _tell(as_json: bool, facts: dict[str, Any]) -> int:
    if as_json:
        _print_json(facts)
    else:
        for name, value in facts.items():
            Console().print(f"{name}: {value}", highlight=False, soft_wrap=True, markup=False)
    return 0


def _print_json(document: Any) -> None:
    sys.stdout.write(json.dumps(document, allow_nan=False) + "\n")


def _workers() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(4, cores)


def _parse_train(arguments: Sequence[str]) -> Any:
    from unidiff.core.boundary import check_name
    from unidiff.train import TrainConfig, presets

    @dataclasses.dataclass(frozen=True)
    class TrainOptions:
        """Train a denoiser. The defaults shown are those that suit the data that --data names.

        Attributes:
            config: the run.
            data: a named data set (eight-gaussians and other toys, digits), an .npz file or a folder of images.
            resume: go on from the checkpoint in the run's folder.
            json: print one JSON document at the end.
        """

        config: Annotated[TrainConfig, tyro.conf.OmitArgPrefixes]
        data: str = "eight-gaussians"
        resume: bool = False
        json: bool = False

    for name, kind in get_type_hints(TrainConfig).items():
        if get_origin(kind) is Literal and (value := _value(arguments, f"--{name}")) is not None:
            check_name(name, value, get_args(kind))
    data = _value(arguments, "--data") or "eight-gaussians"
    preset = presets.for_data(data)
    # A budget is steps or minutes; naming one takes the preset's other away.
    if _given(arguments, "--steps"):
        preset = dataclasses.replace(preset, steps=preset.steps or 1, minutes=None)
    elif _given(arguments, "--minutes"):
        preset = dataclasses.replace(preset, minutes=preset.minutes or 1.0, steps=None)
    return _parse(TrainOptions, arguments, "unidiff train", TrainOptions(preset, data))


def _value(arguments: Sequence[str], flag: str) -> str | None:
    for argument, following in zip(arguments, (*arguments[1:], None), strict=True):
        if argument.startswith(flag + "="):
            return argument.split("=", 1)[1]
        if argument == flag:
            return following
    return None


def _given(arguments: Iterable[str], flag: str) -> bool:
    return any(argument == flag or argument.startswith(flag + "=") for argument in arguments)


def _parse(kind: type[Any], arguments: Sequence[str], program: str, default: Any = None) -> Any:
    options = {} if default is None else {"default": default}
    try:
        return tyro.cli(kind, args=list(arguments), prog=program, config=(tyro.conf.FlagCreatePairsOff,), **options)
    except SystemExit as stop:
        raise SystemExit(USAGE if stop.code else 0) from None


_COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "verify": (lambda arguments: verify(_parse(VerifyOptions, arguments, "unidiff verify")), "check every identity"),
    "train": (train, "train a denoiser on a toy, the digits, an .npz, a folder of images"),
    "sample": (
        lambda arguments: sample(_parse(SampleOptions, arguments, "unidiff sample")),
        "draw samples from a checkpoint or a closed-form world",
    ),
    "likelihood": (
        lambda arguments: likelihood(_parse(LikelihoodOptions, arguments, "unidiff likelihood")),
        "measure log p of data under a checkpoint or a closed-form world",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status, or raises SystemExit with it where tyro stops the parsing."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        _help(Console() if arguments else Console(stderr=True))
        return 0 if arguments else USAGE
    name, rest = arguments[0], arguments[1:]
    if name == "--version":
        from unidiff import __version__

        Console().print(f"unidiff {__version__}", highlight=False)
        return 0
    try:
        if name not in _COMMANDS:
            from unidiff.core.boundary import check_name

            check_name("command", name, _COMMANDS)
        return _COMMANDS[name][0](rest)
    except ValueError as error:
        return _fail(str(error), USAGE)
    except (OSError, ArithmeticError) as error:
        return _fail(f"{type(error).__name__}: {error}", 1)
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)


def _help(console: Console) -> None:
    console.print("[bold]unidiff[/bold]: one diffusion process, read in several ways, and all of them checked\n")
    for name, (_, words) in _COMMANDS.items():
        console.print(f"  unidiff [bold]{name:11}[/bold]{words}", highlight=False, no_wrap=True)
    console.print("\nunidiff COMMAND --help tells more.", highlight=False)


def _fail(message: str, status: int) -> int:
    Console(stderr=True).print(f"unidiff: {message}", style="red", markup=False, highlight=False, soft_wrap=True)
    return status


if __name__ == "__main__":
    raise SystemExit(main())
