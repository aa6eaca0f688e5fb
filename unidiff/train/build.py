"""From a configuration and data to a core with new parameters, and from a run's record back to its data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from unidiff.core import networks
from unidiff.core.denoiser import Denoiser
from unidiff.core.diffusion import Diffusion
from unidiff.core.schedule import Schedule
from unidiff.rl.trainable import CorrectedDenoiser
from unidiff.train.config import TrainConfig
from unidiff.train.data import Dataset, load_data, names
from unidiff.train.exact import kind_of, rebuilt


def build_core(config: TrainConfig, data: Dataset) -> Diffusion:
    """The core that ``config`` asks for, fitted to the data's shape, classes and standard deviation; on its device.

    The parameters are a function of ``config.seed`` alone; torch's default generator is left as it was.

    Raises:
        ValueError: a network that the data's shape does not fit, conditioning on data without labels, or EDM
            preconditioning of data that are all the same.
    """
    num_classes = data.labelled().num_classes if config.conditional else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = networks.build(_network_config(config, data, num_classes))
    denoiser = Denoiser(
        network,
        data.event_shape,
        config.prediction,
        config.preconditioning,
        data_std=data.spread("preconditioning 'edm'") if config.preconditioning == "edm" else 1.0,
        learned_variance=config.variance == "learned",
        num_classes=num_classes,
    )
    core = Diffusion(Schedule.named(config.schedule), denoiser)
    return core.to(device=config.torch_device, dtype=config.torch_dtype)


def redraw(kept: Mapping[str, Any]) -> Dataset | None:
    """A checkpoint's data, drawn anew as ``unidiff train`` drew them; None if they are no named set."""
    about = kept.get("data", {})
    if about.get("name") not in names():
        return None
    config = TrainConfig.from_dict(kept["train"])
    generator = torch.Generator().manual_seed(config.seed)
    data = load_data(about["name"], n=about["n"], generator=generator, dtype=config.torch_dtype)
    return shaped(data, config)


def shaped(data: Dataset, config: TrainConfig) -> Dataset:
    """The data as the configured network takes them: flat for an MLP."""
    return data.flatten() if config.network == "mlp" else data


def _network_config(config: TrainConfig, data: Dataset, num_classes: int | None) -> dict[str, Any]:
    shape, learned = data.event_shape, config.variance == "learned"
    if config.network == "mlp":
        if len(shape) != 1:
            raise ValueError(f"network 'mlp' takes flat data, got data of shape {list(shape)}; use data.flatten()")
        return {
            "kind": "mlp", "dim": shape[0], "width": config.width, "depth": config.depth, "num_classes": num_classes,
            "learned_variance": learned,
        }  # fmt: skip
    if len(shape) != 3 or shape[1] != shape[2]:
        raise ValueError(f"network 'unet' takes square images [C, S, S], got data of shape {list(shape)}")
    return {
        "kind": "unet", "channels": shape[0], "image_size": shape[1], "width": config.width,
        "multipliers": config.multipliers, "blocks": config.blocks, "attention": config.attention,
        "num_classes": num_classes, "dropout": config.dropout, "learned_variance": learned,
        "fourier_features": config.fourier_features,
    }  # fmt: skip


def describe(core: Diffusion) -> dict[str, Any]:
    """The core without its numbers, JSON-ready, for :func:`rebuild`.

    Raises:
        ValueError: the denoiser is no :class:`~unidiff.core.denoiser.Denoiser` and no correction of a world's exact one, or
            its network has no ``config()``.
    """
    denoiser = core.denoiser
    network = _config_of(denoiser.network) if isinstance(denoiser, Denoiser | CorrectedDenoiser) else {}
    known = {"schedule": core.schedule.config(), "network": network}
    if isinstance(denoiser, Denoiser):
        return known | {
            "denoiser": {
                "event_shape": list(denoiser.event_shape),
                "prediction": denoiser.prediction,
                "preconditioning": denoiser.preconditioning,
                "data_std": denoiser.data_std,
                "learned_variance": denoiser.learned_variance,
                "num_classes": denoiser.num_classes,
            }
        }
    kind = kind_of(denoiser.reference) if isinstance(denoiser, CorrectedDenoiser) else None
    if kind is None:
        raise ValueError(
            f"core must hold a Denoiser, or a correction of a world's, to be saved, got {_named(denoiser)}"
        )
    return known | {"corrects": kind}


def rebuild(description: Mapping[str, Any], world: Mapping[str, Tensor] | None = None) -> Diffusion:
    """The core that :func:`describe` described, with new parameters; ``world`` are the tensors of what it corrects.

    Raises:
        ValueError: where it describes none.
    """
    try:
        schedule = Schedule.from_config(description["schedule"])
        with torch.random.fork_rng(devices=[]):
            network = networks.build(description["network"])
        if "corrects" in description:
            return Diffusion(schedule, CorrectedDenoiser(rebuilt(description["corrects"], world or {}), network))
        options = dict(description["denoiser"])
        event_shape = tuple(options.pop("event_shape"))
        return Diffusion(schedule, Denoiser(network, event_shape, **options))
    except (KeyError, TypeError) as error:
        raise ValueError(f"description does not describe a core: {error!r}") from error


def _config_of(network: Any) -> dict[str, Any]:
    config = getattr(network, "config", None)
    if config is None:
        raise ValueError(
            f"network must have config() to be saved, {type(network).__name__} has none; "
            "see unidiff.core.networks.register"
        )
    return config()


def _named(denoiser: Any) -> str:
    if isinstance(denoiser, CorrectedDenoiser):
        return f"a correction of {type(denoiser.reference).__name__}"
    return type(denoiser).__name__
