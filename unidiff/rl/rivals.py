r"""Two more ways to a better reward without training: the best of n, and guidance by the reward's gradient.

Best of n. The law of the best of n reference samples is p_ref(x_0) n F(r)^{n−1} where r has a density, F its
distribution function, and

    KL(best of n ‖ p_ref) ≤ log n − (n − 1)/n,     with equality there   (Beirami et al. 2024, theorem 3.1).

Guidance. Each step's residual is shifted by u = g σ_k ∇ r(x̂_0(x_{t_k}))/β. By Girsanov the law of its paths has

    KL(guided ‖ p_ref) = E Σ_k ½‖u_k‖²,     an upper bound on that of the data.

It is **not** a sampler of p_ref e^{r/β}: x_{t_N} stays where the prior put it, and u is the slope of a guess at the soft
value (:mod:`unidiff.rl.twists`), right for a linear r on Gaussian data in the limit of small steps. The weights of its
paths are exact, so that what it reaches can be corrected.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from unidiff.core.boundary import check_condition, check_count, check_generator, check_type
from unidiff.rl.mdp import DenoisingMDP, State, checked
from unidiff.rl.twists import Guide, propose, reward_of


@dataclass(frozen=True, eq=False)
class Best:
    """The best of n, ``count`` times.

    Attributes:
        x0: data, ``[count, *E]``.
        reward: theirs, ``[count]``.
        n: out of how many each is.
    """

    x0: Tensor
    reward: Tensor
    n: int

    @property
    def kl_bound(self) -> float:
        """log n − (n − 1)/n in nats: an upper bound on the KL of one output's law to the reference's."""
        return math.log(self.n) - (self.n - 1) / self.n


@dataclass(frozen=True, eq=False)
class Guided:
    """Guided chains.

    Attributes:
        x0: data, ``[n, *E]``.
        path_kl: Σ_k ½‖u_k‖² of each chain, float64 ``[n]``, in nats: its mean estimates the KL of the paths.
        log_weights: r/β + Σ_k log p_ref/q, float64 ``[n]``: the mean of e^{log_weights} is unbiased for Z.
    """

    x0: Tensor
    path_kl: Tensor
    log_weights: Tensor


def best_of_n(
    mdp: DenoisingMDP,
    count: int,
    n: int,
    *,
    generator: torch.Generator | None = None,
    condition: Tensor | None = None,
    like: Tensor | None = None,
) -> Best:
    """For each of ``count`` outputs the best of n samples of the reference; count·n chains walk side by side.

    Args:
        mdp: the reference chain and its terminal reward.
        count: outputs.
        n: samples for each.
        generator: of all draws.
        condition: a class for each output, ``[count]``, or one for all.
        like: a tensor of the dtype and on the device to compute in (float32, CPU).

    Raises:
        TypeError, ValueError: count or n below 1, a process without a reward of its data alone, labels as
            :meth:`unidiff.Diffusion.predict`; what the reward returns has another shape or device.
        FloatingPointError: a reward that is not finite.
    """
    check_type("mdp", mdp, DenoisingMDP)
    reward = reward_of(mdp)
    check_count("count", count)
    check_count("n", n)
    check_generator(generator, torch.device("cpu") if like is None else like.device)
    labels = check_condition(condition, mdp.guidance, count, getattr(mdp.chain.core.denoiser, "num_classes", None))
    state = mdp.start(count * n, generator, None if labels is None else labels.repeat_interleave(n), like)
    for _ in range(mdp.horizon):
        state = State(mdp.reference(state).sample(generator, check=False), state.k - 1, state.condition)
    x0 = mdp.data(state)
    value = checked("reward", reward(x0), x0).detach().reshape(count, n)
    best, index = value.max(1)
    return Best(x0.reshape(count, n, *x0.shape[1:])[torch.arange(count, device=x0.device), index], best, n)


def guided(
    mdp: DenoisingMDP,
    n: int,
    scale: float = 1.0,
    *,
    beta: float,
    generator: torch.Generator | None = None,
    condition: Tensor | None = None,
    like: Tensor | None = None,
) -> Guided:
    """n chains under u = g σ_k ∇ r(x̂_0)/β.

    Args:
        mdp: the reference chain and its terminal reward, differentiable and of each row alone.
        n: chains.
        scale: g, finite; 0 is the reference.
        beta: the KL temperature, in units of reward.
        generator: of all draws.
        condition: a class for each chain, ``[n]``, or one for all.
        like: a tensor of the dtype and on the device to compute in (float32, CPU).

    Raises:
        TypeError, ValueError: n below 1, beta not positive, a scale that is not finite; all that
            :class:`~unidiff.rl.twists.Guide` refuses; a reward without a gradient, or with one that is not
            finite.
        FloatingPointError: a reward that is not finite.
    """
    guide = Guide(mdp, beta, "reward", "gradient", scale=scale)
    check_generator(generator, torch.device("cpu") if like is None else like.device)
    state = mdp.start(n, generator, condition, like)
    cost = torch.zeros(n, dtype=torch.float64, device=state.x.device)
    log_weights = torch.zeros_like(cost)
    for _ in range(mdp.horizon):
        x, log_ratio, paid = propose(guide.outlook(state), generator)
        state, cost, log_weights = State(x, state.k - 1, state.condition), cost + paid, log_weights + log_ratio
    x0 = mdp.data(state)
    return Guided(x0, cost, log_weights + guide.gain(x0))
