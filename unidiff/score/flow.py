r"""The flow and the SDEs that carry the marginals q_t, read off the core.

Anderson's family (Anderson 1982; Song et al. 2021 (SDE), eq. 6 and 13): for every η ≥ 0

    dz = [f z − ½(1 + η²) g² s(z, t)] dt + η g dW̄

has the marginals q_t. η = 1 is the reverse SDE; η = 0 is deterministic, the probability-flow ODE. Scale the state to
y = z/ρ, ρ² = α² + σ² (y is z if the schedule is variance preserving), and measure the level by its angle
θ = arctan(σ/α) ∈ (0, π/2), so that α/ρ = cos θ and σ/ρ = sin θ. Then f, g and the schedule drop out:

    dy/dθ = v̂(y),   v̂ = cos θ ε̂ − sin θ x̂_0,   ∇_y · v̂ = ∇_z · v_core        (Salimans & Ho 2022, appendix D)

the network's own v-prediction, smooth at both ends where λ → ±∞: in θ, RK4 needs a quarter of the steps that it needs
in λ. The first stretch, from data to the level of t_0, is one step of the same flow in σ²/α² with the denoiser of t_0,

    x' = x + ½(x − x̂_0(α_0 x, t_0)),      log|∂x'/∂x| = ½(D − ∇·x̂_0) + O((σ_0/α_0)⁴),

without which a density at the data would be that of data noised by σ_0/α_0 (3e-5 nats off at λ_0 = 15 in 8-D). It is a
step for high SNR: from λ_0 = 5 it is 0.06 nats off in 2-D, from λ_0 = 3 a whole nat (``Likelihood.entry_error`` tells).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from unidiff.core.boundary import (
    Time,
    check_condition,
    check_flag,
    check_not_negative,
    check_real,
    check_type,
    right_expand,
)
from unidiff.core.diffusion import Diffusion
from unidiff.core.grid import TimeGrid
from unidiff.core.level import NoiseLevel
from unidiff.core.prediction import Prediction
from unidiff.core.sampling import Sampler
from unidiff.score.derivatives import Field
from unidiff.score.ode import Solver, check_solver, solve

HIGHEST_LOG_SNR = 13.3
"""Where a flow starts by default if the schedule has no noise at t = 0: VDM's λ_max (Kingma et al. 2021)."""

_MOST_INVERSIONS = 100
_SETTLED = 64.0
"""Roundings of the state: a fixed point is found when an iteration moves it by less."""


@dataclass(frozen=True, eq=False)
class ProbabilityFlow:
    """The probability-flow ODE of a core between data and t = 1, in the angle θ.

    Attributes:
        core: the diffusion core.
        first: t_0; None takes 0, or where λ is infinite there, the time of :data:`HIGHEST_LOG_SNR`.
        condition: class labels ``[B]``, or one for all, ``[]``.
        guidance: classifier-free guidance weight; 1 is the plain conditional model.
        to_data: whether to go from t_0 on to the data by the step above; else the data's end is x_{t_0}/α_{t_0}.

    Raises:
        TypeError: a condition that is no tensor of integers; another argument of another type.
        ValueError: first outside [0, 1), a log-SNR that is infinite at first or at t = 1; condition or guidance that
            the denoiser does not take (:func:`~unidiff.core.boundary.check_condition`).
    """

    core: Diffusion
    first: float | None = None
    condition: Tensor | None = None
    guidance: float = 1.0
    to_data: bool = True
    ends: NoiseLevel = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_type("core", self.core, Diffusion)
        check_flag("to_data", self.to_data)
        schedule = self.core.schedule
        rows = self.condition.shape[0] if isinstance(self.condition, Tensor) and self.condition.ndim else 1
        check_condition(self.condition, self.guidance, rows, getattr(self.core.denoiser, "num_classes", None))
        first = self.first
        if first is None:
            endless = not math.isfinite(float(schedule.log_snr(0.0).detach()))
            first = float(schedule.time(HIGHEST_LOG_SNR)) if endless else 0.0
        if not 0.0 <= check_real("first", first) < 1.0:
            raise ValueError(f"first must lie in [0, 1), got {first}")
        ends = _detached(schedule.level(torch.tensor([first, 1.0], dtype=torch.float64)))
        for name, log_snr in zip(("first", "the last time"), ends.log_snr.tolist(), strict=True):
            if not math.isfinite(log_snr):
                time = first if name == "first" else 1.0
                raise ValueError(
                    f"{name} must be where the log-SNR is finite, got {log_snr} at t = {time}; "
                    "pass a later first time, or use a schedule with finite ends"
                )
        self.core.check_levels(ends.alpha)
        object.__setattr__(self, "ends", ends)

    @property
    def angles(self) -> tuple[float, float]:
        """θ at t_0 and at t = 1."""
        first, last = (-0.5 * self.ends.log_snr).exp().atan().tolist()
        return first, last

    def levels(self, angles: Sequence[float], like: Tensor) -> list[NoiseLevel]:
        """The noise level at each angle, in ``like``'s dtype and on its device."""
        high, low = self.ends.log_snr.tolist()
        log_snr = -2 * torch.tensor(angles, dtype=torch.float64).tan().log()
        return self.levels_at(log_snr.clamp(low, high).tolist(), like)

    def levels_at(self, log_snr: Sequence[float], like: Tensor) -> list[NoiseLevel]:
        """The noise level at each log-SNR within the flow's, in ``like``'s dtype and on its device."""
        levels = _detached(self.core.schedule.level_at(torch.tensor(log_snr, dtype=torch.float64))).to(like)
        return [levels[k] for k in range(len(log_snr))]

    def prediction(self, z: Tensor, level: NoiseLevel) -> Prediction:
        """What the denoiser says of z ``[B, *E]`` at a level, under the flow's condition and guidance."""
        condition = None if self.condition is None else self.condition.expand(z.shape[0])
        return self.core.denoiser(z, level, condition, self.guidance)

    def velocity(self, level: NoiseLevel) -> Field:
        """dy/dθ at a level (one, or ``[B]`` of them), a function of y ``[B, *E]``."""

        def field(y: Tensor) -> Tensor:
            scale = right_expand(state_scale(level), y)
            return self.prediction(scale * y, level).v / scale

        return field

    def denoiser_at(self, level: NoiseLevel) -> Field:
        """x ↦ x̂_0(αx, t), what the step between data and a level is made of."""
        return lambda x: self.prediction(level.alpha * x, level).x0

    def enter(self, x: Tensor, x0: Tensor, level: NoiseLevel) -> Tensor:
        """Data x ``[B, *E]``, with its x̂_0 at a level, to y there."""
        return level.alpha / state_scale(level) * (x + 0.5 * (x - x0) if self.to_data else x)

    def leave(self, y: Tensor) -> Carried:
        """y ``[B, *E]`` at t_0 back to data: :meth:`enter` inverted, as the fixed point of x = x' − ½(x − x̂_0(α_0 x)).

        Each iteration shrinks the error by about ½‖I − J‖, J = ∂x̂_0/∂x, which is (σ_0/α_0)²‖∇s‖/2 at high SNR and at
        most ½ where J's eigenvalues lie in [0, 2]; they go on until none moves x by more than rounding.

        Raises:
            FloatingPointError: it does not settle: between modes too near for t_0's noise there may be no inverse.
        """
        level = self.ends[0].to(y)
        moved = state_scale(level) / level.alpha * y
        if not self.to_data:
            return Carried(moved, 0)
        denoise, x, change = self.denoiser_at(level), moved, math.inf
        allowed = _SETTLED * torch.finfo(y.dtype).eps
        for k in range(_MOST_INVERSIONS):
            before, x = x, moved - 0.5 * (x - denoise(x))
            change = float(((x - before).abs() / (1 + x.abs())).max())
            if change <= allowed:
                return Carried(x, k + 1)
        raise FloatingPointError(
            f"the step from t_0 back to the data did not settle in {_MOST_INVERSIONS} iterations (the last moved by "
            f"{change:.1e}, rounding is {allowed:.1e}): it needs a high log-SNR there, got "
            f"{float(self.ends.log_snr[0]):.2f}; pass an earlier first time, or to_data=False"
        )

    @torch.no_grad()
    def encode(
        self, x: Tensor, solver: Solver = "dopri5", steps: int | None = None, tolerance: float | None = None
    ) -> Carried:
        """Data ``[B, *E]`` to the state x_1 at t = 1 that decodes to it.

        Raises:
            TypeError: x is no floating-point tensor.
            ValueError: x, condition or guidance as :func:`unidiff.score.arguments.check_batch`; as
                :func:`unidiff.score.ode.solve`.
        """
        self.core.check_batch("x", x, self.condition, self.guidance)
        steps, tolerance = chosen(solver, steps, tolerance)
        level = self.ends[0].to(x)
        y = self.enter(x, self.denoiser_at(level)(x) if self.to_data else x, level)
        y, evaluations = self._walk(y, *self.angles, solver, steps, tolerance)
        return Carried(state_scale(self.ends[1].to(y)) * y, evaluations + self.to_data)

    @torch.no_grad()
    def decode(
        self, x1: Tensor, solver: Solver = "dopri5", steps: int | None = None, tolerance: float | None = None
    ) -> Carried:
        """A state at t = 1, ``[B, *E]``, to the data that it encodes. Raises as :meth:`encode` and :meth:`leave`."""
        self.core.check_batch("x1", x1, self.condition, self.guidance)
        steps, tolerance = chosen(solver, steps, tolerance)
        start, end = self.angles
        y, evaluations = self._walk(x1 / state_scale(self.ends[1].to(x1)), end, start, solver, steps, tolerance)
        left = self.leave(y)
        return Carried(left.state, evaluations + left.evaluations)

    def round_trip(
        self, x: Tensor, solver: Solver = "dopri5", steps: int | None = None, tolerance: float | None = None
    ) -> RoundTrip:
        """Data there and back, and how far from where it started. Raises as :meth:`encode`."""
        there = self.encode(x, solver, steps, tolerance)
        back = self.decode(there.state, solver, steps, tolerance)
        error = (back.state - x).flatten(1).square().mean(1).sqrt()
        return RoundTrip(there.state, back.state, error, there.evaluations + back.evaluations)

    def _walk(
        self, y: Tensor, start: float, end: float, solver: Solver, steps: int | None, tolerance: float | None
    ) -> tuple[Tensor, int]:
        def velocity(flat: Tensor, level: NoiseLevel) -> Tensor:
            return self.velocity(level)(flat.view_as(y)).flatten(1)

        found = solve(
            velocity, y.flatten(1), start, end, solver, steps=steps, tolerance=tolerance,
            places=lambda angles: self.levels(angles, y),
        )  # fmt: skip
        return found.state.view_as(y), found.evaluations


@dataclass(frozen=True, eq=False)
class Carried:
    """Where the flow takes a batch.

    Attributes:
        state: ``[B, *E]``.
        evaluations: of the denoiser.
    """

    state: Tensor
    evaluations: int


@dataclass(frozen=True, eq=False)
class RoundTrip:
    """Data encoded and decoded.

    Attributes:
        code: x_1, ``[B, *E]``.
        data: the data again, ``[B, *E]``.
        error: root mean square over a datum's numbers of what the round trip changed, ``[B]``, in the units of x.
        evaluations: of the denoiser, both ways.
    """

    code: Tensor
    data: Tensor
    error: Tensor
    evaluations: int


def chosen(solver: Solver, steps: int | None, tolerance: float | None) -> tuple[int | None, float | None]:
    """(steps, tolerance) with neither given as 1e-5, checked as :func:`unidiff.score.ode.check_solver`."""
    if steps is None and tolerance is None:
        tolerance = 1e-5
    check_solver(solver, steps, tolerance)
    return steps, tolerance


def reverse_drift(
    core: Diffusion,
    z: Tensor,
    t: Time,
    eta: float = 1.0,
    condition: Tensor | None = None,
    guidance: float = 1.0,
) -> Tensor:
    """f z − ½(1 + η²) g² s per unit of t, ``[B, *E]``, for ``z`` ``[B, *E]``; differentiable in z.

    Raises:
        TypeError: an argument of another type.
        ValueError: z, t, condition and guidance as :meth:`unidiff.Diffusion.predict`; η negative or not finite.
    """
    check_type("core", core, Diffusion)
    check_not_negative("eta", eta)
    condition = core.check_arguments("z", z, condition, guidance)
    score = core.predict(z, t, condition, guidance).score
    t = torch.as_tensor(t, dtype=torch.float64, device=z.device)
    f, g2 = (right_expand(v.detach().to(z), z) for v in (core.schedule.drift(t), core.schedule.diffusion2(t)))
    return f * z - 0.5 * (1 + eta**2) * g2 * score


def reverse_sde(core: Diffusion, grid: TimeGrid, eta: float = 1.0, guidance: float = 1.0) -> Sampler:
    """Euler and Maruyama's way down the family's SDE on ``grid``: a sampler of states at t = 1.

    It is the core's own ``"sde"`` table, so that on a GPU its step is captured and replayed like every other.

    Raises:
        TypeError, ValueError: as :class:`unidiff.Sampler`; η no number, negative or not finite.
    """
    return Sampler(core, grid, "sde", eta=eta, guidance=guidance)


def state_scale(level: NoiseLevel) -> Tensor:
    """ρ = √(α² + σ²), in the level's shape; 1 if variance preserving."""
    return torch.hypot(level.alpha, level.sigma)


def _detached(level: NoiseLevel) -> NoiseLevel:
    return NoiseLevel(*(v.detach() for v in (level.t, level.log_snr, level.alpha, level.sigma)))
