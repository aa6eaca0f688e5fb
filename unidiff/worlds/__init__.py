"""Closed-form truth: laws of data whose noising, conditioning and tilting are known exactly."""

from __future__ import annotations

from unidiff.worlds import library, rewards
from unidiff.worlds.cloud import PointCloud
from unidiff.worlds.estimate import Estimate
from unidiff.worlds.gaussian import Gaussian
from unidiff.worlds.mixture import GaussianMixture
from unidiff.worlds.oracle import OracleDenoiser
from unidiff.worlds.world import World

__all__ = [
    "Estimate",
    "Gaussian",
    "GaussianMixture",
    "OracleDenoiser",
    "PointCloud",
    "World",
    "library",
    "rewards",
]
