r"""What to train on: a finite data set held in memory, x ``[N, *E]``.

Bytes and digits are scaled to [−1, 1]: x = scale·raw − 1, so one grey level is ``scale`` wide in x, which is what a
discretised likelihood needs; so are images of whole numbers that all lie in 0 … 255, whatever their dtype. All other
numbers stay as they are, up to ±1000. Toys come from :mod:`unidiff.train.toys`, arrays from :mod:`unidiff.train.files`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unidiff.core.boundary import check_finite, check_name, nearest
from unidiff.train.digest import digest
from unidiff.train.files import SPLITS, DataError, Split, image_files, image_size, npz_shape, read_folder, read_npz
from unidiff.train.toys import TOYS, draw

MOST_CLASSES = 100_000
"""A network holds a row for each class; more of them than this are numbers that were never classes."""
LARGEST = 1000.0
"""Of |x| in a file. Noise has unit variance: data this large would hardly be noisy at t = 1 under any schedule here."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Data, ready to train on.

    Attributes:
        x: ``[N, *E]``, floating point, finite.
        labels: classes ``[N]``, int64 in 0 … num_classes − 1, or None.
        name: what was asked for; a file's own name, a folder's with a slash, so that neither is that of a named data set.
        scale: the width in x of one unit of the raw data; 2/255 for bytes, 1 for real numbers.
        image_shape: ``(C, H, W)`` if the data are images (even when x is flat), C being 1 or 3; else None.
        no_labels: why the source's labels are not here, if it has some that are no classes.

    Raises:
        DataError: no data, NaN or infinity, labels that are not one for each datum.
    """

    x: Tensor
    labels: Tensor | None = None
    name: str = "data"
    scale: float = 1.0
    image_shape: tuple[int, int, int] | None = field(default=None)
    no_labels: str | None = None

    def __post_init__(self) -> None:
        if self.x.ndim < 2 or self.x.numel() == 0:
            raise DataError(f"{self.name}: x must have shape [N, *event] with N > 0, got {list(self.x.shape)}")
        if not self.x.is_floating_point():
            raise DataError(f"{self.name}: x must be floating point, got {self.x.dtype}")
        try:
            check_finite(f"{self.name}: x", self.x)
        except ValueError as error:
            raise DataError(str(error)) from None
        if self.labels is not None:
            if self.labels.shape != (len(self),) or self.labels.dtype != torch.int64:
                raise DataError(
                    f"{self.name}: labels must be {len(self)} classes, int64, "
                    f"got shape {list(self.labels.shape)} of {self.labels.dtype}"
                )
            if (fault := _out_of_range(int(self.labels.min()), int(self.labels.max()))) is not None:
                raise DataError(f"{self.name}: {fault}")

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

    def labelled(self) -> Dataset:
        """Itself. Raises DataError, with the reason, where there are no labels."""
        if self.labels is None:
            why = "" if self.no_labels is None else f" that are classes: {self.no_labels}"
            raise DataError(f"conditional needs labels, and {self.name} has none{why}")
        return self

    def spread(self, needed_by: str) -> float:
        """:attr:`std`, for an option that divides by it. Raises DataError where all the data are one."""
        if not 0.0 < (std := self.std) < float("inf"):
            raise DataError(
                f"{needed_by} divides by the data's standard deviation, and {self.name} has one of {std:g}: "
                f"its {len(self)} data must not all be the same"
            )
        return std

    def flatten(self) -> Dataset:
        """The same data as vectors ``[N, D]``."""
        return replace(self, x=self.x.flatten(1))

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Dataset:
        """The data set in another dtype or on another device."""
        labels = None if self.labels is None else self.labels.to(device)
        return replace(self, x=self.x.to(device=device, dtype=dtype), labels=labels)

    def fingerprint(self) -> str:
        """sha256 of the values and the labels, with their dtypes and shapes: what a checkpoint remembers of its data."""
        return digest({"x": self.x} if self.labels is None else {"x": self.x, "labels": self.labels})

    def describe(self) -> dict[str, Any]:
        """What they are, JSON-ready; ``range`` is the least and the greatest number in x."""
        return {
            "name": self.name,
            "n": len(self),
            "event_shape": list(self.event_shape),
            "image_shape": None if self.image_shape is None else list(self.image_shape),
            "scale": self.scale,
            "range": [float(self.x.min()), float(self.x.max())],
            "std": self.std,
            "num_classes": self.num_classes,
            "fingerprint": self.fingerprint(),
        }


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

    Four axes are ``[N, C, H, W]`` if the second is 1 or 3 long, else ``[N, H, W, C]`` if the last is at most 4 long.
    Pictures (bytes) must have 1 or 3 channels; real numbers may have any, and are then data but no images.

    Args:
        source: one of :func:`names`; or an ``.npz`` with ``x`` (or images, data, x_train, train_images, or one array of
            any name) and perhaps ``y`` (or labels, targets, y_train, train_labels; ``[N]`` or ``[N, 1]`` integers),
            ``[N, D]``, ``[N, H, W]``, ``[N, H, W, C]`` or ``[N, C, H, W]``; or a folder of images of one size, or of one
            such folder for each class.
        n: how many points of a toy.
        split: which part of a file that has both (``x_test``, ``test_images``); digits, toys and folders have no test part.
        dtype: of x.
        generator: the source of a toy's points.

    Raises:
        DataError: an unknown name (with the nearest), the test part of what has none, a file that is missing, empty,
            truncated, holds objects, NaN, infinity or numbers beyond :data:`LARGEST`; images that differ in size, or have
            2 or 4 channels. Labels that are no classes are an error only once they are asked for
            (:meth:`Dataset.labelled`).
    """
    name, path = str(source), Path(source).expanduser()
    check_name("split", split, SPLITS)
    if split == "test" and (name in names() or path.is_dir()):
        raise DataError(f"split must be 'train' for {name!r}, which has no test part, got 'test'")
    if name in TOYS:
        return Dataset(draw(name, n, generator).to(dtype), name=name)
    if name == "digits":
        return _digits(dtype)
    if path.is_dir():
        images, labels, why = read_folder(path)
        return _bytes(f"{path.absolute().name}/", path, images, labels, 255, dtype, why)
    if not path.exists():
        raise DataError(f"unknown data {name!r} (and no such file or folder); {nearest(name, names())}, or a path")
    if path.suffix.lower() != ".npz":
        raise DataError(f"data must be a name, an .npz file or a folder of images, got the file {path}")
    return _arrays(path, *read_npz(path, split), dtype)


def peek(source: str | Path) -> tuple[int, ...] | None:
    """The event shape of a file's or a folder's data, from its headers alone; None for a name. Raises DataError."""
    path = Path(source).expanduser()
    if str(source) in names():
        return None
    if path.is_dir():
        return (1, *image_size(image_files(path)[0]))
    shape = npz_shape(path)
    return (1, *shape[1:]) if len(shape) == 3 else tuple(shape[axis] for axis in _channels_first(shape))[1:]


def _digits(dtype: torch.dtype) -> Dataset:
    from sklearn.datasets import load_digits

    pixels, target = load_digits(return_X_y=True)
    return _bytes("digits", "digits", np.asarray(pixels).reshape(-1, 1, 8, 8), np.asarray(target), 16, dtype)


def _arrays(path: Path, x: np.ndarray, y: np.ndarray | None, dtype: torch.dtype) -> Dataset:
    if x.size == 0 or x.ndim < 2:
        raise DataError(f"{path}: data must have shape [N, ...] with N > 0, got {list(x.shape)}")
    if x.dtype == np.bool_:
        x = x.astype(np.uint8) * 255
    if x.dtype.kind in "iu" and x.ndim >= 3 and x.min() >= 0 and x.max() <= 255:
        x = x.astype(np.uint8)
    if x.dtype == np.uint8:
        return _bytes(path.name, path, x, y, 255, dtype)
    if x.dtype.kind not in "fiu":
        raise DataError(f"{path}: data must be numbers, got dtype {x.dtype}")
    values = _as_images(x.astype(np.float64))
    largest = float(np.abs(values[np.isfinite(values)]).max(initial=0.0))
    if largest > LARGEST:
        raise DataError(
            f"{path}: numbers that are not bytes are taken as they are, and must lie within ±{LARGEST:g}, "
            f"got one of size {largest:g}; scale them to about [-1, 1] first"
        )
    labels, why = _labels(y, len(x), path.name)
    return Dataset(torch.from_numpy(values).to(dtype), labels, path.name, 1.0, _image_shape(values), why)


def _bytes(
    name: str,
    source: str | Path,
    raw: np.ndarray,
    y: np.ndarray | None,
    top: int,
    dtype: torch.dtype,
    no_labels: str | None = None,
) -> Dataset:
    scale = 2.0 / top
    raw = _as_images(raw)
    if raw.ndim == 4 and raw.shape[1] not in (1, 3):
        raise DataError(
            f"{source}: images must have 1 or 3 channels, [N, C, H, W] or [N, H, W, C], "
            f"got {raw.shape[1]} in {list(raw.shape)}; leave out an opacity channel"
        )
    x = torch.from_numpy(np.ascontiguousarray(raw)).to(dtype).mul_(scale).sub_(1.0)
    labels, why = _labels(y, len(raw), name)
    return Dataset(x, labels, name, scale, _image_shape(raw), why or no_labels)


def _labels(y: np.ndarray | None, n: int, name: str) -> tuple[Tensor | None, str | None]:
    """The classes ``[N]``, or why ``y`` is none: a run that does not condition on them need not care."""
    if y is None:
        return None, None
    if y.ndim == 0 or len(y) != n:
        raise DataError(f"{name}: labels must be {n} classes, one for each datum, got shape {list(y.shape)}")
    if y.shape not in ((n,), (n, 1)):
        return None, f"labels must have shape [{n}] or [{n}, 1], got {list(y.shape)}"
    if y.dtype.kind not in "iub":
        return None, f"labels must be integers, got dtype {y.dtype}"
    if (fault := _out_of_range(int(y.min()), int(y.max()))) is not None:
        return None, fault
    return torch.from_numpy(y.astype(np.int64)).flatten(), None


def _out_of_range(least: int, most: int) -> str | None:
    if least >= 0 and most < MOST_CLASSES:
        return None
    return f"labels must be classes from 0 up and below {MOST_CLASSES}, got {least} … {most}; number them 0, 1, 2, …"


def _channels_first(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The axes that take ``[N, H, W, C]`` to ``[N, C, H, W]``; of data of any other shape, the axes as they are."""
    if len(shape) == 4 and shape[1] not in (1, 3) and shape[3] <= 4:
        return (0, 3, 1, 2)
    return tuple(range(len(shape)))


def _as_images(x: np.ndarray) -> np.ndarray:
    """``[N, H, W]`` and ``[N, H, W, C]`` as ``[N, C, H, W]``; the rest as it is."""
    if x.ndim == 3:
        return x[:, None]
    return np.ascontiguousarray(x.transpose(_channels_first(x.shape)))


def _image_shape(x: np.ndarray) -> tuple[int, int, int] | None:
    return (x.shape[1], x.shape[2], x.shape[3]) if x.ndim == 4 and x.shape[1] in (1, 3) else None
