r"""Items 40–44: the value of DxMI is −log of the noised data, its policy Bayes' reverse, and what is learned asks for both.

The auxiliary law is given velocities that no schedule has, so that nothing holds by the schedule's own doing. Worlds and
torch's distributions are one side, DxMI's parts the other. Gaussian data of one variance, where a step's exact law is a
Gaussian of one variance too, stand in where a policy must be exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch.distributions import kl_divergence

from unidiff.core.gaussian import Gaussian as Step
from unidiff.ebm.dxmi.law import AuxiliaryLaw
from unidiff.ebm.dxmi.objectives import cost_to_go, path_weights
from unidiff.ebm.dxmi.policy import StepPolicy, ValueGradient
from unidiff.identities.case import Case
from unidiff.identities.chains import denoiser_kappa
from unidiff.identities.dxmi_setting import ROWS, STEPS, Round, Setting, Worlds, as_torch, best_step, round_world
from unidiff.identities.laws import Sides
from unidiff.identities.registry import register


@register
class ValueIsEnergy(Worlds):
    """Item 40: V*_k = −log q_k, the value at the auxiliary law's levels against the data noised step by step.

    κ: the density's, once for each step.
    """

    name = "dxmi-value-is-energy"
    statement = r"V_k^*(x)=-\tau\log q_k(x)-\tau\log Z,\quad q_k=\mathrm{law\ of\ }A_kx_0+S_k\varepsilon"
    views = ("ebm", "rl", "core")
    source = "Yoon et al. 2024 (DxMI), section 3; item 40"

    def sides(self, case: Case) -> Iterable[Sides]:
        setting = Setting.of(case)
        laws = setting.noised()
        for k, rows, _, later in setting.steps():
            known, size = -laws[k].log_prob(later), (k + 1) * setting.kappa(later, rows)
            yield Sides(setting.value(later, rows), known, size)
            yield Sides(setting.timed()(later, rows), known, size)


@register
class BestPolicy(Worlds):
    """Item 41: q̃ e^{V_k − V_{k−1}} is Bayes' reverse of q̃. κ: both values' densities, and q̃'s own logarithm."""

    name = "dxmi-best-policy"
    statement = r"\pi^*(x'|x_k)=\tilde q(x_k|x')\,e^{(V_k^*(x_k)-V_{k-1}^*(x'))/\tau}=q(x'|x_k)"
    views = ("ebm", "rl", "vae")
    source = "Yoon et al. 2024 (DxMI), section 3; Gao et al. 2021, eq. 5; item 41"

    def sides(self, case: Case) -> Iterable[Sides]:
        setting = Setting.of(case)
        laws, law, value = setting.noised(), setting.law, setting.value
        for k, rows, earlier, later in setting.steps():
            cost = law.cost(earlier, later, rows)
            best = value(later, rows) - value(earlier, rows - 1) - cost
            reverse = laws[k - 1].posterior(later, float(law.keep[k - 1]), math.exp(0.5 * float(law.log_var[k - 1])))
            size = setting.kappa(later, rows) + setting.kappa(earlier, rows - 1)
            yield Sides(best, reverse.log_prob(earlier), (k + 2) * size + cost.abs())


@register
class ValueStep(Worlds):
    """The chain along the value's gradient steps to the mean of Bayes' reverse. κ: that of v times the score."""

    name = "dxmi-value-gradient"
    statement = r"E[x'|x_k]=\frac{1}{\alpha_{t|s}}\left(x_k-\frac{v_k}{\tau}\nabla V_k^*(x_k)\right)"
    views = ("ebm", "score", "rl")
    source = "Yoon et al. 2025 (value gradient sampler), section 3; Efron 2011, eq. 1.4"

    def sides(self, case: Case) -> Iterable[Sides]:
        setting = Setting.of(case)
        laws, law = setting.noised(), setting.law
        table = torch.zeros(STEPS, dtype=case.dtype, device=case.device)
        chain = setting.core.chain(setting.grid, "given", log_var=table)
        policy = StepPolicy(chain, table).requires_grad_(False)
        step = ValueGradient(policy, setting.value, law)
        for k, rows, _, later in setting.steps():
            level = setting.value.levels[rows].to(later)
            own = step.kernel(policy.chain().beside(later), later, rows).mean
            keep, log_var = float(law.keep[k - 1]), float(law.log_var[k - 1])
            known = laws[k - 1].posterior_mean(later, keep, math.exp(0.5 * log_var))
            reach = later.flatten(1).norm(dim=1, keepdim=True)
            pull = math.exp(log_var) / level.sigma.square()[:, None]
            each = denoiser_kappa(setting.case, later, level)
            yield Sides(own, known, (reach + pull * (reach + level.alpha[:, None] * each)) / keep)


@register
class TableStep(Worlds):
    """The policy's step is Bayes' reverse mean, and its variance the table's. κ: that of b x̂_0, and of a log-variance."""

    name = "dxmi-table-step"
    statement = r"\pi(x'|x_k)=N\left(E[x'|x_k],e^{l_k}I\right)"
    views = ("core", "rl", "ebm")
    source = "Ho et al. 2020, eq. 7; Yoon et al. 2024 (DxMI), section 3"

    def sides(self, case: Case) -> Iterable[Sides]:
        setting = Setting.of(case)
        table = case.normal("dxmi table", STEPS)
        policy = StepPolicy(setting.core.chain(setting.grid), table).requires_grad_(False)
        chain = policy.chain().beside(table)
        for k, rows, _, later in setting.steps():
            step = policy.kernel(chain, later, rows)
            yield Sides(step.log_var.reshape(-1), table[k - 1].expand(ROWS), 1 + table[k - 1].abs().expand(ROWS))
            far = setting.core.schedule.level(setting.grid.times[k])
            near = setting.core.schedule.level(setting.grid.times[k - 1])
            keep = float(far.alpha / near.alpha)
            std = math.sqrt(float(far.sigma) ** 2 - (keep * float(near.sigma)) ** 2)
            known = setting.world.diffuse(float(near.alpha), float(near.sigma)).posterior_mean(later, keep, std)
            reach = later.flatten(1).norm(dim=1, keepdim=True)
            level = setting.core.schedule.level(setting.grid.times[k].expand(ROWS)).to(later)
            yield Sides(step.mean, known, 4 * (reach / keep + denoiser_kappa(setting.case, later, level)))


@register
class SoftBellman(Round):
    """Items 42 and 44 in one step: what a policy pays is the value, and the KL from the best policy; V is quadratic.

    E over x′ is exact, by the 2D nodes of degree 3. κ: the values', the costs', and 1/σ² of either policy.
    """

    name = "dxmi-soft-bellman"
    statement = (
        r"E_\pi\left[V_{k-1}^*(x')+\tau\log\frac{\pi(x'|x_k)}{\tilde q(x_k|x')}\right]"
        r"=V_k^*(x_k)+\tau\,\mathrm{KL}(\pi\|\pi^*)"
    )
    views = ("ebm", "rl", "vae", "thermo")
    source = "Ziebart 2010, section 6.2; Yoon et al. 2024 (DxMI), section 3; items 42–44"

    def sides(self, case: Case) -> Iterable[Sides]:
        world = round_world(case)
        setting = Setting.of(case, world)
        dim = case.dim
        for k, rows, _, later in setting.steps():
            best = best_step(setting, world, k, later)
            for shift, scale in ((0.0, 0.0), (0.6, 0.5), (-0.3, -0.8)):
                spread = (0.5 * best.log_var).exp()
                step = Step(best.mean + shift * spread, best.log_var + scale)
                nodes = dim**0.5 * torch.cat([torch.eye(dim), -torch.eye(dim)]).to(later)
                paid = torch.zeros_like(later[:, 0])
                for node in nodes:
                    earlier = step.mean + step.std * node
                    paid = paid + cost_to_go(setting.value, setting.law, step, earlier, later, rows, target=True) / len(
                        nodes
                    )
                gap = kl_divergence(as_torch(step), as_torch(best))
                size = setting.law.cost(best.mean, later, rows).abs() + step.entropy().abs()
                reach = later.norm(dim=1) / spread[0, 0]
                kappa = 4 * (setting.kappa(later, rows) + setting.kappa(best.mean, rows - 1) + size + gap + reach * dim)
                yield Sides(paid, setting.value(later, rows) + gap, kappa)


@register
class StationaryPolicy(Round):
    """Item 44: the control's gradient in a policy's mean and log-variance, against what the closed form makes of it.

    The best policy has σ² = 1/(tr∇²V_{k−1}/(τD) + α²/v), μ = σ²(αx/v − (∇V(0))/τ); away from it the gradient is the
    distance, in units of the best variance. κ: the terms of the mean's gradient, x α/v and the value's slope.
    """

    name = "dxmi-stationary-policy"
    statement = (
        r"\sigma^2=\left(\frac{E\,\mathrm{tr}\nabla^2V}{\tau D}+\frac{\alpha^2}{v}\right)^{-1},"
        r"\quad\mu=\frac{x}{\alpha}-\frac{v}{\alpha^2\tau}E\nabla V(x')"
    )
    views = ("ebm", "rl")
    source = "Yoon et al. 2024 (DxMI), eq. 14; item 44"

    def sides(self, case: Case) -> Iterable[Sides]:
        world = round_world(case)
        setting, dim = Setting.of(case, world), case.dim
        for k, rows, _, later in setting.steps():
            best = best_step(setting, world, k, later)
            mean = (best.mean + 0.7 * best.std).detach().requires_grad_()
            log_var = (best.log_var.expand(len(later), 1) + 0.4).detach().requires_grad_()
            step = Step(mean, log_var)
            nodes = dim**0.5 * torch.cat([torch.eye(dim), -torch.eye(dim)]).to(later)
            paid = torch.zeros_like(later[:, 0])
            for node in nodes:
                earlier = mean + step.std * node
                paid = paid + cost_to_go(setting.value, setting.law, step, earlier, later, rows) / len(nodes)
            on_mean, on_log_var = torch.autograd.grad(paid.sum(), (mean, log_var))
            best_var = best.log_var.exp()
            known = (mean.detach() - best.mean) / best_var
            var = float(setting.law.log_var[k - 1].exp())
            size = (later.norm(dim=1, keepdim=True) + mean.detach().norm(dim=1, keepdim=True)) / var
            size = size + (mean.detach().norm(dim=1, keepdim=True) + world.mean.norm()) / best_var
            yield Sides(on_mean, known, 4 * size.expand_as(known))
            excess = 0.5 * dim * ((log_var.detach() - best.log_var).exp() - 1)
            yield Sides(on_log_var, excess.expand_as(on_log_var), 4 * dim * (1 + size * mean.detach().std()))


@register
class AdaptiveVelocity(Worlds):
    """Item 43: where the velocities are the walks' own mean squares, no velocity makes the joint KL less.

    The derivative of E[−log q̃] in log v is ½D(1 − v̂/v), v̂ what a full step of the adaptation would set. κ: both terms.
    """

    name = "dxmi-adaptive-velocity"
    statement = (
        r"\frac{\partial}{\partial\log v_k}E_\pi[-\log\tilde q(x_k|x')]=\frac D2\left(1-\frac{\hat v_k}{v_k}\right)"
    )
    views = ("ebm", "thermo")
    source = "Yoon et al. 2024 (DxMI), section 3.2; item 43"

    def sides(self, case: Case) -> Iterable[Sides]:
        setting = Setting.of(case)
        law = setting.law
        states = torch.stack([w.sample(ROWS, case.generator(f"walk {k}")) for k, w in enumerate(setting.noised())])
        before = law.log_var.clone()
        moved = AuxiliaryLaw(setting.core.chain(setting.grid)).to(case.device)
        moved.adapt(states, 1.0)
        best = moved.log_var.clone()
        for share in (0.0, 0.3):
            # A part of a step lies between in v, not in log v.
            part = AuxiliaryLaw(setting.core.chain(setting.grid)).to(case.device)
            part.log_var.copy_(before)
            part.adapt(states, share)
            mixed = ((1 - share) * before.exp() + share * best.exp()).log()
            yield Sides(part.log_var.to(case.dtype), mixed.to(case.dtype), 1 + mixed.abs())
        law.log_var.copy_(before).requires_grad_()
        later = states[1:].flatten(0, 1)
        k = torch.arange(1, STEPS + 1, device=later.device).repeat_interleave(ROWS)
        cost = law.cost(states[:-1].flatten(0, 1), later, k).sum() / ROWS
        (slope,) = torch.autograd.grad(cost, law.log_var)
        ratio = (best - before).exp()
        known = 0.5 * case.dim * (1 - ratio)
        rounded = states.abs().max() ** 2 / before.exp().min()
        yield Sides(slope.to(case.dtype), known.to(case.dtype), case.dim * (1 + ratio + rounded))


@register
class PathWeights(Round):
    """A walk of the exact reverse stands for one of the joint law by its start alone. κ: all the logarithms that cancel."""

    name = "dxmi-path-weights"
    statement = (
        r"\frac{e^{-V_0(x_0)}\prod\tilde q(x_k|x_{k-1})}{\pi(x_N)\prod\pi(x_{k-1}|x_k)}=Z\,\frac{q_N(x_N)}{\pi(x_N)}"
    )
    views = ("ebm", "thermo", "rl")
    source = "Sohl-Dickstein et al. 2015, eq. 9; items 36 and 43"

    def sides(self, case: Case) -> Iterable[Sides]:
        world = round_world(case)
        setting = Setting.of(case, world)
        law, last = setting.law, setting.noised()[-1]
        x = case.normal("dxmi start", ROWS, case.dim)
        log_ratio = -as_torch(Step(torch.zeros_like(x), torch.zeros_like(x))).log_prob(x)
        start, size = x, x.square().sum(1)
        for k in range(STEPS, 0, -1):
            rows = torch.full((ROWS,), k, device=x.device)
            step = best_step(setting, world, k, x)
            earlier = step.sample(case.generator(f"dxmi path {k}"))
            pieces = (law.cost(earlier, x, rows), step.log_prob(earlier))
            log_ratio, size = log_ratio - pieces[0] - pieces[1], size + pieces[0].abs() + pieces[1].abs()
            size = size + setting.kappa(x, rows)
            x = earlier
        own, count = path_weights(setting.value, log_ratio, x)
        known = last.log_prob(start) - as_torch(Step(torch.zeros_like(x), torch.zeros_like(x))).log_prob(start)
        weights = torch.softmax(known, 0)
        worst = size.max().expand_as(weights)
        yield Sides(own, weights, worst * weights)
        kish = 1 / weights.square().sum()
        yield Sides(count[None], kish[None], worst[:1] * kish)
