r"""Items 51 to 54: how far two chains are apart, and the optimum of KL-regularised control of Gaussian data's chain."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from unidiff.core.chain import Variance
from unidiff.identities.case import Case
from unidiff.identities.joints import Joint, Kind, OfGaussian, Reference, drawn, points
from unidiff.identities.kernels import density_kappa
from unidiff.identities.laws import ALGEBRAIC_C, Algebraic, Bound, Sides
from unidiff.identities.registry import register
from unidiff.identities.tilts import BETA
from unidiff.worlds import Gaussian

_RULES: tuple[Variance, ...] = ("posterior", "prior", "optimal")


@register
class PathKl(OfGaussian, Algebraic):
    """Item 51, the closed form: the step-by-step KL of two chains against that of two Gaussians of (N + 1)D numbers.

    κ: the steps' means, in units of their noise, times their difference; and of the whole, its condition.
    """

    name = "path-kl"
    statement = (
        r"\mathrm{KL}(p(x_{t_{0:N}})\,\|\,p'(x_{t_{0:N}}))"
        r"=\sum_kE_p\left[\mathrm{KL}(p(x_{t_{k-1}}|x_{t_k})\,\|\,p'(x_{t_{k-1}}|x_{t_k}))\right]"
    )
    views = ("rl", "vae", "thermo")
    source = "Cover & Thomas 2006, theorem 2.5.3; Fan et al. 2023 (DPOK), eq. 7"

    def sides(self, case: Case) -> Iterable[Sides]:
        for rule in _RULES:
            own, other = self.reference(case, rule), self.other(case, rule)
            found, known = own.asked.kl(other.asked), relative_entropy(own.joint, other.joint)
            yield Sides(found, known, kl_kappa(case, own, other, known))


def relative_entropy(own: Joint | Gaussian, other: Joint | Gaussian) -> Tensor:
    """KL of two Gaussians, by the textbook (Bishop 2006, exercise 2.13)."""
    first, second = (MultivariateNormal(v.mean, v.covariance) for v in (own, other))
    return kl_divergence(first, second)


def kl_kappa(case: Case, own: Reference, other: Reference, known: Tensor) -> Tensor:
    """κ of a path KL: a step's mean rounds at its terms' size, in units of its noise, and its difference is squared."""
    total, distance = torch.zeros_like(known), (2 * known).sqrt()
    for k in range(1, own.book.steps + 1):
        law, noise = own.joint.marginal(k), other.book.covariance[k - 1].diagonal().min().sqrt()
        spread = (law.mean.square().sum() + law.variance.sum()).sqrt()
        reach = own.book.gain[k - 1].norm() * spread + own.book.shift[k - 1].norm()
        total = total + case.dim + (2 * distance + case.eps * reach / noise) * reach / noise
    whole = len(own.joint.mean) + known + distance * own.joint.mean.norm()
    return total + whole * other.joint.condition * torch.finfo(torch.float64).eps / case.eps


@register
class PathKlBoundsData(OfGaussian, Bound):
    """Item 51, the inequality: what two chains make of noise is no further apart than their paths are."""

    name = "path-kl-bounds-data"
    statement = r"\mathrm{KL}(p(x_{t_0})\,\|\,p'(x_{t_0}))\leq\mathrm{KL}(p(x_{t_{0:N}})\,\|\,p'(x_{t_{0:N}}))"
    views = ("rl", "vae", "thermo")
    source = "Cover & Thomas 2006, theorems 2.5.3 and 2.6.3"

    def excess(self, case: Case) -> tuple[float, float]:
        worst, forgiven = -float("inf"), 0.0
        for rule in _RULES[:2]:
            own, other = self.reference(case, rule), self.other(case, rule)
            of_data = relative_entropy(own.joint.marginal(), other.joint.marginal())
            of_paths = own.asked.kl(other.asked)
            worst = max(worst, float(of_data - of_paths))
            forgiven = max(forgiven, ALGEBRAIC_C * case.eps * float(kl_kappa(case, own, other, of_paths)))
        return worst, forgiven


@register
class TiltedChain(OfGaussian, Algebraic):
    """Item 52 where x_{t_N} may move: the optimal chain's data have the reference's law tilted, and its log Z.

    κ: N steps of D numbers, of the deviations and the means; log Z's of its reward's terms at the data.
    """

    name = "tilted-chain"
    statement = r"p^*(x_{t_0})=p_\mathrm{ref}(x_{t_0})\,e^{r(x_{t_0})/\beta}/Z,\quad b^\top x:\ \Delta m=S\,b/\beta"
    views = ("rl", "core")
    source = "Uehara et al. 2024, theorem 1; Levine 2018, section 2"

    def sides(self, case: Case) -> Iterable[Sides]:
        worth = []
        asked: tuple[tuple[Variance, Kind], ...] = (
            ("posterior", "linear"),
            ("prior", "quadratic"),
            ("optimal", "density"),
        )
        for rule, which in asked:
            joint = self.reference(case, rule).joint
            reward, found = self.optimum(case, rule, which)
            law = joint.marginal()
            tilted, log_z = law.tilt_by(reward, BETA)
            mean, covariance = found.policy.moments()[0]
            steps = case.dim * found.policy.steps
            scale = law.variance.max().sqrt()
            yield Sides(mean, tilted.mean, steps * (law.mean.norm() + tilted.mean.norm() + scale))
            yield Sides(covariance, tilted.covariance, steps * scale.square())
            size = self.size(case, joint, reward, law.mean[None], 0)[0]
            earned = reward(points(tilted)).mean() / BETA
            own = (found.log_z, found.objective / BETA, found.reward / BETA, found.kl)
            worth += zip(own, (log_z, log_z, earned, earned - log_z), [size] * 4, strict=True)
        # Together: one of them may be near zero by chance.
        yield Sides(*(torch.stack(v) for v in zip(*worth, strict=True)))


@register
class KeptStart(OfGaussian, Algebraic):
    """Item 52 where x_{t_N} is drawn from the prior: only what x_{t_0} has beyond x_{t_N} is tilted.

    For linear r the mean moves by Cov[x_0|x_N]b/β, S(1 − ρ²)b/β for one number, and the covariance not at all. In general
    the law is that of tilt(p_ref(x_0|x_N)), x_N from the prior. κ: as with a free start.
    """

    name = "kept-start"
    statement = (
        r"x_{t_N}\sim p_\mathrm{ref}:\ \Delta m=\mathrm{Cov}[x_{t_0}|x_{t_N}]\,b/\beta=S(1-\rho^2)\,b/\beta,\quad "
        r"\rho=\mathrm{corr}(x_{t_0},x_{t_N})"
    )
    views = ("rl", "core")
    source = "Domingo-Enrich et al. 2024 (Adjoint Matching), the initial value function bias"

    def sides(self, case: Case) -> Iterable[Sides]:
        asked: tuple[tuple[Variance, Kind], ...] = (("posterior", "linear"), ("prior", "quadratic"))
        worth: list[tuple[Tensor, Tensor, Tensor]] = []
        for rule, which in asked:
            joint = self.reference(case, rule).joint
            reward, found = self.optimum(case, rule, which, "kept")
            law, last = joint.marginal(), found.policy.steps
            _, left = joint.regression(last)
            start = points(joint.marginal(last))
            tilted, log_z = joint.given(start, last).tilt_by(reward, BETA)
            means = tilted.mean
            mean, covariance = found.policy.moments()[0]
            steps, scale = case.dim * last, law.variance.max().sqrt()
            size = steps * (law.mean.norm() + means.norm() + scale)
            if which == "linear":
                _, b, _ = reward.coefficients()
                assert b is not None
                yield Sides(mean - law.mean, left @ b / BETA, size)
                yield Sides(covariance, law.covariance, steps * scale.square())
            yield Sides(mean, means.mean(0), size)
            around = means - means.mean(0)
            yield Sides(covariance, tilted.covariance[0] + around.mT @ around / len(start), steps * scale.square())
            kappa, gained = self.size(case, joint, reward, start, last).mean(), found.objective / BETA
            worth += [(gained, log_z.mean(), kappa), (gained, found.reward / BETA - found.kl, kappa)]
        # Together: what a reward is worth may be near zero by chance.
        yield Sides(*(torch.stack(v) for v in zip(*worth, strict=True)))


@register
class ChainSoftValue(OfGaussian, Algebraic):
    """Item 53: the value that each step's Gaussian integral hands on is the chain's own expectation of the reward.

    e^{V/β} is therefore a martingale under the chain. κ: the reward's terms at what the chain may make of x_t, N steps.
    """

    name = "chain-soft-value"
    statement = (
        r"E_\mathrm{ref}\left[e^{V_s(x_s)/\beta}\,\middle|\,x_t\right]"
        r"=E_\mathrm{ref}\left[e^{r(x_{t_0})/\beta}\,\middle|\,x_t\right]=e^{V_t(x_t)/\beta}"
    )
    views = ("rl", "core")
    source = "Uehara et al. 2024, theorem 1; Levine 2018, section 2"

    def sides(self, case: Case) -> Iterable[Sides]:
        asked: tuple[tuple[Variance, Kind], ...] = (("posterior", "quadratic"), ("prior", "density"))
        for rule, which in asked:
            reference = self.reference(case, rule)
            reward, found = self.optimum(case, rule, which)
            for k in range(found.policy.steps + 1):
                x = reference.draws(case, k)
                known = reference.joint.soft_value(reward, x, k)
                yield Sides(found.values[k](x) / BETA, known, self.size(case, reference.joint, reward, x, k))


@register
class DoobTransform(OfGaussian, Algebraic):
    """Item 53: the optimal step's density is the chain's own times what the value gains, at states that are drawn.

    The values are expectations under the joint law. κ: both densities', and both values'.
    """

    name = "doob-transform"
    statement = r"\log p^*(x_s|x_t)=\log p_\mathrm{ref}(x_s|x_t)+\left(V_s(x_s)-V_t(x_t)\right)/\beta"
    views = ("rl", "core", "vae")
    source = "Doob 1957; Uehara et al. 2024, theorem 1"

    def sides(self, case: Case) -> Iterable[Sides]:
        asked: tuple[tuple[Variance, Kind], ...] = (("posterior", "quadratic"), ("prior", "linear"))
        for rule, which in asked:
            reference = self.reference(case, rule)
            reward, found = self.optimum(case, rule, which)
            for k in range(1, found.policy.steps + 1):
                xt = reference.draws(case, k)
                law = reference.chain.step(xt.to(case.dtype), k)
                xs = law.sample(noise=drawn(case, f"doob {k}", *xt.shape).to(case.dtype)).to(torch.float64)
                own = found.policy.step(xt, k).log_prob(xs)
                before, after = (reference.joint.soft_value(reward, x, j) for x, j in ((xt, k), (xs, k - 1)))
                plain = law.log_prob(xs.to(case.dtype)).to(torch.float64)
                kappa = sum(self.size(case, reference.joint, reward, x, j) for x, j in ((xt, k), (xs, k - 1)))
                narrow = torch.linalg.eigvalsh(found.policy.covariance[k - 1])[0].sqrt()
                reach = xs.norm(dim=1) + found.policy.gain[k - 1].norm() * xt.norm(dim=1) + reference.joint.mean.norm()
                kappa = kappa + density_kappa(law, xs.to(case.dtype)).to(torch.float64)
                kappa = (
                    kappa + case.dim * (2 + narrow.log().abs()) + 3 * reach * (case.dim + 2 * own.abs()).sqrt() / narrow
                )
                yield Sides(own, plain + after - before, kappa)


@register
class LinearControl(OfGaussian, Algebraic):
    """Item 54 for linear r: the covariance does not move, the mean by σ²∇V/β, ∇V = Gᵀb of the joint law's regression.

    κ: the means' terms for each of N steps; of the residual, those in units of σ too.
    """

    name = "linear-control"
    statement = (
        r"r=b^\top x:\quad\mu^*=\mu_\mathrm{ref}+\sigma^2\nabla V/\beta,\quad "
        r"u^*=\sigma\nabla V/\beta,\quad C^*=\sigma^2I"
    )
    views = ("rl", "core")
    source = "Todorov 2009; Domingo-Enrich et al. 2024 (Adjoint Matching)"

    def sides(self, case: Case) -> Iterable[Sides]:
        for rule in _RULES[::2]:
            reference = self.reference(case, rule)
            reward, found = self.optimum(case, rule, "linear")
            _, b, _ = reward.coefficients()
            assert b is not None
            for k in range(1, found.policy.steps + 1):
                xt = reference.draws(case, k)
                law = reference.chain.step(xt.to(case.x0), k)
                mean, var = (v.to("cpu", torch.float64).expand(xt.shape) for v in (law.mean, law.var))
                slope = b if k == 1 else b @ reference.joint.regression(k - 1)[0]
                lift = (var * slope / BETA).expand_as(mean)
                size = mean.abs() + found.policy.gain[k - 1].norm() * xt.norm(dim=1)[:, None]
                size = size + case.world.mean.norm().to(mean)
                size = size + case.dim * found.policy.steps * lift.abs()
                moved = found.policy.step_mean(xt, k)
                yield Sides(moved, mean + lift, size)
                yield Sides(
                    found.control(xt, k),
                    lift / var.sqrt(),
                    (slope.norm() / BETA * case.dim * found.policy.steps * var.sqrt()),
                )
                stored = 1 + law.log_var.abs().max().to(mean)
                yield Sides(found.policy.covariance[k - 1].diagonal(), var[0], var[0] * stored)
