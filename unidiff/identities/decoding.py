r"""Item 28: the last step's likelihoods are probabilities, and the right ones."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from unidiff.core.decoders import CategoricalDecoder, Decoder, DiscretisedDecoder, Levels
from unidiff.core.level import NoiseLevel
from unidiff.identities.case import Case
from unidiff.identities.laws import Algebraic, Sides
from unidiff.identities.registry import register
from unidiff.worlds import PointCloud

_COUNT = 33
"""Levels, from −1 to 1: 1/16 apart, which binary numbers hold exactly."""
_NODES = 24


def level_of(case: Case, spread: float) -> NoiseLevel:
    """The level at which σ/α is ``spread``, or the nearest that the schedule has."""
    target = -2 * torch.tensor(spread, dtype=torch.float64).log()
    low, high = case.log_snr_range
    exact = case.schedule.level_at(target.clamp(low, high).to(case.device))
    return NoiseLevel(*(v.detach().to(case.x0) for v in (exact.t, exact.log_snr, exact.alpha, exact.sigma)))


class _Decoding(Algebraic):
    """A decoder at states of a few levels' noise, for each of the levels as data."""

    def applies(self, case: Case) -> bool:
        return case.world_name.startswith("gaussian") or not case.exact

    @staticmethod
    def asked(case: Case, decoder: Decoder, spread: float) -> tuple[Tensor, Tensor, NoiseLevel, Tensor]:
        """log p of each level ``[B, n]``, the states ``[B, 1]``, their level, and the levels ``[n]``."""
        level = level_of(case, spread)
        place = 2.6 * case.uniform("decoding", case.batch, 1).to(case.dtype) - 1.3
        values = Levels(_COUNT).values(case.x0)
        x0 = values.repeat(case.batch)[:, None]
        at = place.repeat_interleave(_COUNT, 0)
        found = decoder.log_prob(x0, level.alpha * at, level, at).reshape(case.batch, _COUNT)
        return found, place, level, values


@register
class DecoderSums(_Decoding):
    """All the levels' probabilities, 1 in sum. κ: Σ p(1 + |log p|), each being e^{log p}."""

    name = "decoder-sums"
    statement = r"\sum_kp(v_k|x_{t_0})=1"
    views = ("vae",)
    source = "Ho et al. 2020, eq. 13; Kingma et al. 2021, eq. 11"
    conditions = "discretised and categorical decoders"
    subject = "schedule"

    def sides(self, case: Case) -> Iterable[Sides]:
        levels = Levels(_COUNT)
        decoders = (
            DiscretisedDecoder(levels), DiscretisedDecoder(levels, "state"), DiscretisedDecoder(levels, std=0.4),
            CategoricalDecoder(levels),
        )  # fmt: skip
        for decoder in decoders:
            for spread in (0.004, 0.05, 0.7):
                found = self.asked(case, decoder, spread)[0]
                p = found.exp()
                reach = torch.where(p > 0, p * (1 - found), 0.0).sum(1)
                yield Sides(p.sum(1), torch.ones_like(p[:, 0]), reach * (1 + 2.6 / spread))


@register
class DecoderCells(_Decoding):
    """A cell's log-probability against the density integrated over it by Gauss and Legendre; out to 30 deviations.

    κ: the density's log is ½z², z = (v − m)/s with its own rounding, in both.
    """

    name = "decoder-cells"
    statement = r"\log p(v_k|x_{t_0})=\log\int_{v_k-w/2}^{v_k+w/2}N(x;m,s^2)\,dx"
    views = ("vae",)
    source = "Ho et al. 2020, eq. 13"
    conditions = "inner levels of the discretised decoder"
    subject = "schedule"

    def sides(self, case: Case) -> Iterable[Sides]:
        from numpy.polynomial.legendre import leggauss

        width = Levels(_COUNT).width
        nodes, weights = (torch.from_numpy(v).to(case.x0) for v in leggauss(_NODES))
        for std in (0.03, 0.05, 0.4):
            found, place, _, values = self.asked(case, DiscretisedDecoder(Levels(_COUNT), std=std), 0.05)
            inner, found = values[1:-1], found[:, 1:-1]
            z = (inner[:, None] + 0.5 * width * nodes - place[..., None]) / std
            log_density = torch.distributions.Normal(0.0, 1.0).log_prob(z)
            right = torch.logsumexp(log_density + weights.log(), -1) + math.log(0.5 * width / std)
            reach = ((inner - place).abs() + 0.5 * width) / std
            near = reach < 30
            size = 1 + 0.5 * reach.square() + reach * 2.3 / std + std / width
            yield Sides(found[near], right[near], size[near])


@register
class DecoderBayes(_Decoding):
    """The categorical decoder against a world of the levels themselves, all as likely. κ: the logits, ½(x − v)²/s²."""

    name = "decoder-bayes"
    statement = r"p(v_k|x_{t_0})=\frac{q(x_{t_0}|v_k)}{\sum_jq(x_{t_0}|v_j)}"
    views = ("core", "vae")
    source = "Kingma et al. 2021, eq. 11"
    conditions = "the categorical decoder"
    subject = "schedule"

    def sides(self, case: Case) -> Iterable[Sides]:
        for spread in (0.02, 0.2, 0.7):
            found, place, level, values = self.asked(case, CategoricalDecoder(Levels(_COUNT)), spread)
            cloud = PointCloud(values[:, None])
            weights = cloud.posterior(level.alpha * place, level.alpha, level.sigma).log_weights
            ratio = level.alpha / level.sigma
            logit = 0.5 * (ratio * (values - place)).square()
            yield Sides(found, weights, 1 + logit + ratio.square() * (values - place).abs() * 2.3)
