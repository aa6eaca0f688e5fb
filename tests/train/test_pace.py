"""What a step's place in the run decides: the learning rate and the decay of the average."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from unidiff.train import Dataset, TrainConfig, Trainer, denoising_loss
from unidiff.train.pace import ema_decay, rate

CONFIG = TrainConfig(network="mlp", width=16, depth=1, steps=100, batch_size=64, lr=0.5, warmup=10, device="cpu")


def test_the_rate_climbs_to_its_peak_in_just_the_warm_up() -> None:
    config = dataclasses.replace(CONFIG, decay="constant")
    assert [rate(config, n, n / 100) for n in (0, 4, 8, 9, 10, 99)] == pytest.approx([0.05, 0.25, 0.45, 0.5, 0.5, 0.5])
    assert rate(dataclasses.replace(config, warmup=0), 0, 0.0) == 0.5
    assert rate(dataclasses.replace(config, warmup=1), 0, 0.0) == 0.5


def test_the_rate_falls_as_half_a_cosine_to_zero() -> None:
    config = dataclasses.replace(CONFIG, warmup=0)
    found = [rate(config, n, n / 100) for n in (0, 25, 50, 75, 99, 100)]
    assert found == pytest.approx(
        [0.5, 0.5 * (0.5 + 0.125**0.5), 0.25, 0.5 * (0.5 - 0.125**0.5), 0.5 * 2.4672e-4, 0.0], rel=1e-4
    )
    assert rate(CONFIG, 9, 0.09) == pytest.approx(0.5 * math.cos(0.045 * math.pi) ** 2, rel=1e-12)  # both at once


def test_the_steps_are_taken_at_the_rate_of_their_place() -> None:
    trainer = Trainer.start(dataclasses.replace(CONFIG, steps=12, warmup=4, log_every=1), Dataset(torch.eye(2)))
    taken: list[float] = []
    trainer.fit(lambda t, line: taken.append(line["lr"]))
    assert taken == [rate(trainer.config, n, n / 12) for n in range(12)]


def test_the_decay_of_the_average_climbs_to_what_is_asked_for() -> None:
    assert [ema_decay(0.9995, n) for n in (0, 1, 8, 90)] == [1 / 10, 2 / 11, 0.5, 0.91]
    assert ema_decay(0.9995, 17_989) < 0.9995 == ema_decay(0.9995, 17_990)
    assert ema_decay(0.0, 5) == 0.0


def test_the_average_of_a_short_run_is_one_of_its_late_parameters() -> None:
    # Its loss beside the last parameters' and the first ones', on the same draws. With a constant decay of 0.9995 the
    # average of 300 steps is the first parameters at a weight of 0.86, and its loss theirs.
    x = torch.randn(500, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([2.0, 0.1])
    config = dataclasses.replace(CONFIG, steps=300, lr=1e-2, ema=0.9995, decay="constant")
    trainer = Trainer.start(config, Dataset(x))
    first = trainer.averaged
    averaged = trainer.fit()

    def loss(core) -> float:
        return denoising_loss(core, x, generator=torch.Generator().manual_seed(1)).mean().item()

    worst, best, found = loss(first), loss(trainer.core.eval()), loss(averaged)
    assert found - best < 0.1 * (worst - best)
