"""``unidiff finetune``: train a checkpoint, or a correction of a world's exact denoiser, on a reward or on preferences.

The options of the run are :class:`~unidiff.train.FineTuneConfig`'s own, those of the method its dataclass's.
"""

import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import tyro

from unidiff.cli import methods, rewards
from unidiff.cli.parsing import check_folder, given, parse, tell, value
from unidiff.cli.sample import draw, load
from unidiff.core.boundary import check_count, check_device, check_name, check_positive, check_time

RECORD = "run.json"
"""What a run was asked for, beside its checkpoint."""
CHANGEABLE = ("rounds", "log_every", "checkpoint_every", "paths", "device", "out", "resume", "json")
MANY = 16
"""Numbers of a datum up to which a chain's grid is uniform if nothing is said of it."""
GRIDS = ("auto", "uniform", "heard")
FEW = 100
"""Effective draws below which what reweighting says of the optimum is not to be trusted."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is trained, by which method, and what for.

    Attributes:
        checkpoint: the reference: a checkpoint's file, or a run's folder.
        world: a closed-form world instead (mixture-2d, mixture-8d, gaussian, eight-gaussians, digits): its exact denoiser is
            the reference, and a perceptron that corrects it is trained.
        method: ddpo, dpok, backprop, adjoint, dpo or d3po, on a reward or preferences; dxmi, on data: a chain of few steps
            that an energy teaches, rounds = iterations and chains = walks of a round.
        set: options of the method, each name=value (clip=0.2 of ddpo, last=5 of backprop, anchor=3 of dxmi), one or more, as
            often as you like; see docs/rl.md and docs/dxmi.md.
        data: for dxmi, what the chain is to end in: a named set or an .npz; the checkpoint's own, or the world, if left out.
        reward: terms joined by +, each with a weight if need be: linear:1,0 (bᵀx), quadratic:1,0,0,2 (−½ xᵀAx, A by rows or
            its diagonal), class:3 (log p(3|x) of the classifier), model:PATH (a reward model), 0.5*linear:1,0+class:3.
        classifier: the head of a reward class:LABEL, made by unidiff reward.
        preferences: pairs for dpo, an .npz with winner, loser and maybe condition.
        beta: temperature β of the KL to the reference, in units of reward; 0 (no charge) for ddpo and backprop alone.
        rank: train a change of this rank in every layer of the checkpoint's network; all its parameters if left out.
        width: units of a hidden layer of the perceptron that corrects a world, or is dxmi's energy.
        depth: its hidden layers.
        steps: of the chain.
        grid: the chain's times: uniform, or heard (log-SNR even from 6 to -6: the last steps to the data, which cost most
            and change least, are left out); auto takes heard for data of more than 16 numbers, and for dxmi; or a .json
            file of times, as ``unidiff paths`` writes them.
        first: time that a uniform chain ends at, 0 for the data.
        variance: of the chain's steps: prior (memoryless: the optimum is the tilt of the data), posterior, optimal, learned.
        guidance: classifier-free guidance of the reference and the policy.
        paths: by how many the end is judged against the optimum; 0 for not at all.
    """

    checkpoint: Path | None = None
    world: str | None = None
    method: str = "dpok"
    set: tuple[str, ...] = ()
    data: str | None = None
    reward: str | None = None
    classifier: Path | None = None
    preferences: Path | None = None
    beta: float = 1.0
    rank: int | None = None
    width: int = 128
    depth: int = 3
    steps: int = 50
    grid: str = "auto"
    first: float = 0.0
    variance: str = "prior"
    guidance: float = 1.0
    paths: int = 4096


@dataclasses.dataclass(frozen=True)
class Task:
    """A run ready to go: the process, what is trained, how, and the options of the loop."""

    mdp: Any
    core: Any
    method: Any
    config: Any


def run(arguments: Sequence[str]) -> int:
    """The command; returns the exit status."""
    options = _parse(arguments)
    from unidiff.report import Bars
    from unidiff.train import FineTuner

    if options.method == "dxmi":
        from unidiff.cli import dxmi

        return dxmi.run(options, arguments)
    if options.resume:
        options = as_it_was(options, arguments)
    _check(options, arguments)
    task = _task(options)
    folder = Path(task.config.out)
    if options.resume:
        changes = {name: getattr(task.config, name) for name in ("rounds", "out", "log_every", "checkpoint_every")}
        tuner = FineTuner.resume(folder, task.mdp, task.core, task.method, **changes)
    else:
        tuner = FineTuner(task.mdp, task.core, task.method, task.config)
        record(folder, options)
    if tuner.round >= tuner.config.rounds:
        words = f"nothing to train: the run is at round {tuner.round}, at or beyond rounds = {tuner.config.rounds}"
        sys.stderr.write(f"unidiff: {words}\n")
    with Bars() as bars:

        def on_round(tuner: Any, line: dict[str, float]) -> None:
            figures = [f"{name} {line[key]:.4g}" for name, key in (("reward", "reward"), ("KL", "kl")) if key in line]
            done, rounds = tuner.round, tuner.config.rounds
            bars.update("fine-tuning", done, rounds, f"round {done}/{rounds}, {', '.join(figures)}")

        core = tuner.fit(on_round)
    return tell(options.json, _told(options, tuner, core, folder))


def _check(options: Any, arguments: Sequence[str]) -> None:
    """Find out before any work what cannot be. Raises ValueError."""
    from unidiff.core.chain import RULES
    from unidiff.identities.subjects import DTYPES

    if (options.checkpoint is None) == (options.world is None):
        both = f"checkpoint = {options.checkpoint} and world = {options.world}"
        raise ValueError(f"give a checkpoint or a world, got {both}")
    check_name("method", options.method, (*methods.kinds(), "dxmi"))
    if options.data is not None:
        raise ValueError(f"data are for method 'dxmi', got {options.data!r} with method {options.method!r}")
    check_name("variance", options.variance, RULES)
    check_name("dtype", options.dtype, DTYPES)
    for name in ("width", "depth", "steps"):
        check_count(name, getattr(options, name))
    check_grid(options, arguments)
    check_count("paths", options.paths, 0)
    if options.paths == 1:
        raise ValueError("paths must be 0 or at least 2, got 1")
    check_time("first", options.first)
    check_device(options.device)
    if options.method not in ("ddpo", "backprop"):
        check_positive("beta", options.beta)
    if options.method == "dpo" and options.preferences is None:
        raise ValueError("preferences must be given for method 'dpo': an .npz with winner and loser")
    if options.method != "dpo" and options.preferences is not None:
        raise ValueError(f"preferences are for method 'dpo', got method {options.method!r}")
    if options.method != "dpo" and options.reward is None:
        raise ValueError(f"reward must be given for method {options.method!r}, such as linear:1,0")
    if options.reward is None and options.classifier is not None:
        raise ValueError("classifier is for a reward class:LABEL, got no reward")
    if options.world is not None and options.rank is not None:
        raise ValueError(f"rank is for a checkpoint's network, got rank = {options.rank} with a world")
    for name in ("width", "depth"):
        if options.checkpoint is not None and given(arguments, name):
            raise ValueError(f"{name} is of what corrects a world, got {getattr(options, name)} with a checkpoint")
    if options.method != "dpok" and given(arguments, "value_lr"):
        raise ValueError(f"value_lr is of dpok's value, got {options.value_lr} with method {options.method!r}")
    folder = check_folder("out", Path(options.out or _home(options)))
    if not options.resume and (folder / "checkpoint.safetensors").exists():
        raise ValueError(
            f"out must be a new folder, or give --resume: {folder / 'checkpoint.safetensors'} exists already"
        )


def _home(options: Any) -> str:
    if options.world is not None or options.checkpoint is None:
        return f"runs/{options.world}-{options.method}"
    path: Path = options.checkpoint
    return f"runs/{(path.parent if path.suffix else path).name or 'core'}-{options.method}"


def _task(options: Any) -> Task:
    import torch

    from unidiff.core.networks import MLP
    from unidiff.identities.subjects import DTYPES
    from unidiff.rl import DenoisingMDP, Preferences, corrected, trainable

    config = _config_type()(**{f.name: getattr(options, f.name) for f in dataclasses.fields(_config_type())})
    config = dataclasses.replace(config, out=str(options.out or _home(options)))
    method, dtype = methods.made(options.method, options.set), DTYPES[options.dtype]
    reference = load(options.checkpoint, options.world, options.device, dtype)
    if options.method == "dpo":
        method = method.on(Preferences.load(options.preferences).to(dtype, options.device))
    bench = rewards.Bench(reference.event_shape, options.classifier, options.device)
    reward = None if options.reward is None else rewards.made(options.reward, bench)
    grid = grid_of(options, reference)
    chain = reference.chain(grid, variance=options.variance)
    mdp = DenoisingMDP(chain, reward, beta=options.beta, guidance=options.guidance)
    if options.world is None:
        return Task(mdp, trainable(reference, options.rank, seed=config.seed), method, config)
    labelled = config.condition is not None or getattr(getattr(method, "pairs", None), "condition", None) is not None
    classes = getattr(reference.denoiser, "num_classes", None) if labelled else None
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        network = MLP(reference.event_shape[0], options.width, options.depth, classes)
    return Task(mdp, corrected(reference, network.to(device=options.device, dtype=dtype)), method, config)


def check_grid(options: Any, arguments: Sequence[str]) -> None:
    """A name, or a file of times that says how many there are. Raises ValueError."""
    if not options.grid.endswith(".json"):
        check_name("grid", options.grid, (*GRIDS, "a .json file of times"))
        return
    if not Path(options.grid).is_file():
        raise ValueError(f"grid must be one of {', '.join(GRIDS)} or a file of times, got {options.grid}: no such file")
    for name in ("steps", "first"):
        if given(arguments, name):
            raise ValueError(
                f"{name} is what the file of times says, got {getattr(options, name)} with grid {options.grid}"
            )


def grid_of(options: Any, core: Any, heard: bool | None = None) -> Any:
    """The chain's times; ``heard`` is whether auto is. Raises ValueError for a file of another schedule."""
    from unidiff.core.grid import TimeGrid

    if options.grid.endswith(".json"):
        return TimeGrid.load(options.grid, core.schedule)
    heard = math.prod(core.event_shape) > MANY if heard is None else heard
    if options.grid == "uniform" or (options.grid == "auto" and not heard):
        return TimeGrid.uniform(options.steps, options.first)
    if options.first:
        raise ValueError(
            f"first is of --grid uniform, got first = {options.first} with a grid that ends where data are heard"
        )
    return TimeGrid.heard(options.steps, core.schedule)


def record(folder: Path, options: Any) -> None:
    """Write what the run was asked for beside its checkpoint."""
    from unidiff.train.checkpoint import replace_file

    told = {name: getattr(options, name) for name in _own()}
    document = {name: str(v) if isinstance(v, Path) else v for name, v in told.items()}
    replace_file(folder / RECORD, (json.dumps(document, indent=1) + "\n").encode())


def as_it_was(options: Any, arguments: Sequence[str]) -> Any:
    """The options of the run in the folder; what the command line asks to change must be what a resumed run may change."""
    from unidiff.train import CheckpointError, checkpoint

    folder = Path(options.out or _home(options))
    kept = dict(checkpoint.read(folder).about.get("finetune") or {})
    try:
        kept |= json.loads((folder / RECORD).read_text())
    except (OSError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / RECORD} does not say what the run was asked for: {error}") from error
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(options):
        if field.name not in kept:
            continue
        wanted, before = getattr(options, field.name), _of_json(field.name, kept[field.name])
        if given(arguments, field.name) and field.name != "out":
            if field.name not in CHANGEABLE and wanted != before:
                raise ValueError(
                    f"{field.name} cannot change on resume: the run has {_said(before)}, got {_said(wanted)}"
                )
            continue
        changes[field.name] = before
    return dataclasses.replace(options, **changes | {"out": str(folder)})


def _of_json(name: str, kept: Any) -> Any:
    if isinstance(kept, list):
        return tuple(kept)
    return Path(kept) if isinstance(kept, str) and name in ("checkpoint", "classifier", "preferences") else kept


def _said(option: Any) -> str:
    return repr(str(option) if isinstance(option, Path) else option)


def _told(options: Any, tuner: Any, core: Any, folder: Path) -> dict[str, Any]:
    """What is said at the end, and what is left to look at."""
    from unidiff.cli.judge import judged
    from unidiff.report import curves, save_samples
    from unidiff.train import journal

    facts: dict[str, Any] = {"rounds": tuner.round, "seconds": round(tuner.elapsed, 3)}
    found, optimum = judged(tuner, core, options.paths)
    if optimum is not None and float(optimum.ess) < FEW:
        sys.stderr.write(
            f"unidiff: only {float(optimum.ess):.3g} effective draws of {optimum.n} reach the optimum at beta = "
            f"{options.beta:g}: what is said of it is not to be trusted; a larger beta or more paths help\n"
        )
    figure = curves(journal.read(folder / journal.NAME), optimum)
    figure.savefig(folder / "curves.png", dpi=150, facecolor="white")
    facts |= {
        name: v if options.json or not isinstance(v, dict) else f"{v['value']:.4g} ± {v['standard_error']:.2g}"
        for name, v in found.items()
    }
    facts |= {"checkpoint": str(folder / "checkpoint.safetensors"), "metrics": str(folder / journal.NAME)}
    return facts | {"curves": str(folder / "curves.png"), **save_samples(folder / "samples.png", _samples(tuner, core))}


def _samples(tuner: Any, core: Any) -> Any:
    """What a run leaves to look at, under the conditions that it was trained with: 64 images, or 2048 points."""
    import torch

    from unidiff.report.images import image_shape_of

    like, wanted, own = tuner.policy.like, tuner.config.condition, tuner.learner.condition
    n = 2048 if image_shape_of(tuple(core.event_shape)) is None else 64
    labels = None
    if own is not None:
        labels = own[torch.arange(n, device=own.device) % len(own)]
    elif wanted is not None:
        labels = torch.arange(n, device=like.device) % tuner.classes if wanted == "random" else torch.tensor(wanted)
    return draw(
        core, n, 50, "ddim", tuner.config.seed, like.device, like.dtype, labels, tuner.policy.mdp.guidance
    )  # fmt: skip


def _config_type() -> Any:
    from unidiff.train import FineTuneConfig

    return FineTuneConfig


def _own() -> tuple[str, ...]:
    return (*(field.name for field in dataclasses.fields(Asked)), "device", "dtype")


def _parse(arguments: Sequence[str]) -> Any:
    """The options as one flat value: checked later, so that an error is one line like every other."""
    config = _config_type()
    hints = {**get_type_hints(Asked), **get_type_hints(config)}
    for name, kind in hints.items():
        if get_origin(kind) is Literal and (text := value(arguments, name)) is not None:
            check_name(name, text, get_args(kind))
    both = [*dataclasses.fields(Asked), *dataclasses.fields(config)]
    # Each --set brings as many options as it likes, and none takes the place of those before.
    hints["set"] = tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]]
    own = [(field.name, hints[field.name], dataclasses.field(default=field.default)) for field in both]
    more = [
        ("device", str, dataclasses.field(default="cpu")),
        ("dtype", str, dataclasses.field(default="float32")),
        ("resume", bool, dataclasses.field(default=False)),
        ("json", bool, dataclasses.field(default=False)),
    ]
    options = dataclasses.make_dataclass("FineTuneOptions", [*own, *more], frozen=True)
    parts = [(made.__doc__ or "").split("Attributes:")[1].split("Raises:")[0].rstrip() for made in (Asked, config)]
    options.__doc__ = (
        "Fine-tune a diffusion model on a reward, or on preferences, without straying from it.\n\n"
        f"    Attributes:{parts[0]}{parts[1]}\n"
        "        device: where to compute.\n"
        "        dtype: float32 or float64.\n"
        "        resume: go on from the checkpoint in the run's folder, with the options that it was started with.\n"
        "        json: print one JSON document at the end.\n"
    )
    found: Any = parse(options, arguments, "unidiff finetune")
    return dataclasses.replace(found, set=tuple(option for each in found.set for option in each))
