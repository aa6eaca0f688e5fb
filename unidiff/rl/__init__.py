"""The RL view: the core read as a Markov decision process whose reference policy is the reverse chain."""

from __future__ import annotations

import gymnasium

from unidiff.rl.env import DenoiseEnv
from unidiff.rl.estimates import EstimatedOptimum, Walks, estimated_optimum, path_kl, reweighted, walk
from unidiff.rl.heads.classifier import Classifier, fit_classifier
from unidiff.rl.heads.fitting import Fit, FitConfig
from unidiff.rl.heads.reward_model import RewardModel, fit_reward_model
from unidiff.rl.linear import LinearChain
from unidiff.rl.mdp import ACTIONS, DenoisingMDP, Outcome, State
from unidiff.rl.methods.adjoint import AdjointMatching
from unidiff.rl.methods.backprop import Backprop
from unidiff.rl.methods.gradients import DDPO, DPOK
from unidiff.rl.methods.method import Method
from unidiff.rl.methods.preference import D3PO, DPO
from unidiff.rl.optimum import STARTS, Optimum, SoftValue, linear_optimum
from unidiff.rl.policy import Policy, Walk
from unidiff.rl.preferences import Preferences, PreferencesError, bradley_terry, draw_preferences, log_preference
from unidiff.rl.reachable import Reachable, reachable
from unidiff.rl.replay import Chains
from unidiff.rl.resampling import SCHEMES
from unidiff.rl.rewards import ClassLogProb, WeightedSum, WorldLogProb
from unidiff.rl.rivals import Best, Guided, best_of_n, guided
from unidiff.rl.spec import Spec
from unidiff.rl.steering import LogZ, Steered, log_z_interval, smc_steering
from unidiff.rl.trainable import corrected, merged, trainable
from unidiff.rl.twists import PROPOSALS, TWISTS
from unidiff.rl.vector import DenoiseVectorEnv

ID = "unidiff/Denoise-v0"

if ID not in gymnasium.registry:
    gymnasium.register(
        ID, entry_point="unidiff.rl.env:DenoiseEnv", vector_entry_point="unidiff.rl.vector:DenoiseVectorEnv"
    )

__all__ = [
    "ACTIONS",
    "D3PO",
    "DDPO",
    "DPO",
    "DPOK",
    "ID",
    "PROPOSALS",
    "SCHEMES",
    "STARTS",
    "TWISTS",
    "AdjointMatching",
    "Backprop",
    "Best",
    "Chains",
    "ClassLogProb",
    "Classifier",
    "DenoiseEnv",
    "DenoiseVectorEnv",
    "DenoisingMDP",
    "EstimatedOptimum",
    "Fit",
    "FitConfig",
    "Guided",
    "LinearChain",
    "LogZ",
    "Method",
    "Optimum",
    "Outcome",
    "Policy",
    "Preferences",
    "PreferencesError",
    "Reachable",
    "RewardModel",
    "SoftValue",
    "Spec",
    "State",
    "Steered",
    "Walk",
    "Walks",
    "WeightedSum",
    "WorldLogProb",
    "best_of_n",
    "bradley_terry",
    "corrected",
    "draw_preferences",
    "estimated_optimum",
    "fit_classifier",
    "fit_reward_model",
    "guided",
    "linear_optimum",
    "log_preference",
    "log_z_interval",
    "merged",
    "path_kl",
    "reachable",
    "reweighted",
    "smc_steering",
    "trainable",
    "walk",
]
