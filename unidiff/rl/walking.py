r"""A policy's walk by its own word alone, the reference asked afterwards, of all the states at once.

The policy's step is a kernel of its own,

    μ_ref + σ (u + ξ) = μ_θ + σ ξ,   μ_θ = a x + b x̂_θ,

so as long as σ is no word of the reference's network, a chain can be walked without the reference; what it would have said
of every state, and with it u = b (x̂_θ − x̂_ref)/σ and the action u + ξ, is found in a few large batches.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unidiff.core.chain import ReverseChain
from unidiff.core.ladder import embed_steps
from unidiff.rl.mdp import State, checked, guess_at
from unidiff.rl.policy import Policy, Walk, check_control

MOST_ASKED = 2**13
"""How many numbers of x the reference is asked of at once, a step of all chains at least."""


def walk_ahead(policy: Policy, state: State, generator: torch.Generator | None) -> Walk:
    """The walk from ``state``, all chains at t_N; arguments are trusted.

    Raises:
        TypeError, ValueError, FloatingPointError: of a reward; a control that is not finite, with the step.
    """
    mdp, x = policy.mdp, state.x
    chain = mdp.chain.beside(x)
    denoiser, levels = policy.core.denoiser, chain.levels.to(x)
    known = embed_steps(chain, x, denoiser)
    states, guesses, noises, stds = [], [], [], []
    for k in range(chain.steps, mdp.last - 1, -1):
        told = () if known is None else (known[k - 1 : k],)
        own = denoiser(x, levels[k], state.condition, mdp.guidance, *told).x0
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        std = (0.5 * chain.log_var(x, k, levels[k], None)).exp()
        states.append(x)
        guesses.append(own)
        noises.append(noise)
        stds.append(std.expand_as(x))
        x = torch.addcmul(chain.mean(x, k, own), std, noise)
    k = torch.arange(chain.steps, mdp.last - 1, -1, device=x.device)
    visited, own, noise, std = (torch.stack(column) for column in (states, guesses, noises, stds))
    reference = asked(chain, visited, k, state.condition, mdp.guidance)
    control = policy.departure(own - reference, std, k)
    check_control(control, chain.steps)
    paid = torch.zeros(visited.shape[:2], dtype=x.dtype, device=x.device)
    times = chain.grid.times
    if mdp.step_reward is not None:
        for h, (before, after) in enumerate(zip(states, [*states[1:], x], strict=True)):
            t, s = float(times[chain.steps - h]), float(times[chain.steps - h - 1])
            paid[h] = checked("step_reward", mdp.step_reward(before, after, t, s), x)
    x = mdp.data(State(x, mdp.last - 1, state.condition))
    if mdp.reward is not None:
        paid[-1] += checked("reward", mdp.reward(x), x)
    return Walk(visited, k, reference, std, control + noise, control, paid, x, state.condition)


def asked(chain: ReverseChain, x: Tensor, k: Tensor, condition: Tensor | None, guidance: float) -> Tensor:
    """x̂_ref of states ``[H, n, *E]`` at steps k ``[H]``, ``[H, n, *E]``."""
    n = x.shape[1]
    found = []
    for some, at in zip(*(v.split(max(1, MOST_ASKED // x[0].numel())) for v in (x, k)), strict=True):
        labels = None if condition is None else condition.repeat(len(some))
        found.append(guess_at(chain, some.flatten(0, 1), at.repeat_interleave(n), labels, guidance).x0.view_as(some))
    return torch.cat(found)
