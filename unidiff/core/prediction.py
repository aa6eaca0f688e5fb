r"""One conversion table between the four things a network may predict.

With x_t = α x_0 + σ ε and v = α ε − σ x_0 (Salimans & Ho 2022, appendix D), any one of x_0, ε, v and the score
s = −ε/σ fixes the other three, each as a combination p·x_t + q·value with p and q functions of (α, σ) alone. With
ρ² = α² + σ² (one when variance preserving):

===========  ==================  ====================  ===================  ========================
from \ to    x_0                 ε                     v                    score
===========  ==================  ====================  ===================  ========================
x_0          0, 1                1/σ, −α/σ             α/σ, −ρ²/σ           −1/σ², α/σ²
ε            1/α, −σ/α           0, 1                  −σ/α, ρ²/α           0, −1/σ
v            α/ρ², −σ/ρ²         σ/ρ², α/ρ²            0, 1                 −1/ρ², −α/(σρ²)
score        1/α, σ²/α           0, −σ                 −σ/α, −σρ²/α         0, 1
===========  ==================  ====================  ===================  ========================

The entries with 1/α do not exist at zero SNR, those with 1/σ not at zero noise. The table is also what folds a
network's output into a sampler's coefficients (:mod:`unidiff.core.sampling`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from unidiff.core.boundary import check_alike, check_batched, check_name, right_expand
from unidiff.core.level import NoiseLevel

Kind = Literal["x0", "eps", "v", "score"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_Coefficients = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def _rho2(alpha: Tensor, sigma: Tensor) -> Tensor:
    return alpha * alpha + sigma * sigma


_TABLE: dict[tuple[Kind, Kind], _Coefficients] = {
    ("x0", "eps"): lambda a, s: (1 / s, -a / s),
    ("x0", "v"): lambda a, s: (a / s, -_rho2(a, s) / s),
    ("x0", "score"): lambda a, s: (-1 / s**2, a / s**2),
    ("eps", "x0"): lambda a, s: (1 / a, -s / a),
    ("eps", "v"): lambda a, s: (-s / a, _rho2(a, s) / a),
    ("eps", "score"): lambda a, s: (torch.zeros_like(s), -1 / s),
    ("v", "x0"): lambda a, s: (a / _rho2(a, s), -s / _rho2(a, s)),
    ("v", "eps"): lambda a, s: (s / _rho2(a, s), a / _rho2(a, s)),
    ("v", "score"): lambda a, s: (-1 / _rho2(a, s), -a / (s * _rho2(a, s))),
    ("score", "x0"): lambda a, s: (1 / a, s**2 / a),
    ("score", "eps"): lambda a, s: (torch.zeros_like(s), -s),
    ("score", "v"): lambda a, s: (-s / a, -s * _rho2(a, s) / a),
}


def conversion(source: Kind, target: Kind, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """(p, q) with target = p·x_t + q·source: the table above, at (α, σ) of any one shape."""
    if source == target:
        return torch.zeros_like(alpha), torch.ones_like(alpha)
    return _TABLE[source, target](alpha, sigma)


@dataclass(frozen=True)
class Prediction:
    """What a denoiser says about a noisy batch: x_0, ε, v and the score, each given or converted when asked.

    Attributes:
        xt: the noisy state, ``[B, *E]``.
        level: its noise level, entries of shape ``[]`` or ``[B]``.
        known: the quantities given as such, by kind, each ``[B, *E]``; the first is what conversions start from.
        variance_fraction: for a learned variance, where between posterior (0) and prior (1) log-variance, ``[B, *E]``.
        guarded: whether a conversion that does not exist at this level raises (it reads the level's values, which
            on a GPU waits for it), and, on the CPU, an answer that is not finite (FloatingPointError); loops that
            checked their levels beforehand, and look at their end, pass False.
    """

    xt: Tensor
    level: NoiseLevel
    known: Mapping[Kind, Tensor]
    variance_fraction: Tensor | None = None
    guarded: bool = field(default=True, repr=False)

    @staticmethod
    def of(kind: Kind, value: Tensor, xt: Tensor, level: NoiseLevel) -> Prediction:
        """The prediction in which ``value`` ``[B, *E]`` is the quantity ``kind``.

        Raises:
            ValueError: unknown kind; value and xt differ in shape, dtype or device; eps or score at zero SNR (α = 0),
                where they say nothing of x_0.
        """
        check_name("prediction", kind, KINDS)
        check_alike(xt=xt, value=value)
        check_batched("level", level.alpha, xt)
        check_informative(kind, level.alpha)
        return Prediction(xt, level, {kind: value})

    @property
    def x0(self) -> Tensor:
        """The denoised state x̂_0, ``[B, *E]``."""
        return self._get("x0")

    @property
    def eps(self) -> Tensor:
        """The noise ε̂, ``[B, *E]``."""
        return self._get("eps")

    @property
    def v(self) -> Tensor:
        """The velocity v̂ = α ε̂ − σ x̂_0, ``[B, *E]``."""
        return self._get("v")

    @property
    def score(self) -> Tensor:
        """The score ∇ log q_t(x_t), ``[B, *E]``, in units of 1/x."""
        return self._get("score")

    def _get(self, target: Kind) -> Tensor:
        if target in self.known:
            return self._finite(target, self.known[target])
        source, value = next(iter(self.known.items()))
        if self.guarded:
            _check_exists(source, target, self.level)
        p, q = conversion(source, target, self.level.alpha, self.level.sigma)
        return self._finite(target, right_expand(p, self.xt) * self.xt + right_expand(q, self.xt) * value)

    def _finite(self, target: Kind, value: Tensor) -> Tensor:
        # On a GPU looking would wait for it.
        if self.guarded and value.device.type == "cpu" and not bool(torch.isfinite(value.detach()).all()):
            bad = int((~torch.isfinite(value.detach())).flatten(1).any(1).sum())
            raise FloatingPointError(
                f"the denoiser's {target} must be finite, got NaN or infinity in {bad} of {value.shape[0]} rows, "
                f"at log-SNR {_span(self.level.log_snr.detach())}"
            )
        return value


def _span(value: Tensor) -> str:
    least, most = value.min().item(), value.max().item()
    return f"{least:.4g}" if least == most else f"{least:.4g} … {most:.4g}"


def check_informative(kind: Kind, alpha: Tensor) -> None:
    """ε and the score carry nothing about x_0 where α = 0, or so small that 1/α overflows; refuse them there."""
    if kind in ("eps", "score") and bool(torch.isinf(1 / alpha).any()):
        raise ValueError(
            f"{kind}-prediction at zero SNR (alpha = 0) says nothing about x0; predict 'x0' or 'v' there, "
            "or use a schedule whose log-SNR stays finite"
        )


def _check_exists(source: Kind, target: Kind, level: NoiseLevel) -> None:
    if source in ("eps", "score") and target in ("x0", "v"):
        check_informative(source, level.alpha)
    needs_noise = source == "x0" or (target == "score")
    if needs_noise and bool((level.sigma == 0).any()):
        raise ValueError(f"{target} does not follow from {source} at zero noise (sigma = 0)")
