"""What the view refuses, in a word that names the argument, its value and what was expected; nothing returns NaN."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import unidiff as ud
from tests.vae.conftest import exact, network, on_levels, seeded
from unidiff.vae import (
    ELBO,
    CategoricalDecoder,
    ContinuousDecoder,
    DiscretisedDecoder,
    HierarchicalVAE,
    Levels,
    dequantise,
    importance_of,
)
from unidiff.worlds import OracleDenoiser, library

MEASURES = ("elbo", "sampled_elbo", "iwae", "loss", "bits_per_dim")


def view(decoder: Any = None, **options: Any) -> HierarchicalVAE:
    return HierarchicalVAE(exact(library.mixture_2d()), decoder or ContinuousDecoder(), **options)


def measured(vae: HierarchicalVAE, measure: str, x0: Any, grid: Any) -> object:
    own = getattr(vae, measure)
    return own(x0, grid, 2) if measure == "iwae" else own(x0, grid)


@pytest.mark.parametrize("measure", MEASURES)
def test_every_measure_refuses_data_of_another_kind(measure: str, x0, grid) -> None:
    vae = view()
    for wrong, error, message in (
        (x0.tolist(), TypeError, "x0 must be a floating-point tensor, got list"),
        (x0.long(), TypeError, "x0 must be a floating-point tensor, got torch.int64"),
        (x0[0], ValueError, r"x0 must have shape \[B, 2\], got \[2\]"),
        (x0[:, :1], ValueError, r"x0 must have shape \[B, 2\], got \[8, 1\]"),
        (x0[:0], ValueError, r"x0 must hold at least one datum, got shape \[0, 2\]"),
        (x0.half(), ValueError, "x0 must be float32 or wider .* got torch.float16"),
        (torch.where(x0 == x0[3, 1], math.nan, x0), ValueError, "x0 must be finite; 1 of its 16 values"),
    ):
        with pytest.raises(error, match=message):
            measured(vae, measure, wrong, grid)
    with pytest.raises(ValueError, match="x0 must have the network's dtype, torch.float64, got torch.float32"):
        measured(HierarchicalVAE(network()), measure, x0.float(), grid)


@pytest.mark.parametrize("measure", MEASURES)
def test_every_measure_refuses_data_that_the_decoder_gives_no_likelihood(measure: str, grid) -> None:
    x0 = on_levels(6)
    for decoder in (DiscretisedDecoder, CategoricalDecoder):
        measured(view(decoder(Levels(9))), measure, x0, grid)
        with pytest.raises(ValueError, match=r"x0 must lie within .* 9 levels from -1 to 1, got values in \[-2, 2\]"):
            measured(view(decoder(Levels(9))), measure, 2 * x0, grid)
        with pytest.raises(ValueError, match="x0 must be on the decoder's levels, 8 levels from -1 to 1, got"):
            measured(view(decoder(Levels(8))), measure, x0, grid)


@pytest.mark.parametrize("measure", [*MEASURES, "decode", "chain"])
@pytest.mark.parametrize(
    ("first", "cut", "where"), [(0.0, -6.0, "t = 0 it is infinite"), (1e-3, -math.inf, "t = 1 it")]
)
def test_a_grid_whose_ends_cannot_be_counted_is_refused(measure: str, first: float, cut: float, where: str, x0) -> None:
    schedule = ud.Schedule.cosine(math.inf, cut)
    vae = HierarchicalVAE(ud.Diffusion(schedule, OracleDenoiser(library.mixture_2d())))
    grid = ud.TimeGrid.uniform(4, first)
    with pytest.raises(ValueError, match=f"grid must start and end where the SNR is positive and finite: at {where}"):
        vae.chain(grid) if measure == "chain" else measured(vae, measure, x0, grid)


@pytest.mark.parametrize("verb", [*MEASURES, "encode", "decode", "chain", "reconstruct", "interpolate"])
def test_a_grid_is_a_time_grid_of_a_step_at_least(verb: str, x0) -> None:
    vae, times = view(), [0.0, 1.0]
    calls = {
        "chain": lambda: vae.chain(times),  # pyright: ignore
        "reconstruct": lambda: vae.reconstruct(x0, times, 1),  # pyright: ignore
        "interpolate": lambda: vae.interpolate(x0, x0, times, 1, [0.5]),  # pyright: ignore
    }
    asked = calls.get(verb, lambda: measured(vae, verb, x0, times))
    with pytest.raises(TypeError, match="grid must be a TimeGrid, got list"):
        asked()
    with pytest.raises(ValueError, match="steps must be an integer of at least 1, got 0"):
        ud.TimeGrid.uniform(0)
    with pytest.raises(ValueError, match="times must hold at least two times"):
        ud.TimeGrid([1.0])


def test_noise_is_one_finite_draw_a_level(x0, grid) -> None:
    noise = torch.randn(5, 8, 2, generator=seeded(), dtype=x0.dtype)
    for verb in ("elbo", "encode"):
        own = getattr(view(), verb)
        own(x0, grid, noise=noise)
        for wrong, error, message in (
            (noise[:4], ValueError, r"noise must have shape \[5, 8, 2\], one draw a level, got \[4, 8, 2\]"),
            (noise.float(), ValueError, "x0 and noise must have one dtype, got torch.float64 and torch.float32"),
            (noise.tolist(), TypeError, "noise must be a floating-point tensor, got list"),
            (noise / 0, ValueError, "noise must be finite; 80 of its 80 values"),
        ):
            with pytest.raises(error, match=message):
                own(x0, grid, noise=wrong)


@pytest.mark.parametrize("rows", [0, -1, 2.5, True])
def test_rows_are_a_count(rows: Any, x0, grid) -> None:
    with pytest.raises(ValueError, match=f"rows must be an integer of at least 1, got {rows}"):
        view().elbo(x0, grid, rows=rows)
    with pytest.raises(ValueError, match=f"rows must be an integer of at least 1, got {rows}"):
        view().iwae(x0, grid, 2, rows=rows)
    with pytest.raises(ValueError, match=f"rows must be an integer of at least 1, got {rows}"):
        view().sampled_elbo(x0, grid, rows=rows)
    with pytest.raises(ValueError, match=f"rows must be an integer of at least 1, got {rows}"):
        view().continuous_elbo(x0, rows=rows)


def test_paths_are_a_count_and_groups_of_them_too(x0, grid) -> None:
    for k in (0, -1, 1.5):
        with pytest.raises(ValueError, match=f"k must be an integer of at least 1, got {k}"):
            view().iwae(x0, grid, k)  # pyright: ignore
        with pytest.raises(ValueError, match=f"k must be an integer of at least 1, got {k}"):
            view().iwae(x0, grid, 2).first(k)  # pyright: ignore
    with pytest.raises(ValueError, match="k must lie in 1 … 2, the number of paths, got 3"):
        view().iwae(x0, grid, 2).first(3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draws": 0}, "draws must be an integer of at least 1, got 0"),
        ({"repeats": 1}, "repeats must be an integer of at least 2, got 1"),
        ({"sampling": "stratifed"}, "unknown sampling 'stratifed'; did you mean 'stratified'"),
        ({"proposal": torch.ones(4)}, "proposal is for sampling 'importance' and needed there, got it given"),
        ({"sampling": "importance", "proposal": torch.ones(3)}, r"proposal must be \[4\] positive numbers"),
        ({"sampling": "importance", "proposal": torch.tensor([1.0, 0, 1, 1])}, "with 1 that are not positive"),
        ({"sampling": "importance", "proposal": torch.tensor([1.0, math.inf, 1, math.nan])}, "with 2 that are not"),
    ],
)
def test_the_sampled_bound_refuses_what_samples_nothing(options: dict[str, Any], message: str, x0, grid) -> None:
    with pytest.raises(ValueError, match=message):
        view().sampled_elbo(x0, grid, **options)


def test_the_continuous_bound_refuses_what_it_cannot_start_from(x0, grid) -> None:
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"first": -0.1}, r"first must lie in \[0, 1\]"),
        ({"first": 1.0}, "first must be earlier than 1, got 1.0"),
        ({"first": math.nan}, "first must not be NaN"),
        ({"measure": "tme"}, "unknown measure 'tme'; did you mean 'time'"),
        ({"sampling": "importance"}, "sampling must be independent, antithetic or stratified here"),
        ({"repeats": 1}, "repeats must be an integer of at least 2, got 1"),
    )
    for options, message in cases:
        with pytest.raises(ValueError, match=message):
            view().continuous_elbo(x0, **options)
    with pytest.raises(ValueError, match="first is for the continuous bound, got first = 0.5 with a grid"):
        view().loss(x0, grid, first=0.5)
    with pytest.raises(TypeError, match="proposal must be a tensor, got list"):
        view().sampled_elbo(x0, grid, sampling="importance", proposal=[1.0] * 4)  # pyright: ignore


def test_a_view_is_of_a_core_a_decoder_and_a_rule(x0, grid) -> None:
    core = exact(library.mixture_2d())
    for arguments, error, message in (
        ((3,), TypeError, "core must be a unidiff Diffusion, got int"),
        ((core, 256), TypeError, "decoder must be a decoder .* got int"),
        ((core, ContinuousDecoder), TypeError, "decoder must be a decoder .* got ContinuousDecoder"),
        ((core, ContinuousDecoder(), "posteror"), ValueError, "unknown variance 'posteror'; did you mean 'posterior'"),
    ):
        with pytest.raises(error, match=message):
            HierarchicalVAE(*arguments)  # pyright: ignore
    with pytest.raises(ValueError, match="variance 'learned' needs a denoiser built with learned_variance=True"):
        HierarchicalVAE(core, variance="learned").elbo(x0, grid)
    with pytest.raises(ValueError, match=r"x0_variance must have shape \[4\], got \[3\]"):
        HierarchicalVAE(core, variance="optimal", x0_variance=torch.ones(3)).elbo(x0, grid)
    with pytest.raises(ValueError, match="variance 'optimal' needs x0_variance"):
        HierarchicalVAE(network(), variance="optimal").elbo(x0, grid)


@pytest.mark.parametrize("decoder", [DiscretisedDecoder, CategoricalDecoder])
def test_a_decoders_levels_are_levels(decoder: Any) -> None:
    with pytest.raises(TypeError, match=r"levels must be Levels\(count, low, high\), got 256"):
        decoder(256)


def test_decoders_refuse_what_is_no_law() -> None:
    for wrong, message in (
        (lambda: Levels(1), "levels must be an integer of at least 2, got 1"),
        (lambda: Levels(4, 1.0, -1.0), "low must be below high, both finite, got 1.0 and -1.0"),
        (lambda: Levels(4, -math.inf, 1.0), "low must be below high, both finite"),
        (lambda: ContinuousDecoder("stat"), "unknown mean 'stat'; did you mean 'state'"),  # pyright: ignore
        (lambda: ContinuousDecoder(std=0.0), "std must be positive and finite, got 0.0"),
        (lambda: DiscretisedDecoder(std=math.nan), "std must be positive and finite, got nan"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()


def test_dequantising_refuses_what_is_on_no_level() -> None:
    x0 = on_levels(4)
    for wrong, error, message in (
        (x0 + 0.1, ValueError, "x0 must lie within the decoder's range|x0 must be on the decoder's levels"),
        (x0.long(), TypeError, "x0 must be a floating-point tensor"),
        (x0 / 0, ValueError, "x0 must be finite"),
    ):
        with pytest.raises(error, match=message):
            dequantise(wrong, Levels(9))
    with pytest.raises(TypeError, match="levels must be Levels"):
        dequantise(x0, 9)  # pyright: ignore


def test_the_verbs_refuse_places_and_shares_that_are_none(x0, grid) -> None:
    vae = view()
    for place in (5, -1, 1.0, True):
        for verb, argument in (("decode", "start"), ("reconstruct", "to")):
            own = getattr(vae, verb)
            with pytest.raises(
                ValueError, match=f"{argument} must be an index of the grid's times, 0 … 4, got {place}"
            ):
                own(x0, grid, place)
    for share, message in (
        ([], "S at least 1, got"),
        ([0.5, 1.5], r"share must be \[S\] numbers in \[0, 1\]"),
        ([math.nan], r"share must be \[S\] numbers in \[0, 1\]"),
        (0.5, "share must be a sequence of numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            vae.interpolate(x0, x0, grid, 2, share)  # pyright: ignore
    with pytest.raises(ValueError, match=r"x0 and other must have one shape, got \[8, 2\] and \[4, 2\]"):
        vae.interpolate(x0, x0[:4], grid, 2, [0.5])
    with pytest.raises(ValueError, match="n must be an integer of at least 1, got 0"):
        vae.prior(0)


def test_a_network_that_fails_is_named_and_nothing_comes_back(x0, grid) -> None:
    def broken(x: torch.Tensor, noise: torch.Tensor, condition: object) -> torch.Tensor:
        return torch.where(x > x.mean(), math.nan, x)

    core = ud.Diffusion(ud.Schedule.cosine(6.0, -6.0), ud.Denoiser(broken, (2,), "v"))
    for decoder in (ContinuousDecoder(), DiscretisedDecoder(Levels(9)), CategoricalDecoder(Levels(9))):
        vae, data = HierarchicalVAE(core, decoder), on_levels(8)
        for measure in MEASURES:
            with pytest.raises(FloatingPointError, match="the denoiser must be finite, got NaN or infinity in"):
                measured(vae, measure, data, grid)
        with pytest.raises(FloatingPointError, match="values are NaN or infinite: the network"):
            vae.decode(x0, grid)
    with pytest.raises(FloatingPointError, match="or data far outside"):
        view().elbo(1e200 * x0, grid)


def test_ledgers_that_are_not_alike_are_not_joined(x0, grid) -> None:
    own = view().elbo(x0, grid)
    joined = ELBO.joined([own, view().elbo(x0[:3], grid)])
    assert joined.total.shape == (11,)
    assert torch.equal(joined.total[:8], own.total)
    for parts in ([], [own, view().elbo(x0, ud.TimeGrid.uniform(3))]):
        with pytest.raises(ValueError, match="parts must be ledgers of one count of steps and one dimension, got"):
            ELBO.joined(parts)
    nothing = ELBO(torch.zeros(2), torch.zeros(3, 2), torch.zeros(2), 3)
    with pytest.raises(ValueError, match=r"proposal must be \[3\] positive numbers"):
        importance_of(nothing)
