r"""Item 55: the law tilted by a reward, and the soft value that the tilt gives the noised states (item 53)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from unidiff.core.boundary import right_expand
from unidiff.identities.case import Case
from unidiff.identities.laws import Algebraic, Sides
from unidiff.identities.registry import register
from unidiff.identities.truths import components, log_prob_kappa
from unidiff.worlds import Gaussian, PointCloud
from unidiff.worlds.rewards import Linear, LogDensity, Quadratic
from unidiff.worlds.world import World

BETA = 0.8
COLD = 0.2
"""β of the soft value: low enough for the reward to be heard over the densities' own rounding."""


def quadratic(case: Case) -> tuple[Tensor, Tensor]:
    """A positive definite A ``[D, D]`` and b ``[D]`` of a reward −½xᵀAx + bᵀx, in the case's dtype."""
    root = case.normal("tilt A", case.dim, case.dim) / case.dim**0.5
    eye = torch.eye(case.dim, dtype=case.dtype, device=case.device)
    return 0.3 * eye + 0.2 * root @ root.mT, case.normal("tilt", case.dim) / case.dim**0.5


def gain(A: Tensor | None, b: Tensor, x: Tensor, beta: float = BETA) -> tuple[Tensor, Tensor]:
    """r(x)/β in float64 and the size of its terms, ``[B]``, for ``x`` ``[B, *E]``."""
    flat, slope = x.flatten(1).to(torch.float64), b.to(torch.float64)
    value, size = flat @ slope, flat.abs() @ slope.abs()
    if A is not None:
        wide = A.to(torch.float64)
        value = value - 0.5 * torch.einsum("bi,ij,bj->b", flat, wide, flat)
        size = size + 0.5 * torch.einsum("bi,ij,bj->b", flat.abs(), wide.abs(), flat.abs())
    return value / beta, size / beta


@register
class WorldTilt(Algebraic):
    """Item 55 for a linear and a quadratic reward and a log-density: log p* = log p + r/β − log Z at drawn data,
    and the reward called as a function is its polynomial.

    A data set's law is compared by its log-weights. κ: both densities' conditions and the terms of r/β.
    """

    name = "world-tilt"
    statement = r"\log p^*(x_0)=\log p(x_0)+r(x_0)/\beta-\log Z,\quad r=-\frac12x_0^\top Ax_0+b^\top x_0+c"
    views = ("core", "rl", "ebm")
    source = "Korbak et al. 2022, eq. 3; item 55"
    subject = "schedule"

    def sides(self, case: Case) -> Iterable[Sides]:
        A, b = quadratic(case)
        for curvature in (None, A):
            tilted, log_z = case.world.tilt(curvature, b, BETA)
            reward = Linear(b) if curvature is None else Quadratic(curvature, b)
            plain, size = gain(curvature, b, case.x0, beta=1.0)
            yield Sides(reward(case.x0), plain.to(case.dtype), size)
            yield self._sides(case, tilted, log_z, lambda x, A=curvature: gain(A, b, x))
        wide = case.world.to(torch.float64)
        centre, spread = 0.5 * b.to(torch.float64), torch.linalg.inv(A.to(torch.float64))
        spread = 0.5 * (spread + spread.mT)
        tilted, log_z = wide.tilt_by(LogDensity(Gaussian(centre, spread)), BETA)
        density = torch.distributions.MultivariateNormal(centre, precision_matrix=A.to(torch.float64))

        def by_density(x: Tensor) -> tuple[Tensor, Tensor]:
            value = density.log_prob(x.flatten(1).to(torch.float64)) / BETA
            _, size = gain(A, A @ centre.to(A), x)
            return value, size + value.abs() + case.dim

        # The reward is float64's, and so is the law that it tilts; the case's dtype is the draws'.
        yield self._sides(case, tilted, log_z, by_density)

    @staticmethod
    def _sides(case: Case, tilted: World, log_z: Tensor, reward) -> Sides:  # noqa: ANN001 - x to its gain and size
        if isinstance(case.world, PointCloud):
            assert isinstance(tilted, PointCloud)
            points = case.world.points
            value, size = reward(points)
            before = case.world.log_weights.to(torch.float64)
            own = tilted.log_weights.to(torch.float64)
            reach = size + before.abs() + own.abs()
            return Sides(own, before + value - log_z, reach + reach.max())
        value, size = reward(case.x0)
        x0 = case.x0.to(tilted.dtype)
        own, before = tilted.log_prob(x0), case.world.to(tilted.dtype).log_prob(x0)
        kappa = size + sum(_density_kappa(law, case.x0, v) for law, v in ((case.world, before), (tilted, own)))
        return Sides(own, before.to(torch.float64) + value - log_z, kappa)


def _density_kappa(law: World, x: Tensor, log_prob: Tensor) -> Tensor:
    """The condition of log p(x): D, its logarithms and the rounding of x and m at the narrowest scale, ``[B]``."""
    means, covariances, _ = components(law)
    dim, narrow = law.dim, torch.linalg.eigvalsh(covariances).min().sqrt()
    reach = x.flatten(1).to(torch.float64).norm(dim=1) + means.norm(dim=-1).max()
    size = (dim + 2 * log_prob.to(torch.float64).abs()).sqrt()
    return dim * (2 + narrow.log().abs()) + log_prob.to(torch.float64).abs() + 3 * reach * size / narrow


@register
class SoftValue(Algebraic):
    """Item 53's soft value in closed form, the posterior's log Z, against the noised tilted law over the noised law.

    κ: the two densities' conditions at their narrowest, and the reward's own size over the posterior.
    """

    name = "soft-value"
    statement = r"\log E\left[e^{r(x_0)/\beta}\,\middle|\,x_t\right]=\log Z+\log q^*_t(x_t)-\log q_t(x_t)"
    views = ("core", "rl", "ebm")
    source = "Uehara et al. 2024, theorem 1; items 53 and 55"
    conditions = "where data and noise are both heard"
    subject = "schedule"

    def sides(self, case: Case) -> Iterable[Sides]:
        case = case.heard
        A, b = quadratic(case)
        few = slice(None, None, max(1, case.batch // 16))
        z, level = case.xt[few], case.level[few]
        for curvature in (None, A):
            tilted, log_z = case.world.tilt(curvature, b, COLD)
            posterior = case.world.posterior(z, level.alpha, level.sigma)
            _, own = posterior.tilt(curvature, b, COLD)
            before = case.world.diffuse(level.alpha, level.sigma).log_prob(z)
            after = tilted.diffuse(level.alpha, level.sigma).log_prob(z)
            center, std = posterior.mean, posterior.variance.clamp(min=0).sqrt()
            _, size = gain(curvature, b, center.abs() + 2 * std, COLD)
            kappa = (
                2 * log_prob_kappa(case, z, level.alpha, level.sigma) + before.abs() + after.abs() + size + log_z.abs()
            )
            if not isinstance(case.world, PointCloud):
                narrow = torch.linalg.eigvalsh(components(tilted)[1]).min().to(z)
                least = (level.alpha.square() * narrow + level.sigma.square()).sqrt()
                reach = z.flatten(1).norm(dim=1) + level.alpha * components(tilted)[0].norm(dim=-1).max().to(z)
                kappa = kappa + 3 * reach * (case.dim + 2 * after.abs()).sqrt() / least
            yield Sides(own, log_z + after - before, kappa)


@register
class WorldCovariance(Algebraic):
    """Mean, variance and covariance of a noised law and of a posterior, from the raw moments of its parts in float64.

    κ: the raw second moment, of which a covariance is a difference, by its norm.
    """

    name = "world-covariance"
    statement = r"\mathrm{Cov}[z]=\alpha^2\left(E[x_0x_0^\top]-E[x_0]E[x_0]^\top\right)+\sigma^2I"
    views = ("core", "thermo")
    source = "Bishop 2006, eq. 2.62"
    subject = "schedule"

    def sides(self, case: Case) -> Iterable[Sides]:
        few = slice(None, None, max(1, case.batch // 8))
        alpha, sigma = (v[few].to(torch.float64) for v in (case.level.alpha, case.level.sigma))
        mean, second = _moments(case.world)
        eye = torch.eye(case.dim, dtype=torch.float64, device=case.device)
        scale2, noise2 = alpha.square()[:, None, None], sigma.square()[:, None, None]
        noised = case.world.diffuse(case.level.alpha[few], case.level.sigma[few])
        expected = scale2 * (second - mean[:, None] * mean) + noise2 * eye
        yield from self._compare(noised, alpha[:, None] * mean, expected, scale2 * second.norm() + noise2)
        heard = case.heard
        z, level = heard.xt[few], heard.level[few]
        posterior = case.world.posterior(z, level.alpha, level.sigma)
        mean, second = _moments(posterior)
        expected = second - mean[:, :, None] * mean[:, None]
        yield from self._compare(posterior, mean, expected, second.flatten(1).norm(dim=1)[:, None, None])

    @staticmethod
    def _compare(law: World, mean: Tensor, covariance: Tensor, size: Tensor) -> Iterable[Sides]:
        yield Sides(law.mean.flatten(1), mean, right_expand(size.flatten().sqrt(), mean))
        yield Sides(law.covariance.diagonal(dim1=-2, dim2=-1), covariance.diagonal(dim1=-2, dim2=-1), size[..., 0])
        yield Sides(law.variance.flatten(1), covariance.diagonal(dim1=-2, dim2=-1), size[..., 0])
        # By its norm: an entry off the diagonal may be a true zero.
        off = (law.covariance.to(torch.float64) - covariance).flatten(1).norm(dim=1)
        whole = covariance.flatten(1).norm(dim=1)
        yield Sides(whole + off, whole, size[..., 0, 0] * covariance.shape[-1] ** 0.5)


def _moments(law: World) -> tuple[Tensor, Tensor]:
    """E[x] and E[xxᵀ] of a law without noise of its own, or of a batch, in float64."""
    if isinstance(law, PointCloud):
        points, weights = law.points.to(torch.float64).flatten(1), law.weights.to(torch.float64)
        return weights @ points, torch.einsum("...n,nd,ne->...de", weights, points, points)
    means, covariances, weights = components(law)
    second = covariances + means[..., :, None] * means[..., None, :]
    return torch.einsum("...k,...kd->...d", weights, means), torch.einsum("...k,...kde->...de", weights, second)
