"""The score view: the core as a score model. Langevin chains on any score, energy, world or noised law."""

from __future__ import annotations

from unidiff.score.annealed import annealed_langevin
from unidiff.score.chains import AcceptanceWarning, Chains, Divergence
from unidiff.score.corrector import predictor_corrector
from unidiff.score.diagnostics import Summary
from unidiff.score.metropolis import HMC, MALA
from unidiff.score.running import Langevin, langevin
from unidiff.score.state import Kernel, Noise, State
from unidiff.score.target import Target
from unidiff.score.unadjusted import BAOAB, ULA

__all__ = [
    "BAOAB",
    "HMC",
    "MALA",
    "ULA",
    "AcceptanceWarning",
    "Chains",
    "Divergence",
    "Kernel",
    "Langevin",
    "Noise",
    "State",
    "Summary",
    "Target",
    "annealed_langevin",
    "langevin",
    "predictor_corrector",
]
