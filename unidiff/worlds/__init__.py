"""Closed-form truth: laws of data whose noising, conditioning and tilting are known exactly."""

from __future__ import annotations

from unidiff.worlds import library, rewards
from unidiff.worlds.cloud import PointCloud
from unidiff.worlds.estimate import Estimate
from unidiff.worlds.gaussian import Gaussian
from unidiff.worlds.interval import Interval, bits_per_dim
from unidiff.worlds.mixture import GaussianMixture
from unidiff.worlds.oracle import OracleDenoiser
from unidiff.worlds.world import World

__all__ = [
    "Estimate",
    "Gaussian",
    "GaussianMixture",
    "Interval",
    "OracleDenoiser",
    "PointCloud",
    "World",
    "bits_per_dim",
    "library",
    "rewards",
]
