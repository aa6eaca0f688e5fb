r"""Item 38, the normaliser: how log Z moves with a parameter and with time, and what annealing says of it."""

from __future__ import annotations

import torch
from torch import Tensor

from unidiff.ebm import EnergyModel
from unidiff.identities.case import Case, sampled, smooth
from unidiff.identities.energies import TAU
from unidiff.identities.laws import MonteCarlo
from unidiff.identities.registry import register


@register
class NormaliserGradient(MonteCarlo):
    """Item 38: the slope of log Z in a parameter, by draws of the law itself, against the derivative of its closed form.

    E_θ = −τ log p − θ_1 bᵀx + ½θ_2‖x − m‖²/v, whose Z is the world's tilt. Sizes: E|∂_θ E|/τ.
    """

    name = "normaliser-gradient"
    statement = r"\partial_\theta\log Z=-\frac{1}{\tau}E_q[\partial_\theta E]"
    views = ("ebm", "rl")
    source = "Hinton 2002, eq. 4; item 38"
    conditions = "a Gaussian or a mixture, three schedules; in float64"
    subject = "schedule"

    def applies(self, case: Case) -> bool:
        return smooth(case) and case.dtype == torch.float64 and sampled(case)

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        world, n = case.world, case.draws
        scale = world.variance.mean()
        b = torch.ones_like(world.mean) / (case.dim * scale).sqrt()
        eye = torch.eye(case.dim).to(b) / scale
        theta = torch.tensor([0.6, 0.4]).to(b).requires_grad_()
        law, log_z = world.tilt(theta[1] * eye, theta[0] * b + theta[1] * (eye @ world.mean), TAU)
        # −½θ_2 mᵀm/v of the square's own constant, which the tilt leaves out.
        log_z = log_z - 0.5 * theta[1] * world.mean @ eye @ world.mean / TAU
        (slope,) = torch.autograd.grad(log_z, theta)
        x = law.to(b.dtype).sample(n, case.generator("normaliser")).detach()
        each = theta.detach().expand(n, 2).clone().requires_grad_()

        def energy(z: Tensor) -> Tensor:
            spread = (z - world.mean).square().sum(1) / scale
            return -TAU * world.log_prob(z, check=False) - each[:, 0] * (z @ b) + 0.5 * each[:, 1] * spread

        model = EnergyModel(energy, world.event_shape, tau=TAU)
        (rate,) = torch.autograd.grad(model.energy(x).sum(), each)
        told = -rate / model.tau
        return told - slope, told.abs().mean(0)
