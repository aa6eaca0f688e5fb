"""The runner: one signature for every kernel, the arithmetic of a plain loop, reproducible, and clear when it fails."""

from __future__ import annotations

import dataclasses
import inspect

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import unidiff as ud
from unidiff.score import (
    BAOAB,
    HMC,
    MALA,
    ULA,
    AcceptanceWarning,
    Chains,
    Divergence,
    Kernel,
    Langevin,
    Noise,
    ScoreModel,
    State,
    Target,
    langevin,
)
from unidiff.worlds import OracleDenoiser, library

KERNELS: tuple[Kernel, ...] = (ULA(0.05), MALA(0.05), HMC(0.2, leapfrog=3), BAOAB(0.2, friction=2.0))
STANDARD = Target.from_energy(lambda x: 0.5 * x.square().flatten(1).sum(1))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def start(n: int = 6, dim: int = 3, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(n, dim, generator=seeded(), dtype=dtype)


def test_every_kernel_has_one_signature() -> None:
    steps = {str(inspect.signature(type(k).step)) for k in KERNELS}
    starts = {str(inspect.signature(type(k).start)) for k in KERNELS}
    assert len(steps) == len(starts) == 1
    for kernel in KERNELS:
        first, *_ = dataclasses.fields(kernel)
        assert first.name == "step_size"
        move = kernel.step(STANDARD, kernel.start(STANDARD, start(), start()), 0.1, start(), torch.rand(6).double())
        assert isinstance(move.state, State)
        assert (move.log_accept is not None) == kernel.metropolis


@pytest.mark.parametrize("kernel", KERNELS)
def test_same_seed_same_bits_and_another_seed_others(kernel: Kernel) -> None:
    runs = [langevin(STANDARD, start(), 20, kernel=kernel, generator=seeded(s)) for s in (1, 1, 2)]
    assert torch.equal(runs[0].x, runs[1].x)
    assert not torch.equal(runs[0].x, runs[2].x)


@pytest.mark.parametrize("kernel", KERNELS)
def test_keeping_states_changes_nothing_but_memory(kernel: Kernel) -> None:
    noise = Noise(torch.randn(20, 6, 3, generator=seeded(), dtype=torch.float64), torch.rand(20, 6).double())
    state = kernel.start(STANDARD, start(), torch.zeros(6, 3, dtype=torch.float64))
    whole = langevin(STANDARD, state, 20, kernel=kernel, noise=noise)
    kept = langevin(STANDARD, state, 20, kernel=kernel, noise=noise, keep_every=7)
    first = langevin(STANDARD, state, 7, kernel=kernel, noise=noise[:7])
    then = langevin(STANDARD, first.state, 13, kernel=kernel, noise=noise[7:])
    assert whole.trace is None
    assert kept.trace is not None
    assert kept.trace.shape == (2, 6, 3)
    assert torch.equal(kept.trace[0], first.x)
    assert torch.equal(whole.x, kept.x)
    torch.testing.assert_close(then.x, whole.x, rtol=1e-12, atol=1e-12)


@given(step=st.floats(0.01, 0.5), friction=st.floats(0.1, 5.0), steps=st.integers(1, 40), seed=st.integers(0, 2**20))
def test_the_chains_are_those_of_a_plain_loop(step: float, friction: float, steps: int, seed: int) -> None:
    xi = torch.randn(steps, 6, 3, generator=seeded(seed), dtype=torch.float64)
    x = u = start()
    for k in range(steps):
        x = x - step * x + (2 * step) ** 0.5 * xi[k]
    own = langevin(STANDARD, start(), steps, kernel=ULA(step), noise=Noise(xi))
    torch.testing.assert_close(own.x, x, rtol=1e-10, atol=1e-10)
    x, keep = start(), torch.exp(torch.tensor(-friction * step, dtype=torch.float64))
    for k in range(steps):
        u = u - step / 2 * x
        x = x + step / 2 * u
        u = keep * u + (1 - keep**2).sqrt() * xi[k]
        x = x + step / 2 * u
        u = u - step / 2 * x
    begin = BAOAB(step, friction).start(STANDARD, start(), start())
    own = langevin(STANDARD, begin, steps, kernel=BAOAB(step, friction), noise=Noise(xi))
    torch.testing.assert_close(own.x, x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(own.state.velocity, u, rtol=1e-9, atol=1e-9)


@given(step=st.floats(0.01, 1.0), seed=st.integers(0, 2**20))
def test_mala_accepts_by_the_textbook_ratio(step: float, seed: int) -> None:
    xi = torch.randn(6, 3, generator=seeded(seed), dtype=torch.float64)
    x, well = start(), Target.from_energy(lambda x: 0.25 * x.pow(4).sum(1))
    kernel = MALA(step)
    move = kernel.step(well, kernel.start(well, x), step, xi, torch.full((6,), 0.5).double())
    y = x - step * x**3 + (2 * step) ** 0.5 * xi
    there = (y - x + step * x**3).square().sum(1) / (4 * step)
    back = (x - y + step * y**3).square().sum(1) / (4 * step)
    ratio = 0.25 * (x**4 - y**4).sum(1) + there - back
    torch.testing.assert_close(move.log_accept, ratio, rtol=1e-9, atol=1e-9)
    assert move.accepted is not None
    assert torch.equal(move.accepted, ratio > torch.log(torch.tensor(0.5)).double())


def test_a_step_size_on_the_device_walks_as_one_on_the_host() -> None:
    for kernel in KERNELS:
        state = kernel.start(STANDARD, start(), start())
        host = kernel.step(STANDARD, state, 0.1, start(), torch.full((6,), 0.3).double()).state.x
        device = kernel.step(STANDARD, state, torch.tensor(0.1).double(), start(), torch.full((6,), 0.3).double())
        torch.testing.assert_close(device.state.x, host, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("kernel", [MALA(0.3), HMC(0.6, leapfrog=2)])
def test_each_chain_decides_for_itself(kernel: Kernel) -> None:
    # A chain among others walks as it does alone, on the same draws.
    noise = Noise(torch.randn(30, 6, 3, generator=seeded(), dtype=torch.float64), torch.rand(30, 6).double())
    whole = langevin(STANDARD, start(), 30, kernel=kernel, noise=noise)
    assert whole.acceptance is not None
    assert len(set(whole.acceptance.tolist())) > 1
    for k in range(6):
        one = Noise(noise.normal[:, k : k + 1], noise.uniform[:, k : k + 1])  # pyright: ignore
        alone = langevin(STANDARD, start()[k : k + 1], 30, kernel=kernel, noise=one)
        torch.testing.assert_close(alone.x[0], whole.x[k], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("rows", "dim"), [(5, 2), (3, 3), (100, 2), (300, 40)])
def test_asking_for_a_trace_changes_no_draw(kernel: Kernel, rows: int, dim: int) -> None:
    x = start(rows, dim, torch.float32)
    whole = langevin(STANDARD, x, 50, kernel=kernel, generator=seeded(1))
    for every in (1, 7, 50):
        kept = langevin(STANDARD, x, 50, kernel=kernel, generator=seeded(1), keep_every=every)
        assert torch.equal(kept.x, whole.x)
        assert kept.trace is not None
        assert kept.trace.shape == (50 // every, rows, dim)
        if 50 % every == 0:
            assert torch.equal(kept.trace[-1], whole.x)
        if every == 1:
            path = kept.trace
        assert torch.equal(kept.trace, path[every - 1 :: every])


def test_a_velocity_is_drawn_from_the_unit_normal() -> None:
    # One z-test at 5 standard errors (false alarm 6e-7): caught is a variance off by 8%.
    rest = Target.from_score(torch.zeros_like)
    velocity = langevin(rest, start(4000, 5), 1, kernel=BAOAB(1e-6, friction=1e-6), generator=seeded()).state.velocity
    assert velocity is not None
    squares = velocity.square().flatten()
    assert abs(float((squares.mean() - 1) / (squares.std() / len(squares) ** 0.5))) < 5


def test_a_friction_on_the_device_is_one_on_the_host() -> None:
    # 1 − e^{−2γh} and e^{−γh}, told apart: a long step with much friction.
    kernel = BAOAB(0.7, friction=1.5)
    state = kernel.start(STANDARD, start(), start())
    host, device = (
        kernel.step(STANDARD, state, h, 2 * start()).state.velocity
        for h in (0.7, torch.tensor(0.7, dtype=torch.float64))
    )
    torch.testing.assert_close(host, device, rtol=1e-12, atol=1e-12)


def test_progress_is_told_and_ends_at_the_end() -> None:
    seen: list[tuple[int, int]] = []
    langevin(STANDARD, start(), 40, kernel=MALA(0.1), warmup=10, on_step=lambda done, of: seen.append((done, of)))
    assert seen[-1] == (50, 50)
    assert [d for d, _ in seen] == sorted({d for d, _ in seen})


def test_a_held_runner_runs_again() -> None:
    run = Langevin(STANDARD, MALA(0.1))
    one, two = (run(start(), 10, generator=seeded(3)) for _ in range(2))
    assert torch.equal(one.x, two.x)


# -- when it fails ---------------------------------------------------------------------------------------------------


def test_divergent_chains_stop_the_run_and_the_finite_ones_come_back() -> None:
    x = torch.cat([torch.zeros(3, 2), torch.full((2, 2), 30.0)])
    steep = Target.from_score(lambda x: -x.pow(3))
    with pytest.raises(Divergence, match=r"2 of 5 chains are not finite after step 128 at step_size = 0.01") as caught:
        langevin(steep, x, 1000, kernel=ULA(0.01), keep_every=10, generator=seeded())
    told = caught.value
    assert (told.step, told.count, told.step_size) == (128, 2, 0.01)
    assert told.x.shape == (3, 2)
    assert torch.isfinite(told.x).all()
    assert isinstance(told.chains, Chains)
    assert told.chains.trace is not None
    assert told.chains.trace.shape == (12, 3, 2)
    assert torch.isfinite(told.chains.trace).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_chains_that_run_away_and_stay_finite_stop_the_run(dtype: torch.dtype) -> None:
    # ULA on N(0, ¼I) at δ = 2, four times past where it is stable: seven times as far each step.
    x = torch.zeros(4, 2, dtype=dtype)
    with pytest.raises(Divergence, match=r"4 of 4 chains have run away, to \|x\| = .* after step 40 at step_size = 2;"):
        langevin(Target.from_score(lambda x: -x / 0.25), x, 40, kernel=ULA(2.0), generator=seeded())
    # A start as far out is a start.
    far = torch.full((4, 2), 1e13, dtype=dtype)
    assert langevin(Target.from_score(torch.zeros_like), far, 40, kernel=ULA(2.0), generator=seeded()).x.shape == (4, 2)


def test_a_warm_up_that_diverges_says_so() -> None:
    with pytest.raises(Divergence, match="after warm-up step 20 at step_size = 5"):
        langevin(Target.from_score(lambda x: -x.pow(3)), 9 * torch.ones(2, 2), 5, kernel=BAOAB(5.0), warmup=20)


def test_a_proposal_that_is_not_finite_is_rejected_and_counted() -> None:
    # No density left of 0.
    half = Target.from_energy(lambda x: torch.where(x[:, 0] > 0, x.sum(1) - x.abs().log().sum(1), torch.inf))
    chains = langevin(half, torch.ones(200, 1).double(), 200, kernel=MALA(0.3), generator=seeded())
    assert torch.isfinite(chains.x).all()
    assert (chains.x > 0).all()
    assert chains.divergent is not None
    assert chains.divergent.sum() > 0
    assert chains.energy_error is not None
    assert torch.isfinite(chains.energy_error).all()


def test_a_uniform_of_zero_accepts_no_more_than_any_other() -> None:
    # Drawn from [0, 1) it is zero once in 2²⁴ or so; an energy 10⁶ up was accepted then.
    steep = Target.from_energy(lambda x: 5e3 * x.square().sum(1))
    noise = Noise(torch.ones(1, 3, 2).double(), torch.zeros(1, 3).double())
    found = langevin(steep, torch.zeros(3, 2).double(), 1, kernel=MALA(100.0), noise=noise)
    assert not found.state.x.any() and found.acceptance is not None and not found.acceptance.any()
    # Of proposals that all diverged there is no mean to tell, and the log ratio was exact all the same.
    assert found.path_error is None and found.energy_error is not None and bool(found.energy_error.isnan().all())


def test_a_pole_of_the_density_is_no_state_to_be_in() -> None:
    pole = Target.from_energy(lambda x: torch.where(x[:, 0].abs() < 0.5, -torch.inf, 0.5 * x[:, 0] ** 2))
    found = langevin(pole, torch.ones(200, 1).double(), 50, kernel=MALA(0.3), generator=seeded())
    assert found.state.log_prob is not None and bool(torch.isfinite(found.state.log_prob).all())
    assert float(found.state.x.abs().min()) >= 0.5


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        (Noise(torch.full((2, 6, 3), torch.nan).double(), torch.rand(2, 6).double()), "noise.normal must be finite"),
        (Noise(torch.zeros(2, 6, 3), torch.rand(2, 6)), "x and noise must have one dtype"),
        (Noise(torch.zeros(2, 6, 3).double(), -torch.ones(2, 6).double()), r"noise.uniform must lie in \[0, 1\)"),
    ],
)
def test_draws_that_cannot_be_are_refused(noise: Noise, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        langevin(STANDARD, start(), 2, kernel=MALA(0.1), noise=noise)


def test_a_chain_on_its_way_in_does_not_diverge() -> None:
    # Each proposal falls by thousands of nats, from 3000 standard deviations out, and is accepted.
    narrow = Target.from_energy(lambda x: 5e3 * x.square().sum(1))
    chains = langevin(narrow, torch.full((4, 2), 30.0).double(), 5, kernel=MALA(2e-5), generator=seeded())
    assert chains.acceptance is not None
    assert chains.divergent is not None
    assert chains.energy_error is not None
    assert chains.acceptance.eq(1).all()
    assert chains.divergent.eq(0).all()
    assert chains.energy_error.eq(1000).all()


def test_the_tallies_are_those_of_the_proposals_one_by_one() -> None:
    # A wall beyond |x| = 1: proposals over it diverge, the others are off by a nat or so.
    wall = Target.from_energy(lambda x: 0.5 * x.square().sum(1) + 1e6 * (x.abs() > 1).sum(1))
    xi, u, kernel = torch.randn(40, 6, 1, generator=seeded(3)).double(), torch.rand(40, 6).double(), MALA(0.5)
    chains = langevin(wall, torch.zeros(6, 1).double(), 40, kernel=kernel, noise=Noise(xi, u))
    state, moves = kernel.start(wall, torch.zeros(6, 1).double()), []
    for k in range(40):
        moves.append(kernel.step(wall, state, 0.5, xi[k], u[k]))
        state = moves[-1].state
    accepted, log_accept = (torch.stack([getattr(m, name) for m in moves]) for name in ("accepted", "log_accept"))
    divergent = log_accept < -1000
    assert (chains.divergent == divergent.sum(0)).all()  # pyright: ignore
    assert divergent.sum(0).min() > 0
    torch.testing.assert_close(chains.acceptance, accepted.double().mean(0))
    torch.testing.assert_close(
        chains.energy_error, torch.where(divergent, 0.0, log_accept.abs()).sum(0) / (~divergent).sum(0)
    )


def test_acceptance_of_nothing_or_everything_warns_with_what_to_change() -> None:
    with pytest.warns(AcceptanceWarning, match="acceptance is 0 for 6 of 6 chains .* take a smaller step_size"):
        langevin(STANDARD, start(), 50, kernel=HMC(50.0), generator=seeded())
    with pytest.warns(AcceptanceWarning, match="acceptance is 1 for all of 500 chains .* take a larger step_size"):
        langevin(STANDARD, start(500), 50, kernel=MALA(1e-9), generator=seeded())


@pytest.mark.parametrize("how", ["langevin", "Langevin", "ScoreModel"])
def test_the_warning_points_at_who_called(how: str) -> None:
    model, x = ScoreModel(ud.Diffusion(ud.Schedule.cosine(), OracleDenoiser(library.mixture_2d()))), start(6, 2)
    runs = {
        "langevin": lambda: langevin(STANDARD, x, 20, kernel=MALA(1e6)),
        "Langevin": lambda: Langevin(STANDARD, MALA(1e6))(x, 20),
        "ScoreModel": lambda: model.langevin(x, 0.3, 20, kernel=MALA(1e6)),
    }
    with pytest.warns(AcceptanceWarning) as caught:
        runs[how]()
    assert [w.filename for w in caught] == [__file__]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ULA(0.0), "step_size must be positive and finite, got 0.0"),
        (lambda: MALA(-1.0), "step_size must be positive and finite, got -1.0"),
        (lambda: HMC(float("nan")), "step_size must be positive and finite, got nan"),
        (lambda: HMC(0.1, leapfrog=0), "leapfrog must be an integer of at least 1, got 0"),
        (lambda: BAOAB(0.1, friction=-2.0), "friction must be positive and finite, got -2.0"),
    ],
)
def test_a_kernel_that_cannot_step_is_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be an integer of at least 1, got 0"),
        ({"warmup": -1}, "warmup must be an integer of at least 0"),
        ({"keep_every": 11}, "keep_every must be at most steps = 10, got 11"),
        ({"keep_every": 0}, "keep_every must be an integer of at least 1"),
        ({"x": torch.zeros(0, 3)}, r"x must hold at least one chain, got shape \[0, 3\]"),
        ({"x": torch.zeros(3)}, r"x must have shape \[B, \*event\]"),
        ({"x": torch.full((2, 2), torch.nan)}, "x must be finite; 4 of its 4 values"),
        ({"x": torch.zeros(2, 2, dtype=torch.float16)}, "x must be float32 or wider"),
        ({"kernel": ULA(0.1), "acceptance": 0.5}, "acceptance is MALA's and HMC's, got 0.5"),
        ({"warmup": 5, "acceptance": 1.5}, "acceptance must lie strictly between 0 and 1, got 1.5"),
        ({"acceptance": 7.0}, "acceptance must lie strictly between 0 and 1, got 7.0"),
        ({"acceptance": 0.8}, "give warmup and leave adapt on, got acceptance = 0.8 with warmup = 0 and adapt = True"),
        ({"warmup": 5, "adapt": False, "acceptance": 0.8}, "with warmup = 5 and adapt = False"),
        ({"noise": Noise(torch.zeros(9, 6, 3).double())}, r"noise.normal must have shape \[10, 6, 3\]"),
        ({"noise": Noise(torch.zeros(10, 6, 3).double())}, r"noise.uniform must have shape \[10, 6\]"),
        ({"noise": Noise(torch.zeros(10, 6, 3).double()), "warmup": 3}, "noise is for runs without a warm-up"),
    ],
)
def test_bad_requests_are_refused_before_any_step(options, message: str) -> None:
    arguments = {"x": start(), "steps": 10, "kernel": MALA(0.1), **options}
    with pytest.raises(ValueError, match=message):
        langevin(STANDARD, **arguments)


def test_things_of_another_kind_are_refused() -> None:
    with pytest.raises(TypeError, match="kernel must be ULA"):
        langevin(STANDARD, start(), 3, kernel="ula")  # pyright: ignore
    done = langevin(STANDARD, start(), 3, kernel=ULA(0.1))
    with pytest.raises(TypeError, match="got Chains: pass their .state to go on from them"):
        langevin(STANDARD, done, 3, kernel=ULA(0.1))  # pyright: ignore
    for kernel in (ULA, MALA, HMC, BAOAB):
        for value in ("a", None, True):
            with pytest.raises(TypeError, match=f"step_size must be a number, got {value!r}"):
                kernel(value)  # pyright: ignore
    with pytest.raises(TypeError, match="friction must be a number, got None"):
        BAOAB(0.1, friction=None)  # pyright: ignore
    with pytest.raises(TypeError, match="x must be a floating-point tensor, got int"):
        langevin(STANDARD, 3, 3, kernel=ULA(0.1))  # pyright: ignore
    with pytest.raises(ValueError, match=r"x must have shape \[B, 2\]"):
        langevin(library.mixture_2d(), start(), 3, kernel=ULA(0.1))
