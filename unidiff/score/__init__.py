"""The score view: the core read as ∇ log q_t. Its derivatives, likelihood, flows and objectives, and chains on any score."""

from __future__ import annotations

from unidiff.mcmc.chains import AcceptanceWarning, Chains, Divergence
from unidiff.mcmc.diagnostics import Summary
from unidiff.mcmc.metropolis import HMC, MALA
from unidiff.mcmc.running import Langevin, langevin
from unidiff.mcmc.state import Kernel, Noise, State
from unidiff.mcmc.target import Target
from unidiff.mcmc.unadjusted import BAOAB, ULA
from unidiff.score.annealed import AnnealedLangevin, annealed_langevin
from unidiff.score.corrector import PredictorCorrector, predictor_corrector
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
from unidiff.score.likelihood import Likelihood, likelihood
from unidiff.score.model import Curvature, ScoreModel, Spread
from unidiff.score.objectives import OBJECTIVES, score_matching_loss
from unidiff.score.ode import ORDERS, SOLVERS, Solution, solve

__all__ = [
    "BAOAB",
    "HMC",
    "MALA",
    "OBJECTIVES",
    "ORDERS",
    "PROBES",
    "SOLVERS",
    "ULA",
    "AcceptanceWarning",
    "AnnealedLangevin",
    "Carried",
    "Chains",
    "Curvature",
    "Divergence",
    "Kernel",
    "Langevin",
    "Likelihood",
    "Noise",
    "PredictorCorrector",
    "ProbabilityFlow",
    "RoundTrip",
    "ScoreModel",
    "Solution",
    "Spread",
    "State",
    "Summary",
    "Target",
    "annealed_langevin",
    "divergence",
    "draw_probes",
    "jacobian",
    "jvp",
    "langevin",
    "likelihood",
    "predictor_corrector",
    "probed_divergence",
    "reverse_drift",
    "reverse_sde",
    "score_matching_loss",
    "solve",
    "vjp",
    "vjps",
]
