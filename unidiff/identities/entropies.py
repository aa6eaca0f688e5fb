r"""Entropies against the densities that they are the mean of, and an estimate's standard error against its own spread."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from unidiff.identities.case import Case, sampled
from unidiff.identities.kernels import density_kappa
from unidiff.identities.laws import Algebraic, MonteCarlo, Sides
from unidiff.identities.registry import register
from unidiff.worlds import Gaussian, GaussianMixture, PointCloud
from unidiff.worlds.estimate import monte_carlo


@register
class KernelEntropy(Algebraic):
    """A kernel's entropy is −log p at its mean and half a nat for each dimension. κ: D(1 + |log σ²|)."""

    name = "kernel-entropy"
    statement = r"H(N(m,v))=-\log N(m;m,v)+\frac D2"
    views = ("core", "vae", "thermo", "rl")
    source = "Cover & Thomas 2006, theorem 8.4.1"
    subject = "schedule"

    def sides(self, case: Case) -> Iterable[Sides]:
        q = case.process
        for law in (q.marginal(case.x0, case.t), q.posterior(case.xt, case.x0, case.s, case.t)):
            kappa = case.dim * (3 + law.log_var.abs()).flatten(1).mean(1)
            yield Sides(law.entropy(), 0.5 * case.dim - law.log_prob(law.mean), kappa)


@register
class ProductConstant(Algebraic):
    """∫ of two densities in x_s: the likelihood of x_t, in units of x_s, and q(x_s|x_0). κ: the densities' conditions."""

    name = "product-constant"
    statement = (
        r"\int N(x_s;\tfrac{x_t}{\alpha_{t|s}},\tfrac{\sigma^2_{t|s}}{\alpha_{t|s}^2})\,q(x_s|x_0)\,\mathrm{d}x_s"
        r"=\alpha_{t|s}^D\,q(x_t|x_0)"
    )
    views = ("core", "vae")
    source = "Bishop 2006, eq. 2.115"
    subject = "schedule"

    def sides(self, case: Case) -> Iterable[Sides]:
        q = case.process
        before, after = q.marginal(case.x0, case.s), q.marginal(case.x0, case.t)
        alpha_ts, log_var = (case.expand(v.detach()) for v in q.transition_coefficients(case.s, case.t))
        likelihood = type(before)(case.xt / alpha_ts, log_var - 2 * alpha_ts.log())
        _, found = before.product(likelihood)
        shrunk = case.dim * alpha_ts.flatten(1)[:, 0].log()
        # The two log-variances are added: each rounds at its own size.
        stored = before.log_var.abs() + likelihood.log_var.abs() + after.log_var.abs()
        kappa = density_kappa(after, case.xt) * (1 + stored.flatten(1)[:, 0]) + shrunk.abs()
        yield Sides(found, after.log_prob(case.xt) + shrunk, kappa)


@register
class WorldEntropy(Algebraic):
    """Closed forms: a noised Gaussian's by its density at the mean; a tilted data set's by log Z and the mean reward.

    κ: the logarithms summed.
    """

    name = "world-entropy"
    statement = r"H=-\log p(m)+\frac D2;\qquad H(p^*)=\log Z-E_{p^*}\left[\log p+r/\beta\right]"
    views = ("core", "thermo")
    source = "Cover & Thomas 2006, theorem 8.4.1; Korbak et al. 2022, eq. 3"
    conditions = "a Gaussian or a data set"
    subject = "schedule"

    def applies(self, case: Case) -> bool:
        return isinstance(case.world, (Gaussian, PointCloud))

    def sides(self, case: Case) -> Iterable[Sides]:
        world = case.world
        if isinstance(world, PointCloud):
            b = case.normal("entropy", case.dim) / case.dim**0.5
            tilted, log_z = world.tilt(None, b, 0.8)
            gain = world.points.flatten(1).to(torch.float64) @ b.to(torch.float64) / 0.8
            terms = world.log_weights + gain
            kappa = log_z.abs() + (tilted.weights * (world.log_weights.abs() + gain.abs())).sum() + terms.abs().max()
            right = log_z - (tilted.weights.to(torch.float64) * terms).sum()
            yield Sides(tilted.entropy().value.reshape(1), right.reshape(1), kappa.reshape(1))
            return
        law = world.diffuse(case.level.alpha, case.level.sigma)
        spread = torch.linalg.eigvalsh(law.covariance.to(torch.float64)).log().abs().sum(1)
        yield Sides(law.entropy().value, 0.5 * case.dim - law.log_prob(law.mean), 3 * case.dim + spread)


@register
class EntropyOfCoinciding(Algebraic):
    """A mixture's quadrature where the answer is known: two components that coincide are one Gaussian.

    κ: D + Σ|log e|, over the rule's own 1e-14. Of the noised world's first dimensions.
    """

    name = "entropy-of-coinciding"
    statement = r"H\left(w\,N(m,C)+(1-w)\,N(m,C)\right)=\frac12\log|2\pi eC|"
    views = ("core", "thermo")
    source = "Cover & Thomas 2006, theorem 8.4.1"
    conditions = "one or two dimensions, by quadrature"
    subject = "schedule"

    def applies(self, case: Case) -> bool:
        return isinstance(case.world, Gaussian) and case.dtype == torch.float64

    def sides(self, case: Case) -> Iterable[Sides]:
        # Noised, for a world without width in some direction.
        noised = case.world.diffuse(1.0, 0.5)
        for dim in range(1, min(case.dim, 2) + 1):
            mean, block = case.world.mean[:dim], noised.covariance[:dim, :dim]
            twice = GaussianMixture(torch.tensor([0.3, 0.7]).to(mean), mean.expand(2, dim), block.expand(2, dim, dim))
            logs = torch.linalg.eigvalsh(block).log()
            own = twice.entropy().value
            yield Sides(
                own.reshape(1),
                (0.5 * (dim * math.log(2 * math.pi) + dim + logs.sum())).reshape(1),
                dim + logs.abs().sum() + 1,
            )


@register
class EntropyEstimate(MonteCarlo):
    """A mixture's entropy is the mean of −log p, and the standard error of an estimate from n draws is its own.

    Two independent estimates differ by twice their variance on average. Draws come in blocks, so that another call's
    estimate answers for each. Of the law noised to equal scales, smooth enough for a quadrature of few nodes. Sizes: the
    deviation of −log p, and that variance.
    """

    name = "entropy-estimate"
    statement = r"H=-E\log p,\quad \tfrac12E(\hat H_a-\hat H_b)^2=E\left[\mathrm{se}^2\right]"
    views = ("core", "thermo")
    source = "Cover & Thomas 2006, section 8.1"
    conditions = "a mixture under three schedules, in float64"
    subject = "schedule"
    bound = 0.35

    def applies(self, case: Case) -> bool:
        # An estimate is float64's whatever the world's dtype.
        return isinstance(case.world, GaussianMixture) and case.dtype == torch.float64 and sampled(case)

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        blocks, pairs, n = 256, 12, 4
        level = case.schedule.level_at(0.5 * sum(case.window(-1.0, 1.0)))
        law = case.world.diffuse(float(level.alpha.detach()), float(level.sigma.detach()))
        x = law.sample(blocks * pairs * 2 * n, generator=case.generator("entropy"))
        surprise = -law.log_prob(x).to(torch.float64).reshape(-1, n)
        estimates = [monte_carlo(row) for row in surprise]
        value = torch.stack([e.value for e in estimates]).reshape(blocks, pairs, 2)
        variance = torch.stack([e.standard_error for e in estimates]).square().reshape(blocks, pairs, 2)
        again = case.generator("entropy again")
        whole = law.entropy(pairs * 2 * n, again)
        others = [whole] * blocks if whole.law == "quadrature" else [law.entropy(256, again) for _ in range(blocks)]
        exact = torch.stack([e.value for e in others]).to(value)
        spread = 0.5 * (value[..., 0] - value[..., 1]).square()
        size = torch.stack([surprise.std(), spread.mean()])
        return torch.stack([value.mean((1, 2)) - exact, (spread - variance.mean(2)).mean(1)], 1), size
