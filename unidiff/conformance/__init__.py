"""Other people's samplers, held to the theorems: ``unidiff conformance diffusers``."""

from __future__ import annotations

from unidiff.conformance.suite import conformance
from unidiff.conformance.target import Claims, Denoise, Target, Walk

__all__ = ["Claims", "Denoise", "Target", "Walk", "conformance"]
