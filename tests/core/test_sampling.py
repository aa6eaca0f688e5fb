"""Chains and samplers: one table, one loop, and nothing drawn twice."""

from __future__ import annotations

import pytest
import torch

import unidiff as ud
from unidiff.core import networks
from unidiff.core.tables import METHODS
from unidiff.worlds import OracleDenoiser, library

DETERMINISTIC = ("ddim", "euler", "heun", "dpm++2m")


def oracle(dtype: torch.dtype = torch.float64, schedule: ud.Schedule | None = None) -> ud.Diffusion:
    return ud.Diffusion(schedule or ud.Schedule.cosine(), OracleDenoiser(library.mixture_2d().to(dtype)))


def with_mlp(seed: int = 0, **options) -> ud.Diffusion:
    torch.manual_seed(seed)
    network = networks.MLP(2, width=16, depth=2, **options)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.3)
    denoiser = ud.Denoiser(network, (2,), "v", num_classes=options.get("num_classes"))
    return ud.Diffusion(ud.Schedule.cosine(), denoiser).eval()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "schedule", ["karras", *(pytest.param(s, marks=pytest.mark.slow) for s in ("cosine", "linear"))]
)
def test_every_method_lands_on_the_data(method, schedule: str) -> None:
    # The law of 4000 samples against the world's mean: each coordinate a z-test at 5 standard errors (false alarm 1e-6
    # each); the discretisation's own bias at 200 steps is below a fifth of the 0.016 · std that it would take to fail.
    core = oracle(schedule=ud.Schedule.named(schedule))
    generator = torch.Generator().manual_seed(0)
    x = ud.sample(core, 4000, steps=200, method=method, generator=generator, dtype=torch.float64)
    world = library.mixture_2d()
    error = (x.mean(0) - world.mean) / (world.variance / 4000).sqrt()
    assert error.abs().max() < 5
    spread = x.var(0) / world.variance
    assert (spread - 1).abs().max() < 0.15


@pytest.mark.parametrize("method", METHODS)
def test_same_seed_same_bits_and_another_seed_others(method) -> None:
    core = with_mlp()
    draw = [ud.sample(core, 8, 6, method, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(draw[0], draw[1])
    assert not torch.equal(draw[0], draw[2])


@pytest.mark.parametrize("method", METHODS)
def test_a_network_that_embeds_apart_samples_the_same(method) -> None:
    core = with_mlp()
    whole = core.denoiser.network  # pyright: ignore

    def as_one(x, noise, condition):
        return whole(x, noise, condition)

    plain = ud.Diffusion(core.schedule, ud.Denoiser(as_one, (2,), "v"))
    one, two = (
        ud.sample(c, 8, 6, method, torch.Generator().manual_seed(0), dtype=torch.float32) for c in (core, plain)
    )
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_given_noise_stands_in_for_the_generator() -> None:
    core = oracle()
    sampler = ud.Sampler(core, ud.TimeGrid.uniform(5), "ancestral")
    x = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    noise = torch.zeros(5, 4, 2, dtype=torch.float64)
    walked = x
    chain = core.chain(ud.TimeGrid.uniform(5))
    for k in range(5, 0, -1):
        walked = chain.step(walked, k).mean
    torch.testing.assert_close(sampler(x, noise=noise), walked)


@pytest.mark.parametrize("variance", ["prior", "optimal"])
def test_other_variances_walk_the_chains_own_kernels(variance) -> None:
    core = oracle()
    grid = ud.TimeGrid.uniform(5, 0.05)
    x = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(5, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    chain, walked = core.chain(grid, variance), x
    for row, k in enumerate(range(5, 0, -1)):
        walked = chain.step(walked, k).sample(noise=noise[row])
    found = ud.Sampler(core, grid, "ancestral", variance=variance)(x, noise=noise)
    torch.testing.assert_close(found, walked)


def test_learned_variance_interpolates_between_the_two() -> None:
    def network(x, noise, condition):
        return torch.cat([torch.zeros_like(x), torch.linspace(-1, 1, x.numel()).reshape(x.shape)], 1)

    core = ud.Diffusion(ud.Schedule.cosine(), ud.Denoiser(network, (3,), "v", learned_variance=True))
    grid = ud.TimeGrid.uniform(4)
    low, high, own = (core.chain(grid, v).step(torch.zeros(3, 3), 2).log_var for v in ("posterior", "prior", "learned"))
    share = ((own - low) / (high - low)).flatten()
    torch.testing.assert_close(share, torch.linspace(0, 1, 9), rtol=1e-5, atol=1e-6)


def test_optimal_variance_takes_a_table() -> None:
    core = with_mlp()
    table = torch.tensor([0.0, 0.1, 0.2])
    step = core.chain(ud.TimeGrid.uniform(3, 0.1), "optimal", table).step(torch.zeros(2, 2), 1)
    own = core.chain(ud.TimeGrid.uniform(3, 0.1)).step(torch.zeros(2, 2), 1)
    torch.testing.assert_close(step.log_var, own.log_var)


def test_half_precision_states_are_refused() -> None:
    sampler = ud.Sampler(with_mlp(), ud.TimeGrid.uniform(3))
    with pytest.raises(ValueError, match="float32 or wider"):
        sampler(torch.zeros(2, 2, dtype=torch.bfloat16))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "ddmi"}, "unknown method 'ddmi'; did you mean 'ddim'"),
        ({"steps": 0}, "steps must be an integer of at least 1, got 0"),
        ({"n": 0}, "n must be an integer of at least 1, got 0"),
        ({"eta": 1.5}, "eta must lie in"),
        ({"method": "heun", "eta": 0.5}, "eta is for method .ddim. or .sde."),
        ({"method": "heun", "variance": "prior"}, "variance is the chain's"),
    ],
)
def test_bad_requests_are_refused(options, message: str) -> None:
    arguments = {"n": 2, "steps": 3, **options}
    with pytest.raises(ValueError, match=message):
        ud.sample(with_mlp(), **arguments)


def test_chain_refuses_what_it_cannot_be() -> None:
    core, grid = with_mlp(), ud.TimeGrid.uniform(3)
    with pytest.raises(ValueError, match="unknown variance 'posteriour'; did you mean 'posterior'"):
        core.chain(grid, "posteriour")  # pyright: ignore
    with pytest.raises(ValueError, match="'learned' needs a denoiser built with learned_variance"):
        core.chain(grid, "learned")
    with pytest.raises(ValueError, match="'optimal' needs x0_variance"):
        core.chain(grid, "optimal")
    with pytest.raises(ValueError, match=r"x0_variance must have shape \[3\], got \[2\]"):
        core.chain(grid, "optimal", torch.zeros(2))
    with pytest.raises(ValueError, match="k must be an integer in 1 … 3"):
        core.chain(grid).step(torch.zeros(2, 2), 4)
    with pytest.raises(ValueError, match=r"xt must have shape \[B, 2\]"):
        core.chain(grid).step(torch.zeros(2, 3), 1)


def test_a_guided_conditional_sampler_doubles_the_batch_once() -> None:
    core = with_mlp(num_classes=3)
    labels = torch.tensor([0, 1, 2, 0])
    generator = torch.Generator().manual_seed(0)
    x = core.prior(4, generator)
    guided = ud.Sampler(core, ud.TimeGrid.uniform(4), guidance=1.7)(x, condition=labels)
    null = torch.full((4,), 3)
    walked = x
    for row in range(4, 0, -1):
        t = core.schedule.level(ud.TimeGrid.uniform(4).times[row], walked)
        with torch.no_grad():
            at = [core.denoiser(walked, t, c).x0 for c in (labels, null)]
        x0 = at[1] + 1.7 * (at[0] - at[1])
        eps = (walked - t.alpha * x0) / t.sigma
        s = core.schedule.level(ud.TimeGrid.uniform(4).times[row - 1], walked)
        walked = s.alpha * x0 + s.sigma * eps
    torch.testing.assert_close(guided, walked, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("method", METHODS)
def test_a_captured_step_samples_as_the_eager_loop(method) -> None:
    core = with_mlp().cuda()
    grid = ud.TimeGrid.uniform(8)
    x = core.prior(64, torch.Generator("cuda").manual_seed(0), torch.empty(0, device="cuda"))
    one, two = (
        ud.Sampler(core, grid, method, graph=graph)(x, torch.Generator("cuda").manual_seed(1))
        for graph in (True, False)
    )
    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
def test_a_captured_sampler_sees_new_weights() -> None:
    core = with_mlp().cuda()
    sampler = ud.Sampler(core, ud.TimeGrid.uniform(8))
    x = core.prior(64, torch.Generator("cuda").manual_seed(0), torch.empty(0, device="cuda"))
    before = sampler(x)
    with torch.no_grad():
        for p in core.parameters():
            p.mul_(0.5)
    after = sampler(x)
    eager = ud.Sampler(core, ud.TimeGrid.uniform(8), graph=False)(x)
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, eager, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", ["ancestral", "sde"])
def test_noise_drawn_ahead_and_noise_drawn_row_by_row_are_both_white(method, monkeypatch) -> None:
    # On N(0, 1) data the last state is N(0, 1) either way: 4096 draws, variance within 5 standard errors (α = 6e-7);
    # a row that met its noise twice, or never, is off by tens of them.
    from unidiff.core import sampling

    core = ud.Diffusion(ud.Schedule.cosine(), ud.worlds.OracleDenoiser(ud.worlds.Gaussian([0.0], [[1.0]])))
    found = []
    for most in (2**30, 0):
        monkeypatch.setattr(sampling, "MOST_NOISE_AHEAD", most)
        generator = torch.Generator().manual_seed(3)
        x = core.prior(4096, generator, torch.empty(0, dtype=torch.float64))
        state = generator.get_state()
        found.append(ud.Sampler(core, ud.TimeGrid.uniform(200), method)(x, generator))
        assert not torch.equal(generator.get_state(), state)
        assert abs(float(found[-1].var()) - 1) < 5 * (2 / 4096) ** 0.5 + 0.02
    assert not torch.equal(found[0], x)


def test_injected_noise_leaves_every_generator_alone() -> None:
    core = ud.Diffusion(ud.Schedule.cosine(), ud.worlds.OracleDenoiser(ud.worlds.Gaussian([0.0], [[1.0]])))
    x = torch.zeros(3, 1, dtype=torch.float64)
    before = torch.get_rng_state()
    ud.Sampler(core, ud.TimeGrid.uniform(4), "ancestral")(x, noise=torch.ones(4, 3, 1, dtype=torch.float64))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "schedule", ["karras", *(pytest.param(s, marks=pytest.mark.slow) for s in ("cosine", "linear"))]
)
@pytest.mark.parametrize("method", ["dpm++2m", "sde-dpm++2m"])
def test_the_default_grid_of_a_multistep_method_serves_it(method, schedule: str) -> None:
    # Few steps: what uneven first steps cost. 5000 samples know E log p to 0.02 nats (standard error of log p about 1.2
    # over √5000), so 0.2 is ten of them; uniform time missed by 0.3 to 1.7 nats on these.
    world = library.mixture_2d()
    core = oracle(schedule=ud.Schedule.named(schedule))
    generator = torch.Generator().manual_seed(0)
    x = ud.sample(core, 5000, steps=25, method=method, generator=generator, dtype=torch.float64)
    assert abs(float(world.log_prob(x).mean() + world.entropy().value)) < 0.2
    assert ud.sample(core, 3, steps=1, method=method, dtype=torch.float64).isfinite().all()


@pytest.mark.parametrize("method", ["heun", "sde"])
@pytest.mark.parametrize("schedule", ["cosine", "sigmoid", "karras"])
def test_the_default_grid_serves_a_ve_schedule(method, schedule: str) -> None:
    # The variance of 5000 draws is known to about 2%, and 50 steps cost up to 5%: false alarms 1e-3. Uniform t on the VE
    # reading of sigmoid gave a variance 1e6 times the data's.
    world = library.mixture_2d()
    core = oracle(schedule=ud.Schedule.named(schedule).as_ve())
    x = ud.sample(core, 5000, 50, method, torch.Generator().manual_seed(0), dtype=torch.float64)
    assert bool(((x.var(0) / world.variance - 1).abs() < 0.12).all())
