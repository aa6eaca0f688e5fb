r"""What DxMI minimises: five losses, each an expectation that a theorem of maximum-entropy inverse RL asks for.

    contrast    E_{q_0}V_0 − E_π V_0 + γ(E_{q_0}V_0² + E_π V_0²)                        energy: items 39, 48
    difference  E(V_k(x_k) − [V̄_{k−1}(x′) + log π(x′|x_k) − log q̃(x_k|x′)])²           value: item 40, x′ ~ π(·|x_k)
    control     E[V_{k−1}(x′) + log π(x′|x_k) − log q̃(x_k|x′)]                          policy: items 42–44
    anchor      E‖ε − S_k∇V_k(A_k x_0 + S_k ε)‖²                                        value: item 40, by Tweedie
    ladder      E_{q_{k−1}} log(1 + e^{−ℓ_k}) + E_{q_k} log(1 + e^{ℓ_k}),  ℓ_k = V_k − V_{k−1}    value: items 40, 47

in nats (V/τ), with sums over the D numbers of a state throughout: an entropy counts every dimension, and so must a cost.
The first is the gradient of KL(q_0‖e^{−V}) − KL(π‖e^{−V}) and moves the energy alone. It may be taken at every level, of
KL(q_k‖e^{−V_k}) − KL(π_k‖e^{−V_k}) with π_k the chain's law of x_{t_k}: at the optimum over all π, π_k = q_k and V_k =
−log q_k too, which Gaussian steps reach as far as they can.
The second and third are dynamic programming over the chain's steps; the last two hold the value to what it must be at the
optimum, −log of the noised data: the fourth its slope, where there are data, the fifth its height, by telling each level's
data from the next one's. The regulariser keeps the energy bounded and biases the fixed point by about γ in total
variation (2γ E_p|log p + H(p)| at first order, item 48 with V in nats), so γ goes to 0.

Yoon et al. 2024, "Maximum entropy inverse reinforcement learning of diffusion models with energy-based models", algorithm 1;
where its published code puts cost and entropy, and how large, is :class:`Choices`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from unidiff.core.boundary import check_flag, check_positive, right_expand
from unidiff.core.gaussian import Gaussian
from unidiff.core.level import NoiseLevel
from unidiff.core.weights import effective_size
from unidiff.ebm.dxmi.law import AuxiliaryLaw
from unidiff.ebm.dxmi.value import Value, every_level


@dataclass(frozen=True)
class Choices:
    """Where the theory and the paper's published code part; the defaults are the theory's.

    Attributes:
        mean: cost and entropy are means over the D numbers of a state, not sums.
        cost: what −log q̃ weighs beside the value; the theory's 1 in nats (their τ_2 in units of V).
        entropy: what log π weighs; the theory's 1 (their τ_1).
        cost_in_value: −log q̃ is part of the value's target, not of the policy's loss alone.
        entropy_in_value: log π likewise.
        lagged: the target is of an average of the value's parameters, not of the value as it stands.

    Raises:
        TypeError, ValueError: naming the choice.
    """

    mean: bool = False
    cost: float = 1.0
    entropy: float = 1.0
    cost_in_value: bool = True
    entropy_in_value: bool = True
    lagged: bool = True

    def __post_init__(self) -> None:
        for name in ("mean", "cost_in_value", "entropy_in_value", "lagged"):
            check_flag(name, getattr(self, name))
        for name in ("cost", "entropy"):
            check_positive(name, getattr(self, name))

    @staticmethod
    def published() -> Choices:
        """The published code's for images: scale and places of cost and entropy, and the target, the next value alone.

        What else its configurations of images set is not restored (docs/dxmi.md).
        """
        return Choices(
            mean=True, cost=0.01, entropy=0.1, cost_in_value=False, entropy_in_value=False, lagged=False
        )  # fmt: skip


THEORY = Choices()


def contrast(data: Tensor, drawn: Tensor, gamma: float | Tensor, weights: Tensor | None = None) -> Tensor:
    """The contrastive loss of energies, ``[]``, whose gradient in θ is item 39's.

    Args:
        data, drawn: V_0 at data and at the policy's draws, ``[B]``, in nats.
        gamma: γ ≥ 0 of the regulariser.
        weights: of the draws, ``[B]``, of sum 1 (:func:`path_weights`); even if None.
    """

    def mean(value: Tensor) -> Tensor:
        return value.mean() if weights is None else (weights * value).sum()

    return data.mean() - mean(drawn) + gamma * (data.square().mean() + mean(drawn.square()))


def contrasts(data: Tensor, drawn: Tensor, gamma: float | Tensor, weights: Tensor | None = None) -> Tensor:
    """The sum of K levels' contrasts, ``[]``, of their energies ``[K, B]``; the rest as :func:`contrast`."""
    return torch.stack([contrast(*pair, gamma, weights) for pair in zip(data, drawn, strict=True)]).sum()


def compared(value: Value, x0: Tensor, noise: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
    """V_k at noised data and V_k at a chain's own states, ``[K, B]`` each: what a contrast at K levels compares.

    Args:
        x0: data ``[K·B, *E]``, the first B for level 0.
        noise: ε, ``[K·B, *E]``.
        states: x_{t_0} … x_{t_{K−1}} of B walks, ``[K, B, *E]``.
    """
    count, batch = states.shape[:2]
    k = torch.arange(count, device=states.device).repeat_interleave(batch)
    at_data, at_chain = (value(x, k) for x in (noised(value.levels, x0, k, noise), states.flatten(0, 1)))
    return at_data.reshape(count, batch), at_chain.reshape(count, batch)


def cost_to_go(
    value: Value,
    law: AuxiliaryLaw,
    step: Gaussian,
    earlier: Tensor,
    later: Tensor,
    k: Tensor,
    choices: Choices = THEORY,
    *,
    target: bool = False,
) -> Tensor:
    """V_{k−1}(x′) + log π(x′|x_k) − log q̃(x_k|x′), ``[R]``, in nats: what a policy pays from x_k on; differentiable.

    log π is in its mean over x′, minus the entropy, which has the same expectation and no variance. Averaged over x′ ~ π it
    is V_k(x_k) + KL(π‖π*): the policy's loss, and the value's target.

    Args:
        step: π(·|x_k).
        earlier, later: x′ and x_k, ``[R, *E]``.
        k: which step each row is, ``[R]`` in 1 … N.
        choices: the theory's, or another's.
        target: whether it is asked as the value's target, from which another's choices leave something out.
    """
    share = 1 / later[0].numel() if choices.mean else 1.0
    paid = value(earlier, k - 1)
    if choices.cost_in_value or not target:
        paid = paid + share * choices.cost * law.cost(earlier, later, k)
    if choices.entropy_in_value or not target:
        paid = paid - share * choices.entropy * step.entropy()
    return paid


def difference(value: Value, x: Tensor, k: Tensor, target: Tensor) -> Tensor:
    """(V_k(x) − target)², averaged, ``[]``: temporal-difference learning of the value at ``x`` ``[R, *E]``."""
    return (value(x, k) - target).square().mean()


def anchor(value: Value, x0: Tensor, share: Tensor, noise: Tensor) -> Tensor:
    """‖ε − ε̂‖² of the value's own noise, summed over D and averaged, ``[]``.

    Args:
        x0: data ``[R, *E]``.
        share: where between the law's levels, ``[R]`` in [0, 1): all of them, since a value is one function of the level.
        noise: ε, ``[R, *E]``.
    """
    level = every_level(value.levels, share)
    noised = right_expand(level.alpha.to(x0), x0) * x0 + right_expand(level.sigma.to(x0), x0) * noise
    return (noise - value.noise(noised, level)).flatten(1).square().sum(1).mean()


def ladder(value: Value, x0: Tensor, k: Tensor, noise: Tensor) -> Tensor:
    """Logistic regression between the data noised to adjacent levels, averaged, ``[]``.

    Args:
        x0: data ``[2, R, *E]``, for the nearer and the farther level.
        k: which step lies between them, ``[R]`` in 1 … N.
        noise: ε, ``[2, R, *E]``.
    """
    near, far = (noised(value.levels, x, at, e) for x, at, e in zip(x0, (k - 1, k), noise, strict=True))
    states = torch.cat([near, far])
    above, below = (value(states, at.repeat(2)) for at in (k, k - 1))
    at_near, at_far = (above - below).chunk(2)
    return F.softplus(-at_near).mean() + F.softplus(at_far).mean()


def noised(levels: NoiseLevel, x0: Tensor, k: Tensor, noise: Tensor) -> Tensor:
    """A_k x_0 + S_k ε, ``[R, *E]``, of data and ε ``[R, *E]`` at the steps k ``[R]`` of a law's levels."""
    level = levels[k].to(x0)
    return right_expand(level.alpha, x0) * x0 + right_expand(level.sigma, x0) * noise


@torch.no_grad()
def path_weights(value: Value, log_ratio: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """Weights that make the policy's draws those of e^{−V_0}, and how many of them count.

    A walk of π stands for one of q ∝ e^{−V_0(x_0)} Π q̃ by w = e^{−V_0} Π q̃/π (item 43's joint laws, π's start included),
    so that the energy's negatives are its own law's and not the policy's; E_π w = Z.

    Args:
        log_ratio: Σ log q̃ − log π of each walk, π(x_{t_N}) among them, ``[B]``, in nats.
        last: x_{t_0}, ``[B, *E]``.

    Returns:
        weights ``[B]`` of sum 1, and their effective number, ``[]``.
    """
    log_weights = log_ratio - value(last, torch.zeros(last.shape[0], dtype=torch.long, device=last.device))
    return torch.softmax(log_weights, 0), effective_size(log_weights)
