r"""Item 57 and what a network says beside its mean: guidance, the null class, the learned variance.

Every quantity of a prediction is affine in F at a given x_t, so guidance on one is guidance on all (Ho & Salimans 2022,
eq. 6): ŷ = ŷ_∅ + g(ŷ_c − ŷ_∅). On a mixture, with the component for the class, it is also Bayes' rule and a power of
it: s + g ∇log p(c|x_t), of which g = 1 is the component's own score.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from unidiff.core.denoiser import Denoiser, Preconditioning
from unidiff.core.level import NoiseLevel
from unidiff.core.prediction import KINDS, Kind, Prediction, conversion
from unidiff.identities.case import Case
from unidiff.identities.laws import Algebraic, Sides
from unidiff.identities.registry import register
from unidiff.identities.truths import autograd_score
from unidiff.worlds import GaussianMixture, OracleDenoiser

CLASSES = 3
WEIGHTS = (0.4, 2.5)


class _ByClass:
    """F = tanh x + u_c, with u of each class and of the null class; a variance fraction of its own if asked for one."""

    def __init__(self, offsets: Tensor, learned: bool = False) -> None:
        self.offsets, self.learned = offsets, learned

    def __call__(self, x: Tensor, noise: Tensor, condition: Tensor | None) -> Tensor:
        assert condition is not None
        own = self.offsets[condition]
        mean = torch.tanh(x) + own
        return torch.cat([mean, torch.tanh(0.5 * mean + own)], 1) if self.learned else mean


class _Of:
    """The network of given classes, that takes none."""

    def __init__(self, network: _ByClass, condition: Tensor) -> None:
        self.network, self.condition = network, condition

    def __call__(self, x: Tensor, noise: Tensor, condition: Tensor | None) -> Tensor:
        return self.network(x, noise, self.condition)


@register
class GuidedNetwork(Algebraic):
    """A guided network's x_0, ε, v and score from those of two networks without classes; no condition is the null class.

    κ: 1 + 2|g| times |p x_t| + |q F|, F's two values, for each quantity.
    """

    name = "guided-network"
    statement = r"\hat y=\hat y_\varnothing+g\,(\hat y_c-\hat y_\varnothing),\quad y\in\{x_0,\varepsilon,v,s\}"
    views = ("core", "rl")
    source = "Ho & Salimans 2022, eq. 6"
    conditions = "any schedule; in float32 where data and noise are both heard"
    subject = "schedule"

    def sides(self, case: Case) -> Iterable[Sides]:
        case = case.legible
        shape, xt, level = case.core.event_shape, case.xt, case.level
        network = _ByClass(case.normal("classes", CLASSES + 1, *shape))
        label = torch.arange(case.batch, device=case.device) % CLASSES
        null = torch.full_like(label, CLASSES)
        outputs: tuple[tuple[Kind, Preconditioning], ...] = (*((kind, "none") for kind in KINDS), ("x0", "edm"))
        for kind, preconditioning in outputs:
            whole = Denoiser(network, shape, kind, preconditioning, 0.7, num_classes=CLASSES)
            given, free = (
                Denoiser(_Of(network, c), shape, kind, preconditioning, 0.7)(xt, level) for c in (label, null)
            )
            for target in KINDS:
                one, other = getattr(given, target), getattr(free, target)
                size = _size(case, kind, given, target) + _size(case, kind, free, target)
                yield Sides(getattr(whole(xt, level), target), other, size)
                for g in WEIGHTS:
                    own = getattr(whole(xt, level, label, g), target)
                    yield Sides(own, other + g * (one - other), (1 + 2 * g) * size)


def _size(case: Case, kind: Kind, prediction: Prediction, target: Kind) -> Tensor:
    p, q = conversion(kind, target, case.level.alpha, case.level.sigma)
    value = getattr(prediction, kind)
    return case.expand(p).abs() * case.xt.abs() + case.expand(q).abs() * value.abs()


@register
class GuidedOracle(Algebraic):
    """Item 57 on a mixture: the guided score against s + g ∇log p(c|x_t), both gradients by automatic differentiation.

    κ: 1 + 2g times the largest component score's own size, (‖z‖ + α max‖m‖)/v with v the least noised variance, times
    the logits' condition D + (‖z‖ + α max‖m‖)√D/√v; for x̂_0 = (z + σ²ŝ)/α, that and ‖z‖ + α max‖m‖.
    """

    name = "guided-mixture"
    statement = r"\hat s=s+g\,\nabla\log p(c|x_t),\quad g=1:\ \nabla\log q_t(x_t|c);\quad c=\varnothing:\ s"
    views = ("core", "score", "rl")
    source = "Ho & Salimans 2022, eq. 3-6; Dhariwal & Nichol 2021, eq. 14"
    conditions = "a mixture's exact denoiser, where data and noise are both heard"
    subject = "optimal"

    def applies(self, case: Case) -> bool:
        return isinstance(case.world, GaussianMixture) and isinstance(case.core.denoiser, OracleDenoiser)

    def sides(self, case: Case) -> Iterable[Sides]:
        case = case.heard
        world, xt, level = case.world, case.xt, case.level
        assert isinstance(world, GaussianMixture)
        label = torch.arange(case.batch, device=case.device) % world.num_classes
        free, lift = autograd_score(case), self._lift(world, xt, level, label)
        alpha, sigma = case.expand(level.alpha), case.expand(level.sigma)
        reach = xt.flatten(1).norm(dim=1) + level.alpha * world.means.norm(dim=-1).max()
        least = level.alpha.square() * torch.linalg.eigvalsh(world.covariances).min() + level.sigma.square()
        # Norms, not entries: a world works in the axes of its covariances.
        whole = case.expand(reach)
        size = case.expand(reach / least * (1 + case.dim + reach * (case.dim / least).sqrt()))
        for g in (1.0, *WEIGHTS):
            own, kappa = case.core.denoiser(xt, level, label, g), (1 + 2 * g) * size
            expected = free + g * lift
            yield Sides(own.score, expected, kappa)
            yield Sides(own.x0, (xt + sigma.square() * expected) / alpha, (whole + sigma.square() * kappa) / alpha)
        null = torch.full_like(label, world.num_classes)
        yield Sides(case.core.denoiser(xt, level, null, 2.5).score, free, size)

    @staticmethod
    def _lift(world: GaussianMixture, xt: Tensor, level: NoiseLevel, label: Tensor) -> Tensor:
        """∇ log p(c|x_t), through the responsibilities."""
        z = xt.clone().requires_grad_()
        log_share = world.posterior(z, level.alpha, level.sigma).log_weights.gather(1, label[:, None])
        (slope,) = torch.autograd.grad(log_share.sum(), z)
        return slope


@register
class LearnedFraction(Algebraic):
    """A network's second half of channels, in (−1, 1), is a fraction in (0, 1): the condition's, whatever the guidance.

    κ: 1, and F's own size for the mean beside it.
    """

    name = "learned-fraction"
    statement = r"\hat w=\tfrac12(1+r),\quad (F, r)=f(x_t,\lambda,c)"
    views = ("core", "vae")
    source = "Nichol & Dhariwal 2021, eq. 15"
    subject = "schedule"

    def sides(self, case: Case) -> Iterable[Sides]:
        shape, xt, level = case.core.event_shape, case.xt, case.level
        network = _ByClass(case.normal("classes", CLASSES + 1, *shape), learned=True)
        label = torch.arange(case.batch, device=case.device) % CLASSES
        core = Denoiser(network, shape, "v", learned_variance=True, num_classes=CLASSES)
        for g in (1.0, 2.5):
            mean, fraction = core.evaluate(xt, level, label, g)
            assert fraction is not None
            given, raw = network(xt, level.log_snr, label).tensor_split(2, dim=1)
            free, _ = network(xt, level.log_snr, torch.full_like(label, CLASSES)).tensor_split(2, dim=1)
            yield Sides(mean, free + g * (given - free), (1 + 2 * g) * (given.abs() + free.abs()))
            yield Sides(2 * fraction - 1, raw, torch.ones_like(raw))
