r"""Finding the step size during warm-up: dual averaging to a target acceptance (Hoffman & Gelman 2014, eq. 6, alg. 5).

With a_m the mean acceptance probability of all chains at warm-up step m and a* the target,

    H̄_m = (1 − 1/(m + m_0)) H̄_{m−1} + (a* − a_m)/(m + m_0)
    log ε_{m+1} = μ − (√m/γ) H̄_m,                       μ = log 10ε_1
    log ε̄_{m+1} = m^{−κ} log ε_{m+1} + (1 − m^{−κ}) log ε̄_m

at their γ = 0.05, m_0 = 10, κ = 0.75; ε̄ is what the chains keep. One step size for the batch: a step size of each
chain's own would end in a mixture of kernels, each tuned to where its chain happened to be. The registers are tensors on the
chains' device, in float64: no step of the warm-up waits for the host.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from unidiff.core.boundary import check_positive, check_real

GAMMA, DELAY, KAPPA = 0.05, 10.0, 0.75


def check_acceptance(value: float) -> float:
    """``value`` if it is an acceptance that can be aimed at, strictly between 0 and 1."""
    if not 0 < check_real("acceptance", value) < 1:
        raise ValueError(f"acceptance must lie strictly between 0 and 1, got {value}")
    return value


class DualAveraging:
    """The step size of a warm-up, one for all chains.

    Args:
        step_size: ε_1, where to begin; the search starts out towards ten times that.
        acceptance: a*, in (0, 1).
        like: a tensor of the chains' dtype and device.

    Raises:
        ValueError: a step size that is not positive, an acceptance outside (0, 1).
    """

    def __init__(self, step_size: float, acceptance: float, like: Tensor) -> None:
        check_positive("step_size", step_size)
        self.acceptance = check_acceptance(acceptance)
        self.center = math.log(10 * step_size)
        start = [0.0, 0.0, math.log(step_size), math.log(step_size)]
        values = torch.tensor(start, dtype=torch.float64, device=like.device)
        self.count, self.gap, self.log_step, self.log_average = values.unbind()
        self._like = like

    @property
    def registers(self) -> tuple[Tensor, ...]:
        """What :meth:`update` changes in place."""
        return self.count, self.gap, self.log_step, self.log_average

    @property
    def step_size(self) -> Tensor:
        """ε of the next step, ``[]``, in the chains' dtype."""
        return self.log_step.exp().to(self._like.dtype)

    def update(self, log_accept: Tensor) -> None:
        """Learn from a step's ``log_accept`` ``[B]``."""
        accept = log_accept.clamp(max=0).exp().mean().to(torch.float64)
        self.count.add_(1)
        self.gap.lerp_(self.acceptance - accept, 1 / (self.count + DELAY))
        self.log_step.copy_(self.center - self.count.sqrt() / GAMMA * self.gap)
        self.log_average.lerp_(self.log_step, self.count**-KAPPA)

    def result(self) -> float:
        """ε̄, read on the host."""
        return float(self.log_average.exp())
