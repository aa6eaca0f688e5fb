"""The benchmark of few steps: its halves share nothing, its rivals are at their best, its figures are what they say."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import image

from unidiff.bench import few_steps, images
from unidiff.bench.images import ImagesBenchOptions, halves
from unidiff.core.grid import TimeGrid
from unidiff.train import load_data
from unidiff.train.image_metrics import copy_rate, frechet, precision_recall


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "FIT", 20)
    monkeypatch.setattr(images, "LONG", 3)
    monkeypatch.setattr(images, "MANIFOLD", 100)
    monkeypatch.setattr(images, "COPIES", 50)


@pytest.fixture
def console() -> Any:
    from rich.console import Console

    return Console(stderr=True)


def test_every_method_has_a_row_at_every_number_of_steps_and_all_is_written(tmp_path, small, capsys) -> None:
    options = ImagesBenchOptions(
        steps=(3, 2), minutes=0.01, rounds=2, samples=100, device="cpu", out=tmp_path / "out", json=True
    )
    told = images.run(options)
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "out" / "images.json").read_text()) == told
    rows = {row["method"]: row for row in told["rows"]}
    few = [f"{method}, {n}" for n in (3, 2) for method in ("ddim", "ancestral", "DxMI")]
    assert list(rows) == ["data trained on", "data held out", "teacher, ddim", "teacher, ancestral", *few]
    assert all(0 <= row[key] <= 1 for row in told["rows"] for key in ("precision", "recall", "copies"))
    seen, held_out = rows["data trained on"], rows["data held out"]
    assert seen["seen"] == pytest.approx(0, abs=1e-6) and held_out["held_out"] == pytest.approx(0, abs=1e-6)
    assert seen["held_out"] == pytest.approx(held_out["seen"]) and seen["copies"] == 1 and held_out["copies"] < 0.1
    assert [rows[name]["steps"] for name in few] == [3, 3, 3, 2, 2, 2]
    assert all(rows[name]["trained"] > 0 for name in few if "DxMI" in name)
    near = rows["ddim, 3"]["held_out"] / rows["DxMI, 3"]["held_out"]
    assert told["times_nearer"]["ddim, 3"]["held_out"] == pytest.approx(near)
    page = image.imread(tmp_path / "out" / "images.png")
    assert page.shape[1] / page.shape[0] == pytest.approx(images.SHOWN / 10, rel=0.1)


def test_the_halves_share_no_image_and_have_each_class_as_often() -> None:
    data = load_data("digits", dtype=torch.float32)
    seen, held_out = halves(data, 3)
    assert len(seen) + len(held_out) == len(data)
    counts = [part.labels.bincount(minlength=10) for part in (seen, held_out)]  # pyright: ignore
    assert int((counts[0] - counts[1]).abs().max()) <= 1
    own = {v.numpy().tobytes() for v in seen.x}
    assert sum(v.numpy().tobytes() in own for v in held_out.x) < 20, "few of 1797 digits are the same to the bit"
    assert not torch.equal(halves(data, 4)[0].x, seen.x)


def test_a_rows_figures_are_those_of_its_samples(small, console) -> None:
    options = ImagesBenchOptions(minutes=0.01, samples=300, device="cpu")
    bench = images.Bench(options, console)
    # Samples of which all figures differ: half are copies of data seen, half noisy data held out.
    noise = torch.randn(150, 64, generator=torch.Generator().manual_seed(0))
    x = torch.stack([bench.seen[:150], bench.held_out[:150] + 0.3 * noise], 1).flatten(0, 1)
    row = bench.judged(x, 7, "any")
    read = bench.classifier.features
    assert row.held_out == pytest.approx(frechet(read(x), read(bench.held_out)), rel=1e-6)
    assert row.seen == pytest.approx(frechet(read(x), read(bench.seen)), rel=1e-6)
    assert (row.precision, row.recall) == precision_recall(read(x[:100]), read(bench.held_out[:100]))
    assert row.copies == copy_rate(x[:50], bench.seen) == 0.5
    assert (row.steps, row.grid) == (7, "any") and torch.equal(row.x0, x[: images.SHOWN])


def test_a_rival_is_taken_where_it_is_nearest_to_the_data_held_out(small, console) -> None:
    bench = images.Bench(ImagesBenchOptions(minutes=0.01, samples=200, device="cpu"), console)
    grids = few_steps.grids(bench.teacher.schedule, 3)
    assert len(grids) == 6 and all(grid.steps == 3 for grid in grids.values())
    alone = {name: bench.rival("ddim", 3, {name: grid}).held_out for name, grid in grids.items()}
    best = bench.rival("ddim", 3, grids)
    assert best.held_out == min(alone.values()) and best.grid == min(alone, key=lambda name: alone[name])


def test_dxmi_leaves_the_teacher_and_the_value_as_they_are(small, console) -> None:
    bench = images.Bench(ImagesBenchOptions(minutes=0.01, device="cpu"), console)
    before = [p.clone() for core in (bench.teacher, bench.value) for p in core.parameters()]
    rounds: list[int] = []
    config = bench.plan.dxmi.changed(iterations=3, log_every=1)
    chain = few_steps.dxmi(bench.teacher, bench.value, bench.seen, 3, config, rounds.append)
    after = [p for core in (bench.teacher, bench.value) for p in core.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True)) and rounds == [1, 2, 3]
    assert chain.core is not bench.teacher
    assert chain.grid == TimeGrid.heard(3, bench.teacher.schedule, *few_steps.ENDS)


def test_a_walk_is_the_chains_own_draw_its_last_noise_included(small, console) -> None:
    bench = images.Bench(ImagesBenchOptions(minutes=0.01, device="cpu"), console)
    grid = TimeGrid.heard(3, bench.teacher.schedule, *few_steps.ENDS)
    chain = bench.teacher.chain(grid, "given", log_var=torch.full((3,), -2 * math.log(10.0)))
    found = few_steps.walked(chain, 6, torch.Generator().manual_seed(4))
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(6, 64, generator=generator) * bench.teacher.schedule.prior_std
    for k in (3, 2, 1):
        with torch.no_grad():
            x = chain.step(x, k).mean + 0.1 * torch.randn(6, 64, generator=generator)
    assert torch.allclose(found, x, atol=1e-5)


@pytest.mark.slow
def test_images_for_a_unet_have_a_value_that_is_one(small, monkeypatch, tmp_path) -> None:
    # The rivals' choice of a grid is asked above: here they have one.
    monkeypatch.setattr(few_steps, "grids", lambda schedule, steps: {"uniform": TimeGrid.uniform(steps)})
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 3
    x = (80 * labels[:, None, None] + rng.integers(0, 60, (120, 8, 8))).astype(np.uint8)
    np.savez(tmp_path / "x.npz", x=x, y=labels)
    told = images.run(
        ImagesBenchOptions(
            data=str(tmp_path / "x.npz"), network="unet", steps=(2,), minutes=0.002, rounds=1, samples=100,
            device="cpu", out=tmp_path / "out",
        )
    )  # fmt: skip
    assert told["options"]["network"] == "unet" and told["rows"][-1]["method"] == "DxMI, 2"
    assert image.imread(tmp_path / "out" / "images.png").size


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": ()}, "steps must name at least one"),
        ({"steps": (1,)}, "steps must be an integer of at least 2, got 1"),
        ({"steps": (4, 4)}, "steps must name each once, got '4' twice"),
        ({"network": "unit"}, "did you mean 'unet'"),
        ({"samples": 10}, "samples must be an integer of at least 100"),
        ({"rounds": 0}, "rounds must be an integer of at least 1"),
        ({"minutes": 0.0}, "minutes must be positive"),
        ({"data": "moons"}, "data must be labelled images, got 'moons'"),
    ],
)
def test_an_option_out_of_range_is_named(changes, message, tmp_path) -> None:
    with pytest.raises(ValueError, match=message):
        images.run(ImagesBenchOptions(**{"device": "cpu", "out": tmp_path / "out"} | changes))
    assert not (tmp_path / "out").exists()
