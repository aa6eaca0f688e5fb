"""``unidiff finetune --method dxmi``: a chain of few steps and the energy that is its value, from a checkpoint or a world.

The chain starts from the checkpoint's network (a world's exact denoiser is corrected by a perceptron); the energy is a
perceptron of a gradient for flat data, else a network of the checkpoint's own shape. Options of the run that are no options
of every method are given by ``--set name=value``: the fields of :class:`~unidiff.train.DxMIConfig`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unidiff.cli import finetune, methods
from unidiff.cli.parsing import check_folder, given, tell
from unidiff.core.boundary import check_count, check_device, check_name

_SHARED = {"rounds": "iterations", "chains": "batch", "seed": "seed", "log_every": "log_every",
           "checkpoint_every": "checkpoint_every", "warmup": "warmup", "decay": "decay", "clip": "clip"}  # fmt: skip
"""Options of every method by what DxMI calls them."""
_UNUSED = ("reward", "classifier", "preferences", "beta", "rank", "epochs", "rows", "accumulate", "lr", "value_lr",
           "weight_decay", "ema", "condition", "paths", "guidance")  # fmt: skip
_VARIANCES = ("posterior", "prior")
_WAVES = (1.0, 2.0, 4.0)
_PLANE, _SHOWN = 2, 2048


def run(options: Any, arguments: Sequence[str]) -> int:
    """The command; returns the exit status."""
    options = dataclasses.replace(options, out=str(options.out or _home(options)))
    if options.resume:
        options = _as_it_was(options, arguments)
    config = _check(options, arguments)
    import torch

    from unidiff.identities.subjects import DTYPES
    from unidiff.report import Bars
    from unidiff.train import DxMITrainer

    dtype, folder = DTYPES[options.dtype], Path(str(config.out))
    chain, value, data = _parts(options, dtype)
    if options.resume:
        changes = {name: getattr(config, name) for name in ("out", "log_every", "checkpoint_every")}
        trainer = DxMITrainer.resume(folder, chain, value, data, **changes)
    else:
        trainer = DxMITrainer(chain, value, data, config)
        finetune.record(folder, options)
    with Bars() as bars:

        def on_round(trainer: Any, line: dict[str, float]) -> None:
            gap = line["energy_chain"] - line["energy_data"]
            words = f"round {trainer.round}/{trainer.total}, energy of chain over data {gap:.4g}"
            bars.update("dxmi", trainer.round, trainer.total, words)

        made = trainer.fit(on_round)
    like = trainer.work.data
    generator = torch.Generator(like.device).manual_seed((config.seed + 2**62) % 2**63)
    return tell(options.json, _told(trainer, made, made.sample(_SHOWN, generator, dtype=like.dtype), folder))


def _check(options: Any, arguments: Sequence[str]) -> Any:
    """Find out before any work what cannot be; the run's configuration. Raises ValueError."""
    from unidiff.identities.subjects import DTYPES
    from unidiff.train import DxMIConfig

    if (options.checkpoint is None) == (options.world is None):
        raise ValueError(
            f"give a checkpoint or a world, got checkpoint = {options.checkpoint} and world = {options.world}"
        )
    for name in _UNUSED:
        if given(arguments, name):
            raise ValueError(f"{name} is of methods that seek a reward, got it with method 'dxmi'")
    check_name("variance", options.variance, _VARIANCES)
    check_name("dtype", options.dtype, DTYPES)
    check_device(options.device)
    for name in ("width", "depth", "steps"):
        check_count(name, getattr(options, name))
    finetune.check_grid(options, arguments)
    own = methods.chosen(DxMIConfig, "dxmi", options.set)
    for name in own:
        if name in _SHARED.values() or name == "out":
            spelt = next((theirs for theirs, ours in _SHARED.items() if ours == name), name)
            raise ValueError(f"{name} of dxmi is the option --{spelt.replace('_', '-')}, got it by --set")
    asked: dict[str, Any] = {
        ours: getattr(options, theirs) for theirs, ours in _SHARED.items() if options.resume or given(arguments, theirs)
    }
    folder = check_folder("out", Path(options.out))
    there = (folder / "checkpoint.safetensors").exists()
    if there and not options.resume:
        raise ValueError(f"out must be a new folder, or give --resume: {folder} holds a checkpoint already")
    whole: dict[str, Any] = own | asked | {"out": str(folder)}
    return DxMIConfig(**whole)


def _as_it_was(options: Any, arguments: Sequence[str]) -> Any:
    """The options of the run in the folder, those of its configuration too. Raises ValueError for what cannot change."""
    from unidiff.train import checkpoint
    from unidiff.train.dxmi_state import CHANGEABLE

    options = finetune.as_it_was(options, arguments)
    config = checkpoint.read(Path(options.out)).about.get("dxmi") or {}
    kept = {theirs: config[ours] for theirs, ours in _SHARED.items() if ours in config}
    for theirs, before in kept.items():
        wanted = getattr(options, theirs)
        if given(arguments, theirs) and theirs not in CHANGEABLE and wanted != before:
            raise ValueError(f"{theirs} cannot change on resume: the run has {before!r}, got {wanted!r}")
    changes = {name: value for name, value in kept.items() if not given(arguments, name)}
    return dataclasses.replace(options, **changes)


def _home(options: Any) -> str:
    path: Path | None = options.checkpoint
    name = options.world if path is None else (path.parent if path.suffix else path).name or "core"
    return f"runs/{name}-dxmi"


def _parts(options: Any, dtype: Any) -> tuple[Any, Any, Any]:
    """The chain to start from, the energy, and the data."""
    import torch

    from unidiff.cli.sample import load
    from unidiff.rl import corrected

    core = load(options.checkpoint, options.world, options.device, dtype)
    data = _data(options, core, dtype)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(options.seed)
        if options.world is not None:
            network = _perceptron(options, core.event_shape, None)
            core = corrected(core, network.to(device=options.device, dtype=dtype))
        spread = data.variance.mean().sqrt() if options.data is None and options.world is not None else data.std()
        value = _value(options, core, float(spread)).to(device=options.device, dtype=dtype)
    chain = core.requires_grad_(True).chain(finetune.grid_of(options, core, heard=True), options.variance)
    return chain, value, data


def _data(options: Any, core: Any, dtype: Any) -> Any:
    from unidiff.train import checkpoint as checkpoints
    from unidiff.train import load_data
    from unidiff.train.build import redraw
    from unidiff.worlds import library

    if options.data is not None:
        data = load_data(options.data, dtype=dtype)
    elif options.world is not None:
        return library.get(options.world).to(dtype)
    else:
        about = checkpoints.read(options.checkpoint).about
        data = redraw(about) if "train" in about else None
        if data is None:
            raise ValueError(
                f"data must be given: {options.checkpoint} was not trained on a named set that can be had again"
            )
    if math.prod(data.event_shape) == math.prod(core.event_shape):
        return data.x.reshape(-1, *core.event_shape).to(dtype)
    raise ValueError(f"data must be of the core's shape {list(core.event_shape)}, got {list(data.event_shape)}")


def _value(options: Any, core: Any, spread: float) -> Any:
    """An energy of the core's data, untrained."""
    from unidiff.core import networks
    from unidiff.core.denoiser import Denoiser
    from unidiff.core.diffusion import Diffusion
    from unidiff.ebm import EnergyModel

    if len(core.event_shape) == 1:
        field = networks.GradientField(_perceptron(options, core.event_shape, 1))
    else:
        config = core.denoiser.network.config() | {"num_classes": None, "learned_variance": False}
        field = networks.GradientField(networks.build(config), "inner")
    denoiser = Denoiser(field, core.event_shape, "x0", "edm", data_std=spread)
    return EnergyModel.of(Diffusion(core.schedule, denoiser))


def _perceptron(options: Any, event_shape: tuple[int, ...], outputs: int | None) -> Any:
    from unidiff.core.networks import MLP

    waves = _WAVES if event_shape == (_PLANE,) else ()
    return MLP(event_shape[0], options.width, options.depth, outputs=outputs, frequencies=waves)


def _told(trainer: Any, chain: Any, x: Any, folder: Path) -> dict[str, Any]:
    """What is said at the end, and what is left to look at."""
    import torch

    from unidiff.report import save_samples
    from unidiff.report.energies import planes
    from unidiff.train import journal, metrics

    data = trainer.work.data
    some = data[torch.randperm(len(data), generator=torch.Generator().manual_seed(trainer.config.seed))[: len(x)]]
    facts: dict[str, Any] = {"rounds": trainer.round, "seconds": round(trainer.elapsed, 3), "steps": chain.steps}
    line = list(journal.read(folder / journal.NAME))[-1]
    facts |= {name: line[name] for name in ("energy_data", "energy_chain", "least_std", "on_floor")}
    if told := trainer.floor_told():
        facts["floor"] = told
    x, some = x.cpu(), some.cpu()
    facts["sliced_wasserstein"] = metrics.sliced_wasserstein(x, some, generator=torch.Generator().manual_seed(0))
    facts |= {
        "checkpoint": str(folder / "checkpoint.safetensors"),
        "metrics": str(folder / journal.NAME),
        **save_samples(folder / "samples.png", x.numpy()[: 64 if x[0].numel() > _PLANE else len(x)]),
    }
    if x[0].numel() == _PLANE:
        half = 1.2 * float(some.abs().max())
        axis = torch.linspace(-half, half, 161, dtype=data.dtype, device=data.device)
        grid = torch.cartesian_prod(axis, axis)
        with torch.no_grad():
            height = trainer.value.energy(grid, float(chain.grid.times[0])).reshape(161, 161).cpu()
        planes({"draws over e^-V": (x.numpy(), height.numpy())}, half).savefig(
            folder / "energy.png", dpi=150, facecolor="white"
        )
        facts["energy"] = str(folder / "energy.png")
    return facts | {"options": dataclasses.asdict(trainer.config)}
