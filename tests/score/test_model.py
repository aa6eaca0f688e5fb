"""The score model: Tweedie's two orders, probes and their errors, curvature, and no side effects."""

from __future__ import annotations

import pytest
import torch

import unidiff as ud
from tests.score.conftest import draws, exact, network
from unidiff.core.schedule_kinds import FromBetas
from unidiff.score import Curvature, Spread
from unidiff.worlds import library

T = 0.4


def noisy(core: ud.Diffusion, x: torch.Tensor, t: float = T) -> torch.Tensor:
    return core.process.marginal(x, t).sample(torch.Generator().manual_seed(1))


@pytest.mark.parametrize("world", ["mixture-2d", "mixture-8d", "gaussian"])
@pytest.mark.parametrize("schedule", ["cosine", "karras"])
@pytest.mark.parametrize("t", [0.02, 0.4, 0.95])
def test_tweedie_to_second_order(world: str, schedule: str, t: float) -> None:
    law = library.get(world)
    core = exact(law, schedule)
    model, level = ud.ScoreModel(core), core.schedule.level(t)
    z = noisy(core, draws(law, 20), t)
    posterior = law.posterior(z, level.alpha, level.sigma)
    torch.testing.assert_close(model.denoise(z, t), posterior.mean)
    torch.testing.assert_close(model.score(z, t), law.diffuse(level.alpha, level.sigma).score(z))
    torch.testing.assert_close(model.covariance(z, t), posterior.covariance, rtol=1e-7, atol=1e-9)
    spread = model.variance(z, t)
    assert isinstance(spread, Spread)
    torch.testing.assert_close(spread.diagonal, posterior.variance, rtol=1e-7, atol=1e-9)
    assert float(spread.trace_error.max()) == 0


def test_the_covariance_keeps_its_digits_at_high_snr() -> None:
    # From the score it would be (σ²/α²)(I + σ²∇s): at λ = 15 in float32 a difference with one digit left.
    law = library.gaussian()
    core = exact(law, dtype=torch.float32)
    z = noisy(core, draws(law, 8).float(), 0.0)
    level = core.schedule.level(0.0)
    true = law.posterior(z.double(), level.alpha, level.sigma).covariance
    found = ud.ScoreModel(core).covariance(z, 0.0)
    assert float(((found - true) / true.diagonal(dim1=1, dim2=2).mean()).abs().max()) < 1e-5


@pytest.mark.statistical
def test_probes_agree_within_their_own_errors(mixture) -> None:
    # 20 × 2 z-scores with 400 probes each, limit 5: false alarm 2e-5 over seeds. Off-diagonals of the covariance are
    # a fifth of the trace here, so a probe's error is below 2% and a violation of 10% would be seen.
    core = exact(mixture)
    model, z = ud.ScoreModel(core), noisy(core, draws(mixture, 20))
    truth = model.variance(z, T)
    found = model.variance(z, T, 400, generator=torch.Generator().manual_seed(0))
    assert float(((found.trace - truth.trace) / found.trace_error).abs().max()) < 5
    assert float(((found.diagonal - truth.diagonal) / found.diagonal_error).abs().max()) < 5
    assert float((found.trace_error / truth.trace).max()) < 0.05


def test_one_probe_does_not_claim_to_know_its_error(mixture) -> None:
    core = exact(mixture)
    found = ud.ScoreModel(core).variance(draws(mixture, 3), T, 1)
    assert torch.isinf(found.trace_error).all()
    assert torch.isinf(found.diagonal_error).all()


def test_a_score_that_is_a_gradient_has_no_curl_and_a_random_network_has(mixture) -> None:
    z = draws(mixture, 10)
    assert float(ud.ScoreModel(exact(mixture)).curvature(z, T).relative.max()) < 1e-12
    model = ud.ScoreModel(network())
    whole, probed = model.curvature(z, T), model.curvature(z, T, 150, generator=torch.Generator().manual_seed(0))
    assert isinstance(whole, Curvature)
    assert float(whole.relative.min()) > 0.01
    off = (probed.asymmetry.square() - whole.asymmetry.square()) / probed.squared_error
    assert float(off.abs().max()) < 5
    torch.testing.assert_close(probed.norm, whole.norm, rtol=0.5, atol=0)


@pytest.mark.parametrize("prediction", ["x0", "eps", "v", "score"])
def test_networks_of_every_prediction_and_guidance(prediction) -> None:
    model = ud.ScoreModel(network(prediction, num_classes=3))
    z, label = draws(library.mixture_2d(), 6), torch.tensor([0, 1, 2, 3, 0, 1])
    guided = model.score(z, T, label, 2.0)
    with_label, free = model.score(z, T, label), model.score(z, T, label * 0 + 3)
    torch.testing.assert_close(guided, free + 2.0 * (with_label - free))
    assert model.covariance(z, T, label, 2.0).shape == (6, 2, 2)
    level = model.core.schedule.level(T)
    torch.testing.assert_close(model.denoise(z, T, label), (z + level.sigma**2 * with_label) / level.alpha)


def test_reading_changes_nothing(mixture) -> None:
    core = network()
    core.train()
    before = [p.clone() for p in core.parameters()]
    model, z = ud.ScoreModel(core), draws(mixture, 4)
    for result in (model.covariance(z, T), model.variance(z, T, 2).trace, model.curvature(z, T, 2).norm):
        assert not result.requires_grad
    model.likelihood(z, solver="euler", steps=2)
    model.flow().round_trip(z, "euler", steps=2)
    assert core.training
    assert all(p.grad is None for p in core.parameters())
    assert all(torch.equal(p, q) for p, q in zip(core.parameters(), before, strict=True))


def test_it_works_whatever_mode_the_caller_is_in(mixture) -> None:
    model, z = ud.ScoreModel(network()), draws(mixture, 4)
    expected = model.covariance(z, T), model.log_prob(z, solver="rk4", steps=3)
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            torch.testing.assert_close(model.covariance(z.clone(), T), expected[0])
            torch.testing.assert_close(model.log_prob(z.clone(), solver="rk4", steps=3), expected[1])


def test_what_has_no_answer_is_refused(mixture) -> None:
    model, z = ud.ScoreModel(exact(mixture, "linear")), draws(mixture, 3)
    with pytest.raises(TypeError, match="core must be a unidiff Diffusion, got str"):
        ud.ScoreModel("core")  # pyright: ignore
    with pytest.raises(ValueError, match=r"xt must have shape \[B, 2\], got \[3, 3\]"):
        model.score(torch.zeros(3, 3), T)
    with pytest.raises(ValueError, match=r"t must lie in \[0, 1\]"):
        model.covariance(z, 1.5)
    with pytest.raises(ValueError, match="xt must be finite; 1 of its 6 values"):
        model.covariance(z.index_put((torch.tensor(0), torch.tensor(0)), torch.tensor(float("nan")).double()), T)
    with pytest.raises(ValueError, match="score does not follow from x0 at zero noise"):
        model.score(z, 0.0)
    with pytest.raises(ValueError, match="probes must be an integer of at least 1, got 0"):
        model.variance(z, T, 0)
    with pytest.raises(ValueError, match="probes must be an integer of at least 1, got 0"):
        model.curvature(z, T, 0)
    betas = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    silent = ud.Diffusion(_Silent(betas), network("eps").denoiser)
    with pytest.raises(ValueError, match="eps-prediction at zero SNR"):
        ud.ScoreModel(silent).denoise(z, 1.0)
    voice = ud.Diffusion(_Silent(betas), network("v").denoiser)
    with pytest.raises(ValueError, match="t must have a signal"):
        ud.ScoreModel(voice).covariance(z, 1.0)


class _Silent(FromBetas):
    """A schedule that ends at zero SNR."""

    def _log_snr(self, t):
        return torch.where(t >= 1, -torch.inf, super()._log_snr(t))
