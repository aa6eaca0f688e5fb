"""The public kit for diffusion code, yours too: strategies that draw cases, oracles that know, assertions that judge.

`strategies` needs Hypothesis, and is imported when it is first asked for; the rest needs what `unidiff` needs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from unidiff.testing import assertions, oracles
from unidiff.testing.assertions import (
    Inconclusive,
    assert_algebraic,
    assert_gaussian_equal,
    assert_mean_within,
    assert_order,
    assert_samples_from,
    assert_variance_within,
)
from unidiff.testing.oracles import Oracle, oracle

if TYPE_CHECKING:
    from unidiff.testing import strategies

__all__ = [
    "Inconclusive",
    "Oracle",
    "assert_algebraic",
    "assert_gaussian_equal",
    "assert_mean_within",
    "assert_order",
    "assert_samples_from",
    "assert_variance_within",
    "assertions",
    "oracle",
    "oracles",
    "strategies",
]


def __getattr__(name: str) -> Any:
    # An optional dependency must not be asked for by `import unidiff`.
    if name == "strategies":
        return importlib.import_module("unidiff.testing.strategies")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
