"""Objectives of an energy by itself: contrastive, by denoising, against noise, by recovery."""

from __future__ import annotations

from unidiff.ebm.learning.contrast import ContrastiveDivergence, PersistentCD, contrastive_loss
from unidiff.ebm.learning.denoising import DenoisingScoreMatching
from unidiff.ebm.learning.method import EnergyLearner, EnergyMethod
from unidiff.ebm.learning.noise import NoiseContrastive, RatioChain
from unidiff.ebm.learning.recovery import RecoveryLikelihood

__all__ = [
    "ContrastiveDivergence",
    "DenoisingScoreMatching",
    "EnergyLearner",
    "EnergyMethod",
    "NoiseContrastive",
    "PersistentCD",
    "RatioChain",
    "RecoveryLikelihood",
    "contrastive_loss",
]
