r"""The VAE's verbs and error bars: decoding is the chain's walk, draws have the law that is told, estimates their errors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from unidiff.core.decoders import CategoricalDecoder, ContinuousDecoder, Decoder, DiscretisedDecoder, Levels
from unidiff.core.ladder import draw_ladder
from unidiff.core.trajectory import path_weights
from unidiff.identities.case import Case
from unidiff.identities.chains import denoiser_kappa, grid_of
from unidiff.identities.decoding import level_of
from unidiff.identities.laws import Algebraic, MonteCarlo, Sides
from unidiff.identities.registry import register
from unidiff.vae import ELBO, HierarchicalVAE, ImportanceWeights, SampledELBO, dequantise, importance_of

_LEVELS = Levels(5)
_DRAWS = 8192


@register
class DecodeIsChain(Algebraic):
    """Decoding and reconstructing, against the chain's own kernels walked by hand on the same draws, and a last normal one.

    κ: the denoiser's, and the numbers' own size.
    """

    name = "decode-is-chain"
    statement = r"x_{k-1}\sim p_\theta(x_{k-1}|x_k),\ k=n,\dots,1,\quad x=\hat x_0(x_{t_0})+\tfrac{\sigma}{\alpha}\,\xi"
    views = ("core", "vae")
    source = "Ho et al. 2020, algorithm 2; Kingma et al. 2021, section 3.2"
    conditions = "any core; where data and noise are both heard"

    def applies(self, case: Case) -> bool:
        return not case.reaches_zero_snr

    def sides(self, case: Case) -> Iterable[Sides]:
        own = replace(case.heard, batch=4)
        grid, x0 = grid_of(own, 4), own.x0
        vae = HierarchicalVAE(own.core, variance="prior")
        for start in (grid.steps, 1):
            xt = own.process.marginal(x0, grid.times[start]).sample(own.generator("state")).detach()
            found = vae.decode(xt, grid, start, generator=own.generator("decode"))
            yield self._walked(own, xt, start, own.generator("decode"), found)
        found = vae.reconstruct(x0, grid, 2, generator=own.generator("there and back"))
        draws = own.generator("there and back")
        alpha, sigma = (v(grid.times[2]).detach().to(x0) for v in (own.schedule.alpha, own.schedule.sigma))
        xi = torch.randn(x0.shape, generator=draws, dtype=x0.dtype, device=x0.device)
        yield self._walked(own, alpha * x0 + sigma * xi, 2, draws, found)

    @staticmethod
    def _walked(own: Case, x: Tensor, start: int, draws: torch.Generator, found: Tensor) -> Sides:
        grid = grid_of(own, 4)
        chain, reach = own.core.chain(grid, "prior"), torch.ones_like(x)
        for k in range(start, 0, -1):
            law = chain.step(x, k)
            reach = reach + chain.table.on_x0[k - 1].to(x) * denoiser_kappa(
                own, x, own.schedule.level(grid.times[k], x)
            )
            xi = torch.randn(x.shape, generator=draws, dtype=x.dtype, device=x.device)
            x = (law.mean + law.log_var.exp().sqrt() * xi).detach()
        first = own.schedule.level(grid.times[0], x)
        xi = torch.randn(x.shape, generator=draws, dtype=x.dtype, device=x.device)
        due = own.core.predict(x, grid.times[0]).x0 + first.sigma / first.alpha * xi
        return Sides(found, due, (reach + denoiser_kappa(own, x, first) + x.abs() + due.abs()).detach())


@register
class PathsAreApart(Algebraic):
    """K paths of each datum, against K ladders drawn one after another and weighed. κ: the weights' parts."""

    name = "paths-are-apart"
    statement = r"L_K=\log\tfrac1K\sum_jw_j,\quad z_j\sim q(x_{t_0:1}|x_0)\ \text{in turn}"
    views = ("vae",)
    source = "Burda et al. 2016, eq. 8"
    conditions = "any core; where data and noise are both heard"

    def applies(self, case: Case) -> bool:
        return not case.reaches_zero_snr

    def sides(self, case: Case) -> Iterable[Sides]:
        own = replace(case.heard, batch=2)
        grid, draws = grid_of(own, 2), own.generator("in turn")
        found = HierarchicalVAE(own.core).iwae(own.x0, grid, 2, generator=own.generator("in turn"))
        chain = own.core.chain(grid)
        each = [
            path_weights(chain, ContinuousDecoder(), draw_ladder(own.schedule, own.x0, grid, draws)) for _ in range(2)
        ]
        size = torch.stack([w.prior.abs() + w.steps.abs().sum(0) + w.decoder.abs() for w in each]).detach()
        total = torch.stack([w.total for w in each]).detach()
        yield Sides(found.log_weights, total, 1 + size)
        shift = total.amax(0)
        yield Sides(found.bound, shift + (total - shift).exp().mean(0).log(), 1 + size.sum(0))


class _OfNumbers(Algebraic):
    """Of numbers alone: one world is enough."""

    views = ("vae",)
    subject = "schedule"

    def applies(self, case: Case) -> bool:
        return case.world_name.startswith("gaussian") or not case.exact


@register
class EffectivePaths(_OfNumbers):
    """Kish's count of paths against the shares of the weights; L_k of groups against means of the weights themselves.

    κ: the log-weights' size, which the exponentials carry.
    """

    name = "effective-paths"
    statement = r"\frac{(\sum_jw_j)^2}{\sum_jw_j^2}=\frac{1}{\sum_j\bar w_j^2},\quad \bar w=\mathrm{softmax}\log w"
    source = "Kish 1965; Burda et al. 2016, eq. 8"
    conditions = "any weights"

    def sides(self, case: Case) -> Iterable[Sides]:
        log_w = 2 * case.normal("weights", 12, 16)
        found, size = ImportanceWeights(log_w, 3), 1 + log_w.abs().sum(0)
        yield Sides(found.ess, 1 / torch.softmax(log_w, 0).square().sum(0), found.ess * size)
        for k in (1, 3, 12):
            yield Sides(found.first(k).exp(), log_w.exp().reshape(12 // k, k, -1).mean(1), log_w.exp().sum(0) * size)
        yield Sides(found.bound.exp(), log_w.exp().mean(0), log_w.exp().sum(0) * size)
        yield Sides(found.elbo, log_w.sum(0) / 12, size)


@register
class JackknifedBound(_OfNumbers):
    """The sampled ledger's error bars against the jackknife's, which leaves out one repeat at a time. κ: the sum's size."""

    name = "jackknifed-bound"
    statement = r"\frac{s^2}{R}=\frac{R-1}{R}\sum_r(\bar L_{(r)}-\bar L)^2"
    source = "Quenouille 1956; Efron & Stein 1981"
    conditions = "any repeats"

    def sides(self, case: Case) -> Iterable[Sides]:
        repeats = 3 + case.normal("repeats", 6, 8)
        zero = torch.zeros_like(repeats[0])
        found, size = SampledELBO(zero, repeats, zero, 2), repeats.abs().sum(0)
        count = len(repeats)
        without = (repeats.sum(0) - repeats) / (count - 1)
        error = ((count - 1) / count * (without - without.mean(0)).square().sum(0)).sqrt()
        yield Sides(found.diffusion_error, error, size)
        means = without.mean(1)
        error = ((count - 1) / count * (means - means.mean()).square().sum()).sqrt()
        yield Sides(torch.full_like(error, found.standard_error), error, size.mean())
        yield Sides(found.diffusion, repeats.sum(0) / count, size)


@register
class BestProposal(_OfNumbers):
    """The proposal of a ledger has the least second moment of L/p, that of Cauchy and Schwarz. κ: the moments."""

    name = "best-proposal"
    statement = r"\sum_k\frac{\mathrm{E}L_k^2}{p_k}=\left(\sum_k\sqrt{\mathrm{E}L_k^2}\right)^2"
    source = "Nichol & Dhariwal 2021, section 3.3; Kahn & Marshall 1953"
    conditions = "any ledger"

    def sides(self, case: Case) -> Iterable[Sides]:
        terms = case.normal("terms", 7, 9).square() * torch.arange(1, 8, device=case.device).to(case.x0)[:, None]
        zero = torch.zeros_like(terms[0])
        p = importance_of(ELBO(zero, terms, zero, 2)).to(terms)
        moments = terms.square().mean(1)
        least = moments.sqrt().sum().square()
        yield Sides((moments / p).sum(), least, least * len(p))


@register
class DecoderFactorises(_OfNumbers):
    """log p of a datum of six numbers is the sum of theirs, each alone. κ: the sum of their sizes, and of their logits."""

    name = "decoder-factorises"
    statement = r"\log p(x|x_{t_0})=\sum_{d\leq D}\log p(x_d|x_{t_0,d})"
    source = "Ho et al. 2020, eq. 13"
    conditions = "each decoder"

    def sides(self, case: Case) -> Iterable[Sides]:
        level = level_of(case, 0.4)
        index = (_LEVELS.count * case.uniform("levels", 8, 6)).long()
        x0, guess = _LEVELS.values(case.x0)[index], case.normal("guess", 8, 6)
        decoders: tuple[Decoder, ...] = (
            ContinuousDecoder(), DiscretisedDecoder(_LEVELS), DiscretisedDecoder(_LEVELS, "state", 0.3),
            CategoricalDecoder(_LEVELS),
        )  # fmt: skip
        for decoder in decoders:
            found = decoder.log_prob(x0, level.alpha * guess, level, guess)
            one = guess.flatten()[:, None]
            each = decoder.log_prob(x0.flatten()[:, None], level.alpha * one, level, one).reshape(8, 6)
            logit = (level.log_snr.exp() + 11) * (x0.abs() + guess.abs() + 1).square()
            yield Sides(found, each.sum(1), (each.abs() + logit).sum(1))


@register
class DecoderDraws(MonteCarlo):
    """How often a draw falls on each level, if neither rare nor sure, against what is told of it. Size: 1, of all of them.

    A continuous draw: its deviation's first two moments, in the units of s.
    """

    name = "decoder-draws"
    statement = r"\mathrm{E}\,1[x=v_k]=p(v_k|x_{t_0}),\quad \mathrm{E}(x-m)=0,\ \mathrm{E}(x-m)^2=s^2"
    views = ("vae",)
    source = "Ho et al. 2020, section 3.3; Kingma et al. 2021, eq. 11"
    conditions = "each decoder"
    subject = "schedule"

    def applies(self, case: Case) -> bool:
        return case.world_name.startswith("gaussian") or not case.exact

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        level, values, columns = level_of(case, 0.4), _LEVELS.values(case.x0), []
        decoders = DiscretisedDecoder(_LEVELS), DiscretisedDecoder(_LEVELS, "state", 0.3), CategoricalDecoder(_LEVELS)
        for place in (-0.3, 0.85):
            many = torch.full((_DRAWS, 1), place).to(case.x0)
            for decoder in decoders:
                drawn = decoder.sample(level.alpha * many, level, many, case.generator(f"{decoder} at {place}"))
                few = many[: len(values)]
                told = decoder.log_prob(values[:, None], level.alpha * few, level, few).exp()
                fell = (_LEVELS.index(drawn) == torch.arange(len(values), device=case.device)).to(told)
                columns.append((fell - told)[:, (told > 0.01) & (told < 0.99)])
            drawn = ContinuousDecoder(std=0.3).sample(many, level, many, case.generator(f"normal at {place}"))
            z = (drawn - many) / 0.3
            columns.append(torch.cat([z, z.square() - 1], 1))
        found = torch.cat(columns, 1)
        return found, torch.ones_like(found[0])


@register
class DequantisedCell(MonteCarlo):
    """A density's mean over a cell, by dequantised data, is the cell's probability. Size: the probability."""

    name = "dequantised-cell"
    statement = r"\mathrm{E}_u\,p(v_k+wu|x_{t_0})\,w=P(v_k|x_{t_0}),\quad u\sim\mathrm{U}[-\tfrac12,\tfrac12)"
    views = ("vae",)
    source = "Theis et al. 2016, eq. 4"
    conditions = "inner levels"
    subject = "schedule"

    def applies(self, case: Case) -> bool:
        return case.world_name.startswith("gaussian") or not case.exact

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        level = level_of(case, 0.4)
        inner = _LEVELS.values(case.x0)[1:-1]
        x0 = inner.expand(_DRAWS, -1)
        spread = dequantise(x0, _LEVELS, case.generator("cells"))
        mean = torch.full_like(inner, 0.3)
        one = mean[:, None]
        cell = DiscretisedDecoder(_LEVELS, std=0.4).log_prob(inner[:, None], one, level, one).exp()
        density = torch.distributions.Normal(0.3, 0.4).log_prob(spread).exp()
        return density * _LEVELS.width - cell, cell
