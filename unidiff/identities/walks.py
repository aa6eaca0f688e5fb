r"""Items 51 and 52 by draws: what paths of the decision process say of the optimum, and of a policy's distance to it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from unidiff.identities.case import Case, sampled
from unidiff.identities.joints import OfGaussian
from unidiff.identities.laws import Algebraic, MonteCarlo, Sides
from unidiff.identities.registry import register
from unidiff.identities.tilts import BETA, quadratic
from unidiff.rl import DenoisingMDP, Optimum, estimated_optimum, linear_optimum, path_kl, reweighted, walk
from unidiff.worlds.rewards import Linear

_SPREAD = 0.4


class _ByDraws(OfGaussian):
    """Paths of the chain, by the decision process."""

    conditions = "Gaussian data, the exact denoiser, where data and noise are both heard; three schedules"

    def applies(self, case: Case) -> bool:
        return super().applies(case) and sampled(case)

    @classmethod
    def process(cls, case: Case) -> tuple[DenoisingMDP, Linear, Optimum]:
        """A linear reward whose weights vary by under a half of their mean, so that draws say much."""
        reference = cls.reference(case, "posterior")
        _, b = (v.to("cpu", torch.float64) for v in quadratic(case))
        reward = Linear(BETA * _SPREAD * b / (b @ reference.joint.marginal().covariance @ b).sqrt())
        found = linear_optimum(reference.asked, reward, BETA)
        return DenoisingMDP(reference.chain, reward, beta=BETA), reward, found


@register
class ReweightedOptimum(_ByDraws, MonteCarlo):
    """Of the reference's paths in lots of 32: Z, Z E*r and Z²/ESS are means, whose truth the optimum knows; so is Z's error.

    Sizes: Z, a deviation of the reward, E w²/Z² and Var w/Z².
    """

    name = "reweighted-optimum"
    statement = (
        r"Z=\mathrm{E}_\mathrm{ref}\,w,\quad\mathrm{E}^*r=\mathrm{E}_\mathrm{ref}[wr]/Z,\quad "
        r"n/\mathrm{ESS}\to\mathrm{E}\,w^2/Z^2,\quad w=e^{r/\beta}"
    )
    views = ("rl", "thermo")
    source = "Owen 2013, section 9.2 and 9.3"

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        mdp, reward, truth = self.process(case)
        paths = walk(mdp, 32768, case.generator("reweighted"), like=case.x0)
        found = reweighted(paths.reward.cpu().reshape(-1, 32), BETA)
        cold, data = linear_optimum(truth.reference, reward, BETA / 2), truth.reference.marginal()
        second = (cold.log_z - 2 * truth.log_z).exp()
        ratio = (found.log_z.value - truth.log_z).exp()
        costs = found.kl.value + found.log_z.value
        each = {
            "Z": (ratio - 1, 1.0),
            "reward": (ratio * (found.reward.value - truth.reward), BETA * _SPREAD),
            "kl": (ratio * (costs - truth.reward / BETA), _SPREAD),
            "ess": (ratio.square() * found.n / found.ess - second, second),
            "error": (ratio.square() * found.n * found.log_z.standard_error.square() - (second - 1), second - 1),
            "reference": (found.reference_reward.value - reward(data.mean[None]), BETA * _SPREAD),
        }
        return torch.stack([v for v, _ in each.values()], 1), torch.tensor([float(v) for _, v in each.values()])


@register
class PathKlByDraws(_ByDraws, MonteCarlo):
    """Item 51 by draws of another chain's paths: their KL to the reference and to the optimum p* as matrices say.

    Sizes: those KLs, and with the second a deviation of r/β.
    """

    name = "path-kl-by-draws"
    statement = r"\mathrm{KL}(p_\theta\,\|\,p^*)=\mathrm{E}_\theta\left[\sum_k\mathrm{KL}_k-r/\beta\right]+\log Z"
    views = ("rl", "vae", "thermo")
    source = "Fan et al. 2023 (DPOK), eq. 7; Levine 2018, section 2"

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        mdp, _, truth = self.process(case)
        # Of another rule, so that a KL is more than its means'.
        other = self.other(case, "optimal")
        found = walk(mdp, 16384, case.generator("path kl"), other.chain, like=case.x0)
        known = torch.stack([other.asked.kl(truth.reference), other.asked.kl(truth.policy)])
        costs = torch.stack([found.kl, found.kl - found.reward / BETA + truth.log_z], 1).cpu()
        return costs - known, known + torch.tensor([0.0, _SPREAD])


@register
class EstimatesAreWalks(_ByDraws, Algebraic):
    """What a trainer asks for is what the paths of one generator say. κ: the terms, with the noise's cast."""

    name = "estimates-are-walks"
    statement = (
        r"\widehat{\mathrm{KL}}=\frac{1}{n}\sum_i\left(K_i-r_i/\beta\right)+\log\hat Z,\quad "
        r"\hat Z=\frac{1}{n}\sum_ie^{r_i/\beta}"
    )
    views = ("rl",)
    source = "Owen 2013, section 9.2"

    def sides(self, case: Case) -> Iterable[Sides]:
        mdp, _, _ = self.process(case)
        other, n = self.other(case, "posterior"), 64
        paths = [walk(mdp, n, case.generator("estimates"), policy, like=case.x0) for policy in (None, other.chain)]
        gained = paths[0].reward / BETA
        found = estimated_optimum(mdp, n, case.generator("estimates"), like=case.x0)
        # About their mean, for far data are paid much.
        weight, size = (gained - gained.mean()).exp(), 1 + gained.abs().max()
        log_z = weight.mean().log() + gained.mean()
        yield Sides((found.log_z.value - gained.mean()).exp(), weight.mean(), weight.mean() * size)
        earned = (weight * gained).sum() / weight.sum()
        yield Sides(found.reward.value / BETA, earned, size)
        yield Sides(found.kl.value, earned - log_z, size)
        yield Sides(found.ess, weight.sum().square() / weight.square().sum(), n * size)
        cost = paths[1].kl - paths[1].reward / BETA + log_z
        apart = path_kl(mdp, other.chain, found.log_z, n, case.generator("estimates"), like=case.x0)
        size = (paths[1].kl + paths[1].reward.abs() / BETA + log_z.abs()).mean()
        yield Sides(apart.value, cost.mean(), size)
        error2 = cost.var() / n + (gained - log_z).exp().var() / n
        yield Sides(apart.standard_error, error2.sqrt(), size)
