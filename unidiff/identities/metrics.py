r"""How far samples are from a law: each metric against laws between which the distance is known."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from unidiff.identities.case import Case
from unidiff.identities.laws import Algebraic, MonteCarlo, Sides
from unidiff.identities.registry import register
from unidiff.train.metrics import directions, mmd2, nll, sliced_wasserstein


def _here(case: Case) -> bool:
    # The metrics are numbers of sets in float64 on the host, whatever was sampled.
    chosen = case.world_name in ("gaussian", "mixture-2d") and case.schedule_name in ("sigmoid", "linear")
    return chosen and case.dtype == torch.float64


@register
class SlicedWassersteinShift(Algebraic):
    """Of a set and itself moved by m: along u it is |u·m|, whatever the set, here in another order. κ: coordinates and m."""

    name = "sliced-w1-of-shift"
    statement = r"SW_1(X,X+m)=E_u\left|u\cdot m\right|"
    views = ("core",)
    source = "Bonneel et al. 2015, eq. 4; Villani 2003, theorem 2.18"
    conditions = "fixed directions"
    subject = "schedule"

    def applies(self, case: Case) -> bool:
        return _here(case)

    def sides(self, case: Case) -> Iterable[Sides]:
        x = case.x0.cpu()
        m = case.normal("shift", 1, case.dim).cpu()
        u = directions(case.dim, 32, torch.Generator().manual_seed(case.seed % 2**31))
        own = torch.tensor(sliced_wasserstein(x, (x + m).flip(0), u), dtype=torch.float64)
        yield Sides(own, (u @ m[0]).abs().mean(), x.abs().max() + m.abs().max() + 1)


@register
class UniformDirections(MonteCarlo):
    """Directions are unit vectors, even over the sphere: the mean of |u·m| in closed form. Size: that mean."""

    name = "uniform-directions"
    statement = r"E_u\left|u\cdot m\right|=\|m\|\,\frac{\Gamma(D/2)}{\sqrt{\pi}\,\Gamma((D+1)/2)}"
    views = ("core",)
    source = "Muller 1959; Bonneel et al. 2015, section 2"
    subject = "schedule"

    def applies(self, case: Case) -> bool:
        return _here(case)

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        dim = case.dim
        m = case.normal("shift", 1, dim).cpu()[0]
        u = directions(dim, case.draws, torch.Generator().manual_seed(case.seed % 2**31))
        whole = m.norm() * math.exp(math.lgamma(dim / 2) - math.lgamma((dim + 1) / 2)) / math.sqrt(math.pi)
        return (u @ m).abs() - whole, whole.reshape(1)


@register
class MmdOfGaussians(MonteCarlo):
    """MMD² of small sets of two Gaussians, unbiased, against its closed form: E k is a Gaussian density up to its scale.

    Size: the three kernel means, of which the distance is the difference.
    """

    name = "mmd-of-gaussians"
    statement = (
        r"E\,\widehat{\mathrm{MMD}}^2=\kappa(2S,0)+\kappa(2S',0)-2\kappa(S+S',m-m'),\quad "
        r"\kappa(C,d)=\left|I+C/h^2\right|^{-1/2}e^{-\frac12d^\top(h^2I+C)^{-1}d}"
    )
    views = ("core",)
    source = "Gretton et al. 2012, eq. 3; Muandet et al. 2012, table 1"
    conditions = "five points a set, 800 pairs of sets"
    subject = "schedule"

    def applies(self, case: Case) -> bool:
        return _here(case) and case.world_name == "gaussian"

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        width, n, dim, sets = 1.3, 5, 2, 800
        scales, m = (1.0, 0.6), torch.tensor([2.4, -1.2], dtype=torch.float64)
        draws = torch.randn(
            2, sets, n, dim, generator=case.generator("mmd"), dtype=torch.float64, device=case.device
        ).cpu()
        x, y = scales[0] * draws[0], m + scales[1] * draws[1]
        found = torch.tensor([mmd2(a, b, bandwidth=width) for a, b in zip(x, y, strict=True)], dtype=torch.float64)

        def mean(variance: float, gap: float) -> float:
            return (1 + variance / width**2) ** (-dim / 2) * math.exp(-0.5 * gap / (width**2 + variance))

        each = (mean(2 * scales[0] ** 2, 0.0), mean(2 * scales[1] ** 2, 0.0))
        across = mean(scales[0] ** 2 + scales[1] ** 2, float(m.square().sum()))
        return found - (sum(each) - 2 * across), torch.tensor([sum(each) + 2 * across], dtype=torch.float64)


@register
class NllIsEntropy(MonteCarlo):
    """The NLL of a world's own draws is its entropy in mean, and its squared standard error is its variance in mean.

    Over 1000 sets of 32. Sizes: 1 + |H|, and the variance.
    """

    name = "nll-is-entropy"
    statement = (
        r"E\left[-\frac{1}{n}\sum_i\log p(x_i)\right]=H,\quad E\left[(\mathrm{NLL}-H)^2-\mathrm{s.e.}^2\right]=0"
    )
    views = ("core", "thermo")
    source = "Cover & Thomas 2006, eq. 8.1; Bessel 1818"
    conditions = "a world with a density"
    subject = "schedule"
    bound = 0.6

    def applies(self, case: Case) -> bool:
        return _here(case)

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        sets, n = 1400, 32
        x = case.world.sample(sets * n, generator=case.generator("nll")).reshape(sets, n, -1)
        found = torch.tensor([nll(case.world, part) for part in x], dtype=torch.float64)
        entropy = case.world.entropy().value.cpu()
        gap, square = found[:, 0] - entropy, found[:, 1].square()
        return torch.stack([gap, gap.square() - square], 1), torch.stack([1 + entropy.abs(), square.mean()])
