r"""The work of a path, and the free energy that it costs at least (Jarzynski 1997, eq. 2; Sohl-Dickstein et al. 2015).

    W = −log w = log q(x_{t_0:1}|x_0) − log p_θ(x_0, x_{t_0:1}),   z ~ q(z|x_0)
    ⟨W⟩ = −ELBO ≥ F = −log p_θ(x_0),   ⟨W⟩ − F = KL(q(z|x_0) ‖ p_θ(z|x_0))

What is spent above F is dissipated: the VAE's gap. Paths are drawn from q by :func:`draw_ladder` and weighed by
:func:`path_weights`, both the core's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from unidiff.core.boundary import check_condition, check_count, check_floating, check_generator
from unidiff.core.chain import ReverseChain, Variance
from unidiff.core.decoders import ContinuousDecoder, Decoder
from unidiff.core.diffusion import Diffusion
from unidiff.core.grid import TimeGrid
from unidiff.core.ladder import Ladder, draw_ladder
from unidiff.core.trajectory import PathWeights, path_weights
from unidiff.core.weights import log_mean_exp

_BLOCK = 2**22  # numbers of a block of ladders


@dataclass(frozen=True, eq=False)
class Work:
    """W of K paths for each of B data, and its parts, in nats, each ``[K, B]``; their sum is ``total``.

    Attributes:
        prior: log q(x_{t_N}|x_0) − log N(x_{t_N}; 0, prior_std²).
        diffusion: the steps' log q(x_{k−1}|x_k, x_0) − log p_θ(x_{k−1}|x_k), summed.
        reconstruction: −log p(x_0|x_{t_0}).
    """

    prior: Tensor
    diffusion: Tensor
    reconstruction: Tensor

    @property
    def total(self) -> Tensor:
        """W, ``[K, B]``."""
        return self.prior + self.diffusion + self.reconstruction

    @property
    def mean(self) -> Tensor:
        """⟨W⟩ over a datum's paths, ``[B]``: −ELBO, estimated on the same paths."""
        return self.total.mean(0)

    @property
    def standard_error(self) -> Tensor:
        """Of :attr:`mean`, ``[B]``; infinite with one path, which says nothing of its spread."""
        total = self.total
        unknown = torch.full_like(total[0], math.inf)
        return unknown if len(total) == 1 else total.std(0) / math.sqrt(len(total))

    @property
    def dissipated(self) -> Tensor:
        """⟨W⟩ + log⟨e^{−W}⟩ on these paths, ``[B]``, never negative: what estimates KL(q(z|x_0) ‖ p_θ(z|x_0)), from below.

        With few paths, or heavy tails, e^{−W}'s mean is too small more often than not, and so is this.
        """
        total = self.total
        return (self.mean + log_mean_exp(-total, 0)).clamp(min=0)


@dataclass(frozen=True, eq=False)
class Paths:
    """What paths are drawn and weighed by. Arguments are checked once, when it is made.

    Attributes:
        chain: p_θ's steps.
        decoder: its last one.
        condition: labels, one for each datum; None for none.
        guidance: their weight.
    """

    chain: ReverseChain
    decoder: Decoder
    condition: Tensor | None
    guidance: float

    @staticmethod
    def of(
        core: Diffusion,
        grid: TimeGrid,
        variance: Variance = "posterior",
        decoder: Decoder | None = None,
        x0_variance: Tensor | None = None,
        condition: Tensor | None = None,
        guidance: float = 1.0,
    ) -> Paths:
        """The paths of a core on a grid.

        Raises:
            TypeError: grid is no TimeGrid, or decoder none of unidiff's kind.
            ValueError: the SNR is 0 or infinite at an end of the grid; and as :class:`unidiff.ReverseChain`.
        """
        if not isinstance(grid, TimeGrid):
            raise TypeError(f"grid must be a unidiff TimeGrid, got {type(grid).__name__}")
        decoder = ContinuousDecoder() if decoder is None else decoder
        if not isinstance(decoder, Decoder):
            raise TypeError(f"decoder must be a decoder of unidiff.core.decoders, got {type(decoder).__name__}")
        ends = core.schedule.log_snr(grid.times[[0, -1]]).detach()
        for name, value, t in zip(("start", "end"), ends.tolist(), grid.times[[0, -1]].tolist(), strict=True):
            if not math.isfinite(value):
                raise ValueError(
                    f"grid must {name} where the SNR is positive and finite, got a log-SNR of {value} at t = {t:g}; "
                    "a path there has no weight"
                )
        return Paths(core.chain(grid, variance, x0_variance), decoder, condition, guidance)

    def checked(self, x0: Tensor) -> Paths:
        """Itself with a label for each datum of ``x0``. Raises as :meth:`unidiff.Diffusion.check_batch` and the decoder."""
        condition = self.chain.core.check_batch("x0", x0, self.condition, self.guidance)
        self.decoder.check(x0)
        return Paths(self.chain, self.decoder, condition, self.guidance)

    def draw(self, x0: Tensor, generator: torch.Generator | None) -> Ladder:
        """A path of q(z|x_0) for each datum. Raises as :meth:`unidiff.Diffusion.check_batch`."""
        self.chain.core.check_batch("x0", x0)
        check_generator(generator, x0.device)
        return draw_ladder(self.chain.core.schedule, x0, self.chain.grid, generator)

    @torch.no_grad()
    def weigh(self, ladder: Ladder, times: int = 1) -> PathWeights:
        """log w of a ladder whose batch is ``times`` copies of the data's."""
        condition = None if self.condition is None else self.condition.repeat(times)
        return path_weights(self.chain, self.decoder, ladder, condition, self.guidance)

    @torch.no_grad()
    def model(self, n: int, like: Tensor, generator: torch.Generator | None) -> Ladder:
        """n paths of p_θ itself, from the prior to data, as ladders of the data that they end in.

        Raises:
            TypeError: like is no floating-point tensor.
            ValueError: n below 1; labels, not one or n of them; like in half precision, or not as the network is.
        """
        chain, core = self.chain, self.chain.core
        check_count("n", n)
        core.check_batch("like", check_floating("like", like).new_zeros((1, *core.event_shape)))
        check_generator(generator, like.device)
        classes = getattr(core.denoiser, "num_classes", None)
        condition = check_condition(self.condition, self.guidance, n, classes)
        x = core.prior(n, generator, like)
        states = [x]
        for k in range(chain.steps, 0, -1):
            level = chain.levels[k].to(x)
            guess = core.denoiser(x, level, condition, self.guidance)
            x = chain.kernel(x, k, guess).sample(generator, check=False)
            states.append(x)
        level = chain.levels[0].to(x)
        guess = core.denoiser(x, level, condition, self.guidance).x0 if self.decoder.asks else None
        return ladder_of(chain, self.decoder.sample(x, level, guess, generator), torch.stack(states[::-1]))


def ladder_of(chain: ReverseChain, x0: Tensor, states: Tensor) -> Ladder:
    """The ladder of data ``[B, *E]`` that has the states x_{t_0} … x_{t_N} ``[N + 1, B, *E]``."""
    levels = chain.levels
    alpha, sigma = (v.to(x0).reshape(-1, *[1] * x0.ndim) for v in (levels.alpha, levels.sigma))
    eps = (states - alpha * x0) / sigma
    delta = levels.log_snr.diff()
    keep, add = (v.to(x0).reshape(-1, *[1] * x0.ndim) for v in ((0.5 * delta).exp(), (-torch.expm1(delta)).sqrt()))
    return Ladder(x0, eps, (eps[:-1] - keep * eps[1:]) / add, levels)


def work(paths: Paths, x0: Tensor, count: int, generator: torch.Generator | None) -> Work:
    """W of ``count`` paths of each datum ``[B, *E]``, as many at a time as memory allows."""
    check_count("paths", count)
    paths = paths.checked(x0)
    most = max(1, _BLOCK // ((paths.chain.steps + 1) * x0.numel()))
    parts: list[tuple[Tensor, ...]] = []
    for start in range(0, count, most):
        times = min(most, count - start)
        ladder = paths.draw(x0.repeat(times, *[1] * (x0.ndim - 1)), generator)
        found = paths.weigh(ladder, times)
        each = (found.prior, found.steps.sum(0), found.decoder)
        parts.append(tuple(-v.reshape(times, len(x0)) for v in each))
    return Work(*(torch.cat(column) for column in zip(*parts, strict=True)))
