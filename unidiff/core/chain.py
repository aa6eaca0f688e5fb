r"""The reverse chain: p_θ(x_s|x_t) on a grid, the one kernel that every view calls its own.

It is the VAE's decoder step, the ancestral sampler's step, the MDP's policy and DxMI's generator:

    p_θ(x_s|x_t) = N(a x_t + b x̂_0(x_t), v),   a, b those of q(x_s|x_t, x_0)   (Ho et al. 2020, eq. 7 and 11)

with one of five variances, c = −expm1(λ_t − λ_s):

    posterior  σ_s² c                       exact when data are a point (Ho et al.'s β̃_t)
    prior      σ_t² c = σ²_{t|s}            exact when VP and data are N(0, I) (their β_t)
    optimal    σ_s² c + b² Var[x_0|x_t]     exact in the second moment (Bao et al. 2022, eq. 7), b = α_s c
    learned    log-interpolation of the first two by the network's fraction (Nichol & Dhariwal 2021, eq. 15)
    given      a number for each step, from a table that may itself be trained (Yoon et al. 2024, section 3)

The prior rule alone is no invariant of VP ↔ VE (item 7): σ_t² c/α_s² of the one is not that of the other. When VE it is
the limit of infinitely wide data, and for N(0, I) too large by (1 + σ_t²)/(1 + σ_s²).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from unidiff.core.boundary import (
    check_count,
    check_device,
    check_dtype,
    check_floating,
    check_generator,
    check_name,
    check_type,
    right_expand,
)
from unidiff.core.diffusion import Diffusion
from unidiff.core.gaussian import Gaussian
from unidiff.core.grid import TimeGrid
from unidiff.core.level import NoiseLevel
from unidiff.core.prediction import Prediction
from unidiff.core.process import bridge

Variance = Literal["posterior", "prior", "optimal", "learned", "given"]
VARIANCES: tuple[Variance, ...] = get_args(Variance)
RULES: tuple[Variance, ...] = tuple(rule for rule in VARIANCES if rule != "given")
"""Those that a name alone says: for what makes its own chains, and takes no table."""
Step = int | Tensor
"""k of one step, or one for each row ``[B]``, on the table's device: the host, or :meth:`ReverseChain.beside`'s."""


@dataclass(frozen=True)
class ChainTable:
    """The chain's coefficients, float64 ``[N]``; row k − 1 steps from t_k to t_{k−1}."""

    on_xt: Tensor
    on_x0: Tensor
    log_posterior_var: Tensor
    log_prior_var: Tensor


class ReverseChain:
    """p_θ(x_{t_{k−1}}|x_{t_k}) for k = 1 … N.

    Args:
        core: the diffusion core.
        grid: the times.
        variance: the rule.
        x0_variance: for ``"optimal"``, a table ``[N]`` of Var[x_0|x_{t_k}] per dimension (k = 1 … N), in x² units;
            None asks the denoiser's own ``x0_variance(xt, level)``, which an exact denoiser has. An error with another rule.
        log_var: for ``"given"``, the table ``[N]`` of the steps' log-variances per dimension (k = 1 … N), log of x² units,
            used as it is: what is trained may go on changing it. An error with another rule.

    Raises:
        TypeError: x0_variance or log_var is no floating-point tensor.
        ValueError: an unknown rule; ``"learned"`` without a network that learns it; ``"optimal"`` without a source of
            Var[x_0|x_t]; ``"given"`` without a table, or one that is not ``[N]`` and finite; an eps- or
            score-network on a grid that reaches zero SNR.
    """

    def __init__(
        self,
        core: Diffusion,
        grid: TimeGrid,
        variance: Variance = "posterior",
        x0_variance: Tensor | None = None,
        log_var: Tensor | None = None,
    ) -> None:
        check_name("variance", variance, VARIANCES)
        if variance == "learned" and not getattr(core.denoiser, "learned_variance", False):
            raise ValueError("variance 'learned' needs a denoiser built with learned_variance=True")
        if variance == "optimal" and x0_variance is None and not hasattr(core.denoiser, "x0_variance"):
            raise ValueError("variance 'optimal' needs x0_variance, [N] values of Var[x0|xt], or an exact denoiser")
        if (variance == "given") != (log_var is not None):
            got = "none" if log_var is None else f"one with variance {variance!r}"
            raise ValueError(f"log_var, a table [{grid.steps}], is for variance 'given' and needed there, got {got}")
        if log_var is not None:
            check_floating("log_var", log_var)
            if log_var.shape != (grid.steps,) or not bool(torch.isfinite(log_var.detach()).all()):
                raise ValueError(f"log_var must be finite and have shape [{grid.steps}], got {log_var}")
        if x0_variance is not None:
            if variance != "optimal":
                raise ValueError(f"x0_variance is for variance 'optimal', got it with variance {variance!r}")
            check_floating("x0_variance", x0_variance)
            if x0_variance.shape != (grid.steps,):
                raise ValueError(f"x0_variance must have shape [{grid.steps}], got {list(x0_variance.shape)}")
            if not bool(((x0_variance >= 0) & torch.isfinite(x0_variance)).all()):
                raise ValueError(f"x0_variance must be finite and at least 0, got {x0_variance.min().item()} at least")
        self.core = core
        self.grid = grid
        self.variance: Variance = variance
        self.x0_variance = x0_variance
        self.given = log_var
        self.levels = core.schedule.level(grid.times)
        core.check_levels(self.levels.alpha[1:])
        earlier, later = grid.times[:-1], grid.times[1:]
        step = bridge(core.schedule, earlier, later)
        _, log_prior = core.process.transition_coefficients(earlier, later)
        self.table = ChainTable(step.on_xt, step.on_x0, step.log_var, log_prior)
        self._beside: dict[torch.device, ReverseChain] = {}

    @property
    def steps(self) -> int:
        """N."""
        return self.grid.steps

    def beside(self, like: Tensor) -> ReverseChain:
        """The same chain with its columns, still float64, on ``like``'s device: there steps are looked up unasked.

        Copied once for each device, so that a graph of what asks for them can be captured; a given table that lies elsewhere
        is copied each time, as it stands.
        """
        device = like.device
        if self.levels.log_snr.device == device:
            return self
        if device not in self._beside:
            self._beside[device] = self._copied(device)
        there = self._beside[device]
        if self.given is not None and self.given.device != device:
            there = copy.copy(there)
            there.given = self.given.to(device)
        return there

    def _copied(self, device: torch.device) -> ReverseChain:
        there, levels = copy.copy(self), self.levels
        there.levels = NoiseLevel(*(v.to(device) for v in (levels.t, levels.log_snr, levels.alpha, levels.sigma)))
        table = self.table
        there.table = ChainTable(
            *(v.to(device) for v in (table.on_xt, table.on_x0, table.log_posterior_var, table.log_prior_var))
        )
        there.given = None if self.given is None else self.given.to(device)
        there.x0_variance = None if self.x0_variance is None else self.x0_variance.to(device)
        return there

    def between(self, s: Tensor, t: Tensor) -> ReverseChain:
        """The same rule for other steps: row m of its table, k = m + 1, steps from t[m] to s[m], each ``[M]``, s < t.

        For what compares steps that no one grid has. Only :meth:`kernel`, :meth:`mean`, :meth:`row` and :meth:`log_var` are
        asked of it.

        Raises:
            ValueError: a rule that is a table of this grid's own steps; not s < t.
        """
        if self.given is not None or self.x0_variance is not None:
            raise ValueError(f"variance must be a rule for any step, got {self.variance!r} from a table of one grid")
        there, step = copy.copy(self), bridge(self.core.schedule, s, t)
        _, log_prior = self.core.process.transition_coefficients(s, t)
        there.table, there._beside = ChainTable(step.on_xt, step.on_x0, step.log_var, log_prior), {}
        return there

    def step(self, xt: Tensor, k: int, condition: Tensor | None = None, guidance: float = 1.0) -> Gaussian:
        """p_θ(x_{t_{k−1}}|x_{t_k} = xt), for ``xt`` ``[B, *E]`` and k in 1 … N.

        Raises:
            ValueError: k outside 1 … N, or xt, condition or guidance as in :meth:`unidiff.Diffusion.predict`.
        """
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= self.steps:
            raise ValueError(f"k must be an integer in 1 … {self.steps} (a step from t_k to t_(k-1)), got {k!r}")
        condition = self.core.check_arguments("xt", xt, condition, guidance)
        prediction = self.core.denoiser(xt, self.levels[k].to(xt), condition, guidance)
        return self.kernel(xt, k, prediction)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        generator: torch.Generator | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        condition: Tensor | None = None,
        guidance: float = 1.0,
    ) -> Tensor:
        """n draws of p_θ(x_{t_0}), ``[n, *E]``: a walk from the prior through every step's Gaussian.

        Args:
            n: how many.
            generator: the source of all draws.
            dtype, device: of the states; the device is the generator's, or the core's, if None.
            condition: class labels ``[n]``, or one for all.
            guidance: classifier-free guidance weight.

        Raises:
            TypeError: a generator of another kind.
            ValueError: n below 1; a device that is not there; dtype, condition or guidance that the core does not take.
            FloatingPointError: a walk that ends in values that are not finite.
        """
        check_dtype(dtype)
        if generator is not None:
            check_type("generator", generator, torch.Generator)
        place = self.core.home(generator) if device is None else check_device(device)
        check_generator(generator, place)
        x = self.core.prior(check_count("n", n), generator, like=torch.empty(0, dtype=dtype, device=place))
        condition = self.core.check_arguments("x", x, condition, guidance)
        there = self.beside(x)
        levels = there.levels.to(x)
        for k in range(self.steps, 0, -1):
            step = there.kernel(x, k, self.core.denoiser(x, levels[k], condition, guidance))
            noise = torch.randn(x.shape, generator=generator, dtype=dtype, device=place)
            x = step.mean + step.std * noise
        if not bool(torch.isfinite(x).all()):
            bad = int((~torch.isfinite(x)).flatten(1).any(1).sum())
            raise FloatingPointError(f"the chain must end in finite values, got NaN or infinity in {bad} of {n} draws")
        return x

    def kernel(self, xt: Tensor, k: Step, prediction: Prediction) -> Gaussian:
        """The step's Gaussian from a prediction at ``xt`` already made; k (one, or ``[B]`` of them) is trusted."""
        own = self.log_var(xt, k, prediction.level, prediction.variance_fraction)
        return Gaussian(self.mean(xt, k, prediction.x0), own)

    def mean(self, xt: Tensor, k: Step, x0: Tensor) -> Tensor:
        """The step's mean at ``xt`` for x̂_0 = ``x0``; k (one, or ``[B]`` of them) is trusted."""
        return self.row(self.table.on_xt, k, xt) * xt + self.row(self.table.on_x0, k, xt) * x0

    def row(self, column: Tensor, k: Step, like: Tensor) -> Tensor:
        """Entry k − 1 of a table's column ``[N]``, in ``like``'s dtype and on its device, shaped to multiply it."""
        return right_expand(column[k - 1].to(like), like)

    def log_var(self, xt: Tensor, k: Step, level: NoiseLevel, fraction: Tensor | None) -> Tensor:
        """log of the step's variance at ``xt``; ``fraction`` is the network's, for "learned". Broadcasts to xt."""
        if self.given is not None:
            return self.row(self.given, k, xt)
        posterior, prior = (self.row(v, k, xt) for v in (self.table.log_posterior_var, self.table.log_prior_var))
        if self.variance == "posterior":
            return posterior
        if self.variance == "prior":
            # Without noise at t_0 the last step is a decoder's, whatever the rule.
            return torch.where(torch.isneginf(posterior), posterior, prior)
        if self.variance == "learned":
            if fraction is None:
                raise ValueError("variance 'learned' needs a prediction with a variance_fraction")
            # The arm that is not taken must be finite too, or its gradient is NaN.
            decoder = torch.isneginf(posterior)
            lower = torch.where(decoder, prior, posterior)
            return torch.where(decoder, posterior, prior.lerp(lower, 1 - fraction))
        spread = 2 * self.row(self.table.on_x0.log(), k, xt) + self._x0_variance(xt, k, level).log()
        return torch.logaddexp(posterior, spread)

    def _x0_variance(self, xt: Tensor, k: Step, level: NoiseLevel) -> Tensor:
        if self.x0_variance is not None:
            return self.row(self.x0_variance, k, xt)
        return right_expand(self.core.denoiser.x0_variance(xt, level), xt)  # pyright: ignore
