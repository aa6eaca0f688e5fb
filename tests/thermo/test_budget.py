"""The budget from data to noise and back: its columns are the view's values, and its sums come out."""

from __future__ import annotations

import json
import math

import pytest
import torch

import unidiff as ud
from tests.thermo.conftest import draws, exact, line, network, of, seeded
from unidiff.worlds import library

COLUMNS = ("entropy", "information", "kl", "production")
METHODS = ("entropy", "mutual_information", "kl_to_prior", "entropy_production")


@pytest.mark.parametrize("schedule", ["cosine", "karras"])
def test_columns_are_the_views_values(schedule: str) -> None:
    view, times = of(line(), ud.Schedule.named(schedule)), [0.2, 0.5, 0.8]
    found = view.budget(times)
    torch.testing.assert_close(found.times, torch.tensor(times, dtype=torch.float64))
    torch.testing.assert_close(found.log_snr, view.core.schedule.log_snr(found.times))
    torch.testing.assert_close(found.slope, view.core.schedule.log_snr_derivative(found.times))
    for column, method in zip(COLUMNS, METHODS, strict=True):
        due = torch.stack([getattr(view, method)(t).value for t in times])
        torch.testing.assert_close(getattr(found, column), due)
        assert getattr(found, f"{column}_error").shape == (3,)
    # Of the entropy, what is noise and what is still data.
    torch.testing.assert_close(found.entropy, found.noise_entropy + found.information, rtol=0, atol=1e-8)
    torch.testing.assert_close(found.dissipated, found.kl[0] - found.kl)
    assert found.back is None


def test_what_is_dissipated_is_the_productions_integral() -> None:
    # Simpson's rule in λ on 400 intervals; what the KL loses, to 1e-7.
    view = of(library.gaussian())
    log_snr = torch.linspace(5.0, -5.0, 401, dtype=torch.float64)
    found = view.budget(view.core.schedule.time(log_snr))
    rate = found.production / -found.slope
    simpson = (rate[0] + rate[-1] + 4 * rate[1:-1:2].sum() + 2 * rate[2:-1:2].sum()) * (10 / 400) / 3
    assert float(found.dissipated[-1]) == pytest.approx(float(simpson), abs=1e-7)


@pytest.mark.statistical
def test_the_way_back_spends_what_is_learned_and_no_less() -> None:
    # The exact denoiser in 64 steps: at most 25% above the information it learns, and never below it (5 standard errors);
    # in 8 more than in 64.
    view = of(library.gaussian())
    schedule = view.core.schedule
    first = float(schedule.time(4.0))
    spent = {}
    for steps in (8, 64):
        grid = ud.TimeGrid.uniform_log_snr(steps, schedule, first)
        found = view.budget([first, 0.9, 1.0], grid=grid, generator=seeded(0))
        back = found.back
        assert back is not None and back.steps.shape == (steps,) and back.spent.shape == (steps + 1,)
        torch.testing.assert_close(back.spent[0], back.steps.sum())
        torch.testing.assert_close(back.log_snr, schedule.log_snr(grid.times))
        assert float(back.spent[-1]) == 0.0 and float(back.spent_error[-1]) == 0.0
        assert (back.spent.diff() <= 0).all()
        learned = float(found.information[0] - found.information[-1])
        error = float(back.spent_error[0])
        assert error < 0.1 * learned
        assert float(back.spent[0]) > learned - 5 * error
        spent[steps] = (float(back.spent[0]), error, learned)
    assert spent[64][0] < 1.25 * spent[64][2] + 5 * spent[64][1]
    assert spent[8][0] - spent[64][0] > 5 * math.hypot(spent[8][1], spent[64][1])


def test_a_network_has_a_budget_from_data_and_it_prints() -> None:
    core, x0 = network(), draws(library.gaussian(), 16).float()
    grid = ud.TimeGrid.uniform(3, first=0.3)
    found = ud.Thermodynamics(core).budget([0.3, 0.6], x0, grid, generator=seeded(0), variance="prior")
    assert found.back is not None and (found.back.steps_error > 0).all()
    assert (found.entropy_error > 0).all()
    lines = str(found).splitlines()
    assert len(lines) == 3 and "log-SNR" in lines[0]
    rows = json.loads(json.dumps(found.rows()))
    assert [row["times"] for row in rows] == [0.3, 0.6]
    assert rows[1]["dissipated"] == pytest.approx(float(found.kl[0] - found.kl[1]))


def test_one_seed_one_budget() -> None:
    law = library.mixture_8d()
    view = ud.Thermodynamics(exact(law), law)
    grid = ud.TimeGrid.uniform(3, first=0.3)
    once, again = (view.budget([0.3, 0.6], grid=grid, draws=64, generator=seeded(1)) for _ in range(2))
    for column in (*COLUMNS, *(f"{c}_error" for c in COLUMNS)):
        assert torch.equal(getattr(once, column), getattr(again, column))
    assert once.back is not None and again.back is not None
    assert torch.equal(once.back.spent, again.back.spent)
