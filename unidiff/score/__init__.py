"""The score view: the core as a score model. Langevin chains on any score, energy, world or noised law."""

from __future__ import annotations

from unidiff.score.chains import AcceptanceWarning, Chains, Divergence
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
    "Target",
    "langevin",
]
