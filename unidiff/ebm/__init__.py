"""The energy view: the core read as −log q_t; its chains, compositions and normalisers, its training, and DxMI."""

from __future__ import annotations

from unidiff.ebm.annealed import AnnealedChains, annealed
from unidiff.ebm.composition import given, mixture, negation, product
from unidiff.ebm.importance import AnnealedImportance, EffectiveSizeWarning, annealed_importance
from unidiff.ebm.model import EnergyDenoiser, EnergyModel
from unidiff.ebm.normaliser import NormaliserFlow, log_z_rate, normaliser_flow

__all__ = [
    "AnnealedChains",
    "AnnealedImportance",
    "EffectiveSizeWarning",
    "EnergyDenoiser",
    "EnergyModel",
    "NormaliserFlow",
    "annealed",
    "annealed_importance",
    "given",
    "log_z_rate",
    "mixture",
    "negation",
    "normaliser_flow",
    "product",
]
