"""An energy added to a frozen core: what it moves, in which modes it answers alike, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import unidiff as ud
from unidiff.ebm import EnergyGuided, guided
from unidiff.worlds import Gaussian, OracleDenoiser, library

SCHEDULE = ud.Schedule.cosine()
WORLD = library.mixture_2d()
X = WORLD.sample(6, torch.Generator().manual_seed(0))


def core(schedule: ud.Schedule = SCHEDULE) -> ud.Diffusion:
    return ud.Diffusion(schedule, OracleDenoiser(WORLD))


def timed(schedule: ud.Schedule = SCHEDULE, tau: float = 0.5) -> ud.EnergyModel:
    return ud.EnergyModel(lambda x, t: 0.5 * t * x.square().sum(1), (2,), schedule=schedule, tau=tau)


def flat(tau: float = 0.5) -> ud.EnergyModel:
    return ud.EnergyModel(lambda x: 0.5 * x.square().sum(1), (2,), tau=tau)


@pytest.mark.parametrize("weight", [0.0, 1.0, -0.4])
def test_the_score_is_the_cores_less_the_energys_slope(weight: float) -> None:
    plain = core().predict(X, 0.4).score
    found = guided(core(), timed(), weight).predict(X, 0.4).score
    torch.testing.assert_close(found, plain - weight * 0.4 * X / 0.5, rtol=1e-9, atol=1e-9)


def test_two_gaussians_without_noise_to_speak_of_are_multiplied() -> None:
    # N(0, 1) guided by ½x²/τ at τ = ½ is N(0, ⅓) where the energy is asked at t → 0.
    own = ud.Diffusion(SCHEDULE, OracleDenoiser(Gaussian([0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]])))
    for model in (flat(), ud.EnergyModel(lambda x, t: 0.5 * x.square().sum(1), (2,), schedule=SCHEDULE, tau=0.5)):
        found = guided(own, model).predict(X, 0.001).score
        torch.testing.assert_close(found, -3 * X, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", [timed, flat])
def test_it_samples_alike_where_nothing_is_recorded(make: Any) -> None:
    def draw() -> Tensor:
        own = guided(core(), make(), 0.3)
        return ud.sample(own, 4, steps=5, generator=torch.Generator().manual_seed(1), dtype=torch.float64).clone()

    known = draw()
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            torch.testing.assert_close(draw(), known, rtol=1e-10, atol=1e-10)


def test_a_class_and_its_weight_are_the_cores() -> None:
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    known = core().predict(X, 0.4, labels, 1.5).score - 0.2 * 0.4 * X / 0.5
    found = guided(core(), timed(), 0.2).predict(X, 0.4, labels, 1.5).score
    torch.testing.assert_close(found, known, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: guided(3, flat()), TypeError, "core must be a Diffusion, got 3"),  # pyright: ignore
        (lambda: guided(core(), 3), TypeError, "model must be a EnergyModel, got 3"),  # pyright: ignore
        (lambda: guided(core(), flat(), float("nan")), ValueError, "weight must be finite, got nan"),
        (lambda: guided(core(), flat(), True), TypeError, "weight must be a number, got True"),
        (
            lambda: EnergyGuided(core(), ud.EnergyModel(lambda x: x.sum(1), (3,))),
            ValueError,
            r"model must be of states \[2\], got \[3\]",
        ),
        (
            lambda: guided(core(), timed(ud.Schedule.sigmoid())),
            ValueError,
            "model must have the core's schedule, or no time, got log_snr",
        ),
        # Its log-SNRs are the core's; its states are not.
        (
            lambda: guided(core(SCHEDULE.as_ve()), timed()),
            ValueError,
            "model must have the core's schedule, or no time, got alpha",
        ),
    ],
)
def test_what_cannot_be_added_is_refused(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_a_level_without_signal_is_refused_before_a_run() -> None:
    endless = ud.Schedule.cosine(float("inf"), float("-inf"))
    with pytest.raises(ValueError, match=r"zero SNR \(alpha = 0\)"):
        ud.sample(guided(core(endless), flat()), 2, steps=3, dtype=torch.float64)
