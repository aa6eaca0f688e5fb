r"""DxMI's losses at the exact value, each written out from the world's own densities and scores; and item 39's gradient."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from unidiff.ebm import EnergyModel
from unidiff.ebm.dxmi.objectives import anchor, compared, contrast, contrasts, difference, ladder
from unidiff.ebm.dxmi.value import Value
from unidiff.identities.case import Case
from unidiff.identities.chains import denoiser_kappa
from unidiff.identities.dxmi_setting import ROWS, STEPS, TAU, Setting, Worlds
from unidiff.identities.laws import Algebraic, Sides
from unidiff.identities.registry import register


def _along(setting: Setting, k: int, purpose: str) -> tuple[Tensor, Tensor, Tensor, float, float]:
    """x_0, ε, A_k x_0 + S_k ε, A_k and S_k, the last two by their recursion over the steps."""
    law, case = setting.law, setting.case
    alpha, variance = float(law.start[0]), float(law.start[1]) ** 2
    for keep, log_var in zip(law.keep[:k], law.log_var[:k], strict=True):
        alpha, variance = float(keep) * alpha, float(keep) ** 2 * variance + float(log_var.exp())
    x0 = setting.world.sample(ROWS, case.generator(f"{purpose} {k}"))
    noise = case.normal(f"{purpose} noise {k}", *x0.shape)
    return x0, noise, alpha * x0 + variance**0.5 * noise, alpha, variance**0.5


@register
class ContrastGradient(Algebraic):
    """Item 39 with item 48's regulariser, for energies θ·f(x): what descends is E_p f − E_π f and 2γ(E_p Ef + E_π Ef).

    The draws weighted or even. κ: the largest of the features' products.
    """

    name = "dxmi-contrast"
    statement = r"\nabla_\theta=E_p\nabla E-E_\pi\nabla E+2\gamma\left(E_pE\,\nabla E+E_\pi E\,\nabla E\right)"
    views = ("ebm",)
    source = "Hinton 2002, eq. 5; Du & Mordatch 2019, section 3.2; items 39 and 48"
    subject = "schedule"

    def sides(self, case: Case) -> Iterable[Sides]:
        at_p, at_pi = (case.normal(f"contrast {name}", ROWS, 5) for name in ("p", "pi"))
        theta = case.normal("contrast theta", 5).requires_grad_()
        skewed = torch.softmax(case.normal("contrast weights", ROWS), 0)
        for gamma in (0.0, 0.4):
            for weights in (None, skewed):
                even = torch.full((ROWS,), 1 / ROWS, dtype=case.dtype, device=case.device)
                share = even if weights is None else weights
                (own,) = torch.autograd.grad(contrast(at_p @ theta, at_pi @ theta, gamma, weights), theta)
                fixed = theta.detach()
                pulled = even @ at_p - share @ at_pi
                bound = (even * (at_p @ fixed)) @ at_p + (share * (at_pi @ fixed)) @ at_pi
                size = at_p.abs().max() + at_pi.abs().max()
                kappa = (size + gamma * size.square() * fixed.abs().sum()).expand_as(own)
                yield Sides(own, pulled + 2 * gamma * bound, kappa)


@register
class ContrastOfLevels(Worlds):
    """What item 39 compares at each level: the exact value's energies of noised data and of states. κ: the densities'.

    And the slope of the levels' contrasts, summed, for energies θ_k·f(x): each level's own, and item 48's with γ. κ: the
    largest of the features' products.
    """

    name = "dxmi-contrast-levels"
    statement = (
        r"\left(V_k^*(A_kx_0+S_k\varepsilon),\,V_k^*(y_k)\right)=-\tau\left(\log q_k(x_{t_k}),\,\log q_k(y_k)\right),\quad"
        r"\nabla=\sum_k\left(E_{q_k}\nabla V_k-E_{\pi_k}\nabla V_k\right)"
    )
    views = ("ebm",)
    source = "Hinton 2002, eq. 5; Wang et al. 2023, which noises both sides; items 39 and 40"

    def sides(self, case: Case) -> Iterable[Sides]:
        setting = Setting.of(case)
        laws = setting.noised()
        data = [_along(setting, k, "contrast") for k in range(STEPS)]
        states = torch.stack([_along(setting, k, "contrast states")[2] for k in range(STEPS)])
        x0, noise = torch.cat([level[0] for level in data]), torch.cat([level[1] for level in data])
        own = compared(setting.value, x0, noise, states)
        for k in range(STEPS):
            rows = torch.full((ROWS,), k, device=case.device)
            for found, x in zip(own, (data[k][2], states[k]), strict=True):
                yield Sides(found[k], -laws[k].log_prob(x), (k + 1) * setting.kappa(x, rows))
        yield from self._slopes(setting, x0, noise, states, torch.stack([level[2] for level in data]))

    @staticmethod
    def _slopes(setting: Setting, x0: Tensor, noise: Tensor, states: Tensor, noised: Tensor) -> Iterable[Sides]:
        case, times = setting.case, setting.grid.times.to(x0.device)

        def features(x: Tensor) -> Tensor:
            wide = x.flatten(1)
            return torch.cat([torch.ones_like(wide[:, :1]), wide, wide.square()], 1)

        theta = case.normal("contrast slopes", STEPS + 1, 1 + 2 * x0[0].numel()).requires_grad_()

        def energy(x: Tensor, t: Tensor) -> Tensor:
            k = (t.double()[:, None] - times).abs().argmin(1)
            return (theta[k] * features(x)).sum(1)

        value = Value(
            EnergyModel(energy, setting.core.event_shape, schedule=case.schedule, tau=TAU), setting.value.levels
        )
        for gamma in (0.0, 0.4):
            (own,) = torch.autograd.grad(contrasts(*compared(value, x0, noise, states), gamma), theta)
            yield Sides(own[STEPS], torch.zeros_like(own[STEPS]), torch.ones_like(own[STEPS]))
            for k in range(STEPS):
                at_data, at_chain = features(noised[k]), features(states[k])
                known = at_data.mean(0) - at_chain.mean(0)
                for f in (at_data, at_chain):
                    known = known + 2 * gamma * ((f @ theta[k].detach() / TAU)[:, None] * f).mean(0)
                size = at_data.abs().max() + at_chain.abs().max()
                kappa = (k + 1) * (size + gamma * size.square() * theta[k].detach().abs().sum() / TAU) / TAU
                yield Sides(own[k], known / TAU, kappa.expand_as(known))


@register
class AnchorIsDenoising(Worlds):
    """Item 40's anchor at the exact value: what is left is ε's distance from −S_k ∇log q_k. κ: x̂_0's, in units of ε."""

    name = "dxmi-anchor"
    statement = r"E\left\|\varepsilon-S_k\nabla V_k^*/\tau\right\|^2=E\left\|\varepsilon+S_k\nabla\log q_k\right\|^2"
    views = ("ebm", "score")
    source = "Vincent 2011, eq. 11; item 40"

    def sides(self, case: Case) -> Iterable[Sides]:
        setting = Setting.of(case)
        laws = setting.noised()
        for k in range(STEPS + 1):
            x0, noise, xt, alpha, sigma = _along(setting, k, "anchor")
            share = torch.full((ROWS,), k / STEPS, dtype=x0.dtype, device=x0.device)
            own = anchor(setting.value, x0, share, noise)
            left = (noise + sigma * laws[k].score(xt)).flatten(1).square().sum(1)
            level = setting.value.levels[torch.full((ROWS,), k, device=x0.device)].to(x0)
            each = denoiser_kappa(setting.case, xt, level).flatten(1).amax(1)
            size = (xt.flatten(1).norm(dim=1) + alpha * each) / sigma
            kappa = (size * (1 + left.sqrt())).mean()[None]
            yield Sides(own[None], left.mean()[None], kappa)
            yield Sides(anchor(setting.timed(), x0, share, noise)[None], left.mean()[None], (k + 1) * kappa)
            if k == STEPS:
                break
            # Between two levels: α and σ there are the geometric means.
            far = _along(setting, k + 1, "anchor")
            alpha, sigma = math.sqrt(alpha * far[3]), math.sqrt(sigma * far[4])
            xt = alpha * x0 + sigma * noise
            own = anchor(setting.value, x0, share + 0.5 / STEPS, noise)
            left = (noise + sigma * setting.world.diffuse(alpha, sigma).score(xt)).flatten(1).square().sum(1)
            size = 4 * (xt.flatten(1).norm(dim=1) + alpha * each) / sigma
            yield Sides(own[None], left.mean()[None], (size * (1 + left.sqrt())).mean()[None])


@register
class LadderIsRatio(Worlds):
    """Item 47 between the auxiliary law's levels: the exact value's logit is log q_{k−1} − log q_k. κ: both densities'."""

    name = "dxmi-ladder"
    statement = r"V_k^*-V_{k-1}^*=\tau\log\frac{q_{k-1}}{q_k}"
    views = ("ebm",)
    source = "Gutmann & Hyvärinen 2012, eq. 8; Rhodes et al. 2020, eq. 4; item 47"

    def sides(self, case: Case) -> Iterable[Sides]:
        setting = Setting.of(case)
        laws = setting.noised()
        for k in range(1, STEPS + 1):
            near, far = (_along(setting, level, "ladder") for level in (k - 1, k))
            rows = torch.full((ROWS,), k, device=case.device)
            own = ladder(setting.value, torch.stack([near[0], far[0]]), rows, torch.stack([near[1], far[1]]))
            parts, size = [], torch.zeros((), dtype=case.dtype, device=case.device)
            for x, label in ((near[2], 1.0), (far[2], 0.0)):
                logit = laws[k - 1].log_prob(x) - laws[k].log_prob(x)
                parts.append(F.binary_cross_entropy_with_logits(logit, torch.full_like(logit, label)))
                size = size + (setting.kappa(x, rows) + setting.kappa(x, rows - 1)).mean()
            yield Sides(own[None], sum(parts)[None], (k + 1) * size[None])  # pyright: ignore


@register
class DifferenceIsZero(Worlds):
    """Temporal differences from a target d above the exact value are d². κ: d's own terms."""

    name = "dxmi-difference"
    statement = r"E\left(V_k^*(x)-[V_k^*(x)+d]\right)^2=E\,d^2"
    views = ("ebm", "rl")
    source = "Sutton & Barto 2018, section 6.1; item 40"

    def sides(self, case: Case) -> Iterable[Sides]:
        setting = Setting.of(case)
        laws = setting.noised()
        for k, rows, _, later in setting.steps():
            gap = case.normal(f"gap {k}", ROWS)
            own = difference(setting.value, later, rows, gap - laws[k].log_prob(later))
            size = (gap.abs() + 1) * (k + 1) * setting.kappa(later, rows)
            yield Sides(own[None], gap.square().mean()[None], size.mean()[None])
