r"""Choosing a grid node by node, as the RL view chooses steps: what the best policy is worth, and what a walk teaches.

All paths are enumerated; the process, its policy and the trainer's loss are the packages' own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import torch
from torch import Tensor

from unidiff.identities.case import Case
from unidiff.identities.laws import Sides
from unidiff.identities.paths import OncePerSchedule, heard, round_core, round_draws
from unidiff.identities.registry import register
from unidiff.paths import ELBOCost, ScheduleMDP, SchedulePolicy, log_partition, policy_kl
from unidiff.rl.estimates import reweighted
from unidiff.train.schedule_policy import surrogate

LAST, STEPS = 7, 4


def ways(last: int, steps: int) -> Tensor:
    """Every path of so many steps, nodes from 0 to N, ``[P, steps + 1]``."""
    return torch.tensor([(0, *inner, last) for inner in itertools.combinations(range(1, last), steps - 1)])


def log_reference(path: Tensor) -> Tensor:
    """log of the chance that all allowed nodes being alike has of each path: of j − m + 1 nodes, and of one at the end."""
    steps = path.shape[1] - 1
    return -sum(((path[:, m] - m + 1).double().log() for m in range(2, steps + 1)), torch.zeros(len(path)).double())


def moved(mdp: ScheduleMDP, seed: int) -> SchedulePolicy:
    """A policy that has left the reference, in float64."""
    policy, generator = SchedulePolicy(mdp, 8, seed % 2**31).double(), torch.Generator().manual_seed(seed % 2**31)
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return policy


@register
class TiltedPaths(OncePerSchedule):
    """What policies of a grid pay, above the best law of paths and in all: by recursion, and by all paths.

    On the bound's prices and on drawn ones; Z of two steps also by the RL view's reweighting of the reference's paths, which
    are all as likely. κ: the exponents.
    """

    name = "tilted-paths"
    statement = (
        r"-\beta\log Z=\min_\pi E_\pi C+\beta\,\mathrm{KL}(\pi\,\|\,\pi_0),\quad Z=\sum_w\pi_0(w)\,e^{-C(w)/\beta}"
    )
    views = ("paths", "rl")
    source = "Todorov 2006; Bellman 1957"

    def sides(self, case: Case) -> Iterable[Sides]:
        drawn = case.uniform("path costs", LAST + 1, LAST + 1).cpu().triu(1)
        priced = ELBOCost("prior", exact=True).measure(round_core(case), heard(case, LAST), round_draws(case)).mean
        mdp = ScheduleMDP(torch.stack([drawn, priced / priced.abs().max()]), LAST)
        beta = 0.05 + case.uniform("beta", 2, LAST).cpu()
        policy = moved(mdp, case.seed)
        log_z, gap = log_partition(mdp, beta), policy_kl(policy, mdp, beta)
        for b, k in itertools.product(range(2), range(1, LAST + 1)):
            path = ways(LAST, k)
            one = torch.full((len(path),), b)
            price, first = mdp.cost(path, one) / beta[b, k - 1], log_reference(path)
            best = (first - price).logsumexp(0)
            size = 1 + price.abs().max() + first.abs().max()
            yield Sides(log_z[b, k - 1], best, size)
            if k == 2:
                yield Sides(reweighted(-price, 1.0).log_z.value, best, size)
            ratio = policy.retraced(mdp, path, one).log_ratio.detach()
            paid = ((first + ratio).exp() * (price + ratio)).sum()
            yield Sides(gap[b, k - 1] - log_z[b, k - 1], paid, size + ratio.abs().max())


@register
class PathsTeach(OncePerSchedule):
    """The trainer's loss on all paths alike, and half the variance of A = −C/β − log π/π_0, by their gradients.

    And a walk's own sums. κ: the sums' and the gradient's size.
    """

    name = "path-policy-gradient"
    statement = r"-E[(A-E A)\,\nabla\log\pi]=\nabla\,\frac{1}{2}\mathrm{Var}\,A,\quad A=-C/\beta-\log\frac{\pi}{\pi_0}"
    views = ("paths",)
    source = "Richter et al. 2020 (VarGrad), proposition 1; Williams 1992"

    def sides(self, case: Case) -> Iterable[Sides]:
        cost = case.uniform("path costs", LAST + 1, LAST + 1).cpu().triu(1)
        mdp, beta = ScheduleMDP(cost, STEPS), torch.full((1, 1), 0.3, dtype=torch.float64)
        policy = SchedulePolicy(mdp, 8, seed=case.seed % 2**31).double()
        with torch.no_grad():
            for p in policy.parameters():
                p.add_(
                    0.3
                    * torch.randn(p.shape, generator=torch.Generator().manual_seed(case.seed % 2**31), dtype=p.dtype)
                )
        path = ways(LAST, STEPS)
        first = torch.zeros(len(path), dtype=torch.long)
        by_hand, total = self._by_hand(policy, mdp, path)
        walked = policy.retraced(mdp, path, first)
        yield Sides(walked.log_ratio.detach(), by_hand.detach(), 1 + by_hand.detach().abs())
        drawn = policy.walk(mdp, first, generator=torch.Generator().manual_seed(1))
        again = policy.retraced(mdp, drawn.path, first)
        yield Sides(drawn.log_ratio.detach(), again.log_ratio.detach(), 1 + again.log_ratio.detach().abs())
        yield Sides(drawn.cost, again.cost, again.cost)
        taught = surrogate(walked.cost[None, None], walked.log_ratio[None, None], beta).mean()
        half = 0.5 * (total / beta[0, 0] + by_hand).var(correction=0)
        parameters = list(policy.parameters())
        slopes = (torch.autograd.grad(value, parameters, retain_graph=True) for value in (taught, half))
        own, known = (torch.cat([g.flatten() for g in slope]) for slope in slopes)
        yield Sides(own, known, known.norm().expand(len(known)))

    @staticmethod
    def _by_hand(policy: SchedulePolicy, mdp: ScheduleMDP, path: Tensor) -> tuple[Tensor, Tensor]:
        """log π/π_0 and C of the paths, node by node, the allowed ones written out."""
        ratio, total = -log_reference(path), torch.zeros(len(path), dtype=torch.float64)
        for row in range(len(path)):
            for m in range(STEPS, 0, -1):
                j, i = int(path[row, m]), int(path[row, m - 1])
                allowed = torch.tensor([[0 if m == 1 else m - 1 <= n < j for n in range(LAST + 1)]])
                if m == 1:
                    allowed[0, 0] = 1
                seen = torch.tensor([[j / LAST, m / STEPS]])  # float32, as it is observed
                ratio[row] = ratio[row] + policy(seen, allowed.bool())[0, i]
                total[row] += mdp.costs[0, i, j]
        return ratio, total
