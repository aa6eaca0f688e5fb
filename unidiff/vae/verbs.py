"""The verbs of the core as a VAE: a ladder from data, data from a level, and what lies between two data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from unidiff.core.boundary import (
    as_sequence,
    check_alike,
    check_count,
    check_floating,
    check_generator,
    check_name,
)
from unidiff.core.chain import RULES, ReverseChain, Variance
from unidiff.core.decoders import ContinuousDecoder, Decoder
from unidiff.core.diffusion import Diffusion
from unidiff.core.grid import TimeGrid
from unidiff.core.ladder import Ladder, draw_ladder
from unidiff.vae.bound import check_grid

_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class Verbs:
    """The encoder and the decoder at work; their bound is :class:`~unidiff.vae.HierarchicalVAE`'s.

    Attributes:
        core, decoder, variance, x0_variance: as there.
    """

    core: Diffusion
    decoder: Decoder = field(default_factory=ContinuousDecoder)
    variance: Variance = "posterior"
    x0_variance: Tensor | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.core, Diffusion):
            raise TypeError(f"core must be a unidiff Diffusion, got {type(self.core).__name__}")
        if isinstance(self.decoder, type) or not isinstance(self.decoder, Decoder):
            got = self.decoder if isinstance(self.decoder, type) else type(self.decoder)
            raise TypeError(f"decoder must be a decoder (unidiff.core.decoders), got {got.__name__}")
        check_name("variance", self.variance, RULES)

    def chain(self, grid: TimeGrid) -> ReverseChain:
        """The decoder's steps on ``grid``. Raises ValueError for one whose ends have SNR 0 or infinite."""
        chain = self.core.chain(_times(grid), self.variance, self.x0_variance)
        check_grid(chain)
        return chain

    def encode(
        self, x0: Tensor, grid: TimeGrid, generator: torch.Generator | None = None, noise: Tensor | None = None
    ) -> Ladder:
        """A draw of the whole ladder x_{t_0:1} given x_0; see :func:`unidiff.core.ladder.draw_ladder`."""
        self.core.check_batch("x0", x0)
        check_generator(generator, x0.device)
        return draw_ladder(self.core.schedule, x0, _times(grid), generator, noise)

    @torch.no_grad()
    def decode(
        self,
        xt: Tensor,
        grid: TimeGrid,
        start: int | None = None,
        *,
        condition: Tensor | None = None,
        guidance: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Data from x_{t_start}: the chain's steps start, …, 1, then a draw of p(x_0|x_{t_0}); ``[B, *E]``.

        Args:
            xt: states at t_start, ``[B, *E]``.
            start: an index of the grid in 0 … N; None is N.

        Raises:
            TypeError, ValueError: as :meth:`elbo`; start outside 0 … N.
            FloatingPointError: a state became NaN or infinite.
        """
        chain = self.chain(grid)
        condition = self.core.check_batch("xt", xt, condition, guidance)
        check_generator(generator, xt.device)
        x = xt
        for k in range(_place("start", start, grid), 0, -1):
            prediction = self.core.denoiser(x, chain.levels[k].to(x), condition, guidance)
            x = chain.kernel(x, k, prediction).sample(generator, check=False)
        level = chain.levels[0].to(x)
        guess = self.core.denoiser(x, level, condition, guidance).x0 if self.decoder.asks else x
        # Before the draw: a level is found by an index, and on a GPU one that is NaN ends the process.
        return self.decoder.sample(x, level, finite(guess, guess), generator)

    def reconstruct(
        self, x0: Tensor, grid: TimeGrid, to: int, *, generator: torch.Generator | None = None, **options: object
    ) -> Tensor:
        """x_0 encoded to x_{t_to} and decoded again, ``[B, *E]``; the options and errors of :meth:`decode`."""
        place = _place("to", to, grid)
        self.core.check_batch("x0", x0)
        check_generator(generator, x0.device)
        xt = self.core.process.marginal(x0, grid.times[place]).sample(generator)
        return self.decode(xt, grid, place, generator=generator, **options)  # pyright: ignore

    def interpolate(
        self,
        x0: Tensor,
        other: Tensor,
        grid: TimeGrid,
        to: int,
        share: Tensor | Sequence[float],
        *,
        condition: Tensor | None = None,
        generator: torch.Generator | None = None,
        **options: object,
    ) -> Tensor:
        """Between two data by way of x_{t_to} (Ho et al. 2020, section 4.4), ``[S, B, *E]``.

        Both are encoded with one noise, so that every mixture (1 − s)·x_t + s·x_t' has the noise of its level.

        Args:
            x0, other: the ends, ``[B, *E]``.
            share: s, ``[S]`` in [0, 1].
            condition: labels of each pair ``[B]``, or one for all.
            to, grid, options: as :meth:`reconstruct`.

        Raises:
            TypeError, ValueError: as :meth:`decode`; ends that are not alike; shares outside [0, 1].
        """
        place = _place("to", to, grid)
        shares = as_sequence("share", share)
        if not shares.numel() or not bool(((shares >= 0) & (shares <= 1)).all()):
            raise ValueError(f"share must be [S] numbers in [0, 1], S at least 1, got {shares.tolist()}")
        condition = self.core.check_batch("x0", x0, condition)
        self.core.check_batch("other", other)
        check_alike(x0=x0, other=other)
        check_generator(generator, x0.device)
        noise = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
        mixed = torch.stack([torch.lerp(x0, other, s) for s in shares.tolist()])
        law = self.core.process.marginal(mixed.flatten(0, 1), grid.times[place])
        xt = law.sample(noise=noise.repeat(len(shares), *[1] * (x0.ndim - 1)))
        labels = None if condition is None else condition.repeat(len(shares))
        ends = self.decode(xt, grid, place, condition=labels, generator=generator, **options)  # pyright: ignore
        return ends.reshape(mixed.shape)

    def prior(self, n: int, generator: torch.Generator | None = None, like: Tensor | None = None) -> Tensor:
        """n draws of p(x_{t_N}); see :meth:`unidiff.Diffusion.prior`."""
        if like is not None:
            check_floating("like", like)
        check_generator(generator, torch.device("cpu") if like is None else like.device)
        return self.core.prior(check_count("n", n), generator, like)


def _times(grid: TimeGrid) -> TimeGrid:
    if not isinstance(grid, TimeGrid):
        raise TypeError(f"grid must be a TimeGrid, got {type(grid).__name__}")
    return grid


def _place(argument: str, index: int | None, grid: TimeGrid) -> int:
    if index is None:
        return _times(grid).steps
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index <= _times(grid).steps:
        raise ValueError(f"{argument} must be an index of the grid's times, 0 … {grid.steps}, got {index!r}")
    return index


def finite(answer: _T, values: Tensor) -> _T:
    """The answer, once what it holds has been looked at."""
    bad = int((~torch.isfinite(values.detach())).sum())
    if bad:
        raise FloatingPointError(
            f"{bad} of {values.numel()} values are NaN or infinite: the network, or data far outside"
        )
    return answer
