"""``unidiff bench dxmi``: what it is told, what it writes, and that its figures are what they say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from unidiff.bench import dxmi
from unidiff.bench.dxmi import DxMIBenchOptions
from unidiff.ebm import EnergyModel
from unidiff.report.energies import planes
from unidiff.worlds import library

WORLD = library.eight_gaussians()


@pytest.mark.slow
def test_the_datas_own_energy_and_draws_have_the_figures_of_the_floor() -> None:
    """AUC at its ceiling to rounding, KL of the discretisation, W1 within the spread of two data sets (0.02 to 0.06)."""
    model = EnergyModel(lambda x: -WORLD.log_prob(x), (2,))
    model.register_parameter("own", torch.nn.Parameter(torch.zeros((), dtype=torch.float64)))
    draws = WORLD.sample(dxmi.DRAWS, torch.Generator().manual_seed(5))
    told = dxmi._found("dsm", 0, draws, model, None, 1.0).figures["dsm"]
    assert told["auc"] == pytest.approx(told["ceiling"], abs=1e-12)
    assert abs(told["kl"]) < 1e-6  # the trapezoid rule on a smooth density
    assert 0.01 < told["w1"] < 0.07 and 0.01 < told["floor"] < 0.07


@pytest.mark.slow
def test_an_energy_upside_down_and_draws_elsewhere_are_told() -> None:
    model = EnergyModel(WORLD.log_prob, (2,))
    model.register_parameter("own", torch.nn.Parameter(torch.zeros((), dtype=torch.float64)))
    told = dxmi._found("dsm", 0, WORLD.sample(dxmi.DRAWS, torch.Generator().manual_seed(1)) + 1, model, None, 1.0)
    figures = told.figures["dsm"]
    assert figures["auc"] == pytest.approx(1 - figures["ceiling"], abs=1e-9)
    # A shift of (1, 1) is √2·E|cos| = √2·2/π in the mean over directions.
    assert figures["w1"] == pytest.approx(2**0.5 * 2 / np.pi, abs=0.08)
    assert figures["kl"] > 3


@pytest.mark.parametrize(
    "rows",
    [
        ("ddpm-5", "dxmi-5", "cd"),
        pytest.param(
            tuple(row for row in dxmi.ROWS if row not in ("ddpm-100", "ddpm-1000", "no-anchor-10", "gradient-10")),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["a few", "all but the long"],
)
def test_every_row_runs_and_is_written(
    rows: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    for name, less in (("DRAWS", 64), ("MOVES", 5), ("GRID", 41)):
        monkeypatch.setattr(dxmi, name, less)
    options = DxMIBenchOptions(rows=rows, seeds=2, share=0.0005, out=tmp_path / "out", json=True)
    told = dxmi.run(options)
    assert list(told["rows"]) == list(rows)
    assert json.loads((tmp_path / "out" / "dxmi.json").read_text()) == told == json.loads(capsys.readouterr().out)
    for name, runs in told["rows"].items():
        assert sorted(run["seed"] for run in runs) == [0, 1]
        assert all(("auc" in run) == (not name.startswith("ddpm")) for run in runs)
        assert all(np.isfinite(list(run.values())).all() for run in runs)
    assert (tmp_path / "out" / "dxmi.png").stat().st_size > 10_000
    shown = dxmi.table(told)
    assert shown.row_count == len(rows)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rows": ("dxmi-7",)}, "unknown row 'dxmi-7'"),
        ({"rows": ("cd", "cd")}, "must name each once"),
        ({"seeds": 0}, "seeds must be an integer of at least 1"),
        ({"jobs": 0}, "jobs must be an integer of at least 1"),
        ({"share": 0.0}, r"share must lie in \(0, 1\]"),
        ({"device": "tpu"}, "device"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DxMIBenchOptions(**options)  # pyright: ignore


def test_the_longest_runs_come_first_and_a_denoisers_chains_are_one() -> None:
    found = dxmi.tasks(DxMIBenchOptions(rows=("ddpm-5", "cd", "dxmi-5", "ddpm-100", "dxmi-10"), seeds=2))
    assert [task.rows for task in found[::2]] == [("dxmi-10",), ("dxmi-5",), ("cd",), ("ddpm-5", "ddpm-100")]
    assert [task.seed for task in found] == [0, 1] * 4


def test_planes_show_rows_with_and_without_an_energy() -> None:
    draws, energy = np.zeros((5, 2)), np.linspace(0, 9, 16).reshape(4, 4)
    figure = planes({"a": (draws, energy), "b": (draws, None)}, 2.0)
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["a", "b"]
    assert sum(len(axes.images) for axes in figure.axes if axes.get_title()) == 1
