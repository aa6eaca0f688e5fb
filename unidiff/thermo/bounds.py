r"""Bounds on how uncertain a step back is (Sohl-Dickstein et al. 2015, eq. 25 and appendix A; IDENTITIES item 37), s < t:

    H(x_t|x_s) + H(x_s|x_0) − H(x_t|x_0) ≤ H(x_s|x_t) ≤ H(x_t|x_s)

The lower bound is the entropy of q(x_s|x_t, x_0): x_0 can only help. It is less than the truth by I(x_0; x_s) − I(x_0; x_t),
what the step forgets. The upper one is H(x_s|x_t) = H(x_t|x_s) + H(x_s) − H(x_t), and so holds only where the step raises
the entropy, H(x_t) ≥ H(x_s): a schedule that shrinks the data faster than it adds noise has none. Where the entropies are
estimates it is told only where the rise is five standard errors or more: told in error once in 3e6 by Monte Carlo.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from unidiff.core.process import ForwardProcess
from unidiff.core.schedule import Schedule
from unidiff.worlds import Estimate

_SURE = 5.0  # standard errors


@dataclass(frozen=True, eq=False)
class EntropyBounds:
    """H(x_s|x_t) between its bounds, in nats, each ``[]``.

    Attributes:
        lower: H(x_t|x_s) + H(x_s|x_0) − H(x_t|x_0).
        value: H(x_s|x_t), with how well it is known.
        upper: H(x_t|x_s); None where H(x_t) < H(x_s) and it bounds nothing, or where the rise is less than five standard
            errors and it may.
    """

    lower: Tensor
    value: Estimate
    upper: Tensor | None


def entropy_bounds(schedule: Schedule, dim: int, s: float, t: float, at_s: Estimate, at_t: Estimate) -> EntropyBounds:
    """The bounds from the entropies of x_s and x_t, independent estimates; times are trusted, the later's noise finite."""
    forward = noise_entropy(dim, 0.5 * ForwardProcess(schedule).transition_coefficients(s, t)[1].detach())
    log_sigma = [schedule.log_sigma(v).detach() for v in (s, t)]
    lower = forward + noise_entropy(dim, log_sigma[0]) - noise_entropy(dim, log_sigma[1])
    rise = at_t.value.to(forward) - at_s.value.to(forward)
    error = torch.hypot(at_s.standard_error.to(forward), at_t.standard_error.to(forward))
    value = Estimate(forward - rise, error, at_s.law)
    return EntropyBounds(lower, value, forward if bool(rise >= _SURE * error) else None)


def noise_entropy(dim: int, log_std: Tensor) -> Tensor:
    """D(log std + ½ log 2πe): the entropy of noise in D dimensions, in nats."""
    return dim * (log_std + 0.5 * (1.0 + math.log(2 * math.pi)))
