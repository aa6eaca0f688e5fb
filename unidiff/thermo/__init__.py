"""The thermodynamic view: the core read as entropy, information and work."""

from __future__ import annotations

from unidiff.thermo.bounds import EntropyBounds
from unidiff.thermo.budget import Budget, Return
from unidiff.thermo.divergence import Decay, GirsanovBound
from unidiff.thermo.fluctuations import Crooks, Fluctuation
from unidiff.thermo.free_energy import FreeEnergy, free_energy
from unidiff.thermo.model import Thermodynamics
from unidiff.thermo.work import Paths, Work

__all__ = [
    "Budget",
    "Crooks",
    "Decay",
    "EntropyBounds",
    "Fluctuation",
    "FreeEnergy",
    "GirsanovBound",
    "Paths",
    "Return",
    "Thermodynamics",
    "Work",
    "free_energy",
]
