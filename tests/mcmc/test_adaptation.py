"""Dual averaging finds the step size, from far below and far above, and then leaves it alone."""

from __future__ import annotations

import math

import pytest
import torch

from unidiff.mcmc.adaptation import DualAveraging
from unidiff.score import BAOAB, HMC, MALA, Target, langevin

STANDARD = Target.from_energy(lambda x: 0.5 * x.square().sum(1))
# Scales from 1 to 3: on a round Gaussian all of HMC's trajectories return together, and its acceptance is no monotone
# function of the step.
SCALES = torch.linspace(1.0, 3.0, 20)
LONG = Target.from_energy(lambda x: 0.5 * (x / SCALES).square().sum(1))


def test_the_recursion_is_hoffman_and_gelmans() -> None:
    search = DualAveraging(0.1, 0.6, torch.zeros((), dtype=torch.float64))
    gap, average = 0.0, 0.0
    for m, accept in enumerate((0.2, 0.9, 0.7, 0.4), 1):
        search.update(torch.full((3,), math.log(accept), dtype=torch.float64))
        gap = (1 - 1 / (m + 10)) * gap + (0.6 - accept) / (m + 10)
        log_step = math.log(1.0) - math.sqrt(m) / 0.05 * gap
        average = m**-0.75 * log_step + (1 - m**-0.75) * average
        assert float(search.step_size) == pytest.approx(math.exp(log_step), rel=1e-12)
        assert search.result() == pytest.approx(math.exp(average), rel=1e-12)


def test_an_acceptance_above_one_counts_as_one() -> None:
    one, two = (DualAveraging(0.1, 0.6, torch.zeros(())) for _ in range(2))
    one.update(torch.tensor([5.0, -1.0]))
    two.update(torch.tensor([0.0, -1.0]))
    assert one.result() == two.result()


@pytest.mark.parametrize(
    ("kernel", "wanted", "first"),
    [
        *((MALA, wanted, first) for wanted in (None, 0.8) for first in (1e-3, 10.0)),
        (HMC, 0.9, 10.0),
        *(pytest.param(HMC, *v, marks=pytest.mark.slow) for v in ((None, 1e-3), (None, 10.0), (0.9, 1e-3))),
    ],
)
def test_the_wanted_acceptance_is_met_from_any_start(kernel, wanted: float | None, first: float) -> None:
    x = SCALES * torch.randn(200, 20, generator=torch.Generator().manual_seed(0))
    chains = langevin(
        LONG, x, 200, kernel=kernel(first), warmup=400, acceptance=wanted,
        generator=torch.Generator().manual_seed(1),
    )  # fmt: skip
    assert chains.acceptance is not None
    assert float(chains.acceptance.mean()) == pytest.approx(wanted or kernel.best_acceptance, abs=0.06)
    assert chains.kernel == kernel(chains.step_size)


def test_without_adaptation_the_step_size_stays() -> None:
    x = torch.zeros(8, 2)
    assert langevin(STANDARD, x, 10, kernel=MALA(0.1), warmup=20, adapt=False).step_size == 0.1
    assert langevin(STANDARD, x, 10, kernel=BAOAB(0.1), warmup=20).step_size == 0.1
