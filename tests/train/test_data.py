"""Data: what is read is what was written, and what cannot be read says why."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import image
from PIL import Image

from unidiff.train import DataError, Dataset, TrainConfig, Trainer, load_data
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


def test_any_sole_array_is_taken_as_x_whatever_the_suffix_s_case(tmp_path: Path) -> None:
    with (tmp_path / "d.NPZ").open("wb") as file:
        np.savez(file, embeddings=np.ones((5, 3)), y=np.arange(5))
    data = load_data(tmp_path / "d.NPZ")
    assert data.x.shape == (5, 3)
    assert data.num_classes == 5


@pytest.mark.parametrize(
    ("shape", "expected", "image_shape"),
    [
        ((5, 8, 8, 2), (2, 8, 8), None),
        ((5, 8, 8, 4), (4, 8, 8), None),
        ((5, 4, 8, 8), (4, 8, 8), None),
        ((5, 8, 8, 1), (1, 8, 8), (1, 8, 8)),
        ((5, 3, 8, 3), (3, 8, 3), (3, 8, 3)),
        ((5, 2, 2, 3), (3, 2, 2), (3, 2, 2)),
    ],
)
def test_real_numbers_with_channels_last_are_turned_and_only_colours_are_images(
    shape, expected, image_shape, tmp_path: Path
) -> None:
    raw = np.random.default_rng(0).normal(size=shape)
    np.savez(tmp_path / "d.npz", x=raw)
    data = load_data(tmp_path / "d.npz", dtype=torch.float64)
    assert data.event_shape == expected
    assert data.image_shape == image_shape
    np.testing.assert_array_equal(data.x.numpy(), raw if shape[1:] == expected else raw.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("dtype", [np.int64, np.int16, np.uint16])
def test_images_of_whole_numbers_up_to_255_are_bytes(dtype, tmp_path: Path) -> None:
    raw = np.random.default_rng(0).integers(0, 256, (5, 4, 4))
    for name, kind in (("whole", dtype), ("bytes", np.uint8)):
        np.savez(tmp_path / f"{name}.npz", x=raw.astype(kind))
    whole, of_bytes = load_data(tmp_path / "whole.npz"), load_data(tmp_path / "bytes.npz")
    assert torch.equal(whole.x, of_bytes.x)
    assert whole.scale == of_bytes.scale == 2 / 255


def test_other_numbers_are_taken_as_they_are_and_their_range_is_told(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.array([[0, 40], [7, -2]]))
    data = load_data(tmp_path / "d.npz")
    assert data.x.tolist() == [[0, 40], [7, -2]]
    assert data.describe()["range"] == [-2, 40]
    assert data.scale == 1


LABELS = {
    "real": (np.zeros(3), "must be integers, got dtype float64"),
    "text": (np.array(["a", "b", "c"]), "must be integers, got dtype <U1"),
    "one-hot": (np.eye(3, dtype=int), r"must have shape \[3\] or \[3, 1\], got \[3, 3\]"),
    "negative": (np.array([0, -1, 1]), "from 0 up and below 100000, got -1 … 1"),
    "ids": (np.array([0, 2**40, 1]), "from 0 up and below 100000, got 0 … 1099511627776"),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_that_are_no_classes_matter_only_where_they_are_asked_for(kind: str, tmp_path: Path) -> None:
    labels, message = LABELS[kind]
    np.savez(tmp_path / "d.npz", x=np.eye(3), y=labels)
    data = load_data(tmp_path / "d.npz")
    config = TrainConfig(network="mlp", width=4, depth=1, steps=1, batch_size=4, device="cpu")
    Trainer.start(config, data).fit()
    with pytest.raises(DataError, match=f"conditional needs labels, and d.npz has none that are classes: .*{message}"):
        Trainer.start(replace(config, conditional=True), data)


def test_a_column_of_labels_is_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.eye(3), y=np.array([[2], [0], [1]]))
    labels = load_data(tmp_path / "d.npz").labels
    assert labels is not None
    assert labels.tolist() == [2, 0, 1]


def test_a_data_set_refuses_classes_that_no_network_could_hold() -> None:
    with pytest.raises(DataError, match="below 100000, got 0 … 1099511627776"):
        Dataset(torch.zeros(2, 2), torch.tensor([0, 2**40]))
    with pytest.raises(DataError, match="2 classes, int64, got shape"):
        Dataset(torch.zeros(2, 2), torch.tensor([0.0, 1.0]))


def test_the_fingerprint_tells_values_labels_dtypes_and_shapes_apart() -> None:
    x, y = torch.linspace(0, 1, 8, dtype=torch.float64).reshape(4, 2), torch.tensor([0, 1, 0, 1])
    kinds = [
        Dataset(x), Dataset(x, y), Dataset(x, 1 - y), Dataset(x + 1e-12, y), Dataset(x.float(), y), Dataset(x.reshape(2, 4)),
    ]  # fmt: skip
    assert len({d.fingerprint() for d in kinds}) == len(kinds)
    assert Dataset(x.clone(), y.clone(), "other").fingerprint() == kinds[1].fingerprint()


def test_data_that_are_all_the_same_train_unless_the_deviation_is_divided_by() -> None:
    one = Dataset(torch.ones(1, 2), name="a point")
    config = TrainConfig(network="mlp", width=4, depth=1, steps=1, batch_size=4, device="cpu")
    Trainer.start(config, one).fit()
    with pytest.raises(DataError, match="weighting 'edm' divides by .* a point has one of 0"):
        Trainer.start(replace(config, weighting="edm"), one)
    with pytest.raises(DataError, match="preconditioning 'edm' divides by .* a point has one of 0"):
        Trainer.start(replace(config, preconditioning="edm", prediction="x0"), one)


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


def test_images_of_sixteen_bits_are_divided_by_257(tmp_path: Path) -> None:
    bytes_of = np.array([[0, 1], [51, 255]], dtype=np.uint16)
    for suffix in ("tif", "png"):
        (tmp_path / suffix).mkdir()
        Image.fromarray(bytes_of * np.uint16(257)).save(tmp_path / suffix / f"a.{suffix}")
        data = load_data(tmp_path / suffix, dtype=torch.float64)
        expected = torch.from_numpy(bytes_of.astype(np.float64)) * 2 / 255 - 1
        torch.testing.assert_close(data.x[0, 0], expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_images_without_a_range_are_refused(mode: str, tmp_path: Path) -> None:
    Image.new(mode, (3, 3), 7).save(tmp_path / "a.tiff")
    with pytest.raises(DataError, match=f"a.tiff has pixels of Pillow's mode '{mode}'"):
        load_data(tmp_path)


def test_every_way_to_store_a_byte_is_read_alike(tmp_path: Path) -> None:
    grey = Image.fromarray(np.array([[0, 255], [51, 204]], dtype=np.uint8))
    for mode in ("L", "LA", "RGB", "RGBA", "P"):
        folder = tmp_path / mode
        folder.mkdir()
        grey.convert(mode).save(folder / "a.png")
        data = load_data(folder, dtype=torch.float64)
        assert data.event_shape[0] == (1 if mode in ("L", "LA") else 3)
        expected = torch.tensor([[-1.0, 1.0], [-0.6, 0.6]], dtype=torch.float64)
        torch.testing.assert_close(data.x[0], expected.expand(data.event_shape))


def test_hidden_files_and_what_macos_leaves_behind_are_no_data(tmp_path: Path) -> None:
    for folder in ("ants", "bees", ".cache", "__MACOSX"):
        (tmp_path / folder).mkdir()
        Image.new("L", (4, 4) if folder in ("ants", "bees") else (5, 5)).save(tmp_path / folder / "a.png")
    (tmp_path / "ants" / "._a.png").write_bytes(b"no image")
    data = load_data(tmp_path)
    assert len(data) == data.num_classes == 2


def test_an_image_beside_the_classes_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "ants").mkdir()
    for place in ("ants/1.png", "cover.png"):
        Image.new("L", (4, 4)).save(tmp_path / place)
    with pytest.raises(DataError, match="cover.png lies beside folders with images"):
        load_data(tmp_path)


def test_images_deeper_than_classes_say_why_they_have_none(tmp_path: Path) -> None:
    (tmp_path / "train" / "ants").mkdir(parents=True)
    Image.new("L", (4, 4)).save(tmp_path / "train" / "ants" / "1.png")
    with pytest.raises(DataError, match="its images lie 2 folders deep"):
        load_data(tmp_path).labelled()


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
        np.savez(path, weights=np.zeros((3, 3)), biases=np.zeros((3, 3)))
    elif kind == "npy":
        with path.open("wb") as file:
            np.save(file, np.zeros((3, 2)))
    elif kind == "opacity":
        np.savez(path, x=np.zeros((5, 8, 8, 4), dtype=np.uint8))
    elif kind == "huge":
        np.savez(path, x=np.full((3, 4, 4), 4095))
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
        ("npy", "an .npy file under another name"), ("opacity", r"1 or 3 channels.* got 4 in \[5, 4, 8, 8\]"),
        ("huge", "must lie within ±1000, got one of size 4095"),
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


@pytest.mark.parametrize("source", ["moons", "digits", "good.npz"])
def test_a_split_that_is_none_is_refused_whatever_the_source(source: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "good.npz", x=np.zeros((4, 2)))
    with pytest.raises(ValueError, match="unknown split 'tset'; did you mean 'test'"):
        load_data(tmp_path / source if source.endswith("npz") else source, split="tset")  # pyright: ignore


def test_what_has_no_test_part_says_so(tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    for source in ("moons", "digits", tmp_path):
        with pytest.raises(DataError, match="split must be 'train' for .* has no test part"):
            load_data(source, split="test")


def test_a_folder_is_not_named_like_a_data_set(tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "digits"
    folder.mkdir()
    Image.new("L", (4, 4)).save(folder / "a.png")
    monkeypatch.chdir(folder)
    for source in (folder, f"{folder}/", "."):
        assert load_data(source).name == "digits/"
    assert load_data("digits").name == "digits"


def test_a_folder_of_something_else_is_left_before_it_is_walked(tmp_path: Path) -> None:
    for i in range(40):
        (tmp_path / f"{i:02}").mkdir()
        for j in range(40):
            (tmp_path / f"{i:02}" / f"{j}.txt").touch()
    Image.new("L", (4, 4)).save(tmp_path / "39" / "a.png")
    with pytest.raises(DataError, match="must be a folder of images .* of the first 1.* only 0 are images"):
        load_data(tmp_path)


def test_captions_beside_images_are_left_out(tmp_path: Path) -> None:
    for i in range(1200):
        (tmp_path / f"{i}.txt").touch()
        Image.new("L", (1, 1)).save(tmp_path / f"{i}.png")
    assert len(load_data(tmp_path)) == 1200
