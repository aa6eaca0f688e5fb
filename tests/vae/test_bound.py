"""The ledger and its estimates: what may change a number and what may not, and whether an error bar is one."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy.stats import t as student

import unidiff as ud
from tests.vae.conftest import exact, network, on_levels, seeded
from unidiff.core.trajectory import end_law, prior_law, reconstruction
from unidiff.vae import (
    ELBO,
    SAMPLINGS,
    ContinuousDecoder,
    DiscretisedDecoder,
    HierarchicalVAE,
    ImportanceWeights,
    Levels,
    SampledELBO,
    importance_of,
)
from unidiff.vae.sampled import sampled_integral, sampled_steps
from unidiff.worlds import library


def draws(grid: ud.TimeGrid, x0: torch.Tensor, seed: int = 1) -> torch.Tensor:
    return torch.randn(len(grid), *x0.shape, generator=seeded(seed), dtype=x0.dtype)


def test_blocks_of_states_change_nothing(x0, grid) -> None:
    core, labels = network(num_classes=3), torch.arange(8) % 3
    for rule in ("posterior", "prior"):
        vae, noise = HierarchicalVAE(core, variance=rule), draws(grid, x0)
        whole = vae.elbo(x0, grid, condition=labels, guidance=1.5, noise=noise)
        for rows in (1, 7, 8, 32, 1000):
            part = vae.elbo(x0, grid, condition=labels, guidance=1.5, noise=noise, rows=rows)
            torch.testing.assert_close(part.diffusion, whole.diffusion)
            torch.testing.assert_close(part.total, whole.total)
    first, again = (vae.iwae(x0, grid, 3, condition=labels, generator=seeded(), rows=rows) for rows in (None, 5))
    torch.testing.assert_close(first.log_weights, again.log_weights)


def spy(core: ud.Diffusion, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many states the network was asked at a time, from now on."""
    asked: list[int] = []
    evaluate = type(core.denoiser).evaluate  # pyright: ignore[reportAttributeAccessIssue]

    def told(self, xt: torch.Tensor, *rest):
        asked.append(len(xt))
        return evaluate(self, xt, *rest)

    monkeypatch.setattr(type(core.denoiser), "evaluate", told)
    return asked


@pytest.mark.parametrize(("rows", "expected"), [(None, [24]), (7, [6] * 4), (5, [5] * 4 + [4])])
def test_terms_are_asked_together_in_even_blocks(rows, expected, x0, grid, monkeypatch) -> None:
    core = network()
    asked = spy(core, monkeypatch)
    vae = HierarchicalVAE(core, ContinuousDecoder())
    vae.sampled_elbo(x0, grid, draws=1, repeats=3, rows=rows, generator=seeded())
    assert asked[:-1] == expected  # the last is the decoder's
    asked.clear()
    vae.continuous_elbo(x0, draws=1, repeats=3, rows=rows, generator=seeded())
    assert asked[:-1] == expected


def test_a_batch_to_learn_from_is_not_cut(grid, monkeypatch) -> None:
    core = network()
    asked = spy(core, monkeypatch)
    x0 = torch.randn(5000, *core.event_shape, generator=seeded(), dtype=torch.float64)
    HierarchicalVAE(core, ContinuousDecoder()).loss(x0, grid)
    assert asked[:-1] == [5000]


def test_each_datum_has_its_own_ledger(x0, grid) -> None:
    # One at a time, with its own noise and label: the batch's columns.
    core, labels = network(num_classes=3), torch.arange(8) % 3
    vae, noise = HierarchicalVAE(core), draws(grid, x0)
    whole = vae.elbo(x0, grid, condition=labels, noise=noise, rows=5)
    for i in range(8):
        own = vae.elbo(x0[i : i + 1], grid, condition=labels[i], noise=noise[:, i : i + 1])
        for name in ("prior", "diffusion", "reconstruction", "total"):
            torch.testing.assert_close(getattr(own, name)[..., 0], getattr(whole, name)[..., i])


def test_the_same_generator_gives_the_same_bound(x0, grid) -> None:
    vae = HierarchicalVAE(network())
    for bound in (
        lambda g: vae.elbo(x0, grid, generator=g).total,
        lambda g: vae.sampled_elbo(x0, grid, generator=g).total,
        lambda g: vae.continuous_elbo(x0, generator=g).total,
        lambda g: vae.iwae(x0, grid, 3, generator=g).bound,
        lambda g: vae.loss(x0, grid, generator=g).detach(),
    ):
        state = torch.get_rng_state()
        assert torch.equal(bound(seeded(1)), bound(seeded(1)))
        assert not torch.equal(bound(seeded(1)), bound(seeded(2)))
        assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("rule", ["posterior", "prior", "optimal"])
def test_float32_is_float64_to_its_rounding(rule, grid) -> None:
    # ε̂ is heard through x_t/σ: what float32 keeps of a term is its eps times |x_t|/σ at the least noise.
    world = library.mixture_2d()
    x0 = world.sample(64, seeded())
    noise = draws(grid, x0)
    wide = HierarchicalVAE(exact(world), variance=rule).elbo(x0, grid, noise=noise)
    narrow = HierarchicalVAE(exact(world, torch.float32), variance=rule).elbo(x0.float(), grid, noise=noise.float())
    assert narrow.total.dtype == torch.float32
    reach = 1 + x0.norm(dim=1) / math.exp(-3.0)
    for one, two in zip(
        (narrow.prior, narrow.reconstruction, *narrow.diffusion),
        (wide.prior, wide.reconstruction, *wide.diffusion),
        strict=True,
    ):
        assert bool(((one.double() - two).abs() <= 64 * 1.2e-7 * reach * (1 + two.abs())).all())


def test_the_total_is_the_sum_and_bits_are_nats_by_d_log_2() -> None:
    ledger = ELBO(torch.tensor([1.0, 3.0]), torch.tensor([[1.0, 2.0], [3.0, 2.0]]), torch.tensor([-2.0, 5.0]), 4)
    assert ledger.total.tolist() == [-3.0, -12.0]
    nats, bits = ledger.nats(), ledger.bits_per_dim()
    assert (nats.mean, nats.standard_error) == (-7.5, 4.5)
    reach = float(student.ppf(0.975, 1)) * 4.5
    assert (nats.low, nats.high) == pytest.approx((-7.5 - reach, -7.5 + reach))
    unit = 4 * math.log(2)
    assert (bits.mean, bits.low, bits.high) == pytest.approx((7.5 / unit, (7.5 - reach) / unit, (7.5 + reach) / unit))
    # A density's unit: a datum twice as wide in x has a bit less for each number.
    assert ledger.bits_per_dim(scale=2.0).mean == pytest.approx(7.5 / unit - 1)
    with pytest.raises(ValueError, match="number of examples must be an integer of at least 2, got 1"):
        ELBO(torch.ones(1), torch.ones(2, 1), torch.ones(1), 4).bits_per_dim()
    with pytest.raises(ValueError, match="scale must be positive and finite, got 0"):
        ledger.bits_per_dim(0.0)


def test_bits_per_dim_of_the_view_takes_the_scale_for_densities_alone(grid) -> None:
    x0, core = on_levels(8), network()
    noise = draws(grid, x0)
    for decoder, moved in ((ContinuousDecoder(), 3.0), (DiscretisedDecoder(Levels(9)), 0.0)):
        vae = HierarchicalVAE(core, decoder)
        one, eighth = (vae.bits_per_dim(x0, grid, scale, noise=noise) for scale in (1.0, 0.125))
        assert one == vae.elbo(x0, grid, noise=noise).bits_per_dim()
        assert eighth.mean - one.mean == pytest.approx(moved)


def test_the_sampled_ledgers_error_is_that_of_its_repeats() -> None:
    found = SampledELBO(
        torch.tensor([1.0, 2.0]), torch.tensor([[1.0, 4.0], [3.0, 8.0], [5.0, 6.0]]), torch.tensor([0.5, 0.5]), 2
    )
    assert found.diffusion.tolist() == [3.0, 6.0]
    torch.testing.assert_close(found.diffusion_error, torch.tensor([2.0, 2.0]) / math.sqrt(3))
    # Batch means 2.5, 5.5, 5.5.
    assert found.standard_error == pytest.approx(math.sqrt(3) / math.sqrt(3))
    assert found.total.tolist() == [-4.5, -8.5]
    assert found.bits_per_dim().mean == pytest.approx(6.5 / (2 * math.log(2)))


@pytest.mark.statistical
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_sampled_bounds_standard_error_is_honest(sampling, x0) -> None:
    # 1000 estimates of 4 repeats: the mean of their squared errors is the variance among them, z below 5 (false alarm
    # 1e-5 with the statistic's own skewness). Its standard error is about 7%: an error bar too small by a fifth is seen
    # with 97%, and one that counts the batch as independent draws is off by √8 in the independent case, more in the rest.
    groups, each = 1000, 4
    # Steps of unequal cost, so that which of them is drawn matters.
    vae, grid = HierarchicalVAE(network()), ud.TimeGrid([0.0, 0.05, 0.3, 0.7, 1.0])
    proposal = importance_of(vae.elbo(x0, grid, generator=seeded())) if sampling == "importance" else None
    found = vae.sampled_elbo(
        x0, grid, draws=1, repeats=groups * each, sampling=sampling, proposal=proposal, generator=seeded(1)
    )
    parts = [
        SampledELBO(found.prior, found.repeats[k : k + each], found.reconstruction, found.dim)
        for k in range(0, groups * each, each)
    ]
    errors = torch.tensor([p.standard_error for p in parts], dtype=torch.float64).square()
    means = torch.stack([p.diffusion.mean() for p in parts])
    difference = errors - (means - means.mean()).square() * groups / (groups - 1)
    assert abs(float(difference.mean() / (difference.std() / math.sqrt(groups)))) < 5
    # And of one datum at a time.
    own = torch.stack([p.diffusion_error[0] for p in parts]).square()
    one = torch.stack([p.diffusion[0] for p in parts])
    difference = own - (one - one.mean()).square() * groups / (groups - 1)
    assert abs(float(difference.mean() / (difference.std() / math.sqrt(groups)))) < 5


@pytest.mark.statistical
def test_strata_lower_the_error(x0) -> None:
    # One datum, whose draws only strata hold apart. Of 1600 repeats a ratio of two errors is good to 2.5%: a tenth less is
    # asked, a fifth less is found; equal ones would pass once in 10⁴.
    grid = ud.TimeGrid([0.0, 0.05, 0.3, 0.7, 1.0])
    error = {
        name: HierarchicalVAE(network())
        .sampled_elbo(x0[5:6], grid, draws=4, repeats=1600, sampling=name, generator=seeded(2))
        .standard_error
        for name in ("independent", "stratified")
    }
    assert error["stratified"] < 0.9 * error["independent"]


def test_the_loss_is_minus_the_sampled_bound_and_moves_the_network(x0, grid) -> None:
    core = network()
    vae = HierarchicalVAE(core)
    for options in ({"grid": grid}, {"first": 0.1}):
        loss = vae.loss(x0, draws=2, generator=seeded(), **options)  # pyright: ignore
        assert loss.shape == (8,)
        # The same draws, put together by hand.
        generator, chain = seeded(), core.chain(options.get("grid", ud.TimeGrid([0.1, 1.0])))  # pyright: ignore
        some: dict[str, Any] = {"draws": 2, "repeats": 1, "generator": generator}
        terms = sampled_steps(chain, x0, **some) if "grid" in options else sampled_integral(core, x0, 0.1, **some)
        last = torch.randn(x0.shape, generator=generator, dtype=x0.dtype)
        ends = end_law(chain, x0).kl(prior_law(chain, x0)) - reconstruction(chain, vae.decoder, x0, last)
        torch.testing.assert_close(loss, terms[0] + ends)
        core.zero_grad()
        loss.mean().backward()
        moved = [p.grad for p in core.parameters()]
        assert all(g is not None and bool(torch.isfinite(g).all()) and bool(g.any()) for g in moved)
    # Measuring is not learning: no graph is kept.
    assert not vae.elbo(x0, grid).total.requires_grad
    assert not vae.iwae(x0, grid, 2).bound.requires_grad
    assert not vae.decode(x0, grid).requires_grad


@pytest.mark.slow
@pytest.mark.statistical
def test_the_loss_pulls_at_the_ends_of_a_learned_schedule_and_not_at_its_inside() -> None:
    # Kingma et al. 2021, eq. 17: the continuous bound depends on the ends alone. A z-test on the slope along one direction
    # of the inside, from 400 means: false alarm 6e-7; λ moved without its density gave z of some hundreds.
    # No exact denoiser: to that the ends are all one.
    schedule, world = ud.Schedule.learned(6.0, -4.0), library.mixture_2d()
    vae = HierarchicalVAE(ud.Diffusion(schedule, network().denoiser))
    generator = seeded(3)
    slopes = []
    for _ in range(400):
        found = vae.loss(world.sample(64, generator), generator=generator).mean()
        inside = torch.autograd.grad(found, schedule.inside, retain_graph=True)  # pyright: ignore
        ends = torch.autograd.grad(found, schedule.ends)  # pyright: ignore
        slopes.append(torch.stack([sum(g.sum() for g in inside), *ends]))  # pyright: ignore
    slopes = torch.stack(slopes)
    z = slopes.mean(0) / (slopes.std(0) / math.sqrt(len(slopes)))
    assert abs(float(z[0])) < 5
    assert float(z[1:].abs().max()) > 5


def test_effective_paths_and_bounds_by_hand() -> None:
    weights = torch.tensor([[1.0, 1.0, 1e-30], [3.0, 1.0, 1.0], [0.5, 1.0, 1e-30]], dtype=torch.float64)
    found = ImportanceWeights(weights.log(), 5)
    torch.testing.assert_close(found.bound, weights.mean(0).log())
    torch.testing.assert_close(found.elbo, weights.log().mean(0))
    torch.testing.assert_close(found.ess, torch.tensor([4.5**2 / 10.25, 3.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(found.first(1), weights.log())
    torch.testing.assert_close(found.first(2), weights[:2].mean(0, keepdim=True).log())
    torch.testing.assert_close(found.first(3)[0], found.bound)
    assert found.bits_per_dim().mean == pytest.approx(-float(found.bound.mean()) / (5 * math.log(2)))
    # Shared constants cancel: no weight is ever formed.
    far = ImportanceWeights(weights.log() - 5000, 5)
    torch.testing.assert_close(far.ess, found.ess)
    torch.testing.assert_close(far.bound, found.bound - 5000)


def test_a_path_alone_is_a_draw_of_the_bound(x0, grid) -> None:
    found = HierarchicalVAE(network()).iwae(x0, grid, 1, generator=seeded())
    assert found.log_weights.shape == (1, 8)
    torch.testing.assert_close(found.bound, found.elbo)
    torch.testing.assert_close(found.ess, torch.ones(8, dtype=torch.float64))


@pytest.mark.gpu
def test_a_gpu_finds_what_the_cpu_finds(x0, grid) -> None:
    core, labels = network(num_classes=3), torch.arange(8) % 3
    noise = draws(grid, x0)
    host = HierarchicalVAE(core).elbo(x0, grid, condition=labels, noise=noise)
    vae = HierarchicalVAE(core.cuda())
    there = vae.elbo(x0.cuda(), grid, condition=labels.cuda(), noise=noise.cuda(), rows=5)
    assert there.total.is_cuda
    for name in ("prior", "diffusion", "reconstruction"):
        torch.testing.assert_close(getattr(there, name).cpu(), getattr(host, name))
    generator = torch.Generator("cuda").manual_seed(0)
    for bound in (
        vae.sampled_elbo(x0.cuda(), grid, condition=labels.cuda(), generator=generator).total,
        vae.iwae(x0.cuda(), grid, 2, condition=labels.cuda(), generator=generator).bound,
        vae.reconstruct(x0.cuda(), grid, 2, condition=labels.cuda(), generator=generator),
    ):
        assert bound.is_cuda
