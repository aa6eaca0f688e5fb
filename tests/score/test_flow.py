"""Flows: encoding against the closed-form map, round trips, and the SDE family's marginals."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import unidiff as ud
from tests.score.conftest import draws, exact, network
from unidiff.score import Carried, ProbabilityFlow, RoundTrip, reverse_drift, reverse_sde
from unidiff.worlds import OracleDenoiser, library


@pytest.mark.parametrize("schedule", ["cosine", "linear", "karras", "polynomial"])
def test_gaussian_data_are_encoded_by_the_closed_form_map(schedule: str) -> None:
    law = library.gaussian()
    flow = ProbabilityFlow(exact(law, schedule), to_data=False)
    x = draws(law, 10)
    code = flow.encode(x, tolerance=1e-9).state
    torch.testing.assert_close(
        code, law.flow(flow.ends[0].alpha * x, flow.ends[0], flow.ends[1]), rtol=0, atol=1e-7 * float(code.abs().max())
    )
    # To data: the map from no noise at all.
    whole = ProbabilityFlow(exact(law, schedule)).encode(x, tolerance=1e-9).state
    still = ud.NoiseLevel(*(torch.tensor(v, dtype=torch.float64) for v in (0.0, math.inf, 1.0, 0.0)))
    torch.testing.assert_close(whole, law.flow(x, still, flow.ends[1]), rtol=0, atol=1e-7 * float(code.abs().max()))


@pytest.mark.parametrize("to_data", [True, False])
@pytest.mark.parametrize("world", ["mixture-2d", "mixture-8d", "eight-gaussians"])
def test_the_round_trip_ends_where_it_began(world: str, to_data: bool) -> None:
    law = library.get(world)
    x = draws(law, 16)
    found = ProbabilityFlow(exact(law), to_data=to_data).round_trip(x, tolerance=1e-8)
    assert isinstance(found, RoundTrip)
    assert float(found.error.max()) < 1e-7
    torch.testing.assert_close(found.error, (found.data - x).square().mean(1).sqrt())
    # A loose solution says so.
    assert float(ProbabilityFlow(exact(law), to_data=to_data).round_trip(x, "euler", steps=10).error.max()) > 1e-3


def test_codes_of_data_are_the_priors_draws(mixture) -> None:
    code = ProbabilityFlow(exact(mixture)).encode(draws(mixture, 4000), tolerance=1e-5).state
    # Five standard errors of means and variances of 4000 normal draws.
    assert code.mean(0).abs().max() < 5 / 4000**0.5
    assert (code.var(0) - 1).abs().max() < 5 * (2 / 4000) ** 0.5


def test_decoding_is_what_the_sampler_does(mixture) -> None:
    core = exact(mixture)
    x1 = torch.randn(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    flow = ProbabilityFlow(core, to_data=False)
    sampler = ud.Sampler(core, ud.TimeGrid.uniform_log_snr(2000, core.schedule), "dpm++2m")
    torch.testing.assert_close(
        flow.decode(x1, tolerance=1e-8).state * flow.ends[0].alpha, sampler(x1), rtol=0, atol=1e-3
    )


@given(log_snr=st.floats(-9, 9), eta=st.floats(0, 2))
def test_the_drift_is_the_schedules_own_sde(log_snr: float, eta: float) -> None:
    law = library.gaussian()
    core = exact(law)
    t = float(core.schedule.time(log_snr))
    z = draws(law, 4)
    level = core.schedule.level(t)
    score = law.diffuse(level.alpha, level.sigma).score(z)
    expected = core.schedule.drift(t) * z - 0.5 * (1 + eta**2) * core.schedule.diffusion2(t) * score
    torch.testing.assert_close(reverse_drift(core, z, t, eta), expected, rtol=1e-7, atol=1e-8)


@pytest.mark.statistical
@pytest.mark.parametrize("eta", [0.0, 1.5, *(pytest.param(v, marks=pytest.mark.slow) for v in (0.5, 1.0))])
def test_every_eta_ends_in_the_data(eta: float, mixture) -> None:
    # 4000 paths of 400 steps: means within 5 standard errors (false alarm 1e-6 each) and variances within 15%, which is
    # five standard errors and Euler's bias at 400 steps.
    core = exact(mixture)
    grid = ud.TimeGrid.uniform_log_snr(400, core.schedule)
    generator = torch.Generator().manual_seed(0)
    x1 = torch.randn(4000, 2, dtype=torch.float64, generator=generator)
    x = reverse_sde(core, grid, eta)(x1, generator)
    assert ((x.mean(0) - mixture.mean) / (mixture.variance / 4000).sqrt()).abs().max() < 5
    assert (x.var(0) / mixture.variance - 1).abs().max() < 0.15


def test_conditions_and_guidance_steer_the_flow() -> None:
    law = library.mixture_2d()
    core = exact(law)
    x1 = torch.randn(200, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for k in range(3):
        flow = ProbabilityFlow(core, condition=torch.full((200,), k))
        x = flow.decode(x1, tolerance=1e-5).state
        assert float((x.mean(0) - law.means[k]).abs().max()) < 0.25
    free = ProbabilityFlow(core, condition=torch.full((200,), 1), guidance=0.0).decode(x1[:200], tolerance=1e-6)
    torch.testing.assert_close(free.state, ProbabilityFlow(core).decode(x1, tolerance=1e-6).state, rtol=0, atol=1e-4)


def test_float32_states_stay_float32(mixture) -> None:
    core = ud.Diffusion(ud.Schedule.cosine(), OracleDenoiser(mixture.to(torch.float32)))
    found = ProbabilityFlow(core).round_trip(draws(mixture, 8).float(), tolerance=1e-4)
    assert found.code.dtype == torch.float32
    assert float(found.error.max()) < 5e-3


@pytest.mark.parametrize("log_snr", [9.0, 5.0, 3.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_step_from_the_data_is_undone_to_rounding(log_snr: float, dtype: torch.dtype, mixture) -> None:
    core = exact(mixture, dtype=dtype)
    flow = ProbabilityFlow(core, first=float(core.schedule.time(log_snr)))
    x = draws(mixture, 32).to(dtype)
    level = flow.ends[0].to(x)
    y = flow.enter(x, flow.denoiser_at(level)(x), level)
    back = flow.leave(y)
    assert isinstance(back, Carried)
    assert float((back.state - x).abs().max()) < 1e3 * torch.finfo(dtype).eps
    # What is counted is what was asked: more of it where the step is longer.
    assert 1 < back.evaluations < 60


def test_a_step_that_cannot_be_undone_is_told() -> None:
    # x̂_0 = −4x: x' − ½(x + 4x) is no contraction.
    class Odd:
        event_shape = (2,)

        def __call__(self, xt, level, condition=None, guidance=1.0):
            return ud.Prediction(xt, level, {"x0": -4 * xt}, guarded=False)

    flow = ProbabilityFlow(ud.Diffusion(ud.Schedule.cosine(), Odd()))
    with pytest.raises(FloatingPointError, match="did not settle in 100 iterations .* pass an earlier first time"):
        flow.leave(torch.ones(3, 2, dtype=torch.float64))


def test_a_flow_that_does_not_exist_is_refused(mixture) -> None:
    core, x = exact(mixture), draws(mixture, 3)
    with pytest.raises(ValueError, match="first must be where the log-SNR is finite"):
        ProbabilityFlow(exact(mixture, "linear"), first=0.0)
    with pytest.raises(ValueError, match=r"first must lie in \[0, 1\), got nan"):
        ProbabilityFlow(core, first=math.nan)
    with pytest.raises(ValueError, match="x must be finite"):
        ProbabilityFlow(core).encode(x * math.nan)
    with pytest.raises(ValueError, match=r"x1 must have shape \[B, 2\]"):
        ProbabilityFlow(core).decode(x[:, :1])
    with pytest.raises(ValueError, match="tolerance must be positive"):
        ProbabilityFlow(core).encode(x, tolerance=-1.0)
    with pytest.raises(ValueError, match="eta must be at least 0 and finite, got -0.5"):
        reverse_drift(core, x, 0.5, -0.5)
    with pytest.raises(ValueError, match="eta must be at least 0 and finite, got -0.5"):
        reverse_sde(core, ud.TimeGrid.uniform(5), -0.5)
    with pytest.raises(ValueError, match="guidance needs"):
        ProbabilityFlow(network(), guidance=2.0, condition=torch.zeros(3).long()).encode(x, "euler", steps=2)
