r"""A chain and a policy beside it, both linear and Gaussian: what the methods of fine-tuning are held against.

With x̂_ref = Gx + h and a correction F = W_k x + w_k, all of a step is the textbook's, by hand from α and σ²:

    x_{k−1} = μ_ref(x_k) + σ_k (u_k + ξ_k),   μ_ref = (aI + bG) x + bh,   u_k = c_k (W_k x_k + w_k),
    c_k = b σ̄²/σ_k,   σ̄² = σ_t²/(α_t² + σ_t²),

and the gradient of J = E[r(x_0) − β Σ ½‖u_k‖²] in θ = (W, w) a formula: with V_{k−1} the policy's value, quadratic too,

    ∂J/∂(W_k, w_k) = c_k E[(σ_k ∇V_{k−1}(x_{k−1}) − β u_k) (x_kᵀ, 1)],
    ∇V_k(x) = −β U_kᵀu_k + M_kᵀ E[∇V_{k−1}(x_{k−1})|x],   U_k = c_k W_k,   M_k = aI + bG + σ_k U_k.

The methods' sides are polynomials of at most the fifth degree in the chain's noises, so that their means are exact too, by
a cubature rule of that degree: 2n² + 1 nodes in n dimensions (Stroud 1971, E_n^{r²} 5-2; item 50).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from unidiff.core.chain import Variance
from unidiff.core.diffusion import Diffusion
from unidiff.core.grid import TimeGrid
from unidiff.core.schedule import Schedule
from unidiff.identities.case import Case
from unidiff.identities.chains import grid_of
from unidiff.identities.joints import Sheared, shear
from unidiff.identities.laws import Identity
from unidiff.identities.tilts import BETA, quadratic
from unidiff.identities.variances import Book
from unidiff.rl import DenoisingMDP, LinearChain, Policy, Walk, corrected
from unidiff.rl.mdp import Reward
from unidiff.worlds import Gaussian, OracleDenoiser
from unidiff.worlds.rewards import Linear, Quadratic, QuadraticReward

DECISIONS = 3
Parameters = tuple[Tensor, Tensor]
"""What is had of W ``[N, D, D]`` and w ``[N, D]``, row k − 1 for the step from t_k: a gradient, say."""


class Affine(nn.Module):
    """F(x, λ_k) = W_k x + w_k."""

    def __init__(self, log_snr: Tensor, dim: int, like: Tensor) -> None:
        super().__init__()
        self.log_snr = log_snr.to(like)
        self.gain = nn.Parameter(like.new_zeros(len(log_snr), dim, dim))
        self.shift = nn.Parameter(like.new_zeros(len(log_snr), dim))

    def forward(self, x: Tensor, log_snr: Tensor, condition: Tensor | None = None) -> Tensor:
        """F at ``x`` ``[B, D]`` and λ ``[B]``."""
        k = (log_snr[:, None] - self.log_snr).abs().argmin(1)
        return torch.einsum("bij,bj->bi", self.gain[k], x) + self.shift[k]


@dataclass(frozen=True)
class Step:
    """One step by hand: x_{k−1} = gain x_k + shift + std ξ, x̂_ref = guess x_k + offset, u = reach (W x_k + w); float64."""

    book: Book
    gain: Tensor
    shift: Tensor
    std: Tensor
    guess: Tensor
    offset: Tensor
    reach: Tensor


@dataclass(frozen=True, eq=False)
class Tuned:
    """A process, a policy, and both by hand.

    Attributes:
        case: on the chain's schedule.
        world: the data's law.
        mdp: the process; its reward is linear or quadratic.
        policy: with the parameters of ``network``.
        steps: row k − 1 is the step from t_k.
    """

    case: Case
    world: Gaussian
    mdp: DenoisingMDP
    policy: Policy
    network: Affine
    steps: tuple[Step, ...] = field(repr=False)

    @staticmethod
    def of(
        case: Case,
        rule: Variance,
        reward: QuadraticReward | None = None,
        *,
        decoded: bool = False,
        beta: float = BETA,
        decisions: int = DECISIONS,
    ) -> Tuned:
        """A policy at the reference.

        Args:
            case: a Gaussian one.
            rule: "posterior", or "prior", there of a denoiser that is not symmetric.
            reward: of the data; None pays nothing.
            decoded: whether the grid starts at no noise, under the linear schedule, which gets there.
            beta: β.
            decisions: H.
        """
        own = replace(case, core=Diffusion(Schedule.linear(), case.core.denoiser)) if decoded else case.heard
        world = Gaussian(0.5 * case.world.variance.sqrt(), case.world.covariance)
        core = Diffusion(own.schedule, Sheared(world) if rule == "prior" else OracleDenoiser(world))
        grid = grid_of(own, decisions + 1)
        if decoded:
            marks = torch.linspace(3.0, -3.0, decisions, dtype=torch.float64)
            grid = TimeGrid([0.0, *own.schedule.time(marks).tolist(), 1.0])
        chain = core.chain(grid, rule)
        network = Affine(own.schedule.log_snr(grid.times[1:]).detach(), case.dim, case.x0)
        steps = tuple(_step(own, world, rule, grid, k) for k in range(1, grid.steps + 1))
        paid: Reward | None = reward
        mdp = DenoisingMDP(chain, paid, beta=beta)
        return Tuned(own, world, mdp, Policy(mdp, corrected(core, network)), network, steps)

    def moved(self, purpose: str = "moved") -> Tuned:
        """The same with parameters that are drawn: controls of half a unit or so."""
        for k in self.decisions:
            step, dim = self.steps[k - 1], self.case.dim
            size = self.case.schedule.prior_std
            drawn = self.case.normal(f"{purpose} {k}", dim, dim + 1) / step.reach / dim**0.5
            with torch.no_grad():
                self.network.gain[k - 1] = 0.3 * drawn[:, :-1] / size
                self.network.shift[k - 1] = 0.6 * drawn[:, -1]
        return self

    def set_controls(self, gain: dict[int, Tensor], shift: dict[int, Tensor]) -> Tuned:
        """The same with u_k = gain x_k + shift at each decision."""
        with torch.no_grad():
            for k in self.decisions:
                self.network.gain[k - 1] = gain[k] / self.steps[k - 1].reach
                self.network.shift[k - 1] = shift[k] / self.steps[k - 1].reach
        return self

    @property
    def decisions(self) -> range:
        """The steps k with noise, the first one's first."""
        return range(len(self.steps), self.mdp.last - 1, -1)

    @property
    def dims(self) -> int:
        """How many numbers the noise of a chain has, its start's too."""
        return (len(self.decisions) + 1) * self.case.dim

    @property
    def parameters(self) -> list[Tensor]:
        """W and w."""
        return [self.network.gain, self.network.shift]

    @property
    def reference(self) -> LinearChain:
        """The reference's matrices, by hand."""
        eye = torch.eye(self.case.dim, dtype=torch.float64)
        return LinearChain(
            torch.stack([*(s.gain for s in self.steps), 0 * eye]),
            torch.stack([*(s.shift for s in self.steps), 0 * eye[0]]),
            torch.stack([*(s.std**2 * eye for s in self.steps), self.case.schedule.prior_std**2 * eye]),
        )

    def control(self, k: int, x: Tensor) -> Tensor:
        """u_k at ``x`` ``[B, D]``, by hand."""
        W, w = (v[k - 1].detach() for v in self.parameters)
        return self.steps[k - 1].reach * (x @ W.mT + w)

    def walked(self, noise: Tensor) -> Walk:
        """The policy's chains from ``noise`` ``[P, H + 1, D]``, the start's first; by hand."""
        x, rows = self.case.schedule.prior_std * noise[:, 0], []
        for h, k in enumerate(self.decisions):
            step, u = self.steps[k - 1], self.control(k, x)
            rows.append((x, x @ step.guess.mT + step.offset, step.std.expand_as(x), u + noise[:, h + 1], u))
            x = x @ step.gain.mT + step.shift + step.std * (u + noise[:, h + 1])
        for step in reversed(self.steps[: self.mdp.last - 1]):
            x = x @ step.gain.mT + step.shift
        columns = [torch.stack(column) for column in zip(*rows, strict=True)]
        paid = torch.zeros_like(columns[0][..., 0])
        if self.mdp.reward is not None:
            paid[-1] = self.mdp.reward(x)
        known, std, action, control = columns[1:]
        return Walk(columns[0], torch.tensor(list(self.decisions)), known, std, action, control, paid, x)

    def replayed(self, n: int, purpose: str) -> Walk:
        """The n walks of a policy that draws from this generator, by hand: the start, then each decision's noise."""
        generator, like = self.case.generator(purpose), self.case.x0
        drawn = [torch.randn((n, self.case.dim), generator=generator, dtype=like.dtype) for _ in range(DECISIONS + 1)]
        return self.walked(torch.stack(drawn, 1))

    def laws(self) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """(M, m, U, v) of each step: the policy's mean M x + m and control U x + v, which is 0 of a step without noise."""
        found = []
        for k, step in enumerate(self.steps, 1):
            acts = step.reach if k >= self.mdp.last else 0 * step.reach
            U, v = (acts * p[k - 1].detach() for p in self.parameters)
            found.append((step.gain + step.std * U, step.shift + step.std * v, U, v))
        return found

    def moments(self) -> list[tuple[Tensor, Tensor]]:
        """E x_k ``[D]`` and E x_k x_kᵀ ``[D, D]`` under the policy, k = 0 … N."""
        eye = torch.eye(self.case.dim, dtype=torch.float64)
        mean, covariance = 0 * eye[0], self.case.schedule.prior_std**2 * eye
        found = [(mean, covariance)]
        for (M, m, _, _), step in zip(self.laws()[::-1], self.steps[::-1], strict=True):
            mean, covariance = M @ mean + m, M @ covariance @ M.mT + step.std**2 * eye
            found.append((mean, covariance + torch.outer(mean, mean)))
        return found[::-1]

    def gradient(self, beta: float, last: int | None = None) -> Parameters:
        """∇J, in closed form; of decisions before the ``last`` K, not reached, −β∇½E‖u_k‖² alone."""
        A, b, _ = self.reward.coefficients()
        assert b is not None
        laws, moments = self.laws(), self.moments()
        late = len(self.decisions) if last is None else last
        found = torch.zeros_like(self.network.gain.detach()), torch.zeros_like(self.network.shift.detach())
        # ∇V_{k−1}(x) = −Qx + q.
        Q, q = torch.zeros_like(found[0][0]) if A is None else A, b
        for k, (M, m, U, v) in enumerate(laws, 1):
            step, (mean, second) = self.steps[k - 1], moments[k]
            heard = step.std if k < self.mdp.last + late else 0 * step.std
            slope, lift = -heard * Q @ M - beta * U, heard * (q - Q @ m) - beta * v
            if k >= self.mdp.last:
                found[0][k - 1] = step.reach * (slope @ second + torch.outer(lift, mean))
                found[1][k - 1] = step.reach * (slope @ mean + lift)
            Q, q = M.mT @ Q @ M + beta * U.mT @ U, M.mT @ (q - Q @ m) - beta * U.mT @ v
        return found

    def log_ratio(self, k: Tensor, x: Tensor, action: Tensor, old: Tensor) -> tuple[Tensor, Tensor]:
        """log π_θ/π_old at ``x`` ``[R, D]``, k ``[R]``, by both steps' densities where a leads, ``[R]``; and their size.

        π_old is N(``old``, I), ``[R, D]``.
        """
        found, size = torch.zeros_like(x[:, 0]), torch.zeros_like(x[:, 0])
        for j in self.decisions:
            row, at = self.steps[j - 1], k == j
            mean, u = x[at] @ row.gain.mT + row.shift, self.control(j, x[at])
            after = mean + row.std * action[at]
            logs = [Normal(mean + row.std * v, row.std).log_prob(after).sum(1) for v in (u, old[at])]
            found[at] = logs[0] - logs[1]
            far = (after.abs() + mean.abs() + 1).norm(dim=1) / row.std
            reach = 1 + action[at].norm(dim=1) + u.norm(dim=1) + old[at].norm(dim=1)
            size[at] = far * reach + logs[0].abs() + logs[1].abs()
        return found, size

    @property
    def reward(self) -> QuadraticReward:
        """r."""
        assert isinstance(self.mdp.reward, QuadraticReward)
        return self.mdp.reward

    @property
    def slope(self) -> Tensor:
        """b of r."""
        _, b, _ = self.reward.coefficients()
        assert b is not None
        return b


def _step(case: Case, world: Gaussian, rule: Variance, grid: TimeGrid, k: int) -> Step:
    book = Book(case, grid.times[k - 1], grid.times[k])
    eye, S = torch.eye(world.dim, dtype=torch.float64), world.covariance
    twist = shear(S[0]) if rule == "prior" else eye
    plain = torch.linalg.solve(book.alpha.square() * S + book.var * eye, book.alpha * S)
    guess, offset = twist @ plain, twist @ (world.mean - book.alpha * plain @ world.mean)
    # Without noise at t_0 the last step has none, whatever the rule.
    std = (book.prior if rule == "prior" and book.posterior > 0 else book.posterior).sqrt()
    share = book.var / (book.alpha.square() + book.var)
    reach = book.on_x0 * share / std if std > 0 else torch.zeros_like(std)
    return Step(book, book.on_xt * eye + book.on_x0 * guess, book.on_x0 * offset, std, guess, offset, reach)


def reward_of(case: Case, curved: bool) -> QuadraticReward:
    """A linear reward, or a quadratic one, of the size of β."""
    A, b = quadratic(case)
    return Quadratic(0.5 * (A + A.mT), b) if curved else Linear(b)


class Beside(Identity):
    """Where a tuned chain is."""

    views = ("rl",)
    conditions = "a linear-Gaussian chain and a linear policy beside it; in float64, on the CPU where its matrices are"
    subject = "optimal"

    def applies(self, case: Case) -> bool:
        known = isinstance(case.world, Gaussian) and case.exact
        return known and case.dtype == torch.float64 and case.device.type == "cpu"

    @staticmethod
    def subjects(case: Case) -> list[Tuned]:
        """Two that are moved away from the reference: their rules, rewards and ends differ."""
        return case.once("tuned", lambda: [
            Tuned.of(case, "posterior", reward_of(case, True)).moved("one"),
            Tuned.of(case, "prior", reward_of(case, False), decoded=True).moved("two"),
        ])  # fmt: skip
