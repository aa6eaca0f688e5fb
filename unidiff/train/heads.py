"""Reward models and classifiers on disk: a checkpoint whose document says which of the two, and how it is built."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from unidiff.core.boundary import check_device, check_name
from unidiff.rl.heads.classifier import Classifier
from unidiff.rl.heads.reward_model import RewardModel
from unidiff.train.checkpoint import MISFITS, Checkpoint, CheckpointError, adopt, one_line, parameters, read, write

Head = RewardModel | Classifier
HEADS: dict[str, Callable[..., Head]] = {"reward_model": RewardModel, "classifier": Classifier}
"""What a checkpoint may hold, by its name there."""


def save_head(path: str | Path, head: Head) -> Path:
    """A checkpoint of a reward model or a classifier, put at ``path`` atomically. Raises TypeError for anything else."""
    for kind, made in HEADS.items():
        if type(head) is made:
            return write(path, Checkpoint(parameters(head), {"head": {"kind": kind, **head.config()}}))
    raise TypeError(f"head must be a RewardModel or a Classifier, got {type(head).__name__}")


def load_head(path: str | Path, device: torch.device | str = "cpu") -> Head:
    """The reward model or classifier kept in a checkpoint, its parameters frozen.

    Raises:
        CheckpointError: as :func:`unidiff.train.checkpoint.read`; a checkpoint of something else; tensors that do not fit.
        ValueError: a device that is not there.
    """
    device = check_device(device)
    checkpoint = read(path)
    try:
        options = dict(checkpoint.about["head"])
        kind = check_name("head", options.pop("kind"), HEADS)
        with torch.random.fork_rng(devices=[]):
            head = HEADS[kind](**options)
        adopt(head, checkpoint.under("parameters"))
    except MISFITS as error:
        raise CheckpointError(
            f"{path} does not hold the reward model or classifier that it describes: {one_line(error)}"
        ) from error
    return head.requires_grad_(False).eval().to(device)
