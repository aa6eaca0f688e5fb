"""The benchmark of classes: its judge is not the one that is asked, its figures are what they say, its files are written."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import image

from unidiff.bench import classes
from unidiff.bench.classes import CPU, GPU, ClassesBenchOptions, spread

SMALL = {"rounds": 1, "chains": 4, "rows": 4, "epochs": 1, "warmup": 0}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classes, "FIT", 20)
    monkeypatch.setattr(classes, "PAIRS", 20)
    monkeypatch.setattr(classes, "CPU", dict.fromkeys(GPU, SMALL))


def test_every_method_has_a_row_and_all_is_written(tmp_path, small, capsys) -> None:
    options = ClassesBenchOptions(
        methods=tuple(GPU), steps=3, minutes=0.01, samples=100, device="cpu", out=tmp_path / "out", json=True
    )
    told = classes.run(options)
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "out" / "classes.json").read_text()) == told
    rows = {row["method"]: row for row in told["rows"]}
    assert list(rows) == ["reference", *GPU]
    assert rows["reference"]["kl"] == 0 and rows["reference"]["seconds"] == 0
    assert all(rows[name]["kl"] > 0 and rows[name]["seconds"] > 0 for name in GPU)
    assert all(0 <= row["hit"] <= 1 and row["diversity"] >= 0 and row["reward"] < 0 for row in told["rows"])
    pages = image.imread(tmp_path / "out" / "classes.png")
    assert pages.shape[1] / pages.shape[0] == pytest.approx(classes.SHOWN / 7, rel=0.2)


def test_the_judge_was_fitted_to_other_data_and_is_of_another_shape(small, console: Any) -> None:
    bench = classes.Bench(ClassesBenchOptions(minutes=0.01, device="cpu"), console)
    asked = bench.mdp.reward.classifier  # pyright: ignore
    shapes = [[tuple(p.shape) for p in model.parameters()] for model in (asked, bench.judge)]
    assert shapes[0] != shapes[1]
    x = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(asked(x), bench.judge(x))


@pytest.fixture
def console() -> Any:
    from rich.console import Console

    return Console(stderr=True)


def test_the_spread_is_the_mean_distance_of_two() -> None:
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 8.0]])
    assert spread(x) == pytest.approx((5 + 8 + 5) / 3)
    assert spread(x[:1]) == spread(x[:0]) == 0.0


def test_on_a_cpu_every_method_has_a_size() -> None:
    assert CPU.keys() == GPU.keys()
    assert ClassesBenchOptions(device="cpu").chosen == ("backprop",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": -1}, "target must be an integer of at least 0"),
        ({"target": 10}, "target must be a class in 0 … 9, got 10"),
        ({"beta": 0.0}, "beta must be positive"),
        ({"samples": 10}, "samples must be an integer of at least 100"),
        ({"minutes": 0.0}, "minutes must be positive"),
        ({"methods": ("dpock",)}, "did you mean 'dpok'"),
        ({"data": "moons"}, "data must be labelled images, got 'moons'"),
    ],
)
def test_an_option_out_of_range_is_named(changes, message, tmp_path) -> None:
    with pytest.raises(ValueError, match=message):
        classes.run(ClassesBenchOptions(**{"device": "cpu", "out": tmp_path} | changes))


def test_unlabelled_images_are_refused(tmp_path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((4, 8, 8), dtype=np.uint8))
    with pytest.raises(ValueError, match="data must be labelled images"):
        classes.run(ClassesBenchOptions(data=str(tmp_path / "x.npz"), device="cpu", out=tmp_path))
