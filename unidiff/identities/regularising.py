r"""Item 48: what the regulariser of a contrastive loss costs, on a law of 40 states.

At the fixed point of (E_p E − E_π E + γ(E_p E² + E_π E²))/τ, π = e^{−E/τ}/Z held as a contrastive step holds its chains,
p(1 + 2γE) = π(1 − 2γE) in every state.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from unidiff.ebm.learning import contrastive_loss
from unidiff.identities.case import Case
from unidiff.identities.contrastive import TAU, smooth_once
from unidiff.identities.laws import Algebraic, Order, Sides
from unidiff.identities.registry import register
from unidiff.worlds import Gaussian


@register
class RegulariserBias(Algebraic):
    """Item 48: the stationary point of the regularised contrast on a grid, found by Newton's method on its own gradient.

    The gradient is the loss's, row by row; π is E's own e^{−E/τ}/Z. Side by side: (π − p)/(π + p) and −2γτ(log π + log Z).
    κ: the residual's own size, and that of p's logarithm.
    """

    name = "regulariser-bias"
    statement = r"\frac{\pi-p}{\pi+p}=-2\gamma\tau\left(\log\pi+c\right)"
    views = ("ebm",)
    source = "Du & Mordatch 2019, section 3.3; item 48"
    conditions = "a law on 40 states"
    subject = "schedule"

    def applies(self, case: Case) -> bool:
        return isinstance(case.world, Gaussian) and smooth_once(case) and case.dtype == torch.float64

    def sides(self, case: Case) -> Iterable[Sides]:
        p = _masses(case)
        for gamma in (0.02, 0.2):
            energy = stationary(p, gamma, TAU)
            log_z = torch.logsumexp(-energy / TAU, 0)
            pi = (-energy / TAU - log_z).exp()
            right = -2 * gamma * TAU * (pi.log() + log_z)
            yield Sides((pi - p) / (pi + p), right, 1 + p.log().abs())


@register
class RegulariserBiasOrder(Order):
    """Item 48: the total variation between π and p over the first-order 2γτ E_p|log p + H(p)|, less one, goes with γ."""

    name = "regulariser-bias-order"
    statement = r"\mathrm{TV}(\pi,p)=2\gamma\tau\,E_p|\log p+H(p)|+O(\gamma^2)"
    views = ("ebm",)
    source = "item 48"
    conditions = "a law on 40 states"
    subject = "schedule"

    def applies(self, case: Case) -> bool:
        return isinstance(case.world, Gaussian) and smooth_once(case) and case.dtype == torch.float64

    def errors(self, case: Case) -> tuple[list[float], list[float], float]:
        p = _masses(case)
        first = (p * (p.log() - (p * p.log()).sum()).abs()).sum()
        steps, errors = [], []
        for k in range(4):
            gamma = 0.02 / 2**k
            energy = stationary(p, gamma, TAU)
            apart = 0.5 * (torch.softmax(-energy / TAU, 0) - p).abs().sum()
            steps.append(gamma)
            errors.append(abs(float(apart / (2 * gamma * TAU * first) - 1)))
        return steps, errors, 1.0


def _masses(case: Case) -> Tensor:
    line = torch.linspace(-2.5, 2.5, 40, dtype=case.dtype, device=case.device)
    return torch.softmax(-0.5 * line.square() + 0.6 * torch.cos(3 * line), 0)


def stationary(p: Tensor, gamma: float, tau: float) -> Tensor:
    """Energies ``[K]`` at which the regularised contrast between masses p and e^{−E/τ}/Z has no gradient."""

    def slope(energy: Tensor) -> Tensor:
        held, rows = torch.softmax(-energy / tau, 0), energy.detach().requires_grad_()
        # Of one datum and one chain in each state, whose means the loss takes; the masses make the expectations.
        at_data, at_model = (
            len(p) * torch.autograd.grad(loss, rows)[0]
            for loss in (
                contrastive_loss(rows, rows.detach(), tau, gamma),
                contrastive_loss(rows.detach(), rows, tau, gamma),
            )
        )
        return tau * (p * at_data + held * at_model)

    energy = -tau * (p.log() - (p * p.log()).sum())
    for _ in range(12):
        pi = torch.softmax(-energy / tau, 0)
        residual = slope(energy)
        # d/dE of p(1 + 2γE) − π(1 − 2γE): the diagonal's, and what Z moves.
        diagonal = 2 * gamma * (p + pi) + pi / tau * (1 - 2 * gamma * energy)
        jacobian = torch.diag(diagonal) - torch.outer(pi * (1 - 2 * gamma * energy), pi) / tau
        energy = energy - torch.linalg.solve(jacobian, residual)
    return energy
