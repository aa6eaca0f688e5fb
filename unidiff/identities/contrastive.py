r"""Item 39: the contrastive gradient, as the methods themselves take it.

A method's own loss is differentiated on a model whose energy is the world's plus θ·φ(x); what it should be is written out
from the world's densities and scores on the same draws. So chains, levels, constants and signs are all asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from unidiff.ebm.learning import ContrastiveDivergence, PersistentCD, contrastive_loss
from unidiff.ebm.model import EnergyModel
from unidiff.identities.case import Case
from unidiff.identities.laws import Algebraic, Sides
from unidiff.identities.registry import register
from unidiff.mcmc import ULA
from unidiff.worlds import Gaussian, PointCloud
from unidiff.worlds.world import World

TAU, FEATURES = 0.7, 3


class Tilted(nn.Module):
    """τ(−log q(x) + ½θ·φ(x)), q the world's law or its noised law at t; φ: squares of the first of x in q's own units."""

    def __init__(self, case: Case, theta: float, *, timed: bool = False, rows: int = 1) -> None:
        super().__init__()
        self.world, self.schedule, self.timed = case.world, case.schedule, timed
        self.theta = nn.Parameter(torch.full((rows, FEATURES), theta, dtype=case.dtype, device=case.device))

    def law(self, t: Tensor | None) -> World:
        """q."""
        if not self.timed or t is None:
            return self.world
        level = self.schedule.level(t.to(torch.float64))
        return self.world.diffuse(*(v.detach().to(t) for v in (level.alpha, level.sigma)))

    def units(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        """(x − E_q x)/deviation, ``[B, D]``."""
        law = self.law(t)
        return (x - law.mean) / law.variance.sqrt()

    def features(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        """φ, ``[B, 3]``; zeros where there are fewer numbers."""
        z = self.units(x, t)[:, :FEATURES].square()
        return torch.nn.functional.pad(z, (0, FEATURES - z.shape[1]))

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        return TAU * (-self.law(t).log_prob(x, check=False) + 0.5 * (self.theta * self.features(x, t)).sum(1))

    def density(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        """−E/τ, held."""
        return self.law(t).log_prob(x) - 0.5 * (self.theta.detach() * self.features(x, t)).sum(1)

    def score(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        """−∇E/τ, from the world's own score, held."""
        return self.law(t).score(x, check=False) + (self.theta.detach() * self.slopes(x, t)).sum(-1)

    def slopes(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        """∂(−∇E/τ)/∂θ, ``[B, D, 3]``: −z_j/deviation on the diagonal."""
        law = self.law(t)
        z = self.units(x, t) / law.variance.sqrt()
        eye = torch.eye(x.shape[1], FEATURES, dtype=x.dtype, device=x.device)
        return -z[:, :, None] * eye

    def model(self) -> EnergyModel:
        """The energy view of it."""
        return EnergyModel(self, self.world.event_shape, schedule=self.schedule if self.timed else None, tau=TAU)


def smooth_once(case: Case) -> bool:
    """One case of each smooth world is enough: the schedule is not what is asked, but it must have levels to learn at."""
    known = case.schedule_name in ("linear", "sigmoid", "cosine") and case.overlaps(-1.0, 3.0)
    return known and not isinstance(case.world, PointCloud)


def seeded(case: Case) -> Callable[[], torch.Generator]:
    """Generators that all start alike: one for the method, one for whoever does it by hand."""
    seed = case.seed % 2**31 + 17
    return lambda: torch.Generator(case.device).manual_seed(seed)


def gradient_of(loss: Tensor, at: Tilted) -> Tensor:
    """∂loss/∂θ, in θ's shape."""
    (gradient,) = torch.autograd.grad(loss, at.theta)
    return gradient


@register
class ContrastiveGradient(Algebraic):
    """Item 39 on Gaussians: both KLs in closed form, by autograd; against the loss at points that carry π's moments.

    At m ± √D times the columns of a root of S a quadratic's mean is exact. κ: the terms of the moments, in P's inverse.
    """

    name = "contrastive-gradient"
    statement = (
        r"\partial_\theta\left[\mathrm{KL}(p\,\|\,q_\theta)-\mathrm{KL}(\pi\,\|\,q_\theta)\right]"
        r"=\frac{E_p\,\partial_\theta E-E_\pi\,\partial_\theta E}{\tau}"
    )
    views = ("ebm",)
    source = "Hinton 2002, eq. 5; item 39"
    conditions = "Gaussian data; three Gaussian laws of chains"
    subject = "schedule"

    def applies(self, case: Case) -> bool:
        return isinstance(case.world, Gaussian) and smooth_once(case)

    def sides(self, case: Case) -> Iterable[Sides]:
        law = case.world
        assert isinstance(law, Gaussian)
        dim, eye = law.dim, torch.eye(law.dim, dtype=case.dtype, device=case.device)
        for k in range(3):
            other = Gaussian(law.mean + 0.3 * (k + 1), law.covariance + 0.4 * (k + 1) * eye)
            precision = (eye + 0.2 * k * torch.ones_like(eye)).requires_grad_()
            mean = (law.mean + 0.1 * k).requires_grad_()
            kls = [_kl(own, mean, precision) for own in (law, other)]
            wanted = torch.autograd.grad(kls[0] - kls[1], [mean, precision])

            def energy(x: Tensor, mean: Tensor = mean, precision: Tensor = precision) -> Tensor:
                return 0.5 * TAU * torch.einsum("bi,ij,bj->b", x - mean, precision, x - mean)

            model = EnergyModel(energy, law.event_shape, tau=TAU)
            at_data, at_model = (model.energy(_sigma_points(own)) for own in (law, other))
            found = torch.autograd.grad(contrastive_loss(at_data, at_model, TAU), [mean, precision])
            sizes = [own.covariance.abs().max() + (own.mean - mean).square().sum() for own in (law, other)]
            for mine, theirs in zip(found, wanted, strict=True):
                yield Sides(mine, theirs, (dim * (1 + sizes[0] + sizes[1])).detach().expand_as(mine))


def _kl(law: Gaussian, mean: Tensor, precision: Tensor) -> Tensor:
    """KL(law ‖ N(mean, precision⁻¹)), up to what does not depend on the latter."""
    second = law.covariance + torch.outer(law.mean - mean, law.mean - mean)
    return 0.5 * ((precision * second).sum() - torch.logdet(precision))


def _sigma_points(law: Gaussian) -> Tensor:
    root = law.dim**0.5 * torch.linalg.cholesky(law.covariance).T
    return law.mean + torch.cat([root, -root])


@register
class ContrastiveStep(Algebraic):
    """The gradients of CD and of persistent CD, two batches of each, on chains walked by hand with the world's own score.

    ULA's draws are the method's: the order in which it makes them is part of its promise that a seed is a run. γ and its
    fall, τ, the times at which an energy with a schedule is learned, and chains that go on where they stopped. κ: the
    terms of the two means, and the drift's share in a chain's end.
    """

    name = "contrastive-step"
    statement = (
        r"g=\frac{E_p\,\partial E-E_{\pi_k}\partial E}{\tau}+\frac{2\gamma}{\tau}\left(E_p\,E\,\partial E"
        r"+E_{\pi_k}E\,\partial E\right),\quad\pi_k=K_\theta^k\,p"
    )
    views = ("ebm",)
    source = "Hinton 2002, section 3; Tieleman 2008; Du & Mordatch 2019, section 3; items 39 and 48"
    conditions = "a smooth law; ULA"
    subject = "schedule"

    def applies(self, case: Case) -> bool:
        return smooth_once(case)

    def sides(self, case: Case) -> Iterable[Sides]:
        draws, n, steps = seeded(case), 12, 2
        x = case.x0[:n]
        delta = 0.02 * float(torch.linalg.eigvalsh(case.world.covariance)[0])
        middle = float(case.schedule.time(sum(case.window(-1.0, 3.0)) / 2).detach())
        for t in (None, middle):
            energy, generator = Tilted(case, 0.3, timed=t is not None), draws()
            method = ContrastiveDivergence(steps, ULA(delta), 0.2, t, graph=False)
            found = gradient_of(method.learner(energy.model()).loss(x, generator, 0.25), energy)
            generator, data = draws(), x
            if t is not None:
                level = case.schedule.level(t, x)
                noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
                data = (level.alpha * x + level.sigma * noise).detach()
            chains = _walked(energy, data, t, steps, delta, generator)
            yield pair(case, found, _contrast(energy, data, chains, t, 0.15), *_units(energy, t, data, chains))
        starts = Gaussian(case.world.mean, 2 * case.world.covariance)
        energy, generator = Tilted(case, 0.3), draws()
        method = PersistentCD(steps, ULA(delta), graph=False, capacity=n + 4, restart=0.3, start=starts)
        learner = method.learner(energy.model())
        found = [gradient_of(learner.loss(x, generator), energy) for _ in range(2)]
        generator = draws()
        buffer = starts.sample(n + 4, generator)
        for mine in found:
            taken = torch.randperm(n + 4, generator=generator, device=x.device)[:n]
            anew = torch.rand(n, generator=generator, dtype=x.dtype, device=x.device) < 0.3
            fresh = starts.sample(n, generator)
            start = torch.where(anew[:, None], fresh, buffer[taken])
            chains = _walked(energy, start, None, steps, delta, generator)
            buffer = buffer.index_copy(0, taken, chains)
            wanted = _contrast(energy, x, chains, None, 0.0)
            yield pair(case, mine, wanted, *_units(energy, None, x, start, chains))


def _walked(energy: Tilted, x: Tensor, t: float | None, steps: int, delta: float, generator: torch.Generator) -> Tensor:
    times = _all(t, x)
    for xi in torch.randn((steps, *x.shape), generator=generator, dtype=x.dtype, device=x.device):
        x = (x + delta * energy.score(x, times) + (2 * delta) ** 0.5 * xi).detach()
    return x


def _contrast(energy: Tilted, data: Tensor, chains: Tensor, t: float | None, gamma: float) -> Tensor:
    """(E_p ∂E − E_π ∂E)/τ + (2γ/τ)(E_p E∂E + E_π E∂E), ∂E = ½τφ."""
    found = torch.zeros_like(energy.theta)
    for x, sign in ((data, 1.0), (chains, -1.0)):
        times = _all(t, x)
        weight = sign - 2 * gamma * TAU * energy.density(x, times)
        found += (weight[:, None] * 0.5 * energy.features(x, times)).mean(0)
    return found.detach()


def _all(t: float | None, x: Tensor) -> Tensor | None:
    return None if t is None else torch.full(x.shape[:1], t, dtype=x.dtype, device=x.device)


def _units(energy: Tilted, t: float | None, *states: Tensor) -> list[Tensor]:
    return [energy.units(x, _all(t, x)).detach() for x in states]


def pair(case: Case, found: Tensor, wanted: Tensor, *units: Tensor) -> Sides:
    """κ: φ's size, and how many of its own widths the law lies from 0, where its digits are lost."""
    world = case.world
    reach = torch.stack([z[:, :FEATURES].square().sum(1).mean() for z in units]).max()
    away = (world.mean.abs() / world.variance.sqrt()).max()
    return Sides(found, wanted, ((1 + reach) * (1 + away)).expand_as(found))
