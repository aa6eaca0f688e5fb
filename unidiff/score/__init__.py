"""The score view: the core read as ∇ log q_t, with its derivatives, likelihood, flows and objectives."""

from __future__ import annotations

from unidiff.score.derivatives import (
    PROBES,
    divergence,
    draw_probes,
    jacobian,
    jvp,
    probed_divergence,
    vjp,
    vjps,
)
from unidiff.score.flow import Carried, ProbabilityFlow, RoundTrip, reverse_drift, reverse_sde
from unidiff.score.likelihood import Interval, Likelihood, likelihood
from unidiff.score.model import Curvature, ScoreModel, Spread
from unidiff.score.objectives import OBJECTIVES, score_matching_loss
from unidiff.score.ode import ORDERS, SOLVERS, Solution, solve

__all__ = [
    "OBJECTIVES",
    "ORDERS",
    "PROBES",
    "SOLVERS",
    "Carried",
    "Curvature",
    "Interval",
    "Likelihood",
    "ProbabilityFlow",
    "RoundTrip",
    "ScoreModel",
    "Solution",
    "Spread",
    "divergence",
    "draw_probes",
    "jacobian",
    "jvp",
    "likelihood",
    "probed_divergence",
    "reverse_drift",
    "reverse_sde",
    "score_matching_loss",
    "solve",
    "vjp",
    "vjps",
]
