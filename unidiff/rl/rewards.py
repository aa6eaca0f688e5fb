r"""Rewards r(x_0): sums, a world's log density, the log-probability of a class. All are differentiable in x_0.

A sum of quadratic rewards r_i = −½ xᵀA_i x + b_iᵀx + c_i is one of them,

    Σ w_i r_i = −½ xᵀ(Σ w_i A_i)x + (Σ w_i b_i)ᵀx + Σ w_i c_i,

so a world tilts by it in closed form (:mod:`unidiff.worlds.rewards` has the terms). With r = β log p(y|x_0) the tilted law
p(x_0) e^{r/β}/Z is p(x_0|y), by Bayes (Dhariwal & Nichol 2021, section 4, at t = 0; IDENTITIES item 57).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from unidiff.core.boundary import check_count, check_floating, check_real, check_type
from unidiff.rl.mdp import Reward, one_each
from unidiff.worlds.rewards import QuadraticReward
from unidiff.worlds.world import World


@dataclass(frozen=True, eq=False)
class WeightedSum:
    """Σ_i w_i r_i(x).

    Attributes:
        terms: pairs (w, r), at least one: w a finite number, r a reward.

    Raises:
        TypeError: a term that is no such pair.
        ValueError: no terms, a weight that is not finite.
    """

    terms: Sequence[tuple[float, Reward]]

    def __post_init__(self) -> None:
        check_type("terms", self.terms, Sequence)
        object.__setattr__(self, "terms", tuple(_term(i, term) for i, term in enumerate(self.terms)))
        if not self.terms:
            raise ValueError("terms must hold at least one pair (weight, reward), got none")

    def __call__(self, x: Tensor) -> Tensor:
        """The sum at ``x`` ``[B, *E]``, ``[B]``. Raises as :func:`unidiff.rl.mdp.one_each`, naming the term."""
        parts = [weight * one_each(f"terms[{i}]", reward(x), x) for i, (weight, reward) in enumerate(self.terms)]
        return torch.stack(parts).sum(0)

    def coefficients(self) -> tuple[Tensor | None, Tensor | None, Tensor | float]:
        """(A ``[D, D]`` or None, b ``[D]`` or None, c) of the sum, where every term is quadratic.

        Raises:
            TypeError: a term that is not a quadratic reward.
            ValueError: terms of unequal D.
        """
        curvature: Tensor | None = None
        slope: Tensor | None = None
        constant: Tensor | float = 0.0
        dims = set()
        for i, (weight, reward) in enumerate(self.terms):
            if not isinstance(reward, QuadraticReward):
                raise TypeError(
                    f"terms[{i}] must be quadratic (Linear, Quadratic or LogDensity of unidiff.worlds.rewards) for the sum "
                    f"to tilt in closed form, got {type(reward).__name__}"
                )
            A, b, c = reward.coefficients()
            dims |= {A.shape[0]} if A is not None else set()
            dims |= {b.numel()} if b is not None else set()
            if len(dims) > 1:
                raise ValueError(f"terms must be rewards of one dimension, got {' and '.join(map(str, sorted(dims)))}")
            curvature = _plus(curvature, weight, A)
            slope = _plus(slope, weight, None if b is None else b.flatten())
            constant = constant + weight * c
        return curvature, slope, constant


@dataclass(frozen=True, eq=False)
class WorldLogProb:
    """r(x) = log p(x), in nats, p the density of any world; of a Gaussian, LogDensity also tilts in closed form.

    Attributes:
        world: one law with a density; it answers in the dtype and on the device of x.

    Raises:
        TypeError: not a world.
        ValueError: a batch of laws.
    """

    world: World

    def __post_init__(self) -> None:
        check_type("world", self.world, World)
        if self.world.batch is not None:
            raise ValueError(f"world must be one law, got a batch of {self.world.batch}")

    def __call__(self, x: Tensor) -> Tensor:
        """r at ``x`` ``[B, *E]``, ``[B]``. Raises ValueError as :meth:`unidiff.worlds.World.log_prob`."""
        check_floating("x", x)
        return self.world.to(x.dtype, x.device).log_prob(x)


@dataclass(frozen=True, eq=False)
class ClassLogProb:
    """r(x) = log p(y = label|x), in nats, at most 0.

    Attributes:
        classifier: ``x [B, *E] -> logits [B, C]``.
        label: y, in 0 … C − 1; of a classifier that says its ``num_classes``, looked at here, else at the first call.

    Raises:
        TypeError: a classifier that cannot be called.
        ValueError: a label that is no class.
    """

    classifier: Callable[[Tensor], Tensor]
    label: int

    def __post_init__(self) -> None:
        if not callable(self.classifier):
            raise TypeError(f"classifier must be callable, got {type(self.classifier).__name__}")
        check_count("label", self.label, least=0)
        known = getattr(self.classifier, "num_classes", None)
        if isinstance(known, int):
            self._check_label(known)

    def __call__(self, x: Tensor) -> Tensor:
        """r at ``x`` ``[B, *E]``, ``[B]``.

        Raises:
            TypeError: logits that are no floating-point tensor.
            ValueError: logits that are not ``[B, C]``, or among whose C the label is not.
        """
        logits = check_floating("what classifier returns", self.classifier(x))
        if logits.ndim != 2 or logits.shape[0] != x.shape[0]:
            raise ValueError(f"classifier must return logits [{x.shape[0]}, C], got shape {list(logits.shape)}")
        self._check_label(logits.shape[1])
        return logits.log_softmax(1)[:, self.label]

    def _check_label(self, classes: int) -> None:
        if self.label >= classes:
            raise ValueError(f"label must lie in 0 … {classes - 1}, the classifier's classes, got {self.label}")


def _term(i: int, term: Any) -> tuple[float, Reward]:
    if not isinstance(term, Sequence) or len(term) != 2 or not callable(term[1]):
        raise TypeError(f"terms[{i}] must be a pair (weight, reward), got {term!r}")
    weight = float(check_real(f"terms[{i}]'s weight", term[0]))
    if not math.isfinite(weight):
        raise ValueError(f"terms[{i}]'s weight must be finite, got {weight}")
    return weight, cast("Reward", term[1])


def _plus(total: Tensor | None, weight: float, part: Tensor | None) -> Tensor | None:
    if part is None:
        return total
    return weight * part if total is None else total + weight * part
