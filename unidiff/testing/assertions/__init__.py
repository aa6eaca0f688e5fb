"""Assertions by the registry's own laws of tolerance (:mod:`unidiff.identities.laws`): nobody picks a number by hand."""

from __future__ import annotations

from unidiff.testing.assertions.draws import assert_mean_within, assert_samples_from, assert_variance_within
from unidiff.testing.assertions.exact import assert_algebraic, assert_gaussian_equal
from unidiff.testing.assertions.rates import assert_order
from unidiff.testing.assertions.verdicts import Inconclusive

__all__ = [
    "Inconclusive",
    "assert_algebraic",
    "assert_gaussian_equal",
    "assert_mean_within",
    "assert_order",
    "assert_samples_from",
    "assert_variance_within",
]
