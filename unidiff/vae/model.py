r"""The core read as a hierarchical VAE: an encoder without parameters, and the reverse chain as its decoder.

    encoder   q(x_{t_0:1}|x_0)                              the forward process
    decoder   p(x_{t_N}) Π_k p_θ(x_{k−1}|x_k) p(x_0|x_{t_0})     the chain, and a likelihood for its last step

(Ho et al. 2020, section 2; Kingma et al. 2021, section 3). It is the same chain that the sampler walks.
"""

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
    check_positive,
    check_real,
    check_time,
)
from unidiff.core.chain import VARIANCES, ReverseChain, Variance
from unidiff.core.decoders import ContinuousDecoder, Decoder
from unidiff.core.diffusion import Diffusion
from unidiff.core.grid import TimeGrid
from unidiff.core.ladder import Ladder, draw_ladder
from unidiff.core.trajectory import end_law, path_weights, prior_law, reconstruction
from unidiff.vae.bound import ELBO, block_rows, check_grid, exact_elbo
from unidiff.vae.sampled import (
    SAMPLINGS,
    Measure,
    SampledELBO,
    Sampling,
    importance_of,
    sampled_integral,
    sampled_steps,
)
from unidiff.vae.weights import ImportanceWeights
from unidiff.worlds import Interval

_T = TypeVar("_T")
_PILOT = 64
"""Examples whose exact terms tell what to sample by importance."""


@dataclass(frozen=True, eq=False)
class HierarchicalVAE:
    """A core as a VAE with one latent for each time of a grid. It reads the core and changes nothing in it.

    Attributes:
        core: the diffusion core.
        decoder: p(x_0|x_{t_0}); :class:`~unidiff.core.decoders.ContinuousDecoder` by default, a density.
        variance: the rule of the chain's steps.
        x0_variance: for "optimal", a table of one grid (:class:`~unidiff.core.chain.ReverseChain`).
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
        check_name("variance", self.variance, VARIANCES)

    def chain(self, grid: TimeGrid) -> ReverseChain:
        """The decoder's steps on ``grid``. Raises ValueError for one whose ends have SNR 0 or infinite."""
        chain = self.core.chain(_times(grid), self.variance, self.x0_variance)
        check_grid(chain)
        return chain

    @torch.no_grad()
    def elbo(
        self,
        x0: Tensor,
        grid: TimeGrid,
        *,
        condition: Tensor | None = None,
        guidance: float = 1.0,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
        rows: int | None = None,
    ) -> ELBO:
        """Every term of the bound, each at one noised state, ``[N, B]``; exact in the terms, random in the states.

        Args:
            x0: data, ``[B, *E]``.
            grid: the times.
            condition, guidance: as :meth:`unidiff.Diffusion.predict`.
            generator: the source of the noise, on x0's device.
            noise: in its place ``[N + 1, B, *E]``: ε at t_0, …, t_N.
            rows: how many states the network is asked at once; None fits caches and a GPU's memory.

        Raises:
            TypeError, ValueError: x0, condition or guidance as :meth:`unidiff.Diffusion.check_batch`; data that the decoder
                gives no likelihood; a grid whose first or last SNR is 0 or infinite; noise of another shape, or not finite.
            FloatingPointError: the network's answer, or what follows from it, is NaN or infinite.
        """
        chain, condition = self._checked(x0, grid, condition, guidance, generator)
        ledger = exact_elbo(
            chain, x0, self.decoder, condition=condition, guidance=guidance, generator=generator, noise=noise, rows=rows
        )
        return _finite(ledger, ledger.total)

    @torch.no_grad()
    def sampled_elbo(
        self,
        x0: Tensor,
        grid: TimeGrid,
        *,
        draws: int = 4,
        repeats: int = 4,
        sampling: Sampling = "stratified",
        proposal: Tensor | None = None,
        condition: Tensor | None = None,
        guidance: float = 1.0,
        generator: torch.Generator | None = None,
        rows: int | None = None,
    ) -> SampledELBO:
        """The bound by ``repeats`` × ``draws`` of its N terms for each example, unbiased, with its standard error.

        Args:
            draws: terms of each example in one repeat.
            repeats: independent repeats, at least 2: they tell the error.
            sampling: "independent", "antithetic", "stratified" or "importance".
            proposal: for "importance", p ``[N]`` up to a factor; None takes the exact terms of the first 64 examples.
            x0, grid, condition, guidance, generator, rows: as :meth:`elbo`.

        Raises:
            TypeError, ValueError: as :meth:`elbo`; an unknown sampling, draws or rows below 1, repeats below 2, a proposal
                that is not ``[N]`` positive numbers.
        """
        chain, condition = self._checked(x0, grid, condition, guidance, generator)
        check_count("repeats", repeats, least=2)
        check_count("draws", draws)
        check_name("sampling", sampling, SAMPLINGS)
        _check_rows(rows)
        if sampling == "importance" and proposal is None:
            few = None if condition is None else condition[:_PILOT]
            pilot = self.elbo(x0[:_PILOT], grid, condition=few, guidance=guidance, generator=generator)
            proposal = importance_of(pilot)
        terms = sampled_steps(
            chain, x0, draws=draws, repeats=repeats, sampling=sampling, proposal=proposal, condition=condition,
            guidance=guidance, generator=generator, rows=rows,
        )  # fmt: skip
        return self._ledger(chain, x0, terms, condition, guidance, generator)

    @torch.no_grad()
    def continuous_elbo(
        self,
        x0: Tensor,
        *,
        first: float = 0.0,
        draws: int = 16,
        repeats: int = 4,
        sampling: Sampling = "stratified",
        measure: Measure = "log-snr",
        condition: Tensor | None = None,
        generator: torch.Generator | None = None,
        rows: int | None = None,
    ) -> SampledELBO:
        """The bound of infinitely many steps from ``first`` to 1 (Kingma et al. 2021, eq. 15), for the posterior variance.

        Args:
            first: t_0.
            sampling: "independent", "antithetic" or "stratified".
            measure: what is sampled evenly, "log-snr" or "time". The bound is the same; by "time" few draws carry it where λ
                is steep, and its standard error is then too small.
            x0, draws, repeats, condition, generator, rows: as :meth:`sampled_elbo`.

        Raises:
            TypeError, ValueError: as :meth:`sampled_elbo`.
        """
        chain, condition = self._continuous(x0, first, condition, generator)
        check_count("repeats", repeats, least=2)
        _check_rows(rows)
        terms = sampled_integral(
            self.core, x0, first, draws=draws, repeats=repeats, sampling=sampling, measure=measure, condition=condition,
            generator=generator, rows=rows,
        )  # fmt: skip
        return self._ledger(chain, x0, terms, condition, 1.0, generator)

    def loss(
        self,
        x0: Tensor,
        grid: TimeGrid | None = None,
        *,
        draws: int = 1,
        first: float = 0.0,
        condition: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """−ELBO of each example by a few terms, in nats, ``[B]``: something to minimise, in θ and in a learned schedule.

        Args:
            grid: its N steps, or None for the continuous bound from ``first``.
            x0, draws, condition, generator: as :meth:`sampled_elbo`.

        Raises:
            TypeError, ValueError: as :meth:`sampled_elbo`.
        """
        if grid is not None and first != 0.0:
            raise ValueError(f"first is for the continuous bound, got first = {first} with a grid")
        if grid is None:
            chain, condition = self._continuous(x0, first, condition, generator)
            terms = sampled_integral(
                self.core, x0, first, draws=draws, repeats=1, condition=condition, generator=generator
            )
        else:
            chain, condition = self._checked(x0, grid, condition, 1.0, generator)
            terms = sampled_steps(chain, x0, draws=draws, repeats=1, condition=condition, generator=generator)
        return -self._ledger(chain, x0, terms, condition, 1.0, generator).total

    def bits_per_dim(self, x0: Tensor, grid: TimeGrid, scale: float = 1.0, **options: object) -> Interval:
        """−:meth:`elbo` in bits for each number, with its 95% interval over examples; the options of :meth:`elbo`.

        Args:
            scale: the width in x of one unit of the raw data, where the decoder gives densities; ignored for probabilities.

        Raises:
            TypeError, ValueError: as :meth:`elbo`; fewer than two data, a scale that is not positive.
        """
        check_positive("scale", scale)
        self.core.check_batch("x0", x0, options.get("condition"))  # pyright: ignore
        if len(x0) < 2:
            raise ValueError(f"x0 must hold at least 2 data for an interval, got {len(x0)}")
        ledger = self.elbo(x0, grid, **options)  # pyright: ignore
        return ledger.bits_per_dim(1.0 if self.decoder.discrete else scale)

    # -- the VAE's own verbs ---------------------------------------------------------------------------------------

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
        return self.decoder.sample(x, level, _finite(guess, guess), generator)

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

    @torch.no_grad()
    def iwae(
        self,
        x0: Tensor,
        grid: TimeGrid,
        k: int,
        *,
        condition: Tensor | None = None,
        guidance: float = 1.0,
        generator: torch.Generator | None = None,
        rows: int | None = None,
    ) -> ImportanceWeights:
        """The weights of k paths of each datum, their bound L_k and their effective number.

        Raises:
            TypeError, ValueError: as :meth:`elbo`; k or rows below 1.
        """
        check_count("k", k)
        chain, condition = self._checked(x0, grid, condition, guidance, generator)
        rows = block_rows(x0) if rows is None else check_count("rows", rows)
        log_w = []
        for _ in range(k):
            ladder = draw_ladder(self.core.schedule, x0, grid, generator)
            found = path_weights(chain, self.decoder, ladder, condition, guidance, rows)
            log_w.append(found.total)
        return ImportanceWeights(_finite(torch.stack(log_w), torch.stack(log_w)), x0[0].numel())

    # ----------------------------------------------------------------------------------------------------------------

    def _checked(
        self,
        x0: Tensor,
        grid: TimeGrid,
        condition: Tensor | None,
        guidance: float,
        generator: torch.Generator | None,
    ) -> tuple[ReverseChain, Tensor | None]:
        condition = self._checked_data(x0, condition, guidance, generator)
        return self.chain(grid), condition

    def _continuous(
        self, x0: Tensor, first: float, condition: Tensor | None, generator: torch.Generator | None
    ) -> tuple[ReverseChain, Tensor | None]:
        """Of the continuous bound: its two ends as a chain, whatever the view's own rule."""
        condition = self._checked_data(x0, condition, 1.0, generator)
        chain = self.core.chain(_from(first))
        check_grid(chain)
        return chain, condition

    def _checked_data(
        self, x0: Tensor, condition: Tensor | None, guidance: float, generator: torch.Generator | None
    ) -> Tensor | None:
        condition = self.core.check_batch("x0", x0, condition, guidance)
        check_generator(generator, x0.device)
        self.decoder.check(x0)
        return condition

    def _ledger(
        self,
        chain: ReverseChain,
        x0: Tensor,
        terms: Tensor,
        condition: Tensor | None,
        guidance: float,
        generator: torch.Generator | None,
    ) -> SampledELBO:
        eps = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
        last = -reconstruction(chain, self.decoder, x0, eps, condition, guidance)
        ledger = SampledELBO(end_law(chain, x0).kl(prior_law(chain, x0)), terms, last, x0[0].numel())
        return _finite(ledger, ledger.total)


def _from(first: float) -> TimeGrid:
    if not float(check_time("first", check_real("first", first))) < 1.0:
        raise ValueError(f"first must be earlier than 1, got {first}")
    return TimeGrid([first, 1.0])


def _check_rows(rows: int | None) -> None:
    if rows is not None:
        check_count("rows", rows)


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


def _finite(answer: _T, values: Tensor) -> _T:
    """The answer, once what it holds has been looked at."""
    bad = int((~torch.isfinite(values.detach())).sum())
    if bad:
        raise FloatingPointError(
            f"{bad} of {values.numel()} values are NaN or infinite: the network, or data far outside"
        )
    return answer
