r"""Item 12's symmetry, where it is broken by a known amount: a denoiser x̂_0 = M z with M ≠ Mᵀ."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from unidiff.core.diffusion import Diffusion
from unidiff.core.level import NoiseLevel
from unidiff.core.prediction import Prediction
from unidiff.identities.case import Case
from unidiff.identities.laws import Algebraic, MonteCarlo, Sides
from unidiff.identities.registry import register
from unidiff.score import ScoreModel
from unidiff.worlds import Gaussian


class _Linear:
    """x̂_0 = M z, for one M of normal entries about an upper triangle, so that by chance no trace or asymmetry is nought."""

    def __init__(self, case: Case) -> None:
        self.event_shape = case.core.event_shape
        noise = case.normal("curvature matrix", case.dim, case.dim)
        self.matrix = noise + 8 * torch.ones_like(noise).triu()

    def __call__(
        self, xt: Tensor, level: NoiseLevel, condition: Tensor | None = None, guidance: float = 1.0
    ) -> Prediction:
        return Prediction(xt, level, {"x0": (xt.flatten(1) @ self.matrix.T).view_as(xt)}, guarded=False)

    def norms(self) -> tuple[Tensor, Tensor]:
        """‖M − Mᵀ‖² by ‖M − Mᵀ‖² = 2‖M‖² − 2 tr M², and ‖M‖²."""
        square = self.matrix.square().sum()
        return 2 * square - 2 * (self.matrix @ self.matrix).trace(), square


def _speaks(case: Case) -> bool:
    # A schedule and its levels do not enter a constant Jacobian: one world is enough.
    return isinstance(case.world, Gaussian) and case.exact and not case.reaches_zero_snr


@register
class CurvatureIsAsymmetry(Algebraic):
    """By D vjps. κ: the entries' squares, which the trace of M² subtracts, and its root's."""

    name = "curvature-is-asymmetry"
    statement = r"\|J-J^\top\|^2=2\|J\|^2-2\,\mathrm{tr}\,J^2,\quad J=\frac{\partial\hat x_0}{\partial z}"
    views = ("score",)
    source = "Golub & Van Loan 2013, section 2.3; item 12"
    conditions = "a linear denoiser with a random matrix"
    subject = "schedule"

    def applies(self, case: Case) -> bool:
        return _speaks(case)

    def sides(self, case: Case) -> Iterable[Sides]:
        denoiser = _Linear(case)
        asymmetry, norm = denoiser.norms()
        found = ScoreModel(Diffusion(case.schedule, denoiser)).curvature(case.xt[::8], case.t[::8])
        yield Sides(found.asymmetry.square(), asymmetry, case.dim * norm)
        yield Sides(found.norm.square(), norm, case.dim * norm)
        yield Sides(found.relative.square() * norm, asymmetry, case.dim * norm)


@register
class CovarianceIsSymmetric(Algebraic):
    """The covariance that a core with a lopsided Jacobian is read with, and its diagonal. κ: the entries of (σ²/α)M."""

    name = "covariance-is-symmetric-part"
    statement = (
        r"\mathrm{Cov}[x_0|z]=\frac{\sigma^2}{\alpha}\,\frac{1}{2}\left(J+J^\top\right),"
        r"\quad J=\frac{\partial\hat x_0}{\partial z}"
    )
    views = ("score",)
    source = "Meng et al. 2021, section 3; item 12"
    conditions = "a linear denoiser with a random matrix"
    subject = "schedule"

    def applies(self, case: Case) -> bool:
        return _speaks(case)

    def sides(self, case: Case) -> Iterable[Sides]:
        denoiser, (z, t) = _Linear(case), (case.xt[::8], case.t[::8])
        model, matrix = ScoreModel(Diffusion(case.schedule, denoiser)), denoiser.matrix
        level = case.level[slice(None, None, 8)]
        # σ²/α = α/SNR; λ rounds at its size.
        gain = (level.alpha * torch.exp(-level.log_snr))[:, None, None]
        stored = gain * (1 + level.log_snr.abs())[:, None, None]
        size = case.dim * matrix.abs().max() * stored
        yield Sides(
            model.covariance(z, t), gain * torch.stack([matrix, matrix.T]).mean(0), size * torch.ones_like(matrix)
        )
        spread = model.variance(z, t)
        yield Sides(spread.diagonal.flatten(1), gain[:, 0] * matrix.diagonal(), size[:, 0] * torch.ones_like(matrix[0]))
        yield Sides(spread.trace, gain[:, 0, 0] * matrix.trace(), case.dim * size[:, 0, 0])


@register
class CurvatureByProbes(MonteCarlo):
    """By normal probes, K = 2, each a draw with its own error. Sizes: the two norms; the variance that is reported."""

    name = "curvature-by-probes"
    statement = r"E_v\|(J-J^\top)v\|^2=\|J-J^\top\|^2,\quad E_v\|J^\top v\|^2=\|J\|^2,\quad v\sim N(0,I)"
    views = ("score",)
    source = "Hutchinson 1989; Golub & Van Loan 2013, section 2.3"
    conditions = "a linear denoiser with a random matrix"
    subject = "schedule"
    # Fourth moments of normal probes: their variance is known to less than the norms are.
    bound = 0.5

    def applies(self, case: Case) -> bool:
        return _speaks(case)

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        denoiser = _Linear(case)
        asymmetry, norm = denoiser.norms()
        draws = case.mixed
        model = ScoreModel(Diffusion(case.schedule, denoiser))
        found = model.curvature(draws.xt, draws.t, 2, generator=case.generator("curvature probes"))
        square, told = found.asymmetry.square(), found.squared_error.square()
        off = [square - asymmetry, found.norm.square() - norm, (square - asymmetry).square() - told]
        return torch.stack(off, 1), torch.stack([asymmetry, norm, told.mean()])
