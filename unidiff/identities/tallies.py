r"""What a run of chains says of itself, against its steps one by one: tallies, warm-up, and a law that becomes NaN."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from unidiff.core.gaussian import Gaussian as Normal
from unidiff.ebm.learning.chains import ShortRun
from unidiff.identities.case import Case
from unidiff.identities.laws import Algebraic, Sides
from unidiff.identities.registry import register
from unidiff.mcmc.adaptation import DualAveraging
from unidiff.score import HMC, MALA, Noise, Target, langevin
from unidiff.worlds import Gaussian

CHAINS, STEPS, EVERY = 24, 6, 2


class _OfGaussian(Algebraic):
    """On the data's own law, which no schedule enters: asked under one of each convention."""

    views = ("score",)
    conditions = "float64; Gaussian data"
    subject = "schedule"

    def applies(self, case: Case) -> bool:
        return isinstance(case.world, Gaussian) and case.exact and case.dtype == torch.float64


@register
class DualAveragingIsClosed(_OfGaussian):
    """Its two recursions summed: the gap is the mean of the misses, diluted, and the average's weights are products.

    κ: 20√m, which is √m/γ, times the gap's terms, each of at most 1.
    """

    name = "dual-averaging-is-closed"
    statement = (
        r"\log\varepsilon_{m+1}=\log10\varepsilon_1-\frac{\sqrt{m}}{\gamma\,(m+10)}\sum_{i\leq m}(a^*-a_i),\quad"
        r"\log\bar\varepsilon_m=\sum_{i\leq m}i^{-3/4}\prod_{i<j\leq m}\left(1-j^{-3/4}\right)\log\varepsilon_{i+1}"
    )
    source = "Hoffman & Gelman 2014, eq. 6, section 3.2.1"

    def sides(self, case: Case) -> Iterable[Sides]:
        first, wanted = 0.3, 0.65
        search = DualAveraging(first, wanted, case.x0)
        # A ratio above 1 accepts, and is a 1 in the mean.
        ratios = 1.5 * case.normal("ratios", 12, CHAINS)
        misses = wanted - torch.minimum(torch.ones_like(ratios), ratios.exp()).mean(1)
        found = []
        for log_accept in ratios:
            search.update(log_accept)
            found.append(torch.stack([search.step_size.log(), search.log_average.clone()]))
        m = torch.arange(1, 13, dtype=torch.float64, device=case.device)
        steps = math.log(10 * first) - 20 * m.sqrt() / (m + 10) * misses.cumsum(0)
        kept = (1 - m**-0.75).flip(0).cumprod(0).flip(0)
        # ∏ over j > i, whose last factor of all is the empty one.
        weights = m**-0.75 * torch.cat([kept[1:], torch.ones_like(kept[:1])])
        average = (weights * steps).sum()
        size = 1 + 20 * m.sqrt()
        yield Sides(torch.stack(found)[:, 0], steps, size)
        yield Sides(torch.stack(found)[-1, 1], average, size[-1])
        yield Sides(torch.full_like(average, search.result()), average.exp(), size[-1] * average.exp())


@dataclass(frozen=True)
class _Told:
    """What a run should have said of itself: the trace, and a mean or a count of each chain."""

    trace: Tensor
    acceptance: Tensor
    energy_error: Tensor
    divergent: Tensor


@register
class ChainsAreSteps(_OfGaussian):
    """A run's trace, acceptance, energy error and divergences, by its draws: leapfrogs and densities written out.

    MALA; HMC on steps that hold; and on steps beyond stability, from starts near and far, which diverge. κ: the energy's
    size, and the largest of what the steps visit.
    """

    name = "chains-are-steps"
    statement = (
        r"\bar a=\frac{1}{n}\sum_k1\!\left[1-u_k<e^{H_k-H_k'}\right],\quad"
        r"\bar e=\frac{1}{n-d}\sum_{H_k'-H_k\leq1000}\min(\vert H_k'-H_k\vert,\,1000)"
    )
    source = "Duane et al. 1987; Betancourt 2017, section 6.2"

    def sides(self, case: Case) -> Iterable[Sides]:
        world = case.world
        assert isinstance(world, Gaussian)
        narrow = float(torch.linalg.eigvalsh(world.covariance)[0].sqrt())
        normal = case.normal("chains", STEPS, CHAINS, *world.event_shape)
        uniform = case.uniform("chains accept", STEPS, CHAINS)
        x = case.x0[:CHAINS] + 250 * narrow * torch.linspace(0, 1, CHAINS).to(case.x0)[:, None].square()
        # Steps well within stability; just within, where a start far out falls by thousands; just beyond; and beyond.
        runs = (
            (MALA(0.9 * narrow**2), math.sqrt(1.8) * narrow, 1),
            (HMC(1.9 * narrow, leapfrog=3), 1.9 * narrow, 3),
            (HMC(2.05 * narrow, leapfrog=4), 2.05 * narrow, 4),
            (HMC(2.4 * narrow, leapfrog=4), 2.4 * narrow, 4),
        )
        for kernel, step, leaps in runs:
            found = langevin(world, x, STEPS, kernel=kernel, keep_every=EVERY, noise=Noise(normal, uniform))
            known = self._by_hand(world, x, step, leaps, normal, uniform)
            size = STEPS * leaps * (1 + known.trace.abs().amax() / narrow)
            assert found.trace is not None
            assert found.acceptance is not None
            assert found.energy_error is not None
            assert found.divergent is not None
            yield Sides(found.trace, known.trace, narrow * size * torch.ones_like(known.trace))
            yield Sides(found.x, known.trace[-1], narrow * size * torch.ones_like(found.x))
            yield Sides(found.acceptance, known.acceptance, torch.ones_like(known.acceptance))
            yield Sides(found.divergent.double(), known.divergent, 1 + known.divergent)
            held = known.divergent < STEPS
            own, error = (torch.where(held, v, 0.0) for v in (found.energy_error, known.energy_error))
            yield Sides(own, error, size.square() + error)
            gone = torch.isnan(found.energy_error).double()
            yield Sides(gone, 1 - held.double(), torch.ones_like(gone))

    @staticmethod
    def _by_hand(world: Gaussian, x: Tensor, step: float, leaps: int, normal: Tensor, uniform: Tensor) -> _Told:
        precision = torch.linalg.inv(world.covariance)
        law = Normal(torch.zeros_like(x), torch.zeros_like(x))
        trace, accepted, errors, gone = [], [], [], []

        def energy(y: Tensor, p: Tensor) -> Tensor:
            away = y - world.mean
            return 0.5 * (away @ precision * away).sum(1) - law.log_prob(p)

        for p, u in zip(normal, uniform, strict=True):
            y, q = x, p
            for _ in range(leaps):
                q = q - 0.5 * step * (y - world.mean) @ precision
                y = y + step * q
                q = q - 0.5 * step * (y - world.mean) @ precision
            rise = energy(y, q) - energy(x, p)
            taken = 1 - u < (-rise).exp()
            x = torch.where(taken[:, None], y, x)
            trace.append(x)
            accepted.append(taken.double())
            gone.append((rise > 1000).double())
            errors.append(torch.where(rise > 1000, 0.0, rise.abs().clamp(max=1000)))
        divergent = torch.stack(gone).sum(0)
        mean = torch.stack(errors).sum(0) / (STEPS - divergent)
        return _Told(torch.stack(trace[EVERY - 1 :: EVERY]), torch.stack(accepted).mean(0), mean, divergent)


@register
class WarmUpIsSearch(_OfGaussian):
    """A warm-up steps by the search's own step size, tells it each step's acceptance, and leaves its average.

    The draws are the generator's, made again apart. κ: as ``dual-averaging-is-closed``.
    """

    name = "warm-up-is-search"
    statement = r"\varepsilon=\bar\varepsilon_W\ \mathrm{of}\ a_m=\frac{1}{B}\sum_b\min(1,e^{H-H'}),\ m\leq W"
    source = "Hoffman & Gelman 2014, algorithm 5"

    def sides(self, case: Case) -> Iterable[Sides]:
        world, count = case.world, 8
        assert isinstance(world, Gaussian)
        narrow = float(torch.linalg.eigvalsh(world.covariance)[0].sqrt())
        x, wanted = case.x0[:CHAINS], 0.7
        found = langevin(
            world, x, 1, kernel=MALA(0.1 * narrow**2), warmup=count, acceptance=wanted,
            generator=case.generator("warm-up"), graph=False,
        )  # fmt: skip
        generator, like = case.generator("warm-up"), {"dtype": x.dtype, "device": x.device}
        normal = torch.randn((count, *x.shape), generator=generator, **like)
        uniform = torch.rand((count, len(x)), generator=generator, **like)
        kernel, law = MALA(1.0), Target.of(world)
        state, total, average = kernel.start(law, x), 0.0, 0.0
        log_step = math.log(0.1 * narrow**2)
        for m in range(1, count + 1):
            move = kernel.step(law, state, math.exp(log_step), normal[m - 1], uniform[m - 1])
            state = move.state
            assert move.log_accept is not None
            total += wanted - float(move.log_accept.clamp(max=0).exp().mean())
            log_step = math.log(narrow**2) - 20 * math.sqrt(m) / (m + 10) * total
            average = m**-0.75 * log_step + (1 - m**-0.75) * average
        own = torch.tensor([math.log(found.step_size)], dtype=torch.float64)
        yield Sides(own, torch.full_like(own, average), torch.full_like(own, 1 + 20 * math.sqrt(count)) * 64)


@register
class NaNIsTold(_OfGaussian):
    """A trajectory says how far out it met a NaN of the law, and a run stops at one; at no wall, and at none far out.

    Beyond one and a half deviations of the narrowest direction the energy, or the score, is NaN; or the energy is +∞ and
    its score NaN. A short run, contrastive divergence's, stops as well. By hand: the trajectory, which drifts where the
    energy is a constant and ends where the score is NaN. κ: the deviation and what the steps visit.
    """

    name = "nan-is-told"
    statement = (
        r"\ell=\min\{\max\vert x_j\vert:\ j\leq L,\ \vert x_j\vert<\infty,\ "
        r"E(x_j)\ \mathrm{or}\ \nabla E(x_j)\ \mathrm{NaN},\ E(x_j)\neq\infty\}"
    )
    source = "Neal 2011, section 3.2; the trajectory itself"

    def sides(self, case: Case) -> Iterable[Sides]:
        world = case.world
        assert isinstance(world, Gaussian)
        narrow = float(torch.linalg.eigvalsh(world.covariance)[0].sqrt())
        normal = case.normal("nan", 1, CHAINS, *world.event_shape)
        noise = Noise(normal, case.uniform("nan accepts", 1, CHAINS))
        x, edge = world.mean + 0.5 * narrow * torch.cos(case.x0[:CHAINS]), 1.5 * narrow

        def away(y: Tensor) -> Tensor:
            return (y - world.mean).abs().amax(1)

        def wall(y: Tensor) -> Tensor:
            # The root's slope out there is 0·NaN.
            return torch.where(away(y) > edge, torch.inf, (edge - away(y)).sqrt() - world.log_prob(y, check=False))

        nan = Target.from_energy(lambda y: torch.where(away(y) > edge, torch.nan, -world.log_prob(y, check=False)))
        lame = Target.from_score(lambda y: torch.where(away(y)[:, None] > edge, torch.nan, world.score(y, check=False)))
        for kernel, step, leaps in ((MALA(0.9 * narrow**2), math.sqrt(1.8) * narrow, 1), (HMC(narrow, 3), narrow, 3)):
            for law, drifts in ((nan, True), (lame, False)):
                known = self._by_hand(world, x, step, leaps, normal[0], edge, drifts)
                met = torch.isfinite(known)
                own = kernel.step(law, kernel.start(law, x), kernel.step_size, normal[0], noise.uniform[0]).lost  # pyright: ignore
                assert own is not None
                yield Sides((own < torch.inf).double(), met.double(), torch.ones_like(own))
                reach = torch.where(met, known, 0.0)
                yield Sides(torch.where(own < torch.inf, own, 0.0), reach, leaps * (narrow + reach))
                yield self._stops(partial(langevin, law, x, 1, kernel=kernel, noise=noise), bool(met.any()))
            yield self._stops(partial(langevin, Target.from_energy(wall), x, 1, kernel=kernel, noise=noise), False)
            # A short run's draws are its generator's, the momenta first.
            drawn = torch.randn(normal.shape, generator=case.generator("nan run"), dtype=x.dtype, device=x.device)[0]
            met = torch.isfinite(self._by_hand(world, x, step, leaps, drawn, edge, True))
            run = ShortRun(lambda y: torch.where(away(y) > edge, torch.nan, -world.log_prob(y, check=False)), kernel, 1)
            yield self._stops(partial(run, x, case.generator("nan run")), bool(met.any()))
            yield self._stops(partial(ShortRun(wall, kernel, 1), x, case.generator("nan run")), False)
        # 10¹⁵ deviations out, past where a chain has run away.
        far = Noise(1e15 * (1 + x.abs().amax()) / narrow * normal, noise.uniform)
        yield self._stops(partial(langevin, nan, x, 1, kernel=MALA(0.9 * narrow**2), noise=far), False)

    @staticmethod
    def _by_hand(
        world: Gaussian, x: Tensor, step: float, leaps: int, normal: Tensor, edge: float, drifts: bool
    ) -> Tensor:
        precision, met = torch.linalg.inv(world.covariance), torch.full_like(x[:, 0], torch.inf)
        y, q = x, normal - 0.5 * step * (x - world.mean) @ precision
        for _ in range(leaps):
            y = y + step * q
            out = (y - world.mean).abs().amax(1) > edge
            reach = y.abs().amax(1)
            met = torch.where(out & (torch.isinf(met) | (drifts & (reach < met))), reach, met)
            q = q - torch.where(out[:, None], 0.0, step * (y - world.mean) @ precision)
        return met

    @staticmethod
    def _stops(run: Callable[[], object], expected: bool) -> Sides:
        try:
            run()
            stopped = 0.0
        except FloatingPointError:
            stopped = 1.0
        own = torch.tensor([stopped], dtype=torch.float64)
        return Sides(own, torch.full_like(own, float(expected)), torch.ones_like(own))
