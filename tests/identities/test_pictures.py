"""What the report's page shows is what it says: the numbers behind its pictures, held to closed forms."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

import unidiff as ud
from unidiff.identities.pictures import pictures
from unidiff.worlds import library


@pytest.fixture(scope="module")
def energies() -> dict[str, torch.Tensor]:
    shown = pictures(3)["energies"]["data"]
    assert shown["labels"] == ("−log q_t", "E, learned") and shown["diagonal"]
    return {name: torch.as_tensor(pairs) for name, pairs in shown["series"].items()}


def test_a_learned_energy_lies_beside_the_density_that_it_is_of(energies: dict[str, torch.Tensor]) -> None:
    assert list(energies) == ["log-SNR 5", "log-SNR 2", "log-SNR -1"]
    # The slope of one on the other and the mean distance in nats were 0.70 and 0.81, 0.90 and 0.17, 1.000 and 0.012.
    for pairs, least, apart in zip(energies.values(), (0.5, 0.75, 0.97), (1.3, 0.35, 0.05), strict=True):
        true, own = pairs.T
        assert len(pairs) > 200
        # The constant is taken off where the law is likely, and nothing else is: there the two agree on average.
        near = true < true.median()
        assert abs(float((own - true)[near].mean())) < 0.05
        slope = float(((own - own.mean()) * (true - true.mean())).sum() / (true - true.mean()).square().sum())
        assert least < slope < 2 - least
        assert float((own - true)[near].abs().mean()) < apart


def test_the_truth_beside_it_is_the_noised_worlds(energies: dict[str, torch.Tensor]) -> None:
    world, schedule = library.mixture_2d(), ud.Schedule.cosine(8.0, -8.0)
    again = torch.Generator().manual_seed(3)
    for log_snr, pairs in zip((5.0, 2.0, -1.0), energies.values(), strict=True):
        alpha, sigma = torch.tensor(log_snr).sigmoid().sqrt().double(), torch.tensor(-log_snr).sigmoid().sqrt().double()
        t = float(schedule.time(log_snr).detach())
        torch.testing.assert_close(schedule.alpha(t).detach().double(), alpha, rtol=1e-5, atol=0)
        x = world.diffuse(float(alpha), float(sigma)).sample(400, again)
        x = x + 0.5 * torch.randn(400, 2, generator=again, dtype=torch.float64)
        wide = alpha.square() * world.covariances + sigma.square() * torch.eye(2, dtype=torch.float64)
        law = MixtureSameFamily(Categorical(world.weights), MultivariateNormal(alpha * world.means, wide))
        known = -law.log_prob(x)
        torch.testing.assert_close(pairs[:, 0], known[known < 12], rtol=1e-4, atol=1e-4)
