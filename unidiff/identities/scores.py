r"""Items 12 to 14: the denoiser, the score and the posterior covariance are one object; matching either matches both."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from unidiff.core.level import NoiseLevel
from unidiff.identities.case import Case
from unidiff.identities.laws import Algebraic, MonteCarlo, Sides
from unidiff.identities.registry import register
from unidiff.identities.truths import autograd_score, score_kappa


def few(case: Case) -> int:
    """How many members to differentiate through: a Jacobian of a data set's denoiser is dear."""
    return min(case.batch, 16)


@register
class TweedieMean(Algebraic):
    """Item 12, first order: the core's x̂_0 and score against the log-density's gradient. κ: (|z| + α κ(x̂_0))/α.

    The gradient is automatic differentiation's, so that neither the core's nor the world's own score is on that side.
    """

    name = "tweedie"
    statement = r"E[x_0|z]=\frac{z+\sigma^2\nabla\log q_t(z)}{\alpha}"
    views = ("core", "score", "vae")
    source = "Robbins 1956; Efron 2011, eq. 1.4"
    conditions = "the exact denoiser; its score in float32 where data and noise are both heard"
    subject = "optimal"

    def sides(self, case: Case) -> Iterable[Sides]:
        alpha, sigma = case.expand(case.level.alpha), case.expand(case.level.sigma)
        kappa = sigma.square() * score_kappa(case) / alpha
        yield Sides(case.prediction.x0.detach(), (case.xt + sigma.square() * autograd_score(case)) / alpha, kappa)
        case = case.legible
        yield Sides(case.prediction.score.detach(), autograd_score(case), score_kappa(case))


@register
class TweedieCovariance(Algebraic):
    """Item 12, second order, along a random direction u: uᵀ Cov u against (σ²/α²)(‖u‖² + σ² uᵀ∇s u).

    κ: (σ²/α²)(‖u‖² + σ²|uᵀ∇s u|), and what the logits' rounding δℓ does to the covariance: a weight w_i moves by
    δℓ w_i, so uᵀ Cov u = Σ w_i (u·(x_i − x̄))² by no more than δℓ of itself.
    """

    name = "tweedie-covariance"
    statement = r"\mathrm{Cov}[x_0|z]=\frac{\sigma^2}{\alpha^2}\left(I+\sigma^2\nabla s\right)"
    views = ("core", "score", "thermo")
    source = "Efron 2011, eq. 2.8; Meng et al. 2021, theorem 1"
    conditions = "where data and noise are both heard: elsewhere the covariance is a small difference"
    subject = "schedule"

    def sides(self, case: Case) -> Iterable[Sides]:
        case = case.heard
        n = few(case)
        z, level = case.xt[::4][:n], case.level[slice(None, None, 4)][slice(0, n)]
        u = case.normal("direction", *z.shape)
        turned = vjp(lambda x: case.world.diffuse(level.alpha, level.sigma).score(x), z, u)
        posterior = case.world.posterior(z, level.alpha, level.sigma)
        flat = u.flatten(1)
        own = torch.einsum("bi,bij,bj->b", flat, posterior.covariance, flat)
        scale, norm2, along = (level.sigma / level.alpha).square(), flat.square().sum(1), (turned * u).flatten(1).sum(1)
        size = norm2 + level.sigma.square() * flat.norm(dim=1) * turned.flatten(1).norm(dim=1)
        kappa = scale * size + logit_kappa(case, z, level) * own
        yield Sides(own, scale * (norm2 + level.sigma.square() * along), kappa)


def logit_kappa(case: Case, z: Tensor, level: NoiseLevel) -> Tensor:
    """δℓ/eps of ``chains.denoiser_kappa``: D + ‖z‖√D/σ, ``[B]``."""
    return case.dim + z.flatten(1).norm(dim=1) * case.dim**0.5 / level.sigma


@register
class SymmetricJacobian(Algebraic):
    """The exact denoiser is a gradient field: uᵀJw = wᵀJu, for a random u and w = Jᵀu, where neither side cancels.

    κ: the Jacobian is (α/σ²) Cov, whose weights round by their logits' condition δℓ, at most (α/σ²)δℓ √(uᵀCov u wᵀCov w);
    and ‖u‖‖w‖ times what is left where differentiating a softmax subtracts: the logits' slopes from each other,
    ‖std‖‖z‖/σ², and x̂_0 from each point, ‖x̂_0‖‖z − αx̂_0‖/σ², both over √D.
    """

    name = "symmetric-jacobian"
    statement = r"\frac{\partial\hat x_0}{\partial z}=\left(\frac{\partial\hat x_0}{\partial z}\right)^{\!\top}"
    views = ("core", "score", "ebm")
    source = "Saremi 2019; item 12"
    conditions = "the exact denoiser, where data and noise are both heard"
    subject = "optimal"

    def sides(self, case: Case) -> Iterable[Sides]:
        case = case.heard
        n = few(case)
        z, level = case.xt[::4][:n], case.level[slice(None, None, 4)][slice(0, n)]
        u = case.normal("symmetric u", *z.shape)

        def denoise(x: Tensor) -> Tensor:
            return case.core.denoiser(x, level).x0

        w = vjp(denoise, z, u)
        left, right = w.flatten(1).square().sum(1), (vjp(denoise, z, w) * u).flatten(1).sum(1)
        yield Sides(left, right, jacobian_kappa(case, z, level, u.flatten(1), w.flatten(1)))


def jacobian_kappa(case: Case, z: Tensor, level: NoiseLevel, u: Tensor, w: Tensor) -> Tensor:
    """The condition of uᵀJw, J = ∂x̂_0/∂z by automatic differentiation, ``[B]``: see :class:`SymmetricJacobian`."""
    posterior = case.world.posterior(z, level.alpha, level.sigma)
    mean, std = posterior.mean.flatten(1), posterior.variance.clamp(min=0).flatten(1).sum(1).sqrt()
    spread = [torch.einsum("bi,bij,bj->b", v, posterior.covariance, v).clamp(min=0) for v in (u, w)]
    off = (z.flatten(1) - level.alpha[:, None] * mean).norm(dim=1)
    subtracted = (z.flatten(1).norm(dim=1) * std + mean.norm(dim=1) * off) / case.dim**0.5
    weights = level.alpha * logit_kappa(case, z, level) * (spread[0] * spread[1]).sqrt()
    return (weights + subtracted * u.norm(dim=1) * w.norm(dim=1)) / level.sigma.square()


def vjp(function, z: Tensor, vector: Tensor) -> Tensor:  # noqa: ANN001 - a function of one state
    """Jᵀ ``vector`` of a function of one state, at ``z`` ``[B, *E]``."""
    z = z.detach().clone().requires_grad_()
    (out,) = torch.autograd.grad(function(z), z, vector)
    return out


def smooth_field(case: Case, z: Tensor) -> tuple[Tensor, Tensor]:
    """A smooth test field φ(z) = tanh(a∘z + b) + c∘z and its divergence > 0, in closed form: no network, no autograd."""
    a, b, c = (case.normal(f"field {name}", z.shape[1]) for name in "abc")
    a, b, c = 0.5 + 0.3 * a.abs(), 0.5 * b, 0.3 + 0.1 * c.abs()
    inner = torch.tanh(a * z + b)
    return inner + c * z, (a * (1 - inner.square()) + c).sum(1)


@register
class Stein(MonteCarlo):
    """Item 14's Stein identity on a test field, weighted by σ over the levels. Size compared: E|∇·φ|."""

    name = "stein"
    statement = r"E\left[\phi\cdot s+\nabla\cdot\phi\right]=0"
    views = ("score",)
    source = "Stein 1981; Hyvarinen 2005, theorem 1"
    subject = "schedule"

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        draws = case.mixed
        field, divergence = smooth_field(case, draws.xt.flatten(1))
        sigma = draws.level.sigma
        along = (field * draws.score.flatten(1)).sum(1)
        return (along + divergence) * sigma, (divergence * sigma).mean().reshape(1)


@register
class Hyvarinen(MonteCarlo):
    """Item 14 with R from item 13's posterior variance, so that the explicit side never squares the score."""

    name = "hyvarinen"
    statement = (
        r"\frac12E\|\phi-s\|^2=E\left[\frac12\|\phi\|^2+\nabla\cdot\phi\right]+\frac12R,\quad "
        r"R=\frac{D}{\sigma^2}-\frac{\alpha^2}{\sigma^4}\mathrm{mmse}"
    )
    views = ("score", "thermo")
    source = "Hyvarinen 2005, theorem 1"
    subject = "schedule"

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        draws = case.mixed
        score = draws.score.flatten(1)
        field, divergence = smooth_field(case, draws.xt.flatten(1))
        fisher = case.dim / draws.level.sigma.square() - (
            draws.level.alpha.square() / draws.level.sigma**4 * draws.trace
        )
        explicit = 0.5 * (field - score).square().sum(1)
        implicit = 0.5 * field.square().sum(1) + divergence + 0.5 * fisher
        var = draws.level.sigma.square()
        return (explicit - implicit) * var, (explicit * var).mean().reshape(1)


@register
class SlicedScore(MonteCarlo):
    """Item 14, sliced: along random directions v the explicit and the implicit loss differ by ½E(v·s)², known apart.

    The slope along v is automatic differentiation's, eight directions a draw. Size: E|vᵀ∇φ v|.
    """

    name = "sliced-score-matching"
    statement = (
        r"\frac12E(v\cdot(\phi-s))^2=E\left[\frac12(v\cdot\phi)^2+v^\top\nabla\phi\,v\right]+\frac12E(v\cdot s)^2"
    )
    views = ("score",)
    source = "Song et al. 2020 (sliced score matching), theorem 1"
    subject = "schedule"

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        draws, directions = case.mixed, 8
        z, score, sigma = draws.xt.flatten(1), draws.score.flatten(1), draws.level.sigma
        field, _ = smooth_field(case, z)
        difference, size = torch.zeros_like(sigma), torch.zeros_like(sigma)
        for k in range(directions):
            v = case.normal(f"slice {k}", *z.shape)
            slope = (vjp(lambda x: smooth_field(case, x)[0], z, v) * v).sum(1)
            explicit = 0.5 * (v * (field - score)).sum(1).square()
            implicit = 0.5 * (v * field).sum(1).square() + slope + 0.5 * (v * score).sum(1).square()
            difference, size = difference + (explicit - implicit) / directions, size + slope.abs() / directions
        return difference * sigma, (size * sigma).mean().reshape(1)


@register
class DsmEsm(MonteCarlo):
    """Item 13 for the core's own score: the two losses differ by a constant that knows nothing of it."""

    name = "dsm-esm"
    statement = (
        r"E\left\|\hat s+\tfrac{\varepsilon}{\sigma}\right\|^2=E\|\hat s-s\|^2+\frac{\alpha^2}{\sigma^4}\mathrm{mmse}"
    )
    views = ("score", "vae")
    source = "Vincent 2011, eq. 11"

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        draws = case.mixed
        sigma = draws.level.sigma
        own = draws.core_score.flatten(1)
        field, _ = smooth_field(case, draws.xt.flatten(1))
        own = own + 0.3 * field
        target = -draws.noise.flatten(1) / sigma[:, None]
        denoising = (own - target).square().sum(1)
        explicit = (own - draws.score.flatten(1)).square().sum(1)
        constant = draws.level.alpha.square() / sigma**4 * draws.trace
        return (denoising - explicit - constant) * sigma.square(), (denoising * sigma.square()).mean().reshape(1)


@register
class DsmGradient(MonteCarlo):
    """Item 13's gradients: along a direction φ of the score, DSM and ESM have one slope."""

    name = "dsm-gradient"
    statement = r"\partial_\theta E\|\hat s+\tfrac\varepsilon\sigma\|^2=\partial_\theta E\|\hat s-s\|^2"
    views = ("score", "vae")
    source = "Vincent 2011, section 4.2"

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        draws = case.mixed
        sigma = draws.level.sigma[:, None]
        field, _ = smooth_field(case, draws.xt.flatten(1))
        slope = field * (draws.noise.flatten(1) / sigma + draws.score.flatten(1)) * sigma
        return slope.sum(1), (field.square().sum(1).mean() * case.dim).sqrt().reshape(1)


@register
class Hutchinson(MonteCarlo):
    """Item 17: the divergence of the exact score by random probes, against −D/σ² + (α²/σ⁴) tr Cov[x_0|z]."""

    name = "hutchinson"
    statement = r"E_v\left[v^\top\nabla s\,v\right]=\nabla\cdot s"
    views = ("score",)
    source = "Hutchinson 1989; Song et al. 2021 (SDE), appendix D.2"
    subject = "schedule"

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        draws = case.mixed
        n = min(256, draws.xt.shape[0]) if case.dim > 16 else draws.xt.shape[0]
        every = slice(None, None, draws.xt.shape[0] // n)
        z, level, trace = draws.xt[every], draws.level[every], draws.trace[every]
        probe = torch.sign(case.normal("probe", *z.shape))
        turned = vjp(lambda x: case.world.diffuse(level.alpha, level.sigma).score(x), z, probe)
        estimate = (turned * probe).flatten(1).sum(1) * level.sigma.square()
        exact = -case.dim + (level.alpha / level.sigma).square() * trace
        return estimate - exact, torch.full((1,), float(case.dim), dtype=torch.float64, device=case.device)
