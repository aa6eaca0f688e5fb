"""Energies of few parameters on laws in closed form, and how an estimate of them is judged."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from unidiff.ebm import EnergyLearner, EnergyModel


class Quadratic(nn.Module):
    """½(x − m)ᵀP(x − m), in nats; with times, one such for each of them."""

    def __init__(self, dim: int, times: tuple[float, ...] = (0.0,), tau: float = 1.0) -> None:
        super().__init__()
        self.times = torch.tensor(times, dtype=torch.float64)
        self.precision = nn.Parameter(torch.eye(dim, dtype=torch.float64).repeat(len(times), 1, 1))
        self.mean = nn.Parameter(torch.zeros(len(times), dim, dtype=torch.float64))
        self.tau = tau

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        if t is None:
            t = torch.zeros(len(x), dtype=x.dtype)
        k = (t[:, None] - self.times).abs().argmin(1)
        z = x - self.mean[k]
        return 0.5 * self.tau * torch.einsum("bi,bij,bj->b", z, self.precision[k], z)

    def found(self) -> Tensor:
        """Its numbers, each once."""
        symmetric = 0.5 * (self.precision + self.precision.mT).detach()
        rows, columns = torch.triu_indices(*symmetric.shape[1:])
        return torch.cat([symmetric[:, rows, columns], self.mean.detach()], 1).flatten()


def truth(covariances: Tensor, means: Tensor) -> Tensor:
    """What :meth:`Quadratic.found` should find for laws of these ``[K, D, D]`` and ``[K, D]``."""
    precision = torch.linalg.inv(covariances)
    rows, columns = torch.triu_indices(*precision.shape[1:])
    return torch.cat([precision[:, rows, columns], means], 1).flatten()


def walk(
    learner: EnergyLearner, energy: Quadratic, data: Callable[[torch.Generator], Tensor], steps: int, rate: float
) -> Tensor:
    """The parameters after each step of plain gradient descent on fresh data, ``[steps, K]``."""
    generator, path = torch.Generator().manual_seed(0), []
    parameters = [p for p in learner.model.parameters() if p.requires_grad]
    for _ in range(steps):
        gradients = torch.autograd.grad(learner.loss(data(generator), generator), parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.sub_(rate * gradient)
        path.append(energy.found())
    return torch.stack(path)


def fit(learner: EnergyLearner, x: Tensor, seed: int) -> None:
    """The minimum of the loss on ``x`` with one set of draws, by L-BFGS: for losses that are the objective itself."""
    besides = [] if learner.module is None else list(learner.module.parameters())
    optimizer = torch.optim.LBFGS(
        [*learner.model.parameters(), *besides], max_iter=60, line_search_fn="strong_wolfe", tolerance_grad=1e-9
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = learner.loss(x, torch.Generator().manual_seed(seed))
        loss.backward()
        return loss

    optimizer.step(closure)  # pyright: ignore


def t_scores(estimates: Tensor, exact: Tensor) -> Tensor:
    """Student's t of independent estimates ``[R, K]`` against what they should be on average, ``[K]``."""
    return (estimates.mean(0) - exact) / (estimates.std(0) / len(estimates) ** 0.5)


def blocks(path: Tensor, count: int = 16) -> Tensor:
    """The means of that many stretches of a run."""
    return torch.stack([part.mean(0) for part in path.chunk(count)])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def model(energy: nn.Module, dim: int, **options) -> EnergyModel:
    return EnergyModel(energy, (dim,), **options)
