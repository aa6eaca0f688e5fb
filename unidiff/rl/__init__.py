"""The RL view: the core read as a Markov decision process whose reference policy is the reverse chain."""

from __future__ import annotations

import gymnasium

from unidiff.rl.classifier import Classifier, fit_classifier
from unidiff.rl.env import DenoiseEnv
from unidiff.rl.fitting import Fit, FitConfig
from unidiff.rl.mdp import ACTIONS, DenoisingMDP, Outcome, State
from unidiff.rl.preferences import Preferences, PreferencesError, bradley_terry, draw_preferences, log_preference
from unidiff.rl.reward_model import RewardModel, fit_reward_model
from unidiff.rl.rewards import ClassLogProb, WeightedSum, WorldLogProb
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
    "ClassLogProb",
    "Classifier",
    "DenoiseEnv",
    "DenoiseVectorEnv",
    "DenoisingMDP",
    "Fit",
    "FitConfig",
    "Outcome",
    "Preferences",
    "PreferencesError",
    "RewardModel",
    "Spec",
    "State",
    "WeightedSum",
    "WorldLogProb",
    "bradley_terry",
    "draw_preferences",
    "fit_classifier",
    "fit_reward_model",
    "log_preference",
]
