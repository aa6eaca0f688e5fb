"""Samples as pictures: a sheet of images, a scatter of points."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]


def sheet(images: Array, columns: int | None = None, margin: int = 1) -> Array:
    """Images ``[n, h, w]`` or ``[n, c, h, w]`` in [−1, 1] as one ``[H, W]`` or ``[H, W, c]`` in [0, 1].

    Raises:
        ValueError: another number of axes, or neither 1 nor 3 channels.
    """
    x = np.asarray(images, dtype=np.float64)
    if x.ndim == 3:
        x = x[:, None]
    if x.ndim != 4 or x.shape[0] == 0 or x.shape[1] not in (1, 3):
        raise ValueError(f"images must be [n, h, w] or [n, c, h, w] with 1 or 3 channels, got {list(images.shape)}")
    n, channels, height, width = x.shape
    across = min(n, columns or math.ceil(math.sqrt(n)))
    lines = math.ceil(n / across)
    page = np.ones((lines * (height + margin) + margin, across * (width + margin) + margin, channels))
    for k, image in enumerate(np.clip(0.5 * (x + 1), 0, 1)):
        top, left = margin + k // across * (height + margin), margin + k % across * (width + margin)
        page[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    return page[..., 0] if channels == 1 else page


def save_grid(path: str | Path, images: Array, columns: int | None = None, scale: int | None = None) -> Path:
    """Write :func:`sheet` as a PNG, each pixel ``scale`` wide (as many as make an image about 64)."""
    from matplotlib import image

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scale = scale or max(1, 64 // images.shape[-1])
    page = sheet(images, columns).repeat(scale, 0).repeat(scale, 1)
    image.imsave(path, page, cmap="gray", vmin=0.0, vmax=1.0)
    return path


def save_scatter(path: str | Path, series: dict[str, Array]) -> Path:
    """Write points ``[n, 2]``, by name, as a PNG."""
    from unidiff.report.plots import new_figure, scatter

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure = new_figure(5.5, 5.5)
    scatter(figure, series)
    figure.savefig(path, dpi=144, facecolor="white")
    return path


def save_samples(
    path: str | Path, x: Array, image_shape: tuple[int, ...] | None = None, columns: int | None = None
) -> dict[str, str]:
    """Write samples ``[n, *E]`` as a picture and, beside it, as an ``.npz`` with the one array ``x``.

    Images are drawn as a sheet: ``[n, C, H, W]``, vectors given their ``image_shape``, and vectors of 8×8 numbers or more
    that make a square. Other vectors are drawn as points, by their first two coordinates; single numbers not at all.

    Returns:
        the paths, as ``"samples"`` and, if there is one, ``"picture"``.
    """
    path = Path(path)
    written: dict[str, str] = {}
    image_shape = image_shape or image_shape_of(x.shape[1:])
    if image_shape is not None:
        written["picture"] = str(save_grid(path, x.reshape(-1, *image_shape), columns))
    elif x[0].size > 1:
        written["picture"] = str(save_scatter(path, {"samples": x.reshape(len(x), -1)[:, :2]}))
    arrays = path.with_suffix(".npz")
    arrays.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(arrays, x=x)
    return {**written, "samples": str(arrays)}


def image_shape_of(event_shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """``[C, H, W]`` of data that are shown as images: those of three axes, and square vectors from 8 × 8; else None."""
    if len(event_shape) == 3:
        return event_shape
    side = math.isqrt(math.prod(event_shape))
    return (1, side, side) if len(event_shape) == 1 and side >= 8 and side * side == event_shape[0] else None
