"""The fifth view's other half: which few times to stop at. Costs of steps, exact shortest paths, and what they are worth."""

from __future__ import annotations

import gymnasium

from unidiff.paths.cost import Cost, CostTable, CustomCost, Draws, Prices
from unidiff.paths.deviation import Deviation
from unidiff.paths.dynamic import Paths, beam, brute_force, shortest
from unidiff.paths.elbo import ELBOCost
from unidiff.paths.energy import EnergyCost
from unidiff.paths.env import ScheduleEnv, ScheduleMDP, ScheduleState
from unidiff.paths.girsanov import KLBound
from unidiff.paths.gradient import refine
from unidiff.paths.handmade import handmade
from unidiff.paths.pairs import MultistepDeviation, PairTable
from unidiff.paths.policy import SchedulePolicy, ScheduleWalk, log_partition, policy_kl
from unidiff.paths.search import COSTS, Ranking, RankWarning, Search, search, search_path
from unidiff.paths.walks import SamplerMDP, WalkState

ID = "unidiff/Schedule-v0"

if ID not in gymnasium.registry:
    gymnasium.register(ID, entry_point="unidiff.paths.env:ScheduleEnv")

__all__ = [
    "ID",
    "COSTS",
    "Cost",
    "CostTable",
    "CustomCost",
    "Deviation",
    "Draws",
    "ELBOCost",
    "EnergyCost",
    "KLBound",
    "MultistepDeviation",
    "PairTable",
    "Paths",
    "Prices",
    "RankWarning",
    "Ranking",
    "SamplerMDP",
    "ScheduleEnv",
    "ScheduleMDP",
    "SchedulePolicy",
    "ScheduleState",
    "ScheduleWalk",
    "Search",
    "WalkState",
    "beam",
    "brute_force",
    "handmade",
    "log_partition",
    "policy_kl",
    "refine",
    "search",
    "search_path",
    "shortest",
]
