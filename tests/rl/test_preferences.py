"""Preferences: Bradley and Terry's law, the pairs' checks, and their file."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import unidiff as ud
from unidiff.rl import Preferences, PreferencesError, bradley_terry, draw_preferences, log_preference
from unidiff.worlds.rewards import Linear

WORLD = ud.worlds.library.mixture_2d()
FIRST = Linear(torch.tensor([1.0, 0.0], dtype=torch.float64))


def some(p: int = 5, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(p, 2, generator=torch.Generator().manual_seed(p), dtype=dtype)


def test_a_preference_and_its_opposite_are_certain_together_and_far_out_keep_their_logarithm() -> None:
    margin = torch.tensor([-1200.0, -3.0, 0.0, 0.4, 1200.0], dtype=torch.float64)
    log_p = log_preference(margin, 1.5)
    torch.testing.assert_close(log_p.exp() + log_preference(-margin, 1.5).exp(), torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(log_p - log_preference(-margin, 1.5), margin / 1.5)
    assert float(log_p[0]) == pytest.approx(-800) and float(log_p[2]) == pytest.approx(-math.log(2))


@pytest.mark.statistical
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_better_wins_as_often_as_bradley_and_terry_say(temperature) -> None:
    # One margin in each of four cases, 40 000 comparisons: |z| < 5, false alarm 6e-7 each. The standard error is 0.0025 at
    # most; a temperature that is not used, or a margin upside down, moves a frequency by more than 0.05, z of 20.
    n = 40_000
    for gap in (-1.0, 0.0, 0.7, 2.0):
        x_a, x_b = torch.tensor([[gap, 1.0]]).expand(n, 2), torch.zeros(n, 2)  # told apart by what is not paid
        pairs = bradley_terry(x_a, x_b, FIRST, torch.Generator().manual_seed(1), temperature)
        wins = int((pairs.winner == x_a).all(1).sum())
        p = 1 / (1 + math.exp(-gap / temperature))
        assert abs(wins - n * p) < 5 * math.sqrt(n * p * (1 - p))


def test_a_pair_keeps_its_two_data_and_its_condition() -> None:
    x_a, x_b, labels = some(50), some(51)[:50], torch.arange(50, dtype=torch.int32)
    pairs = bradley_terry(x_a, x_b, FIRST, torch.Generator().manual_seed(0), condition=labels)
    kept = (pairs.winner == x_a).all(1)
    assert 0 < int(kept.sum()) < 50
    torch.testing.assert_close(torch.where(kept[:, None], x_a, x_b), pairs.winner, rtol=0, atol=0)
    torch.testing.assert_close(torch.where(kept[:, None], x_b, x_a), pairs.loser, rtol=0, atol=0)
    assert pairs.condition is not None and pairs.condition.dtype == torch.int64
    assert torch.equal(pairs.condition, labels.long()) and len(pairs) == 50 and pairs.event_shape == (2,)


def test_images_are_compared_as_one_datum() -> None:
    x = torch.randn(12, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    pairs = bradley_terry(x[:6], x[6:], lambda v: v.flatten(1).sum(1), torch.Generator().manual_seed(0), 1e-6)
    assert bool((pairs.winner.flatten(1).sum(1) > pairs.loser.flatten(1).sum(1)).all())
    assert pairs.event_shape == (1, 3, 3)


def test_one_seed_draws_the_same_pairs_and_leaves_torch_alone() -> None:
    before = torch.get_rng_state()
    one, two, other = (draw_preferences(WORLD.sample, FIRST, 20, torch.Generator().manual_seed(s)) for s in (3, 3, 4))
    assert torch.equal(one.winner, two.winner) and torch.equal(one.loser, two.loser)
    assert not torch.equal(one.winner, other.winner)
    assert torch.equal(before, torch.get_rng_state())
    everything = torch.cat([one.winner, one.loser])
    assert len(everything.unique(dim=0)) == 40


def test_preferences_carry_no_graph() -> None:
    x = some().requires_grad_()
    pairs = bradley_terry(x, x.flip(0), FIRST, torch.Generator().manual_seed(0))
    assert not pairs.winner.requires_grad and not pairs.loser.requires_grad


@pytest.mark.parametrize("condition", [None, torch.tensor([3, 0, 1, 1, 2])])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_file_gives_back_every_bit(condition, dtype, tmp_path: Path) -> None:
    kept = Preferences(some(dtype=dtype), some(6, dtype)[:5], condition)
    again = Preferences.load(kept.save(tmp_path / "made" / "pairs.npz"))
    assert torch.equal(kept.winner, again.winner) and torch.equal(kept.loser, again.loser)
    assert again.winner.dtype == dtype
    assert again.condition is condition is None or torch.equal(again.condition, condition)  # pyright: ignore
    assert [p.name for p in (tmp_path / "made").iterdir()] == ["pairs.npz"]


def test_a_file_of_another_byte_order_is_read(tmp_path: Path) -> None:
    x = some(dtype=torch.float64)
    arrays = {"winner": x.numpy().astype(">f8"), "loser": -x.numpy(), "condition": np.arange(5, dtype=">u2")}
    np.savez(tmp_path / "p.npz", **arrays)
    pairs = Preferences.load(tmp_path / "p.npz")
    assert torch.equal(pairs.winner, x) and torch.equal(pairs.loser, -x)
    assert pairs.condition is not None and pairs.condition.tolist() == [0, 1, 2, 3, 4]


X = np.zeros((3, 2), np.float32)
FILES: list[tuple[dict[str, Any], str]] = [
    ({}, "must hold winner and loser; it holds nothing"),
    ({"winner": X}, "must hold winner and loser; it holds winner"),
    (
        {"winner": X, "loser": X, "conditoin": X},
        "holds 'conditoin', which is no part of preferences; did you mean 'condition'",
    ),
    ({"winner": X, "loser": X[:2]}, "winner and loser must have one shape, got [3, 2] and [2, 2]"),
    ({"winner": X, "loser": X.astype(np.float64)}, "winner and loser must have one dtype"),
    ({"winner": X.astype(np.uint8), "loser": X}, "winner must be a floating-point tensor, got torch.uint8"),
    ({"winner": X.astype(np.float16), "loser": X}, "winner must be of float32 or float64, got torch.float16"),
    ({"winner": X[:0], "loser": X[:0]}, "winner must have shape [N, *event] with N > 0, got [0, 2]"),
    ({"winner": X, "loser": X + np.nan}, "loser must be finite; 6 of its 6 values are NaN or infinite"),
    ({"winner": np.array(["a"]), "loser": X}, "winner must be an array of numbers, got <U1"),
    ({"winner": X, "loser": X, "condition": X[:, 0]}, "condition must be a tensor of integers, got torch.float32"),
    (
        {"winner": X, "loser": X, "condition": np.array([1])},
        "condition must have shape [3], one for each datum, got [1]",
    ),
    (
        {"winner": X, "loser": X, "condition": np.array([1, -2, 0])},
        "condition must be at least 0, got labels in -2 … 1",
    ),
    ({"winner": X, "loser": X, "condition": np.array([2**63, 0, 0], np.uint64)}, "condition must be at least 0"),
    ({"winner": np.array([[None]]), "loser": X}, "is not a readable .npz file: Object arrays cannot be loaded"),
]


@pytest.mark.parametrize(("arrays", "words"), FILES, ids=[words for _, words in FILES])
def test_a_file_of_something_else_is_refused_and_named(arrays, words, tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", **arrays)
    with pytest.raises(PreferencesError, match=r"p\.npz.*" + re.escape(words)):
        Preferences.load(tmp_path / "p.npz")


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_no_archive_is_refused_and_named(content, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "p.npz").write_bytes(content)
    with pytest.raises(PreferencesError, match=r"p\.npz is not a readable \.npz file"):
        Preferences.load(tmp_path / "p.npz")


def test_an_array_alone_is_refused_and_named(tmp_path: Path) -> None:
    with (tmp_path / "p.npz").open("wb") as file:
        np.save(file, X)
    with pytest.raises(PreferencesError, match=r"p\.npz is an \.npy file"):
        Preferences.load(tmp_path / "p.npz")


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    content = Preferences(some(), -some()).save(tmp_path / "p.npz").read_bytes()
    for size in range(0, len(content), 17):
        (tmp_path / "part.npz").write_bytes(content[:size])
        with pytest.raises(PreferencesError, match=r"part\.npz"):
            Preferences.load(tmp_path / "part.npz")


BAD: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: Preferences([1.0], some()), TypeError, "winner must be a floating-point tensor, got list"),  # pyright: ignore
    (
        lambda: Preferences(some()[:, 0], some()[:, 0]),
        ValueError,
        "winner must have shape [N, *event] with N > 0, got [5]",
    ),
    (
        lambda: Preferences(some(), some(), torch.zeros(5, dtype=torch.bool)),
        TypeError,
        "condition must be a tensor of integers, got torch.bool",
    ),
    (lambda: bradley_terry(some(), some(), 3), TypeError, "reward must be callable, got int"),  # pyright: ignore
    (
        lambda: bradley_terry(some(), some(4), FIRST),
        ValueError,
        "x_a and x_b must have one shape, got [5, 2] and [4, 2]",
    ),
    (lambda: bradley_terry(some(), some() / 0, FIRST), ValueError, "x_b must be finite"),
    (
        lambda: bradley_terry(some(), some(), FIRST, None, 0.0),
        ValueError,
        "temperature must be positive and finite",
    ),
    (lambda: bradley_terry(some(), some(), FIRST, 7), TypeError, "generator must be a Generator, got 7"),  # pyright: ignore
    (
        lambda: bradley_terry(some(), some(), FIRST, condition=torch.zeros(4, dtype=torch.int64)),
        ValueError,
        "condition must have shape [5], one for each datum, got [4]",
    ),
    (lambda: bradley_terry(some(), some(), lambda x: x), ValueError, "reward must return shape [10]"),
    (
        lambda: bradley_terry(some(), some(), lambda x: x[:, 0] / 0),
        FloatingPointError,
        "10 of 10 values that are not",
    ),
    (lambda: draw_preferences(some(), FIRST, 3), TypeError, "sample must be callable, got Tensor"),  # pyright: ignore
    (lambda: draw_preferences(WORLD.sample, FIRST, 0), ValueError, "pairs must be an integer of at least 1, got 0"),
    (
        lambda: draw_preferences(lambda n, g: some(), FIRST, 3),
        ValueError,
        "sample must return shape [6, *event]",
    ),
]


@pytest.mark.parametrize(("call", "kind", "words"), BAD, ids=[words for _, _, words in BAD])
def test_bad_input_is_refused_by_name(call, kind, words) -> None:
    with pytest.raises(kind, match=re.escape(words)):
        call()
