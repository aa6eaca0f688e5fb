r"""Item 50: the gradient of what a chain earns, four ways: by scores, along paths, truncated, and in closed form."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from unidiff.identities.case import Case
from unidiff.identities.cubature import Nodes, compared, downhill, nodes_of
from unidiff.identities.laws import Algebraic, Sides
from unidiff.identities.registry import register
from unidiff.identities.tuned import Beside, Parameters, Tuned
from unidiff.rl import DDPO, DPOK, Backprop
from unidiff.rl.methods.backprop import Noises
from unidiff.rl.methods.gradients import Weighed, surrogate
from unidiff.rl.methods.value import advantages
from unidiff.rl.policy import Taken


@register
class ScoreFunctionGradient(Beside, Algebraic):
    """DDPO's loss on the rewards themselves has −∇E[r] for its mean gradient, as a score and as a ratio.

    The mean is a cubature's. κ: its weights' size, and that of the reward over its gradient's part.
    """

    name = "score-function-gradient"
    statement = r"\nabla E[r(x_0)]=E\left[r(x_0)\sum_k\nabla\log\pi_\theta(a_k|x_k)\right]"
    source = "Williams 1992; Black et al. 2024, eq. 4 and 5"

    def sides(self, case: Case) -> Iterable[Sides]:
        for tuned in self.subjects(case):
            nodes, noise = nodes_of(tuned)
            walk, known = tuned.walked(noise), tuned.gradient(0.0)
            rows = Weighed(walk.taken(), walk.reward.repeat(len(walk.x)))
            for method in (DDPO("score"), DDPO("ratio")):
                loss = method.learner(tuned.policy).loss
                yield from compared(downhill(nodes.loss(loss, rows), tuned), known, _size(nodes, walk.reward))


@register
class BaselineKeepsTheMean(Beside, Algebraic):
    """A baseline of the state and the step leaves the mean gradient as it is, and one of the action does not.

    b is of third degree in x. The other: a·1 adds the score's own moment, H-fold E[Σ_i a_i ∇log π]. κ as the score's.
    """

    name = "baseline-keeps-the-mean"
    statement = r"E\left[b(x_k,k)\,\nabla\log\pi_\theta(a_k|x_k)\right]=0"
    source = "Greensmith et al. 2004, section 3; Williams 1992"

    def sides(self, case: Case) -> Iterable[Sides]:
        for tuned in self.subjects(case):
            nodes, noise = nodes_of(tuned)
            walk, known = tuned.walked(noise), tuned.gradient(0.0)
            x = walk.x.sum(2) / tuned.case.schedule.prior_std
            baseline = walk.k[:, None] * (0.3 + x - 0.2 * x**3)
            rows = Weighed(walk.taken(), (walk.reward - baseline).flatten())
            loss = DDPO("score").learner(tuned.policy).loss
            size = _size(nodes, walk.reward) + _size(nodes, baseline)
            yield from compared(downhill(nodes.loss(loss, rows), tuned), known, size)
            # Of the action: E[(1ᵀa)(a − u)] = 1, so that each step's W and w gain c E[1 (x, 1)ᵀ].
            rows = replace(rows, advantage=walk.action.sum(2).flatten())
            reach = torch.stack([step.reach for step in tuned.steps]) * (
                torch.arange(1, len(tuned.steps) + 1) >= tuned.mdp.last
            )
            mean = torch.zeros_like(known[1])
            mean[walk.k - 1] = nodes.mean(walk.x, 1)
            ones = reach[:, None].expand_as(known[1])
            own = downhill(nodes.loss(loss, rows), tuned)
            yield from compared(own, (ones[:, :, None] * mean[:, None], ones), _size(nodes, walk.action))


@register
class ChargedGradient(Beside, Algebraic):
    """DPOK's loss has −∇(E[r] − β KL) for its mean gradient: a step pays for itself and, in its advantage, for later ones.

    By the advantages of no value, ℓ = 1. κ as the score's, with the charges.
    """

    name = "charged-gradient"
    statement = (
        r"\nabla\left(E[r]-\beta\,\mathrm{KL}\right)=E\sum_k\left[\left(r-\beta\sum_{j\leq k}\tfrac12\|u_j\|^2\right)"
        r"\nabla\log\pi_\theta(a_k|x_k)-\beta\nabla\tfrac12\|u_k\|^2\right]"
    )
    source = "Fan et al. 2023 (DPOK), lemma 4.2, the later steps' KL included"

    def sides(self, case: Case) -> Iterable[Sides]:
        for tuned in self.subjects(case):
            nodes, noise = nodes_of(tuned)
            walk, beta = tuned.walked(noise), tuned.mdp.beta
            earned = walk.paid - beta * walk.kl
            advantage = advantages(earned, torch.zeros_like(earned), 1.0).flatten()
            rows = Weighed(walk.taken(), advantage, 0 * advantage)
            for method in (DPOK("score"), DPOK("ratio")):
                loss = method.learner(tuned.policy).loss
                found = downhill(nodes.loss(loss, rows), tuned)
                yield from compared(found, tuned.gradient(beta), _size(nodes, walk.reward) + _size(nodes, walk.kl))


@register
class PathwiseGradient(Beside, Algebraic):
    """Backpropagation through every step has −∇(E[r] − β KL) for its mean gradient. κ as the score's."""

    name = "pathwise-gradient"
    statement = (
        r"\nabla\left(E[r]-\beta\,\mathrm{KL}\right)=E\,\nabla\left[r(x_0(\xi))-\beta\sum_k\tfrac12\|u_k\|^2\right]"
    )
    source = "Clark et al. 2024 (DRaFT), section 3; Kingma & Welling 2014, section 2.4"

    def sides(self, case: Case) -> Iterable[Sides]:
        for tuned in self.subjects(case):
            yield from compared(_backpropagated(tuned, None), tuned.gradient(tuned.mdp.beta), _reach(tuned))


@register
class TruncatedGradient(Beside, Algebraic):
    """Through the last K steps: theirs is whole, an earlier one's lacks all but its own charge, a bias in closed form.

    κ as the score's.
    """

    name = "truncated-gradient-bias"
    statement = (
        r"E\,g_K-\nabla J=-\sum_{k>K}c_kE\left[\sigma_k\nabla V_{k-1}(x_{k-1})\,(x_k^\top,1)\right],\quad "
        r"\nabla V_{k}=-\beta U_k^\top u_k+M_k^\top E\nabla V_{k-1}"
    )
    source = "Clark et al. 2024 (DRaFT-K), section 3.1; Prabhudesai et al. 2023 (AlignProp), section 4.2"

    def sides(self, case: Case) -> Iterable[Sides]:
        for tuned in self.subjects(case):
            whole, known = _backpropagated(tuned, None), tuned.gradient(tuned.mdp.beta)
            for last in (1, 2):
                found, part, size = _backpropagated(tuned, last), tuned.gradient(tuned.mdp.beta, last), _reach(tuned)
                yield from compared(found, part, size)
                bias, lacking = ([a - b for a, b in zip(*v, strict=True)] for v in ((found, whole), (part, known)))
                yield from compared((bias[0], bias[1]), (lacking[0], lacking[1]), size)


def _backpropagated(tuned: Tuned, last: int | None) -> Parameters:
    """The mean step of backpropagation through the last K decisions."""
    nodes, noise = nodes_of(tuned)
    learner = Backprop(last).learner(tuned.policy)
    learner.gather(1, tuned.case.generator("through"), None)
    rows = Noises(tuned.case.schedule.prior_std * noise[:, 0], noise[:, 1:])
    return downhill(nodes.loss(learner.loss, rows), tuned)


def _reach(tuned: Tuned) -> float:
    nodes, noise = nodes_of(tuned)
    walk = tuned.walked(noise)
    return _size(nodes, walk.reward) + _size(nodes, walk.kl)


def _size(nodes: Nodes, value: Tensor) -> float:
    # Each node's score is a few deviations, and what it multiplies is at most the largest value.
    return nodes.size * (1 + float(value.abs().max()))


@register
class ClippedRatio(Beside, Algebraic):
    """The surrogate is PPO's: ρ from the densities of the chain's own steps, clipped in nats per number.

    Taken by another policy; half of the ratios are clipped. κ: both log-densities', times the value.
    """

    name = "clipped-ratio"
    statement = (
        r"L=-\min\left(\rho A,\ \mathrm{clip}(\rho,e^{-Dc},e^{Dc})\,A\right),\quad "
        r"\rho=\frac{N(x_{k-1};\mu_\theta,\sigma^2)}{N(x_{k-1};\mu_\mathrm{old},\sigma^2)}"
    )
    source = "Schulman et al. 2017, eq. 7; Black et al. 2024, eq. 5"

    def sides(self, case: Case) -> Iterable[Sides]:
        n = 32
        for tuned in self.subjects(case):
            noise = case.normal("clipped", n, len(tuned.decisions) + 1, case.dim)
            walk = tuned.walked(noise)
            at = walk.decisions()
            old = walk.control.flatten(0, 1) + 0.4 * case.normal("old", len(at), case.dim)
            action = old + case.normal("taken", len(at), case.dim)
            advantage = case.normal("advantage", len(at))
            log_rho, size = tuned.log_ratio(at.k, at.x, action, old)
            own = tuned.policy.control(at)
            rows = Taken(at, action, old)
            clip = float(log_rho.abs().median()) / case.dim
            whole = log_rho.exp() * advantage
            held = log_rho.clamp(-clip * case.dim, clip * case.dim).exp() * advantage
            kappa = size * (1 + whole.abs() + held.abs() + advantage.abs())
            yield Sides(surrogate(own, rows, advantage, "ratio", clip), -torch.minimum(whole, held), kappa)
            yield Sides(surrogate(own, rows, advantage, "ratio", None), -whole, kappa)
            yield Sides(surrogate(own, rows, advantage, "score", None), -advantage * log_rho, kappa)
