"""Markov chains on any law that is known by its score or by its energy; the score's and the energy's view run them."""

from __future__ import annotations

from unidiff.mcmc.chains import AcceptanceWarning, Chains, Divergence
from unidiff.mcmc.diagnostics import Summary
from unidiff.mcmc.metropolis import HMC, MALA
from unidiff.mcmc.running import Langevin, langevin
from unidiff.mcmc.state import Kernel, Noise, State
from unidiff.mcmc.target import Target
from unidiff.mcmc.unadjusted import BAOAB, ULA

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
    "langevin",
]
