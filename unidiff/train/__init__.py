"""Training a denoiser: data, weightings, the loop, checkpoints, and how far the samples are from the data."""

from __future__ import annotations

from unidiff.core.times import antithetic_times, finite_span
from unidiff.train import metrics, presets
from unidiff.train.build import build_core
from unidiff.train.checkpoint import Checkpoint, CheckpointError, load_core, save_core
from unidiff.train.config import TrainConfig
from unidiff.train.data import DataError, Dataset, load_data
from unidiff.train.dxmi import DxMITrainer
from unidiff.train.dxmi_config import DxMIConfig
from unidiff.train.dxmi_state import load_chain, load_value
from unidiff.train.energy import EnergyTrainer
from unidiff.train.energy_config import EnergyConfig
from unidiff.train.finetune import FineTuner
from unidiff.train.finetune_config import FineTuneConfig
from unidiff.train.fitting import Spread, estimator_spread, fit_schedule, least_second_moment
from unidiff.train.heads import load_head, save_head
from unidiff.train.loss import denoising_loss
from unidiff.train.objective import LOSSES, training_loss
from unidiff.train.presets import quick_digits
from unidiff.train.schedule_policy import ScheduleFit, SchedulePolicyConfig, fit_schedule_policy
from unidiff.train.trainer import Trainer
from unidiff.train.weighting import WEIGHTINGS, WeightingOptions, elbo_weight, weight

__all__ = [
    "LOSSES",
    "WEIGHTINGS",
    "Checkpoint",
    "CheckpointError",
    "DataError",
    "Dataset",
    "DxMIConfig",
    "DxMITrainer",
    "EnergyConfig",
    "EnergyTrainer",
    "FineTuneConfig",
    "FineTuner",
    "ScheduleFit",
    "SchedulePolicyConfig",
    "Spread",
    "TrainConfig",
    "Trainer",
    "WeightingOptions",
    "antithetic_times",
    "build_core",
    "denoising_loss",
    "elbo_weight",
    "estimator_spread",
    "finite_span",
    "fit_schedule",
    "fit_schedule_policy",
    "least_second_moment",
    "load_chain",
    "load_core",
    "load_data",
    "load_head",
    "load_value",
    "metrics",
    "presets",
    "quick_digits",
    "save_core",
    "save_head",
    "training_loss",
    "weight",
]
