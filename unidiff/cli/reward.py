"""``unidiff reward``: fit what a reward is made of: a classifier to labels, or a reward model to preferences."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_type_hints

from unidiff.cli.parsing import check_folder, parse, tell


def run(arguments: Sequence[str]) -> int:
    """The command; returns the exit status."""
    options = _parse(arguments)
    from unidiff.core.boundary import check_device, check_name
    from unidiff.identities.subjects import DTYPES
    from unidiff.report import Bars
    from unidiff.rl import FitConfig
    from unidiff.train import save_head

    if (options.labels is None) == (options.preferences is None):
        raise ValueError(
            f"give labels or preferences, got labels = {options.labels!r} and preferences = {options.preferences}"
        )
    check_name("dtype", options.dtype, DTYPES)
    check_device(options.device)
    config = FitConfig(**{field.name: getattr(options, field.name) for field in dataclasses.fields(FitConfig)})
    out = Path(options.out)
    if out.is_dir() or out.suffix != ".safetensors":
        raise ValueError(f"out must be a file that ends in .safetensors, got {out}")
    check_folder("out", out.parent)
    with Bars() as bars:

        def on_step(done: int, total: int) -> None:
            bars.update("fitting", done, total, f"{done}/{total}")

        found = (_classifier if options.labels is not None else _model)(options, config, DTYPES[options.dtype], on_step)
    facts = {"held_out_accuracy": found.accuracy, "held_out_loss": found.loss, "held_out": found.held_out}
    return tell(options.json, {"steps": found.steps, **facts, "head": str(save_head(out, found.model))})


def _classifier(options: Any, config: Any, dtype: Any, on_step: Any) -> Any:
    import torch

    from unidiff.rl import fit_classifier
    from unidiff.train import load_data

    data = load_data(options.labels, generator=torch.Generator().manual_seed(config.seed), dtype=dtype)
    data, labels = data.flatten() if options.flat else data, data.labels
    if labels is None:
        raise ValueError(f"labels must be data that have them, {options.labels!r} has none")
    return fit_classifier(data.x, labels, config, on_step, data.num_classes)


def _model(options: Any, config: Any, dtype: Any, on_step: Any) -> Any:
    from unidiff.rl import Preferences, fit_reward_model

    pairs = Preferences.load(options.preferences).to(dtype)
    if options.flat:
        pairs = dataclasses.replace(pairs, winner=pairs.winner.flatten(1), loser=pairs.loser.flatten(1))
    return fit_reward_model(pairs, config, on_step)


def _parse(arguments: Sequence[str]) -> Any:
    from unidiff.rl import FitConfig

    hints = get_type_hints(FitConfig)
    own = [(f.name, hints[f.name], dataclasses.field(default=f.default)) for f in dataclasses.fields(FitConfig)]
    more = [
        ("labels", str | None, dataclasses.field(default=None)),
        ("preferences", Path | None, dataclasses.field(default=None)),
        ("flat", bool, dataclasses.field(default=False)),
        ("out", Path, dataclasses.field(default=Path("head.safetensors"))),
        ("dtype", str, dataclasses.field(default="float32")),
        ("json", bool, dataclasses.field(default=False)),
    ]
    options = dataclasses.make_dataclass("RewardOptions", [*more[:4], *own, *more[4:]], frozen=True)
    attributes = (FitConfig.__doc__ or "").split("Attributes:")[1].split("Raises:")[0].rstrip()
    options.__doc__ = (
        "Fit a head for unidiff finetune: a classifier of labelled data, or a reward model of preferences.\n\n"
        "    Attributes:\n"
        "        labels: labelled data for a classifier: a named data set (digits), an .npz file or a folder of images.\n"
        "        preferences: pairs for a reward model, an .npz with winner and loser.\n"
        "        flat: take the data as vectors, as a perceptron does.\n"
        "        out: the head, a .safetensors.\n"
        f"{attributes.lstrip(chr(10))}\n"
        "        dtype: float32 or float64.\n"
        "        json: print one JSON document at the end.\n"
    )
    return parse(options, arguments, "unidiff reward")
