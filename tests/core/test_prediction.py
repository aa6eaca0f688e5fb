"""Predictions and denoisers: what converts where, and what is refused."""

from __future__ import annotations

import pytest
import torch

from unidiff import Denoiser, Diffusion, Prediction, Schedule
from unidiff.core.prediction import KINDS
from unidiff.worlds import OracleDenoiser, library

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))


def level(t: float, schedule: Schedule | None = None):
    return (schedule or Schedule.cosine()).level(t, X)


def test_unknown_predictions_name_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown prediction 'epss'; did you mean 'eps'"):
        Prediction.of("epss", X, X, level(0.5))  # pyright: ignore


def test_value_and_state_must_be_alike() -> None:
    with pytest.raises(ValueError, match="xt and value must have one shape"):
        Prediction.of("eps", X[:2], X, level(0.5))
    with pytest.raises(ValueError, match="xt and value must have one dtype"):
        Prediction.of("eps", X.double(), X, level(0.5))


@pytest.mark.parametrize("kind", ["eps", "score"])
def test_eps_and_score_at_zero_snr_are_refused(kind) -> None:
    zero = level(0.5)
    zero = type(zero)(zero.t, torch.tensor(-torch.inf), torch.tensor(0.0), torch.tensor(1.0))
    with pytest.raises(ValueError, match="zero SNR"):
        Prediction.of(kind, X, X, zero)
    assert Prediction.of("v", X, X, zero).x0.isfinite().all()


def test_an_eps_network_at_zero_snr_is_refused_before_it_runs() -> None:
    def network(x, noise, condition):
        raise AssertionError("the network must not be asked")

    core = Diffusion(ZeroTerminal(), Denoiser(network, (3,), "eps"))
    with pytest.raises(ValueError, match="zero SNR"):
        core.predict(X, 1.0)


class ZeroTerminal(Schedule):
    """λ = log((1 − t)/t): no signal at t = 1."""

    kind = "zero-terminal-test"

    def _log_snr(self, t):
        return torch.log1p(-t) - t.log()

    def _log_snr_derivative(self, t):
        return -1 / (t * (1 - t))

    def _time(self, log_snr):
        return torch.sigmoid(-log_snr)

    def _options(self):
        return {}


def test_what_follows_from_x0_needs_noise() -> None:
    clean = Schedule.linear().level(0.0, X)
    with pytest.raises(ValueError, match="zero noise"):
        _ = Prediction.of("x0", X, X, clean).eps


@pytest.mark.parametrize("kind", KINDS)
def test_edm_takes_x0_alone(kind) -> None:
    if kind == "x0":
        return
    with pytest.raises(ValueError, match="prediction must be 'x0' with EDM"):
        Denoiser(lambda *a: a[0], (3,), kind, "edm")


def network(x, noise, condition):
    shift = 0.0 if condition is None else condition[:, None].to(x)
    return torch.tanh(x) + noise[:, None] * 0.01 + shift


def test_guidance_is_affine_in_every_kind() -> None:
    core = Diffusion(Schedule.cosine(), Denoiser(network, (3,), "v", num_classes=5))
    condition = torch.tensor([0, 1, 2, 3])
    null = torch.full((4,), 5)
    for kind in KINDS:
        at = [getattr(core.predict(X, 0.4, c), kind) for c in (condition, null)]
        guided = getattr(core.predict(X, 0.4, condition, guidance=2.5), kind)
        torch.testing.assert_close(guided, at[1] + 2.5 * (at[0] - at[1]), rtol=1e-4, atol=1e-5)


def test_no_condition_is_the_null_class() -> None:
    core = Diffusion(Schedule.cosine(), Denoiser(network, (3,), "v", num_classes=5))
    torch.testing.assert_close(core.predict(X, 0.4).x0, core.predict(X, 0.4, torch.full((4,), 5)).x0)


def test_guidance_of_an_unconditional_network_is_refused() -> None:
    core = Diffusion(Schedule.cosine(), Denoiser(network, (3,), "v"))
    with pytest.raises(ValueError, match="guidance needs a conditional network"):
        core.predict(X, 0.4, torch.zeros(4, dtype=torch.long), guidance=2.0)


def test_states_of_another_shape_are_refused() -> None:
    core = Diffusion(Schedule.cosine(), OracleDenoiser(library.gaussian().to(torch.float32)))
    with pytest.raises(ValueError, match=r"xt must have shape \[B, 3\], got \[4, 2\]"):
        core.predict(X[:, :2], 0.4)
    with pytest.raises(ValueError, match="t must lie in"):
        core.predict(X, 1.4)
    with pytest.raises(ValueError, match=r"t must be a number or have shape \[4\]"):
        core.predict(X, torch.tensor([0.1, 0.2]))


def test_guided_mixture_component_is_the_components_own_score() -> None:
    # Item 57: s + ∇ log p(y|x_t) is the component's score; guidance 1 is the conditional model.
    world = library.mixture_2d()
    core = Diffusion(Schedule.cosine(), OracleDenoiser(world))
    x = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    condition = torch.tensor([0, 1, 2, 0, 1, 2])
    own = core.predict(x, 0.5, condition).score
    at = core.schedule.level(0.5)
    for k in range(6):
        component = int(condition[k])
        law = torch.distributions.MultivariateNormal(
            at.alpha * world.means[component],
            at.alpha**2 * world.covariances[component] + at.sigma**2 * torch.eye(2, dtype=torch.float64),
        )
        z = x[k].clone().requires_grad_()
        (slope,) = torch.autograd.grad(law.log_prob(z), z)
        torch.testing.assert_close(own[k], slope)
