"""``unidiff train``: the options are :class:`~unidiff.train.TrainConfig`'s own, with the defaults that suit the data."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from unidiff.cli.parsing import check_folder, given, parse, tell, value
from unidiff.cli.sample import draw
from unidiff.core.boundary import check_name


def run(arguments: Sequence[str]) -> int:
    """The command; returns the exit status."""
    options = _parse(arguments)
    from unidiff.report import Bars
    from unidiff.train import Trainer

    names = [field.name for field in dataclasses.fields(_config_type())]
    trainer = _resumed(options, arguments, names) if options.resume else _new(options, names)
    if trainer.progress >= 1.0:
        _say_done(trainer)
    with Bars() as bars:

        def on_log(trainer: Trainer, line: dict[str, float]) -> None:
            bars.update("training", trainer.progress, 1.0, f"step {trainer.step}, loss {line['loss']:.4g}")

        core = trainer.fit(on_log)
    folder = Path(str(trainer.config.out))
    written = {"checkpoint": str(folder / "checkpoint.safetensors"), "metrics": str(folder / "metrics.jsonl")}
    written |= _sheet(core, folder / "samples.png", trainer.config.seed, trainer.data.image_shape)
    return tell(options.json, {"steps": trainer.step, "seconds": round(trainer.elapsed, 3), **written})


def _say_done(trainer: Any) -> None:
    config = trainer.config
    budget = f"steps = {config.steps}" if config.steps is not None else f"minutes = {config.minutes:g}"
    reached = f"step {trainer.step} after {trainer.elapsed / 60:.3g} minutes"
    sys.stderr.write(f"unidiff: nothing to train: the run is at {reached}, at or beyond {budget}\n")


def _config_type() -> Any:
    from unidiff.train import TrainConfig

    return TrainConfig


def _new(options: Any, names: list[str]) -> Any:
    import torch

    from unidiff.train import Trainer, load_data

    config = _config_type()(**{name: getattr(options, name) for name in names})
    _ = config.torch_device  # a device that is not there is told before any work
    data = load_data(options.data, generator=torch.Generator().manual_seed(config.seed), dtype=config.torch_dtype)
    folder = check_folder("out", Path(options.out or f"runs/{Path(options.data).stem}"))
    checkpoint = folder / "checkpoint.safetensors"
    if checkpoint.exists():
        raise ValueError(f"out must be a new folder, or give --resume: {checkpoint} exists already")
    return Trainer.start(dataclasses.replace(config, out=str(folder)), data)


def _resumed(options: Any, arguments: Sequence[str], names: list[str]) -> Any:
    """The run in the folder goes on; what the command line asks to change must be what a resumed run may change."""
    from unidiff.train import Trainer, checkpoint, load_data
    from unidiff.train.data import names as data_names
    from unidiff.train.trainer import CHANGEABLE

    folder = Path(options.out or f"runs/{Path(options.data).stem}")
    about = checkpoint.read(folder).about
    kept, own = about.get("train", {}), about.get("data", {}).get("name")
    asked = {name: getattr(options, name) for name in names if given(arguments, name) and name != "out"}
    for name, wanted in asked.items():
        before = tuple(kept[name]) if isinstance(wanted, tuple) else kept.get(name)
        if name not in CHANGEABLE and wanted != before:
            raise ValueError(f"{name} cannot change on resume: the run has {before!r}, got {wanted!r}")
    data = None
    if given(arguments, "data"):
        if options.data not in data_names():
            data = load_data(options.data, dtype=_config_type().from_dict(kept).torch_dtype)
        elif options.data != own:
            raise ValueError(f"data cannot change on resume: the run has {own!r}, got {options.data!r}")
    elif own is not None and own not in data_names():
        raise ValueError(
            f"data must be given to resume: the run is on {own!r}, a file or a folder; give --data its path"
        )
    changes = {name: wanted for name, wanted in asked.items() if name in CHANGEABLE}
    return Trainer.resume(folder, data, out=str(folder), **changes)


def _sheet(core: Any, path: Path, seed: int, image_shape: Any) -> dict[str, str]:
    """What a run leaves to look at: eight of each class, a column for each; without classes 64 images or 2048 points."""
    import torch

    from unidiff.report import save_samples

    first, classes = next(core.denoiser.parameters()), core.denoiser.num_classes
    n, columns, condition = (64 if image_shape else 2048), None, None
    if classes is not None and classes <= 20:
        n, columns = 8 * classes, classes
        condition = torch.arange(n, device=first.device) % classes
    x = draw(core, n, 50, "ddim", seed, first.device, first.dtype, condition)
    return save_samples(path, x, image_shape, columns)


def _parse(arguments: Sequence[str]) -> Any:
    """The options as one flat value: checked later, so that an error is one line like every other."""
    from unidiff.train import presets

    config, hints = _config_type(), get_type_hints(_config_type())
    for name, kind in hints.items():
        if get_origin(kind) is Literal and (text := value(arguments, name)) is not None:
            check_name(name, text, get_args(kind))
    source = value(arguments, "data") or "eight-gaussians"
    preset = presets.for_data(source)
    # A budget is steps or minutes; naming one takes the preset's other away.
    if given(arguments, "steps") and not given(arguments, "minutes"):
        preset = dataclasses.replace(preset, steps=preset.steps or 1, minutes=None)
    elif given(arguments, "minutes") and not given(arguments, "steps"):
        preset = dataclasses.replace(preset, minutes=preset.minutes or 1.0, steps=None)
    own = [(name, kind, dataclasses.field(default=getattr(preset, name))) for name, kind in hints.items()]
    more = [
        ("data", str, dataclasses.field(default=source)),
        ("resume", bool, dataclasses.field(default=False)),
        ("json", bool, dataclasses.field(default=False)),
    ]
    options = dataclasses.make_dataclass("TrainOptions", [*own, *more], frozen=True)
    attributes = (config.__doc__ or "").split("Attributes:")[1].split("Raises:")[0].rstrip()
    options.__doc__ = (
        "Train a denoiser. The defaults shown are those that suit the data that --data names.\n\n"
        f"    Attributes:{attributes}\n"
        "        data: a named data set (eight-gaussians and other toys, digits), an .npz file or a folder of images.\n"
        "        resume: go on from the checkpoint in the run's folder.\n"
        "        json: print one JSON document at the end.\n"
    )
    return parse(options, arguments, "unidiff train")
