r"""The core read as a score model: everything the score's value and slope say of x_0.

    ∇ log q_t(z) = (α x̂_0 − z)/σ²,   E[x_0|z] = x̂_0                            (Robbins 1956; Efron 2011, eq. 1.4)
    Cov[x_0|z] = (σ²/α²)(I + σ²∇s) = (σ²/α) J,   J = ∂x̂_0/∂z                   (Efron 2011, eq. 2.8; Meng et al. 2021)

The covariance is taken from J and not from ∇s: at high SNR I + σ²∇s is a difference of near-equal matrices, of relative
rounding eps·α²e/σ² for a data variance e (all digits by λ = 36, and half of float32's by λ = 8), where J is of order 1/α
and loses nothing. J is symmetric for the exact denoiser (a score is a gradient); how far a network's is not is
:meth:`ScoreModel.curvature`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from unidiff.core.boundary import Time, check_count, check_generator, right_expand
from unidiff.core.diffusion import Diffusion
from unidiff.core.level import NoiseLevel
from unidiff.mcmc.chains import Chains
from unidiff.mcmc.running import langevin
from unidiff.mcmc.state import State
from unidiff.mcmc.target import Target
from unidiff.score.annealed import annealed_langevin
from unidiff.score.corrector import predictor_corrector
from unidiff.score.derivatives import Field, Probe, draw_probes, jacobian, jvp, vjps
from unidiff.score.flow import ProbabilityFlow
from unidiff.score.likelihood import Likelihood, likelihood
from unidiff.score.objectives import score_matching_loss

Probes = int | Literal["exact"]


@dataclass(frozen=True, eq=False)
class Spread:
    """Var[x_0|x_t] and how well it is known.

    Attributes:
        diagonal: of the covariance, ``[B, *E]``, in x² units.
        diagonal_error: its standard error, ``[B, *E]``; 0 if exact, infinite with one probe.
        trace: Σ of the diagonal, ``[B]``.
        trace_error: its standard error, ``[B]``.
    """

    diagonal: Tensor
    diagonal_error: Tensor
    trace: Tensor
    trace_error: Tensor


@dataclass(frozen=True, eq=False)
class Curvature:
    """How far the denoiser's Jacobian is from a gradient field's.

    Attributes:
        asymmetry: ‖J − Jᵀ‖, Frobenius, ``[B]``.
        norm: ‖J‖, ``[B]``.
        relative: their ratio, ``[B]``; in [0, 2].
        squared_error: standard error of asymmetry², ``[B]``; 0 if exact, infinite with one probe.
    """

    asymmetry: Tensor
    norm: Tensor
    relative: Tensor
    squared_error: Tensor


@dataclass(frozen=True, eq=False)
class ScoreModel:
    """A core as a score model. It reads the core and changes nothing in it: neither mode, nor parameters, nor gradients.

    Attributes:
        core: the diffusion core.
    """

    core: Diffusion

    def __post_init__(self) -> None:
        if not isinstance(self.core, Diffusion):
            raise TypeError(f"core must be a unidiff Diffusion, got {type(self.core).__name__}")

    def score(self, xt: Tensor, t: Time, condition: Tensor | None = None, guidance: float = 1.0) -> Tensor:
        """∇ log q_t at ``xt`` ``[B, *E]``, in units of 1/x.

        Raises:
            ValueError: as :meth:`unidiff.Diffusion.predict`; no noise (σ = 0) at t.
        """
        return self.core.predict(xt, t, condition, guidance).score

    def denoise(self, xt: Tensor, t: Time, condition: Tensor | None = None, guidance: float = 1.0) -> Tensor:
        """E[x_0|x_t] at ``xt`` ``[B, *E]``, by Tweedie's formula. Raises as :meth:`unidiff.Diffusion.predict`."""
        return self.core.predict(xt, t, condition, guidance).x0

    @torch.inference_mode(False)
    def covariance(self, xt: Tensor, t: Time, condition: Tensor | None = None, guidance: float = 1.0) -> Tensor:
        """Cov[x_0|x_t] of the flattened datum, ``[B, D, D]``, in x² units: the symmetric part of (σ²/α)J, by D vjps.

        Raises:
            ValueError: as :meth:`unidiff.Diffusion.predict`; xt empty, not finite or of half precision;
                zero SNR at t, where it is 0·∞.
        """
        gain, field = self._denoiser(xt, t, condition, guidance)
        _, slope = jacobian(field, xt)
        return gain.reshape(-1, 1, 1) * 0.5 * (slope + slope.mT)

    @torch.inference_mode(False)
    def variance(
        self,
        xt: Tensor,
        t: Time,
        probes: Probes = "exact",
        *,
        probe: Probe = "rademacher",
        generator: torch.Generator | None = None,
        condition: Tensor | None = None,
        guidance: float = 1.0,
    ) -> Spread:
        """The diagonal and the trace of Cov[x_0|x_t].

        Args:
            probes: "exact" (D vjps), or K for E[v ∘ Jᵀv] and E[vᵀJv] over K probes (Bekas et al. 2007; Hutchinson 1989).
            probe, generator: their kind and source.

        Raises:
            ValueError: as :meth:`covariance`; probes below 1.
        """
        gain, field = self._denoiser(xt, t, condition, guidance)
        check_generator(generator, xt.device)
        if probes == "exact":
            diagonal = gain * jacobian(field, xt)[1].diagonal(dim1=1, dim2=2).reshape(xt.shape)
            zero = torch.zeros_like(diagonal)
            return Spread(diagonal, zero, diagonal.flatten(1).sum(1), zero.flatten(1)[:, 0])
        vectors = draw_probes(probes, xt, probe, generator)
        draws = gain * vectors * vjps(field, xt, vectors)[1]
        totals = draws.flatten(2).sum(2)
        return Spread(draws.mean(0), _standard_error(draws), totals.mean(0), _standard_error(totals))

    @torch.inference_mode(False)
    def curvature(
        self,
        xt: Tensor,
        t: Time,
        probes: Probes = "exact",
        *,
        generator: torch.Generator | None = None,
        condition: Tensor | None = None,
        guidance: float = 1.0,
    ) -> Curvature:
        """‖J − Jᵀ‖ beside ‖J‖ for J = ∂x̂_0/∂x_t; zero for a score that is a gradient.

        Args:
            probes: "exact" (D vjps), or K for E‖(J − Jᵀ)v‖² = ‖J − Jᵀ‖² over K normal probes (K vjps and K jvps).
            generator: their source.

        Raises:
            ValueError: as :meth:`covariance`; probes below 1.
        """
        _, field = self._denoiser(xt, t, condition, guidance)
        check_generator(generator, xt.device)
        if probes == "exact":
            slope = jacobian(field, xt)[1]
            squares, sizes = (m.flatten(1).square().sum(1)[None] for m in (slope - slope.mT, slope))
            error = torch.zeros_like(squares[0])
        else:
            vectors = draw_probes(check_count("probes", probes), xt, "gaussian", generator)
            pulled = vjps(field, xt, vectors)[1]
            pushed = torch.stack([jvp(field, xt, v)[1] for v in vectors])
            squares, sizes = (d.flatten(2).square().sum(2) for d in (pushed - pulled, pulled))
            error = _standard_error(squares)
        asymmetry, norm = squares.mean(0).sqrt(), sizes.mean(0).sqrt()
        return Curvature(asymmetry, norm, torch.where(norm > 0, asymmetry / norm, asymmetry), error)

    def loss(self, x0: Tensor, kind: str, t: Tensor, **options: Any) -> Tensor:
        """A score-matching objective of each member of ``x0`` ``[B, *E]`` at times t ``[B]``, ``[B]``.

        See :func:`unidiff.score.objectives.score_matching_loss` for the kinds ("denoising", "implicit", "hutchinson",
        "sliced", "explicit"), the options and the errors.
        """
        return score_matching_loss(self.core, x0, kind, t, **options)

    def log_prob(self, x: Tensor, **options: Any) -> Tensor:
        """log p(x) of data ``[B, *E]`` by the probability flow, in nats, ``[B]``; see :meth:`likelihood`."""
        return self.likelihood(x, **options).log_prob

    def likelihood(self, x: Tensor, **options: Any) -> Likelihood:
        """log p(x) with its errors; the options and errors of :func:`unidiff.score.likelihood.likelihood`."""
        return likelihood(self.core, x, **options)

    def flow(self, **options: Any) -> ProbabilityFlow:
        """The probability flow: ``encode``, ``decode``, ``round_trip``. Options and errors of its class."""
        return ProbabilityFlow(self.core, **options)

    def langevin(self, x: Tensor | State, t: float, steps: int, **options: Any) -> Chains:
        """Chains on the noised law q_t from each row of ``x`` ``[B, *E]``; see :func:`unidiff.score.langevin`.

        ``condition`` and ``guidance`` say which law; the other options, and the errors, are that function's.
        """
        law = {name: options.pop(name) for name in ("condition", "guidance", "panels") if name in options}
        return langevin(Target.from_core(self.core, t, **law), x, steps, **options)

    def annealed_langevin(self, n: int | None = None, **options: Any) -> Tensor:
        """Samples ``[n, *E]`` by chains on ever less noised laws; see :func:`unidiff.score.annealed_langevin`."""
        return annealed_langevin(self.core, n, **options)

    def predictor_corrector(self, n: int | None = None, **options: Any) -> Tensor:
        """Samples ``[n, *E]`` by a sampler's steps and Langevin's in turn; see :func:`unidiff.score.predictor_corrector`."""
        return predictor_corrector(self.core, n, **options)

    def _denoiser(self, xt: Tensor, t: Time, condition: Tensor | None, guidance: float) -> tuple[Tensor, Field]:
        """σ²/α, shaped to multiply a state, and z ↦ x̂_0(z, t)."""
        # The checks of the level are predict's own; a field is asked many times and trusts it.
        condition = self.core.check_batch("xt", xt, condition, guidance)
        with torch.no_grad():
            self.core.predict(xt, t, condition, guidance)
        exact = self.core.schedule.level(t)
        if bool((exact.alpha == 0).any()):
            raise ValueError(
                f"t must have a signal (alpha > 0): at zero SNR Cov[x0|xt] = (sigma^2/alpha) J is 0 times infinity, "
                f"got t = {t}"
            )
        level = NoiseLevel(*(v.detach().to(xt) for v in (exact.t, exact.log_snr, exact.alpha, exact.sigma)))

        def field(z: Tensor) -> Tensor:
            return self.core.denoiser(z, level, condition, guidance).x0

        return right_expand(level.sigma.square() / level.alpha, xt), field


def _standard_error(draws: Tensor) -> Tensor:
    """Of the mean over axis 0; infinite for one draw, which says nothing of its spread."""
    n = draws.shape[0]
    return torch.full_like(draws[0], math.inf) if n == 1 else draws.std(0) / math.sqrt(n)
