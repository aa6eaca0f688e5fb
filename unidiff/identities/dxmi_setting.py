"""What DxMI is asked on: a world noised by velocities that no schedule has, the exact value and the best policy."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from unidiff.core.diffusion import Diffusion
from unidiff.core.gaussian import Gaussian as Step
from unidiff.core.grid import TimeGrid
from unidiff.ebm import EnergyModel
from unidiff.ebm.dxmi.law import AuxiliaryLaw
from unidiff.ebm.dxmi.value import Value
from unidiff.identities.case import Case, sampled, smooth
from unidiff.identities.laws import Algebraic
from unidiff.identities.truths import log_prob_kappa
from unidiff.worlds import Gaussian, OracleDenoiser
from unidiff.worlds.world import World

STEPS, ROWS, TAU = 4, 12, 0.7


@dataclass(frozen=True)
class Setting:
    """A world, the auxiliary law of a chain on it with velocities of its own, and the exact value.

    Attributes:
        case: on the stretch of its schedule where data and noise are heard.
        world: the data's law.
        core: its exact core.
        grid: of four steps.
        law: q̃.
        value: −τ log q_k of the core's energy.
    """

    case: Case
    world: World
    core: Diffusion
    grid: TimeGrid
    law: AuxiliaryLaw
    value: Value

    @staticmethod
    def of(case: Case, world: World | None = None) -> Setting:
        """On the case's world, or on another of its dimensions."""
        case = case.heard
        law_of_data = case.world if world is None else world
        core = Diffusion(case.schedule, OracleDenoiser(law_of_data)).requires_grad_(False)
        grid = TimeGrid.uniform_log_snr(STEPS, case.schedule, float(case.schedule.time(case.log_snr_range[1]).detach()))
        law = AuxiliaryLaw(core.chain(grid)).to(case.device)
        law.log_var += torch.linspace(0.7, -0.7, STEPS, dtype=torch.float64, device=case.device)
        return Setting(case, law_of_data, core, grid, law, Value(EnergyModel.of(core, TAU), law.levels()))

    def noised(self) -> list[World]:
        """The law of x_{t_k} for k = 0 … N, noised step by step by q̃."""
        start = [float(v) for v in self.law.start]
        laws = [self.world.diffuse(*start)]
        for keep, log_var in zip(self.law.keep.tolist(), self.law.log_var.tolist(), strict=True):
            laws.append(laws[-1].diffuse(keep, math.exp(0.5 * log_var)))
        return laws

    def timed(self) -> Value:
        """The same value as a function of the grid's times that has never heard of levels."""
        laws, times = self.noised(), self.grid.times.to(self.case.device)

        def energy(x: Tensor, t: Tensor) -> Tensor:
            k = (t.double()[:, None] - times).abs().argmin(1)
            each = torch.stack([-TAU * law.log_prob(x) for law in laws])
            return each.gather(0, k[None])[0]

        model = EnergyModel(energy, self.core.event_shape, schedule=self.case.schedule, tau=TAU)
        return Value(model, self.law.levels())

    def steps(self) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        """(k, k of each row, x_{t_{k−1}}, x_{t_k}) along draws of the law, for k = 1 … N."""
        laws = self.noised()
        for k in range(1, STEPS + 1):
            earlier = laws[k - 1].sample(ROWS, self.case.generator(f"dxmi {k}"))
            noise = self.case.normal(f"dxmi noise {k}", *earlier.shape)
            later = float(self.law.keep[k - 1]) * earlier + math.exp(0.5 * float(self.law.log_var[k - 1])) * noise
            yield k, torch.full((ROWS,), k, device=earlier.device), earlier, later

    def kappa(self, x: Tensor, k: Tensor) -> Tensor:
        """Of V_k at ``x``: the noised density's."""
        level = self.value.levels[k].to(x)
        return log_prob_kappa(self.case, x, level.alpha, level.sigma)


def round_world(case: Case) -> Gaussian:
    """Gaussian data of one variance in the case's dimensions, off the origin."""
    mean = 0.4 * case.normal("dxmi mean", case.dim)
    eye = torch.eye(case.dim, dtype=case.dtype, device=case.device)
    return Gaussian(mean, 0.6 * eye)


class Worlds(Algebraic):
    """Of an identity that any smooth world can be asked."""

    subject = "schedule"
    conditions = "a world with a smooth density"

    def applies(self, case: Case) -> bool:
        return smooth(case) and sampled(case)


class Round(Algebraic):
    """Of an identity that needs a policy that is exact."""

    subject = "schedule"
    conditions = "Gaussian data of one variance, where a policy can be exact"

    def applies(self, case: Case) -> bool:
        return isinstance(case.world, Gaussian) and sampled(case)


def best_step(setting: Setting, world: Gaussian, k: int, later: Tensor) -> Step:
    """Bayes' reverse of step k at ``later`` ``[R, D]`` for data of one variance: precisions add."""
    law, level = setting.law, setting.value.levels
    alpha, sigma = (v[k - 1].to(later) for v in (level.alpha, level.sigma))
    keep, var = law.keep[k - 1].to(later), law.log_var[k - 1].exp().to(later)
    spread = alpha.square() * world.variance[0] + sigma.square()
    own = 1 / (1 / spread + keep.square() / var)
    mean = own * (keep * later / var + alpha * world.mean / spread)
    return Step(mean, own.log().expand(len(later), 1))


def as_torch(step: Step) -> Independent:
    """The step as torch's own distribution."""
    return Independent(Normal(step.mean, step.std.expand(step.mean.shape)), 1)
