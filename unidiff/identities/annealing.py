r"""Item 18, the annealed samplers: what they are on Gaussian data, and what they share with the core's own."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from unidiff.core.diffusion import Diffusion
from unidiff.core.grid import TimeGrid
from unidiff.core.sampling import Sampler
from unidiff.identities.case import Case
from unidiff.identities.chains import denoiser_kappa
from unidiff.identities.laws import Algebraic, Sides
from unidiff.identities.registry import register
from unidiff.score.annealed import AnnealedLangevin, annealed_langevin
from unidiff.score.corrector import PREDICTORS, correct, predictor_corrector
from unidiff.worlds import Gaussian


@register
class AnnealedGaussian(Algebraic):
    """The law that the sampler leaves on Gaussian data, from unit vectors, against the recursion in y = x/α.

    κ: the condition of the coldest law, (largest variance)/(smallest), times the size of what is compared.
    """

    name = "annealed-langevin-gaussian"
    statement = r"y\leftarrow y+\tfrac12\alpha_i\nabla\log q_{\rho_i}(y)+\sqrt{\alpha_i}\,\xi,\quad" + (
        r"\alpha_i=\varepsilon\rho_i^2/\rho_L^2"
    )
    views = ("score",)
    source = "Song & Ermon 2019, algorithm 1; IDENTITIES item 7"
    conditions = "Gaussian data, the exact denoiser"
    subject = "optimal"

    def applies(self, case: Case) -> bool:
        return isinstance(case.world, Gaussian) and case.exact

    def sides(self, case: Case) -> Iterable[Sides]:
        levels, steps, kappa = 4, 2, 0.3
        ends = case.window(-3.0, 3.0)
        dim, rows = case.dim, levels * steps
        eye = torch.eye(dim, dtype=case.dtype, device=case.device)
        x = torch.cat([torch.zeros_like(eye[:1]), eye, torch.zeros(rows * dim, dim).to(eye)])
        noise = torch.zeros(rows, 1, len(x), dim).to(eye)
        for row in range(rows):
            noise[row, 0, 1 + dim * (row + 1) : 1 + dim * (row + 2)] = eye
        out = annealed_langevin(
            case.core, levels=levels, steps=steps, step_size=kappa, log_snr=ends, x=x, noise=noise, graph=False
        )
        mean, covariance, last = self._recursion(case, ends, levels, steps, kappa)
        columns = out[1:] - out[0]
        values = torch.linalg.eigvalsh(case.world.covariance.to(torch.float64) + torch.eye(dim).to(covariance) * last)
        size = values[-1] / values[0]
        # The columns are differences of states, which lie about the mean.
        reach = covariance.abs().max() + mean.abs().max() * covariance.abs().max().sqrt()
        yield Sides(columns.T @ columns, covariance, size * reach)
        yield Sides(out[0], mean, size * (1 + mean.abs().max()))
        yield from self._ends(case, ends)

    def _ends(self, case: Case, ends: tuple[float, float]) -> Iterable[Sides]:
        """The start is the noise of the first level alone, y ~ N(0, ρ_1²); ``denoise`` is Tweedie's at the last."""
        own = AnnealedLangevin(case.core, levels=2, steps=1, log_snr=ends, graph=False)
        first, last = (case.schedule.level_at(place, case.x0) for place in ends)
        std = (first.alpha * torch.exp(first.log_snr * -0.5)).detach()
        yield Sides(torch.full_like(std, own.start_std), std, std * (1 + first.log_snr.detach().abs()))
        x, noise = std * case.noise, case.normal("annealed ends", 2, 1, *case.noise.shape)
        end, found = (
            AnnealedLangevin(case.core, levels=2, steps=1, log_snr=ends, denoise=d, graph=False)(x, noise=noise)
            for d in (False, True)
        )
        score = case.world.diffuse(last.alpha.detach(), last.sigma.detach()).score(end)
        x0 = (end + last.sigma.square() * score) / last.alpha
        kappa = denoiser_kappa(case, end, last) + (end.abs() / last.alpha).detach()
        yield Sides(found, x0.detach(), kappa * (1 + last.log_snr.detach().abs()))

    def _recursion(
        self, case: Case, ends: tuple[float, float], levels: int, steps: int, kappa: float
    ) -> tuple[Tensor, Tensor, float]:
        """Mean and covariance of x at the last level, in float64, and ρ_L²."""
        data, m = case.world.covariance.to(torch.float64), case.world.mean.to(torch.float64)
        eye = torch.eye(case.dim).to(data)
        places = torch.linspace(*ends, levels, dtype=torch.float64, device=case.device)
        scale = case.schedule.alpha(case.schedule.time(places)).detach()
        covariance, mean = eye / scale[0] ** 2, torch.zeros_like(m)
        for rho2 in torch.exp(-places).tolist():
            precision = torch.linalg.inv(data + rho2 * eye)
            for _ in range(steps):
                step = kappa * rho2
                keep = eye - 0.5 * step * precision
                mean = mean + 0.5 * step * precision @ (m - mean)
                covariance = keep @ covariance @ keep + step * eye
        return scale[-1] * mean, scale[-1] ** 2 * covariance, float(torch.exp(-places[-1]))


@register
class CorrectorRatio(Algebraic):
    """The corrector's drift is r times its noise, in mean norm, or less where the level's own scale holds it.

    Odd and even parts in ξ tell the two apart. A score of a hundredth of the size reaches the bound. κ: ‖x‖ on top.
    """

    name = "corrector-snr"
    statement = r"\delta=\min\!\left(2r^2\frac{(E\|\xi\|)^2}{(E\|g\|)^2},\,\tfrac12\sigma^2\right)"
    views = ("score",)
    source = "Song et al. 2021 (SDE), appendix G, algorithm 4"
    conditions = "any score, where data and noise are both heard"

    def sides(self, case: Case) -> Iterable[Sides]:
        case = case.heard
        prediction = case.prediction
        x, score = case.xt, prediction.score.detach()
        # On the scale of the score's own level: a batch over forty nats of log-SNR has one norm only.
        sigma = case.expand(case.level.sigma)
        x, score, noise = x / sigma, sigma * score, case.normal("corrector", *x.shape)
        # In units of the slope at which noise alone is heard: there, and at a hundredth, on two levels.
        slope, size = (v.flatten(1).norm(dim=1).mean() for v in (score, noise))
        for share, snr, std in ((1.0, 0.05, 1.0), (1.0, 0.16, 1.0), (0.01, 0.16, 1.0), (0.01, 0.16, 0.5)):
            g, level = share * (size / slope) * score, torch.full((), std).to(x)
            there, back = (correct(x, g, xi, level, snr, "norms") - x for xi in (noise, -noise))
            drift, diffusion = 0.5 * (there + back), 0.5 * (there - back)
            left, right = (v.flatten(1).norm(dim=1).mean() for v in (drift, diffusion))
            # ‖δg‖/‖√(2δ)ξ‖ = √(δ/2) ‖g‖/‖ξ‖, which is r unless the bound speaks.
            ratio = min(snr, 0.5 * std * share)
            reach = x.flatten(1).norm(dim=1).mean() + ratio * right
            yield Sides(right, 2 * ratio / share * size, reach)
            yield Sides(left, ratio * right, reach)
            yield Sides(diffusion / diffusion.norm(), noise / noise.norm(), reach / right + torch.zeros_like(x))


@register
class PredictorAlone(Algebraic):
    """Without corrections the sampler is the core's own method, for every predictor. κ: the start's size, amplified."""

    name = "predictor-is-sampler"
    statement = r"\mathrm{PC}(M=0)=\mathrm{sampler}"
    views = ("core", "score")
    source = "Song et al. 2021 (SDE), section 4.2"
    conditions = "any core; two steps; a finite log-SNR at t = 1"

    def applies(self, case: Case) -> bool:
        return not case.reaches_zero_snr

    def sides(self, case: Case) -> Iterable[Sides]:
        case = case.legible
        core: Diffusion = case.core
        low, high = case.window(-2.0, 2.0)
        places = torch.tensor([high, 0.5 * (low + high)], dtype=torch.float64, device=case.device)
        grid = TimeGrid([*case.schedule.time(places).detach().tolist(), 1.0])
        n = min(case.batch, 8)
        x = case.schedule.prior_std * case.noise[:n]
        noise = case.normal("predictor", grid.steps, 1, *x.shape)
        for method in PREDICTORS:
            own = Sampler(core, grid, method, graph=False)(x, noise=noise[:, 0])
            found = predictor_corrector(core, predictor=method, corrections=0, grid=grid, x=x, noise=noise, graph=False)
            yield Sides(found, own, (own.abs().max() + x.abs().max()) * torch.ones_like(own) * case.dim)
        # Begun by itself, it begins at the prior; DDIM draws nothing more.
        own = Sampler(core, grid, "ddim", graph=False)(core.prior(n, case.generator("prior"), x))
        found = predictor_corrector(
            core, n, predictor="ddim", corrections=0, grid=grid, generator=case.generator("prior"), dtype=case.dtype,
            graph=False,
        )  # fmt: skip
        yield Sides(found, own, (own.abs().max() + x.abs().max()) * torch.ones_like(own) * case.dim)


@register
class CorrectorLevel(Algebraic):
    """A correction is made at the level that the predictor has reached, with the score there. κ: as before, and σ‖g‖."""

    name = "corrector-level"
    statement = r"\mathrm{PC}(M=1)=\mathrm{correct}_s\circ\mathrm{predict}_{t\to s}"
    views = ("core", "score")
    source = "Song et al. 2021 (SDE), algorithm 2"
    conditions = "any core; one step"

    def sides(self, case: Case) -> Iterable[Sides]:
        case = case.legible
        core: Diffusion = case.core
        s = float(case.schedule.time(0.5 * sum(case.window(-4.0, 4.0))).detach())
        grid = TimeGrid([s, 1.0])
        n = min(case.batch, 8)
        x = case.schedule.prior_std * case.noise[:n]
        noise = case.normal("corrector level", 1, 2, *x.shape)
        own = Sampler(core, grid, "ancestral", graph=False)(x, noise=noise[:, 0])
        score = core.predict(own, s).score.detach()
        found = predictor_corrector(
            core, predictor="ancestral", corrections=1, snr=0.16, grid=grid, x=x, noise=noise, graph=False
        )
        reach = own.abs().max() + x.abs().max() + score.norm() / score.abs().max()
        sigma = case.schedule.level(s, own).sigma.detach()
        yield Sides(found, correct(own, score, noise[0, 1], sigma, 0.16), reach * torch.ones_like(own) * case.dim)
