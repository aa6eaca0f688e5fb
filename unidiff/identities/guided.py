r"""Guidance in every reading of the score: a guided core is the unguided core of the denoiser that guidance makes.

The law that guidance leads to has no closed form, but the denoiser has, E[x_0|z]_∅ + g(E[x_0|z, c] − E[x_0|z]_∅) from the
world's own posteriors. A core of that denoiser takes no label and no weight, so that a reading of it cannot lose them.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from unidiff.core.diffusion import Diffusion
from unidiff.core.grid import TimeGrid
from unidiff.core.level import NoiseLevel
from unidiff.core.prediction import Prediction
from unidiff.identities.case import Case, sampled
from unidiff.identities.laws import Algebraic, Sides
from unidiff.identities.registry import register
from unidiff.score import (
    ULA,
    Noise,
    ScoreModel,
    Target,
    annealed_langevin,
    predictor_corrector,
    reverse_drift,
    reverse_sde,
)
from unidiff.worlds import GaussianMixture, OracleDenoiser

WEIGHT = 1.7
ROWS = 8


class _Composed:
    """The denoiser of a mixture's classes, one a row, at a guidance weight: two posterior means."""

    def __init__(self, world: GaussianMixture, label: Tensor, weight: float) -> None:
        self.event_shape = world.event_shape
        self.free, self.given, self.weight = world, world.given(label), weight

    def __call__(
        self, xt: Tensor, level: NoiseLevel, condition: Tensor | None = None, guidance: float = 1.0
    ) -> Prediction:
        free, given = (law.posterior(xt, level.alpha, level.sigma).mean for law in (self.free, self.given))
        return Prediction(xt, level, {"x0": (1 - self.weight) * free + self.weight * given}, guarded=False)


class _Guided(Algebraic):
    """The two cores, and the size that rounding has in x̂_0.

    κ of x̂_0: |1 − g| and g times the two laws' ‖x̂_0‖ + δℓ ‖std‖, δℓ = 1 + D + ‖z‖√D/σ the logits' own condition.
    """

    views = ("core", "score")
    source = "Ho & Salimans 2022, eq. 6"
    conditions = "a mixture's exact denoiser, where data and noise are both heard"
    subject = "optimal"

    def applies(self, case: Case) -> bool:
        known = isinstance(case.world, GaussianMixture) and isinstance(case.core.denoiser, OracleDenoiser)
        return known and sampled(case)

    def _subjects(self, case: Case) -> tuple[Tensor, Diffusion]:
        """Labels of the rows, and the core that has them in its denoiser."""
        world = case.world
        assert isinstance(world, GaussianMixture)
        label = torch.arange(ROWS, device=case.device) % world.num_classes
        return label, Diffusion(case.schedule, _Composed(world, label, WEIGHT))

    def _size(self, case: Case, twin: Diffusion, z: Tensor, level: NoiseLevel) -> Tensor:
        """κ of x̂_0, ``[B, 1]``."""
        assert isinstance(twin.denoiser, _Composed)
        logit = 1 + case.dim + z.flatten(1).norm(dim=1) * case.dim**0.5 / level.sigma
        size = torch.zeros_like(logit)
        for law, share in ((twin.denoiser.free, abs(1 - WEIGHT)), (twin.denoiser.given, WEIGHT)):
            posterior = law.posterior(z, level.alpha, level.sigma)
            mean, std = (v.flatten(1).norm(dim=1) for v in (posterior.mean, posterior.variance.clamp(min=0).sqrt()))
            size = size + share * (mean + logit * std)
        return size[:, None]


@register
class GuidedReadings(_Guided):
    """Score, mean, covariance, Anderson's drift and chains' targets at a state. κ: x̂_0's, by what each makes of it."""

    name = "guided-readings"
    statement = r"R(\hat x_0^{g,c})=R_{g,c}(\hat x_0),\quad\hat x_0^{g,c}=E_\varnothing+g\,(E_c-E_\varnothing)"

    def sides(self, case: Case) -> Iterable[Sides]:
        case = case.heard
        every = slice(None, None, case.batch // ROWS)
        z, t, level = case.xt[every], case.t[every], case.level[every]
        label, twin = self._subjects(case)
        law = {"condition": label, "guidance": WEIGHT}
        own, theirs, ones = ScoreModel(case.core), ScoreModel(twin), torch.ones_like(z)
        size = self._size(case, twin, z, level)
        gain, whole = (level.sigma.square() / level.alpha)[:, None], z.flatten(1).norm(dim=1)[:, None]
        # σ² s is the difference α x̂_0 − z.
        lost = (level.alpha[:, None] * size + whole) * ones
        score = theirs.score(z, t)
        yield Sides(own.denoise(z, t, **law), theirs.denoise(z, t), size * ones)
        for found in (own.score(z, t, **law), Target.from_core(case.core, t, **law).score(z)):
            yield Sides(found, score, lost / level.sigma.square()[:, None])
        rate = case.schedule.log_snr_derivative(t).detach().abs().to(z)[:, None]
        for eta in (0.0, 1.0):
            drift = (reverse_drift(core, z, t, eta, **told) for core, told in ((case.core, law), (twin, {})))
            here, there = (v / rate for v in drift)
            yield Sides(here, there, (1 + eta**2) * lost)
        # The slope of the responsibilities is another factor of their logits.
        least = torch.linalg.eigvalsh(case.world.covariances).min() + (level.sigma / level.alpha).square()  # pyright: ignore
        slope = (gain * size / (level.alpha * least.sqrt())[:, None])[:, :, None]
        found = own.covariance(z, t, **law)
        yield Sides(found, theirs.covariance(z, t), slope * torch.ones_like(found))
        spread = own.variance(z, t, **law).trace
        yield Sides(spread, theirs.variance(z, t).trace, case.dim * slope[:, 0, 0])


@register
class GuidedRuns(_Guided):
    """Flows, a likelihood, samplers and chains of a few steps. κ: x̂_0's at the least α, for each of four steps."""

    name = "guided-runs"
    conditions = "float64; a mixture's exact denoiser, where data and noise are both heard"
    statement = r"\Phi[\hat x_0^{g,c}]=\Phi_{g,c}[\hat x_0],\quad\hat x_0^{g,c}=E_\varnothing+g\,(E_c-E_\varnothing)"

    def applies(self, case: Case) -> bool:
        # Float32 adds rounding alone, and a run of steps has much of it.
        return super().applies(case) and case.dtype == torch.float64

    def sides(self, case: Case) -> Iterable[Sides]:
        case = case.heard
        label, twin = self._subjects(case)
        law = {"condition": label, "guidance": WEIGHT}
        level = case.schedule.level_at(case.window(-4.0, 4.0)[0], case.x0)
        level = NoiseLevel(*(v.detach().expand(ROWS) for v in vars(level).values()))
        x, start = case.x0[:ROWS], case.schedule.prior_std * case.noise[:ROWS]
        size = 4 * max(float((self._size(case, twin, z, level) + z.norm()).max()) for z in (start, level.alpha[0] * x))
        scale = torch.hypot(level.alpha, level.sigma)[0]
        half = float(case.schedule.time(0.5 * sum(case.window(-4.0, 4.0))).detach())
        grid, ones = TimeGrid([0.0, half, 1.0]), torch.ones_like(x)
        own, theirs = ScoreModel(case.core), ScoreModel(twin)
        codes = [
            m.flow(first=0.0, to_data=False, **told).encode(x, "euler", 2) for m, told in ((own, law), (theirs, {}))
        ]
        yield Sides(codes[0].state, codes[1].state, scale * size * ones)
        options = {"solver": "euler", "steps": 1, "estimate": False, "first": 0.0}
        found, known = (m.likelihood(x, **options, **told) for m, told in ((own, law), (theirs, {})))
        yield Sides(found.code, known.code, scale * size * ones)
        yield Sides(found.log_prob, known.log_prob, case.dim * size * (1 + known.code.flatten(1).norm(dim=1)))
        noise = case.normal("guided runs", 2, 2, *x.shape)
        for eta in (0.0, 1.0):
            here, there = (
                reverse_sde(case.core, grid, eta, WEIGHT)(start, noise=noise[0], condition=label),
                reverse_sde(twin, grid, eta)(start, noise=noise[0]),
            )
            yield Sides(here, there, self._steepness(case, grid) * size * ones)
        here, there = (
            predictor_corrector(core, predictor="ddim", grid=grid, x=start, noise=noise, graph=False, **told)
            for core, told in ((case.core, law), (twin, {}))
        )
        yield Sides(here, there, size * ones)
        here, there = (
            annealed_langevin(
                core, levels=2, steps=1, log_snr=case.window(-1.0, 1.0), x=start, noise=noise[0][:, None],
                denoise=True, graph=False, **told,
            )
            for core, told in ((case.core, law), (twin, {}))
        )  # fmt: skip
        yield Sides(here, there, size * ones)
        delta = 0.1 * float(case.schedule.sigma(half).detach()) ** 2
        here, there = (
            m.langevin(start, half, 2, kernel=ULA(delta), noise=Noise(noise[0]), **told).x
            for m, told in ((own, law), (theirs, {}))
        )
        yield Sides(here, there, size * ones)

    @staticmethod
    def _steepness(case: Case, grid: TimeGrid) -> float:
        """What Euler's rows of the SDE multiply x̂_0 by, together."""
        rate = case.schedule.log_snr_derivative(grid.times[1:].to(case.device)).detach().cpu().abs()
        return float((1 + grid.times.diff() * rate).prod())
