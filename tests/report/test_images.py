from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import image

from unidiff.report import save_grid, save_samples, save_scatter
from unidiff.report.images import sheet


@given(
    n=st.integers(1, 30),
    columns=st.none() | st.integers(1, 12),
    channels=st.sampled_from([1, 3]),
    side=st.integers(2, 9),
)
def test_every_image_is_on_the_sheet_at_its_place(n: int, columns: int | None, channels: int, side: int) -> None:
    x = np.random.default_rng(n).uniform(-1, 1, (n, channels, side, side))
    page = sheet(x, columns)
    across = (page.shape[1] - 1) // (side + 1)
    assert across == (min(n, columns) if columns else min(n, int(np.ceil(np.sqrt(n)))))
    for k in range(n):
        top, left = 1 + k // across * (side + 1), 1 + k % across * (side + 1)
        tile = page[top : top + side, left : left + side]
        np.testing.assert_allclose(
            tile,
            (0.5 * (x[k] + 1)).transpose(1, 2, 0).squeeze(-1) if channels == 1 else 0.5 * (x[k].transpose(1, 2, 0) + 1),
        )


def test_what_lies_outside_the_grey_scale_is_clipped() -> None:
    assert sheet(np.full((1, 2, 2), -7.0))[1, 1] == 0 and sheet(np.full((1, 2, 2), 7.0))[1, 1] == 1


@pytest.mark.parametrize("shape", [(0, 8, 8), (3, 2, 8, 8), (8, 8), (1, 1, 1, 8, 8)])
def test_what_is_no_image_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="images must be"):
        sheet(np.zeros(shape))


def test_a_grid_is_written_as_a_picture_of_the_stated_scale(tmp_path: Path) -> None:
    path = save_grid(tmp_path / "deep" / "grid.png", np.zeros((4, 8, 8)), scale=3)
    assert image.imread(path).shape[:2] == (3 * 19, 3 * 19)


def test_a_scatter_is_written_on_white(tmp_path: Path) -> None:
    path = save_scatter(tmp_path / "points.png", {"a": np.zeros((9, 2)), "b": np.ones((9, 2))})
    pixels = image.imread(path)
    assert pixels[0, 0].tolist() == [1, 1, 1, 1]
    assert pixels[..., :3].min() < 0.8


@pytest.mark.parametrize(
    ("event", "drawn"),
    [((2,), True), ((8,), True), ((64,), True), ((1, 8, 8), True), ((3, 4, 4), True), ((1,), False)],
)
def test_samples_are_kept_as_numbers_and_drawn_where_they_can_be(
    event: tuple[int, ...], drawn: bool, tmp_path: Path
) -> None:
    x = np.random.default_rng(0).normal(size=(5, *event)).astype(np.float32)
    written = save_samples(tmp_path / "s.png", x)
    assert ("picture" in written) == drawn
    with np.load(written["samples"], allow_pickle=False) as kept:
        assert kept.files == ["x"] and kept["x"].dtype == np.float32
        np.testing.assert_array_equal(kept["x"], x)
