r"""A reward learned from preferences, by maximum likelihood under Bradley and Terry's law.

    min_r −E log σ(r(winner) − r(loser))      (Christiano et al. 2017, eq. 1; Ouyang et al. 2022, eq. 1)

The likelihood sees differences alone, so r is learned up to a constant, which is set by the mean of r over the data learned
from being zero. Its scale needs no setting: one unit of r is one nat of log-odds, whatever the units and the temperature of
the reward that made the preferences.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from unidiff.core.boundary import check_type
from unidiff.rl.heads.fitting import ROWS, Fit, FitConfig, OnStep, fit
from unidiff.rl.heads.trunk import Trunk
from unidiff.rl.preferences import Preferences, log_preference


class RewardModel(nn.Module):
    """``model(x0 [B, *E]) -> [B]``, in x0's dtype; a reward like any other, differentiable in x0.

    Args:
        event_shape: ``(D,)``, or ``(C, S, S)`` of square images.
        width: units of a hidden layer; channels of the first convolution.
        depth: how many hidden layers.

    Raises:
        ValueError: another event shape, a count below 1, images too small to halve depth − 1 times.
    """

    def __init__(self, event_shape: Sequence[int], width: int = 64, depth: int = 2) -> None:
        super().__init__()
        self.trunk = Trunk(event_shape, 1, width, depth)
        self._config = {"event_shape": list(self.trunk.event_shape), "width": width, "depth": depth}

    def config(self) -> dict[str, Any]:
        """JSON-ready; ``RewardModel(**config)`` makes it again, with new parameters."""
        return dict(self._config)

    def forward(self, x: Tensor) -> Tensor:
        """r at ``x`` ``[B, *E]``, ``[B]``, in nats of log-odds.

        Raises:
            TypeError: x is no floating-point tensor.
            ValueError: x of another shape, not finite (looked at on the CPU only), or on another device.
        """
        return self.trunk.answer(x)[:, 0]

    @torch.no_grad()
    def centre(self, x: Tensor) -> None:
        """Take the mean over ``x`` ``[N, *E]`` off r. Raises as :meth:`forward`."""
        mean = torch.cat([self(part).to(torch.float64) for part in x.split(ROWS)]).mean()
        self.trunk.last.bias.sub_(mean)


def fit_reward_model(
    preferences: Preferences, config: FitConfig | None = None, on_step: OnStep | None = None
) -> Fit[RewardModel]:
    """The reward model that makes the preferences likely, in their dtype.

    The model is of x_0 alone: a condition of the preferences is not used, and pairs of all classes are fitted together.

    Args:
        preferences: P ≥ 2 pairs; pairs that share a datum leak from the learned to the held-out part.
        config: how; None for the defaults.
        on_step: told ``(done, all)`` after each step.

    Raises:
        TypeError: no preferences, no configuration, an on_step that cannot be called.
        ValueError: too few pairs to hold any out; data that are neither flat nor square images.
        FloatingPointError: the held-out loss is not finite.
    """
    check_type("preferences", preferences, Preferences)
    config = FitConfig() if config is None else config
    check_type("config", config, FitConfig)

    def make() -> RewardModel:
        return RewardModel(preferences.event_shape, config.width, config.depth).to(preferences.winner.dtype)

    found, seen = fit(make, _judge, (preferences.winner, preferences.loser), config, on_step)
    found.model.centre(torch.cat(seen))
    return found


def _judge(model: RewardModel, winner: Tensor, loser: Tensor) -> tuple[Tensor, Tensor]:
    r_winner, r_loser = model.trunk(torch.cat([winner, loser]))[:, 0].chunk(2)
    margin = r_winner - r_loser
    return -log_preference(margin), 0.5 * (1 + margin.sign())
