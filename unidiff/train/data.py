r"""What to train on: a finite data set held in memory, x ``[N, *E]``.

Bytes and digits are scaled to [−1, 1]: x = scale·raw − 1, so one grey level is ``scale`` wide in x, which is what a
discretised likelihood needs. Real numbers stay as they are. Toys come from :mod:`unidiff.train.toys`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from unidiff.core.boundary import check_finite, nearest
from unidiff.train.toys import TOYS, draw

Split = Literal["train", "test"]

_X_KEYS = {
    "train": ("x", "images", "data", "x_train", "train_images", "arr_0"),
    "test": ("x_test", "test_images"),
}
_Y_KEYS = {
    "train": ("y", "labels", "targets", "y_train", "train_labels"),
    "test": ("y_test", "test_labels"),
}
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")


class DataError(ValueError):
    """Data that is missing, empty, unreadable or not numbers; the message names the file and what was expected."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Data, ready to train on.

    Attributes:
        x: ``[N, *E]``, floating point, finite.
        labels: classes ``[N]``, int64 in 0 … num_classes − 1, or None.
        name: what was asked for.
        scale: the width in x of one unit of the raw data; 2/255 for bytes, 1 for real numbers.
        image_shape: ``(C, H, W)`` if the data are images (even when x is flat), else None.

    Raises:
        DataError: no data, NaN or infinity, labels that are not one for each datum.
    """

    x: Tensor
    labels: Tensor | None = None
    name: str = "data"
    scale: float = 1.0
    image_shape: tuple[int, int, int] | None = field(default=None)

    def __post_init__(self) -> None:
        if self.x.ndim < 2 or self.x.numel() == 0:
            raise DataError(f"{self.name}: x must have shape [N, *event] with N > 0, got {list(self.x.shape)}")
        if not self.x.is_floating_point():
            raise DataError(f"{self.name}: x must be floating point, got {self.x.dtype}")
        try:
            check_finite(f"{self.name}: x", self.x)
        except ValueError as error:
            raise DataError(str(error)) from None
        if self.labels is not None and (self.labels.shape != (len(self),) or int(self.labels.min()) < 0):
            raise DataError(
                f"{self.name}: labels must be {len(self)} classes from 0 up, got shape {list(self.labels.shape)} "
                f"and a least of {self.labels.min().item()}"
            )

    def __len__(self) -> int:
        return self.x.shape[0]

    @property
    def event_shape(self) -> tuple[int, ...]:
        """E."""
        return tuple(self.x.shape[1:])

    @property
    def num_classes(self) -> int | None:
        """The number of classes, if there are labels."""
        return None if self.labels is None else int(self.labels.max()) + 1

    @property
    def std(self) -> float:
        """The root mean square deviation from the mean datum, over all numbers: EDM's σ_d."""
        return float((self.x - self.x.mean(0)).to(torch.float64).square().mean().sqrt())

    def flatten(self) -> Dataset:
        """The same data as vectors ``[N, D]``."""
        return replace(self, x=self.x.flatten(1))

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Dataset:
        """The data set in another dtype or on another device."""
        labels = None if self.labels is None else self.labels.to(device)
        return replace(self, x=self.x.to(device=device, dtype=dtype), labels=labels)

    def fingerprint(self) -> str:
        """sha256 of the shape and the values as float32: what a checkpoint remembers of its data."""
        digest = hashlib.sha256(str(tuple(self.x.shape)).encode())
        digest.update(self.x.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
        return digest.hexdigest()


def names() -> tuple[str, ...]:
    """The data sets that need no file."""
    return (*TOYS, "digits")


def load_data(
    source: str | Path,
    *,
    n: int = 200_000,
    split: Split = "train",
    dtype: torch.dtype = torch.float32,
    generator: torch.Generator | None = None,
) -> Dataset:
    """A named data set, an ``.npz`` file, or a folder of images.

    Args:
        source: one of :func:`names`; or an ``.npz`` with ``x`` (or images, data, x_train, train_images) and perhaps
            ``y`` (or labels, targets, y_train, train_labels), ``[N, D]``, ``[N, H, W]``, ``[N, H, W, C]`` or
            ``[N, C, H, W]``; or a folder of images of one size, whose sub-folders, if any, are classes.
        n: how many points of a toy.
        split: which part of a file that has both (``x_test``, ``test_images``); digits and toys have no test part.
        dtype: of x.
        generator: the source of a toy's points.

    Raises:
        DataError: an unknown name (with the nearest), a file that is missing, empty, truncated, holds objects, NaN or
            infinity; images that differ in size.
    """
    name = str(source)
    if name in TOYS:
        return Dataset(draw(name, n, generator).to(dtype), name=name)
    if name == "digits":
        return _digits(dtype)
    path = Path(source).expanduser()
    if path.is_dir():
        return _folder(path, dtype)
    if not path.exists():
        raise DataError(f"unknown data {name!r} (and no such file or folder); {nearest(name, names())}, or a path")
    if path.suffix != ".npz":
        raise DataError(f"data must be a name, an .npz file or a folder of images, got the file {path}")
    return _npz(path, split, dtype)


def _digits(dtype: torch.dtype) -> Dataset:
    from sklearn.datasets import load_digits

    pixels, target = load_digits(return_X_y=True)
    return _bytes(np.asarray(pixels).reshape(-1, 1, 8, 8), np.asarray(target), "digits", 16, dtype)


def _npz(path: Path, split: Split, dtype: torch.dtype) -> Dataset:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            x = archive[_key(path, archive.files, _X_KEYS[split])]
            y_key = next((k for k in _Y_KEYS[split] if k in archive.files), None)
            y = None if y_key is None else archive[y_key]
    except DataError:
        raise
    except (
        Exception
    ) as error:  # zipfile, zlib, numpy and the system each have their own way to say that a file is broken
        raise DataError(f"{path} is not a readable .npz file: {error}") from error
    name = path.name
    if x.size == 0 or x.ndim < 2:
        raise DataError(f"{path}: data must have shape [N, ...] with N > 0, got {list(x.shape)}")
    if x.dtype == np.bool_:
        x = x.astype(np.uint8) * 255
    if x.dtype == np.uint8:
        return _bytes(_channels_first(x), y, name, 255, dtype)
    if x.dtype.kind not in "fiu":
        raise DataError(f"{path}: data must be numbers, got dtype {x.dtype}")
    values = _channels_first(x.astype(np.float64))
    return Dataset(torch.from_numpy(values).to(dtype), _labels(y, name), name, 1.0, _image_shape(values))


def _key(path: Path, present: list[str], wanted: tuple[str, ...]) -> str:
    for key in wanted:
        if key in present:
            return key
    raise DataError(f"{path} must hold one of {', '.join(wanted)}; it holds {', '.join(present) or 'nothing'}")


def _folder(path: Path, dtype: torch.dtype) -> Dataset:
    files = sorted(f for f in path.rglob("*") if f.suffix.lower() in _IMAGE_SUFFIXES and f.is_file())
    if not files:
        raise DataError(f"{path} holds no images ({', '.join(_IMAGE_SUFFIXES)})")
    images = [_image(f) for f in files]
    for file, image in zip(files, images, strict=True):
        if image.shape != images[0].shape:
            raise DataError(f"images must have one shape: {files[0]} has {images[0].shape}, {file} has {image.shape}")
    parents = [f.relative_to(path).parts[:-1] for f in files]
    labels = None
    if all(len(p) == 1 for p in parents):
        classes = sorted({p[0] for p in parents})
        labels = np.array([classes.index(p[0]) for p in parents])
    return _bytes(_channels_first(np.stack(images)), labels, path.name, 255, dtype)


def _image(path: Path) -> np.ndarray:
    """One image as bytes ``[H, W]`` or ``[H, W, 3]``; matplotlib reads it (by Pillow, on which matplotlib depends)."""
    from matplotlib.image import imread

    try:
        image = imread(path)
    except Exception as error:  # as for .npz: each decoder has its own
        raise DataError(f"{path} is not a readable image: {error}") from error
    if image.dtype != np.uint8:
        image = np.rint(image * 255).astype(np.uint8)
    if image.ndim == 3 and image.shape[2] in (2, 4):
        if (image[..., -1] != 255).any():
            raise DataError(f"{path} has transparent pixels; flatten it onto a background first")
        image = image[..., :-1]
    return image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image


def _bytes(raw: np.ndarray, labels: np.ndarray | None, name: str, top: int, dtype: torch.dtype) -> Dataset:
    scale = 2.0 / top
    x = torch.from_numpy(np.ascontiguousarray(raw)).to(dtype).mul_(scale).sub_(1.0)
    return Dataset(x, _labels(labels, name), name, scale, _image_shape(raw))


def _labels(labels: np.ndarray | None, name: str) -> Tensor | None:
    if labels is None:
        return None
    if labels.dtype.kind not in "iub" or labels.size == 0:
        raise DataError(f"{name}: labels must be integers, got dtype {labels.dtype} and shape {labels.shape}")
    return torch.from_numpy(labels.astype(np.int64)).flatten()


def _channels_first(x: np.ndarray) -> np.ndarray:
    """``[N, H, W]`` and ``[N, H, W, C]`` as ``[N, C, H, W]``; C is 1 or 3."""
    if x.ndim == 3:
        return x[:, None]
    if x.ndim == 4 and x.shape[3] in (1, 3) and x.shape[1] not in (1, 3):
        return np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    return x


def _image_shape(x: np.ndarray) -> tuple[int, int, int] | None:
    return (x.shape[1], x.shape[2], x.shape[3]) if x.ndim == 4 else None
