"""The data that ``likelihood`` and ``elbo`` are measured on: a named set, a file, a checkpoint's own, a world's draws."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from unidiff.core.boundary import check_condition, check_count, check_name

if TYPE_CHECKING:
    from torch import Tensor

    from unidiff.core.diffusion import Diffusion
    from unidiff.train.data import Dataset
    from unidiff.train.files import Split
    from unidiff.worlds import World


class Asked(Protocol):
    """The options that say which data, read and not written."""

    @property
    def checkpoint(self) -> Path | None:
        """A checkpoint's file, or a run's folder."""
        ...

    @property
    def world(self) -> str | None:
        """A closed-form world's name."""
        ...

    @property
    def data(self) -> str | None:
        """A data set's name, or a path."""
        ...

    @property
    def n(self) -> int:
        """How many data, at most."""
        ...

    @property
    def condition(self) -> str | None:
        """A class, or "labels"."""
        ...

    @property
    def device(self) -> str:
        """Where to compute."""
        ...

    @property
    def dtype(self) -> str:
        """float32 or float64."""
        ...

    @property
    def seed(self) -> int:
        """Of every random draw."""
        ...


def check_world(name: str | None, dense: bool) -> None:
    """Refuse an unknown world, and a finite data set where a density is asked for. Raises ValueError."""
    from unidiff.worlds import PointCloud, library

    if name is None:
        return
    check_name("world", name, library.names())
    if dense and isinstance(library.get(name), PointCloud):
        raise ValueError(f"world must have a density, got {name!r}, a finite data set")


def label(condition: str | None) -> int | None:
    """The class for all; None without one, or with each datum's own. Raises ValueError for what is neither."""
    if condition is None or condition == "labels":
        return None
    try:
        return int(condition)
    except ValueError:
        raise ValueError(f"condition must be a class or 'labels', got {condition!r}") from None


def measured_on(options: Asked, core: Diffusion) -> tuple[Dataset, World | None, Any]:
    """The data on the options' device, their law where it is known, and the generator, on the host, that drew them."""
    import torch

    from unidiff.identities.subjects import DTYPES
    from unidiff.train.checkpoint import read
    from unidiff.train.data import Dataset, load_data
    from unidiff.train.data import names as data_names
    from unidiff.train.toys import LAWS
    from unidiff.worlds import library

    dtype, device = DTYPES[options.dtype], torch.device(options.device)
    generator = torch.Generator().manual_seed(options.seed)
    world = None if options.world is None else library.get(options.world).to(dtype, device)
    name = options.data
    if name is None and world is not None:
        return _drawn(options, world.to(device="cpu"), core, generator).to(device=device), world, generator
    if name is None:
        assert options.checkpoint is not None
        name = read(options.checkpoint).about.get("data", {}).get("name")
        if name not in data_names():
            raise ValueError(
                f"data must be named for a checkpoint trained on {name!r}; known: {', '.join(data_names())}"
            )
    data = load_data(name, n=options.n, split=part_of(options, name) or "train", dtype=dtype, generator=generator)
    chosen = torch.randperm(len(data), generator=generator)[: options.n]
    x = data.x[chosen]
    if x[0].numel() != torch.Size(core.event_shape).numel():
        raise ValueError(
            f"data must have the core's shape {list(core.event_shape)}, {data.name} has {list(x.shape[1:])}"
        )
    check_count("number of data", len(x), least=2)
    if world is None and name in LAWS and len(core.event_shape) == 1:
        world = LAWS[name]().to(dtype, device)
    labels = None if data.labels is None else data.labels[chosen].to(device)
    x = x.reshape(len(x), *core.event_shape).to(device)
    return Dataset(x, labels, name=data.name, scale=data.scale, no_labels=data.no_labels), world, generator


def part_of(options: Asked, name: str) -> Split | None:
    """Which part of the data called ``name`` is measured: "test" where a file has one; None for what is drawn anew."""
    from unidiff.train.toys import TOYS

    if (options.data is None and options.world is not None) or name in TOYS:
        return None
    path = Path(options.data or name)
    return "test" if path.suffix == ".npz" and _has_test(path) else "train"


def labels_of(options: Asked, data: Dataset) -> Tensor | None:
    """The classes that the options ask for: one, each datum's own, or None. Raises ValueError for data without labels."""
    import torch

    if options.condition == "labels":
        if data.labels is None:
            why = "" if data.no_labels is None else f": {data.no_labels}"
            raise ValueError(f"condition 'labels' needs data with labels, and {data.name} has none{why}")
        return data.labels
    k = label(options.condition)
    return None if k is None else torch.tensor(k, device=data.x.device)


def level_count(data: Dataset) -> int | None:
    """How many levels the raw data have, from −1 to 1; None where they are real numbers."""
    return None if data.scale == 1.0 else round(2 / data.scale) + 1


def _drawn(options: Asked, world: World, core: Diffusion, generator: Any) -> Dataset:
    """A world's own draws: of one class, of each with its label, or of the whole."""
    import torch

    from unidiff.score.arguments import conditional_law
    from unidiff.train.data import Dataset
    from unidiff.worlds import GaussianMixture

    labels, k = None, label(options.condition)
    if options.condition == "labels" and isinstance(world, GaussianMixture):
        labels = torch.multinomial(world.weights, options.n, replacement=True, generator=generator)
    condition = labels if k is None else torch.full((options.n,), k)
    classes = getattr(core.denoiser, "num_classes", None)
    condition = check_condition(condition, 1.0, options.n, classes)
    law = conditional_law(core, world, condition, "a world's draws")
    return Dataset(law.sample(options.n, generator), labels, name=str(options.world))


def _has_test(path: Path) -> bool:
    import numpy as np

    from unidiff.train.data import DataError

    try:
        with np.load(path, allow_pickle=False) as archive:
            return any(key in archive.files for key in ("x_test", "test_images"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not a readable .npz file: {error}") from error
