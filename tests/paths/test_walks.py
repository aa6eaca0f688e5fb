"""Grids chosen as a sampler walks: what is paid is where walks end, and teaching is held to every path there is."""

from __future__ import annotations

import itertools

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from torch import Tensor

import unidiff as ud
from unidiff.core.sampling import Sampler
from unidiff.paths import SamplerMDP, SchedulePolicy, log_partition, policy_kl
from unidiff.train import SchedulePolicyConfig, fit_schedule_policy
from unidiff.worlds import library

SCHEDULE = ud.Schedule.cosine(8.0, -8.0)
LAST, STEPS = 10, 3
TIMES = ud.TimeGrid.uniform_log_snr(LAST, SCHEDULE, 1e-4)


def core(dtype: torch.dtype = torch.float32) -> ud.Diffusion:
    return ud.Diffusion(SCHEDULE, ud.worlds.OracleDenoiser(library.mixture_2d().to(dtype, torch.device("cpu"))))


def starts(n: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(n, 2, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def blind(x: Tensor, x0: Tensor) -> Tensor:
    return x[:, :0]


def sighted(x: Tensor, x0: Tensor) -> Tensor:
    return torch.cat([x, x0], 1)


def every_path(steps: int = STEPS) -> Tensor:
    return torch.tensor([(0, *inner, LAST) for inner in itertools.combinations(range(1, LAST), steps - 1)])


@pytest.mark.parametrize("method", ["ddim", "euler"])
def test_a_paths_cost_is_where_the_sampler_ends_on_its_grid(method) -> None:
    x = starts(6, dtype=torch.float64)
    mdp = SamplerMDP(core(torch.float64), TIMES, 4, x, method=method)
    ends = Sampler(mdp.core, ud.TimeGrid.uniform_log_snr(400, SCHEDULE, 1e-4), "dpm++2m")(x)
    fine = SamplerMDP(mdp.core, TIMES, 4, x, ends, method=method)
    for path in every_path(3)[::7]:
        there = Sampler(mdp.core, ud.TimeGrid(TIMES.times[path]), method)(x)
        expected = (there - ends).square().mean(1)
        assert torch.allclose(fine.cost(path.expand(6, -1), torch.arange(6)), expected, rtol=1e-9, atol=0)
    # The teacher that is taken if none is given ends where a finer one does, to a part of what a few steps miss by.
    path = every_path(3)[20].expand(6, -1)
    assert torch.allclose(mdp.cost(path, torch.arange(6)), fine.cost(path, torch.arange(6)), rtol=0.05)


def test_a_walk_is_paid_at_its_end_alone_and_walks_of_fewer_steps_wait() -> None:
    mdp = SamplerMDP(core(), TIMES, 3, starts(4))
    state = mdp.start(torch.arange(4), torch.tensor([1, 2, 3, 3]))
    paths, paid = [state.node], torch.zeros(4, dtype=torch.float64)
    for nodes in ([0, 6, 7, 5], [0, 0, 3, 2], [0, 0, 0, 0]):
        before = state
        state, reward, ended = mdp.step(state, torch.tensor(nodes))
        assert bool((reward[state.left > 0] == 0).all()) and bool((reward[before.left == 0] == 0).all())
        assert torch.equal(ended, state.left == 0)
        assert torch.equal(state.x[before.left == 0], before.x[before.left == 0])
        paths.append(state.node)
        paid = paid - reward
    for b, path in enumerate([[0, 10], [0, 6, 10], [0, 3, 7, 10], [0, 2, 5, 10]]):
        expected = mdp.cost(torch.tensor([path]), torch.tensor([b]))
        assert float(paid[b]) == pytest.approx(float(expected), rel=1e-5) and float(paid[b]) > 0


def test_a_policys_walks_retraced_are_the_same_walks() -> None:
    mdp = SamplerMDP(core(), TIMES, STEPS, starts(5), see=sighted)
    policy = SchedulePolicy(mdp, 16)
    with torch.no_grad():
        policy.query[-1].weight.mul_(300.0)  # pyright: ignore
    walked = policy.walk(mdp, torch.arange(5).repeat(4), generator=torch.Generator().manual_seed(1))
    again = policy.retraced(mdp, walked.path, torch.arange(5).repeat(4))
    assert torch.allclose(walked.log_ratio, again.log_ratio, atol=1e-5)
    assert torch.allclose(walked.cost, again.cost, rtol=1e-5)
    # What a walk sees is its own: another start, another law of the next node.
    state = mdp.start(torch.arange(5))
    law = policy(mdp.observe(state), mdp.mask(state)).detach().exp()
    assert float((law[0] - law[1:]).abs().max()) > 1e-3


def test_the_environment_takes_a_process_and_keeps_gymnasiums_contract() -> None:
    mdp = SamplerMDP(core(), TIMES, STEPS, starts(3))
    env = gymnasium.make("unidiff/Schedule-v0", costs=mdp, steps=STEPS)
    check_env(env.unwrapped, skip_render_check=True)
    env.reset(seed=0, options={"instance": 2})
    for node in (6, 3, 0):
        observed, reward, ended, _, _ = env.step(node)
    assert ended and observed.dtype == np.float32 and observed.shape == (4,)
    expected = mdp.cost(torch.tensor([[0, 3, 6, 10]]), torch.tensor([2]))
    assert float(reward) == pytest.approx(-float(expected), rel=1e-5)
    with pytest.raises(ValueError, match="steps must be the 3 of the process"):
        gymnasium.make("unidiff/Schedule-v0", costs=mdp, steps=2)


@pytest.mark.gpu
def test_walks_on_a_gpu_are_those_of_the_host() -> None:
    law = ud.worlds.OracleDenoiser(library.mixture_2d().to(torch.float64, torch.device("cuda")))
    x = starts(5, dtype=torch.float64)
    there = SamplerMDP(ud.Diffusion(SCHEDULE, law).to("cuda"), TIMES, STEPS, x.cuda(), see=sighted)
    here = SamplerMDP(core(torch.float64), TIMES, STEPS, x, see=sighted)
    path = torch.tensor([[0, 3, 6, LAST]]).expand(5, -1)
    policy = SchedulePolicy(here, 16)
    one, two = (policy.retraced(m, path, torch.arange(5)) for m in (there, here))
    assert torch.allclose(one.cost, two.cost, rtol=1e-9) and torch.allclose(one.log_ratio, two.log_ratio, atol=1e-5)
    assert (
        policy.walk(there, torch.arange(5), greedy=True).path.tolist()
        == policy.walk(here, torch.arange(5), greedy=True).path.tolist()
    )


CONFIG = SchedulePolicyConfig(rounds=300, walks=8, width=64, final=0.1, clip=50.0)


@pytest.mark.slow
def test_a_policy_that_sees_nothing_finds_the_best_grid_of_all() -> None:
    mdp = SamplerMDP(core(), TIMES, STEPS, starts(256), see=blind)
    everyone = torch.arange(256)
    means = torch.stack([mdp.cost(p.expand(256, -1), everyone).mean() for p in every_path()])
    fit = fit_schedule_policy(mdp, CONFIG)
    own = fit.policy.walk(mdp, everyone, greedy=True)
    assert fit.kl is None and len(own.path.unique(dim=0)) == 1
    assert float(own.cost.mean()) <= 1.02 * float(means.min())
    assert float(means.median()) > 2 * float(means.min())
    fresh = SchedulePolicy(mdp, 64).walk(mdp, everyone, greedy=True)
    assert float(fresh.cost.mean()) > 1.2 * float(means.min())


@pytest.mark.slow
@pytest.mark.statistical
def test_a_policy_that_sees_the_walk_beats_every_fixed_grid_on_walks_it_never_saw() -> None:
    """Paired over 4096 new starts: below the grid that is best *there* by 3 standard errors; false alarm 0.0013.

    The gain is some 3% of the cost, about 7 standard errors, so that the power is above 0.99.
    """
    taught = SamplerMDP(core(), TIMES, STEPS, starts(256), see=sighted)
    policy = fit_schedule_policy(taught, CONFIG).policy
    new, everyone = SamplerMDP(core(), TIMES, STEPS, starts(4096, seed=9), see=sighted), torch.arange(4096)
    fixed = torch.stack([new.cost(p.expand(4096, -1), everyone) for p in every_path()])
    own = policy.walk(new, everyone, greedy=True)
    gain = fixed[fixed.mean(1).argmin()] - own.cost
    assert len(own.path.unique(dim=0)) > 1
    assert float(gain.mean()) > 3 * float(gain.std()) / 64
    # No policy can beat the best path of each walk.
    assert float(own.cost.mean()) > float(fixed.min(0).values.mean())


def test_the_teacher_ends_where_the_walks_do_and_whole_numbers_are_compared_as_numbers() -> None:
    x, path = starts(8, dtype=torch.float64), torch.tensor([range(41)]).expand(8, -1)
    many = SamplerMDP(core(torch.float64), ud.TimeGrid.uniform_log_snr(40, SCHEDULE, 0.1), 40, x)
    few = torch.tensor([[0, 20, 40]]).expand(8, -1)
    # More steps come to the teacher's end: that of t = 0 would be 0.01 away from all.
    assert float(many.cost(path, torch.arange(8)).mean()) < 2e-3 < float(many.cost(few, torch.arange(8)).mean())
    own = SamplerMDP(core(), TIMES, 3, starts(4), features=lambda v: ((v + 4) * 30).clamp(0, 255).to(torch.uint8))
    wide = SamplerMDP(core(), TIMES, 3, starts(4), features=lambda v: ((v + 4) * 30).clamp(0, 255).floor())
    some = torch.tensor([[0, 3, 6, LAST]]).expand(4, -1)
    assert torch.equal(own.cost(some, torch.arange(4)), wide.cost(some, torch.arange(4)))
    kept = starts(4)
    mdp = SamplerMDP(core(), TIMES, 3, kept)
    before = mdp.cost(some, torch.arange(4))
    kept.zero_()
    assert torch.equal(mdp.cost(some, torch.arange(4)), before)


def test_what_cannot_be_is_refused() -> None:
    good = core()
    with pytest.raises(ValueError, match="ends must be 3, one a start, got 2"):
        SamplerMDP(good, TIMES, 3, starts(3), starts(2))
    with pytest.raises(ValueError, match="starts must be finite"):
        SamplerMDP(good, TIMES, 3, starts(3) / 0)
    with pytest.raises(ValueError, match="unknown method .heun."):
        SamplerMDP(good, TIMES, 3, starts(3), method="heun")  # pyright: ignore
    with pytest.raises(ValueError, match="steps must be at most the 10"):
        SamplerMDP(good, TIMES, 11, starts(3))
    with pytest.raises(ValueError, match=r"see must give rows of real numbers, \[2, F\], got shape \[2\]"):
        SamplerMDP(good, TIMES, 3, starts(3), see=lambda x, x0: x[:, 0])
    with pytest.raises(ValueError, match="what see returns must be finite"):
        SamplerMDP(good, TIMES, 3, starts(3), see=lambda x, x0: x * torch.nan)
    with pytest.raises(ValueError, match="what see returns must be finite"):
        SamplerMDP(good, TIMES, 3, starts(3), see=lambda x, x0: x.double() * 1e60)
    with pytest.raises(TypeError, match="features must be a function, got 3"):
        SamplerMDP(good, TIMES, 3, starts(3), features=3)  # pyright: ignore
    with pytest.raises(ValueError, match="features must be finite on ends"):
        SamplerMDP(good, TIMES, 3, starts(3), features=lambda x: x * torch.nan)
    for shape in (lambda x: x.sum(1), lambda x: x[:, :0], lambda x: x.mean(0, keepdim=True)):
        with pytest.raises(ValueError, match=r"features must give rows of real numbers, \[3, F\]"):
            SamplerMDP(good, TIMES, 3, starts(3), features=shape)
    with pytest.raises(ValueError, match="starts must be float32 or wider"):
        SamplerMDP(good, TIMES, 3, starts(3).bfloat16(), starts(3))
    mdp = SamplerMDP(good, TIMES, 3, starts(3))
    policy = SchedulePolicy(mdp, 8)
    with pytest.raises(ValueError, match="mdp must tell 2 features, as that of the policy, got one that tells 4"):
        policy.walk(SamplerMDP(good, TIMES, 3, starts(3), see=sighted), torch.arange(3))
    with pytest.raises(ValueError, match="mdp must have the 11 positions"):
        policy.walk(SamplerMDP(good, ud.TimeGrid(TIMES.times**1.3), 3, starts(3)), torch.arange(3))
    for known in (log_partition, lambda m, b: policy_kl(SchedulePolicy(m, 8), m, b)):
        with pytest.raises(ValueError, match="mdp must have a table of costs"):
            known(mdp, torch.ones(3, 3))
    with pytest.raises(ValueError, match="action must be an allowed node"):
        mdp.step(mdp.start(torch.arange(3)), torch.tensor([0, 5, 5]))
    with pytest.raises(ValueError, match="instance must lie in 0 … 2, got"):
        mdp.start(torch.tensor([-1]))
    far = starts(3) + 1e3  # ends that a walk never comes near, where φ is finite
    lost = SamplerMDP(good, TIMES, 3, starts(3), far, features=lambda x: (x - 500.0).clamp(min=0).reciprocal())
    with pytest.raises(FloatingPointError, match="walks must end in finite values, got 3 of 3"):
        lost.cost(torch.tensor([[0, 2, 5, 10]]).expand(3, -1), torch.arange(3))
