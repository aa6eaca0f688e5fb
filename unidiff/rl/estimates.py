r"""How far from the optimum, for any chain and any reward: draws of the reference, reweighted.

With x ~ p_ref over paths, r what the path earns and w = e^{r/β} (Owen 2013, section 9.2; Uehara et al. 2024, theorem 1),

    Z = E w,   E* r = E[w r]/Z,   KL(p* ‖ p_ref) = E* r/β − log Z = E* log ŵ,   ESS = (Σ w)²/Σ w²,

each with its standard error by the delta method: with ŵ = w/w̄, that of the means of ŵ, ŵ(r − r̂) and their combination.
How far a policy p_θ with the reference's start is from p* over paths, from draws of its own, is

    KL(p_θ ‖ p*) = E_θ[Σ_k KL(p_θ(x_s|x_t) ‖ p_ref(x_s|x_t)) − r/β] + log Z,

with ½‖u‖² for a term where the policy keeps σ; it bounds the KL of their data from above (data processing).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from unidiff.core.boundary import check_count, check_finite, check_floating, check_positive, check_type
from unidiff.core.chain import ReverseChain
from unidiff.core.gaussian import Gaussian
from unidiff.core.weights import effective_size, log_mean_exp
from unidiff.rl.mdp import DenoisingMDP, State, guess
from unidiff.worlds.estimate import Estimate, monte_carlo

StepLaw = ReverseChain | Callable[[State], Gaussian]
"""A chain on the reference's grid, or any law of the next state given a state."""


@dataclass(frozen=True, eq=False)
class Walks:
    """n paths of a policy, float64 ``[n]`` each, on the chains' device.

    Attributes:
        reward: what each earned, without any charge.
        kl: Σ_k KL(policy ‖ reference) of its steps, in nats; 0 for the reference itself.
    """

    reward: Tensor
    kl: Tensor


@dataclass(frozen=True, eq=False)
class EstimatedOptimum:
    """The optimum by reweighting; where ``ess`` is a few draws, the errors stated know of no tail.

    Attributes:
        log_z: log E_ref e^{r/β}, in nats.
        reward: E* r, in units of reward.
        kl: KL(p* ‖ p_ref) over paths, in nats.
        reference_reward: E_ref r.
        ess: (Σ w)²/Σ w², of n.
        n: how many draws.
    """

    log_z: Estimate
    reward: Estimate
    kl: Estimate
    reference_reward: Estimate
    ess: Tensor
    n: int


@torch.no_grad()
def walk(
    mdp: DenoisingMDP,
    n: int,
    generator: torch.Generator | None = None,
    policy: StepLaw | None = None,
    condition: Tensor | None = None,
    like: Tensor | None = None,
    rows: int = 4096,
) -> Walks:
    """n paths from the prior to the data.

    Args:
        mdp: the reference and what is paid.
        n: how many.
        generator: the source of the start and the noise, on ``like``'s device.
        policy: None for the reference.
        condition: labels ``[n]``, or one for all, ``[]``.
        like: whose dtype and device the states have (float32, CPU).
        rows: paths that are walked at a time.

    Raises:
        TypeError: no DenoisingMDP, a policy that is no chain and cannot be called.
        ValueError: n or rows below 1, a chain on another grid, labels as :meth:`unidiff.Diffusion.predict`.
        FloatingPointError: a reward that is not finite.
    """
    check_type("mdp", mdp, DenoisingMDP)
    check_count("n", n)
    check_count("rows", rows)
    if isinstance(policy, ReverseChain) and policy.grid != mdp.chain.grid:
        raise ValueError(f"policy must be on the reference's grid, {mdp.chain.grid}, got {policy.grid}")
    if policy is not None and not isinstance(policy, ReverseChain) and not callable(policy):
        raise TypeError(f"policy must be a ReverseChain or callable, policy(state), got {type(policy).__name__}")
    parts = []
    for first in range(0, n, rows):
        count = min(rows, n - first)
        own = condition if condition is None or condition.ndim == 0 else condition[first : first + count]
        parts.append(_walk(mdp, policy, mdp.start(count, generator, own, like), generator))
    return Walks(*(torch.cat(v) for v in zip(*parts, strict=True)))


def _walk(
    mdp: DenoisingMDP, policy: StepLaw | None, state: State, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    earned, kl = (torch.zeros(len(state.x), dtype=torch.float64, device=state.x.device) for _ in range(2))
    for _ in range(mdp.horizon):
        law = mdp.reference(state)
        x = torch.randn(state.x.shape, generator=generator, dtype=state.x.dtype, device=state.x.device)
        if policy is not None:
            own = _law(policy, state, mdp.guidance)
            kl += own.kl(law).to(torch.float64)
            x = (own.mean - law.mean) / law.std + own.std / law.std * x
        outcome = mdp.step(state, x if mdp.action == "residual" else law.mean + law.std * x, law)
        earned += outcome.paid.to(torch.float64)
        state = outcome.state
    return earned, kl


def _law(policy: StepLaw, state: State, guidance: float) -> Gaussian:
    if isinstance(policy, ReverseChain):
        return policy.kernel(state.x, state.k, guess(policy, state, guidance))
    return policy(state)


def reweighted(reward: Tensor, beta: float) -> EstimatedOptimum:
    """The optimum from rewards of the reference's paths, ``[..., n]`` with n ≥ 2; each figure is ``[...]``, float64.

    Raises:
        TypeError: rewards that are no floating-point tensor.
        ValueError: fewer than two, or one that is not finite; a beta that is not positive.
    """
    check_positive("beta", beta)
    r = check_finite("reward", check_floating("reward", reward)).to(torch.float64)
    if r.ndim == 0 or r.shape[-1] < 2:
        raise ValueError(f"reward must have shape [..., n], two or more of a kind, got {list(r.shape)}")
    n = r.shape[-1]
    # From the greatest, so that no weight is the exponential of a difference of large numbers.
    most = r.amax(-1, keepdim=True)
    gained = (r - most) / beta
    log_mean = log_mean_exp(gained)
    log_weight = gained - log_mean[..., None]
    weight = log_weight.exp()
    log_z, mean = most[..., 0] / beta + log_mean, (weight * r).mean(-1)
    above, pulled = weight - 1, weight * (r - mean[..., None])
    return EstimatedOptimum(
        _estimate(log_z, above), _estimate(mean, pulled), _estimate((weight * log_weight).mean(-1), pulled / beta - above),
        _estimate(r.mean(-1), r), effective_size(gained), n,
    )  # fmt: skip


def estimated_optimum(
    mdp: DenoisingMDP,
    n: int,
    generator: torch.Generator | None = None,
    *,
    condition: Tensor | None = None,
    like: Tensor | None = None,
    rows: int = 4096,
) -> EstimatedOptimum:
    """log Z, E* r, KL(p* ‖ p_ref) and the effective sample size at the process's β, from n paths of its reference.

    Arguments and errors as :func:`walk` and :func:`reweighted`; n ≥ 2.
    """
    check_type("mdp", mdp, DenoisingMDP)
    check_positive("mdp.beta", mdp.beta)
    check_count("n", n, 2)
    return reweighted(walk(mdp, n, generator, None, condition, like, rows).reward, mdp.beta)


def path_kl(
    mdp: DenoisingMDP,
    policy: StepLaw,
    log_z: Estimate,
    n: int,
    generator: torch.Generator | None = None,
    *,
    condition: Tensor | None = None,
    like: Tensor | None = None,
    rows: int = 4096,
) -> Estimate:
    """KL(policy ‖ p*) over paths, in nats, from n paths of the policy; it may come out below 0 by its error.

    Args:
        log_z: of the same process; an :class:`EstimatedOptimum`'s, of other draws, or exact.
        mdp, policy, n, generator, condition, like, rows: as :func:`walk`; n ≥ 2.
    """
    check_type("mdp", mdp, DenoisingMDP)
    check_positive("mdp.beta", mdp.beta)
    check_type("log_z", log_z, Estimate)
    check_count("n", n, 2)
    found = walk(mdp, n, generator, policy, condition, like, rows)
    cost = monte_carlo(found.kl - found.reward / mdp.beta)
    z, error = (v.to(cost.value) for v in (log_z.value, log_z.standard_error))
    return Estimate(cost.value + z, torch.hypot(cost.standard_error, error), "monte_carlo")


def _estimate(value: Tensor, influence: Tensor) -> Estimate:
    """A value whose error is that of the mean of ``influence`` ``[..., n]``."""
    return Estimate(value, influence.std(-1) / math.sqrt(influence.shape[-1]), "monte_carlo")
