"""The last step's likelihoods: probabilities that sum to one, gradients that are numbers, draws of the same law."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import norm

from tests.vae.conftest import on_levels, seeded
from unidiff.core.level import NoiseLevel
from unidiff.vae import CategoricalDecoder, ContinuousDecoder, Decoder, DiscretisedDecoder, Levels, dequantise

LEVELS = Levels(5)
DISCRETE = (DiscretisedDecoder(LEVELS), DiscretisedDecoder(LEVELS, "state", 0.4), CategoricalDecoder(LEVELS))
CLEAR = 5.0


def at_level(std: float, dtype: torch.dtype = torch.float64) -> NoiseLevel:
    """A VP level with σ/α = std."""
    log_snr = torch.tensor(-2 * math.log(std), dtype=dtype)
    return NoiseLevel(torch.tensor(0.1, dtype=dtype), log_snr, log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt())


def of_every_level(decoder: Decoder, place: torch.Tensor, level: NoiseLevel) -> torch.Tensor:
    """log p of each level ``[n]`` at one place of the mean, ``[B, n]``."""
    values = LEVELS.values(place)
    x0 = values.repeat(len(place))[:, None]
    at = place.repeat_interleave(len(values))[:, None]
    return decoder.log_prob(x0, level.alpha * at, level, at).reshape(len(place), -1)


@pytest.mark.parametrize("decoder", DISCRETE)
@pytest.mark.parametrize("std", [1e-3, 0.05, 0.7, 30.0])
def test_the_levels_probabilities_sum_to_one(decoder, std: float) -> None:
    place = torch.linspace(-4, 4, 41, dtype=torch.float64)
    found = of_every_level(decoder, place, at_level(std))
    # The logits are ½z², rounded at their own size.
    assert bool(((found.exp().sum(1) - 1).abs() < 64 * 2.3e-16 * (1 + (5 / min(std, 0.4)) ** 2)).all())
    assert bool((found <= 1e-12).all())
    # Under little noise the nearest level is the likeliest, the outermost one wherever the mean is outside.
    inner = torch.cdist(place[:, None], LEVELS.values(place)[:, None]).argmin(1)
    clear = (place / 0.5 - (place / 0.5).floor() - 0.5).abs() > 0.1
    if std < 0.1:
        assert torch.equal(found.argmax(1)[clear], inner[clear])


@pytest.mark.parametrize("std", [0.05, 0.3, 2.0])
def test_a_cells_probability_is_the_normal_laws(std: float) -> None:
    place = torch.linspace(-1.4, 1.4, 15, dtype=torch.float64)
    edges = torch.tensor([-math.inf, -0.75, -0.25, 0.25, 0.75, math.inf], dtype=torch.float64)
    z = (edges - place[:, None]).numpy() / std
    # The tail in which nothing cancels.
    due = torch.from_numpy(abs(norm.cdf(z[:, 1:]) - norm.cdf(z[:, :-1])))
    other = torch.from_numpy(abs(norm.sf(z[:, 1:]) - norm.sf(z[:, :-1])))
    due = torch.where(torch.from_numpy(z[:, 1:] + z[:, :-1] > 0), other, due)
    found = of_every_level(DiscretisedDecoder(LEVELS, std=std), place, at_level(0.1))
    torch.testing.assert_close(found.exp(), due, rtol=1e-9, atol=0)


@pytest.mark.parametrize("decoder", [DiscretisedDecoder(LEVELS), CategoricalDecoder(LEVELS), ContinuousDecoder()])
@pytest.mark.parametrize("std", [0.2, 1.5])
def test_gradients_are_those_of_finite_differences_at_every_level(decoder, std: float) -> None:
    # In the mean, in the state and in the log-SNR, the outermost cells with their infinite edges among them.
    x0 = LEVELS.values(torch.empty(0, dtype=torch.float64))[:, None]
    guess = torch.linspace(-1.3, 1.2, 5, dtype=torch.float64)[:, None].requires_grad_()
    log_snr = torch.full((5,), -2 * math.log(std), dtype=torch.float64, requires_grad=True)

    def log_prob(guess: torch.Tensor, log_snr: torch.Tensor) -> torch.Tensor:
        alpha, sigma = log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()
        level = NoiseLevel(torch.zeros_like(log_snr), log_snr, alpha, sigma)
        return decoder.log_prob(x0, alpha[:, None] * guess, level, guess)

    assert torch.autograd.gradcheck(log_prob, (guess, log_snr))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_numbers_a_hundred_deviations_out(dtype: torch.dtype) -> None:
    decoder, level = DiscretisedDecoder(LEVELS), at_level(0.05, dtype)
    values = LEVELS.values(torch.empty(0, dtype=dtype))
    guess = torch.linspace(-6, 6, 97, dtype=dtype).repeat_interleave(5)[:, None].requires_grad_()
    found = decoder.log_prob(values.repeat(97)[:, None], guess, level, guess)
    slope = torch.autograd.grad(found.sum(), guess)[0].reshape(97, 5)
    assert bool(torch.isfinite(found).all())
    assert bool(torch.isfinite(slope).all())
    # Towards the cell: up where the mean is below it, down above; none inside the outermost ones, which have no end.
    place = guess.detach().reshape(97, 5)
    assert bool((slope[:, 1:][place[:, 1:] < values[1:] - 0.3] > 0).all())
    assert bool((slope[:, :-1][place[:, :-1] > values[:-1] + 0.3] < 0).all())
    assert bool((slope[:, 0][place[:, 0] < -2].abs() < 1e-30).all())
    assert bool((slope[:, 4][place[:, 4] > 2].abs() < 1e-30).all())


@pytest.mark.statistical
@pytest.mark.parametrize("decoder", DISCRETE)
@pytest.mark.parametrize("place", [-1.3, 0.1, 0.8])
def test_draws_fall_on_the_levels_as_often_as_they_should(decoder, place: float) -> None:
    # 20 000 draws, 9 cases of 5 levels, z below 5: a false alarm of 3e-5 in all (the least count has 20 draws due or is
    # not judged). A probability near ½ that is 0.025 off is missed with 0.03.
    n, level = 20_000, at_level(0.4)
    at = torch.full((1,), place, dtype=torch.float64)
    due = of_every_level(decoder, at, level)[0].exp()
    many = at.expand(n, 1)
    found = decoder.sample(level.alpha * many, level, many, seeded())
    counts = torch.bincount(LEVELS.index(found).flatten(), minlength=5)
    heard = due * n >= 20
    z = (counts / n - due) / (due * (1 - due) / n).sqrt()
    assert float(z[heard].abs().max()) < CLEAR
    assert int(counts[~heard].sum()) < 100


@pytest.mark.statistical
@pytest.mark.parametrize("decoder", [ContinuousDecoder(), ContinuousDecoder("state", 0.2)])
def test_continuous_draws_have_the_density_that_is_told(decoder) -> None:
    # E log p of a law's own draws is −½ log 2πe s² a number, with variance ½; z below 5: 6e-7. A deviation 10% off, in the
    # draws or in the density, moves it by 0.01 or more: over 7 standard errors of 20 000 draws of two numbers.
    n, level = 20_000, at_level(0.3)
    mean = torch.tensor([[0.4, -0.7]], dtype=torch.float64).expand(n, 2)
    x = decoder.sample(level.alpha * mean, level, mean, seeded())
    std = 0.3 if decoder.std is None else decoder.std
    entropy = 2 * (0.5 * math.log(2 * math.pi * math.e) + math.log(std))
    found = decoder.log_prob(x, level.alpha * mean, level, mean)
    assert abs(float(found.mean()) + entropy) < CLEAR / math.sqrt(n)
    z_mean = (x - mean).mean(0) / std * math.sqrt(n)
    z_var = ((x - mean).square().mean(0) / std**2 - 1) / math.sqrt(2 / n)
    assert float(torch.stack([z_mean, z_var]).abs().max()) < CLEAR


def test_levels_are_found_where_they_are_put() -> None:
    for levels in (Levels(), Levels(17), Levels(2, 0.0, 1.0), Levels(9, -3.0, 5.0)):
        for dtype in (torch.float32, torch.float64):
            values = levels.values(torch.empty(0, dtype=dtype))
            assert torch.equal(levels.index(values), torch.arange(levels.count))
            assert float(values[-1] - values[0]) == pytest.approx((levels.count - 1) * levels.width)
    assert Levels().width == pytest.approx(2 / 255)


@pytest.mark.statistical
def test_dequantised_data_are_even_in_their_cells() -> None:
    # u ~ U(−½, ½): mean, second and fourth moment, z below 5, 2e-6 in all; a cell 1% too wide moves the second moment by
    # 2%, 10 standard errors of 80 000 numbers.
    x0, levels = on_levels(40_000), Levels(9)
    found = dequantise(x0, levels, seeded(1))
    u = ((found - x0) / levels.width).flatten()
    assert float(u.abs().max()) <= 0.5 + 1e-12
    for power, due, var in ((1, 0.0, 1 / 12), (2, 1 / 12, 1 / 80 - 1 / 144), (4, 1 / 80, 1 / 2304 - 1 / 6400)):
        assert abs(float(u.pow(power).mean()) - due) < CLEAR * math.sqrt(var / len(u))
    assert torch.equal(dequantise(x0[:5], levels, seeded(1)), dequantise(x0[:5], levels, seeded(1)))


@pytest.mark.statistical
def test_the_mean_density_over_a_cell_is_its_probability() -> None:
    # E_u p(v + w u) w = P(v) for an inner level, and by Jensen E log p + log w is no more. 100 000 draws, z below 5: 6e-7;
    # a width 2% off moves it by 2%, over 7 standard errors.
    levels, level = Levels(5), at_level(0.35)
    x0 = torch.full((100_000, 1), 0.5, dtype=torch.float64)
    mean = torch.full_like(x0, 0.3)
    log_p = ContinuousDecoder().log_prob(dequantise(x0, levels, seeded()), mean, level, mean)
    cell = DiscretisedDecoder(levels).log_prob(x0[:1], mean[:1], level, mean[:1])[0]
    p = log_p.exp() * levels.width
    assert abs(float((p.mean() - cell.exp()) / (p.std() / math.sqrt(len(p))))) < CLEAR
    assert 0.02 * float(cell.exp()) > 7 * float(p.std()) / math.sqrt(len(p))
    assert float(log_p.mean()) + math.log(levels.width) < float(cell)
