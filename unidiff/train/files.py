r"""Files of data as they lie on the disk: an ``.npz`` or a folder of images, read into arrays, nothing scaled yet.

Images become bytes. One of 16 bits has u = 257 b for a byte b (257·255 = 65535), so it is divided by 257 and rounded.
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from PIL import Image

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

_X_KEYS = {
    "train": ("x", "images", "data", "x_train", "train_images", "arr_0"),
    "test": ("x_test", "test_images"),
}
_Y_KEYS = {
    "train": ("y", "labels", "targets", "y_train", "train_labels"),
    "test": ("y_test", "test_labels"),
}
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
_BYTE_MODES = {"1": "L", "L": "L", "LA": "RGBA", "P": "RGB", "PA": "RGBA", "RGB": "RGB", "RGBA": "RGBA"}
"""Pillow's modes of at most 8 bits, and what each is read as."""


_MOST_STRANGERS = 1000
"""Beyond the images found: a walk that meets more files and folders without one is of a disk, not of a data set."""


class DataError(ValueError):
    """Data that is missing, empty, unreadable or not numbers; the message names the file and what was expected."""


def read_npz(path: Path, split: Split) -> tuple[np.ndarray, np.ndarray | None]:
    """The data and the labels of an ``.npz``, as they are. Raises DataError if it is none, or does not say which is x."""
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise DataError(f"{path} is an .npy file under another name; save its array by np.savez(path, x=array)")
            with archive:
                x = archive[_x_key(path, archive.files, split)]
                y_key = next((k for k in _Y_KEYS[split] if k in archive.files), None)
                return x, None if y_key is None else archive[y_key]
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib, numpy and the system each have their own way to say it
        raise DataError(f"{path} is not a readable .npz file: {error}") from error


def npz_shape(path: Path) -> tuple[int, ...]:
    """The shape of the training data in an ``.npz``, from its header alone. Raises DataError as :func:`read_npz`."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [name.removesuffix(".npy") for name in archive.namelist()]
            with archive.open(_x_key(path, members, "train") + ".npy") as file:
                version = np.lib.format.read_magic(file)
                parse = (
                    np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                )
                return parse(file)[0]
    except DataError:
        raise
    except Exception as error:  # as above
        raise DataError(f"{path} is not a readable .npz file: {error}") from error


def read_folder(path: Path) -> tuple[np.ndarray, np.ndarray | None, str | None]:
    """The images below a folder, ``[N, H, W]`` or ``[N, H, W, 3]`` bytes; their classes; why there are none, if so.

    Raises:
        DataError: no images, one that cannot be read, two shapes, or images both beside and in folders of classes.
    """
    files = image_files(path)
    depths = [len(f.relative_to(path).parts) - 1 for f in files]
    deepest = max(depths)
    for file, depth in zip(files, depths, strict=True):
        if depth != deepest:
            raise DataError(
                f"{path} must hold either images or one folder for each class: {file} lies beside folders with images; "
                "move it into one of them, or away"
            )
    images = [_image(f) for f in files]
    for file, image in zip(files, images, strict=True):
        if image.shape != images[0].shape:
            raise DataError(f"images must have one shape: {files[0]} has {images[0].shape}, {file} has {image.shape}")
    if deepest != 1:
        why = (
            None
            if deepest == 0
            else f"its images lie {deepest} folders deep; one folder for each class would be labels"
        )
        return np.stack(images), None, why
    classes = sorted({f.parent.name for f in files})
    return np.stack(images), np.array([classes.index(f.parent.name) for f in files]), None


def image_files(path: Path) -> list[Path]:
    """The images below a folder, sorted; hidden files, and what macOS puts into archives, left out.

    Raises:
        DataError: no images, or so few among the files and folders first met that the folder is of something else.
    """
    files, strangers = [], 0
    for folder, below, names in os.walk(path):
        below[:] = sorted(name for name in below if not _hidden(name))
        found = [Path(folder, name) for name in names if not _hidden(name)]
        images = [f for f in found if f.suffix.lower() in _IMAGE_SUFFIXES and f.is_file()]
        files += images
        strangers += 1 + len(found) - len(images)
        if strangers > _MOST_STRANGERS + len(files):
            raise DataError(
                f"{path} must be a folder of images ({', '.join(_IMAGE_SUFFIXES)}): "
                f"of the first {strangers + len(files)} files and folders below it only {len(files)} are images"
            )
    if not files:
        raise DataError(f"{path} holds no images ({', '.join(_IMAGE_SUFFIXES)})")
    return sorted(files)


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def image_size(path: Path) -> tuple[int, int]:
    """(H, W) of an image, from its header alone. Raises DataError if it is none."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except Exception as error:  # each decoder has its own
        raise DataError(f"{path} is not a readable image: {error}") from error


def _x_key(path: Path, present: list[str], split: Split) -> str:
    for key in _X_KEYS[split]:
        if key in present:
            return key
    others = [key for key in present if key not in _Y_KEYS["train"] + _Y_KEYS["test"]]
    if split == "train" and len(others) == 1:
        return others[0]
    wanted = ", ".join(_X_KEYS[split]) + (", or a single array" if split == "train" else "")
    raise DataError(f"{path} must hold one of {wanted}; it holds {', '.join(present) or 'nothing'}")


def _image(path: Path) -> np.ndarray:
    """One image as bytes ``[H, W]`` or ``[H, W, 3]``."""
    try:
        with Image.open(path) as image:
            image.load()
            mode = image.mode
            if mode.startswith("I;16"):
                return np.rint(np.asarray(image).astype(np.float64) / 257.0).astype(np.uint8)
            wanted = "RGBA" if "transparency" in image.info else _BYTE_MODES.get(mode)
            pixels = None if wanted is None else np.asarray(image.convert(wanted))
    except Exception as error:  # each decoder has its own
        raise DataError(f"{path} is not a readable image: {error}") from error
    if pixels is None:
        raise DataError(
            f"{path} has pixels of Pillow's mode {mode!r}, whose range no image file states; "
            f"expected {', '.join(_BYTE_MODES)} or I;16: convert it, or give the numbers as an .npz"
        )
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        if (pixels[..., 3] != 255).any():
            raise DataError(f"{path} has transparent pixels; flatten it onto a background first")
        pixels = pixels[..., :1] if mode in ("L", "LA") else pixels[..., :3]
    return pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
