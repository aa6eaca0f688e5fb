"""The energy view: the core read as −log q_t; its chains, its training, compositions, and DxMI."""

from __future__ import annotations

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

__all__ = [
    "ContrastiveDivergence",
    "DenoisingScoreMatching",
    "EnergyDenoiser",
    "EnergyLearner",
    "EnergyMethod",
    "EnergyModel",
    "NoiseContrastive",
    "PersistentCD",
    "RatioChain",
    "RecoveryLikelihood",
]
