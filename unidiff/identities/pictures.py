"""What the score view looks like on a world in the plane, where the truth can be drawn beside it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unidiff.core.diffusion import Diffusion
from unidiff.core.schedule import Schedule
from unidiff.score import MALA, ScoreModel, langevin
from unidiff.worlds import OracleDenoiser, library

REACH, SIDE, ARROWS = 2.6, 61, 13


def pictures(seed: int) -> dict[str, dict[str, Any]]:
    """Score fields over densities, a likelihood map beside its error, and traces of chains; for the report's page."""
    world = library.mixture_2d()
    model = ScoreModel(Diffusion(Schedule.cosine(), OracleDenoiser(world)))
    return {
        "fields": _fields(model, world),
        "likelihood": _likelihood(model, world),
        "traces": _traces(world, seed),
    }


def _plane(side: int) -> Tensor:
    """Points ``[side², 2]`` of a square, row by row from below."""
    axis = torch.linspace(-REACH, REACH, side, dtype=torch.float64)
    return torch.cartesian_prod(axis, axis).flip(1)


def _fields(model: ScoreModel, world: Any) -> dict[str, Any]:
    panels = []
    for log_snr in (5.0, 1.0, -2.0):
        t = float(model.core.schedule.time(log_snr))
        level = model.core.schedule.level(t)
        density = world.diffuse(float(level.alpha), float(level.sigma)).log_prob(_plane(SIDE)).exp()
        points = _plane(ARROWS)
        arrows = torch.cat([points, float(level.sigma) * model.score(points, t)], 1)
        panels.append(
            {
                "title": f"log-SNR {log_snr:g}",
                "values": density.sqrt().reshape(SIDE, SIDE).numpy(),
                "arrows": arrows.numpy(),
            }
        )
    return {
        "title": "The score view: σ∇log qₜ over the density that it belongs to (its root, which shows the tails)",
        "kind": "maps",
        "data": {"reach": REACH, "panels": panels},
    }


def _likelihood(model: ScoreModel, world: Any) -> dict[str, Any]:
    points = _plane(SIDE)
    found = model.likelihood(points, world=world, solver="dopri5", steps=32, estimate=False).with_exact_prior
    truth = world.log_prob(points)
    error = (found - truth).abs().clamp(min=1e-12).log10()
    panels = [
        {"title": title, "values": values.reshape(SIDE, SIDE).numpy(), "bar": True}
        for title, values in (
            ("log p by the probability flow, nats", found.clamp(min=-40)),
            ("log₁₀ of its error, nats", error),
        )
    ]
    return {
        "title": "Likelihood by the probability flow, 32 steps of Dormand and Prince, beside the truth",
        "kind": "maps",
        "data": {"reach": REACH, "panels": panels},
    }


def _traces(world: Any, seed: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    # From draws of the world itself: far out, where the score is steep, a step this long is never accepted.
    start = world.sample(4, generator)
    chains = langevin(world, start, 400, kernel=MALA(0.06), keep_every=1, generator=generator)
    assert chains.trace is not None
    steps = list(range(1, 401))
    series = {f"chain {k + 1}": {"x": steps, "y": chains.trace[:, k, 0].tolist()} for k in range(4)}
    return {
        "title": "Langevin chains (MALA) on the same world: the first coordinate, going between its three modes",
        "kind": "lines",
        "data": {"x_label": "step", "y_label": "x₁", "log": False, "series": series},
    }
