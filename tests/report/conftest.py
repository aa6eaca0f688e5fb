"""Fabricated checks: what the report says must not depend on whether the mathematics is right today."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from unidiff.identities import Check, Report


def check(identity: str = "tweedie", **changes: Any) -> Check:
    facts: dict[str, Any] = {
        "identity": identity, "views": ("core", "score"), "world": "mixture-2d", "schedule": "cosine", "dtype": "float64",
        "device": "cpu", "law": "algebraic", "residual": 1e-16, "tolerance": 1e-14, "verdict": "pass",
        "statement": r"E[x_0|z]=\frac{z+\sigma^2 s}{\alpha}",
    }  # fmt: skip
    return Check(**(facts | changes))


@pytest.fixture
def report() -> Report:
    """One of each verdict, on two identities that pass and two that do not, with one of each kind of figure."""
    random = np.random.default_rng(0)
    return Report(
        checks=[
            check(residual=1e-16),
            check(residual=7e-15, world="gaussian", dtype="float32"),
            check(residual=0.5, verdict="gap", world="digits, network"),
            check("stein", law="monte_carlo", residual=2.0, tolerance=7.1, views=("score",), power=0.01),
            check("broken", residual=3e-14, verdict="fail", world="mixture-8d", detail="a sign, it seems"),
            check("vague", residual=float("nan"), verdict="inconclusive", views=("vae", "core"), law="monte_carlo"),
        ],
        seconds=12.3,
        figures={
            "samples": {"title": "Samples <8×8>", "kind": "image_grid", "data": random.uniform(-1, 1, (5, 8, 8))},
            "plane": {"title": "Plane", "kind": "scatter", "data": {"series": {"network": random.normal(size=(50, 2))}}},
            "fields": {
                "title": "Fields", "kind": "maps",
                "data": {"reach": 2.0, "panels": [
                    {"title": "one", "values": random.uniform(size=(5, 5)), "arrows": random.normal(size=(9, 4))},
                    {"title": "two", "values": random.uniform(size=(5, 5)), "bar": True},
                ]},
            },
            "orders": {
                "title": "Orders", "kind": "lines",
                "data": {
                    "x_label": "steps", "y_label": "error", "log": True,
                    "series": {"heun": {"x": [8, 16], "y": [1e-2, 2e-3]}},
                },
            },
        },
    )  # fmt: skip


@pytest.fixture
def sound(report: Report) -> Report:
    return Report([c for c in report.checks if c.verdict in ("pass", "gap")], report.seconds)
