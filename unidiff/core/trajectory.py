r"""The weight of a whole path: log w = log p_θ(x_0, x_{t_0:1}) − log q(x_{t_0:1}|x_0), for paths drawn from q.

    log w = log N(x_{t_N}; 0, prior_std²) − log q(x_{t_N}|x_0) + Σ_k log[p_θ(x_{k−1}|x_k)/q(x_{k−1}|x_k, x_0)]
            + log p(x_0|x_{t_0})

E_q[w|x_0] = p_θ(x_0): importance sampling to a statistician (Burda et al. 2016), Jarzynski's equality to a physicist, with
−log w the work of a path (Jarzynski 1997; Sohl-Dickstein et al. 2015). Both views read this one. A chain that runs from
its prior has the same ratio; there the path is p_θ's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unidiff.core.chain import ReverseChain
from unidiff.core.decoders import Decoder
from unidiff.core.gaussian import Gaussian
from unidiff.core.ladder import Ladder, Rows, chain_rows, embed_steps, row_blocks


@dataclass(frozen=True, eq=False)
class PathWeights:
    """log w of each path and its parts, in nats.

    Attributes:
        prior: log N(x_{t_N}) − log q(x_{t_N}|x_0), ``[B]``.
        steps: log p_θ/q of steps 1 … N, ``[N, B]``.
        decoder: log p(x_0|x_{t_0}), ``[B]``.
    """

    prior: Tensor
    steps: Tensor
    decoder: Tensor

    @property
    def total(self) -> Tensor:
        """log w, ``[B]``."""
        return self.prior + self.steps.sum(0) + self.decoder


def path_weights(
    chain: ReverseChain,
    decoder: Decoder,
    ladder: Ladder,
    condition: Tensor | None = None,
    guidance: float = 1.0,
    rows: int = 4096,
) -> PathWeights:
    """log w of the ladder's paths, the network asked for ``rows`` states at a time. Arguments are trusted."""
    steps = torch.empty(ladder.jumps.shape[:2], dtype=ladder.x0.dtype, device=ladder.x0.device).flatten()
    jumps, start = ladder.jumps.flatten(0, 1), 0
    beside, embedding = chain.beside(ladder.x0), embed_steps(chain, ladder.x0)
    for k, member, eps in row_blocks(ladder, rows):
        own = None if condition is None else condition[member]
        found = chain_rows(beside, ladder.x0.index_select(0, member), eps, k, own, guidance, embedding)
        steps[start : start + len(k)] = log_ratio(found, jumps[start : start + len(k)])
        start += len(k)
    return PathWeights(
        prior_ratio(chain, ladder),
        steps.reshape(ladder.jumps.shape[:2]),
        reconstruction(chain, decoder, ladder.x0, ladder.eps[0], condition, guidance),
    )


def log_ratio(rows: Rows, jumps: Tensor) -> Tensor:
    """log p_θ(x_{k−1}|x_k) − log q(x_{k−1}|x_k, x_0) at the state that ``jumps`` ξ ``[R, *E]`` lead to, ``[R]``."""
    arrived = rows.encoder.mean + rows.encoder.std * jumps
    return rows.decoder.log_prob(arrived) - rows.encoder.log_prob(arrived)


def prior_ratio(chain: ReverseChain, ladder: Ladder) -> Tensor:
    """log N(x_{t_N}; 0, prior_std²) − log q(x_{t_N}|x_0), ``[B]``."""
    x0, last = ladder.x0, ladder.levels[-1].to(ladder.x0)
    arrived = last.alpha * x0 + last.sigma * ladder.eps[-1]
    return prior_law(chain, x0).log_prob(arrived) - end_law(chain, x0).log_prob(arrived)


def prior_law(chain: ReverseChain, like: Tensor) -> Gaussian:
    """p(x_{t_N}) = N(0, prior_std²), one for each row of ``like``."""
    log_var = 2 * torch.as_tensor(chain.core.schedule.prior_std, dtype=torch.float64).log()
    return Gaussian(torch.zeros_like(like), log_var.to(like))


def end_law(chain: ReverseChain, x0: Tensor) -> Gaussian:
    """q(x_{t_N}|x_0)."""
    return chain.core.process.marginal(x0, chain.grid.times[-1])


def reconstruction(
    chain: ReverseChain,
    decoder: Decoder,
    x0: Tensor,
    eps: Tensor,
    condition: Tensor | None = None,
    guidance: float = 1.0,
) -> Tensor:
    """log p(x_0|x_{t_0}) at x_{t_0} = α x_0 + σ ε, ``[B]``."""
    level = chain.levels[0].to(x0)
    xt = level.alpha * x0 + level.sigma * eps
    guess = chain.core.denoiser(xt, level, condition, guidance).x0 if decoder.asks else None
    return decoder.log_prob(x0, xt, level, guess)
