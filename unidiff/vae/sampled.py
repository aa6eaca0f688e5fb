r"""The bound from a few of its terms, each example at its own, without bias (Kingma et al. 2021, eq. 14 and 15).

    Σ_k L_k = E_{k ~ p}[L_k/p_k]        N steps;        ½ ∫ γ'(t) ‖ε − ε̂‖² dt = E_u[...]        as N → ∞

Where u ~ U[0, 1) of an example falls decides the variance: independent; antithetic, u + i/B mod 1 along the batch
(their appendix I.1); stratified, one draw in each of equal parts of [0, 1) and antithetic within; or by importance, p_k
proportional to the root mean square of L_k (Nichol & Dhariwal 2021, section 3.3), stratified before p's quantile
function. Only repeats that share nothing tell the error of such dependent draws, so there are always several.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from unidiff.core.boundary import check_count, check_name
from unidiff.core.chain import ReverseChain
from unidiff.core.denoising import denoising_error
from unidiff.core.diffusion import Diffusion
from unidiff.core.ladder import chain_rows
from unidiff.core.times import antithetic_times
from unidiff.vae.bound import ELBO, block_rows
from unidiff.worlds import Interval, bits_per_dim

Sampling = Literal["independent", "antithetic", "stratified", "importance"]
SAMPLINGS: tuple[Sampling, ...] = get_args(Sampling)
Measure = Literal["time", "log-snr"]
MEASURES: tuple[Measure, ...] = get_args(Measure)


@dataclass(frozen=True, eq=False)
class SampledELBO:
    """The ledger of −ELBO with its diffusion part estimated, in nats.

    Attributes:
        prior: as :class:`~unidiff.vae.bound.ELBO`, ``[B]``.
        repeats: the diffusion part by each independent repeat, ``[R, B]``, R ≥ 2.
        reconstruction: as there, ``[B]``.
        dim: D, the numbers in a datum.
    """

    prior: Tensor
    repeats: Tensor
    reconstruction: Tensor
    dim: int

    @staticmethod
    def joined(parts: list[SampledELBO]) -> SampledELBO:
        """One batch of several. Raises ValueError for none, and for ledgers of other counts of repeats or dimensions."""
        sizes = {(len(p.repeats), p.dim) for p in parts}
        if len(sizes) != 1:
            raise ValueError(f"parts must be ledgers of one count of repeats and one dimension, got {sorted(sizes)}")
        columns = [torch.cat([getattr(p, name) for p in parts], -1) for name in ("prior", "repeats", "reconstruction")]
        return SampledELBO(*columns, dim=parts[0].dim)

    @property
    def diffusion(self) -> Tensor:
        """The estimate of Σ_k KL_k of each example, ``[B]``."""
        return self.repeats.mean(0)

    @property
    def diffusion_error(self) -> Tensor:
        """Its standard error given the data, ``[B]``."""
        return self.repeats.std(0) / math.sqrt(self.repeats.shape[0])

    @property
    def standard_error(self) -> float:
        """Of the batch mean's diffusion part given the data, in nats: what more draws would lower."""
        means = self.repeats.to(torch.float64).mean(1)
        return float(means.std()) / math.sqrt(len(means))

    @property
    def total(self) -> Tensor:
        """The estimate of the ELBO, ``[B]``."""
        return -(self.prior + self.diffusion + self.reconstruction)

    def nats(self) -> Interval:
        """The mean ELBO of the batch; its interval covers the choice of examples and of terms."""
        return Interval.of(self.total)

    def bits_per_dim(self, scale: float = 1.0) -> Interval:
        """As :meth:`unidiff.vae.bound.ELBO.bits_per_dim`."""
        return Interval.of(bits_per_dim(self.total, self.dim, scale))


def importance_of(ledger: ELBO) -> Tensor:
    """p ``[N]`` for sampling by importance: proportional to √(mean L_k²) over the ledger's examples, float64, on the host.

    Raises:
        ValueError: terms that are not finite, or all zero.
    """
    size = ledger.diffusion.detach().to("cpu", torch.float64).square().mean(1).sqrt()
    return _proposal(size, size.shape[0])


def sampled_steps(
    chain: ReverseChain,
    x0: Tensor,
    *,
    draws: int,
    repeats: int,
    sampling: Sampling = "stratified",
    proposal: Tensor | None = None,
    condition: Tensor | None = None,
    guidance: float = 1.0,
    generator: torch.Generator | None = None,
    rows: int | None = None,
) -> Tensor:
    """Σ_k KL_k of each example by ``draws`` of its N terms, ``[repeats, B]``; differentiable in θ.

    Raises:
        ValueError: an unknown sampling; draws below 1 or repeats below 1; a proposal without sampling "importance", or
            none with it, or one that is not ``[N]`` positive numbers.
    """
    check_name("sampling", sampling, SAMPLINGS)
    if (proposal is None) == (sampling == "importance"):
        raise ValueError(
            f"proposal is for sampling 'importance' and needed there, got it {'not ' * (proposal is None)}given"
        )
    u = _places(x0.shape[0], draws, repeats, sampling, generator)
    steps = chain.steps
    if proposal is None:
        k = 1 + (u * steps).long().clamp(max=steps - 1)
        weight = torch.full_like(u, steps)
    else:
        p = _proposal(proposal, steps)
        index = torch.searchsorted(p.cumsum(0), u, right=True).clamp(max=steps - 1)
        k, weight = 1 + index, 1 / p[index]
    parts = []
    for index, many, own in _blocks(x0, condition, u.numel(), rows):
        eps = torch.randn(many.shape, generator=generator, dtype=x0.dtype, device=x0.device)
        found = chain_rows(chain, many, eps, k.flatten()[index], own, guidance)
        parts.append(found.encoder.kl(found.decoder))
    return (weight.to(x0) * torch.cat(parts).reshape(weight.shape)).mean(1)


def sampled_integral(
    core: Diffusion,
    x0: Tensor,
    first: float,
    *,
    draws: int,
    repeats: int,
    sampling: Sampling = "stratified",
    measure: Measure = "log-snr",
    condition: Tensor | None = None,
    generator: torch.Generator | None = None,
    rows: int | None = None,
) -> Tensor:
    """½ ∫ γ'(t) ‖ε − ε̂‖² dt over [first, 1] of each example, ``[repeats, B]``; differentiable in θ and the schedule.

    Raises:
        ValueError: an unknown sampling or measure, or "importance", which is for steps; draws or repeats below 1.
    """
    check_name("sampling", sampling, SAMPLINGS)
    check_name("measure", measure, MEASURES)
    if sampling == "importance":
        raise ValueError(
            "sampling must be independent, antithetic or stratified here, got 'importance': choose a measure"
        )
    u = _places(x0.shape[0], draws, repeats, sampling, generator).flatten()
    schedule, parts = core.schedule, []
    high, low = schedule.log_snr(torch.tensor([first, 1.0], dtype=torch.float64)).unbind()
    for index, many, own in _blocks(x0, condition, u.numel(), rows):
        if measure == "time":
            t = first + (1 - first) * u[index]
            log_weight = torch.log(-0.5 * (1 - first) * schedule.log_snr_derivative(t))
        else:
            t = schedule.time((high + (low - high) * u[index]).detach())
            log_weight = torch.log(0.5 * (high - low).detach()).expand_as(t)
            if high.requires_grad:
                # t was drawn under this density, which stays as it is while a learned schedule moves.
                rate = -schedule.log_snr_derivative(t)
                log_weight = log_weight + rate.log() - rate.detach().log()
        parts.append(denoising_error(core, many, t, log_weight=log_weight, condition=own, generator=generator))
    return torch.cat(parts).reshape(repeats, draws, -1).mean(1)


def _blocks(
    x0: Tensor, condition: Tensor | None, count: int, rows: int | None
) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
    """``count`` terms, a whole batch after another, in even blocks of at most ``rows``: which, their data, their class.

    Left to choose, no batch is cut: whoever trains has made it as large as it is.
    """
    most = block_rows(x0, rows) if rows is not None else max(len(x0), block_rows(x0))
    size = math.ceil(count / math.ceil(count / most))
    for start in range(0, count, size):
        index = slice(start, min(start + size, count))
        member = torch.arange(index.start, index.stop, device=x0.device) % x0.shape[0]
        yield index, x0.index_select(0, member), None if condition is None else condition.index_select(0, member)


def _places(batch: int, draws: int, repeats: int, sampling: Sampling, generator: torch.Generator | None) -> Tensor:
    """u, ``[repeats, draws, B]`` in [0, 1), float64, on the host."""
    check_count("draws", draws)
    check_count("repeats", repeats)
    device = torch.device("cpu") if generator is None else generator.device
    if sampling == "independent":
        return torch.rand(repeats, draws, batch, generator=generator, dtype=torch.float64, device=device).cpu()
    rows = [antithetic_times(batch, generator, device=device) for _ in range(repeats * draws)]
    u = torch.stack(rows).reshape(repeats, draws, batch).cpu()
    if sampling == "antithetic":
        return u
    return (torch.arange(draws, dtype=torch.float64)[None, :, None] + u) / draws


def _proposal(weights: Tensor, steps: int) -> Tensor:
    if not isinstance(weights, Tensor):
        raise TypeError(f"proposal must be a tensor, got {type(weights).__name__}")
    weights = weights.detach().to("cpu", torch.float64)
    if weights.shape != (steps,) or not bool((torch.isfinite(weights) & (weights > 0)).all()):
        raise ValueError(
            f"proposal must be [{steps}] positive numbers, one for each step, got {list(weights.shape)} with "
            f"{int((~(torch.isfinite(weights) & (weights > 0))).sum())} that are not positive and finite"
        )
    return weights / weights.sum()
