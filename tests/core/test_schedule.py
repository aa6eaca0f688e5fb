"""Every kind of schedule: its range, its JSON, its errors. The mathematics is the registry's (test_identities)."""

from __future__ import annotations

import json
import math

import pytest
import torch

from unidiff import Schedule, TimeGrid
from unidiff.core.schedule_kinds import STANDARD

T = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)


@pytest.mark.parametrize("name", STANDARD)
def test_config_survives_json_to_the_bit(name: str) -> None:
    schedule = Schedule.named(name)
    again = Schedule.from_config(json.loads(json.dumps(schedule.config())))
    assert torch.equal(schedule.log_snr(T), again.log_snr(T))
    assert again.variance_preserving == schedule.variance_preserving


@pytest.mark.parametrize("name", STANDARD)
def test_other_convention_has_the_same_log_snr_and_comes_back(name: str) -> None:
    schedule = Schedule.named(name)
    other = schedule.as_ve() if schedule.variance_preserving else schedule.as_vp()
    assert torch.equal(other.log_snr(T), schedule.log_snr(T))
    ratio = (other.sigma(T) / other.alpha(T)) / (schedule.sigma(T) / schedule.alpha(T))
    torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=1e-12, atol=0)
    again = Schedule.from_config(other.config())
    assert torch.equal(again.log_snr(T), schedule.log_snr(T))


def test_linear_is_the_sde_rate_integrated() -> None:
    t = 0.37
    integral = 0.1 * t + 0.5 * 19.9 * t * t
    assert float(Schedule.linear().alpha(t)) == pytest.approx(math.exp(-0.5 * integral), rel=1e-14)


def test_cosine_is_a_cosine_between_its_cuts() -> None:
    # Cuts as far out as these leave α = cos(πt/2) to their own size.
    t = 0.3
    assert float(Schedule.cosine(60.0, -60.0).alpha(t)) == pytest.approx(math.cos(math.pi * t / 2), rel=1e-11)


@pytest.mark.parametrize(("start", "end", "tau"), [(-3.0, 3.0, 1.0), (-3.0, 2.0, 0.9), (0.0, 3.0, 0.3)])
def test_sigmoid_follows_its_definition(start: float, end: float, tau: float) -> None:
    def gamma(u: float) -> float:
        a, b, x = (1 / (1 + math.exp(-v / tau)) for v in (start, end, start + (end - start) * u))
        return (b - x) / (b - a)

    schedule = Schedule.sigmoid(start, end, tau, log_snr_max=60.0, log_snr_min=-60.0)
    assert float(schedule.alpha(0.4).square()) == pytest.approx(gamma(0.4), rel=1e-10)


def test_karras_sigmas_are_the_papers() -> None:
    n, rho = 18, 7.0
    sigmas = [(0.002 ** (1 / rho) + i / (n - 1) * (80 ** (1 / rho) - 0.002 ** (1 / rho))) ** rho for i in range(n)]
    t = torch.arange(n, dtype=torch.float64) / (n - 1)
    torch.testing.assert_close(
        Schedule.karras().sigma(t), torch.tensor(sigmas, dtype=torch.float64), rtol=1e-12, atol=0
    )


def test_betas_are_met_exactly_at_their_times() -> None:
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    i = torch.arange(1, 1001, dtype=torch.float64)
    bar = torch.cumprod(1 - betas, 0)
    torch.testing.assert_close(Schedule.from_betas(betas).alpha(i / 1000).square(), bar, rtol=1e-12, atol=0)


def test_ddpm_is_the_papers_table() -> None:
    bar = 1.0
    for i in range(1000):
        bar *= 1 - (1e-4 + (0.02 - 1e-4) * i / 999)
    assert float(Schedule.named("ddpm").alpha(1.0) ** 2) == pytest.approx(bar, rel=1e-12)


def test_learned_schedule_trains_and_stays_monotone() -> None:
    schedule = Schedule.learned(units=8)
    assert isinstance(schedule, torch.nn.Module)
    optimizer = torch.optim.Adam(schedule.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        schedule.log_snr(T).square().mean().backward()
        optimizer.step()
    assert (schedule.log_snr(T).diff() < 0).all()
    assert all(p.dtype == torch.float64 for p in schedule.half().parameters())


def test_levels_are_cast_once_from_float64() -> None:
    like = torch.zeros(4, 2)
    level = Schedule.cosine().level(torch.full((4,), 0.5), like)
    exact = Schedule.cosine().alpha(0.5)
    assert level.alpha.dtype == torch.float32
    assert torch.equal(level.alpha, exact.to(torch.float32).expand(4))


@pytest.mark.parametrize("t", [-0.1, 1.1, float("nan")])
def test_times_outside_the_unit_interval_are_refused(t: float) -> None:
    with pytest.raises(ValueError, match="t must"):
        Schedule.cosine().log_snr(t)


@pytest.mark.parametrize("betas", [[0.1, 0.0], [0.1, 1.0], [0.1, -0.2], [0.1, 1.5], []])
def test_betas_outside_the_open_interval_are_refused(betas: list[float]) -> None:
    with pytest.raises(ValueError, match="betas must"):
        Schedule.from_betas(betas)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Schedule.cosine(-5.0, 5.0),
        lambda: Schedule.polynomial(1.0, -5.0, 5.0),
        lambda: Schedule.sigmoid(log_snr_max=-1.0, log_snr_min=1.0),
        lambda: Schedule.learned(0.0, 0.0),
        lambda: Schedule.karras(80.0, 0.002),
        lambda: Schedule.linear(20.0, 0.1),
        lambda: Schedule.sigmoid(start=3.0, end=-3.0),
    ],
)
def test_a_log_snr_that_does_not_decrease_is_refused(make) -> None:
    with pytest.raises(ValueError, match=r"must (exceed|decrease|be at least)"):
        make()


def test_unknown_schedules_name_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown schedule 'cosin'; did you mean 'cosine'"):
        Schedule.named("cosin")


def test_time_of_a_log_snr_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="log_snr must lie in"):
        Schedule.cosine().time(100.0)


@pytest.mark.parametrize("times", [[0.0, 0.5, 0.5, 1.0], [0.0, 0.7, 0.3, 1.0]])
def test_a_grid_that_does_not_increase_is_refused(times: list[float]) -> None:
    with pytest.raises(ValueError, match="times must increase strictly"):
        TimeGrid(times)


@pytest.mark.parametrize("times", [[0.0, 0.9], [-0.1, 1.0], [1.0], [float("nan"), 1.0]])
def test_a_grid_that_does_not_end_at_one_is_refused(times: list[float]) -> None:
    with pytest.raises(ValueError, match="times must"):
        TimeGrid(times)


def test_grids_space_what_they_say() -> None:
    schedule = Schedule.karras()
    assert torch.allclose(TimeGrid.uniform(4).times, torch.tensor([0, 0.25, 0.5, 0.75, 1], dtype=torch.float64))
    assert torch.allclose(TimeGrid.quadratic(4).times.sqrt().diff(), torch.full((4,), 0.25, dtype=torch.float64))
    roots = schedule.sigma(TimeGrid.karras(6, schedule).times) ** (1 / 7)
    assert torch.allclose(roots.diff(), roots.diff()[0].expand(6), rtol=1e-9)
    log_snr = schedule.log_snr(TimeGrid.uniform_log_snr(6, schedule).times)
    assert torch.allclose(log_snr.diff(), log_snr.diff()[0].expand(6), rtol=1e-9)


@pytest.mark.parametrize("name", ["cosine", "linear", "karras", "narrow"])
def test_a_heard_grid_is_even_where_both_are_heard(name: str) -> None:
    schedule = Schedule.cosine(4.0, -3.0) if name == "narrow" else getattr(Schedule, name)()
    log_snr = schedule.log_snr(TimeGrid.heard(7, schedule).times)
    top, bottom = (4.0, -3.0) if name == "narrow" else (6.0, -6.0)
    assert len(log_snr) == 8
    assert log_snr[0].item() == pytest.approx(top)
    inside = log_snr if name == "narrow" else log_snr[:-1]
    assert inside[-1].item() == pytest.approx(bottom)
    assert torch.allclose(inside.diff(), inside.diff()[0].expand(len(inside) - 1), rtol=1e-6)
    assert log_snr[-1] == schedule.log_snr(1.0)


@pytest.mark.parametrize(
    ("steps", "high", "low", "words"),
    [
        (1, 6.0, -6.0, "steps must be an integer of at least 2"),
        (5, -6.0, 6.0, "high and low must be log-SNRs that leave some of the schedule's own"),
        (5, 30.0, 25.0, "high and low must be"),
        (5, float("nan"), -6.0, "high must be finite, got nan"),
        (5, 6.0, float("-inf"), "low must be finite, got -inf"),
    ],
)
def test_a_heard_grid_refuses_what_is_not_of_the_schedule(steps: int, high: float, low: float, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TimeGrid.heard(steps, Schedule.cosine(), high, low)


def test_a_grid_comes_back_from_its_file(tmp_path) -> None:
    grid = TimeGrid.quadratic(7)
    grid.save(tmp_path / "grid.json")
    assert TimeGrid.load(tmp_path / "grid.json") == grid
    (tmp_path / "other.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match="path must hold a time grid"):
        TimeGrid.load(tmp_path / "other.json")
