"""The benchmark of grids: its figures are of the grids it names, on data that nothing was fitted to."""

from __future__ import annotations

import json

import pytest

import unidiff as ud
from unidiff.bench import grids
from unidiff.bench.grids import GridsBenchOptions, best_made


@pytest.mark.parametrize(
    ("parts", "steps", "seeds"),
    [
        (("bound",), (2, 3), 2),
        (("samples",), (3,), 1),
        pytest.param(("samples",), (2, 3), 2, marks=pytest.mark.slow),
    ],
)
def test_every_grid_has_a_figure_at_every_number_of_steps(tmp_path, monkeypatch, parts, steps, seeds) -> None:
    for name, value in (("FIT", 20), ("FINE", 40), ("MEASURED", 32), ("AFTER", 64)):
        monkeypatch.setattr(grids, name, value)
    options = GridsBenchOptions(
        parts=parts, methods=("dpm++2m",), steps=steps, seeds=seeds, minutes=0.01, nodes=8, walks=16, samples=100,
        device="cpu", out=tmp_path / "out",
    )  # fmt: skip
    told = grids.run(options)
    assert json.loads((tmp_path / "out" / "grids.json").read_text()) == told
    blocks = told["bound"]["excess"] if parts == ("bound",) else told["samples"]["distances"]["dpm++2m"]
    assert list(blocks) == [str(n) for n in steps]
    for rows in blocks.values():
        assert rows["searched"] and len(rows["searched"]) == seeds and {"uniform", "Karras", "AYS, SDXL"} <= set(rows)
        name, mean = best_made(rows)
        assert name not in ("searched", "descended") and all(
            mean <= sum(v) / len(v) for k, v in rows.items() if k not in grids.OWN
        )
    core = ud.train.load_core(tmp_path / "out" / "core.safetensors")
    if parts == ("samples",):
        assert ud.TimeGrid.load(tmp_path / "out" / f"dpm++2m-3-{seeds - 1}.json", core.schedule).steps == 3
        assert all(v > 0 for v in told["samples"]["seconds"]["search"])


def test_a_search_sees_neither_the_judge_nor_the_half_that_it_is_judged_by(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(grids, "FIT", 5)
    seen: dict[str, tuple] = {}

    def spy(name: str):
        real = getattr(grids, name)

        def told(*arguments, **options):
            seen[name] = (arguments, options)
            return real(*arguments, **options)

        monkeypatch.setattr(grids, name, told)

    spy("search")
    spy("refine")
    options = GridsBenchOptions(
        parts=("samples",), methods=("ddim",), steps=(2,), seeds=1, minutes=0.01, nodes=4, walks=16, samples=100,
        passes=2, device="cpu", out=tmp_path,
    )  # fmt: skip
    bench = grids.Bench(options, grids.Console(stderr=True))
    bench.found("ddim", 0)
    rows = {tuple(x.tolist()) for x in bench.held_out}
    for found in (seen["search"][0][1], seen["refine"][1]["data"]):
        assert found is bench.seen and not rows & {tuple(x.tolist()) for x in found}
    x = bench.held_out[:8]
    guided = seen["refine"][1]["features"](x)
    assert guided.shape == bench.read(x).shape and not bool((guided == bench.read(x)).all())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parts": ("fid",)}, "part"),
        ({"parts": ()}, "parts and steps must not be empty"),
        ({"steps": (1,)}, "steps must be an integer of at least 2, got 1"),
        ({"steps": (80,)}, "nor steps above nodes"),
        ({"methods": ("heun",)}, "method"),
        ({"seeds": 0}, "seeds must be an integer of at least 1, got 0"),
        ({"minutes": 0.0}, "minutes must be positive"),
        ({"goal": "judge"}, "goal"),
        ({"passes": 0}, "passes must be an integer of at least 1, got 0"),
    ],
)
def test_options_that_cannot_be(changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        GridsBenchOptions(**changes)
