r"""Item 30: the ends of a learned schedule set the bound, its inside the variance of the bound's estimate alone.

On Gaussian data the exact denoiser's error is Gaussian: with v_i the data's variances and s_i = e^λ v_i/(1 + e^λ v_i),

    E[‖ε − ε̂‖² | λ] = Σ s_i,   E[‖ε − ε̂‖⁴ | λ] = (Σ s_i)² + 2 Σ s_i²,   ½∫ Σ s_i dλ = ½ Σ log(1 + e^λ v_i) between the ends.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable

import torch
from torch import Tensor

from unidiff.core.diffusion import Diffusion
from unidiff.core.schedule import Schedule
from unidiff.core.schedule_learned import Learned
from unidiff.identities.case import Case
from unidiff.identities.hybrids import flat, shaken
from unidiff.identities.laws import Algebraic, Bound, MonteCarlo, Quadrature, Sides
from unidiff.identities.registry import register
from unidiff.train.config import TrainConfig
from unidiff.train.data import Dataset
from unidiff.train.fitting import estimator_spread, fit_schedule, least_second_moment
from unidiff.train.order import DataOrder
from unidiff.train.trainer import Trainer
from unidiff.train.weighting import Weighting
from unidiff.worlds import Gaussian

_ENDS = (4.0, -4.0)


def _once(case: Case) -> bool:
    # The schedules are the identity's own: one Gaussian case is enough.
    return isinstance(case.world, Gaussian) and case.exact and case.schedule_name == "sigmoid" and _wide(case)


def _wide(case: Case) -> bool:
    return case.dtype == torch.float64 and case.device.type == "cpu"


def _inside(seed: int) -> Learned:
    """An inside unlike another seed's: steeper steps than a new schedule has."""
    schedule = Learned(*_ENDS, seed=seed)
    with torch.no_grad():
        schedule.raw_weight.add_(1.5)
        schedule.raw_rate.mul_(2.0)
    return schedule.requires_grad_(False)


def _shares(case: Case, log_snr: Tensor) -> Tensor:
    """s_i at λ ``[n]``, ``[n, D]``."""
    data = torch.linalg.eigvalsh(case.world.covariance.to(torch.float64))
    return torch.sigmoid(log_snr[:, None] + data.log())


def _square(case: Case, log_snr: Tensor) -> Tensor:
    """E[(½‖ε − ε̂‖²)² | λ], ``[n]``."""
    share = _shares(case, log_snr)
    return 0.25 * (share.sum(1).square() + 2 * share.square().sum(1))


def _bound(case: Case) -> Tensor:
    """The diffusion term in closed form, in nats."""
    ends = torch.tensor(_ENDS, dtype=torch.float64)
    data = torch.linalg.eigvalsh(case.world.covariance.to(torch.float64))
    at = torch.log1p(ends.exp()[:, None] * data).sum(1)
    return 0.5 * (at[0] - at[1])


def _second_moment(case: Case, schedule: Schedule, n: int = 2048) -> Tensor:
    """E[L²] = ∫λ'² E[(½‖ε − ε̂‖²)² | λ] dt, by the midpoint rule, λ' by differences of λ."""
    edges = schedule.log_snr(torch.linspace(0, 1, n + 1, dtype=torch.float64)).detach()
    middle = schedule.log_snr((torch.arange(n, dtype=torch.float64) + 0.5) / n).detach()
    return (edges.diff().square() * n * _square(case, middle)).sum()


@register
class EndsSetTheBound(Quadrature):
    """The bound under two insides and their own λ', by the midpoint rule, against its closed form in the ends."""

    name = "ends-set-the-bound"
    statement = (
        r"\int_0^1\frac{\gamma'}{2}\,E\|\varepsilon-\hat\varepsilon\|^2\,\mathrm{d}t"
        r"=\frac12\sum_i\log\frac{1+v_ie^{\lambda_{\max}}}{1+v_ie^{\lambda_{\min}}}\quad\mathrm{for\ every\ inside}"
    )
    views = ("vae", "thermo")
    source = "Kingma et al. 2021, eq. 17 and 18; Guo et al. 2005"
    conditions = "Gaussian data, the exact denoiser, learned schedules of equal ends"
    subject = "optimal"
    refinements = (256, 512, 1024, 2048, 4096)

    def applies(self, case: Case) -> bool:
        return _once(case)

    def rounding(self, case: Case) -> float:
        return 1e-15

    def values(self, case: Case, n: int) -> tuple[Tensor, Tensor]:
        t = (torch.arange(n, dtype=torch.float64) + 0.5) / n
        found = []
        for seed in (1, 2):
            schedule = _inside(seed)
            share = _shares(case, schedule.log_snr(t)).sum(1)
            found.append((-0.5 * schedule.log_snr_derivative(t) * share).mean())
        return torch.stack(found), _bound(case).expand(2)


@register
class InsideSetsTheVariance(MonteCarlo):
    """The estimator under two insides: one mean, in closed form, and the variance that each inside's quadrature gives.

    By :func:`~unidiff.train.estimator_spread` of 128 draws, 600 times; its two standard errors against their spread.
    Sizes: the mean, the variance, their squared errors.
    """

    name = "inside-sets-the-variance"
    statement = (
        r"E[L]=\mathrm{const},\quad \mathrm{Var}[L]=\int_0^1\lambda'^2\,E\left[\tfrac14\|\varepsilon-\hat\varepsilon\|^4"
        r"\,\mid\,\lambda\right]\mathrm{d}t-E[L]^2"
    )
    views = ("vae",)
    source = "Kingma et al. 2021, section 5.2 and appendix I.2"
    conditions = "Gaussian data, the exact denoiser, learned schedules of equal ends"
    subject = "optimal"
    # The fourth moment's error is itself a fourth moment of fourth moments.
    bound = 0.9

    def applies(self, case: Case) -> bool:
        return _once(case)

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        mean = _bound(case)
        off, sizes = [], []
        for seed in (1, 2):
            schedule = _inside(seed)
            core, generator = Diffusion(schedule, case.core.denoiser), case.generator(f"spread {seed}")
            told = []
            for _ in range(600):
                # Data of their own each time, and many of them: it draws with replacement.
                one = estimator_spread(core, case.world.sample(2048, generator=generator), 128, generator=generator)
                told.append([one.mean, one.variance, one.mean_error**2, one.variance_error**2])
            found = torch.tensor(told, dtype=torch.float64)
            variance = _second_moment(case, schedule) - mean.square()
            truth = torch.stack([mean, variance])
            off += [found[:, :2] - truth, (found[:, :1] - mean).square() - found[:, 2:3]]
            sizes += [mean, variance, found[:, 2].mean()]
        return torch.cat(off, 1), torch.stack(sizes)


@register
class FittedInside(Bound):
    """The fitted inside between the least E[L²] of any, by Cauchy and Schwarz, and that of λ linear in t.

    All three by quadrature: it must be within a fifth of the way from the least to the linear one's, and no less. What
    :func:`~unidiff.train.least_second_moment` finds by draws is that least, within 10%: its deviation is 1.4%, so a false
    alarm has probability 1e-12, and one that is 15% off passes with less than 1e-3.
    """

    name = "fitted-inside"
    statement = (
        r"\left(\int\sqrt{E[L^2\,\mid\,\lambda]}\,\mathrm{d}\lambda\right)^2\leq E[L^2]_\mathrm{fitted}\ll "
        r"E[L^2]_\mathrm{linear}"
    )
    views = ("vae",)
    source = "Kingma et al. 2021, appendix I.2; Kahn & Marshall 1953 (importance sampling)"
    conditions = "Gaussian data, the exact denoiser"
    subject = "optimal"

    def applies(self, case: Case) -> bool:
        return _once(case)

    def excess(self, case: Case) -> tuple[float, float]:
        ends = (4.0, -12.0)
        start = Diffusion(Schedule.polynomial(1.0, *ends), case.core.denoiser)
        x0 = case.world.sample(2**15, generator=case.generator("data"))
        fitted = fit_schedule(start, x0, steps=200, lr=0.1, seed=case.seed % 2**31).schedule
        marks = torch.linspace(ends[1], ends[0], 2049, dtype=torch.float64)
        middle, width = 0.5 * (marks[1:] + marks[:-1]), marks.diff()
        least = float((_square(case, middle).sqrt() * width).sum().square())
        own, linear = float(_second_moment(case, fitted)), float(_second_moment(case, start.schedule))
        told = least_second_moment(start, x0, 32, 2048, generator=case.generator("least"))
        far = (own - least) / (linear - least) - 0.2
        return max(far, (least - own) / least, abs(told / least - 1) - 0.1), 1e-6


@register
class ScheduleStep(Algebraic):
    """A trainer's step with a learned schedule: its gradients in the network, the inside and the ends, written out.

    By one graph through λ(t), λ'(t), x_t and the network for everything: mean(L²) for the inside, the whole bound for the
    ends, with the prior's KL and the decoder's log-likelihood from their definitions, on numbers and on data of five
    levels; and what is sampled from has the schedule's average. κ: the rows' gradients, at the condition of e^λ.
    """

    name = "schedule-step"
    statement = (
        r"g_\mathrm{ends}=\nabla\left(E[L]+\mathrm{KL}(q(x_1|x_0)\,\|\,N(0,I))-E\log p(x_0|x_{t_0})\right),\quad "
        r"g_\mathrm{inside}=\nabla E[L^2]"
    )
    views = ("vae",)
    source = "Kingma et al. 2021, eq. 11, section 5.2 and appendix I.2"
    conditions = "trainers of their own, in float64: two weightings, two decoders"
    subject = "schedule"

    def applies(self, case: Case) -> bool:
        return case.world_name == "mixture-2d" and case.schedule_name == "learned" and _wide(case)

    def sides(self, case: Case) -> Iterable[Sides]:
        n, seed = 12, case.seed % 2**31
        five = (2 * case.x0).round().clamp(-2, 2) / 2
        runs: tuple[tuple[Weighting, Tensor, float], ...] = (("elbo", case.x0, 1.0), ("sigmoid", five, 0.5))
        for weighting, x, scale in runs:
            config = TrainConfig(
                network="mlp", width=6, depth=1, steps=1, batch_size=n, warmup=0, clip=1e6, seed=seed, schedule="learned",
                weighting=weighting, dtype="float64", device="cpu", ema=0.3,
            )  # fmt: skip
            trainer = Trainer.start(config, Dataset(x, None, "drawn", scale))
            schedule = trainer.core.schedule
            assert isinstance(schedule, Learned)
            shaken(trainer.network, case)
            with torch.no_grad():  # where the decoder's levels, and the prior, are felt
                schedule.log_snr_max.fill_(5.0)
                schedule.log_span.fill_(math.log(7.0))
            core = copy.deepcopy(trainer.core)
            averaged = trainer.fit()
            x0 = x[DataOrder(n=len(x), seed=seed).next(n)]
            yield from self._gradients(case, trainer, core, x0, scale, seed)
            # The first average is the parameters themselves: one step after they have moved.
            assert isinstance(averaged.schedule, Learned)
            moved = flat([*schedule.inside, *schedule.ends])
            yield Sides(flat([*averaged.schedule.inside, *averaged.schedule.ends]), moved, 1 + moved.abs())

    @staticmethod
    def _gradients(
        case: Case, trainer: Trainer, core: Diffusion, x0: Tensor, scale: float, seed: int
    ) -> Iterable[Sides]:
        n, dim, schedule = len(x0), case.dim, core.schedule
        assert isinstance(schedule, Learned)
        noise, times = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 1)
        t = (torch.rand((), generator=times, dtype=torch.float64) + torch.arange(n, dtype=torch.float64) / n) % 1.0
        eps, last = (torch.randn(x0.shape, generator=noise, dtype=torch.float64) for _ in range(2))
        log_snr, rate = schedule.log_snr(t), -schedule.log_snr_derivative(t)
        xt = torch.sigmoid(log_snr).sqrt()[:, None] * x0 + torch.sigmoid(-log_snr).sqrt()[:, None] * eps
        error2 = log_snr.exp() * (x0 - core.predict(xt, t).x0).square().sum(1)
        loss = 0.5 * rate * error2
        high, low = schedule.log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64)).unbind()
        prior = 0.5 * (torch.sigmoid(low) * (x0.square() - 1) - torch.nn.functional.logsigmoid(-low)).sum(1)
        if scale == 1.0:
            told = (-0.5 * last.square() + 0.5 * high - 0.5 * math.log(2 * math.pi)).sum(1)
        else:
            reach = 0.5 * scale * (0.5 * high).exp()
            above = torch.where(x0 > 1 - scale / 4, 1.0, torch.special.ndtr(reach - last))
            below = torch.where(x0 < scale / 4 - 1, 0.0, torch.special.ndtr(-reach - last))
            told = (above - below).log().sum(1)
        weight = rate.detach() / 2
        if trainer.config.weighting == "sigmoid":
            weight = weight / (1 + (log_snr.detach() - trainer.config.sigmoid_bias).exp())
        inside, ends, network = schedule.inside, schedule.ends, tuple(core.denoiser.parameters())  # pyright: ignore
        own = trainer.core.schedule
        assert isinstance(own, Learned)
        mine = (own.inside, own.ends, tuple(trainer.network.parameters()))
        wanted = (loss.square() / dim**2, (loss + prior - told) / dim, weight * error2 / dim)
        for parameters, held, rows in zip((inside, ends, network), mine, wanted, strict=True):
            each = torch.stack([flat(torch.autograd.grad(row / n, parameters, retain_graph=True)) for row in rows])
            kappa = each.norm(dim=1).sum() * (1 + log_snr.detach().exp().max().sqrt())
            yield Sides(flat(p.grad for p in held), each.sum(0), kappa.expand_as(each[0]))
