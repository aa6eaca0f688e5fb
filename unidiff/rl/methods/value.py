r"""The soft value of a state, learned: V(x_t, t) ≈ E_π[what is still to be earned | x_t].

It reads x_t, what the reference makes of it, x̂_ref, and λ: a reward of the data is nearly a function of x̂_ref.

Advantages are the exponentially weighted sum of one-step errors (Schulman et al. 2016, eq. 16), without discount,

    δ_h = c_h + V_{h+1} − V_h,   A_h = δ_h + ℓ A_{h+1},   V_H = 0,

c_h what decision h earned; the targets of V are A + V. ℓ = 1 is V as a mere baseline.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unidiff.core.networks import NoiseFeatures
from unidiff.rl.policy import Decisions, Policy


class Value(nn.Module):
    """V of a row, zero at first.

    Args:
        dim: D.
        width: units of a hidden layer.
        depth: hidden layers.
        num_classes: of the condition; None for none.
    """

    def __init__(self, dim: int, width: int = 128, depth: int = 2, num_classes: int | None = None) -> None:
        super().__init__()
        features = NoiseFeatures()
        self.noise = nn.Sequential(features, nn.Linear(features.width, width))
        self.classes = None if num_classes is None else nn.Embedding(num_classes + 1, width)
        self.first = nn.Linear(2 * dim, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
        self.last = nn.Linear(width, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, guess: Tensor, log_snr: Tensor, condition: Tensor | None = None) -> Tensor:
        """V ``[R]`` of x and x̂_ref ``[R, *E]`` at λ ``[R]``."""
        bias = self.noise(log_snr.clamp(-30, 30))
        if self.classes is not None and condition is not None:
            bias = bias + self.classes(condition)
        h = F.silu(self.first(torch.cat([x.flatten(1), guess.flatten(1)], 1)) + bias)
        for layer in self.hidden:
            h = h + F.silu(layer(h))
        return self.last(h)[:, 0]


def value_of(module: Value, policy: Policy, at: Decisions) -> Tensor:
    """V of each row, ``[R]``."""
    levels = policy.mdp.chain.beside(at.x).levels
    return module(at.x, at.guess, levels.log_snr[at.k].to(at.x), at.condition)


def advantages(earned: Tensor, value: Tensor, decay: float) -> Tensor:
    """A ``[H, B]`` from c and V ``[H, B]``, the first decision first; ``decay`` is ℓ."""
    after = torch.cat([value[1:], torch.zeros_like(value[:1])])
    error = earned + after - value
    found = torch.empty_like(error)
    ahead = torch.zeros_like(error[0])
    for h in range(len(error) - 1, -1, -1):
        ahead = error[h] + decay * ahead
        found[h] = ahead
    return found
