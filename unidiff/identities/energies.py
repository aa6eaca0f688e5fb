r"""Items 38 and 45: what an energy says of its law, and of which networks the answer is the gradient of one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from unidiff.core.boundary import right_expand
from unidiff.core.denoiser import Denoiser
from unidiff.core.diffusion import Diffusion
from unidiff.core.level import NoiseLevel
from unidiff.core.networks import FORMS, MLP, GradientField
from unidiff.core.prediction import KINDS, conversion
from unidiff.ebm import EnergyModel
from unidiff.identities.case import Case, sampled
from unidiff.identities.chains import denoiser_kappa
from unidiff.identities.laws import Algebraic, Sides
from unidiff.identities.registry import register
from unidiff.identities.scores import vjp
from unidiff.identities.truths import autograd_score, log_prob_kappa, reference_log_prob, score_kappa

TAU = 0.7


def shifted(case: Case) -> EnergyModel:
    """τ(−log q_t) + 3 + t as a user's own function of time, differentiable in it."""
    schedule, world = case.schedule, case.world

    def energy(x: Tensor, t: Tensor) -> Tensor:
        level = schedule.level(t, x)
        return -TAU * world.diffuse(level.alpha, level.sigma).log_prob(x, check=False) + 3 + t

    return EnergyModel(energy, case.core.event_shape, schedule=schedule, tau=TAU)


@register
class ScoreIsEnergyGradient(Algebraic):
    """Item 38: the core's own energy, and a user's of the same law with a constant and a function of time on top.

    Each is the density that torch.distributions tells, and its slope the score; read as a core, its x̂_0 is the world's.
    κ: ``log_prob_kappa``, ``score_kappa``, and that of x̂_0 with σ²/α times the score's.
    """

    name = "score-is-energy-gradient"
    statement = r"q_t=\frac{1}{Z_t}e^{-E/\tau},\quad s_t=-\frac{1}{\tau}\nabla(E+c_t)"
    views = ("ebm", "score", "core")
    source = "LeCun et al. 2006, eq. 1; item 38"
    conditions = "the exact denoiser; in float32 where data and noise are both heard"
    subject = "optimal"

    def applies(self, case: Case) -> bool:
        return case.exact and hasattr(case.core.denoiser, "energy")

    def sides(self, case: Case) -> Iterable[Sides]:
        case = case.legible
        z, t, level = case.xt, case.t, case.level
        log_q = reference_log_prob(case, z, level.alpha, level.sigma)
        own, other = EnergyModel(case.core, tau=TAU), shifted(case)
        size = log_prob_kappa(case, z, level.alpha, level.sigma)
        yield Sides(own.energy(z, t), -TAU * log_q, size)
        log_prob = own.target(z, t).evaluate(z)[1]
        assert log_prob is not None
        yield Sides(log_prob, log_q, size)
        kappa = score_kappa(case)
        for model in (own, other):
            yield Sides(model.score(z, t), case.world.diffuse(level.alpha, level.sigma).score(z), kappa)
        alpha, sigma = case.expand(level.alpha), case.expand(level.sigma)
        read = other.core().denoiser(z, level).x0
        guess = case.world.posterior_mean(z, level.alpha, level.sigma)
        kappa = denoiser_kappa(case, z, level) + sigma.square() * kappa / alpha
        yield Sides(read, guess, kappa)
        yield Sides(autograd_score(case), other.score(z, t), score_kappa(case))


# -- networks --------------------------------------------------------------------------------------------------------


def network(case: Case, form: str, classes: int | None = None) -> GradientField:
    """A small gradient field with parameters of the case's own, in its dtype."""
    with torch.random.fork_rng(devices=[]):
        own = GradientField(MLP(2, 8, 2, classes, outputs=1 if form == "scalar" else None), form)  # pyright: ignore
    for k, parameter in enumerate(own.parameters()):
        parameter.data = 0.4 * case.normal(f"{form} {k}", *parameter.shape)
    return own.to(dtype=case.dtype, device=case.device).requires_grad_(False)


def fields(case: Case, classes: int | None = None) -> Iterator[Diffusion]:
    """Every form, each kind of prediction and EDM's preconditioning in turn."""
    ways = [(kind, "none") for kind in KINDS] + [("x0", "edm")]
    for k, (kind, how) in enumerate(ways):
        own = network(case, FORMS[k % len(FORMS)], classes)
        yield Diffusion(case.schedule, Denoiser(own, (2,), kind, how, data_std=0.6, num_classes=classes))  # pyright: ignore


def own_fields(case: Case) -> list[Diffusion]:
    """The case's core, where its network is a gradient field."""
    known = isinstance(getattr(case.core.denoiser, "network", None), GradientField)
    return [case.core] if known else []


def some_states(case: Case) -> tuple[Tensor, Tensor, NoiseLevel]:
    """x ``[16, 2]`` of the noised size, and times and levels where data of unit scale and noise are both heard."""
    x = case.normal("energy states", 16, 2)
    places = torch.linspace(*case.window(-4.0, 4.0), 16, dtype=torch.float64, device=case.device)
    t = case.schedule.time(places).detach()
    level = case.schedule.level(t, x)
    level = NoiseLevel(*(v.detach() for v in (level.t, level.log_snr, level.alpha, level.sigma)))
    return torch.hypot(level.alpha, level.sigma)[:, None] * x, t, level


class OnFields(Algebraic):
    """Where a small field is: three schedules. A network that is one is asked itself, under its own."""

    views = ("ebm", "core", "score")
    conditions = "a network that is a gradient field, any kind of prediction; where data and noise are both heard"
    worldless = True

    def applies(self, case: Case) -> bool:
        return sampled(case) and not case.reaches_zero_snr


@register
class GradientFieldEnergy(OnFields):
    """A denoiser around a gradient field has one energy: −∇E is the score that its forward pass tells, guided too.

    With score = p x + q F(cx), F = −∇G, E = −½p‖x‖² + (q/c)G(cx), for all kinds of prediction, EDM's c and guidance.
    κ: |p||x| + |q|(1 + ‖F‖ + c‖x‖), a few of each; of what is told by way of x̂_0, (‖x‖ + α‖x̂_0‖)/σ² too.
    """

    name = "gradient-field-energy"
    statement = r"-\nabla\left(\frac{q}{c}\,G(cx)-\frac{p}{2}\|x\|^2\right)=p\,x+q\,F(cx),\quad F=-\nabla G"
    source = "Du et al. 2023, section 4.1; Salimans & Ho 2021, section 2"

    def sides(self, case: Case) -> Iterable[Sides]:
        x, t, level = some_states(case)
        labels = torch.arange(16, device=x.device) % 4
        for classes in (None, 3):
            law = {} if classes is None else {"condition": labels, "guidance": 1.7}
            for core in fields(case, classes):
                yield from self._pair(core, x, t, level, law)
        heard = case.heard
        for core in own_fields(heard):  # under the schedule that its times are of
            yield from self._pair(core, heard.xt, heard.t, heard.level, {})

    @staticmethod
    def _pair(core: Diffusion, x: Tensor, t: Tensor, level: NoiseLevel, law: dict[str, Any]) -> Iterable[Sides]:
        denoiser = core.denoiser
        assert isinstance(denoiser, Denoiser)
        said, own = denoiser(x, level, **law), EnergyModel(core, tau=TAU).score(x, t, **law)
        output = denoiser.evaluate(x, level, **law)[0]
        p, q = conversion(denoiser.prediction, "score", level.alpha, level.sigma)
        through = torch.zeros_like(p)
        if denoiser.preconditioning == "edm":
            rho2 = (level.alpha * denoiser.data_std).square() + level.sigma.square()
            p, q = -1 / rho2, level.alpha * denoiser.data_std / (level.sigma * rho2.sqrt())
            through = (x.flatten(1).norm(dim=1) + level.alpha * said.x0.flatten(1).norm(dim=1)) / level.sigma.square()
        size = 1 + output.flatten(1).norm(dim=1) + x.flatten(1).norm(dim=1)
        kappa = 4 * (p.abs() * x.flatten(1).norm(dim=1) + q.abs() * size)
        yield Sides(own, right_expand(p, x) * x + right_expand(q, x) * output, right_expand(kappa, x))
        yield Sides(own, said.score, right_expand(kappa + through, x))


@register
class GradientFieldSymmetric(OnFields):
    """The Jacobian of a denoiser with an energy is symmetric at any parameters: uᵀJw = wᵀJu at w = Jᵀu, so no side cancels.

    κ: ‖w‖² and ‖u‖‖w‖(|p| + |q|(1 + c)), x̂_0 = p x + q F(cx).
    """

    name = "gradient-field-symmetric"
    statement = r"\hat x_0=p\,x-q\,\nabla G(cx)\;\Rightarrow\;J=J^\top"
    source = "Saremi 2019; Salimans & Ho 2021, section 2"

    def sides(self, case: Case) -> Iterable[Sides]:
        x, _, level = some_states(case)
        for core in fields(case):
            yield self._pair(case, core, x, level)
        for core in own_fields(case):
            yield self._pair(case, core, case.heard.xt[:4], case.heard.level[:4])

    @staticmethod
    def _pair(case: Case, core: Diffusion, x: Tensor, level: NoiseLevel) -> Sides:
        def denoise(z: Tensor) -> Tensor:
            return core.denoiser(z, level).x0

        u = case.normal("symmetric field", *x.shape)
        w = vjp(denoise, x, u)
        p, q = core.denoiser.x0_coefficients(level)  # pyright: ignore
        long, size = w.flatten(1).square().sum(1), (u.flatten(1).norm(dim=1) * w.flatten(1).norm(dim=1))
        across = (vjp(denoise, x, w) * u).flatten(1).sum(1)
        return Sides(long, across, long + 4 * size * (p.abs() + 2 * q.abs()))


class Curved(nn.Module):
    """f(u) = A tanh(Bu + ¼λ), with its Jacobian in closed form."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.a, self.b = (0.6 * case.normal(f"curved {name}", 3, 3) for name in "ab")

    def forward(self, x: Tensor, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """F at ``x`` ``[B, 3]``."""
        return torch.tanh(x @ self.b.mT + 0.25 * noise[:, None]) @ self.a.mT

    def jacobian(self, x: Tensor, noise: Tensor) -> Tensor:
        """∂f/∂u, ``[B, 3, 3]``."""
        slope = 1 - torch.tanh(x @ self.b.mT + 0.25 * noise[:, None]).square()
        return torch.einsum("ij,bj,jk->bik", self.a, slope, self.b)


@register
class ResidualEnergy(Algebraic):
    """Item 45, against J_f in closed form; and by how much the field that is often written for it, f − u, is another.

    The inner form likewise. The wrong field is not even a gradient: what its Jacobian lacks in symmetry is J_f's.
    κ: the terms, each at the size of ‖A‖‖B‖.
    """

    name = "residual-energy"
    statement = (
        r"-\nabla\frac{\|u-f\|^2}{2\sigma^2}=\frac{(I-J_f)^\top(f-u)}{\sigma^2}\ne\frac{f-u}{\sigma^2},\quad"
        r"\nabla\langle u,f\rangle=f+J_f^\top u"
    )
    views = ("ebm", "core")
    source = "Saremi et al. 2018; Salimans & Ho 2021, section 2; Du et al. 2023, section 4.1; item 45"
    conditions = "any differentiable f"
    worldless = True

    def applies(self, case: Case) -> bool:
        return case.exact and sampled(case)

    def sides(self, case: Case) -> Iterable[Sides]:
        u, std = case.normal("residual", 16, 3), 0.5
        noise = torch.linspace(-4, 4, 16).to(u)
        own = Curved(case)
        f, jacobian = own(u, noise), own.jacobian(u, noise)
        pulled = torch.einsum("bij,bi->bj", jacobian, f - u)
        reach = (own.a.norm() * own.b.norm() + 1) * (f.norm(dim=1) + u.norm(dim=1) + own.a.norm())
        kappa = right_expand(4 * reach, u)
        residual = GradientField(own, "residual")(u, noise)
        yield Sides(residual, f - u - pulled, kappa)
        yield Sides(residual - (f - u), -pulled, kappa)
        yield Sides(GradientField(own, "inner")(u, noise), f + torch.einsum("bij,bi->bj", jacobian, u), kappa)
        model = EnergyModel(lambda x: (x - own(x, noise)).square().sum(1) / (2 * std**2), (3,))
        yield Sides(model.score(u), (f - u - pulled) / std**2, kappa / std**2)
