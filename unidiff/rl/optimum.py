r"""The optimum of KL-regularised control where it is a formula: a linear chain, and a reward r = −½xᵀAx + bᵀx + c.

Of all laws of paths, E r(x_{t_0}) − β KL(p ‖ p_ref) is greatest for p* = p_ref(x_{t_0:t_N}) e^{r/β}/Z, where it is β log Z
(Levine 2018, section 2; Uehara et al. 2024, theorem 1). p* is a chain again, by Doob's transform:

    e^{V_t(x_t)/β} = E_ref[e^{V_s(x_s)/β}|x_t],   V_{t_0} = r,
    p*(x_s|x_t) = p_ref(x_s|x_t) e^{(V_s(x_s) − V_t(x_t))/β}.

Where p_ref(x_s|x_t) = N(μ, C) and V_s/β = −½xᵀAx + bᵀx + c this is, with μ = M x_t + m and F = I + AC,

    p*(x_s|x_t) = N(F⁻ᵀ(μ + Cb), F⁻ᵀC),   V_t/β = −½μᵀF⁻¹Aμ + (F⁻¹b)ᵀμ + ½bᵀF⁻ᵀCb + c − ½ log|F|.

Its mean μ* is μ + C∇V_s(μ*)/β, and for linear r the covariance does not move. For another r it does, and a policy that
must keep C is not p*. The best of those has the same mean (the linear-quadratic problem is certainty-equivalent) and, step
by step, ½ tr(AC) where V has ½ log|F|, so that it falls short by

    log Z − J/β = KL(p_u ‖ p*) = Σ ½ [tr(AC) − log|I + AC|] ≥ 0.

p* moves x_{t_N} as well: its law is p_ref(x_{t_N})e^{V/β}/Z. A policy that acts on steps alone starts where the chain
starts, and the best of these tilts p_ref(x_{t_0}|x_{t_N}), not p_ref(x_{t_0}): for r = bᵀx_{t_0} the mean moves by
Cov[x_{t_0}|x_{t_N}] b/β, which is S(1 − ρ²)b/β for a number of correlation ρ with its x_{t_N}, not S b/β (IDENTITIES
item 52).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from unidiff.core.boundary import check_name, check_type
from unidiff.rl.linear import LinearChain, symmetric
from unidiff.worlds.normals import check_quadratic
from unidiff.worlds.rewards import Quadratic, QuadraticReward

Start = Literal["free", "kept"]
STARTS: tuple[Start, ...] = get_args(Start)


@dataclass(frozen=True, eq=False)
class SoftValue:
    """V(x) = −½ xᵀA x + bᵀx + c, in units of reward; itself a reward of :mod:`unidiff.worlds.rewards`.

    Attributes:
        polynomial: A ``[D, D]`` and b ``[D]``, float64.
        constant: c, ``[]``.
    """

    polynomial: Quadratic
    constant: Tensor

    @staticmethod
    def of(reward: QuadraticReward, beta: float, dim: int) -> SoftValue:
        """A reward of D numbers as the value at t_0; beta is checked with it."""
        A, b, c = reward.coefficients()
        A, b = check_quadratic(A, b, beta, torch.empty(dim, dtype=torch.float64))
        return SoftValue(Quadratic(A, b), torch.as_tensor(c, dtype=torch.float64))

    def __call__(self, x: Tensor) -> Tensor:
        """V at ``x`` ``[B, D]``, ``[B]``."""
        return self.polynomial(x) + self.constant.to(x)

    def gradient(self, x: Tensor) -> Tensor:
        """∇V at ``x`` ``[B, D]``, ``[B, D]``, in units of reward/x."""
        A, b, _ = self.coefficients()
        return b.to(x) - x @ A.to(x)

    def coefficients(self) -> tuple[Tensor, Tensor, Tensor]:
        """(A, b, c)."""
        assert self.polynomial.b is not None
        return self.polynomial.A, self.polynomial.b, self.constant

    def mean(self, mean: Tensor, covariance: Tensor) -> Tensor:
        """E V(x) for x of this mean ``[D]`` and covariance ``[D, D]``, ``[]``."""
        return self(mean[None])[0] - 0.5 * (self.polynomial.A * covariance).sum()


@dataclass(frozen=True, eq=False)
class Optimum:
    """What :func:`linear_optimum` found.

    Attributes:
        reference: p_ref.
        beta: β, in units of reward.
        start: whether x_{t_N} may move ("free") or is drawn as the reference draws it ("kept").
        values: V at t_0 … t_N; the first is the reward.
        policy: the best of all policies with this start; p* where it is free.
        steady: the best of those that keep the reference's covariances.
        log_z: log E_ref e^{r/β} in nats, ``[]``, whatever the start.
        objective: E r − β KL of ``policy``, in units of reward, ``[]``; β log Z where the start is free.
        steady_objective: the same of ``steady``.
    """

    reference: LinearChain
    beta: float
    start: Start
    values: tuple[SoftValue, ...]
    policy: LinearChain
    steady: LinearChain
    log_z: Tensor
    objective: Tensor
    steady_objective: Tensor

    @property
    def reward(self) -> Tensor:
        """E r(x_{t_0}) under ``policy``, in units of reward, ``[]``."""
        return self.expected_reward(self.policy)

    @property
    def kl(self) -> Tensor:
        """KL(policy ‖ reference) over paths, in nats, ``[]``: (E r − objective)/β."""
        return self.policy.kl(self.reference)

    @property
    def steady_gap(self) -> Tensor:
        """log Z − J/β of ``steady``, in nats, ``[]``: its KL over paths to p*, the start's included."""
        return self.log_z - self.steady_objective / self.beta

    def expected_reward(self, chain: LinearChain) -> Tensor:
        """E r(x_{t_0}) under any linear chain, ``[]``."""
        check_type("chain", chain, LinearChain)
        return self.values[0].mean(*chain.moments()[0])

    def control(self, xt: Tensor, k: int) -> Tensor:
        """u of both policies' mean μ + C^½ u at x_{t_k} = ``xt`` ``[B, D]``, in units of the reference's noise, ``[B, D]``.

        It is C^½∇V_s/β at that mean, the residual that :class:`unidiff.rl.DenoisingMDP` takes; 0 of a step without noise.
        Raises ValueError for k outside 1 … N and a state that does not fit.
        """
        mean = self.policy.step_mean(xt, k)
        return self.values[k - 1].gradient(mean) @ _root(self.reference.covariance[k - 1]) / self.beta


def linear_optimum(chain: LinearChain, reward: QuadraticReward, beta: float, start: Start = "free") -> Optimum:
    """The optimum of E r − β KL from ``chain``.

    Args:
        chain: p_ref.
        reward: of :mod:`unidiff.worlds.rewards`, of x_{t_0}.
        beta: β > 0, in units of reward.
        start: "free", or "kept": x_{t_N} is drawn as the reference draws it.

    Raises:
        TypeError: no linear chain, no quadratic reward.
        ValueError: a beta that is not positive, a reward of other numbers than the chain's, an unknown start; a reward so
            convex that E_ref e^{r/β} is infinite.
    """
    check_type("chain", chain, LinearChain)
    check_type("reward", reward, QuadraticReward)
    check_name("start", start, STARTS)
    values = [SoftValue.of(reward, beta, chain.dim)]
    gap, rows = torch.zeros_like(chain.shift[0, 0]), []
    for row in range(chain.steps + 1):
        parts = chain.gain[row], chain.shift[row], chain.covariance[row]
        value, tilted, short = _back(values[-1], *parts, beta, row)
        free = row < chain.steps or start == "free"
        rows.append(tilted if free else parts)
        gap = gap + short if free else gap
        values.append(value)
    # The step from nowhere has no x to depend on: its value is β log Z.
    nowhere = values.pop()
    objective = nowhere.constant if start == "free" else values[-1].mean(chain.shift[-1], chain.covariance[-1])
    gain, shift, covariance = (torch.stack(v) for v in zip(*rows, strict=True))
    return Optimum(
        chain, float(beta), start, tuple(values), LinearChain(gain, shift, covariance),
        LinearChain(gain, shift, chain.covariance), nowhere.constant / beta, objective, objective - beta * gap,
    )  # fmt: skip


def _back(
    after: SoftValue, gain: Tensor, shift: Tensor, covariance: Tensor, beta: float, row: int
) -> tuple[SoftValue, tuple[Tensor, Tensor, Tensor], Tensor]:
    """V before a step, the step of p*, and ½[tr(AC) − log|I + AC|]."""
    A, b, c = (v / beta for v in after.coefficients())
    root, eye = _root(covariance), torch.eye(len(shift), dtype=A.dtype)
    # Of C^½AC^½, which has the eigenvalues of AC.
    curved = torch.linalg.eigvalsh(symmetric(root @ A @ root))
    if not bool((curved > -1).all()):
        raise ValueError(
            f"reward must leave E exp(r/beta) finite, got one whose value at t_{row} outgrows the noise that leads there: "
            f"smallest eigenvalue {1 + float(curved.min()):.6g} of I + C^(1/2) A C^(1/2) at beta = {beta}"
        )
    factor = eye + A @ covariance
    narrowed = symmetric(torch.linalg.solve(factor.mT, covariance))
    flat, slope = symmetric(torch.linalg.solve(factor, A)), torch.linalg.solve(factor, b)
    constant = c + 0.5 * (b @ narrowed @ b - curved.log1p().sum()) + slope @ shift - 0.5 * shift @ flat @ shift
    before = Quadratic(beta * symmetric(gain.mT @ flat @ gain), beta * gain.mT @ (slope - flat @ shift))
    moved = torch.linalg.solve(factor.mT, torch.cat([gain, (shift + covariance @ b)[:, None]], 1))
    short = 0.5 * (curved - curved.log1p()).sum()
    return SoftValue(before, beta * constant), (moved[:, :-1], moved[:, -1], narrowed), short


def _root(covariance: Tensor) -> Tensor:
    """C^½, symmetric; of a C that may be singular."""
    values, basis = torch.linalg.eigh(covariance)
    return (basis * values.clamp(min=0).sqrt()) @ basis.mT
