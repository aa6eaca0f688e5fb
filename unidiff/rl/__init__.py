"""The RL view: the core read as a Markov decision process whose reference policy is the reverse chain."""

from __future__ import annotations

import gymnasium

from unidiff.rl.env import DenoiseEnv
from unidiff.rl.estimates import EstimatedOptimum, Walks, estimated_optimum, path_kl, reweighted, walk
from unidiff.rl.linear import LinearChain
from unidiff.rl.mdp import ACTIONS, DenoisingMDP, Outcome, State
from unidiff.rl.optimum import STARTS, Optimum, SoftValue, linear_optimum
from unidiff.rl.spec import Spec
from unidiff.rl.vector import DenoiseVectorEnv

ID = "unidiff/Denoise-v0"

if ID not in gymnasium.registry:
    gymnasium.register(
        ID, entry_point="unidiff.rl.env:DenoiseEnv", vector_entry_point="unidiff.rl.vector:DenoiseVectorEnv"
    )

__all__ = [
    "ACTIONS",
    "ID",
    "STARTS",
    "DenoiseEnv",
    "DenoiseVectorEnv",
    "DenoisingMDP",
    "EstimatedOptimum",
    "LinearChain",
    "Optimum",
    "Outcome",
    "SoftValue",
    "Spec",
    "State",
    "Walks",
    "estimated_optimum",
    "linear_optimum",
    "path_kl",
    "reweighted",
    "walk",
]
