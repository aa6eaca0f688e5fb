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
from unidiff.core.grid import TimeGrid
from unidiff.rl import Policy, fit_classifier, trainable
from unidiff.train import load_data

SMALL = {"rounds": 1, "chains": 4, "rows": 4, "epochs": 1, "warmup": 0}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classes, "FIT", 20)
    monkeypatch.setattr(classes, "PAIRS", 20)
    monkeypatch.setattr(classes, "CPU", dict.fromkeys(GPU, SMALL))


@pytest.mark.parametrize(
    "methods", [("backprop", "dpo"), pytest.param(tuple(GPU), marks=pytest.mark.slow)], ids=["two", "all"]
)
def test_every_method_has_a_row_and_all_is_written(methods, tmp_path, small, capsys) -> None:
    options = ClassesBenchOptions(
        methods=methods, steps=3, minutes=0.01, samples=100, device="cpu", out=tmp_path / "out", json=True
    )
    told = classes.run(options)
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "out" / "classes.json").read_text()) == told
    rows = {row["method"]: row for row in told["rows"]}
    assert list(rows) == ["reference", *methods]
    assert rows["reference"]["kl"] == 0 and rows["reference"]["seconds"] == 0
    assert all(rows[name]["kl"] > 0 and rows[name]["seconds"] > 0 for name in methods)
    assert all(0 <= row["hit"] <= 1 and row["diversity"] >= 0 and row["reward"] < 0 for row in told["rows"])
    pages = image.imread(tmp_path / "out" / "classes.png")
    assert pages.shape[1] / pages.shape[0] == pytest.approx(classes.SHOWN / len(rows), rel=0.2)


def test_the_judge_was_fitted_to_other_data_and_is_of_another_shape(small, console, monkeypatch) -> None:
    fitted: list[tuple[torch.Tensor, torch.Tensor, Any]] = []

    def spied(x: torch.Tensor, labels: torch.Tensor, config: Any) -> Any:
        fitted.append((x, labels, config))
        return fit_classifier(x, labels, config)

    monkeypatch.setattr(classes, "fit_classifier", spied)
    bench = classes.Bench(ClassesBenchOptions(minutes=0.01, device="cpu", target=5, beta=0.3, steps=4), console)
    data = load_data("digits", dtype=torch.float32)
    (mine, my_labels, one), (theirs, their_labels, other) = fitted
    rows = [{v.numpy().tobytes() for v in x} for x in (mine, theirs)]
    every = {v.numpy().tobytes() for v in data.x}
    assert rows[0] | rows[1] == every
    # Of 1797 digits few are the same to the bit; halves that shared data would share hundreds.
    assert len(rows[0] & rows[1]) < 20 and len(mine) + len(theirs) == len(data.x)
    assert torch.equal(torch.cat([my_labels, their_labels]).bincount(), data.labels.bincount())  # pyright: ignore
    assert (one.width, one.depth, one.seed) != (other.width, other.depth, other.seed)
    assert bench.mdp.beta == 0.3 and bench.mdp.reward.label == 5  # pyright: ignore
    assert bench.mdp.chain.grid == TimeGrid.heard(4, bench.core.schedule)
    assert bench.real == pytest.approx(spread(data.x[data.labels == 5]), rel=1e-5)
    assert bench.mdp.reward.classifier is not bench.judge  # pyright: ignore


def test_a_rows_figures_are_those_of_its_walk(small, console) -> None:
    bench = classes.Bench(ClassesBenchOptions(minutes=0.01, device="cpu", target=1, samples=120, steps=4), console)
    own = trainable(bench.core)
    with torch.no_grad():
        for p in own.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    found = bench.read(own, 3.0)
    walk = Policy(bench.mdp, own).walk(120, bench.generator(0))
    with torch.no_grad():
        hit = bench.judge(walk.x0).argmax(1) == 1
        reward = torch.log_softmax(bench.mdp.reward.classifier(walk.x0), 1)[:, 1]  # pyright: ignore
    assert 0 < int(hit.sum()) < 120, "a judge that says one thing of all tells nothing here"
    assert found.hit == pytest.approx(float(hit.double().mean()))
    assert found.diversity == pytest.approx(spread(walk.x0[hit]) / bench.real)
    assert found.reward == pytest.approx(float(reward.mean()), rel=1e-4)
    assert found.kl == pytest.approx(float(0.5 * walk.control.square().sum() / 120), rel=1e-4) and found.kl > 0
    assert found.seconds == 3.0 and torch.equal(found.x0, walk.x0)


@pytest.fixture
def console() -> Any:
    from rich.console import Console

    return Console(stderr=True)


def test_the_spread_is_the_mean_distance_of_two() -> None:
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 8.0]])
    assert spread(x) == pytest.approx((5 + 8 + 5) / 3)
    assert spread(x[:1]) == spread(x[:0]) == 0.0


def test_on_a_cpu_every_method_has_a_size() -> None:
    assert CPU.keys() == GPU.keys() - {"backprop"}
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
        ({"methods": ("dpo", "ddpo", "dpo")}, "methods must name each once, got 'dpo' twice"),
        ({"minutes": 1.0, "reference": "run"}, "minutes are of a network that is trained, got 1.0 with a reference"),
    ],
)
def test_an_option_out_of_range_is_named(changes, message, tmp_path) -> None:
    with pytest.raises(ValueError, match=message):
        classes.run(ClassesBenchOptions(**{"device": "cpu", "out": tmp_path / "out"} | changes))
    assert not (tmp_path / "out").exists()


def test_unlabelled_images_are_refused(tmp_path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((4, 8, 8), dtype=np.uint8))
    with pytest.raises(ValueError, match="data must be labelled images"):
        classes.run(ClassesBenchOptions(data=str(tmp_path / "x.npz"), device="cpu", out=tmp_path))
