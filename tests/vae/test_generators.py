"""A generator of draws is one, on the device of the draws, or it is refused by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import unidiff as ud
from unidiff.worlds import library

WORLD = library.gaussian()
CORE = ud.Diffusion(ud.Schedule.cosine(), ud.worlds.OracleDenoiser(WORLD))
GRID = ud.TimeGrid.uniform_log_snr(3, CORE.schedule)
X = WORLD.sample(4, torch.Generator().manual_seed(0))
VAE, THERMO = ud.HierarchicalVAE(CORE), ud.Thermodynamics(CORE, WORLD)
ASKS: dict[str, Callable[..., object]] = {
    "elbo": lambda g: VAE.elbo(X, GRID, generator=g),
    "sampled_elbo": lambda g: VAE.sampled_elbo(X, GRID, generator=g),
    "continuous_elbo": lambda g: VAE.continuous_elbo(X, generator=g),
    "loss": lambda g: VAE.loss(X, GRID, generator=g),
    "iwae": lambda g: VAE.iwae(X, GRID, 2, generator=g),
    "encode": lambda g: VAE.encode(X, GRID, g),
    "decode": lambda g: VAE.decode(X, GRID, generator=g),
    "reconstruct": lambda g: VAE.reconstruct(X, GRID, 2, generator=g),
    "interpolate": lambda g: VAE.interpolate(X, X.flip(0), GRID, to=2, share=[0.5], generator=g),
    "entropy": lambda g: THERMO.entropy(0.5, generator=g),
    "of a network": lambda g: ud.Thermodynamics(CORE).entropy(0.5, X, generator=g),
    "mutual_information": lambda g: THERMO.mutual_information(0.5, generator=g),
    "work": lambda g: THERMO.work(X, GRID, 2, g),
    "crooks": lambda g: THERMO.crooks(4, GRID, X, g),
}


@pytest.mark.parametrize("name", ASKS)
def test_what_is_no_generator_is_refused(name: str) -> None:
    ASKS[name](torch.Generator().manual_seed(1))
    with pytest.raises(TypeError, match="generator must be a Generator, got 3|generator must be .*Generator.*3"):
        ASKS[name](3)
