"""DxMI's parts: the auxiliary law, the value at its levels, the kernels."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Independent, Normal

import unidiff as ud
from tests.ebm.dxmi_parts import GRID, WORLD, core, exact_value, grid_value, law_of, moved, normal, seeded, table
from unidiff.ebm.dxmi.law import AuxiliaryLaw
from unidiff.ebm.dxmi.policy import StepPolicy, ValueGradient, first_log_var, walk
from unidiff.ebm.dxmi.value import Value, every_level

SCHEDULES = {
    "vp": ud.Schedule.cosine(), "linear": ud.Schedule.linear(), "sigmoid": ud.Schedule.sigmoid(),
    "ve": ud.Schedule.karras(), "betas": ud.Schedule.from_betas(torch.linspace(1e-4, 0.02, 100)),
}  # fmt: skip


# -- the auxiliary law


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_with_the_schedules_velocities_the_levels_are_the_schedules(schedule: ud.Schedule) -> None:
    chain = core(schedule).chain(GRID)
    own, known = AuxiliaryLaw(chain).levels(), chain.levels
    for name in ("t", "log_snr", "alpha", "sigma"):
        torch.testing.assert_close(getattr(own, name), getattr(known, name), rtol=1e-13, atol=1e-14)


def test_levels_follow_the_recursion_of_the_velocities() -> None:
    law = moved(law_of())
    level, alpha, variance = law.levels(), float(law.start[0]), float(law.start[1]) ** 2
    for k in range(5):
        assert float(level.alpha[k]) == pytest.approx(alpha, rel=1e-14)
        assert float(level.sigma[k]) == pytest.approx(variance**0.5, rel=1e-14)
        assert float(level.log_snr[k]) == pytest.approx(math.log(alpha**2 / variance), rel=1e-13)
        if k < 4:
            keep = float(law.keep[k])
            alpha, variance = keep * alpha, keep**2 * variance + math.exp(float(law.log_var[k]))


@pytest.mark.parametrize("shape", [(2,), (3, 2, 2)])
def test_the_cost_is_minus_the_log_of_the_transition(shape: tuple[int, ...]) -> None:
    law = moved(law_of())
    earlier, later, k = normal(6, *shape), normal(6, *shape, seed=1), torch.tensor([1, 2, 3, 4, 4, 1])
    keep, std = (v[k - 1].reshape(-1, *[1] * len(shape)) for v in (law.keep, (0.5 * law.log_var).exp()))
    known = -Independent(Normal(keep * earlier, std), len(shape)).log_prob(later)
    torch.testing.assert_close(law.cost(earlier, later, k), known, rtol=1e-13, atol=1e-13)


def test_velocities_go_to_the_walks_mean_squares_by_their_share() -> None:
    law = moved(law_of())
    before, states = law.log_var.exp(), normal(5, 7, 3)
    squares = [float((states[k + 1] - law.keep[k] * states[k]).square().mean()) for k in range(4)]
    for rate in (0.25, 1.0, 0.0):
        law.log_var.copy_(before.log())
        law.adapt(states.float(), rate)
        expected = [(1 - rate) * float(b) + rate * s for b, s in zip(before, squares, strict=True)]
        assert law.log_var.exp().tolist() == pytest.approx(expected, rel=1e-6)
        assert law.log_var.dtype == torch.float64


def test_walks_of_the_law_leave_its_velocities() -> None:
    law = moved(law_of())
    states = [normal(40000, 2)]
    for k in range(4):
        noise = normal(40000, 2, seed=k + 1)
        states.append(law.keep[k] * states[-1] + (0.5 * law.log_var[k]).exp() * noise)
    before = law.log_var.clone()
    law.adapt(torch.stack(states), 1.0)
    # χ² of 80000: a standard error of 0.5%.
    torch.testing.assert_close(law.log_var, before, rtol=0, atol=0.03)


def test_places_between_the_levels_end_at_them_and_are_even_in_logs() -> None:
    level = moved(law_of()).levels()
    at = every_level(level, torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]))
    for name in ("t", "log_snr", "alpha", "sigma"):
        torch.testing.assert_close(getattr(at, name), getattr(level, name), rtol=1e-13, atol=1e-14)
    between = every_level(level, torch.tensor([0.375], dtype=torch.float64))
    for name in ("alpha", "sigma"):
        a, b = getattr(level, name)[1:3]
        torch.testing.assert_close(getattr(between, name)[0], (a * b).sqrt(), rtol=1e-13, atol=0)
    torch.testing.assert_close(between.log_snr, 2 * (between.alpha / between.sigma).log())
    one = law_of(grid=ud.TimeGrid.uniform(1, 0.02)).levels()
    ends = every_level(one, torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(ends.sigma, one.sigma)


# -- the value


def test_a_cores_value_is_its_energy_in_nats_at_the_laws_levels() -> None:
    law, x, k = moved(law_of()), normal(5, 2), torch.arange(5)
    own = exact_value(law, 3.0)(x, k)
    level = law.levels()
    known = torch.cat(
        [-WORLD.diffuse(float(level.alpha[i]), float(level.sigma[i])).log_prob(x[i : i + 1]) for i in range(5)]
    )
    torch.testing.assert_close(own, known, rtol=1e-12, atol=1e-12)


def test_a_value_of_the_grid_has_a_network_for_each_time_and_no_other() -> None:
    model, x = grid_value(2.0), normal(7, 2)
    value, k = Value(model, law_of().levels()), torch.tensor([0, 1, 2, 3, 4, 4, 0])
    torch.testing.assert_close(value(x, k), 0.25 * (k + 1) * x.square().sum(1))
    assert not value.anywhere and exact_value(law_of()).anywhere
    with pytest.raises(ValueError, match=r"t must be one of the 5 times of the value's grid, 0\.02 … 1, got 0\.4"):
        model.energy(x, 0.4)
    sigma = value.levels.sigma[k][:, None]
    torch.testing.assert_close(value.noise(x, value.levels[k]), 0.5 * sigma * (k + 1)[:, None] * x)


def test_a_values_own_noise_is_the_slope_of_its_energy() -> None:
    law, x, k = moved(law_of()), normal(5, 2), torch.arange(5)
    value = exact_value(law, 0.5)
    z = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(value(z, k).sum(), z)
    level = value.levels[k]
    torch.testing.assert_close(value.noise(x, level), level.sigma[:, None] * slope, rtol=1e-10, atol=1e-10)


# -- the kernels


def test_the_policys_rows_are_the_chains_steps() -> None:
    chain = core().chain(GRID)
    policy = StepPolicy(chain, table())
    x, k = normal(4, 2), torch.arange(1, 5)
    own = policy.kernel(policy.chain(), x, k)
    for i in range(4):
        known = policy.chain().step(x[i : i + 1], i + 1)
        torch.testing.assert_close(own.mean[i : i + 1], known.mean)
        assert float(own.log_var[i].detach()) == float(table()[i])


def test_along_the_schedule_the_values_gradient_is_the_chain_of_its_core() -> None:
    # ε̂ steps from q_t itself: E[x_s|x_t] is a x_t + b x̂_0, whatever the world, where velocities are the schedule's.
    chain, law = core().chain(GRID), law_of()
    policy = StepPolicy(chain, table())
    x, k = normal(4, 2), torch.arange(1, 5)
    own = ValueGradient(policy, exact_value(law), law).kernel(policy.chain(), x, k)
    known = policy.kernel(policy.chain(), x, k)
    torch.testing.assert_close(own.mean, known.mean, rtol=1e-10, atol=1e-10)
    assert torch.equal(own.log_var, known.log_var)
    assert own.log_var.requires_grad and not own.mean.requires_grad


def test_a_walk_begins_at_the_noise_and_ends_at_the_data() -> None:
    chain = core().chain(GRID)
    policy = StepPolicy(chain, table() - 60)
    x = normal(3, 2)
    states = walk(policy, policy.chain(), x, seeded())
    assert torch.equal(states[-1], x) and states.shape == (5, 3, 2) and not states.requires_grad
    for k in range(4, 0, -1):
        torch.testing.assert_close(states[k - 1], policy.chain().step(states[k], k).mean, rtol=0, atol=1e-10)


@pytest.mark.parametrize("first", [0.0, 0.02])
def test_the_first_table_is_the_rules_or_between_and_never_below_the_floor(first: float) -> None:
    own = core(ud.Schedule.linear())
    grid = ud.TimeGrid.uniform(4, first)
    posterior, prior = own.chain(grid).table.log_posterior_var, own.chain(grid).table.log_prior_var
    decoder = prior - math.log(4)
    for rule, known in (
        ("posterior", torch.where(torch.isneginf(posterior), decoder, posterior)),
        ("prior", prior),
        ("optimal", torch.where(torch.isneginf(posterior), decoder, 0.5 * (posterior + prior))),
        ("given", table()),
    ):
        chain = own.chain(grid, rule, log_var=table() if rule == "given" else None)  # pyright: ignore
        found = first_log_var(chain, -1e3)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, known.float())
        assert float(first_log_var(chain, -1.0).min()) >= -1.0
