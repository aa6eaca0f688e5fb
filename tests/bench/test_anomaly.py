"""The benchmark of anomalies: what is left out is not learned, an area is the chance that it says, its file is written."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch
from rich.console import Console

from unidiff.bench import anomaly
from unidiff.bench.anomaly import AnomalyBenchOptions
from unidiff.bench.images import halves
from unidiff.train import Dataset, load_data


def test_each_class_asked_for_has_a_row_and_the_file_is_what_is_told(tmp_path, capsys) -> None:
    options = AnomalyBenchOptions(classes=(1, 8), steps=2, ratio_steps=1, device="cpu", out=tmp_path / "out", json=True)
    told = anomaly.run(options)
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "out" / "anomaly.json").read_text()) == told
    assert [row["left_out"] for row in told["rows"]] == [1, 8]
    assert set(told["mean"]) == set(told["seconds"]) == {"energy", "pca", "svm", "narrow svm"}
    for name, mean in told["mean"].items():
        areas = [row[name] for row in told["rows"]]
        assert all(0 <= area <= 1 for area in areas) and mean == pytest.approx(sum(areas) / 2)


def test_what_is_left_out_is_not_learned_and_the_area_is_the_chance_to_score_above(monkeypatch) -> None:
    learned: list[Dataset] = []

    def fitted(data: Dataset, _: AnomalyBenchOptions) -> Any:
        learned.append(data)
        return lambda x: x.sum(1)

    monkeypatch.setattr(anomaly, "FITTED", {"sum": fitted})
    options = AnomalyBenchOptions(classes=(1, 4), device="cpu", seed=2)
    found, _ = anomaly.measure(options, Console(stderr=True))
    own, judged = halves(load_data("digits").flatten(), 2)
    assert own.labels is not None and judged.labels is not None
    for label, part in zip((1, 4), learned, strict=True):
        assert torch.equal(part.x, own.x[own.labels != label])
        strange, normal = judged.x[judged.labels == label].sum(1), judged.x[judged.labels != label].sum(1)
        above = (strange[:, None] > normal).double() + 0.5 * (strange[:, None] == normal).double()
        assert found[label]["sum"] == pytest.approx(float(above.mean()))


@pytest.mark.slow
def test_the_scores_tell_the_digits_from_noise() -> None:
    # Each has learned the digits; white noise of the same pixels' spread is far from all of them.
    data = load_data("digits", dtype=torch.float32).flatten()
    some = dataclasses.replace(data, x=data.x[:600], labels=None)
    fresh = data.x[600:700]
    noise = fresh.mean(0) + fresh.std() * torch.randn(100, 64, generator=torch.Generator().manual_seed(0))
    for name, fitted in anomaly.FITTED.items():
        score = fitted(some, AnomalyBenchOptions(steps=150, device="cpu"))
        assert float((score(noise)[:, None] > score(fresh)).double().mean()) > 0.95, name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": (-1,)}, "classes must be an integer of at least 0"),
        ({"classes": (10,)}, "classes must lie in 0 … 9, got 10"),
        ({"classes": (2, 2)}, "classes must name each once, got '2' twice"),
        ({"steps": 0}, "steps must be an integer of at least 1"),
        ({"ratio_steps": -1}, "ratio_steps must be an integer of at least 0"),
        ({"log_snr": float("nan")}, "log_snr must be finite"),
        ({"nu": 0.0}, "nu must be positive"),
        ({"nu": 1.5}, r"nu must lie in \[0, 1\]"),
        ({"narrow": 0.0}, "narrow must be positive"),
        ({"data": "moons"}, "data must be labelled images, got 'moons'"),
    ],
)
def test_an_option_out_of_range_is_named(changes, message, tmp_path) -> None:
    with pytest.raises(ValueError, match=message):
        anomaly.run(AnomalyBenchOptions(**{"device": "cpu", "out": tmp_path / "out"} | changes))
    assert not (tmp_path / "out").exists()
