"""Small policies on small chains, in float64: what the methods are tested on."""

from __future__ import annotations

from typing import Any

import torch

import unidiff as ud
from unidiff.core.chain import Variance
from unidiff.core.networks import MLP
from unidiff.rl import DenoisingMDP, Policy, corrected
from unidiff.worlds import OracleDenoiser, library
from unidiff.worlds.rewards import Linear, Quadratic

LINEAR = Linear(torch.tensor([0.8, -0.5], dtype=torch.float64))
PAID = Quadratic(torch.tensor([[0.6, 0.2], [0.2, 0.3]], dtype=torch.float64), LINEAR.b)
F64 = torch.empty(0, dtype=torch.float64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draws(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def network(size: float, classes: int | None = None, seed: int = 0, learned: bool = False) -> MLP:
    """A perceptron in the plane whose last layer is random, of this size; every weight is of the seed."""
    made = MLP(2, 16, 2, classes, learned).double().eval()
    generator = seeded(seed)
    for p in made.parameters():
        p.data = torch.randn(p.shape, generator=generator, dtype=p.dtype) * 0.3
    made.last.weight.data *= size
    made.last.bias.data *= size
    return made


def process(
    reward: Any = PAID,
    beta: float = 0.7,
    steps: int = 4,
    first: float = 0.02,
    variance: Variance = "prior",
    schedule: ud.Schedule | None = None,
    **more: Any,
) -> DenoisingMDP:
    core = ud.Diffusion(schedule or ud.Schedule.linear(), OracleDenoiser(library.mixture_2d()))
    return DenoisingMDP(core.chain(ud.TimeGrid.uniform(steps, first), variance), reward, beta=beta, **more)


def moved(mdp: DenoisingMDP, size: float = 2.0, classes: int | None = None, seed: int = 0) -> Policy:
    """A policy away from the reference by a random correction; size 0 is the reference."""
    return Policy(mdp, corrected(mdp.chain.core, network(size, classes, seed)))


def gradients(policy: Policy, loss: torch.Tensor) -> torch.Tensor:
    """All of ∂loss/∂θ in a row; zeros where nothing leads."""
    own = list(policy.core.parameters())
    found = torch.autograd.grad(loss, own, allow_unused=True, retain_graph=True)
    return torch.cat(
        [torch.zeros_like(p).flatten() if g is None else g.flatten() for p, g in zip(own, found, strict=True)]
    )
