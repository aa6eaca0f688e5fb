r"""The worlds themselves: density, score, noising, posterior and tilt, each against a computation that shares no code.

κ of an exact denoiser's logits: a logit −‖z − αx‖²/2v is of size D where it counts and inherits the rounding of z as
‖z‖√D/√v, v = α²e + σ² with e the world's own variance (zero for a data set); see ``chains.denoiser_kappa``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from unidiff.identities.case import Case, sampled
from unidiff.identities.chains import denoiser_kappa
from unidiff.identities.laws import Algebraic, MonteCarlo, Sides
from unidiff.identities.registry import register
from unidiff.worlds import Gaussian, GaussianMixture, PointCloud


def reference_log_prob(case: Case, z: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """log q(z) in float64 by torch's own distributions, on the float32 world's own parameters widened. ``[B]``."""
    z, alpha, sigma = (v.to(torch.float64) for v in (z.flatten(1), alpha, sigma))
    world = case.world
    if isinstance(world, PointCloud):
        points = world.points.to(torch.float64).flatten(1)
        weights = world.weights.to(torch.float64)
        distance2 = torch.stack([(z - alpha[:, None] * p).square().sum(1) for p in points], 1)
        logits = weights.log() - 0.5 * distance2 / sigma[:, None].square()
        dim = z.shape[1]
        return torch.logsumexp(logits, 1) - dim * sigma.log() - 0.5 * dim * math.log(2 * math.pi)
    means, covariances, weights = components(world)
    eye = torch.eye(z.shape[1], dtype=torch.float64, device=z.device)
    spread = alpha[:, None, None, None].square() * covariances + sigma[:, None, None, None].square() * eye
    parts = torch.distributions.MultivariateNormal(alpha[:, None, None] * means, spread)
    return torch.logsumexp(weights.log() + parts.log_prob(z[:, None]), 1)


def components(world: object) -> tuple[Tensor, Tensor, Tensor]:
    """Means ``[K, D]``, covariances ``[K, D, D]`` and weights ``[K]`` of a Gaussian world in float64, batch first."""
    if isinstance(world, GaussianMixture):
        return tuple(v.to(torch.float64) for v in (world.means, world.covariances, world.weights))  # pyright: ignore
    if isinstance(world, Gaussian):
        mean = world.mean.to(torch.float64)[..., None, :]
        return mean, world.covariance.to(torch.float64)[..., None, :, :], torch.ones_like(mean[..., 0])
    raise TypeError(f"world must be one of unidiff's, got {type(world).__name__}")


def log_prob_kappa(case: Case, z: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The condition of log q(z): D, its logarithms, and the rounding of z at the narrowest scale, ‖z‖√D/σ, ``[B]``."""
    dim = case.dim
    narrow = sigma
    if not isinstance(case.world, PointCloud):
        least = torch.linalg.eigvalsh(components(case.world)[1]).min()
        narrow = (alpha.square() * least.to(alpha) + sigma.square()).sqrt()
    reach = z.flatten(1).norm(dim=1) + alpha * case.world.mean.norm()
    return dim * (2 + narrow.log().abs()) + reach * dim**0.5 * 3 / narrow


@register
class WorldDensity(Algebraic):
    """The noised density against torch.distributions (or a loop over the data) in float64. κ: ``log_prob_kappa``."""

    name = "world-density"
    statement = r"q_t(z)=\int p(x_0)\,N(z;\alpha x_0,\sigma^2 I)\,\mathrm{d}x_0"
    views = ("core", "score", "ebm")
    source = "Bishop 2006, eq. 2.115"
    subject = "schedule"

    def sides(self, case: Case) -> Iterable[Sides]:
        z, alpha, sigma = (v[:16] for v in (case.xt, case.level.alpha, case.level.sigma))
        own = case.world.diffuse(alpha, sigma).log_prob(z)
        yield Sides(own, reference_log_prob(case, z, alpha, sigma), log_prob_kappa(case, z, alpha, sigma))


@register
class WorldScore(Algebraic):
    """The closed-form score against automatic differentiation of the log density. κ: (‖z‖ + α·κ(x̂_0))/σ²."""

    name = "world-score"
    statement = r"s_t(z)=\nabla_z\log q_t(z)"
    views = ("core", "score", "ebm")
    source = "Hyvarinen 2005"
    conditions = "any schedule; in float32 where data and noise are both heard"
    subject = "schedule"

    def sides(self, case: Case) -> Iterable[Sides]:
        case = case.legible
        law = case.world.diffuse(case.level.alpha, case.level.sigma)
        yield Sides(law.score(case.xt), autograd_score(case), score_kappa(case))


def autograd_score(case: Case) -> Tensor:
    """∇ log q_t(x_t) by automatic differentiation of the world's log-density, ``[B, *E]``."""
    z = case.xt.clone().requires_grad_()
    law = case.world.diffuse(case.level.alpha, case.level.sigma)
    (slope,) = torch.autograd.grad(law.log_prob(z).sum(), z)
    return slope


def score_kappa(case: Case) -> Tensor:
    """(‖z‖ + α κ(x̂_0))/σ²: the score is (α x̂_0 − z)/σ² however it is computed."""
    alpha, sigma = case.expand(case.level.alpha), case.expand(case.level.sigma)
    return (
        case.expand(case.xt.flatten(1).norm(dim=1)) + alpha * denoiser_kappa(case, case.xt, case.level)
    ) / sigma.square()


@register
class WorldBayes(Algebraic):
    """The posterior's density (a data set's: its weights) by Bayes' rule. κ: the three log-densities' conditions."""

    name = "world-bayes"
    statement = r"\log p(x_0|z)=\log p(x_0)+\log q(z|x_0)-\log q_t(z)"
    views = ("core", "vae", "rl")
    source = "Bishop 2006, eq. 2.116"
    subject = "schedule"

    def sides(self, case: Case) -> Iterable[Sides]:
        z, alpha, sigma = case.xt, case.level.alpha, case.level.sigma
        posterior = case.world.posterior(z, alpha, sigma)
        total = case.world.diffuse(alpha, sigma).log_prob(z)
        kappa = log_prob_kappa(case, z, alpha, sigma)
        if isinstance(case.world, PointCloud):
            nearest = (case.expand(alpha) * case.x0 - z).flatten(1).square().sum(1)
            forward = -0.5 * nearest / sigma.square() - case.dim * (sigma.log() + 0.5 * math.log(2 * math.pi))
            same = case.world.points.flatten(1)[None] == case.x0.flatten(1)[:, None]
            index = same.all(2).to(torch.int64).argmax(1)
            own = posterior.log_weights.gather(1, index[:, None])[:, 0]  # pyright: ignore
            yield Sides(own, case.world.weights[index].log() + forward - total, kappa)
            return
        forward = case.process.marginal(case.x0, case.t).log_prob(z)
        # The posterior is as narrow as σ/α, so x_0's own rounding enters at that scale.
        reach = case.x0.flatten(1).norm(dim=1) * case.dim**0.5
        kappa = (
            kappa
            + case.dim * (1 + sigma.log().abs())
            + reach * (1 + 3 * alpha / sigma)
            + z.flatten(1).norm(dim=1) * (3 * case.dim**0.5 / sigma)
        )
        least = torch.linalg.eigvalsh(components(case.world)[1]).min().to(alpha)
        reach0 = (case.x0.flatten(1).norm(dim=1) + case.world.mean.norm()) * case.dim**0.5 * 3 / least.sqrt()
        yield Sides(posterior.log_prob(case.x0), case.world.log_prob(case.x0) + forward - total, kappa + reach0)


@register
class WorldComposes(Algebraic):
    """Noising to s and then from s to t is noising to t. κ: ``log_prob_kappa``, and the stored logs of σ²_{t|s}."""

    name = "world-composes"
    statement = r"(p*N_s)*N_{t|s}=p*N_t"
    views = ("core", "thermo")
    source = "item 1, on laws"
    subject = "schedule"

    def sides(self, case: Case) -> Iterable[Sides]:
        alpha_ts, log_var = (v.detach().to(case.dtype) for v in case.process.transition_coefficients(case.s, case.t))
        at_s = case.world.diffuse(case.level_s.alpha, case.level_s.sigma)
        twice = _noised_again(at_s, alpha_ts, (0.5 * log_var).exp())
        once = case.world.diffuse(case.level.alpha, case.level.sigma).log_prob(case.xt)
        kappa = log_prob_kappa(case, case.xt, case.level.alpha, case.level.sigma) * (2 + log_var.abs())
        yield Sides(twice.log_prob(case.xt), once, kappa)


def _noised_again(law, alpha: Tensor, sigma: Tensor):  # noqa: ANN001, ANN202 - a batch of laws of any family
    return law.diffuse(alpha, sigma)


@register
class WorldMoments(MonteCarlo):
    """Draws of a noised law have the mean α m and the variance α²C + σ², in the nearer and the noisier half of levels."""

    name = "world-moments"
    statement = r"E[z]=\alpha m,\quad \mathrm{diag\,Cov}[z]=\alpha^2\,\mathrm{diag}\,C+\sigma^2"
    views = ("core",)
    source = "Bishop 2006, eq. 2.62"
    subject = "schedule"
    bound = 0.15

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        draws = case.mixed
        alpha, sigma = (v.reshape(-1, 1) for v in (draws.level.alpha, draws.level.sigma))
        mean = alpha * case.world.mean.flatten()
        centred = draws.xt.flatten(1) - mean
        variance = alpha.square() * case.world.variance.flatten() + sigma.square()
        scale = variance.mean(1).sqrt()
        first = centred.mean(1) / scale
        second = (centred.square() - variance).mean(1) / scale.square()
        return banded(first, second), torch.ones(4, dtype=torch.float64, device=case.device)


def banded(*values: Tensor) -> Tensor:
    """Each ``[n]`` in order of level as the two columns of its halves, ``[n/2, 2K]``: opposite errors cannot cancel."""
    return torch.cat([v.reshape(2, -1).T for v in values], 1)


@register
class MixtureDraws(MonteCarlo):
    """Draws come from each component with its own weight, mean and covariance, told by their responsibilities r_k.

    Σ over components alone would hide one drawn like another. Size: w_k D, and w_k √D for the mean along the diagonal.
    """

    name = "mixture-draws"
    statement = (
        r"E\left[r_k\,(x-m_k)^\top S_k^{-1}(x-m_k)\right]=w_kD,\quad "
        r"E\left[r_k\,S_k^{-1/2}(x-m_k)\right]=0,\quad E[r_k]=w_k"
    )
    views = ("core",)
    source = "Bishop 2006, eq. 9.17 to 9.22"
    conditions = "a Gaussian or a mixture, three schedules; in float64"
    subject = "schedule"
    bound = 0.25

    def applies(self, case: Case) -> bool:
        # A component's share of the draws is the same in either dtype.
        known = isinstance(case.world, (Gaussian, GaussianMixture))
        return known and case.dtype == torch.float64 and sampled(case)

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        means, covariances, weights = components(case.world)
        # Four times the usual draws: the smallest component's share of them has to be heard.
        x = case.world.sample(4 * case.draws, generator=case.generator("mixture draws")).to(torch.float64)
        parts = torch.distributions.MultivariateNormal(means, covariances)
        share = torch.softmax(weights.log() + parts.log_prob(x[:, None]), 1)
        lower = torch.linalg.cholesky(covariances)
        z = torch.linalg.solve_triangular(lower, (x[:, None] - means)[..., None], upper=False)[..., 0]
        second = share * z.square().sum(2) - weights * case.dim
        columns = torch.cat([second, share * z.sum(2), share - weights], 1)
        return columns, torch.cat([weights * case.dim, weights * case.dim**0.5, weights])


@register
class NoisedDraws(MonteCarlo):
    """A noised law's own draws have its mean and its variance, along a direction in which both are felt.

    Sizes: the deviation, and the variance.
    """

    name = "noised-draws"
    statement = (
        r"E\left[u^\top z-\alpha u^\top m\right]=0,\quad "
        r"E\left[(u^\top z-\alpha u^\top m)^2\right]=\alpha^2u^\top Cu+\sigma^2"
    )
    views = ("core",)
    source = "Ho et al. 2020, eq. 4"
    conditions = "where data and noise are of one size"
    subject = "schedule"

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        world, n = case.world, 4 * case.draws
        # In units in which data and noise weigh the same, whatever the schedule's convention.
        sigma = float(world.variance.flatten().mean().sqrt()) * 0.5
        z = world.diffuse(0.5, sigma).sample(n, generator=case.generator("noised draws")).flatten(1).to(torch.float64)
        x = world.sample(n, generator=case.generator("plain draws")).flatten(1).to(torch.float64)
        u = torch.ones(case.dim, dtype=torch.float64, device=case.device) / case.dim**0.5
        centred = (z - 0.5 * world.mean.flatten().to(torch.float64)) @ u
        plain = (x - world.mean.flatten().to(torch.float64)) @ u
        spread = 0.25 * plain.square() + sigma**2
        size = spread.mean()
        return torch.stack([centred, centred.square() - spread], 1), torch.stack([size.sqrt(), size])


@register
class TotalVariance(MonteCarlo):
    """The law of total variance ties posterior mean and posterior variance to the world's own, in each half of levels."""

    name = "total-variance"
    statement = r"E\,\mathrm{Var}[x_0|z]+\mathrm{Var}\,E[x_0|z]=\mathrm{Var}[x_0]"
    views = ("core", "thermo")
    source = "Guo, Shamai and Verdu 2005"
    subject = "optimal"
    bound = 0.15

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        draws, world = case.mixed, case.world
        x0 = draws.core_x0.flatten(1)
        own = (x0 - world.mean.flatten()).square().sum(1) + draws.trace
        drawn = (draws.x0.flatten(1) - world.mean.flatten()).square().sum(1)
        return banded(own - drawn), world.variance.flatten().sum().reshape(1)
