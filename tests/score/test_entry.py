"""The one step from data to t_0: how far it is off is told, whatever the log-SNR that it starts at."""

from __future__ import annotations

import pytest
import torch

import unidiff as ud
from tests.score.conftest import draws, exact, network
from unidiff.core.prediction import Prediction
from unidiff.score import likelihood
from unidiff.worlds import Gaussian, OracleDenoiser, library

# (schedule, first, the least that it is off by in the largest of 32 data): None is the default.
FAR = (
    ("cosine", 0.05, 0.05),
    ("cosine", 0.2, 1.0),
    ("cosine", 0.5, 2.0),
    ((1.0, 3.0, -6.0), None, 0.8),
    ((1.0, 6.0, -6.0), None, 0.005),
)


def core_of(schedule, world) -> ud.Diffusion:
    if isinstance(schedule, str):
        return exact(world, schedule)
    return ud.Diffusion(ud.Schedule.polynomial(*schedule), OracleDenoiser(world))


@pytest.mark.parametrize(("schedule", "first", "least"), FAR)
def test_a_step_from_low_snr_says_that_it_is_off(schedule, first: float | None, least: float, mixture) -> None:
    x = draws(mixture, 32)
    found = likelihood(core_of(schedule, mixture), x, world=mixture, tolerance=1e-6, first=first)
    off = (found.with_exact_prior - mixture.log_prob(x)).abs()
    assert float(off.max()) > least > 100 * float(found.solver_error.max())
    assert float(found.entry_error.max()) > float(off.max()) / 3
    assert float(found.entry_error.mean()) > float(off.mean()) / 3
    assert float(found.entry_error.max()) < 20 * float(off.max())


@pytest.mark.parametrize("world", ["mixture-8d", "eight-gaussians", "gaussian"])
@pytest.mark.parametrize("first", [0.1, *(pytest.param(t, marks=pytest.mark.slow) for t in (0.02, 0.05, 0.3))])
def test_it_covers_each_datum_of_other_worlds(world: str, first: float) -> None:
    law = library.get(world)
    x = draws(law, 32)
    found = likelihood(exact(law), x, world=law, tolerance=1e-7, first=first)
    off = (found.with_exact_prior - law.log_prob(x)).abs()
    covered = found.entry_error + found.solver_error > off / 3
    assert float(covered.double().mean()) >= (1.0 if first < 0.2 else 0.9)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "karras"])
def test_at_the_default_ends_it_is_next_to_nothing(schedule: str, mixture) -> None:
    found = likelihood(exact(mixture, schedule), draws(mixture, 32), solver="rk4", steps=4)
    assert 0 < float(found.entry_error.max()) < 1e-6


def test_what_is_not_measured_is_not_said_to_be_small(mixture) -> None:
    core, x = exact(mixture), draws(mixture, 3)
    options = {"solver": "euler", "steps": 4}
    assert torch.isinf(likelihood(core, x, estimate=False, **options).entry_error).all()
    for estimate in (True, False):
        assert float(likelihood(core, x, to_data=False, estimate=estimate, **options).entry_error.max()) == 0
    # A schedule of one nat has no room for two doublings of the variance.
    short = ud.Diffusion(ud.Schedule.polynomial(1.0, 6.0, 5.0), OracleDenoiser(mixture))
    assert torch.isinf(likelihood(short, x, **options).entry_error).all()


@pytest.mark.parametrize("spread", [1e-12, *(pytest.param(s, marks=pytest.mark.slow) for s in (3e-4, 1e-5, 1e-8))])
def test_data_narrower_than_the_noise_are_told_so(spread: float) -> None:
    """The default ends, log-SNR 15: the noise at t_0 is 5e-4 of a unit. Doublings alone told 3.5 nats a dimension."""
    for narrow in ((spread,), (spread, spread), (1.0, max(spread, 1e-5))):
        law = Gaussian(torch.zeros(len(narrow)).double(), torch.diag(torch.tensor(narrow).double().square()))
        x = draws(law, 32)
        found = likelihood(exact(law), x, world=law, tolerance=1e-6)
        off = (found.with_exact_prior - law.log_prob(x)).abs()
        assert float((found.entry_error / off).min()) > 0.9
        assert float(found.entry_error.max()) < 10 * float(off.max())


def test_what_probes_or_rounding_hide_of_narrow_data_is_unknown_and_wide_data_stay_known(mixture) -> None:
    law = Gaussian(torch.zeros(2).double(), 1e-10 * torch.eye(2).double())
    x = draws(law, 8)
    assert torch.isinf(likelihood(exact(law), x, solver="rk4", steps=4, probes=3).entry_error).all()
    # Two directions of one, turned, a quarter of a rounding apart in the Jacobian.
    turned = ud.Diffusion(ud.Schedule.cosine(), Flat())
    assert torch.isinf(likelihood(turned, x, solver="rk4", steps=4).entry_error).all()
    wide = likelihood(exact(mixture), draws(mixture, 8), solver="rk4", steps=4, probes=3)
    assert torch.isfinite(wide.entry_error).all()


class Flat:
    """A denoiser that says one line, whatever it is asked: its Jacobian has an eigenvalue of zero."""

    event_shape = (2,)

    def __call__(self, xt, level, condition=None, guidance=1.0):
        along = torch.tensor([0.6, 0.8], dtype=xt.dtype)
        alpha, snr = level.alpha, level.log_snr.exp()
        x0 = (xt @ along / alpha * 1e-10 / (1e-10 + 1 / snr)).unsqueeze(1) * along
        return Prediction(xt, level, {"x0": x0})


def test_its_evaluations_are_counted(mixture) -> None:
    calls = []
    core = exact(mixture)
    asked = core.denoiser

    class Counted:
        event_shape = (2,)

        def __call__(self, xt, level, condition=None, guidance=1.0):
            calls.append(level)
            return asked(xt, level, condition, guidance)

    found = likelihood(ud.Diffusion(core.schedule, Counted()), draws(mixture, 3), solver="euler", steps=4)
    assert found.evaluations == len(calls) == 1 + 4 + 2 + 34


def test_networks_with_probes_and_float32_have_one_too(mixture) -> None:
    found = likelihood(network(), draws(mixture, 6), solver="rk4", steps=6, probes=3)
    assert torch.isfinite(found.entry_error).all()
    single = exact(mixture, dtype=torch.float32)
    small = likelihood(single, draws(mixture, 6).float(), solver="rk4", steps=6).entry_error
    assert small.dtype == torch.float32
    # Rounding, seen through a difference.
    assert float(small.max()) < 1e-3
