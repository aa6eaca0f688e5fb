r"""Item 46: what is composed at a level of noise, against what is composed and then noised."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import torch
from torch import Tensor

from unidiff.core.boundary import right_expand
from unidiff.core.diffusion import Diffusion
from unidiff.core.level import NoiseLevel
from unidiff.ebm import EnergyModel, mixture, negation, product
from unidiff.identities.case import Case, sampled
from unidiff.identities.laws import Algebraic, MonteCarlo, Sides
from unidiff.identities.registry import register
from unidiff.identities.truths import log_prob_kappa, reference_log_prob
from unidiff.mcmc import MALA, AcceptanceWarning
from unidiff.worlds import Gaussian, GaussianMixture, OracleDenoiser

POWERS = (1.0, 0.6)


def pair(case: Case) -> tuple[Gaussian, Gaussian]:
    """The case's Gaussian, and it with its axes in the other order and its mean's sign turned."""
    world = case.world
    assert isinstance(world, Gaussian)
    return world, Gaussian(-world.mean.flip(0), world.covariance.flip(0, 1))


def power_product(laws: Iterable[tuple[Tensor, Tensor]], powers: Iterable[float]) -> tuple[Tensor, Tensor]:
    """Mean ``[.., D]`` and covariance ``[.., D, D]`` of Π N(m_i, C_i)^{w_i}, from (m_i, C_i), in float64."""
    precision, pull = 0.0, 0.0
    for (mean, covariance), power in zip(laws, powers, strict=True):
        own = power * torch.linalg.inv(covariance.to(torch.float64))
        precision, pull = precision + own, pull + torch.einsum("...ij,...j->...i", own, mean.to(torch.float64))
    covariance = torch.linalg.inv(precision)  # pyright: ignore
    return torch.einsum("...ij,...j->...i", covariance, pull), covariance


def noised(world: Gaussian, level: NoiseLevel) -> tuple[Tensor, Tensor]:
    """The mean and covariance of α x + σ ε, by its definition, in float64."""
    eye = torch.eye(world.dim, dtype=torch.float64, device=level.alpha.device)
    alpha, sigma = (v.to(torch.float64) for v in (level.alpha, level.sigma))
    spread = alpha.square()[..., None, None] * world.covariance.to(torch.float64)
    return alpha[..., None] * world.mean.to(torch.float64), spread + sigma.square()[..., None, None] * eye


class OnGaussians:
    """Where two Gaussians are composed."""

    views: tuple[str, ...] = ("ebm", "score", "core")
    source = "Du et al. 2023, section 3 and eq. 8; item 46"
    conditions = "Gaussian data, the exact denoiser, where data and noise are both heard"

    def applies(self, case: Case) -> bool:
        return isinstance(case.world, Gaussian) and case.exact


@register
class ProductIsNotNoised(OnGaussians, Algebraic):
    """The score of a product at a level is the sum of the noised scores, and no score of the product's noised law.

    All by inverses of covariances: the sum, by how much it differs from the noised product, and the data's own product,
    where the two are one. κ: each precision's largest eigenvalue times |z − m| and its condition.
    """

    name = "noised-product-is-no-sum"
    statement = (
        r"\sum_iw_i\nabla\log q_{i,t}\ne\nabla\log\left(\prod_iq_i^{w_i}\right)_t\;(t>0),\quad"
        r"\sum_iw_i\nabla\log q_{i,0}=\nabla\log\left(\prod_iq_i^{w_i}\right)_0"
    )
    subject = "optimal"

    def sides(self, case: Case) -> Iterable[Sides]:
        case = case.heard
        worlds, z, t, level = pair(case), case.xt[:16], case.t[:16], case.level[:16]
        own = [EnergyModel(Diffusion(case.schedule, OracleDenoiser(w)), tau=2.0) for w in worlds]
        summed = product(*own, weights=POWERS)
        found = summed.score(z, t)
        mean, covariance = power_product([noised(w, level) for w in worlds], POWERS)
        known = _pull(z, mean, covariance)
        data = power_product([(w.mean, w.covariance) for w in worlds], POWERS)
        kappa = self._size(z, [noised(w, level) for w in worlds])
        yield Sides(found, known.to(z), kappa)
        # The second law whole, and what is too much of it divided out.
        turned = own[0].compose(own[1], negation(own[1], POWERS[0] - POWERS[1]))
        yield Sides(turned.score(z, t), known.to(z), kappa)
        whole = Gaussian(*(v.to(z) for v in data))
        apart = known - _pull(z, *noised(whole, level))
        spread = self._size(z, [noised(whole, level)]) + kappa
        yield Sides(found - _score(whole, z, level), apart.to(z), spread)
        still = product(
            *(EnergyModel(lambda x, w=w: -w.log_prob(x, check=False), w.event_shape) for w in worlds), weights=POWERS
        )
        x, flat = case.x0[:16], [(w.mean, w.covariance) for w in worlds]
        yield Sides(still.score(x), _pull(x, *data).to(x), self._size(x, flat))

    @staticmethod
    def _size(z: Tensor, laws: list[tuple[Tensor, Tensor]]) -> Tensor:
        total = torch.zeros(len(z)).to(z)
        for mean, covariance in laws:
            values = torch.linalg.eigvalsh(covariance.to(torch.float64))
            reach = z.norm(dim=1) + mean.to(z).norm(dim=-1)
            total = total + (values[..., -1] / values[..., 0].square()).to(z) * reach
        return right_expand(total, z)


def _pull(z: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """−C⁻¹(z − m), float64."""
    off = mean.to(torch.float64) - z.to(torch.float64)
    return torch.einsum("...ij,...j->...i", torch.linalg.inv(covariance.to(torch.float64)), off)


def _score(world: Gaussian, z: Tensor, level: NoiseLevel) -> Tensor:
    return world.diffuse(level.alpha, level.sigma).score(z)


@register
class MixtureIsNoised(Algebraic):
    """A mixture of noised laws is the mixture noised: its energy is −log q_t, whatever constants its members have.

    With their log Z told, and with it left to be part of the weights. κ: ``log_prob_kappa``, and the constants.
    """

    name = "noised-mixture-is-mixture"
    statement = r"-\log\sum_i\frac{w_i}{Z_i}e^{-E_i/\tau}=-\log\left(\sum_iw_iq_i\right)_t"
    views = ("ebm", "score", "core")
    source = "Du et al. 2023, section 3.2"
    conditions = "a mixture of Gaussians; in float32 where data and noise are both heard"
    subject = "optimal"

    def applies(self, case: Case) -> bool:
        return isinstance(case.world, GaussianMixture) and case.exact

    def sides(self, case: Case) -> Iterable[Sides]:
        case, tau = case.legible, 0.5
        world, z, t, level = case.world, case.xt[:16], case.t[:16], case.level[:16]
        assert isinstance(world, GaussianMixture)
        constants = torch.linspace(-1.0, 1.5, world.num_classes, dtype=torch.float64)
        models = [
            self._member(case, Gaussian(mean, covariance), float(c), tau)
            for mean, covariance, c in zip(world.means, world.covariances, constants, strict=True)
        ]
        known = -reference_log_prob(case, z, level.alpha, level.sigma)
        kappa = 4 * (log_prob_kappa(case, z, level.alpha, level.sigma) + 2 / tau)
        weights = world.weights.to("cpu", torch.float64)
        told = mixture(*models, weights=3 * weights, log_z=-constants / tau)
        yield Sides(told.energy(z, t), known, kappa)
        shares = weights * (constants / tau).exp()
        untold = models[0].compose(*models[1:], how="mixture", weights=shares)
        yield Sides(untold.energy(z, t), known + shares.sum().log(), kappa)

    @staticmethod
    def _member(case: Case, world: Gaussian, constant: float, tau: float) -> EnergyModel:
        schedule = case.schedule

        def energy(x: Tensor, t: Tensor) -> Tensor:
            level = schedule.level(t, x)
            return constant - tau * world.diffuse(level.alpha, level.sigma).log_prob(x, check=False)

        return EnergyModel(energy, world.event_shape, schedule=schedule, tau=tau)


@register
class ChainsKeepTheProduct(OnGaussians, MonteCarlo):
    """MALA on the summed energy at little noise leaves draws of the product as they are: means and variances.

    In the axes of the product's covariance. Sizes: 1 each.
    """

    name = "chains-keep-the-product"
    statement = r"\mathrm{MALA}\left(\sum_iw_iE_i(\cdot,t)\right):\;\prod_iq_{i,t}^{w_i}\to\prod_iq_{i,t}^{w_i}"
    conditions = "Gaussian data, the exact denoiser, three schedules; in float64"
    subject = "optimal"

    def applies(self, case: Case) -> bool:
        return super().applies(case) and case.dtype == torch.float64 and sampled(case)

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        case = case.heard
        worlds, n = pair(case), case.draws
        level = case.schedule.level_at(case.log_snr_range[1], case.x0)
        level = NoiseLevel(*(v.detach() for v in (level.t, level.log_snr, level.alpha, level.sigma)))
        mean, covariance = power_product([noised(w, level) for w in worlds], POWERS)
        values, axes = torch.linalg.eigh(covariance)
        x = mean + (values.sqrt() * case.normal("product", n, case.dim)) @ axes.mT
        own = [EnergyModel(Diffusion(case.schedule, OracleDenoiser(w))) for w in worlds]
        model = product(*own, weights=POWERS)
        kernel, generator = MALA(0.5 * float(values[0])), case.generator("product chains")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AcceptanceWarning)
            moved = model.langevin(x, 6, float(level.t), kernel=kernel, generator=generator).x
        z = ((moved - mean) @ axes) / values.sqrt()
        return torch.cat([z, z.square() - 1], 1), torch.ones(2 * case.dim, dtype=torch.float64)
