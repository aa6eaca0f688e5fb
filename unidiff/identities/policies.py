r"""Items 54 and 57: policies that must keep σ, and guidance as the optimal control that it is."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor

from unidiff.core.chain import Variance
from unidiff.core.diffusion import Diffusion
from unidiff.identities.case import Case, sampled
from unidiff.identities.chains import denoiser_kappa, grid_of
from unidiff.identities.joints import Joint, OfGaussian, Reference, drawn, points
from unidiff.identities.laws import ALGEBRAIC_C, Algebraic, Bound, Quadrature, Sides
from unidiff.identities.registry import register
from unidiff.identities.tilts import BETA, quadratic
from unidiff.identities.truths import components
from unidiff.identities.variances import Book
from unidiff.rl import DenoisingMDP, LinearChain, Optimum, State, linear_optimum, reachable
from unidiff.rl.optimum import Start
from unidiff.worlds import Gaussian, GaussianMixture, OracleDenoiser
from unidiff.worlds.rewards import Linear, LogDensity, Quadratic, QuadraticReward


def worth(reward: QuadraticReward, found: Optimum, chain: LinearChain) -> Tensor:
    """J/β of a policy with the reference's covariances: E r/β − Σ ½E‖u‖², the start's too, by its joint law's points."""
    joint, reference = Joint.of(chain), found.reference
    value = reward(points(joint.marginal())).mean() / BETA
    for k in range(1, chain.steps + 1):
        x = points(joint.marginal(k))
        u = (chain.step_mean(x, k) - reference.step_mean(x, k)) / reference.covariance[k - 1].diagonal().sqrt()
        value = value - 0.5 * u.square().sum(1).mean()
    off = chain.shift[-1] - reference.shift[-1]
    return value - 0.5 * (off.square() / reference.covariance[-1].diagonal()).sum()


@register
class SteadyGap(OfGaussian, Algebraic):
    """Item 54 for quadratic r: what the best policy with the reference's σ lacks of log Z is its KL to p*.

    log Z is the tilted joint law's; J is the reward at the policy's data less ½‖u‖² a step. κ: the reward's terms, N steps.
    """

    name = "steady-gap"
    statement = (
        r"\log Z-\max_u\left\{\mathrm{E}_ur/\beta-\sum_k\frac{1}{2}\mathrm{E}\|u_k\|^2\right\}"
        r"=\mathrm{KL}(p_u\,\|\,p^*)=\sum_k\frac{1}{2}\left[\mathrm{tr}(A_kC_k)-\log\det(I+A_kC_k)\right]"
    )
    views = ("rl", "thermo")
    source = "Todorov 2009; Fan et al. 2023 (DPOK), eq. 7"
    conditions = "Gaussian data, the exact denoiser, where data and noise are both heard; float64, for the gap is small"

    def applies(self, case: Case) -> bool:
        return super().applies(case) and case.dtype == torch.float64

    def sides(self, case: Case) -> Iterable[Sides]:
        asked: tuple[tuple[Variance, Start], ...] = (("posterior", "free"), ("prior", "kept"))
        for rule, start in asked:
            reference = self.reference(case, rule)
            reward, found = self.optimum(case, rule, "quadratic", start)
            _, best = self.optimum(case, rule, "quadratic")
            law = reference.joint.marginal()
            _, log_z = law.tilt_by(reward, BETA)
            reached = worth(reward, found, found.steady)
            size = self.size(case, reference.joint, reward, law.mean[None], 0)
            yield Sides(found.steady_objective / BETA, reached, size)
            yield Sides(found.steady_gap, log_z - reached, size)
            yield Sides(found.steady.kl(best.policy), log_z - reached, size)


@register
class SteadyIsBest(OfGaussian, Bound):
    """Item 54: no policy with the reference's σ does better than the recursion's, nor that one than β log Z.

    Each row of the best is moved a little, in its gain and in its shift, both ways.
    """

    name = "steady-is-best"
    statement = r"J(u)\leq\max_uJ(u)<\beta\log Z\quad(A\neq0)"
    views = ("rl",)
    source = "Bertsekas 2017, section 3.1; Levine 2018, section 3"

    def excess(self, case: Case) -> tuple[float, float]:
        reference = self.reference(case, "posterior")
        reward, found = self.optimum(case, "posterior", "quadratic")
        best, policy = worth(reward, found, found.steady), found.steady
        worst = float(best - found.log_z)
        for row in range(policy.steps + 1):
            std = reference.book.covariance[row].diagonal().sqrt()
            move = 0.3 * std[:, None] * drawn(case, f"steady {row}", case.dim, case.dim + 1)
            for sign in (-1.0, 1.0):
                gain, shift = policy.gain.clone(), policy.shift.clone()
                shift[row] += sign * move[:, -1]
                if row < policy.steps:
                    gain[row] += sign * move[:, :-1] / reference.joint.marginal(row + 1).variance.max().sqrt()
                worst = max(worst, float(worth(reward, found, LinearChain(gain, shift, policy.covariance)) - best))
        size = self.size(case, reference.joint, reward, reference.joint.marginal().mean[None], 0)
        return worst, ALGEBRAIC_C * torch.finfo(torch.float64).eps * float(size)


@register
class Reach(OfGaussian, Quadrature):
    """Item 54 without a matrix: dynamic programming on a lattice finds the best policy that keeps σ, for any reward.

    Held against the recursion of matrices where there is one, on the first number of Gaussian data, with a linear and a
    quadratic reward: E r/β, KL, log Z, the gap, and u at three states. What is refined is the lattice.
    """

    name = "steady-reach"
    statement = (
        r"V_k(x)=\max_u\left\{\mathrm{E}_\xi V_{k-1}(\mu+\sigma(u+\xi))-\frac{\beta}{2}\|u\|^2\right\}:\quad "
        r"\log Z-\mathrm{E}V_N/\beta=\mathrm{KL}(p_u\,\|\,p^*)"
    )
    views = ("rl",)
    source = "Bertsekas 2017, section 1.3; Todorov 2009"
    conditions = "one number of Gaussian data, the exact denoiser, where data and noise are both heard; three schedules"
    refinements = (32, 48, 72, 108)

    def applies(self, case: Case) -> bool:
        return super().applies(case) and case.dtype == torch.float64 and sampled(case)

    def values(self, case: Case, n: int) -> tuple[Tensor, Tensor]:
        world = cast("Gaussian", case.world).to(device="cpu")
        # Half a deviation from the origin: a quadratic reward of data far from it has its best policy beyond any lattice.
        var = world.covariance[:1, :1]
        one = OracleDenoiser(Gaussian(0.5 * var[0].sqrt(), var))
        chain = Diffusion(case.heard.schedule, one).chain(grid_of(case.heard, 3), "posterior")
        book = LinearChain.of(chain)
        A, b = (v.to("cpu", torch.float64) for v in quadratic(case))
        x, found, known = drawn(case, "reach", 3, 1), [], []
        for reward in (Linear(b[:1]), Quadratic(A[:1, :1], b[:1])):
            own = reachable(DenoisingMDP(chain, reward, beta=BETA), points=n)
            best = linear_optimum(book, reward, BETA, "kept")
            u = [own.control(x, k) for k in range(1, chain.steps + 1)]
            figures = torch.tensor(
                [own.reward / BETA, own.kl, own.log_z, own.gap, own.value / BETA], dtype=torch.float64
            )
            found += [figures, torch.cat(u).flatten()]
            steady = best.steady
            known += [
                torch.stack(
                    [
                        best.expected_reward(steady) / BETA,
                        steady.kl(best.reference),
                        book.marginal().tilt_by(reward, BETA)[1],
                        best.steady_gap,
                        best.steady_objective / BETA,
                    ]
                ),
                torch.cat([best.control(x, k) for k in range(1, chain.steps + 1)]).flatten(),
            ]
        return torch.cat(found), torch.cat(known)

    def rounding(self, case: Case) -> float:
        return case.eps


@register
class ConditionedChain(OfGaussian, Algebraic):
    """Item 57: with r = β log p(y|x_0), y = x_0 + noise, the optimum is the chain of the denoiser that knows y.

    Exactly so at any step size where the chain is the reverse of q: Gaussian data in their own axes, the optimal rule, a
    start in q_1, and p(y|x_{t_0}) for the reward of what the chain ends in. ∇V_t/β is what that denoiser's score has more,
    ∇log p(y|x_t). κ: the means' terms for each of N steps; a variance with its log; the scores' terms.
    """

    name = "conditioned-chain"
    statement = (
        r"r=\beta\log p(y|x_{t_0}):\quad p^*(x_s|x_t)=q(x_s|x_t,y),\quad "
        r"\nabla V_t/\beta=\nabla\log p(y|x_t)=\nabla\log q_t(x_t|y)-\nabla\log q_t(x_t)"
    )
    views = ("rl", "score")
    source = "Uehara et al. 2024, theorem 1; Dhariwal & Nichol 2021, eq. 10"
    conditions = (
        "Gaussian data in their own axes, the exact denoiser, a start in q_1, where data and noise are both heard"
    )

    def sides(self, case: Case) -> Iterable[Sides]:
        heard, times = case.heard, grid_of(case.heard).times
        world = case.world.to(device="cpu")
        values = torch.linalg.eigvalsh(world.covariance.to(torch.float64))
        own = Gaussian(world.mean, values.diag().to(case.dtype))
        wide = own.to(torch.float64)
        first, last = (_level(heard, t) for t in (times[0], times[-1]))
        noise = values.mean() * torch.eye(case.dim, dtype=torch.float64)
        y = wide.mean + values.sqrt() * drawn(case, "told", case.dim)
        knows, _ = wide.tilt_by(LogDensity(Gaussian(y, noise)), 1.0)
        # p(y|x_{t_0}) as a density of x_{t_0}, up to a constant: y = g x_{t_0} + h and the noise of both.
        at = wide.posterior(torch.zeros_like(wide.mean)[None], *first)
        g, h, left = first[0] * values / (first[0] ** 2 * values + first[1] ** 2), at.mean[0], at.variance[0]
        reward = LogDensity(Gaussian((y - h) / g, ((left + noise.diagonal()) / g.square()).diag()))
        chains = []
        for world in (own, Gaussian(knows.mean.to(case.dtype), knows.variance.diag().to(case.dtype))):
            start = world.to(torch.float64).diffuse(*last)
            chains.append(Reference.of(heard, world, "optimal").asked.starting(start.mean, start.covariance))
        found, steps = linear_optimum(chains[0], reward, 1.0), case.dim * chains[0].steps
        size = steps * (values.max().sqrt() + knows.mean.norm() + wide.mean.norm())
        for row in range(found.policy.steps + 1):
            mine, theirs = ((c.gain[row].diagonal(), c.shift[row]) for c in (found.policy, chains[1]))
            yield Sides(mine[1], theirs[1], size.expand(case.dim))
            if row < found.policy.steps:
                # Asked at states of the level's size, about a mean that may be large beside it.
                asked = wide.mean.norm() / math.hypot(*_level(heard, times[row + 1]))
                yield Sides(mine[0], theirs[0], steps * (theirs[0].abs() + asked))
            var, expected = (c.covariance[row].diagonal() for c in (found.policy, chains[1]))
            yield Sides(var, expected, steps * expected * (1 + expected.log().abs()))
            alpha, sigma = _level(heard, times[row])
            x = wide.diffuse(alpha, sigma).normals.sample(drawn(case, f"conditioned {row}", 8, case.dim))
            scores = [law.diffuse(alpha, sigma).score(x) for law in (knows, wide)]
            reach = x.norm(dim=1, keepdim=True) + alpha * (knows.mean.norm() + wide.mean.norm())
            noised = alpha**2 * knows.variance + sigma**2
            yield Sides(found.values[row].gradient(x), scores[0] - scores[1], steps * reach / noised)


def _level(case: Case, t: Tensor) -> tuple[float, float]:
    """(α, σ) at t."""
    return float(case.schedule.alpha(t).detach()), float(case.schedule.sigma(t).detach())


@register
class GuidanceIsControl(Algebraic):
    """Item 57 on a mixture, y the component: the residual (σ_{t|s}/α_{t|s})∇log p(y|x_t) leads to the component's own chain.

    The gradient is automatic, of the responsibilities. As the step gets short the factor is g√Δt, that of the continuous
    control σ∇log p(y|x_t). κ: the guided x̂_0's terms, as the mixture's score has them, and the gradient's.
    """

    name = "guidance-is-control"
    statement = (
        r"\mu_\mathrm{ref}+\sigma_{t|s}u=\mu_y,\quad u=\frac{\sigma_{t|s}}{\alpha_{t|s}}\nabla\log p(y|x_t),\quad "
        r"\beta\,\mathrm{KL}=\frac{\beta}{2}\|u\|^2"
    )
    views = ("rl", "score", "core")
    source = "Uehara et al. 2024, theorem 1; Dhariwal & Nichol 2021, eq. 10"
    conditions = (
        "a mixture's exact denoiser and the prior rule, where data and noise are both heard; float64, three schedules"
    )
    subject = "optimal"

    def applies(self, case: Case) -> bool:
        exact = isinstance(case.world, GaussianMixture) and isinstance(case.core.denoiser, OracleDenoiser)
        return exact and case.dtype == torch.float64 and sampled(case)

    def sides(self, case: Case) -> Iterable[Sides]:
        case = case.heard
        world, every = case.world, slice(None, None, max(1, case.batch // 16))
        assert isinstance(world, GaussianMixture)
        grid = grid_of(case, 3)
        chain = case.core.chain(grid, "prior")
        mdp = DenoisingMDP(chain, beta=BETA)
        label = torch.arange(case.batch, device=case.device)[every] % world.num_classes
        for k in range(2, grid.steps + 1):
            level = case.schedule.level(grid.times[k], case.x0)
            alpha, sigma = level.alpha.detach(), level.sigma.detach()
            xt = (alpha * case.x0 + sigma * case.noise)[every].requires_grad_()
            share = world.posterior(xt, alpha, sigma).log_weights.gather(1, label[:, None])
            (slope,) = torch.autograd.grad(share.sum(), xt)
            xt = xt.detach()
            book = Book(case, grid.times[k - 1], grid.times[k])
            ratio = alpha / case.schedule.alpha(grid.times[k - 1]).detach()
            u = book.prior.sqrt() / ratio * slope
            outcome = mdp.step(State(xt, k), u)
            guided, plain = chain.step(xt, k, label), chain.step(xt, k)
            means, covariances, _ = components(world)
            least = torch.linalg.eigvalsh(covariances).min() + (sigma / alpha).square()
            reach = xt.norm(dim=1, keepdim=True) + alpha * means.norm(dim=1).max()
            rounding = book.on_x0 * (denoiser_kappa(case, xt, level) + reach) * (1 + reach / (alpha * least.sqrt()))
            # The gradient is a difference of the components' scores.
            pulled = book.prior / ratio * (slope.abs() * (1 + book.lost / case.eps) + reach / (alpha.square() * least))
            size = guided.mean.abs() + (book.on_xt * xt).abs() + rounding + pulled
            yield Sides(outcome.state.x, guided.mean.detach(), size)
            pull = (u.abs() * size / book.prior.sqrt()).sum(1) + u.square().sum(1) + case.eps
            yield Sides(outcome.charge, BETA * guided.kl(plain).detach(), BETA * pull)
