r"""Learning from pairs: of two data (or walks) w was preferred to l, P(w ≻ l) = σ(r_w − r_l) (Bradley & Terry 1952).

At the KL-regularised optimum β log p*/p_ref = r − β log Z, so that r need not be known (Rafailov et al. 2023, eq. 7):

    L = −log σ(β [ℓ_w − ℓ_l]),   ℓ = log p_θ/p_ref.

Of a walk ℓ is Σ_h log π_θ/π_ref, exactly; D3PO takes each step for itself (Yang et al. 2024, eq. 9). Of data alone ℓ is
bounded: along the forward process, with z = b (x_0 − x̂_ref)/σ the mean of the action that leads to x_0,

    ℓ ≥ Σ_k E[u_k·z_k − ½‖u_k‖²] = Σ_k E ½ b²/σ² (‖x_0 − x̂_ref‖² − ‖x_0 − x̂_θ‖²),

and Diffusion-DPO takes one step k at random, times H, inside the σ (Wallace et al. 2024, eq. 14: Jensen's inequality again).
In ε this is ½H(SNR_s/SNR_t − 1)(‖ε − ε̂_ref‖² − ‖ε − ε̂_θ‖²), their Tω. A constant in its place is what is commonly run,
½·5000 times squares that are means over D: weight "constant" at β = 2500/D, on sums. Where whole walks are drawn from
q(x_{1:N}|x_0) in place of the mean action, ℓ has no noise left at the optimum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from unidiff.core.boundary import check_condition, check_count, check_flag, check_name, right_expand
from unidiff.core.ladder import draw_ladder
from unidiff.rl.methods.adjoint import check_fixed_variance
from unidiff.rl.methods.gradients import figures
from unidiff.rl.methods.method import Learner, Method
from unidiff.rl.policy import Decisions, Policy, Rows, Taken, log_ratio
from unidiff.rl.preferences import Preferences, log_preference

Weight = Literal["elbo", "constant"]
Reduction = Literal["sum", "mean"]
WEIGHTS: tuple[Weight, ...] = get_args(Weight)
REDUCTIONS: tuple[Reduction, ...] = get_args(Reduction)


@dataclass(frozen=True, eq=False)
class Compared(Rows):
    """Pairs ready to be judged, one a row, with m decisions each.

    Attributes:
        winner, loser: decisions and actions, ``[R, m, …]``.
        factor: what the sum over the m is multiplied by, ``[R, m]``.
    """

    winner: Taken
    loser: Taken
    factor: Tensor


def implicit(policy: Policy, taken: Taken) -> Tensor:
    """log π_θ/π_ref of decisions ``[R, m]``, ``[R, m]``; differentiable in θ."""
    at = taken.at
    x, k, known, std = (v.flatten(0, 1) for v in (at.x, at.k, at.guess, at.std))
    labels = None if at.condition is None else at.condition.flatten()
    return log_ratio(policy.control(Decisions(x, k, known, std, labels)), taken.action.flatten(0, 1)).view(at.k.shape)


@dataclass(frozen=True)
class DPO(Method):
    """Diffusion-DPO on a data set of pairs, which :meth:`on` names.

    Attributes:
        weight: "elbo", the weight of the bound on log p_θ/p_ref, or "constant", one for the errors in ε.
        reduction: "sum" over the D numbers of a datum, or "mean", under which β acts as β/D does on sums.
        draws: steps k a pair, spread evenly over the chain; 1 is the published loss, None all of them.
        walks: draw whole walks q(x_{1:N}|x_0) and judge them by their own actions, not the mean action; ``draws`` is None.

    Raises:
        ValueError: an unknown name; draws below 1; walks with draws, or of another weight than the bound's.
    """

    name: ClassVar[str] = "dpo"
    source: ClassVar[str] = "Wallace et al. 2024 (Diffusion-DPO), eq. 14"
    weight: Weight = "elbo"
    reduction: Reduction = "sum"
    draws: int | None = 1
    walks: bool = False

    def __post_init__(self) -> None:
        check_name("weight", self.weight, WEIGHTS)
        check_name("reduction", self.reduction, REDUCTIONS)
        if self.draws is not None:
            check_count("draws", self.draws)
        check_flag("walks", self.walks)
        if self.walks and (self.draws is not None or self.weight != "elbo"):
            raise ValueError(
                f"walks need all steps (draws None) and weight 'elbo', got draws = {self.draws}, weight = {self.weight!r}"
            )

    def on(self, pairs: Preferences) -> OnPairs:
        """The method on these preferences."""
        return OnPairs(self, pairs)

    def learner(self, policy: Policy) -> Learner[Compared]:
        """Refused: there are no pairs yet."""
        raise ValueError("dpo needs preferences: DPO(...).on(pairs)")


@dataclass(frozen=True, eq=False)
class OnPairs(Method):
    """:class:`DPO` with its data."""

    name: ClassVar[str] = DPO.name
    source: ClassVar[str] = DPO.source
    options: DPO
    pairs: Preferences

    def options_told(self) -> dict[str, Any]:
        """The options, and how many pairs there are."""
        return {**self.options.options_told(), "pairs": len(self.pairs.winner)}

    def learner(self, policy: Policy) -> Learner[Compared]:
        """What runs.

        Raises:
            ValueError: β = 0, pairs of another shape or of classes that the core has not, a constant weight where the
                variance depends on x.
        """
        self.check_temperature(policy)
        expected = list(policy.core.event_shape)
        if list(self.pairs.winner.shape[1:]) != expected:
            raise ValueError(f"pairs must be of data of shape {expected}, got {list(self.pairs.winner.shape[1:])}")
        known = getattr(policy.core.denoiser, "num_classes", None)
        check_condition(self.pairs.condition, 1.0, len(self.pairs), known)
        if self.options.weight == "constant":
            check_fixed_variance(policy.mdp, "weight 'constant'")
        return _Offline(self.options, self.pairs, policy)


class _Offline(Learner[Compared]):
    def __init__(self, method: DPO, pairs: Preferences, policy: Policy) -> None:
        super().__init__(policy)
        self.method = method
        like = policy.like
        self.winner, self.loser = pairs.winner.to(like), pairs.loser.to(like)
        self.condition = None if pairs.condition is None else pairs.condition.to(like.device)

    def gather(
        self, n: int, generator: torch.Generator, condition: Tensor | None
    ) -> tuple[Compared, dict[str, Tensor]]:
        device = self.winner.device
        index = torch.randint(len(self.winner), (n,), generator=generator, device=device)
        labels = self.condition[index] if self.condition is not None else condition
        both = (self.winner[index], self.loser[index])
        if self.method.walks:
            # Each walk has noise of its own: of noise shared by both, what ℓ owes to it would cancel and go unlearned.
            shape, like = (self.policy.mdp.chain.steps + 1, *both[0].shape), self.winner
            noises = [torch.randn(shape, generator=generator, dtype=like.dtype, device=device) for _ in both]
            taken = [retraced(self.policy, x0, noise, labels) for x0, noise in zip(both, noises, strict=True)]
            factor = torch.ones(taken[0].at.k.shape, dtype=like.dtype, device=device)
        else:
            k = self._steps(n, generator)
            noise = torch.randn(
                (n, k.shape[1], *both[0].shape[1:]), generator=generator, dtype=both[0].dtype, device=device
            )
            taken = [noised(self.policy, x0, noise, k, labels) for x0 in both]
            factor = self._factor(k).to(noise)
        if self.method.reduction == "mean":
            factor = factor / both[0][0].numel()
        rows = Compared(taken[0], taken[1], factor)
        return rows, {}

    def loss(self, rows: Compared) -> Tensor:
        winner, loser = ((implicit(self.policy, taken) * rows.factor).sum(1) for taken in (rows.winner, rows.loser))
        return -log_preference(self.policy.mdp.beta * (winner - loser)).mean()

    def _steps(self, n: int, generator: torch.Generator) -> Tensor:
        """k ``[n, m]``: one in each of m even parts of the chain's decisions."""
        mdp, device = self.policy.mdp, self.winner.device
        if self.method.draws is None or self.method.draws >= mdp.horizon:
            return torch.arange(mdp.last, mdp.chain.steps + 1, device=device).expand(n, -1)
        m = self.method.draws
        share = torch.rand((n, m), generator=generator, device=device)
        place = (torch.arange(m, device=device) + share) / m * mdp.horizon
        return mdp.last + place.long().clamp(max=mdp.horizon - 1)

    def _factor(self, k: Tensor) -> Tensor:
        """What makes the m terms an estimate of the bound, or of a term in ε, ``[n, m]``, float64."""
        m = k.shape[1]
        if self.method.weight == "elbo":
            return torch.full(k.shape, self.policy.mdp.horizon / m, dtype=torch.float64, device=k.device)
        chain = self.policy.mdp.chain.beside(self.winner)
        like = torch.zeros(1, dtype=torch.float64, device=k.device)
        every = torch.arange(1, chain.steps + 1, device=k.device)
        log_var = chain.log_var(like.expand(chain.steps), every, chain.levels[every], None)
        log_gain = chain.table.on_x0.log() - 0.5 * log_var - 0.5 * chain.levels.log_snr[1:]
        return 2 * (-2 * log_gain).exp()[k - 1] / m


def noised(policy: Policy, x0: Tensor, noise: Tensor, k: Tensor, condition: Tensor | None) -> Taken:
    """Decisions k ``[R, m]`` at x_{t_k} = α x_0 + σ ε for ``noise`` ``[R, m, *E]``, each with the mean action z to x_0."""
    chain = policy.mdp.chain.beside(x0)
    repeated = x0[:, None].expand_as(noise).flatten(0, 1)
    level = chain.levels[k.flatten()].to(x0)
    x = right_expand(level.alpha, repeated) * repeated + right_expand(level.sigma, repeated) * noise.flatten(0, 1)
    at = look(policy, x, k.flatten(), None if condition is None else condition.repeat_interleave(k.shape[1]))
    gain = chain.row(chain.table.on_x0, k.flatten(), x)
    return _stacked(at, gain * (repeated - at.guess) / at.std, k.shape)


def retraced(policy: Policy, x0: Tensor, noise: Tensor, condition: Tensor | None) -> Taken:
    """Walks drawn from q(x_{t_{0:N}}|x_0) by ``noise`` ``[N + 1, R, *E]``, as decisions of the reference ``[R, H]``."""
    mdp, chain = policy.mdp, policy.mdp.chain.beside(x0)
    states = draw_ladder(chain.core.schedule, x0, chain.grid, noise=noise).states.transpose(0, 1)
    k = torch.arange(mdp.last, chain.steps + 1, device=x0.device).expand(len(x0), -1)
    x, after = (states[:, first : first + mdp.horizon].flatten(0, 1) for first in (mdp.last, mdp.last - 1))
    at = look(policy, x, k.flatten(), None if condition is None else condition.repeat_interleave(k.shape[1]))
    return _stacked(at, (after - chain.mean(x, at.k, at.guess)) / at.std, k.shape)


@torch.no_grad()
def look(policy: Policy, x: Tensor, k: Tensor, condition: Tensor | None) -> Decisions:
    """The reference's word on rows of states ``[R, *E]``, each at its own step k ``[R]``."""
    chain = policy.mdp.chain.beside(x)
    prediction = chain.core.denoiser(x, chain.levels[k].to(x), condition, policy.mdp.guidance)
    law = chain.kernel(x, k, prediction)
    return Decisions(x, k, prediction.x0, law.std.expand_as(x), condition)


def _stacked(at: Decisions, action: Tensor, shape: torch.Size) -> Taken:
    """Flat rows as ``[R, m]`` of them; the control that acted is nobody's, and stands at the reference's, 0."""
    labels = None if at.condition is None else at.condition.view(shape)
    x, k, known, std, action = (v.unflatten(0, shape) for v in (at.x, at.k, at.guess, at.std, action))
    return Taken(Decisions(x, k, known, std, labels), action, torch.zeros_like(action))


@dataclass(frozen=True)
class D3PO(Method):
    """DPO on walks of the policy itself, paired at random and labelled by the reward's own Bradley–Terry odds.

    Attributes:
        level: "step" takes each step for a preference of its own, as published; "walk" the whole walk, which is exact.

    Raises:
        ValueError: an unknown level.
    """

    name: ClassVar[str] = "d3po"
    source: ClassVar[str] = "Yang et al. 2024 (D3PO), eq. 9"
    level: Literal["step", "walk"] = "step"

    def __post_init__(self) -> None:
        check_name("level", self.level, ("step", "walk"))

    def learner(self, policy: Policy) -> Learner[Compared]:
        """What runs. Raises ValueError for a process without a reward, or β = 0."""
        self.check_reward(policy)
        self.check_temperature(policy)
        return _Online(self, policy)


class _Online(Learner[Compared]):
    def __init__(self, method: D3PO, policy: Policy) -> None:
        super().__init__(policy)
        self.method = method

    def gather(
        self, n: int, generator: torch.Generator, condition: Tensor | None
    ) -> tuple[Compared, dict[str, Tensor]]:
        both = None if condition is None else condition.repeat(2)
        walk = self.policy.walk(2 * n, generator, both)
        every = (walk.x, walk.k[:, None].expand(-1, 2 * n), walk.guess, walk.std, walk.action, walk.control)
        x, k, known, std, action, control = (v.transpose(0, 1) for v in every)
        labels = None if walk.condition is None else walk.condition[:, None].expand(-1, len(walk.x))
        taken = Taken(Decisions(x, k, known, std, labels), action, control)
        reward = walk.reward
        first = torch.sigmoid(reward[:n] - reward[n:])
        wins = torch.rand(n, generator=generator, dtype=first.dtype, device=first.device) < first
        index = torch.arange(n, device=first.device)
        winner, loser = torch.where(wins, index, index + n), torch.where(wins, index + n, index)
        factor = torch.ones((n, len(walk.x)), dtype=first.dtype, device=first.device)
        return Compared(taken[winner], taken[loser], factor), figures(walk)

    def loss(self, rows: Compared) -> Tensor:
        winner, loser = (implicit(self.policy, taken) for taken in (rows.winner, rows.loser))
        if self.method.level == "walk":
            winner, loser = winner.sum(1), loser.sum(1)
        return -log_preference(self.policy.mdp.beta * (winner - loser)).sum() / len(rows)
