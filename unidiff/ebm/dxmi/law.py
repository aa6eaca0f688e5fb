r"""DxMI's auxiliary law: the forward chain that π is compared with, whose velocities follow what π does.

    q̃(x_t|x_s) = N(α_{t|s} x_s, v_k I),   q(x_{0:N}) = q_0(x_0) Π q̃(x_{t_k}|x_{t_{k−1}})

With v_k = σ²_{t|s} it is the core's forward process. Whatever v, its marginals are those of a noising,

    q_k(x) = law of A_k x_0 + S_k ε,   A_k = α_{t_k},   S_k² = α_{t|s}² S_{k−1}² + v_k,

so a value V_k = −τ log q_k (IDENTITIES item 40) is an energy at the noise level (A_k, S_k). The joint KL of π from q is
least in v_k at the adaptive velocity (item 43; Yoon et al. 2024, section 3.2)

    v_k = E_π‖x_{t_k} − α_{t|s} x_{t_{k−1}}‖²/D.

The paper counts time from noise to data and has α_{t|s} = 1; here time is DESIGN's, and any schedule's.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from unidiff.core.boundary import right_expand, send
from unidiff.core.chain import ReverseChain
from unidiff.core.level import NoiseLevel


class AuxiliaryLaw(nn.Module):
    """q̃ on a chain's grid, with a variance for each step that may follow the chain.

    Args:
        chain: whose grid and schedule; the variances start as the forward process's own.

    Attributes:
        keep: α_{t|s} of each step, ``[N]``, float64.
        log_var: log v_k, ``[N]``, float64.
        start: α and σ at t_0, ``[2]``, float64.
    """

    keep: Tensor
    log_var: Tensor
    start: Tensor
    times: Tensor

    def __init__(self, chain: ReverseChain) -> None:
        super().__init__()
        levels, grid = chain.levels, chain.grid.times.detach()
        keep, log_var = chain.core.process.transition_coefficients(grid[:-1], grid[1:])
        self.register_buffer("keep", keep.detach().clone())
        self.register_buffer("log_var", log_var.detach().clone())
        self.register_buffer("start", torch.stack([levels.alpha[0], levels.sigma[0]]).detach().clone())
        self.register_buffer("times", grid.clone())

    @property
    def steps(self) -> int:
        """N."""
        return self.keep.shape[0]

    def levels(self) -> NoiseLevel:
        """(A_k, S_k) for k = 0 … N, float64 ``[N + 1]``, at the grid's times."""
        kept = torch.cat([torch.ones_like(self.keep[:1]), self.keep.cumprod(0)])
        share = torch.cat([torch.zeros_like(self.keep[:1]), (self.log_var.exp() / kept[1:].square()).cumsum(0)])
        alpha, sigma = self.start[0] * kept, kept * (self.start[1].square() + share).sqrt()
        return NoiseLevel(self.times, 2 * (alpha / sigma).log(), alpha, sigma)

    def cost(self, earlier: Tensor, later: Tensor, k: Tensor) -> Tensor:
        """−log q̃(later|earlier), ``[R]``, in nats, summed over the D numbers of a state; differentiable.

        Args:
            earlier, later: x_{t_{k−1}} and x_{t_k}, ``[R, *E]``.
            k: which step each row is, ``[R]`` in 1 … N, on the law's device.
        """
        log_var = send(self.log_var[k - 1], later)
        square = (later - right_expand(send(self.keep[k - 1], later), later) * earlier).flatten(1).square()
        return 0.5 * (square.sum(1) * (-log_var).exp() + square.shape[1] * (log_var + math.log(2 * math.pi)))

    @torch.no_grad()
    def adapt(self, states: Tensor, rate: float | Tensor) -> None:
        """v ← (1 − rate) v + rate·E‖x_{t_k} − α_{t|s} x_{t_{k−1}}‖²/D over walks ``[N + 1, B, *E]``, x_{t_0} first."""
        wide = self.keep.reshape(-1, *[1] * (states.ndim - 1)).to(states)
        moved = (states[1:] - wide * states[:-1]).flatten(1).square().mean(1)
        self.log_var.copy_(torch.lerp(self.log_var.exp(), moved.to(self.log_var), rate).log())
