r"""Policies beside a linear chain that are at its optimum, whose controls are known (items 52 and 54)."""

from __future__ import annotations

import torch

from unidiff.core.chain import Variance
from unidiff.identities.case import Case
from unidiff.identities.joints import Joint
from unidiff.identities.tilts import BETA
from unidiff.identities.tuned import Tuned, reward_of
from unidiff.rl import linear_optimum


def optima(case: Case) -> list[Tuned]:
    """For a linear reward: the control σGᵀb/β of the joint law's regression, which no state moves."""
    found = []
    asked: tuple[tuple[Variance, bool], ...] = (("posterior", False), ("prior", True))
    for rule, decoded in asked:
        tuned = Tuned.of(case, rule, reward_of(case, False), decoded=decoded)
        joint, eye = Joint.of(tuned.reference), torch.eye(case.dim, dtype=torch.float64)
        slopes = {k: tuned.slope @ (eye if k == 1 else joint.regression(k - 1)[0]) for k in tuned.decisions}
        shift = {k: tuned.steps[k - 1].std * slopes[k] / BETA for k in tuned.decisions}
        found.append(tuned.set_controls(dict.fromkeys(tuned.decisions, 0 * eye), shift))
    return found


def steady(case: Case) -> list[Tuned]:
    """For a quadratic reward: the best control of fixed σ, its gains from the recursion of optimal control."""
    found = []
    asked: tuple[tuple[Variance, bool], ...] = (("posterior", False), ("prior", True))
    for rule, decoded in asked:
        tuned = Tuned.of(case, rule, reward_of(case, True), decoded=decoded)
        reference = tuned.reference
        best = linear_optimum(reference, tuned.reward, tuned.mdp.beta, "kept").steady
        std = {k: tuned.steps[k - 1].std for k in tuned.decisions}
        gain = {k: (best.gain[k - 1] - reference.gain[k - 1]) / std[k] for k in std}
        shift = {k: (best.shift[k - 1] - reference.shift[k - 1]) / std[k] for k in std}
        found.append(tuned.set_controls(gain, shift))
    return found
