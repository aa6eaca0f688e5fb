r"""Gaussian data's chain as one law: what the optima of control are held against.

:mod:`unidiff.rl` goes step by step, by matrices that the chain was asked for. The other side knows no steps: the
textbook's joint law of (x_{t_N}, …, x_{t_0}), one Gaussian of (N + 1)D numbers, conditioned by Schur complements and
tilted as a world is. All of it holds of any affine denoiser: with the prior rule it is asked of one whose matrices are
not symmetric, as the exact one's are.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, cast

import torch
from torch import Tensor

from unidiff.core.chain import ReverseChain, Variance
from unidiff.core.diffusion import Diffusion
from unidiff.core.level import NoiseLevel
from unidiff.core.prediction import Prediction
from unidiff.identities.case import Case, sampled
from unidiff.identities.chains import grid_of
from unidiff.identities.laws import Identity
from unidiff.identities.tilts import BETA, gain, quadratic
from unidiff.identities.variances import Book
from unidiff.rl import LinearChain, Optimum, linear_optimum
from unidiff.rl.optimum import Start
from unidiff.worlds import Gaussian, OracleDenoiser
from unidiff.worlds.normals import Normals
from unidiff.worlds.rewards import Linear, LogDensity, Quadratic, QuadraticReward

Kind = Literal["linear", "quadratic", "density"]

_FEW = 8


@dataclass(frozen=True)
class Joint:
    """(x_{t_N}, …, x_{t_0}) as one Gaussian, float64; N + 1 parts of D numbers."""

    mean: Tensor
    covariance: Tensor
    dim: int

    @staticmethod
    def of(chain: LinearChain) -> Joint:
        """That of a linear chain's matrices, a part at a time."""
        mean, covariance = chain.shift[-1], chain.covariance[-1]
        for row in range(chain.steps - 1, -1, -1):
            to = chain.gain[row]
            cross = to @ covariance[-chain.dim :]
            own = cross[:, -chain.dim :] @ to.mT + chain.covariance[row]
            mean = torch.cat([mean, to @ mean[-chain.dim :] + chain.shift[row]])
            covariance = torch.cat([torch.cat([covariance, cross.mT], 1), torch.cat([cross, own], 1)])
        return Joint(mean, 0.5 * (covariance + covariance.mT), chain.dim)

    def part(self, k: int) -> slice:
        """Where x_{t_k} is."""
        last = len(self.mean) - k * self.dim
        return slice(last - self.dim, last)

    def marginal(self, k: int = 0) -> Gaussian:
        """The law of x_{t_k}."""
        at = self.part(k)
        return Gaussian(self.mean[at], self.covariance[at, at])

    def regression(self, k: int) -> tuple[Tensor, Tensor]:
        """G of E[x_{t_0}|x_{t_k}] = … + G x_{t_k}, and Cov[x_{t_0}|x_{t_k}]."""
        data, at = self.part(0), self.part(k)
        slope = torch.linalg.solve(self.covariance[at, at], self.covariance[at, data]).mT
        left = self.covariance[data, data] - slope @ self.covariance[at, data]
        return slope, 0.5 * (left + left.mT)

    def given(self, x: Tensor, k: int) -> Gaussian:
        """The law of x_{t_0} given x_{t_k} = x ``[B, D]``."""
        if k == 0:
            raise ValueError("x_{t_0} given itself is a point")
        slope, left = self.regression(k)
        one = Normals.of(self.mean[self.part(0)], left)
        return Gaussian.of(Normals(one.mean + (x - self.mean[self.part(k)]) @ slope.mT, one.basis, one.values))

    def soft_value(self, reward: QuadraticReward, x: Tensor, k: int) -> Tensor:
        """log E[e^{r/β}|x_{t_k} = x], ``[B]``."""
        return reward(x) / BETA if k == 0 else self.given(x, k).tilt_by(reward, BETA)[1]

    @property
    def condition(self) -> float:
        """Largest over smallest eigenvalue: what an inverse multiplies rounding by."""
        values = torch.linalg.eigvalsh(self.covariance)
        return float(values[-1] / values[0])


@dataclass(frozen=True)
class Reference:
    """A Gaussian world's chain: as it is, asked for its matrices, and by the textbook."""

    chain: ReverseChain
    asked: LinearChain
    book: LinearChain
    joint: Joint

    @staticmethod
    def of(case: Case, world: Gaussian, rule: Variance) -> Reference:
        denoiser = Sheared(world) if rule == "prior" else OracleDenoiser(world)
        chain = Diffusion(case.schedule, denoiser).chain(grid_of(case), rule)
        book = textbook(case, world.to(torch.float64, "cpu"), chain, rule)
        return Reference(chain, LinearChain.of(chain), book, Joint.of(book))

    def draws(self, case: Case, k: int) -> Tensor:
        """A few x_{t_k} of the chain, float64 numbers that the case's dtype has."""
        noise = drawn(case, f"optima {k}", _FEW, case.dim)
        return self.joint.marginal(k).normals.sample(noise).to(case.dtype).to(torch.float64)


class Sheared:
    """A denoiser that is affine and wrong: each number of E[x_0|x_t] with a fifth of the one after it."""

    def __init__(self, world: Gaussian) -> None:
        self.exact, self.event_shape = OracleDenoiser(world), world.event_shape

    def __call__(
        self, xt: Tensor, level: NoiseLevel, condition: Tensor | None = None, guidance: float = 1.0
    ) -> Prediction:
        right = self.exact(xt, level).x0
        return Prediction(xt, level, {"x0": right @ shear(right).mT}, guarded=False)


def shear(like: Tensor) -> Tensor:
    """I + 0.2 e_i e_{i+1}ᵀ, ``[D, D]``."""
    eye = torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)
    return eye + 0.2 * eye.roll(1, 1).triu()


def textbook(case: Case, world: Gaussian, chain: ReverseChain, rule: Variance) -> LinearChain:
    """The matrices of a Gaussian world's chain, from α and σ² alone (Ho et al. 2020, eq. 7; Bishop 2006, eq. 2.116)."""
    m, S, times = world.mean, world.covariance, chain.grid.times
    eye = torch.eye(world.dim, dtype=S.dtype, device=S.device)
    rows = []
    for s, t in pairwise(times):
        book = Book(case, s, t)
        guess = torch.linalg.solve(book.alpha.square() * S + book.var * eye, book.alpha * S)
        added = {
            "posterior": book.posterior * eye,
            "prior": book.prior * eye,
            "optimal": book.posterior * eye + book.on_x0.square() * (S - book.alpha * guess @ S).diagonal().diag(),
        }[rule]
        twist = shear(m) if rule == "prior" else eye
        offset = twist @ (m - book.alpha * guess @ m)
        rows.append((book.on_xt * eye + book.on_x0 * twist @ guess, book.on_x0 * offset, added))
    rows.append((0 * eye, 0 * m, case.schedule.prior_std**2 * eye))
    return LinearChain(*(torch.stack(v) for v in zip(*rows, strict=True)))


class OfGaussian(Identity):
    """Gaussian data's chains, the references shared by all that ask."""

    conditions = "Gaussian data, the exact denoiser, where data and noise are both heard; in float32 three schedules"
    subject = "optimal"

    def applies(self, case: Case) -> bool:
        return isinstance(case.world, Gaussian) and case.exact and (case.dtype == torch.float64 or sampled(case))

    @staticmethod
    def reference(case: Case, rule: Variance) -> Reference:
        return case.once(f"reference {rule}", lambda: Reference.of(case.heard, cast("Gaussian", case.world), rule))

    @staticmethod
    def other(case: Case, rule: Variance) -> Reference:
        """The chain of a wider and shifted world, in the same axes."""
        world = cast("Gaussian", case.world)
        moved = Gaussian(world.mean + 0.5 * world.variance.sqrt(), 1.5 * world.covariance)
        return case.once(f"other {rule}", lambda: Reference.of(case.heard, moved, rule))

    @classmethod
    def optimum(cls, case: Case, rule: Variance, which: Kind, start: Start = "free") -> tuple[QuadraticReward, Optimum]:
        """A reward that is linear, quadratic or a log-density, and what is best for it."""

        def make() -> tuple[QuadraticReward, Optimum]:
            A, b = (v.to("cpu", torch.float64) for v in quadratic(case))
            A = 0.5 * (A + A.mT)
            if which == "linear":
                reward: QuadraticReward = Linear(b)
            elif which == "quadratic":
                reward = Quadratic(A, b)
            else:
                spread = torch.linalg.inv(A)
                reward = LogDensity(Gaussian(0.5 * b, 0.5 * (spread + spread.mT)))
            return reward, linear_optimum(cls.reference(case, rule).asked, reward, BETA, start)

        return case.once(f"optimum {rule} {which} {start}", make)

    @staticmethod
    def size(case: Case, joint: Joint, reward: QuadraticReward, x: Tensor, k: int) -> Tensor:
        """A value's terms over β, ``[B]``: the reward's at |G||x| + |h| and two deviations more, for N steps of D."""
        mean, variance = joint.mean[joint.part(0)], joint.covariance[joint.part(0), joint.part(0)].diagonal()
        reach = mean.abs().expand(len(x), -1) if k == 0 else joint.given(0 * x, k).mean.abs()
        if k:
            slope, left = joint.regression(k)
            reach, variance = reach + x.abs() @ slope.abs().mT, left.diagonal()
        A, b, c = reward.coefficients()
        _, size = gain(A, b, reach + 2 * variance.sqrt(), BETA)  # pyright: ignore
        return len(joint.mean) * (1 + size + abs(float(c)) / BETA)


def drawn(case: Case, purpose: str, *shape: int) -> Tensor:
    """Standard normal numbers that the case's dtype has, as float64 on the host, where all the matrices are."""
    return case.normal(purpose, *shape).to("cpu", torch.float64)


def points(law: Gaussian) -> Tensor:
    """2D places over which the mean of a quadratic is its mean under the law: m ± √D S^½e_i, ``[2D, D]``."""
    eye = torch.eye(law.dim, dtype=law.dtype, device=law.device)
    return law.normals.sample(law.dim**0.5 * torch.cat([eye, -eye]))
