r"""A network of integer timesteps, read at any log-SNR.

A library with T timesteps n = 0 … T − 1 means by n the level ᾱ_{n+1} of the DDPM schedule, t = (n + 1)/T here: t = 0, the
data, has no timestep of its own. Between two timesteps log ᾱ is linear in n, as :meth:`unidiff.Schedule.from_betas` has it,
so that n(λ) + 1 is T times the inverse of λ(t); before the first the network is asked as at the first. A λ that is a
timestep's own, to the rounding of its dtype, is that integer exactly.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unidiff.core.boundary import check_type
from unidiff.core.schedule_kinds import FromBetas

MOST = 30.0
"""A denoiser clamps what its network is told to log-SNRs of ±30."""
_ROUNDINGS = 8


class TimestepNetwork(nn.Module):
    """``network(x, log_snr, condition)`` of a ``model(x, timestep, condition)``.

    Args:
        model: takes x ``[B, *E]``, timesteps ``[B]`` in x's dtype, whole at the schedule's nodes, and the condition.
        schedule: the T levels of its timesteps.

    Raises:
        TypeError: model is no module, or schedule not of that kind.
        ValueError: fewer than two timesteps, or a log-SNR beyond ±30 at one.
    """

    def __init__(self, model: nn.Module, schedule: FromBetas) -> None:
        super().__init__()
        check_type("model", model, nn.Module)
        check_type("schedule", schedule, FromBetas)
        if schedule.steps < 2:
            raise ValueError(f"schedule must have at least two timesteps, got {schedule.steps}")
        nodes = schedule.log_snr(torch.arange(1, schedule.steps + 1, dtype=torch.float64) / schedule.steps)
        if not bool((nodes.abs() <= MOST).all()):
            raise ValueError(
                f"schedule must have log-SNRs within ±{MOST:g} at its timesteps, "
                f"got {nodes[0].item():.4g} … {nodes[-1].item():.4g}"
            )
        self.model = model
        self._nodes: dict[torch.device, Tensor] = {
            nodes.device: nodes
        }  # no buffer, which a change of dtype would round

    def timestep(self, log_snr: Tensor) -> Tensor:
        """n(λ) for ``[K]`` of them, in their dtype, in [0, T − 1]."""
        nodes = self._on(log_snr.device)
        value = log_snr.to(torch.float64)
        knots, total = -F.logsigmoid(nodes), -F.logsigmoid(value)  # −log ᾱ, increasing
        right = torch.searchsorted(knots, total.contiguous()).clamp(1, len(knots) - 1)
        ahead = (total - knots[right - 1]) / (knots[right] - knots[right - 1])
        n = (right - 1 + ahead).clamp(0, len(knots) - 1)
        whole = n.round()
        node = nodes[whole.long()]
        same = (value - node).abs() <= _ROUNDINGS * torch.finfo(log_snr.dtype).eps * node.abs().clamp(min=1)
        return torch.where(same, whole, n).to(log_snr.dtype)

    def _on(self, device: torch.device) -> Tensor:
        if device not in self._nodes:
            self._nodes[device] = self._nodes[torch.device("cpu")].to(device)
        return self._nodes[device]

    def embed(self, log_snr: Tensor) -> Tensor:
        """The timesteps of these log-SNRs ``[K]``, as ``[K, 1]``: a sampler asks for all of its own at once."""
        return self.timestep(log_snr)[:, None]

    def body(self, x: Tensor, embedding: Tensor, condition: Tensor | None) -> Tensor:
        """The model at timesteps ``[B, 1]``, or ``[1, 1]`` for all."""
        return cast("Tensor", self.model(x, embedding[:, 0].to(x.dtype).expand(x.shape[0]), condition))

    def forward(self, x: Tensor, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """The model's answer at ``x`` ``[B, *E]`` and the log-SNRs ``noise`` ``[B]``, or one."""
        return self.body(x, self.embed(noise.reshape(-1)), condition)
