"""The variances and the schedule that are fitted to a core: what they gain, and what they refuse."""

from __future__ import annotations

import functools
import math

import pytest
import torch

import unidiff as ud
from unidiff.core import networks
from unidiff.core.ladder import chain_rows
from unidiff.identities.window import Window
from unidiff.train import TrainConfig, Trainer, estimator_spread, fit_schedule, least_second_moment, load_data
from unidiff.vae.hybrid import variance_bound
from unidiff.vae.optimal import optimal_variance
from unidiff.worlds import OracleDenoiser, library

GRID = ud.TimeGrid.uniform(6)


def exact() -> ud.Diffusion:
    return ud.Diffusion(ud.Schedule.polynomial(), OracleDenoiser(library.gaussian()))


def data(n: int = 64) -> torch.Tensor:
    return library.gaussian().sample(n, torch.Generator().manual_seed(0))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@functools.lru_cache(maxsize=1)
def digits_core() -> ud.Diffusion:
    """A core trained on the digits in seconds, λ linear in t from 13.3 to −5."""
    config = TrainConfig(
        schedule="polynomial", prediction="v", network="mlp", width=256, depth=3, weighting="sigmoid", steps=1500,
        batch_size=128, lr=2e-3, warmup=50, ema=0.99, device="cpu",
    )  # fmt: skip
    return Trainer.start(config, load_data("digits", dtype=torch.float32).flatten()).fit()


@pytest.mark.slow
@pytest.mark.statistical
def test_a_learned_inside_halves_the_variance_on_digits_and_leaves_the_bound() -> None:
    # 65 536 draws each. The bound: within 5 standard errors (false alarm 6e-7); one that moved by 3% passes with 1e-9.
    # The variance: 2 is asked with standard errors taken off, and about 8 is found.
    core, x0 = digits_core(), load_data("digits", dtype=torch.float32).flatten().x
    fitted = fit_schedule(core, x0)
    torch.testing.assert_close(fitted.schedule.log_snr(0.0), torch.tensor(13.3, dtype=torch.float64))
    torch.testing.assert_close(fitted.schedule.log_snr(1.0), torch.tensor(-5.0, dtype=torch.float64))
    beta = Window.between(ud.Schedule.linear(), -5.0, 13.3)
    own = estimator_spread(fitted, x0, generator=seeded(1))
    least = least_second_moment(core, x0, generator=seeded(2)) - own.mean**2
    print(f"\nlearned {own}\nleast variance of any inside {least:.6g}")
    for name, schedule in (("linear in log-SNR", core.schedule), ("linear beta", beta)):
        other = estimator_spread(ud.Diffusion(schedule, core.denoiser), x0, generator=seeded(3))
        print(f"{name} {other}\n  ratio of variances {other.variance / own.variance:.4g}")
        assert abs(own.mean - other.mean) < 5 * math.hypot(own.mean_error, other.mean_error)
        # Linear β spends no time near the data, where λ' is 1/t: a variance so heavy-tailed that its error is half of it.
        assert other.variance - 1.5 * other.variance_error > 2 * (own.variance + 2 * own.variance_error)


def test_a_fit_leaves_the_network_and_its_gradients_alone() -> None:
    network = networks.MLP(3, width=8, depth=1).double()
    core = ud.Diffusion(ud.Schedule.polynomial(), ud.Denoiser(network, (3,), "v"))
    before = [p.detach().clone() for p in network.parameters()]
    fitted = fit_schedule(core, data(), steps=5, batch_size=16)
    again = fit_schedule(core, data(), steps=5, batch_size=16)
    assert all(torch.equal(p, q) and p.grad is None for p, q in zip(network.parameters(), before, strict=True))
    assert fitted.denoiser is core.denoiser
    t = torch.linspace(0, 1, 9, dtype=torch.float64)
    assert torch.equal(fitted.schedule.log_snr(t), again.schedule.log_snr(t))
    assert not fitted.schedule.log_snr(t).requires_grad


def test_a_fit_refuses_what_it_cannot_fit() -> None:
    ve = ud.Diffusion(ud.Schedule.karras(), OracleDenoiser(library.gaussian()))
    linear = ud.Diffusion(ud.Schedule.linear(), OracleDenoiser(library.gaussian()))
    with pytest.raises(ValueError, match="core must have a variance-preserving schedule"):
        fit_schedule(ve, data())
    with pytest.raises(ValueError, match="ends must be given for a schedule with an infinite one"):
        fit_schedule(linear, data())
    assert float(fit_schedule(linear, data(), steps=1, ends=(5.0, -5.0)).schedule.log_snr(0.0)) == pytest.approx(5.0)
    with pytest.raises(ValueError, match="log_snr must decrease"):
        fit_schedule(linear, data(), ends=(-5.0, 5.0))
    for options, message in (
        ({"steps": 0}, "steps must be an integer of at least 1"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1"),
        ({"lr": math.nan}, "lr must be positive"),
        ({"units": 0}, "units must be an integer of at least 1"),
        ({"seed": -1}, "seed must be an integer"),
    ):
        with pytest.raises(ValueError, match=message):
            fit_schedule(exact(), data(), **options)  # pyright: ignore
    with pytest.raises(ValueError, match="x0 must hold at least one datum"):
        fit_schedule(exact(), data()[:0])
    with pytest.raises(ValueError, match="draws must be an integer of at least 2"):
        estimator_spread(exact(), data(), 1)


def test_the_optimal_chain_has_the_least_bound_of_the_fixed_rules() -> None:
    core, x0 = exact(), data(4096)
    found = optimal_variance(core, x0, GRID, generator=seeded(1))
    assert found.examples == 4096
    k = 1 + torch.arange(4096) % 6  # all the steps: one rule or the other is nearly right at one of them
    noise = torch.randn(x0.shape, generator=seeded(2), dtype=x0.dtype)
    cost = {}
    for rule, table in (("posterior", None), ("prior", None), ("optimal", found.x0_variance)):
        rows = chain_rows(core.chain(GRID, rule, x0_variance=table), x0, noise, k)  # pyright: ignore
        cost[rule] = float(rows.encoder.kl(rows.decoder).mean())
    assert cost["optimal"] < min(cost["posterior"], cost["prior"])


def test_more_draws_are_their_mean_and_blocks_change_nothing() -> None:
    core, x0 = exact(), data(7)
    noise = torch.randn(2, 6, *x0.shape, generator=seeded(1), dtype=x0.dtype)
    both = optimal_variance(core, x0, GRID, 2, noise=noise)
    each = [optimal_variance(core, x0, GRID, noise=noise[i : i + 1], rows=3) for i in range(2)]
    torch.testing.assert_close(both.x0_variance, 0.5 * (each[0].x0_variance + each[1].x0_variance))
    assert bool(optimal_variance(core, x0[:1], GRID).standard_error.isinf().all())


def test_a_table_refuses_what_gives_none() -> None:
    core = exact()
    with pytest.raises(ValueError, match="noise must have shape"):
        optimal_variance(core, data(), GRID, noise=torch.zeros(1, 2, 2))
    with pytest.raises(ValueError, match="draws must be an integer of at least 1, got 0"):
        optimal_variance(core, data(), GRID, 0)
    with pytest.raises(ValueError, match="x0 must hold at least one datum"):
        optimal_variance(core, data()[:0], GRID)
    uncut = ud.Diffusion(ud.Schedule.cosine(math.inf, -math.inf), core.denoiser)
    with pytest.raises(ValueError, match="grid must have finite log-SNRs after its first time, got -inf at t = 1"):
        optimal_variance(uncut, data(), GRID)


def test_the_bound_refuses_what_it_cannot_count() -> None:
    network = ud.Denoiser(
        networks.MLP(3, width=8, depth=1, learned_variance=True).double(), (3,), learned_variance=True
    )
    core = ud.Diffusion(ud.Schedule.polynomial(), network)
    chain, k = core.chain(GRID, "learned"), torch.arange(1, 7)
    with pytest.raises(ValueError, match="chain must have the variance 'learned', got 'prior'"):
        variance_bound(core.chain(GRID, "prior"), data(6), k)
    for wrong in (k - 1, k + 1, k[:3], k.double()):
        with pytest.raises(ValueError, match=r"k must be 6 integers in 1 … 6, got"):
            variance_bound(chain, data(6), wrong)
    with pytest.raises(ValueError, match="grid must start and end where the SNR is positive and finite"):
        variance_bound(ud.Diffusion(ud.Schedule.linear(), network).chain(GRID, "learned"), data(6), k)
    bound = variance_bound(chain, data(6), k, noise=torch.zeros(6, 3, dtype=torch.float64))
    assert bound.shape == (6,)
    assert bool((bound >= 0).all())
