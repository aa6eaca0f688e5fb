"""Encode, decode, reconstruct, interpolate, prior: draws of the laws that they name, against textbook Gaussians.

Every z below is N(0, 1) under the right law (a mean's exactly, a second moment's by 20 000 draws), and 5 is asked of its
size: a false alarm of 6e-7 each, under 1e-4 for the file's 120. A mean that is 0.05 of a deviation off, or a variance that
is 7% off, is 7 standard errors away, and missed with probability 0.03.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import unidiff as ud
from tests.vae.conftest import exact, network, on_levels, round_world, seeded
from unidiff.vae import CategoricalDecoder, ContinuousDecoder, DiscretisedDecoder, HierarchicalVAE, Levels

DRAWS, CLEAR = 20_000, 5.0
Moments = tuple[Tensor, float]


def assert_drawn(x: Tensor, mean: Tensor, var: Tensor | float) -> None:
    """The rows of x are independent draws of N(mean, var), each number by itself."""
    var = torch.as_tensor(var, dtype=x.dtype).expand(mean.shape)
    z_mean = (x.mean(0) - mean) / (var / len(x)).sqrt()
    z_var = ((x - mean).square().mean(0) / var - 1) / math.sqrt(2 / len(x))
    assert float(z_mean.abs().max()) < CLEAR, z_mean
    assert float(z_var.abs().max()) < CLEAR, z_var


class Textbook:
    """The laws of x_{t_k} for one axis of N(m, e), by α and σ alone."""

    def __init__(self, core: ud.Diffusion, grid: ud.TimeGrid) -> None:
        self.mean, self.e = round_world().mean, 0.5
        self.alpha, self.sigma = core.schedule.alpha(grid.times), core.schedule.sigma(grid.times)

    def marginal(self, k: int) -> tuple[Tensor, Tensor]:
        return self.alpha[k] * self.mean, self.alpha[k] ** 2 * self.e + self.sigma[k] ** 2

    def down(self, k: int, mean: Tensor, var: Tensor | float) -> tuple[Tensor, Tensor]:
        """Of x_{t_0} where x_{t_k} ~ N(mean, var): the true conditional of the one given the other."""
        (m0, v0), (mk, vk) = self.marginal(0), self.marginal(k)
        gain = self.alpha[k] / self.alpha[0] * v0 / vk
        return m0 + gain * (mean - mk), v0 - gain**2 * vk + gain**2 * var

    def decoded(self, mean: Tensor, var: Tensor, std: float | None = None) -> tuple[Tensor, Tensor]:
        """Of x_0 ~ N(x̂_0(x_{t_0}), s²) where x_{t_0} ~ N(mean, var)."""
        (m0, v0), noise = self.marginal(0), self.sigma[0] / self.alpha[0] if std is None else torch.tensor(std)
        gain = self.alpha[0] * self.e / v0
        return self.mean + gain * (mean - m0), gain**2 * var + noise**2


@pytest.mark.statistical
def test_encode_is_one_draw_of_the_whole_ladder(grid) -> None:
    core, x0 = exact(round_world()), torch.tensor([[0.7, -1.1]], dtype=torch.float64)
    ladder = HierarchicalVAE(core).encode(x0.expand(DRAWS, 2), grid, seeded())
    states = ladder.states
    assert states.shape == (5, DRAWS, 2)
    alpha, sigma = core.schedule.alpha(grid.times), core.schedule.sigma(grid.times)
    for k in range(5):
        assert_drawn(states[k], alpha[k] * x0[0], sigma[k] ** 2)
        for j in range(k):
            # Cov[x_j, x_k] = (α_k/α_j) σ_j², of N(0, Σ) a product's variance is Σ_jj Σ_kk + Σ_jk².
            due, both = alpha[k] / alpha[j] * sigma[j] ** 2, sigma[j] ** 2 * sigma[k] ** 2
            product = ((states[j] - alpha[j] * x0) * (states[k] - alpha[k] * x0)).mean(0)
            assert float(((product - due) / ((both + due**2) / DRAWS).sqrt()).abs().max()) < CLEAR


@pytest.mark.statistical
def test_decode_from_the_prior_gives_the_chains_own_marginal(grid) -> None:
    # On round Gaussian data the optimal rule's chain keeps every marginal; the prior's N(0, 1) starts it.
    core = exact(round_world())
    book, vae = Textbook(core, grid), HierarchicalVAE(core, variance="optimal")
    start = vae.prior(DRAWS, seeded(1), torch.empty(0, dtype=torch.float64))
    assert_drawn(start, torch.zeros(2, dtype=torch.float64), core.schedule.prior_std**2)
    found = vae.decode(start, grid, generator=seeded(2))
    assert_drawn(found, *book.decoded(*book.down(4, torch.zeros_like(book.mean), 1.0)))


@pytest.mark.statistical
@pytest.mark.parametrize("start", [0, 1, 3])
@pytest.mark.parametrize("std", [None, 0.3])
def test_decode_starts_where_it_is_told(start: int, std: float | None, grid) -> None:
    core = exact(round_world())
    book, vae = Textbook(core, grid), HierarchicalVAE(core, ContinuousDecoder(std=std), "optimal")
    at = torch.tensor([0.9, -0.4], dtype=torch.float64)
    found = vae.decode(at.expand(DRAWS, 2), grid, start, generator=seeded(3))
    first = book.down(start, at, 0.0) if start else (at, torch.zeros(()))
    assert_drawn(found, *book.decoded(*first, std))


@pytest.mark.statistical
@pytest.mark.parametrize("to", [0, 2, 4])
def test_reconstruct_goes_up_and_down_again(to: int, grid) -> None:
    core, datum = exact(round_world()), torch.tensor([1.2, -1.5], dtype=torch.float64)
    book, vae = Textbook(core, grid), HierarchicalVAE(core, variance="optimal")
    found = vae.reconstruct(datum.expand(DRAWS, 2), grid, to, generator=seeded(4))
    up = book.alpha[to] * datum, book.sigma[to] ** 2
    assert_drawn(found, *book.decoded(*(book.down(to, *up) if to else up)))


@pytest.mark.statistical
def test_half_way_between_two_data_has_the_noise_of_its_level(grid) -> None:
    # With a noise for each end the state at s = ½ would have half the variance: 50% off where 7% is seen.
    core = exact(round_world())
    book, vae = Textbook(core, grid), HierarchicalVAE(core, ContinuousDecoder("state"), "optimal")
    one, two = (torch.tensor(v, dtype=torch.float64) for v in ([1.2, -1.5], [-0.8, 0.3]))
    found = vae.interpolate(one.expand(DRAWS, 2), two.expand(DRAWS, 2), grid, 2, [0.5, 0.25], generator=seeded(5))
    assert found.shape == (2, DRAWS, 2)
    for mixed, share in zip(found, (0.5, 0.25), strict=True):
        mean, var = book.down(2, book.alpha[2] * torch.lerp(one, two, share), book.sigma[2] ** 2)
        noise = book.sigma[0] / book.alpha[0]
        assert_drawn(mixed, mean / book.alpha[0], var / book.alpha[0] ** 2 + noise**2)


def test_the_ends_of_an_interpolation_are_reconstructions(x0, grid) -> None:
    vae, other = HierarchicalVAE(network()), x0.flip(0)
    for share, end in ((0.0, x0), (1.0, other)):
        between = vae.interpolate(x0, other, grid, 3, torch.tensor([share]), generator=seeded())
        torch.testing.assert_close(between[0], vae.reconstruct(end, grid, 3, generator=seeded()))


def test_labels_and_guidance_reach_every_verb(x0, grid) -> None:
    core = network(num_classes=3)
    vae, labels = HierarchicalVAE(core, variance="prior"), torch.arange(8) % 3
    for verb in ("reconstruct", "interpolate"):

        def drawn(condition: Tensor, guidance: float = 1.0, x: Tensor = x0, verb: str = verb) -> Tensor:
            options = {"generator": seeded(), "condition": condition, "guidance": guidance}
            if verb == "reconstruct":
                return vae.reconstruct(x, grid, 2, **options)  # pyright: ignore
            return vae.interpolate(x, x.flip(0), grid, 2, [0.3], **options)[0]  # pyright: ignore

        own = drawn(labels)
        # Each member of the batch has its own label's: as with that label for all.
        for k in range(3):
            torch.testing.assert_close(own[labels == k], drawn(torch.tensor(k))[labels == k])
        assert not torch.allclose(own, drawn((labels + 1) % 3))
        assert not torch.allclose(own, drawn(labels, 2.0))

    # A label is a pair's, for each of its shares.
    def many(condition: Tensor) -> Tensor:
        return vae.interpolate(x0, x0, grid, 1, [0.2, 0.6, 0.7], condition=condition, generator=seeded())

    for k in range(3):
        torch.testing.assert_close(many(labels)[:, labels == k], many(torch.tensor(k))[:, labels == k])


@pytest.mark.parametrize("decoder", [DiscretisedDecoder(Levels(9)), CategoricalDecoder(Levels(9))])
def test_data_decoded_by_levels_are_on_them(decoder, grid) -> None:
    vae, x0 = HierarchicalVAE(network(), decoder), on_levels(16)
    for found in (
        vae.decode(vae.prior(16, seeded(), x0), grid, generator=seeded()),
        vae.reconstruct(x0, grid, 2, generator=seeded()),
        vae.interpolate(x0, x0.flip(0), grid, 2, [0.5], generator=seeded())[0],
    ):
        decoder.check(found)
        assert found.dtype == torch.float64


def test_draws_come_from_the_generator_alone(x0, grid) -> None:
    vae = HierarchicalVAE(network())
    verbs = {
        "encode": lambda g: vae.encode(x0, grid, g).states,
        "decode": lambda g: vae.decode(x0, grid, generator=g),
        "reconstruct": lambda g: vae.reconstruct(x0, grid, 2, generator=g),
        "interpolate": lambda g: vae.interpolate(x0, x0.flip(0), grid, 2, [0.5], generator=g),
        "prior": lambda g: vae.prior(3, g),
    }
    for name, verb in verbs.items():
        state = torch.get_rng_state()
        assert torch.equal(verb(seeded(1)), verb(seeded(1))), name
        assert not torch.equal(verb(seeded(1)), verb(seeded(2))), name
        assert torch.equal(state, torch.get_rng_state()), name
