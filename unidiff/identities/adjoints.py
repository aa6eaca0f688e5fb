r"""Item 59: the lean adjoint asks for the best control exactly where it is one, in the mean elsewhere, and at k − 1."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from unidiff.identities.case import Case, sampled
from unidiff.identities.cubature import compared, gradients, nodes_of
from unidiff.identities.laws import Algebraic, Order, Sides
from unidiff.identities.registry import register
from unidiff.identities.tuned import Beside, Tuned, reward_of
from unidiff.identities.tuned_optima import optima, steady
from unidiff.rl import AdjointMatching
from unidiff.rl.methods.adjoint import Matched, lean_adjoint

_DECAYS = (1.0, 0.6)


@register
class AdjointIsControl(Beside, Algebraic):
    """For linear r, at the optimum: what a walk's adjoint asks for is the control, walk by walk, and the loss is 0.

    The control is σGᵀb/β of the joint law's regression; away from the optimum the published adjoint still asks for it.
    Where the walks go is the noise of one generator's. κ: the steps that the adjoint is pulled back through.
    """

    name = "adjoint-is-control"
    statement = r"u_k^*=-\sigma_ka_{k-1},\quad a_0=-\nabla r/\beta,\ a_k=(\partial_x\mu_\mathrm{ref})^\top a_{k-1}"
    source = "Domingo-Enrich et al. 2025 (Adjoint Matching), eq. 38, in steps"

    def sides(self, case: Case) -> Iterable[Sides]:
        n = 8
        for i, tuned in enumerate(optima(case)):
            known = torch.cat([tuned.control(k, case.x0[:1]).expand(n, -1) for k in tuned.decisions])
            for decay in _DECAYS:
                learner = AdjointMatching(decay).learner(tuned.policy)
                rows, told = learner.gather(n, tuned.case.generator("adjoint"), None)
                yield Sides(rows.target, known, 10 * len(tuned.steps) * (1 + known.abs()))
                reward = tuned.replayed(n, "adjoint").reward
                yield Sides(told["reward"][None], reward.mean()[None], 100 * (1 + reward.abs().max())[None])
                # The loss by its definition, half a control's square a decision, at rows that ask for none of it.
                less = Matched(rows.at, torch.zeros_like(rows.target))
                half = 0.5 * known.square().sum() / n
                losses = torch.stack([learner.loss(rows), learner.loss(less)]).detach()
                yield Sides(losses, torch.stack([0 * half, half]), 10 * (1 + half).expand(2))
            tuned.moved(f"away {i}")
            rows, _ = AdjointMatching().learner(tuned.policy).gather(n, tuned.case.generator("away"), None)
            yield Sides(rows.target, known, 10 * len(tuned.steps) * (1 + known.abs()))


@register
class AdjointFixedPoint(Beside, Algebraic):
    """For quadratic r the mean gradient of the matching is zero at the best control of fixed σ, at any share of the adjoint.

    Its gains are the linear-quadratic recursion's; E[−σ_k a_{k−1}(x_kᵀ, 1)] is by cubature, E[u*(x_kᵀ, 1)] by the chain's
    moments; both in the parameters, as the loss has them. κ: the weights' size, the targets', and 1/σ_k of a gain that is
    told by the step that it makes of another.
    """

    name = "adjoint-fixed-point"
    statement = r"E\left[\left(u_k^*(x_k)+\sigma_ka_{k-1}\right)(x_k^\top,1)\right]=0"
    source = "Domingo-Enrich et al. 2025 (Adjoint Matching), proposition 7; Bertsekas 2017, section 3.1"

    def sides(self, case: Case) -> Iterable[Sides]:
        for tuned in steady(case):
            nodes, noise = nodes_of(tuned)
            walk, moments = tuned.walked(noise), tuned.moments()
            learner = AdjointMatching().learner(tuned.policy)
            at, size = walk.decisions(), float(walk.control.abs().max())
            finest = min(float(tuned.steps[k - 1].std) for k in tuned.decisions)
            scale = nodes.size * (1 + size) * float(1 + walk.x.abs().max()) * (1 + 1 / finest)
            for decay in _DECAYS:
                target = -walk.std * lean_adjoint(tuned.mdp, walk, decay)
                for h, k in enumerate(tuned.decisions):
                    mean, second = moments[k]
                    _, _, U, v = tuned.laws()[k - 1]
                    means = nodes.mean(target[h])
                    crossed = nodes.mean(target[h][:, :, None] * walk.x[h][:, None])
                    kappa = 10 * scale * (1 + target.abs().max())
                    yield Sides(means, U @ mean + v, kappa.expand(case.dim))
                    yield Sides(crossed, U @ second + torch.outer(v, mean), kappa.expand_as(crossed))
                rows = Matched(at, target.flatten(0, 1))
                # Beside a target of nothing, whose gradient is u*'s own.
                none = Matched(at, torch.zeros_like(rows.target))
                still, whole = (gradients(nodes.loss(learner.loss, r), tuned) for r in (rows, none))
                asked = (whole[0] - still[0], whole[1] - still[1])
                yield from compared(asked, whole, 100 * scale * float(1 + target.abs().max()))


@register
class AdjointPairing(Beside, Order):
    """The adjoint at x_k in the place of that at x_{k−1} asks for a control that is off by the order of a step.

    Of a linear reward, where the right one is exact: the greatest error over the chain, in shares of the greatest control.
    """

    conditions = f"{Beside.conditions}; a schedule with noise to be heard over the data, where steps shorten with Δλ"
    name = "adjoint-pairing"
    statement = r"\max_k\|u_k^*+\sigma_ka_k\|=O(\Delta\lambda)\max_k\|u_k^*\|"
    source = "Domingo-Enrich et al. 2025 (Adjoint Matching), eq. 38, in steps; item 59"

    def applies(self, case: Case) -> bool:
        return super().applies(case) and case.overlaps(-4.0, 4.0) and sampled(case)

    def errors(self, case: Case) -> tuple[list[float], list[float], float]:
        counts, found = (12, 24, 48), []
        for count in counts:
            tuned = Tuned.of(case, "posterior", reward_of(case, False), decisions=count)
            walk = tuned.policy.walk(1, tuned.case.generator("pairing"), like=case.x0)
            adjoint, b = lean_adjoint(tuned.mdp, walk)[:, 0], tuned.slope
            best = {}
            for k in tuned.decisions[::-1]:
                best[k] = tuned.steps[k - 1].std * b / tuned.mdp.beta
                b = tuned.steps[k - 1].gain.mT @ b
            right = torch.stack([best[k] for k in tuned.decisions])
            # The adjoint at x_k is that of the decision before.
            off = right[1:] + walk.std[1:, 0] * adjoint[:-1]
            found.append(float(off.norm(dim=1).max() / right.norm(dim=1).max()))
        return [1 / count for count in counts], found, 1.0
