"""What a fine-tuned policy reached, beside what could be reached: the figures that ``unidiff finetune`` ends with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unidiff.core.diffusion import Diffusion
    from unidiff.rl import EstimatedOptimum
    from unidiff.train import FineTuner
    from unidiff.worlds import Estimate


def judged(tuner: FineTuner, core: Diffusion, n: int) -> tuple[dict[str, Any], EstimatedOptimum | None]:
    """From n paths each of the reference and of the policy with ``core``, by noise of their own.

    Returns:
        Figures by name, an estimate as its value and standard error; and the optimum. Without a reward, without β or under
        conditions drawn at random (each has an optimum of its own) there is no one optimum, and nothing is said of it.
    """
    import torch

    from unidiff.rl import Policy, estimated_optimum, path_kl, walk
    from unidiff.worlds.estimate import monte_carlo

    if n == 0:
        return {}, None
    mdp, like, config = tuner.policy.mdp, tuner.policy.like, tuner.config
    generator = torch.Generator(like.device).manual_seed((config.seed + 2**62) % 2**63)
    labels = config.condition
    condition = torch.tensor(labels, device=like.device) if isinstance(labels, int) else None
    if labels == "random" or tuner.learner.condition is not None:
        return {}, None
    law = Policy(mdp, core).law
    told: dict[str, Any] = {"generator": generator, "condition": condition, "like": like}
    found = walk(mdp, n, policy=law, **told)
    figures: dict[str, Any] = {"kl_to_reference": _pair(monte_carlo(found.kl))}
    if mdp.reward is None:
        return figures, None
    figures["reward"] = _pair(monte_carlo(found.reward))
    if not mdp.beta > 0:
        return figures | {"reference_reward": _pair(monte_carlo(walk(mdp, n, **told).reward))}, None
    best = estimated_optimum(mdp, n, **told)
    figures |= {"reference_reward": _pair(best.reference_reward), "optimum_reward": _pair(best.reward)}
    at, low, high = (figures[name]["value"] for name in ("reward", "reference_reward", "optimum_reward"))
    if high > low:
        figures["share_gained"] = round((at - low) / (high - low), 4)
    figures["kl_of_optimum_to_reference"] = _pair(best.kl)
    figures["kl_to_optimum"] = _pair(path_kl(mdp, law, best.log_z, n, **told))
    return figures | {"effective_draws": round(float(best.ess), 1)}, best


def _pair(found: Estimate) -> dict[str, float]:
    return {"value": float(found.value), "standard_error": float(found.standard_error)}
