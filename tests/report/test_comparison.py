"""Two sides over log-SNR: what holds is shown to hold by the registry's law, what does not is seen."""

from __future__ import annotations

import math

import pytest
import torch

import unidiff as ud
from unidiff.report import LOOKS, Cards, compare, look, shrinking, side_by_side

FEW = {"cosine": ud.Schedule.cosine(), "karras": ud.Schedule.karras()}


def by_posterior(case):
    return case.world.posterior(case.xt, case.level.alpha, case.level.sigma).mean


def by_score(case, slip=1.0):
    alpha, sigma = case.expand(case.level.alpha), case.expand(case.level.sigma)
    score = case.world.diffuse(case.level.alpha, case.level.sigma).score(case.xt)
    return (case.xt + slip * sigma**2 * score) / alpha


def size(case):
    return case.xt.abs().amax(1) / case.level.alpha


def test_tweedie_holds_on_every_schedule_in_both_dtypes() -> None:
    found = compare(by_posterior, by_score, size, views=("vae", "score"))
    assert found.holds
    assert 0 < found.worst < 1
    assert set(found.panels) >= {"linear", "cosine", "karras", "learned"}
    for row in found.panels.values():
        assert set(row) == {"float64", "float32"}
        for dtype, panel in row.items():
            assert panel.tolerance == 64 * torch.finfo(getattr(torch, dtype)).eps
            assert (panel.log_snr[1:] >= panel.log_snr[:-1]).all()


@pytest.mark.parametrize("slip", [1 + 1e-4, 0.5, -1.0])
def test_a_factor_that_is_off_leaves_the_band(slip) -> None:
    found = compare(by_posterior, lambda case: by_score(case, slip), size, views=("vae", "score"), schedules=FEW)
    assert not found.holds
    assert "violated" in repr(found)


@pytest.mark.parametrize("where", ["everywhere", "float32", "karras"])
def test_a_nan_is_a_violation(where) -> None:
    def side(case):
        here = where in ("everywhere", case.dtype_name, case.schedule_name)
        return by_score(case) * (math.nan if here else 1.0)

    found = compare(by_posterior, side, size, views=("vae", "score"), schedules=FEW)
    assert not found.holds
    assert "violated" in repr(found)
    found.figure()


def test_a_kappa_that_would_hide_anything_decides_nothing() -> None:
    def huge(case):
        return size(case) * 1e30

    found = compare(by_posterior, lambda case: 2 * by_score(case), huge, views=("vae", "score"), schedules=FEW)
    assert found.verdict == "inconclusive"
    assert not found.holds
    assert "undecided" in repr(found)


def test_equal_to_the_last_bit_is_counted_of_the_sides() -> None:
    found = compare(by_posterior, by_posterior, views=("vae", "score"), schedules=FEW)
    assert "100% of the draws agree" in repr(found)
    found = compare(by_posterior, lambda case: 1.5 * by_posterior(case), views=("vae", "score"), schedules=FEW)
    assert "agree" not in repr(found)


def test_without_kappa_the_larger_side_is_the_size() -> None:
    def half(case):
        return by_posterior(case) * (1 + 0.5 * 64 * case.eps)

    def twice(case):
        return by_posterior(case) * (1 + 2 * 64 * case.eps)

    for side, holds in ((half, True), (twice, False)):
        found = compare(side, by_posterior, views=("vae", "score"), schedules=FEW)
        assert found.holds is holds


def test_the_draws_are_the_seeds() -> None:
    one, same, other = (
        compare(by_posterior, by_score, size, views=("vae", "score"), schedules=FEW, seed=seed) for seed in (0, 0, 1)
    )
    assert one.worst == same.worst != other.worst


def test_it_is_drawn_with_a_panel_for_each_schedule() -> None:
    found = compare(by_posterior, by_score, size, views=("vae", "score"), schedules=FEW)
    shown = [axes.get_title() for axes in found.figure().axes if axes.get_visible()]
    assert shown == list(FEW)
    assert "<svg" in found._repr_html_()


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"left": lambda case: by_posterior(case)[:, :1]}, ValueError, r"one shape, got \[64, 1\] and \[64, 2\]"),
        (
            {"left": lambda case: by_posterior(case)[:3], "right": lambda case: by_posterior(case)[:3]},
            ValueError,
            r"\[64",
        ),
        ({"left": lambda case: 1.0}, TypeError, "left"),
        ({"views": ("vae", "scores")}, ValueError, "unknown view 'scores'"),
        ({"schedules": {"mine": 3}}, TypeError, "mine"),
        ({"schedules": {}}, ValueError, "schedules must name at least one"),
        ({"views": ("vae",)}, ValueError, "views must be two"),
        ({"world": 3}, TypeError, "world must be a World, got 3"),
        ({"left": None}, TypeError, "left must be a function of a case, got None"),
        ({"kappa": lambda case: 1.0}, TypeError, "what kappa returns must be a Tensor"),
        ({"kappa": lambda case: size(case)[:3]}, ValueError, r"kappa must return numbers \[64"),
        ({"kappa": lambda case: size(case) * math.inf}, ValueError, "kappa must be finite"),
        ({"kappa": lambda case: size(case)[:, None].expand(-1, 3)}, ValueError, "3 numbers a member"),
        ({"left": lambda case: by_posterior(case) > 0}, TypeError, "what left returns must be float64"),
        ({"left": lambda case: by_posterior(case) * 1j}, TypeError, "complex128"),
        ({"left": lambda case: by_posterior(case)[:, :0]}, ValueError, r"got shape \[64, 0\]"),
    ],
)
def test_bad_arguments_are_named(change, error, match) -> None:
    given = {"left": by_posterior, "right": by_score, "views": ("vae", "score"), "schedules": FEW} | change
    left, right = given.pop("left"), given.pop("right")
    with pytest.raises(error, match=match):
        compare(left, right, **given)


@pytest.mark.statistical
def test_the_interval_covers_as_often_as_it_says() -> None:
    """2000 true means: the 99% interval misses 20 of them; more than 43 or fewer than 5 have probability below 1e-6 and
    2e-5 (binomial). A 95% interval, or one of twice the width, would be seen with probability above 0.999."""
    draws = torch.randn(2000, 400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    missed = sum(not shrinking(row, 0.0, views=("score", "vae")).holds for row in draws)
    assert 5 <= missed <= 43


def test_the_interval_shrinks_as_the_root() -> None:
    draws = torch.randn(100_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = shrinking(draws + 3, 3.0, views=("thermo", "score"), name="nats")
    at = {int(n): width for n, width in zip(found.n, found.half, strict=True)}
    last = max(at)
    thousand = min(at, key=lambda n: abs(n - 1000))
    # The spread of a thousand normal draws is within 12% of the true one but for one time in 10⁷.
    assert at[thousand] / at[last] == pytest.approx(math.sqrt(last / thousand), rel=0.12)
    assert found.holds
    assert not shrinking(draws + 3, 3.1, views=("thermo", "score")).holds
    assert "standard errors" in repr(found)
    assert "<svg" in found._repr_html_()


def test_draws_that_are_the_value_up_to_rounding_hold() -> None:
    found = shrinking(torch.full((100,), 0.1, dtype=torch.float64), 0.1, views=("score", "vae"))
    assert found.holds
    assert found.score == 0
    assert not shrinking(torch.full((100,), 0.1, dtype=torch.float64), 0.1 + 1e-12, views=("score", "vae")).holds


@pytest.mark.parametrize(
    ("draws", "value"), [([1.0] * 100, 0.0), (torch.zeros(100), torch.zeros(2)), (torch.zeros(100), None)]
)
def test_what_is_no_number_is_refused(draws, value) -> None:
    with pytest.raises(TypeError, match=r"draws must be a Tensor|value must be one number"):
        shrinking(draws, value, views=("score", "vae"))


@pytest.mark.parametrize(
    ("draws", "value", "match"),
    [
        (torch.zeros(10), 0.0, r"at least 64 numbers \[N\], got shape \[10\]"),
        (torch.zeros(100, 2), 0.0, r"got shape \[100, 2\]"),
        (torch.full((100,), math.nan), 0.0, "draws must be finite"),
        (torch.zeros(100), math.inf, "value must be finite"),
    ],
)
def test_draws_that_are_none_are_refused(draws, value, match) -> None:
    with pytest.raises(ValueError, match=match):
        shrinking(draws, value, views=("score", "vae"))


def test_formulas_stand_side_by_side_with_two_cues() -> None:
    shown = side_by_side({"score": r"\nabla \log q_t(x)", "ebm": r"-\nabla E(x, t)"})
    page = shown._repr_html_()
    assert page.count("class='equation'") == 2
    assert "solid #0072b2" in page
    assert "dotted #009e73" in page
    assert repr(shown) == "score: ∇ log qₜ(x)\nenergy: −∇E(x,t)"
    with pytest.raises(ValueError, match="at least two"):
        side_by_side({"score": "x"})
    with pytest.raises(ValueError, match="unknown view"):
        side_by_side({"score": "x", "energy": "y"})
    for bad in (r"\frac{", 1):
        with pytest.raises(ValueError, match="formulas must be LaTeX"):
            side_by_side({"score": "x", "ebm": bad})  # pyright: ignore[reportArgumentType]


def test_no_two_views_look_alike() -> None:
    assert set(LOOKS) == set(ud.identities.VIEWS)
    for cue in ("colour", "marker", "title"):
        assert len({getattr(own, cue) for own in LOOKS.values()}) == len(LOOKS)
    with pytest.raises(ValueError, match="unknown view 'sco'; .*score"):
        look("sco")


@pytest.mark.parametrize("view", list(LOOKS))
def test_a_views_ink_can_be_read_on_white(view) -> None:
    """WCAG 2.1's contrast, at least 4.5."""

    def linear(c: float) -> float:
        return c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4

    red, green, blue = (linear(int(LOOKS[view].ink[i : i + 2], 16) / 255) for i in (1, 3, 5))
    assert 1.05 / (0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05) >= 4.5


def test_cards_show_each_identity_once() -> None:
    report = ud.verify(ud.worlds.library.gaussian(), only=["tweedie", "elbo-term"], dtype="float64")
    shown = Cards(report)
    assert repr(shown).splitlines() == ["tweedie: pass in 1 check", "elbo-term: pass in 1 check"]
    page = shown._repr_html_()
    assert page.count("class='identity'") == 2
    assert '<svg class="math"' in page
