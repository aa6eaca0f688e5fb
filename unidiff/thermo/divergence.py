r"""Two laws under one forward process grow alike, and how fast is what their scores differ by.

    KL(q_s ‖ p_s) = KL(q_t ‖ p_t) + ½∫_s^t g² E_q‖∇log q − ∇log p‖² du         (Lyu 2009, theorem 1; IDENTITIES item 33)
    KL(q_s ‖ p_θ) ≤ KL(q_1 ‖ π) + ½∫_s^1 g² E_q‖∇log q − ŝ‖² du                (Song et al. 2021, theorem 1; item 34)

The second is Girsanov's: the right side is the KL between the laws of whole paths of the two reverse SDEs, the ends' is
less; it is an equality where ŝ is the score of a law that the forward process carries into π. With g² dt = −σ² dλ both
integrals are ½∫σ²E‖·‖² dλ, of the same value for every schedule with the same ends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unidiff.core.boundary import right_expand
from unidiff.core.diffusion import Diffusion
from unidiff.core.level import NoiseLevel
from unidiff.core.schedule import Schedule
from unidiff.thermo.arguments import as_network
from unidiff.thermo.averages import Noised
from unidiff.thermo.information import integral
from unidiff.worlds import Estimate, Gaussian, World
from unidiff.worlds.estimate import monte_carlo


@dataclass(frozen=True, eq=False)
class Decay:
    """KL at an earlier and a later time and what was lost between, in nats; each with how well it is known.

    Attributes:
        earlier: KL(q_s ‖ p_s).
        later: KL(q_t ‖ p_t).
        lost: ½∫g²E_q‖∇log q − ∇log p‖², which is their difference.
    """

    earlier: Estimate
    later: Estimate
    lost: Estimate


@dataclass(frozen=True, eq=False)
class GirsanovBound:
    """A bound on KL(q_s ‖ p_θ) in nats, p_θ the reverse SDE's law; its two terms with how well each is known.

    Attributes:
        prior: KL(q_1 ‖ π).
        path: ½∫g²E‖∇log q − ŝ‖².
    """

    prior: Estimate
    path: Estimate

    @property
    def total(self) -> Tensor:
        """The bound; from draws it may be below 0 by as much as its error."""
        return self.prior.value + self.path.value

    @property
    def total_error(self) -> Tensor:
        """Its standard error: of independent draws for both terms, or what their quadratures changed last."""
        return torch.hypot(self.prior.standard_error, self.path.standard_error)


def relative_entropy(first: Noised, second: Noised) -> Estimate:
    """KL(q ‖ p) of two noised laws: exact on Gaussians, else the mean of log q − log p."""
    first, mine, theirs = _pair(first, second)
    if isinstance(mine, Gaussian) and isinstance(theirs, Gaussian):
        p, q = (
            torch.distributions.MultivariateNormal(law.mean, covariance_matrix=law.covariance) for law in (theirs, mine)
        )
        return Estimate.exact(torch.distributions.kl_divergence(q, p))
    return first.mean(lambda z: mine.log_prob(z, check=False) - theirs.log_prob(z, check=False))


def score_gap(first: Noised, second: Noised) -> Estimate:
    """E_q‖∇log q − ∇log p‖², in units of 1/x²."""
    first, mine, theirs = _pair(first, second)
    if isinstance(mine, Gaussian) and isinstance(theirs, Gaussian):
        ours, other = torch.linalg.inv(mine.covariance), torch.linalg.inv(theirs.covariance)
        slope = other - ours
        shift = other @ (mine.mean - theirs.mean)
        return Estimate.exact(torch.trace(slope @ mine.covariance @ slope.mT) + shift.square().sum())

    def gap(z: Tensor) -> Tensor:
        return (mine.score(z, check=False) - theirs.score(z, check=False)).flatten(1).square().sum(1)

    return first.mean(gap)


def _pair(first: Noised, second: Noised) -> tuple[Noised, World, World]:
    """The first, its nodes fine enough for both, and both laws in float64 where the first one's means are taken."""
    first = replace(first, beside=second.world)
    mine = first.wide_law
    return first, mine, second.world.to(torch.float64, mine.device).diffuse(first.alpha, first.sigma)


def decay(
    schedule: Schedule,
    first: World,
    second: World,
    s: float,
    t: float,
    draws: int = 16384,
    generator: torch.Generator | None = None,
    nodes: int | None = None,
) -> Decay:
    """Item 33 between two times; closed forms and quadrature where ``first`` has them, else ``draws``. Trusted."""
    levels = schedule.level(torch.tensor([s, t], dtype=torch.float64))
    scales = list(zip(levels.alpha.tolist(), levels.sigma.tolist(), strict=True))
    ends = [relative_entropy(Noised(first, *each, draws, generator), Noised(second, *each)).cpu() for each in scales]
    cleanest = Noised(first, *scales[0], beside=second)
    if not cleanest.integrable and not (isinstance(first, Gaussian) and isinstance(second, Gaussian)):
        mine = first.to(torch.float64)
        theirs = second.to(torch.float64, mine.device)

        def gap(z: Tensor, level: NoiseLevel) -> Tensor:
            ours, other = (law.diffuse(level.alpha, level.sigma).score(z, check=False) for law in (mine, theirs))
            return 0.5 * level.sigma.square() * (ours - other).flatten(1).square().sum(1)

        return Decay(ends[0], ends[1], drawn(schedule, levels, mine, gap, draws, generator))

    def rate(level: NoiseLevel) -> Tensor:
        scales = float(level.alpha), float(level.sigma)
        return 0.5 * level.sigma**2 * score_gap(Noised(first, *scales), Noised(second, *scales)).value

    return Decay(ends[0], ends[1], along(schedule, levels, rate, nodes))


@torch.no_grad()
def girsanov_path(
    core: Diffusion,
    world: World,
    s: float,
    draws: int = 16384,
    generator: torch.Generator | None = None,
    nodes: int | None = None,
) -> Estimate:
    """½∫_s^1 g²E‖∇log q − ŝ‖² dt = ½∫SNR·E‖E[x_0|z] − x̂_0‖² dλ, x̂_0 the core's.

    By quadrature for laws in one and two dimensions, else from ``draws`` of (λ, z). Arguments are trusted.
    """

    def gap(z: Tensor, level: NoiseLevel, law: World) -> Tensor:
        asked = as_network(core, z)
        guess = core.denoiser(asked, level.to(asked)).x0.to(z)
        truth = law.posterior(z, level.alpha, level.sigma, check=False).mean
        return 0.5 * level.log_snr.exp() * (guess - truth).flatten(1).square().sum(1)

    levels = core.schedule.level(torch.tensor([s, 1.0], dtype=torch.float64))
    if Noised(world, levels.alpha[0].item(), levels.sigma[0].item()).integrable:

        def rate(level: NoiseLevel) -> Tensor:
            noised = Noised(world, float(level.alpha), float(level.sigma))
            return noised.mean(lambda z: gap(z, level, noised.wide)).value

        return along(core.schedule, levels, rate, nodes)
    wide = world.to(torch.float64)
    return drawn(core.schedule, levels, wide, lambda z, level: gap(z, level, wide), draws, generator)


@torch.no_grad()
def drawn(
    schedule: Schedule,
    levels: NoiseLevel,
    world: World,
    rate: Callable[[Tensor, NoiseLevel], Tensor],
    draws: int,
    generator: torch.Generator | None,
) -> Estimate:
    """∫E ``rate`` dλ between two levels (the earlier first), from draws of (λ, z); ``rate`` of z ``[n, *E]`` is ``[n]``."""
    x0 = world.sample(draws, generator)
    high, low = levels.log_snr.tolist()
    u = torch.rand(draws, generator=generator, dtype=torch.float64, device=x0.device)
    level = schedule.level_at(low + (high - low) * u)
    noise = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
    z = right_expand(level.alpha, x0) * x0 + right_expand(level.sigma, x0) * noise
    blocks = torch.arange(draws, device=x0.device).split(max(1, 2**16 // world.dim))
    return monte_carlo((high - low) * torch.cat([rate(z[i], level[i]) for i in blocks])).cpu()


def along(
    schedule: Schedule, levels: NoiseLevel, rate: Callable[[NoiseLevel], Tensor], nodes: int | None = None
) -> Estimate:
    """∫ of ``rate``, per unit of λ and a function of one level, between two levels (the earlier first)."""
    high, low = levels.log_snr.tolist()

    def at(log_snr: Tensor) -> Tensor:
        return torch.stack([rate(schedule.level_at(v)).cpu() for v in log_snr])

    return integral(at, low, high, nodes)
