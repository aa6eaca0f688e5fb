"""What a network says of the same quantities: right for the exact denoiser, and its errors are what repeats show."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from torch import Tensor

import unidiff as ud
from tests.thermo.conftest import exact, network, of, seeded
from unidiff.worlds import Gaussian, library

NAMES = ("entropy", "fisher_information", "entropy_rate", "entropy_production", "kl_to_prior", "mutual_information")
REPEATS = 60


@functools.lru_cache(maxsize=2)
def learner(low: float) -> ud.Thermodynamics:
    """A network that has learned nothing, in float64, λ from 6 to ``low``."""
    return ud.Thermodynamics(network(3, "v", ud.Schedule.polynomial(1.0, 6.0, low)).double())


@pytest.mark.statistical
@pytest.mark.parametrize("low", [-1.0, pytest.param(-8.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if k % 2 else []) for k, name in enumerate(NAMES)]
)
def test_a_networks_standard_error_is_what_repeats_show(name: str, low: float) -> None:
    # 60 estimates of 400 fresh data each about one of 200 000, whose error is 22 times less. Σz² ~ χ²(60), nearly: over 126
    # by chance in 1e-6, under 18 in 3e-8. An error √3 too small passes in 4%, 2 times too small in 9e-4, 3 times too large
    # in 3e-11; |Σz|/√60 < 5.5 (false alarm 4e-8) misses a bias of one standard error in 1%.
    law, view = library.gaussian(), learner(low)
    ask = getattr(view, name)
    t = float(view.core.schedule.time(1.0))
    centre = ask(t, law.sample(200_000, seeded(1)), generator=seeded(2))
    generator = seeded(3)
    found = [ask(t, law.sample(400, generator), generator=generator) for _ in range(REPEATS)]
    z = torch.stack([(e.value - centre.value) / torch.hypot(e.standard_error, centre.standard_error) for e in found])
    assert all(e.law == "monte_carlo" for e in found)
    print(f"\n{name}, λ to {low}: Σz² = {float(z.square().sum()):.1f} of 60, Σz/√60 = {float(z.sum()) / 60**0.5:.2f}")
    assert 18 < float(z.square().sum()) < 126
    assert abs(float(z.sum())) / math.sqrt(REPEATS) < 5.5


@pytest.mark.statistical
@pytest.mark.parametrize("schedule", ["cosine", "karras"])
@pytest.mark.parametrize("name", NAMES)
def test_the_exact_denoisers_estimates_are_the_worlds_own(name: str, schedule: str) -> None:
    # From 40 000 draws of a mixture in eight dimensions against the law's value by 40 000 of its own: |z| < 5, false alarm
    # 6e-7; errors under 3% of the greatest of the value and ½, so that a factor of 2 is seen but in 1e-9.
    law, kind = library.mixture_8d(), ud.Schedule.named(schedule)
    own, known = ud.Thermodynamics(exact(law, kind)), of(law, kind)
    t = float(kind.time(1.0))
    found = getattr(own, name)(t, law.sample(40_000, seeded(4)), generator=seeded(5))
    due = getattr(known, name)(t, draws=40_000, generator=seeded(6))
    error = math.hypot(float(found.standard_error), float(due.standard_error))
    scale = max(0.5, abs(float(due.value))) if name != "entropy_rate" else float(kind.diffusion2(t)) * 8
    assert error < 0.03 * scale
    assert abs(float(found.value - due.value)) < 5 * error


@pytest.mark.slow
@pytest.mark.statistical
def test_the_error_counts_that_the_datas_variance_is_an_estimate() -> None:
    # What is left at the last level hangs on it: without its share the variance of 800 estimates is 1.29 of what is said.
    # The ratio's own error is √(2/800) = 0.05 and a little: 0.8 … 1.2 is four of them, 9e-5 by chance; 1.29 passes in 8%.
    law, view = library.gaussian(), learner(-1.0)
    t, generator = float(view.core.schedule.time(1.0)), seeded(3)
    found = [view.mutual_information(t, law.sample(400, generator), generator=generator) for _ in range(800)]
    ratio = torch.stack([e.value for e in found]).var() / torch.stack([e.standard_error for e in found]).square().mean()
    assert 0.8 < float(ratio) < 1.2


@pytest.mark.statistical
def test_what_the_last_level_still_knows_is_counted() -> None:
    # Round data: there ½D log(1 + c SNR_1) is no bound but the information. λ ends at −0.5, where it is 0.42 nats of D = 4:
    # 40 standard errors; |z| < 5 (false alarm 6e-7).
    law = Gaussian([0.0] * 4, 0.6 * torch.eye(4, dtype=torch.float64))
    view = ud.Thermodynamics(exact(law, ud.Schedule.polynomial(1.0, 6.0, -0.5)))
    t = float(view.core.schedule.time(2.0))
    found = view.mutual_information(t, law.sample(40_000, seeded(7)), generator=seeded(8))
    due = 0.5 * 4 * math.log1p(0.6 * math.exp(2.0))
    left = 0.5 * 4 * math.log1p(0.6 * math.exp(-0.5))
    assert left > 20 * float(found.standard_error)
    assert abs(float(found.value) - due) < 5 * float(found.standard_error)


class Worse:
    """The exact denoiser, all its answers larger by a share."""

    def __init__(self, law: Gaussian, share: float) -> None:
        self.exact, self.share, self.event_shape = ud.worlds.OracleDenoiser(law), share, law.event_shape

    def __call__(
        self, xt: Tensor, level: ud.NoiseLevel, condition: Tensor | None = None, guidance: float = 1.0
    ) -> ud.Prediction:
        right = self.exact(xt, level, condition, guidance).x0
        return ud.Prediction.of("x0", (1 + self.share) * right, xt, level)


@pytest.mark.statistical
def test_a_worse_denoiser_errs_to_the_side_that_is_said() -> None:
    # I and H too large, R and the KL too small, each by more than 5 standard errors of the paired difference in 20 000 data.
    law = library.gaussian()
    schedule = ud.Schedule.cosine()
    right, wrong = (ud.Thermodynamics(ud.Diffusion(schedule, Worse(law, share))) for share in (0.0, 0.4))
    x0, t = law.sample(20_000, seeded(9)), 0.4
    for name, sign in (("mutual_information", 1), ("entropy", 1), ("fisher_information", -1), ("kl_to_prior", -1)):
        pair = [getattr(view, name)(t, x0, generator=seeded(10)) for view in (right, wrong)]
        error = math.hypot(*(float(e.standard_error) for e in pair))
        assert sign * float(pair[1].value - pair[0].value) > 5 * error, name


def test_float32_networks_answer_in_float64_and_leave_no_graph() -> None:
    core, x0 = network(), library.gaussian().sample(8, seeded(0)).float()
    before = [p.detach().clone() for p in core.parameters()]
    for name in NAMES:
        found = getattr(ud.Thermodynamics(core), name)(0.4, x0, generator=seeded(0))
        assert found.value.dtype == torch.float64 and not found.value.requires_grad
        assert float(found.standard_error) > 0
    assert all(torch.equal(p, q) and p.grad is None for p, q in zip(core.parameters(), before, strict=True))
