"""Data: what is read is what was written, and what cannot be read says why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import image

from unidiff.train import DataError, Dataset, load_data
from unidiff.train.data import names
from unidiff.train.order import DataOrder
from unidiff.worlds import library


@pytest.mark.parametrize("name", names())
def test_named_data_are_a_function_of_the_generator(name: str) -> None:
    one, two = (load_data(name, n=100, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(one.x, two.x)
    assert one.x.isfinite().all()
    assert one.fingerprint() == two.fingerprint()
    if name != "digits":
        assert one.x.shape == (100, 2)


def test_eight_gaussians_are_the_worlds() -> None:
    # One z-test of the mean log density at 5 standard errors (false alarm 6e-7); it would see 0.04 nats.
    world = library.eight_gaussians()
    x = load_data("eight-gaussians", n=20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64).x
    surprise = -world.log_prob(x)
    assert abs(surprise.mean() - world.entropy().value) < 5 * surprise.std() / 20_000**0.5


def test_digits_are_the_worlds_points() -> None:
    data = load_data("digits", dtype=torch.float64)
    assert torch.equal(data.x.flatten(1), library.digits().points)
    assert data.num_classes == 10


@pytest.mark.parametrize("shape", [(5, 3), (5, 8, 8), (5, 1, 8, 8), (5, 8, 8, 3)])
@pytest.mark.parametrize("key", ["x", "images", "train_images"])
def test_npz_files_come_back(shape, key: str, tmp_path: Path) -> None:
    raw = np.random.default_rng(0).normal(size=shape)
    np.savez(tmp_path / "d.npz", **{key: raw, "y": np.arange(5)})
    data = load_data(tmp_path / "d.npz", dtype=torch.float64)
    expected = raw[:, None] if raw.ndim == 3 else raw.transpose(0, 3, 1, 2) if shape[-1] == 3 and raw.ndim == 4 else raw
    np.testing.assert_array_equal(data.x.numpy(), expected)
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1, 2, 3, 4]


def test_bytes_are_scaled_to_plus_minus_one(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.array([[[0, 255], [51, 204]]], dtype=np.uint8))
    data = load_data(tmp_path / "d.npz", dtype=torch.float64)
    torch.testing.assert_close(data.x.flatten(), torch.tensor([-1.0, 1.0, -0.6, 0.6], dtype=torch.float64))


def test_a_folder_of_images_with_classes(tmp_path: Path) -> None:
    for k, name in enumerate(("ants", "bees")):
        (tmp_path / name).mkdir()
        image.imsave(tmp_path / name / "1.png", np.full((4, 4, 3), 51 * k, dtype=np.uint8))
    data = load_data(tmp_path)
    assert data.x.shape == (2, 3, 4, 4)
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1]


def broken(folder: Path, kind: str) -> Path:
    path = folder / "d.npz"
    if kind == "empty file":
        path.write_bytes(b"")
    elif kind == "truncated":
        np.savez(path, x=np.zeros((50, 50)))
        path.write_bytes(path.read_bytes()[:200])
    elif kind == "no data":
        np.savez(path, x=np.zeros((0, 3)))
    elif kind == "other key":
        np.savez(path, weights=np.zeros((3, 3)))
    elif kind == "objects":
        np.savez(path, x=np.array([{}, {}], dtype=object))
    elif kind == "nan":
        np.savez(path, x=np.array([[0.0, np.nan]]))
    elif kind == "infinite":
        np.savez(path, x=np.array([[0.0, np.inf]]))
    elif kind == "text":
        np.savez(path, x=np.array([["a", "b"]]))
    elif kind == "labels":
        np.savez(path, x=np.zeros((3, 2)), y=np.zeros(2, dtype=int))
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("empty file", "not a readable .npz"), ("truncated", "not a readable .npz"), ("no data", "N > 0"),
        ("other key", "must hold one of x"), ("objects", "not a readable .npz"), ("nan", "1 of its 2 values are NaN"),
        ("infinite", "NaN or infinite"), ("text", "data must be numbers"), ("labels", "labels must be 3 classes"),
    ],
)  # fmt: skip
def test_broken_files_are_refused(kind: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        load_data(broken(tmp_path, kind))


def test_other_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unknown data 'mons'.*did you mean 'moons'"):
        load_data("mons")
    with pytest.raises(DataError, match="holds no images"):
        load_data(tmp_path)
    (tmp_path / "a.csv").write_text("1,2")
    with pytest.raises(DataError, match="an .npz file or a folder"):
        load_data(tmp_path / "a.csv")
    (tmp_path / "a.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match="not a readable image"):
        load_data(tmp_path)


def test_images_of_two_sizes_are_refused(tmp_path: Path) -> None:
    for size in (4, 5):
        image.imsave(tmp_path / f"{size}.png", np.zeros((size, size, 3), dtype=np.uint8))
    with pytest.raises(DataError, match="images must have one shape"):
        load_data(tmp_path)


def test_data_that_are_no_data_are_refused() -> None:
    with pytest.raises(DataError, match="NaN or infinite"):
        Dataset(torch.tensor([[float("nan")]]))
    with pytest.raises(DataError, match="floating point"):
        Dataset(torch.zeros(2, 2, dtype=torch.long))


def test_each_epoch_sees_each_datum_once_from_any_position() -> None:
    order = DataOrder(10, seed=3)
    first = torch.cat([order.next(7), order.next(3), order.next(10)])
    assert sorted(first[:10].tolist()) == sorted(first[10:].tolist()) == list(range(10))
    assert first[:10].tolist() != first[10:].tolist()
    assert torch.equal(DataOrder(10, seed=3, position=4).next(9), first[4:13])
