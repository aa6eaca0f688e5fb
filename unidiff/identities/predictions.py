r"""Item 5: one conversion table, its round trips and what it does to losses."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from unidiff.core.denoiser import Denoiser
from unidiff.core.prediction import KINDS, Kind, Prediction, conversion
from unidiff.identities.case import Case
from unidiff.identities.laws import Algebraic, Sides
from unidiff.identities.registry import register


def _sizes(case: Case, source: Kind, value: Tensor) -> dict[Kind, Tensor]:
    """For each target, |p x_t| + |q value|: the numbers whose rounding reaches the converted quantity."""
    sizes: dict[Kind, Tensor] = {}
    for target in KINDS:
        p, q = conversion(source, target, case.level.alpha, case.level.sigma)
        sizes[target] = case.expand(p).abs() * case.xt.abs() + case.expand(q).abs() * value.abs()
    return sizes


def _said(case: Case, kind: Kind) -> Tensor:
    """What the core says, and something of the size of its unit more: the table holds of any value, also of a new net's."""
    unit = 1 / case.expand(case.level.sigma) if kind == "score" else 1.0
    return getattr(case.prediction, kind).detach() + unit * case.normal(f"said {kind}", *case.x0.shape)


@register
class ConversionsDefine(Algebraic):
    """From each kind, the converted four obey the definitions. κ: each term's own |p x_t| + |q value|."""

    name = "conversions-define"
    statement = r"x_t=\alpha x_0+\sigma\varepsilon,\quad v=\alpha\varepsilon-\sigma x_0,\quad s=-\varepsilon/\sigma"
    views = ("core", "score", "vae")
    source = "Salimans & Ho 2022, appendix D; Song et al. 2021 (SDE), eq. 29"

    def sides(self, case: Case) -> Iterable[Sides]:
        alpha, sigma = case.expand(case.level.alpha), case.expand(case.level.sigma)
        for source in KINDS:
            value = _said(case, source)
            p = Prediction.of(source, value, case.xt, case.level)
            size = _sizes(case, source, value)
            yield Sides(
                alpha * p.x0 + sigma * p.eps,
                case.xt,
                alpha * size["x0"] + sigma * size["eps"] + case.xt.abs(),
            )
            yield Sides(alpha * p.eps, sigma * p.x0 + p.v, alpha * size["eps"] + sigma * size["x0"] + size["v"])
            yield Sides(-sigma * p.score, p.eps, sigma * size["score"] + size["eps"])


@register
class ConversionsRoundTrip(Algebraic):
    """There and back between every two kinds. κ: the way back applied to the sizes of the way there."""

    name = "conversions-round-trip"
    statement = r"a \to b \to a\ \mathrm{is\ the\ identity,}\ a,b\in\{\varepsilon,x_0,v,s\}"
    views = ("core", "score", "vae")
    source = "Salimans & Ho 2022, appendix D"

    def sides(self, case: Case) -> Iterable[Sides]:
        for source in KINDS:
            value = _said(case, source)
            size = _sizes(case, source, value)
            for target in KINDS:
                there = getattr(Prediction.of(source, value, case.xt, case.level), target)
                back = getattr(Prediction.of(target, there, case.xt, case.level), source)
                p, q = conversion(target, source, case.level.alpha, case.level.sigma)
                kappa = case.expand(p).abs() * case.xt.abs() + case.expand(q).abs() * size[target] + value.abs()
                yield Sides(back, value, kappa)


@register
class LossRelations(Algebraic):
    """The four squared errors are one. κ: 2|Δ| times the size of what was subtracted, plus Δ²."""

    name = "loss-relations"
    statement = (
        r"\|\Delta\varepsilon\|^2=\mathrm{SNR}\,\|\Delta x_0\|^2=\sigma^2\|\Delta s\|^2,\quad"
        r"\|\Delta v\|^2=(1+\mathrm{SNR})\|\Delta x_0\|^2\ \mathrm{(VP)}"
    )
    views = ("core", "score", "vae")
    source = "Kingma & Gao 2023, appendix A"

    def sides(self, case: Case) -> Iterable[Sides]:
        guess = case.prediction.x0.detach()
        own = Prediction.of("x0", guess, case.xt, case.level)
        true = Prediction.of("x0", case.x0, case.xt, case.level)
        alpha, sigma = case.level.alpha, case.level.sigma
        snr = (alpha / sigma).square()
        widths: dict[Kind, Tensor] = {
            "eps": snr,
            "score": snr / sigma.square(),
            "v": (1 + snr) * (alpha**2 + sigma**2),
        }
        base = (guess - case.x0).flatten(1).square().sum(1)
        for kind, width in widths.items():
            difference = (getattr(own, kind) - getattr(true, kind)).flatten(1)
            size = (_sizes(case, "x0", guess)[kind] + _sizes(case, "x0", case.x0)[kind]).flatten(1)
            kappa = (difference.abs() * size + difference.square() + size.square() * case.eps).sum(1)
            yield Sides(difference.square().sum(1), width * base, kappa)


@register
class EdmPreconditioning(Algebraic):
    """A zero network under EDM preconditioning is the exact denoiser of N(0, σ_d² I), and c_out² its posterior variance.

    The other side is Bayes' rule as a product of Gaussians. κ: 1 + the stored logs of the two variances.
    """

    name = "edm-preconditioning"
    statement = (
        r"c_\mathrm{skip}x_t=E[x_0|x_t],\quad c_\mathrm{out}^2=\mathrm{Var}[x_0|x_t]"
        r"\quad\mathrm{for}\ x_0\sim N(0,\sigma_d^2 I)"
    )
    views = ("core",)
    source = "Karras et al. 2022, appendix B.6"
    subject = "schedule"

    def sides(self, case: Case) -> Iterable[Sides]:
        from unidiff.core.gaussian import Gaussian

        data_std = 0.7
        denoiser = Denoiser(_zero, case.core.event_shape, "x0", "edm", data_std)
        own = denoiser(case.xt, case.level).x0
        alpha, sigma = case.expand(case.level.alpha), case.expand(case.level.sigma)
        log_prior = torch.full_like(alpha, data_std).log() * 2
        prior = Gaussian(torch.zeros_like(case.xt), log_prior)
        exact, _ = prior.product(Gaussian(case.xt / alpha, 2 * (sigma / alpha).log()))
        stored = 2 + (2 * (sigma / alpha).log()).abs() + log_prior.abs()
        yield Sides(own, exact.mean, exact.mean.abs() * stored)
        _, out = denoiser.x0_coefficients(case.level)
        yield Sides(case.expand(out).square(), exact.var, exact.var * stored)


def _zero(x: Tensor, noise: Tensor, condition: Tensor | None) -> Tensor:
    return torch.zeros_like(x)
