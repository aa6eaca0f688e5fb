"""The energy view: the core read as −log q_t; its chains, its training, compositions, and DxMI."""

from __future__ import annotations

from unidiff.ebm.annealed import AnnealedChains, annealed
from unidiff.ebm.composition import given, mixture, negation, product
from unidiff.ebm.dxmi.objectives import Choices
from unidiff.ebm.dxmi.value import GridValue
from unidiff.ebm.guidance import EnergyGuided, guided
from unidiff.ebm.importance import AnnealedImportance, EffectiveSizeWarning, annealed_importance
from unidiff.ebm.learning import (
    ContrastiveDivergence,
    DenoisingScoreMatching,
    EnergyLearner,
    EnergyMethod,
    NoiseContrastive,
    PersistentCD,
    RatioChain,
    RecoveryLikelihood,
)
from unidiff.ebm.model import EnergyDenoiser, EnergyModel
from unidiff.ebm.normaliser import NormaliserFlow, log_z_rate, normaliser_flow

__all__ = [
    "AnnealedChains",
    "AnnealedImportance",
    "Choices",
    "ContrastiveDivergence",
    "DenoisingScoreMatching",
    "EffectiveSizeWarning",
    "EnergyDenoiser",
    "EnergyGuided",
    "EnergyLearner",
    "EnergyMethod",
    "EnergyModel",
    "GridValue",
    "NoiseContrastive",
    "NormaliserFlow",
    "PersistentCD",
    "RatioChain",
    "RecoveryLikelihood",
    "annealed",
    "annealed_importance",
    "given",
    "guided",
    "log_z_rate",
    "mixture",
    "negation",
    "normaliser_flow",
    "product",
]
