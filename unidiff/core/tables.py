r"""Samplers as tables: each method is rows of coefficients, and no method is a loop.

One row advances the state from a level t to a level s by

    x ← a x + b D + g m + n ξ,   and leaves   m ← c x + d D,      D = x̂_0(x, t),

with the register m as the row before left it, x on the right the state before the row, and ξ ~ N(0, I). With the
DDIM(η) coefficients (a_η, b_η, ς_η) of :func:`unidiff.core.process.bridge`, h = ½(λ_s − λ_t) and r = h_before/h:

==================  ====================================================================================  ======
method              row                                                                                   order
==================  ====================================================================================  ======
``ancestral``       the chain's kernel, posterior variance: (a_1, b_1, ς_1); Ho et al. 2020, alg. 2        1 weak
``ddim``            (a_η, b_η, ς_η); Song et al. 2021, eq. 12                                              1
``euler``           Euler in t on dx/dt = f x − ½ g² s; Song et al. 2021 (SDE), eq. 13                     1
``heun``            trapezoid in σ/α on x/α, two rows a step; Karras et al. 2022, alg. 1                   2
``dpm++2m``         (a_0, b_0(1 + 1/2r), −b_0/2r on the last D); Lu et al. 2022 (DPM-Solver++), alg. 2     2
``sde``             Euler–Maruyama in t on dx = (f x − ½(1 + η²)g² s) dt + η g dW̄; Anderson 1982          1 weak
``sde-dpm++2m``     (a_1, b_1(1 + 1/2r), −b_1/2r on the last D, ς_1); Lu et al. 2022, eq. 18               2 weak
==================  ====================================================================================  ======

Orders are in the largest step; the weak ones are of means and covariances where x̂_0 is affine (the extrapolation's
noise is that of the step before, which has the covariance that its own would have, to second order). A step into λ = ∞
is of first order in every method, since no h exists there; it is exact if x̂_0 no longer changes. On a VE schedule, whose
σ spans decades, Euler in t keeps too little of the data's width at any small N (0.6 to 0.8 of the variance after 50 of
Karras' steps); DDIM is Euler in σ, and does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from unidiff.core.boundary import check_not_negative, check_real
from unidiff.core.grid import TimeGrid
from unidiff.core.process import bridge
from unidiff.core.schedule import Schedule
from unidiff.core.schedule_kinds import Karras

Method = Literal["ancestral", "ddim", "euler", "heun", "dpm++2m", "sde", "sde-dpm++2m"]
METHODS: tuple[Method, ...] = get_args(Method)
ORDERS: dict[Method, int] = {
    "ancestral": 1,
    "ddim": 1,
    "euler": 1,
    "heun": 2,
    "dpm++2m": 2,
    "sde": 1,
    "sde-dpm++2m": 2,
}


STIFF = ("euler", "heun", "sde")
LAST_STOP = 1e-3
"""Where a default grid in log-SNR stops before the data, if there is no noise there."""


@dataclass(frozen=True)
class Table:
    """Rows in the order they run, float64 on the host, each column ``[R]``.

    Attributes:
        t, log_snr, alpha, sigma: the level at which the row asks the denoiser.
        on_xt, on_x0, on_kept, noise: the coefficients a, b, g, n.
        keep_xt, keep_x0: c and d, what the row leaves in the register.
        step: which of the grid's N steps (0 first) the row belongs to.
    """

    t: Tensor
    log_snr: Tensor
    alpha: Tensor
    sigma: Tensor
    on_xt: Tensor
    on_x0: Tensor
    on_kept: Tensor
    noise: Tensor
    keep_xt: Tensor
    keep_x0: Tensor
    step: Tensor

    @property
    def rows(self) -> int:
        """R, the number of network evaluations."""
        return self.t.numel()

    def __getitem__(self, rows: Tensor) -> Table:
        return Table(*(getattr(self, f.name)[rows] for f in fields(self)))


@dataclass(frozen=True)
class Steps:
    """A grid's steps in the order they are walked, from t_N down: ``[N]`` columns of the two levels of each."""

    schedule: Schedule
    s: Tensor
    t: Tensor

    @staticmethod
    def of(schedule: Schedule, grid: TimeGrid) -> Steps:
        """The steps of ``grid``."""
        down = grid.times.flip(0)
        return Steps(schedule, down[1:], down[:-1])


def build(schedule: Schedule, grid: TimeGrid, method: Method, eta: float | None = None) -> Table:
    """The table of ``method`` on ``grid``. ``eta``: DDIM's in [0, 1] (None: 0), or the SDE's, 0 or more (None: 1).

    Raises:
        TypeError: an η that is no number.
        ValueError: an η that the method does not take, or a row that is not finite.
    """
    if eta is not None and method not in ("ddim", "sde"):
        raise ValueError(f"eta is for method 'ddim' or 'sde', got {method!r} with eta = {eta}")
    if eta is not None:
        check_real("eta", eta)
    table = rows_of(Steps.of(schedule, grid), method, eta)
    table = Table(**{name: column.detach() for name, column in _columns(table).items()})
    for column in fields(table):
        values = getattr(table, column.name)
        if column.name != "log_snr" and not torch.isfinite(values.to(torch.float64)).all():
            raise ValueError(
                f"method {method!r} has no finite step on this grid ({column.name}); it needs a finite log-SNR and "
                "derivative at each time but the first: use a later first time or a schedule with finite ends"
            )
    return table


def rows_of(steps: Steps, method: Method, eta: float | None = None) -> Table:
    """The rows of a method, differentiable in the steps' times; arguments are trusted."""
    if method == "ddim":
        return _family(steps, eta or 0.0, multistep=False)
    if method == "sde":
        return _euler(steps, 1.0 if eta is None else eta)
    return _BUILDERS[method](steps)


def leaps(schedule: Schedule, s: Tensor, t: Tensor, method: Method) -> Table:
    """Rows of steps that stand alone, row m from t[m] to s[m], each ``[M]``; for comparing steps that no one grid has.

    Of ``dpm++2m`` they are alternate: row 2m the step before, row 2m + 1 the one that extrapolates from it.

    Raises:
        ValueError: a method whose step is more than one row, or draws noise.
    """
    if method not in ("ddim", "euler", "dpm++2m"):
        raise ValueError(f"method must be 'ddim', 'euler' or 'dpm++2m' for steps that stand alone, got {method!r}")
    table = rows_of(Steps(schedule, s, t), method)
    return Table(**{name: column.detach() for name, column in _columns(table).items()})


def _table(steps: Steps, on_xt: Tensor, on_x0: Tensor, noise: Tensor, on_kept: Tensor | None = None) -> Table:
    """One row a step; with ``on_kept`` each leaves its D for the next."""
    level = steps.schedule.level(steps.t)
    zero = torch.zeros_like(steps.t)
    return Table(
        level.t,
        level.log_snr,
        level.alpha,
        level.sigma,
        on_xt,
        on_x0,
        on_kept=zero if on_kept is None else on_kept,
        noise=noise,
        keep_xt=zero,
        keep_x0=zero if on_kept is None else torch.ones_like(zero),
        step=torch.arange(steps.t.numel()),
    )


def _family(steps: Steps, eta: float, multistep: bool) -> Table:
    """DDIM(η); with ``multistep`` D is extrapolated to the middle of the step from the one before."""
    member = bridge(steps.schedule, steps.s, steps.t, eta)
    noise = (0.5 * member.log_var).exp()
    if not multistep:
        return _table(steps, member.on_xt, member.on_x0, noise)
    log_snr = steps.schedule.log_snr(steps.t)
    h = steps.schedule.log_snr(steps.s) - log_snr
    half_inverse_r = torch.zeros_like(h)
    # No middle of a step to λ = ∞, and none to differentiate.
    half_inverse_r[1:] = 0.5 * torch.where(torch.isfinite(h[1:]), h[1:], 0.0) / h[:-1]
    extrapolated = member.on_x0 * half_inverse_r
    return _table(steps, member.on_xt, member.on_x0 + extrapolated, noise, -extrapolated)


def _euler(steps: Steps, eta: float) -> Table:
    """Euler in t on Anderson's family: drift f x − ½(1 + η²) g² s, with s = (α D − x)/σ², g²/σ² = −λ'; noise η g."""
    check_not_negative("eta", eta)
    schedule, dt = steps.schedule, steps.s - steps.t
    rate = -0.5 * (1 + eta**2) * schedule.log_snr_derivative(steps.t)
    on_xt = 1 + dt * (schedule.drift(steps.t) + rate)
    on_x0 = -dt * rate * schedule.alpha(steps.t)
    return _table(steps, on_xt, on_x0, eta * (-dt * schedule.diffusion2(steps.t)).sqrt())


def _heun(steps: Steps) -> Table:
    """With y = x/α, ρ = σ/α: a row to y_s = y + Δρ d, d = (y − D)/ρ, that leaves m = α_s(y + ½Δρ d); then, at (y_s, ρ_s)
    with its own d, x_s = m + ½α_sΔρ d.
    """
    schedule = steps.schedule
    first = _family(steps, 0.0, multistep=False)
    ratio = (-0.5 * schedule.log_snr(torch.stack([steps.s, steps.t]))).exp()
    delta = ratio[0] - ratio[1]
    scale = schedule.alpha(steps.s) / schedule.alpha(steps.t)
    target = schedule.level(steps.s)
    half_s, half_t = 0.5 * delta / ratio[0], 0.5 * delta / ratio[1]
    second = Table(
        target.t,
        target.log_snr,
        target.alpha,
        target.sigma,
        on_xt=half_s,
        on_x0=-(target.alpha * half_s),
        on_kept=torch.ones_like(delta),
        noise=torch.zeros_like(delta),
        keep_xt=torch.zeros_like(delta),
        keep_x0=torch.zeros_like(delta),
        step=first.step,
    )
    first = replace(first, keep_xt=(scale * (1 + half_t)), keep_x0=-(target.alpha * half_t))
    both = Table(**{k: torch.stack([v, _columns(second)[k]], 1).flatten() for k, v in _columns(first).items()})
    exists = torch.ones(both.rows, dtype=torch.bool)
    exists[1::2] = target.sigma > 0
    return both[exists]


def _columns(table: Table) -> dict[str, Tensor]:
    return {f.name: getattr(table, f.name) for f in fields(table)}


_BUILDERS: dict[Method, Callable[[Steps], Table]] = {
    "ancestral": lambda steps: _family(steps, 1.0, multistep=False),
    "euler": lambda steps: _euler(steps, 0.0),
    "heun": _heun,
    "dpm++2m": lambda steps: _family(steps, 0.0, multistep=True),
    "sde-dpm++2m": lambda steps: _family(steps, 1.0, multistep=True),
}


def default_grid(schedule: Schedule, steps: int, method: Method) -> TimeGrid:
    """The grid that suits a method when none is named.

    Uniform in log-SNR for the multistep methods, which extrapolate in it. Methods whose steps are in t or σ take them even
    in log-SNR on a VP schedule, and Karras' way on a VE one (a Karras schedule's uniform t is its own such grid). Uniform
    in t for the rest. Where λ(0) = ∞ the multistep methods walk evenly down to t = :data:`LAST_STOP` and take one step from
    there; the others are uniform in t.
    """
    ends = schedule.log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64))
    multistep = method in ("dpm++2m", "sde-dpm++2m")
    if bool(torch.isfinite(ends).all()):
        if multistep or (method in STIFF and schedule.variance_preserving):
            return TimeGrid.uniform_log_snr(steps, schedule)
        if method in STIFF and not isinstance(schedule, Karras):
            return TimeGrid.karras(steps, schedule)
        return TimeGrid.uniform(steps)
    if multistep and steps > 1 and bool(torch.isfinite(ends[1])):
        inner = TimeGrid.uniform_log_snr(steps - 1, schedule, first=LAST_STOP)
        return TimeGrid(torch.cat([torch.zeros(1, dtype=torch.float64), inner.times]))
    return TimeGrid.uniform(steps)
