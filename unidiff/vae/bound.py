r"""The variational bound of a chain, term by term (Ho et al. 2020, eq. 5; Kingma et al. 2021, eq. 11):

    −log p_θ(x_0) ≤ KL(q(x_{t_N}|x_0) ‖ p(x_{t_N}))                              prior
                    + Σ_k E_q KL(q(x_{k−1}|x_k, x_0) ‖ p_θ(x_{k−1}|x_k))         diffusion
                    − E_q log p(x_0|x_{t_0})                                     reconstruction

Each term is an expectation over one noised state, so each has a draw of its own; the prior's is in closed form. Every
KL is taken between the kernels as :mod:`unidiff.core.ladder` centres them, whatever the variance rule.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from unidiff.core.boundary import check_count
from unidiff.core.chain import ReverseChain
from unidiff.core.decoders import Decoder
from unidiff.core.ladder import chain_rows, check_draws, embed_steps
from unidiff.core.trajectory import end_law, prior_law, reconstruction
from unidiff.worlds import Interval, bits_per_dim


@dataclass(frozen=True, eq=False)
class ELBO:
    """The ledger of −ELBO, in nats; each part is a cost, and their sum bounds −log p_θ(x_0) from above in expectation.

    Attributes:
        prior: KL(q(x_{t_N}|x_0) ‖ p(x_{t_N})), ``[B]``.
        diffusion: the KL of steps k = 1 … N, from the data up, ``[N, B]``.
        reconstruction: −log p(x_0|x_{t_0}), ``[B]``.
        dim: D, the numbers in a datum.
    """

    prior: Tensor
    diffusion: Tensor
    reconstruction: Tensor
    dim: int

    @property
    def total(self) -> Tensor:
        """The ELBO, log p_θ(x_0)'s lower bound, ``[B]``."""
        return -(self.prior + self.diffusion.sum(0) + self.reconstruction)

    def nats(self) -> Interval:
        """The mean ELBO of the batch. Raises ValueError for fewer than two examples."""
        return Interval.of(self.total)

    def bits_per_dim(self, scale: float = 1.0) -> Interval:
        """−ELBO in bits for each of the D numbers, and its 95% interval over examples.

        Args:
            scale: the width in x of one unit of the raw data, for a decoder that gives densities; 1 for probabilities.

        Raises:
            ValueError: fewer than two examples, a scale that is not positive.
        """
        return Interval.of(bits_per_dim(self.total, self.dim, scale))

    @staticmethod
    def joined(parts: list[ELBO]) -> ELBO:
        """One batch of several. Raises ValueError for none, and for ledgers of other steps or dimensions."""
        sizes = {(len(p.diffusion), p.dim) for p in parts}
        if len(sizes) != 1:
            raise ValueError(f"parts must be ledgers of one count of steps and one dimension, got {sorted(sizes)}")
        return ELBO(
            torch.cat([p.prior for p in parts]),
            torch.cat([p.diffusion for p in parts], 1),
            torch.cat([p.reconstruction for p in parts]),
            parts[0].dim,
        )


def check_grid(chain: ReverseChain) -> None:
    """Refuse a grid with an end that the bound cannot count: no noise at t_0, or no signal (or all of it) at t_N.

    Raises:
        ValueError: λ infinite at either end, with the end's time.
    """
    for i, what in ((0, "infinite"), (-1, "0 or infinite")):
        value = float(chain.levels.log_snr[i].detach())
        if not math.isfinite(value):
            raise ValueError(
                f"grid must start and end where the SNR is positive and finite: at t = {float(chain.grid.times[i]):g} it is "
                f"{what} (log-SNR {value}); start it later (TimeGrid.uniform(N, first=1e-3)), or cut the schedule"
            )


def exact_elbo(
    chain: ReverseChain,
    x0: Tensor,
    decoder: Decoder,
    *,
    condition: Tensor | None = None,
    guidance: float = 1.0,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    rows: int | None = None,
) -> ELBO:
    """All N terms at one noised state each, as many at a time as ``rows``; the arguments of :meth:`HierarchicalVAE.elbo`."""
    steps, batch = chain.steps, x0.shape[0]
    if noise is not None:
        check_draws(noise, x0, steps)
    rows = block_rows(x0, rows)
    # Where x0 is, and the levels embedded once: on a GPU nothing in the loop waits for it.
    beside, embedding, costs = chain.beside(x0), embed_steps(chain, x0), []
    for start in range(0, steps * batch, rows):
        index = torch.arange(start, min(start + rows, steps * batch), device=x0.device)
        k, member = 1 + index // batch, index % batch
        if noise is None:
            eps = torch.randn((len(index), *x0.shape[1:]), generator=generator, dtype=x0.dtype, device=x0.device)
        else:
            eps = noise[1:].flatten(0, 1)[start : start + rows]
        own = None if condition is None else condition[member]
        found = chain_rows(beside, x0.index_select(0, member), eps, k, own, guidance, embedding)
        costs.append(found.encoder.kl(found.decoder))
    first = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device) if noise is None else noise[0]
    return ELBO(
        end_law(chain, x0).kl(prior_law(chain, x0)),
        torch.cat(costs).reshape(steps, batch),
        -reconstruction(chain, decoder, x0, first, condition, guidance),
        x0[0].numel(),
    )


def block_rows(x0: Tensor, rows: int | None = None) -> int:
    """How many states the network is asked at once: ``rows``, checked, or as many as suit the device.

    These are 2²² numbers' worth on a GPU, 2¹⁸ on a CPU, where caches are small.
    """
    if rows is not None:
        return check_count("rows", rows)
    budget = 2**22 if x0.is_cuda else 2**18
    return max(1, min(4096, budget // x0[0].numel()))
