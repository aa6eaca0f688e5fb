r"""The one loop that fits a reward model or a classifier: minibatches, a held-out part, and an early stop.

A share of the data is held out and never trained on; each so many steps the mean loss on it is taken, and what is returned
is the model of the check where that was least (Prechelt 1998). AdamW (Loshchilov & Hutter 2019) with its rate going to zero
along a half cosine. The seed alone decides the first parameters, the split and the batches; torch's own generators are left
as they were.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from unidiff.core.boundary import (
    check_count,
    check_device,
    check_not_negative,
    check_positive,
    check_progress,
    check_real,
    check_seed,
)

M = TypeVar("M", bound=nn.Module)
OnStep = Callable[[int, int], None]
"""Told ``(done, all)`` after each step."""
Judge = Callable[..., tuple[Tensor, Tensor]]
"""``judge(model, *rows) -> (loss [B] in nats, right [B])``: right is 1, 0, or ½ where the model does not choose."""

ROWS = 4096
"""How many a model is asked for at once where no gradient is taken: what bounds the memory."""


@dataclass(frozen=True)
class FitConfig:
    """How to fit a reward model or a classifier.

    Attributes:
        width: units of a hidden layer; channels of the first convolution.
        depth: how many hidden layers.
        steps: at most so many.
        batch_size: pairs or data a step, drawn with replacement.
        lr: AdamW's first rate.
        weight_decay: AdamW's.
        validation: the share held out, in (0, 1); one at the least.
        check_every: steps from one look at the held-out loss to the next.
        patience: looks without a gain before the fit is stopped.
        seed: of the parameters, the split and the batches; the same bits on one machine's CPU.
        device: "cpu", "cuda", "cuda:N".

    Raises:
        TypeError: what should be a number is none.
        ValueError: a number out of its range, a device that is not there.
    """

    width: int = 64
    depth: int = 2
    steps: int = 2000
    batch_size: int = 256
    lr: float = 3e-3
    weight_decay: float = 1e-2
    validation: float = 0.1
    check_every: int = 50
    patience: int = 10
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("width", "depth", "steps", "batch_size", "check_every", "patience"):
            check_count(name, getattr(self, name))
        check_positive("lr", self.lr)
        check_not_negative("weight_decay", self.weight_decay)
        if not 0.0 < check_real("validation", self.validation) < 1.0:
            raise ValueError(f"validation must lie in (0, 1), got {self.validation}")
        check_seed(self.seed)
        check_device(self.device)

    def held_out(self, n: int) -> int:
        """How many of ``n`` are held out. Raises ValueError where they or the others would be none."""
        held = max(1, round(self.validation * n))
        if held >= n:
            raise ValueError(f"validation = {self.validation} holds out {held} of {n}, which leaves none to learn from")
        return held


@dataclass(frozen=True, eq=False)
class Fit(Generic[M]):
    """A model, and how well it does on what was held out.

    The step was chosen by the held-out loss, so that loss and accuracy are a little kind to the model: for a test, fresh
    data.

    Attributes:
        model: on the device of the fit, its parameters frozen (``requires_grad_(True)`` frees them).
        loss: mean on the held-out part, nats.
        accuracy: share of the held-out part that is right, a tie counting half.
        held_out: how many were held out; an accuracy a has the binomial error √(a(1 − a)/held_out).
        step: after which the model is taken; 0 is the one that has learned nothing.
        steps: how many were made.
    """

    model: M
    loss: float
    accuracy: float
    held_out: int
    step: int
    steps: int


def fit(
    make: Callable[[], M], judge: Judge, data: tuple[Tensor, ...], config: FitConfig, on_step: OnStep | None = None
) -> tuple[Fit[M], tuple[Tensor, ...]]:
    """Minimise the mean of ``judge``'s loss over ``data``.

    Args:
        make: makes the model, in the dtype it is to have, from torch's default generator.
        judge: of the model and some rows of the data.
        data: tensors of one length N, the first of which has the dtype of the model; trusted.
        config: how.
        on_step: told ``(done, all)``.

    Returns:
        The fit, and the rows that it was trained on.

    Raises:
        TypeError: an on_step that cannot be called.
        ValueError: data too few to hold any out.
        FloatingPointError: the held-out loss is not finite.
    """
    check_progress("on_step", on_step)
    held = config.held_out(len(data[0]))
    device = torch.device(config.device)
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would seed the GPU's generators too.
        torch.default_generator.manual_seed(config.seed)
        model = make().to(device)
    generator = torch.Generator().manual_seed(config.seed)
    order = torch.randperm(len(data[0]), generator=generator)
    unseen, seen = (
        tuple(v.detach()[rows.to(v.device)].to(device) for v in data) for rows in (order[:held], order[held:])
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    pace = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    loss, accuracy = _measure(model, judge, unseen, 0)
    best, kept, step = Fit(model, loss, accuracy, held, 0, 0), copy.deepcopy(model.state_dict()), 0
    while step < config.steps and step - best.step < config.patience * config.check_every:
        rows = torch.randint(len(seen[0]), (config.batch_size,), generator=generator).to(device)
        optimizer.zero_grad(set_to_none=True)
        judge(model, *(v[rows] for v in seen))[0].mean().backward()
        optimizer.step()
        pace.step()
        step += 1
        if on_step is not None:
            on_step(step, config.steps)
        if step % config.check_every == 0 or step == config.steps:
            loss, accuracy = _measure(model, judge, unseen, step)
            if loss < best.loss:
                best, kept = Fit(model, loss, accuracy, held, step, 0), copy.deepcopy(model.state_dict())
    model.load_state_dict(kept)
    model.requires_grad_(False).eval()
    return Fit(model, best.loss, best.accuracy, held, best.step, step), seen


@torch.no_grad()
def _measure(model: nn.Module, judge: Judge, rows: tuple[Tensor, ...], step: int) -> tuple[float, float]:
    parts = [judge(model, *part) for part in zip(*(v.split(ROWS) for v in rows), strict=True)]
    loss, right = (float(torch.cat(v).to(torch.float64).mean()) for v in zip(*parts, strict=True))
    if not math.isfinite(loss):
        raise FloatingPointError(f"the held-out loss is {loss} after step {step}; a smaller lr may help")
    return loss, right
