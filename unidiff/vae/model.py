r"""The core read as a hierarchical VAE: an encoder without parameters, and the reverse chain as its decoder.

    encoder   q(x_{t_0:1}|x_0)                              the forward process
    decoder   p(x_{t_N}) Π_k p_θ(x_{k−1}|x_k) p(x_0|x_{t_0})     the chain, and a likelihood for its last step

(Ho et al. 2020, section 2; Kingma et al. 2021, section 3). It is the same chain that the sampler walks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unidiff.core.boundary import (
    check_count,
    check_generator,
    check_name,
    check_positive,
    check_real,
    check_time,
)
from unidiff.core.chain import ReverseChain
from unidiff.core.grid import TimeGrid
from unidiff.core.ladder import draw_ladder
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
from unidiff.vae.verbs import Verbs, finite
from unidiff.vae.weights import ImportanceWeights
from unidiff.worlds import Interval

_PILOT = 64
"""Examples whose exact terms tell what to sample by importance."""


@dataclass(frozen=True, eq=False)
class HierarchicalVAE(Verbs):
    """A core as a VAE with one latent for each time of a grid. It reads the core and changes nothing in it.

    Attributes:
        core: the diffusion core.
        decoder: p(x_0|x_{t_0}); :class:`~unidiff.core.decoders.ContinuousDecoder` by default, a density.
        variance: the rule of the chain's steps.
        x0_variance: for "optimal", a table of one grid (:class:`~unidiff.core.chain.ReverseChain`).
    """

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
        return finite(ledger, ledger.total)

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
        if sampling == "importance" and proposal is None:
            few = None if condition is None else condition[:_PILOT]
            pilot = self.elbo(x0[:_PILOT], grid, condition=few, guidance=guidance, generator=generator, rows=rows)
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
        rows = block_rows(x0, rows)
        log_w = []
        for _ in range(k):
            ladder = draw_ladder(self.core.schedule, x0, grid, generator)
            found = path_weights(chain, self.decoder, ladder, condition, guidance, rows)
            log_w.append(found.total)
        return ImportanceWeights(finite(torch.stack(log_w), torch.stack(log_w)), x0[0].numel())

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
        return finite(ledger, ledger.total)


def _from(first: float) -> TimeGrid:
    if not float(check_time("first", check_real("first", first))) < 1.0:
        raise ValueError(f"first must be earlier than 1, got {first}")
    return TimeGrid([first, 1.0])
