r"""How near to p* a policy can come that keeps the reference's σ: on data of one or two numbers, for any reward.

Policies π(x_s|x_t) = N(μ_ref + σu(x_t), σ²) of the reference's start, with any function u, earn
J(u) = E r(x_0) − β E Σ ½‖u‖², and at most max_u J = E V_N(x_{t_N}), by dynamic programming (Bertsekas 2017, section 1.3):

    V_k(x) = max_u { E_ξ[V_{k−1}(μ_ref(x) + σ(u + ξ))] − ½β‖u‖² },      V = r(x_0) at the data.

The step to the data, where it is without noise, is no decision. In the new mean m = μ_ref + σu this is the Moreau envelope
of a Gaussian mean (:mod:`unidiff.rl.envelope`). Where its maximum is not found, u is still a policy's, and a path must come
there less than once in ten thousand.

p* is out of reach of the class, which keeps the start, and σ where e^{V/β} is no exponential of a linear function
(IDENTITIES item 54), by

    KL(p_u ‖ p*) = log Z − J(u)/β,      log Z = log E_ref e^{r/β}  by  L_k(x) = log E_ξ e^{L_{k−1}(μ_ref(x) + σξ)},

over paths, p* with x_{t_N} free: no method that trains a mean can end below the gap log Z − max_u J/β. The lattices
reach some deviations beyond the mean, of the reference and of the policy found, both told by carrying two moments along.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unidiff.core.boundary import check_count, check_positive, check_real, check_state, check_type
from unidiff.core.gaussian import Gaussian
from unidiff.rl.envelope import envelope
from unidiff.rl.lattice import Array, Lattice, Spline, normal_nodes
from unidiff.rl.mdp import DenoisingMDP, State, checked

_POINTS = (401, 145)  # of a lattice along each axis, by dimension
_ASTRAY = 1e-4  # decisions a path where no maximum is settled at, at most
_FAR = 20  # deviations beyond which a lattice is all but empty
_SPREAD = 16  # nodes an axis of the moments


@dataclass(frozen=True, eq=False)
class Reachable:
    """The best policy with the reference's σ; figures are of the chain from its prior to its data.

    Attributes:
        mdp: the process.
        value: max_u J = E r − β·KL, in units of reward.
        reward: E r(x_0) under that policy.
        kl: its KL to the reference over paths, in nats.
        log_z: log E_ref e^{r/β}, in nats.
        gap: log Z − value/β, its KL to p* over paths, in nats: the floor of the class.
        error: how far the last refinement moved ``gap`` or ``value``/β, the more of the two, in nats.
        points: of the lattice, along each axis.
        controls: u of decisions ``mdp.last`` … N.
    """

    mdp: DenoisingMDP
    value: float
    reward: float
    kl: float
    log_z: float
    gap: float
    error: float
    points: int
    controls: tuple[Spline, ...]

    def control(self, x: Tensor, k: int) -> Tensor:
        """u at x_{t_k} = ``x`` ``[B, D]``, in units of the reference's noise, in ``x``'s dtype, ``[B, D]``.

        Raises ValueError for a k that is no decision.
        """
        last = self.mdp.last
        if isinstance(k, bool) or not isinstance(k, int) or not last <= k <= self.mdp.chain.steps:
            raise ValueError(f"k must be an integer in {last} … {self.mdp.chain.steps}, a decision's, got {k!r}")
        check_state("x", x, self.mdp.chain.core.event_shape)
        return torch.from_numpy(self.controls[k - last](x.detach().to("cpu", torch.float64).numpy())).to(x)

    def law(self, state: State) -> Gaussian:
        """The policy as :func:`unidiff.rl.walk` and :func:`unidiff.rl.path_kl` take one."""
        law = self.mdp.reference(state)
        return Gaussian(law.mean + law.std * self.control(state.x, state.k), law.log_var)


def reachable(
    mdp: DenoisingMDP,
    *,
    points: int | None = None,
    reach: float = 7.0,
    condition: Tensor | None = None,
) -> Reachable:
    """The best of all policies that keep the reference's σ and start, by dynamic programming on lattices.

    Everything is done on two lattices, the first with two thirds of the points and a deviation less of reach; what the
    second changes is :attr:`Reachable.error`. Where the best mean jumps from hill to hill V has kinks, and the error falls
    as the spacing's square alone.

    Args:
        mdp: a chain over data of shape ``[1]`` or ``[2]``, whose variances do not move with the state; a terminal reward;
            β > 0.
        points: of the lattice along each axis; None for 401 in one dimension and 145 in two.
        reach: of the lattice, in deviations.
        condition: a class, ``[]``, or None.

    Raises:
        TypeError: no DenoisingMDP, labels that are none.
        ValueError: data of another shape, no reward or one of steps, β = 0, a variance that moves with the state, points
            below 24, reach not above 1 or beyond 20.
        FloatingPointError: a reward that is not finite; paths that come where no maximum is settled at.
    """
    chain = _Chain.of(mdp, condition)
    points = check_count("points", _POINTS[chain.dim - 1] if points is None else points, 24)
    if not 1 < check_real("reach", reach) <= _FAR:
        raise ValueError(f"reach must be above 1 and at most {_FAR}, in deviations, got {reach}")
    fewer = 2 * points // 3
    first = _solve(chain, chain.lattices((), reach - 1, fewer))
    coarse = _solve(chain, chain.lattices(first.controls, reach - 1, fewer))
    found = _solve(chain, chain.lattices(coarse.controls, reach, points))
    if not found.astray <= _ASTRAY:
        raise FloatingPointError(
            f"a path takes {found.astray:.1e} decisions where no best mean was found; take more points or a finer grid "
            "(or the reward is so convex that none exists)"
        )
    error = max(abs(found.gap - coarse.gap), abs(found.value - coarse.value))
    kl = found.reward / mdp.beta - found.value
    return Reachable(
        mdp, mdp.beta * found.value, found.reward, kl, found.log_z, found.gap, error, points, found.controls
    )


@dataclass(frozen=True, eq=False)
class _Chain:
    """A process as arrays: decisions are told by their k."""

    mdp: DenoisingMDP
    condition: Tensor | None
    dim: int
    dtype: torch.dtype
    device: torch.device

    @staticmethod
    def of(mdp: DenoisingMDP, condition: Tensor | None) -> _Chain:
        check_type("mdp", mdp, DenoisingMDP)
        shape = mdp.chain.core.event_shape
        if shape not in ((1,), (2,)):
            raise ValueError(f"mdp must have data of shape [1] or [2], for a lattice of them, got {list(shape)}")
        if mdp.reward is None or mdp.step_reward is not None:
            raise ValueError("mdp must have a reward of its data and none of steps")
        check_positive("mdp.beta", mdp.beta)
        first = mdp.chain.core.first_parameter()
        dtype, device = (torch.float64, torch.device("cpu")) if first is None else (first.dtype, first.device)
        return _Chain(mdp, condition, shape[0], dtype, device)

    @property
    def decisions(self) -> range:
        """k of the decisions, the last one first."""
        return range(self.mdp.last, self.mdp.chain.steps + 1)

    def state(self, x: Array, k: int) -> State:
        rows = torch.from_numpy(x).to(self.device, self.dtype)
        core = self.mdp.chain.core
        return State(rows, k, core.check_arguments("x", rows, self.condition, self.mdp.guidance))

    def step(self, x: Array, k: int) -> tuple[Array, float]:
        """μ_ref ``[M, D]`` and σ of the step from x_{t_k} = ``x``; σ = 0 of the one without noise."""
        law = self.mdp.reference(self.state(x, k))
        var = law.var.to("cpu", torch.float64)
        if float(var.max() - var.min()) > torch.finfo(self.dtype).eps ** 0.5 * float(var.max()):
            raise ValueError(
                f"mdp must have a chain whose variance does not move with the state; the step from t_{k} has another "
                "(take variance 'prior' or 'posterior', or a table x0_variance)"
            )
        return law.mean.to("cpu", torch.float64).numpy(), float(var.mean()) ** 0.5

    def earned(self, x: Array) -> Array:
        """r of the data that ``x`` ``[M, D]``, where the last decision led, become, ``[M]``."""
        x = x if self.mdp.last == 1 else self.step(x, 1)[0]
        rows = self.state(x, 0).x
        assert self.mdp.reward is not None
        return checked("reward", self.mdp.reward(rows).detach(), rows).to("cpu", torch.float64).numpy()

    def lattices(self, controls: tuple[Spline, ...], reach: float, points: int) -> list[Lattice]:
        """Boxes of ``reach`` deviations at t_{last−1} … t_N, for the reference and, with ``controls``, for a policy."""
        ranges = [self._ranges(None, reach)] + ([self._ranges(controls, reach)] if controls else [])
        return [
            Lattice(np.min([low for low, _ in both], 0), np.max([high for _, high in both], 0), points)
            for both in zip(*ranges, strict=True)
        ]

    def _ranges(self, controls: tuple[Spline, ...] | None, reach: float) -> list[tuple[Array, Array]]:
        """Mean ∓ reach·deviation at t_{last−1} … t_N, each step's moments being those from a Gaussian of the last one's."""
        nodes, weights = normal_nodes(_SPREAD)
        grid = np.stack([v.ravel() for v in np.meshgrid(*[nodes] * self.dim, indexing="ij")], -1)
        weight = np.prod(np.meshgrid(*[weights] * self.dim, indexing="ij"), 0).ravel()
        mean, covariance = np.zeros(self.dim), self.mdp.chain.core.schedule.prior_std**2 * np.eye(self.dim)
        found = []
        for k in (*reversed(self.decisions), self.mdp.last - 1):
            wide = reach * np.sqrt(np.diag(covariance))
            found.append((mean - wide, mean + wide))
            if k < self.mdp.last:
                break
            x = mean + grid @ np.linalg.cholesky(covariance).T
            moved, std = self.step(x, k)
            if controls is not None:
                moved = moved + std * controls[k - self.mdp.last](x)
            mean = weight @ moved
            covariance = (moved - mean).T @ (weight[:, None] * (moved - mean)) + std**2 * np.eye(self.dim)
        return found[::-1]


@dataclass(frozen=True, eq=False)
class _Solved:
    value: float
    reward: float
    astray: float
    log_z: float
    controls: tuple[Spline, ...]

    @property
    def gap(self) -> float:
        return self.log_z - self.value


def _solve(chain: _Chain, lattices: list[Lattice]) -> _Solved:
    """W, what is earned and L from the data back to the start; values and log Z in nats."""
    beta, controls = chain.mdp.beta, []
    earned = chain.earned(lattices[0].every())
    value, log_z, astray = earned / beta, earned / beta, np.zeros_like(earned)
    for k, lattice, after in zip(chain.decisions, lattices[1:], lattices, strict=False):
        x = lattice.every()
        mean, std = chain.step(x, k)
        smooth = after.mean(np.stack([value, earned, astray], -1), std)
        gain = after.spline(smooth[:, 0])
        best, value, unsettled = envelope(gain, smooth[:, 0], mean, std)
        u = (best - mean) / std
        earned, astray = after.spline(smooth[:, 1:])(best).T
        astray = astray + unsettled
        log_z = after.spline(after.log_mean(log_z, std))(mean)
        controls.append(lattice.spline(u))
    start, std = lattices[-1], chain.mdp.chain.core.schedule.prior_std
    middle = np.zeros((1, chain.dim))
    ends = start.spline(start.mean(np.stack([value, earned, astray], -1), std))(middle)[0]
    log_z = float(start.spline(start.log_mean(log_z, std))(middle)[0])
    return _Solved(float(ends[0]), float(ends[1]), float(ends[2]), log_z, tuple(controls))
