"""The VAE view: the core read as a hierarchical VAE. Its bound term by term, its verbs, and its importance weights."""

from __future__ import annotations

from unidiff.core.decoders import CategoricalDecoder, ContinuousDecoder, Decoder, DiscretisedDecoder, Levels
from unidiff.vae.bound import ELBO
from unidiff.vae.dequantise import dequantise
from unidiff.vae.hybrid import HYBRID, variance_bound
from unidiff.vae.model import HierarchicalVAE
from unidiff.vae.optimal import OptimalVariance, optimal_variance
from unidiff.vae.sampled import MEASURES, SAMPLINGS, SampledELBO, importance_of
from unidiff.vae.weights import ImportanceWeights

__all__ = [
    "HYBRID",
    "MEASURES",
    "SAMPLINGS",
    "CategoricalDecoder",
    "ContinuousDecoder",
    "Decoder",
    "DiscretisedDecoder",
    "ELBO",
    "HierarchicalVAE",
    "ImportanceWeights",
    "Levels",
    "OptimalVariance",
    "SampledELBO",
    "dequantise",
    "importance_of",
    "optimal_variance",
    "variance_bound",
]
