r"""Item 56: learning from pairs, from what β log p*/p_ref is to the bound that Diffusion-DPO takes of it."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal
from torch.nn.functional import softplus

from unidiff.identities.case import Case
from unidiff.identities.cubature import Nodes, compared, gradients
from unidiff.identities.joints import Joint
from unidiff.identities.laws import ALGEBRAIC_C, Algebraic, Bound, Sides
from unidiff.identities.registry import register
from unidiff.identities.tilts import BETA
from unidiff.identities.tuned import Beside, Tuned, reward_of
from unidiff.identities.tuned_optima import optima
from unidiff.rl import D3PO, DPO, Preferences, Walk
from unidiff.rl.methods.method import Learner
from unidiff.rl.methods.preference import Compared, implicit, noised, retraced
from unidiff.rl.policy import Taken

_PAIRS = 6
_ALL = DPO(draws=None)
_WALKS = DPO(draws=None, walks=True)


def pairs_of(tuned: Tuned) -> Preferences:
    """Pairs of the world's data."""
    x = tuned.world.sample(2 * _PAIRS, generator=tuned.case.generator("pairs"))
    return Preferences(x[:_PAIRS], x[_PAIRS:])


def log_ratios(tuned: Tuned, taken: Taken) -> tuple[Tensor, Tensor]:
    """log π_θ/π_ref of decisions ``[R, m]`` by densities, and their size."""
    x, action = (v.flatten(0, 1) for v in (taken.at.x, taken.action))
    found = tuned.log_ratio(taken.at.k.flatten(), x, action, torch.zeros_like(x))
    return found[0].view(taken.at.k.shape), found[1].view(taken.at.k.shape)


@register
class ImplicitReward(Beside, Algebraic):
    """At the optimum for linear r, walks of any law have β Σ log π*/π_ref = r − V_N(x_N), or r − β log Z with the start's.

    The control is σGᵀb/β of the joint law's regression; log Z is that of its tilt. DPO's loss on walks is then Bradley and
    Terry's of r − V_N. κ: the reward's terms and the actions'.
    """

    name = "implicit-reward"
    statement = r"\beta\log\frac{p^*(x_{t_{0:N}})}{p_\mathrm{ref}(x_{t_{0:N}})}=r(x_{t_0})-\beta\log Z"
    source = "Rafailov et al. 2023 (DPO), eq. 5; Yang et al. 2024 (D3PO), proposition 1"

    def sides(self, case: Case) -> Iterable[Sides]:
        for tuned in optima(case):
            joint, b, last = Joint.of(tuned.reference), tuned.slope, len(tuned.steps)
            tilted, log_z = joint.marginal().tilt_by(tuned.reward, BETA)
            # Drawn by another law than the policy's: it holds of every walk.
            noise = 1.5 * case.normal("implicit", 16, len(tuned.decisions) + 1, case.dim)
            walk = tuned.walked(noise)
            taken = stacked(walk)
            steps = implicit(tuned.policy, taken).sum(1)
            prior = tuned.case.schedule.prior_std**2 * torch.eye(case.dim, dtype=torch.float64)
            # p* moves the start by Cov[x_N, x_0] b/β.
            moved = joint.covariance[joint.part(last), joint.part(0)] @ b / BETA
            start = walk.x[0]
            laws = [MultivariateNormal(m, prior) for m in (moved, torch.zeros_like(b))]
            logs = [law.log_prob(start) for law in laws]
            size = (walk.x0.abs() @ b.abs() + tilted.mean.abs() @ b.abs()) / BETA + sum(v.abs() for v in logs)
            size = 100 * (1 + size + walk.action.square().sum((0, 2)))
            yield Sides(steps + logs[0] - logs[1], walk.x0 @ b / BETA - log_z, size)
            value = joint.soft_value(tuned.reward, start, last)
            earned = walk.x0 @ b / BETA - value
            yield Sides(steps, earned, size)
            half = len(noise) // 2
            both = Compared(
                taken[torch.arange(half)], taken[torch.arange(half, 2 * half)], torch.ones_like(walk.kl.mT[:half])
            )
            loss = softplus(BETA * (earned[half:] - earned[:half])).mean()
            for learner in (_WALKS.on(pairs_of(tuned)).learner(tuned.policy), D3PO("walk").learner(tuned.policy)):
                yield Sides(learner.loss(both)[None], loss[None], size.mean()[None])


@register
class DpoAtReference(Beside, Algebraic):
    """At the reference every loss from pairs is log 2 (D3PO's one for each step), and its gradient is not zero.

    That is −(β/2) Σ f c (a_w x_wᵀ − a_l x_lᵀ), a the actions that the noise of one generator leads to, f a term's weight.
    κ: the largest part.
    """

    name = "dpo-at-reference"
    statement = (
        r"L|_{\theta=\mathrm{ref}}=\log2,\quad \nabla L=-\tfrac\beta2E\sum_kf_k\left(a_k^w\nabla u_k(x_k^w)"
        r"-a_k^l\nabla u_k(x_k^l)\right)\neq0"
    )
    source = "Rafailov et al. 2023 (DPO), eq. 7; Wallace et al. 2024 (Diffusion-DPO), eq. 14"

    def sides(self, case: Case) -> Iterable[Sides]:
        for tuned in (Tuned.of(case, "posterior", reward_of(case, True)), Tuned.of(case, "prior", decoded=True)):
            pairs, many = pairs_of(tuned), len(tuned.decisions)
            asked: list[tuple[Learner[Compared], int]] = [
                (method.on(pairs).learner(tuned.policy), 1)
                for method in (
                    DPO(),
                    DPO(draws=2),
                    _ALL,
                    _WALKS,
                    DPO("constant"),
                    DPO("constant", "mean", 2),
                    DPO(reduction="mean"),
                )
            ]
            if tuned.mdp.reward is not None:
                asked += [(D3PO("walk").learner(tuned.policy), 1), (D3PO().learner(tuned.policy), many)]
            for i, (learner, terms) in enumerate(asked):
                rows, _ = learner.gather(_PAIRS, tuned.case.generator(f"at reference {i}"), None)
                loss = learner.loss(rows)
                log2 = torch.full((1,), terms * math.log(2), dtype=torch.float64)
                yield Sides(loss.detach()[None], log2, 1 + log2)
                found = gradients(loss, tuned)
                known = [torch.zeros_like(p) for p in found]
                for side, sign in ((rows.winner, 1.0), (rows.loser, -1.0)):
                    reach = torch.stack([step.reach for step in tuned.steps])[side.at.k - 1]
                    # u = c (W x + w), and the ratio is u·a − ½‖u‖².
                    share = -0.5 * BETA * sign * (rows.factor * reach)[:, :, None] * side.action / _PAIRS
                    for k in tuned.decisions:
                        at = side.at.k == k
                        known[0][k - 1] += share[at].mT @ side.at.x[at]
                        known[1][k - 1] += share[at].sum(0)
                yield from compared(found, (known[0], known[1]), 100.0)


@register
class DiffusionDpoTerms(Beside, Algebraic):
    """A term of Diffusion-DPO, its factor with it, is Tω(‖ε − ε̂_ref‖² − ‖ε − ε̂_θ‖²), Tω = ½H(SNR_s/SNR_t − 1).

    By the cores' own ε̂ at x_t by hand; with the prior's variance the posterior's share of it; a constant weight is one
    for every step and rule. The steps k are one in each part of the chain. κ: the errors' sizes with their noise.
    """

    name = "diffusion-dpo-weight"
    statement = (
        r"H\left(u_k\cdot z_k-\tfrac12\|u_k\|^2\right)=\tfrac H2\left(\frac{\mathrm{SNR}_s}{\mathrm{SNR}_t}-1\right)"
        r"\left(\|\varepsilon-\hat\varepsilon_\mathrm{ref}\|^2-\|\varepsilon-\hat\varepsilon_\theta\|^2\right)"
    )
    views = ("rl", "vae")
    source = "Wallace et al. 2024 (Diffusion-DPO), eq. 14; Kingma et al. 2021, eq. 14"

    def sides(self, case: Case) -> Iterable[Sides]:
        for tuned in self.subjects(case):
            pairs, schedule = pairs_of(tuned), tuned.case.schedule
            times, many = tuned.mdp.chain.grid.times, len(tuned.decisions)
            for i, method in enumerate((DPO(), DPO(draws=2), _ALL, DPO("constant", draws=2), DPO(reduction="mean"))):
                learner = method.on(pairs).learner(tuned.policy)
                rows, _ = learner.gather(_PAIRS, tuned.case.generator(f"terms {i}"), None)
                draws, margin = rows.factor.shape[1], torch.zeros(_PAIRS, dtype=torch.float64)
                reach = torch.zeros(())
                yield self._spread(rows, tuned)
                index, noise = _drawn(tuned, i, draws)
                data = (pairs.winner[index], pairs.loser[index])
                for side, datum, sign in zip((rows.winner, rows.loser), data, (1.0, -1.0), strict=True):
                    k, x0 = side.at.k.flatten(), datum.repeat_interleave(draws, 0)
                    t, s = times[k], times[k - 1]
                    alpha, sigma = (f(t).detach()[:, None] for f in (schedule.alpha, schedule.sigma))
                    eps = noise.flatten(0, 1)
                    xt = alpha * x0 + sigma * eps
                    snr = [(schedule.alpha(v) / schedule.sigma(v)).detach().square() for v in (s, t)]
                    share = torch.stack(
                        [step.book.posterior / step.std**2 for step in tuned.steps[tuned.mdp.last - 1 :]]
                    )
                    weight = 0.5 * (snr[0] / snr[1] - 1) * share[k - tuned.mdp.last] * many / draws
                    if method.weight == "constant":
                        weight = torch.full_like(weight, 1 / draws)
                    if method.reduction == "mean":
                        weight = weight / case.dim
                    errors = [
                        (eps - core.predict(xt, t).eps.detach()).square().sum(1)
                        for core in (tuned.mdp.chain.core, tuned.policy.core)
                    ]
                    known = weight * (errors[0] - errors[1])
                    told = implicit(tuned.policy, side).detach() * rows.factor
                    size = weight * (1 + errors[0] + errors[1] + (xt / sigma).square().sum(1))
                    yield Sides(told.flatten(), known, 10 * size)
                    margin, reach = margin + sign * known.view(-1, draws).sum(1), torch.maximum(reach, size.max())
                loss = softplus(-BETA * margin).mean()
                yield Sides(learner.loss(rows).detach()[None], loss[None], 10 * draws * (1 + reach)[None])

    @staticmethod
    def _spread(rows: Compared, tuned: Tuned) -> Sides:
        """Each row's steps are one in each part of the chain, as far as a part has whole steps, the same of both data."""
        k, m, many = rows.winner.at.k, rows.factor.shape[1], len(tuned.decisions)
        part = torch.arange(m)
        first, last = part * many // m, -(-(part + 1) * many // m) - 1
        held = torch.stack([torch.minimum(torch.maximum(k, tuned.mdp.last + first), tuned.mdp.last + last), k]).double()
        return Sides(torch.stack([k, rows.loser.at.k]).double(), held, torch.ones_like(held))


def _drawn(tuned: Tuned, i: int, draws: int) -> tuple[Tensor, Tensor]:
    """Which pairs a learner draws from this generator, and the noise, ``[P]`` and ``[P, m, D]``."""
    generator = tuned.case.generator(f"terms {i}")
    index = torch.randint(_PAIRS, (_PAIRS,), generator=generator)
    if draws < len(tuned.decisions):
        torch.rand((_PAIRS, draws), generator=generator, dtype=torch.get_default_dtype())
    return index, torch.randn((_PAIRS, draws, tuned.case.dim), generator=generator, dtype=torch.float64)


@register
class BoundOfWalks(Beside, Algebraic):
    """Along the forward process a walk's log-ratio has the mean actions' for its mean: the bound on log p_θ/p_ref.

    Both by cubature over the noise, which each takes as it is. κ: the weights' size times the largest term.
    """

    name = "dpo-bound-of-walks"
    statement = (
        r"E_{q(x_{1:N}|x_0)}\sum_k\log\frac{\pi_\theta(a_k|x_k)}{\pi_\mathrm{ref}(a_k|x_k)}"
        r"=\sum_kE_{q(x_k|x_0)}\left[u_k\cdot z_k-\tfrac12\|u_k\|^2\right],\quad z_k=b(x_0-\hat x_\mathrm{ref})/\sigma_k"
    )
    views = ("rl", "vae")
    source = "Wallace et al. 2024 (Diffusion-DPO), eq. 11 to 14"

    def sides(self, case: Case) -> Iterable[Sides]:
        for tuned in self.subjects(case):
            dim, many = case.dim, len(tuned.steps)
            data = pairs_of(tuned).winner[:3]
            nodes = Nodes.of((many + 1) * dim)
            whole = nodes.noise.view(-1, many + 1, dim).transpose(0, 1)
            one = Nodes.of(dim)
            for x0 in data:
                taken = retraced(tuned.policy, x0.expand(len(nodes.noise), -1), whole, None)
                densities, size = log_ratios(tuned, taken)
                own = implicit(tuned.policy, taken).detach()
                yield Sides(own, densities, size)
                walks = nodes.mean(own, 0)
                terms = []
                for k in tuned.decisions[::-1]:
                    at = torch.full((len(one.noise), 1), k)
                    alone = noised(tuned.policy, x0.expand(len(one.noise), -1), one.noise[:, None], at, None)
                    terms.append(one.mean(implicit(tuned.policy, alone)[:, 0]))
                known = torch.stack(terms).detach()
                yield Sides(walks, known, 10 * nodes.size * (1 + own.abs().max()).expand(len(known)))


@register
class DpoIsJensens(Beside, Bound):
    """−log σ is convex: one step at random, H times, costs no less than all of them, nor walks than their mean log-ratio."""

    name = "dpo-is-jensens"
    statement = (
        r"E_k\left[-\log\sigma\left(\beta H\,m_k\right)\right]\geq-\log\sigma\left(\beta\sum_km_k\right),\quad "
        r"m_k=\ell_k^w-\ell_k^l"
    )
    source = "Wallace et al. 2024 (Diffusion-DPO), eq. 13 and 14"

    def excess(self, case: Case) -> tuple[float, float]:
        worst, forgiven = -math.inf, 0.0
        for tuned in self.subjects(case):
            pairs, many = pairs_of(tuned), len(tuned.decisions)
            noise = case.normal("jensen", _PAIRS, many, case.dim)
            steps = torch.arange(tuned.mdp.last, len(tuned.steps) + 1).expand(_PAIRS, -1)
            both = [noised(tuned.policy, x0, noise, steps, None) for x0 in (pairs.winner, pairs.loser)]
            whole = (
                _ALL.on(pairs).learner(tuned.policy).loss(Compared(both[0], both[1], torch.ones_like(noise[..., 0])))
            )
            one = DPO().on(pairs).learner(tuned.policy)
            parts = []
            for h in range(many):
                alone = Compared(
                    _column(both[0], h), _column(both[1], h), torch.full((_PAIRS, 1), float(many)).double()
                )
                parts.append(one.loss(alone))
            mean = torch.stack(parts).mean()
            worst = max(worst, float((whole - mean).detach()))
            forgiven = max(forgiven, ALGEBRAIC_C * case.eps * float((whole + mean).detach()))
        return worst, forgiven


def _column(taken: Taken, h: int) -> Taken:
    at = taken.at
    return Taken(
        type(at)(at.x[:, h : h + 1], at.k[:, h : h + 1], at.guess[:, h : h + 1], at.std[:, h : h + 1]),
        taken.action[:, h : h + 1],
        taken.control[:, h : h + 1],
    )


def stacked(walk: Walk) -> Taken:
    """A walk's decisions, ``[B, H]``."""
    taken, shape = walk.taken(), walk.kl.shape
    at = taken.at
    columns = (
        v.unflatten(0, shape).transpose(0, 1) for v in (at.x, at.k, at.guess, at.std, taken.action, taken.control)
    )
    x, k, known, std, action, control = columns
    return Taken(type(at)(x, k, known, std), action, control)
