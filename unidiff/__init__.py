"""unidiff: one diffusion process, five ways to read it, and a machine that shows they are the same thing."""

from __future__ import annotations

from unidiff import ebm, identities, interop, mcmc, paths, rl, score, testing, train, vae, worlds
from unidiff.core.chain import ReverseChain
from unidiff.core.denoiser import Denoiser
from unidiff.core.diffusion import Diffusion
from unidiff.core.gaussian import Gaussian
from unidiff.core.grid import TimeGrid
from unidiff.core.level import NoiseLevel
from unidiff.core.prediction import Prediction
from unidiff.core.process import ForwardProcess
from unidiff.core.sampling import Sampler, sample
from unidiff.core.schedule import Schedule
from unidiff.ebm.model import EnergyModel
from unidiff.identities.verify import verify
from unidiff.paths.search import search_path
from unidiff.score.model import ScoreModel
from unidiff.thermo.model import Thermodynamics
from unidiff.train.dxmi import DxMITrainer
from unidiff.vae.model import HierarchicalVAE

__version__ = "0.1.0"
__all__ = [
    "Denoiser",
    "Diffusion",
    "DxMITrainer",
    "EnergyModel",
    "ForwardProcess",
    "Gaussian",
    "HierarchicalVAE",
    "NoiseLevel",
    "Prediction",
    "ReverseChain",
    "Sampler",
    "Schedule",
    "ScoreModel",
    "Thermodynamics",
    "TimeGrid",
    "ebm",
    "identities",
    "interop",
    "mcmc",
    "paths",
    "rl",
    "sample",
    "score",
    "search_path",
    "testing",
    "train",
    "vae",
    "verify",
    "worlds",
]
