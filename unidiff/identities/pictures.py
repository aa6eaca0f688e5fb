"""The score view on a world in the plane, the truth beside it; and what the loss weightings are to the bound."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unidiff.core.diffusion import Diffusion
from unidiff.core.schedule import Schedule
from unidiff.score import MALA, ScoreModel, langevin
from unidiff.train.presets import quick_energy
from unidiff.train.weighting import WEIGHTINGS, WeightingOptions, elbo_weight
from unidiff.worlds import OracleDenoiser, library
from unidiff.worlds.world import World

REACH, SIDE, ARROWS = 2.6, 61, 13
_REACH = (-12.0, 16.0)


def pictures(seed: int) -> dict[str, dict[str, Any]]:
    """Score fields over densities, a likelihood map beside its error, and traces of chains; for the report's page."""
    world = library.mixture_2d()
    model = ScoreModel(Diffusion(Schedule.cosine(), OracleDenoiser(world)))
    return {
        "fields": _fields(model, world),
        "likelihood": _likelihood(model, world),
        "traces": _traces(world, seed),
        "energies": _energies(world, seed),
        "weightings": _weightings(),
    }


def _energies(world: World, seed: int) -> dict[str, Any]:
    """A learned energy at draws of the noised law beside −log q_t, level by level; each level's constant is its mean."""
    model = quick_energy(world, seed)
    schedule, generator = model.schedule, torch.Generator().manual_seed(seed)
    assert schedule is not None
    series = {}
    for log_snr in (5.0, 2.0, -1.0):
        t = float(schedule.time(log_snr).detach())
        alpha, sigma = (float(v.detach()) for v in (schedule.alpha(t), schedule.sigma(t)))
        law = world.diffuse(alpha, sigma)
        # Wider than the law, so that what lies off the data is seen too.
        x = law.sample(400, generator) + 0.5 * torch.randn(400, world.dim, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            own = model.energy(x.float(), t).double()
        true = -law.log_prob(x)
        near = true < true.median()
        own = own - (own - true)[near].mean()
        series[f"log-SNR {log_snr:g}"] = torch.stack([true, own], 1)[true < 12].numpy()
    return {
        "title": "An energy learned by denoising, in seconds, against −log q_t in nats: right on the line; where modes no "
        "longer touch (high log-SNR) denoising does not hear how high one is beside another",
        "kind": "scatter",
        "data": {"series": series, "labels": ("−log q_t", "E, learned"), "diagonal": True},
    }


def weighting_curves(
    schedule: Schedule, options: WeightingOptions | None = None, points: int = 401
) -> dict[str, dict[str, list[float]]]:
    """λ (``x``) and w(λ) over its greatest value (``y``) of every weighting, over what the schedule has of λ in [−12, 16].

    Raises:
        ValueError: a schedule with less than a nat of that range.
    """
    ends = schedule.log_snr(torch.tensor([1.0, 0.0], dtype=torch.float64)).detach().clamp(*_REACH)
    low, high = ends.tolist()
    if high - low < 1:
        raise ValueError(f"schedule must have at least a nat of log-SNR within {list(_REACH)}, got [{low:g}, {high:g}]")
    log_snr = torch.linspace(low, high, points, dtype=torch.float64)[1:-1]
    curves = {}
    for name in WEIGHTINGS:
        w = elbo_weight(name, schedule, log_snr, options).detach()
        curves[name] = {"x": log_snr.tolist(), "y": (w / w.max()).tolist()}
    return curves


def _weightings() -> dict[str, Any]:
    schedules = {
        "cosine": Schedule.cosine(),
        "linear β": Schedule.linear(),
        "linear in log-SNR": Schedule.polynomial(1.0),
    }
    return {
        "title": "Loss weightings as weighted bounds: w(λ), each of its greatest value, under three schedules",
        "kind": "weightings",
        "data": {"panels": [{"title": name, "series": weighting_curves(s)} for name, s in schedules.items()]},
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
