"""What every reading of a batch refuses, in one voice."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import unidiff as ud
from tests.score.conftest import draws, network
from unidiff.score import likelihood
from unidiff.score.arguments import conditional_law
from unidiff.worlds import library

Reading = Callable[[Tensor, "Tensor | None", float], object]
CORE = network(num_classes=3)
MODEL = ud.ScoreModel(CORE)


def flow(condition: Tensor | None, guidance: float) -> ud.score.ProbabilityFlow:
    return MODEL.flow(condition=condition, guidance=guidance)


READINGS: dict[str, Reading] = {
    "likelihood": lambda x, c, g: likelihood(CORE, x, solver="euler", steps=2, condition=c, guidance=g),
    "encode": lambda x, c, g: flow(c, g).encode(x, "euler", steps=2),
    "decode": lambda x, c, g: flow(c, g).decode(x, "euler", steps=2),
    "covariance": lambda x, c, g: MODEL.covariance(x, 0.4, c, g),
    "variance": lambda x, c, g: MODEL.variance(x, 0.4, 2, condition=c, guidance=g),
    "curvature": lambda x, c, g: MODEL.curvature(x, 0.4, condition=c, guidance=g),
}
LOSSES: dict[str, Reading] = {
    kind: lambda x, c, g, kind=kind: MODEL.loss(x, kind, torch.tensor(0.4), condition=c, world=library.mixture_2d())
    for kind in ud.score.OBJECTIVES
}
X = draws(library.mixture_2d(), 4)


@pytest.mark.parametrize("name", [*READINGS, *LOSSES])
def test_what_no_reading_takes_is_refused_by_each(name: str) -> None:
    reading = {**READINGS, **LOSSES}[name]
    for length in (1, 3, 5):
        with pytest.raises(ValueError, match=rf"condition must have shape \[4\] or \[\], got \[{length}\]"):
            reading(X, torch.zeros(length).long(), 1.0)
    with pytest.raises(ValueError, match="condition must lie in 0 … 3"):
        reading(X, torch.full((4,), 4), 1.0)
    with pytest.raises(TypeError, match="condition must be a tensor of integers"):
        reading(X, torch.zeros(4), 1.0)
    with pytest.raises(ValueError, match=r"must hold at least one datum, got shape \[0, 2\]"):
        reading(X[:0], None, 1.0)
    with pytest.raises(ValueError, match="must be float32 or wider .*, got torch.float16"):
        reading(X.half(), None, 1.0)
    with pytest.raises(ValueError, match="must have the network's dtype, torch.float64, got torch.float32"):
        reading(X.float(), None, 1.0)
    with pytest.raises(ValueError, match="must be finite"):
        reading(X * math.nan, None, 1.0)


@pytest.mark.parametrize("name", READINGS)
def test_a_guidance_that_is_no_number_or_has_nothing_to_weigh_is_named(name: str) -> None:
    with pytest.raises(ValueError, match="guidance must be finite, got nan"):
        READINGS[name](X, torch.zeros(4).long(), math.nan)
    with pytest.raises(ValueError, match="guidance needs a condition"):
        READINGS[name](X, None, 2.0)


@pytest.mark.parametrize("name", [*READINGS, *LOSSES])
def test_one_label_is_given_to_all(name: str) -> None:
    {**READINGS, **LOSSES}[name](X, torch.tensor(1), 1.0)


def test_labels_are_a_worlds_components_or_nothing() -> None:
    world, label = library.mixture_2d(), torch.tensor([0, 3])
    assert conditional_law(CORE, world, None, "it") is world
    torch.testing.assert_close(
        conditional_law(CORE, world, label, "it").log_prob(X[:2]), world.given(label).log_prob(X[:2])
    )
    with pytest.raises(
        ValueError, match="it with a condition needs a world .* the core has 3, the GaussianMixture has 8"
    ):
        conditional_law(CORE, library.eight_gaussians(), label, "it")
    with pytest.raises(ValueError, match="the core has 3, the Gaussian has None"):
        conditional_law(CORE, library.gaussian(), label, "it")
