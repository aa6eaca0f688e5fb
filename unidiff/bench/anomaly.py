"""``unidiff bench anomaly``: each class of images left out in turn as the anomaly, scored by an energy and its rivals.

The data are halved, class by class. Of one half all classes but one are learned; of the other half every image is scored,
and the class that was left out is to score high. A figure is the area under the ROC curve: the chance that an image of the
class left out scores above one of the others (½ is a coin, 1 is perfect).

- energy: E(x, t) = −log q_t up to a constant, of a scalar network over noise levels; it learns by denoising, and if asked by
  telling each level's data from the next one's, as DxMI's value does, and no policy is made. The score is E(α_t x, t) at
  log-SNR ``log_snr``.
- pca: the squared error of the image that the leading principal components give back.
- svm: scikit-learn's one-class support vector machine, of Gaussian kernel (Schölkopf et al. 2001), as wide as its default.
- narrow svm: the same with γ ``narrow`` times larger.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from unidiff.bench import few_steps, machine
from unidiff.bench.images import halves
from unidiff.bench.timing import seconds
from unidiff.core.boundary import check_count, check_once, check_positive, check_real, check_seed, check_share
from unidiff.core.denoiser import Denoiser
from unidiff.core.diffusion import Diffusion
from unidiff.core.grid import TimeGrid
from unidiff.core.networks import MLP, GradientField
from unidiff.core.schedule import Schedule
from unidiff.ebm import EnergyModel
from unidiff.ebm.learning import DenoisingScoreMatching, RatioChain
from unidiff.train import Dataset, EnergyConfig, EnergyTrainer, load_data

LEVELS = 10  # of noise that are told apart


@dataclasses.dataclass(frozen=True)
class AnomalyBenchOptions:
    """Find the images of a class that was not learned, each class in turn, by an energy, PCA and one-class SVMs.

    Attributes:
        data: labelled images: digits, or an .npz file.
        classes: which are left out, one after the other; all of them if left out.
        steps: of each energy's training by denoising.
        ratio_steps: after them, of telling each level's data from the next one's.
        log_snr: where the energy is read.
        components: of PCA.
        nu: of the SVM, the share of what it has learned that it may put outside, in (0, 1].
        narrow: the second SVM's kernel parameter γ, in units of scikit-learn's default.
        device: cpu, cuda or cuda:N; a GPU if there is one, if left out.
        seed: of all draws.
        out: folder of anomaly.json.
        json: print the JSON document instead of the table.

    Raises:
        TypeError, ValueError: naming the option.
    """

    data: str = "digits"
    classes: tuple[int, ...] = ()
    steps: int = 600
    ratio_steps: int = 0
    log_snr: float = 3.0
    components: int = 10
    nu: float = 0.1
    narrow: float = 30.0
    device: str | None = None
    seed: int = 0
    out: Path = Path("anomaly-bench")
    json: bool = False

    def __post_init__(self) -> None:
        for label in self.classes:
            check_count("classes", label, 0)
        check_once("classes", [str(label) for label in self.classes])
        for name, least in (("steps", 1), ("ratio_steps", 0), ("components", 1)):
            check_count(name, getattr(self, name), least)
        if not math.isfinite(check_real("log_snr", self.log_snr)):
            raise ValueError(f"log_snr must be finite, got {self.log_snr}")
        check_share("nu", check_positive("nu", self.nu))
        check_positive("narrow", self.narrow)
        check_seed(self.seed)

    @property
    def place(self) -> torch.device:
        """Where to compute."""
        return machine.chosen(self.device)


def fitted_energy(data: Dataset, options: AnomalyBenchOptions) -> Callable[[Tensor], Tensor]:
    """The energy of ``data``, as a score of images ``[n, D]``."""
    schedule = Schedule.cosine()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        network = GradientField(MLP(data.x.shape[1], 256, 3, outputs=1), "scalar")
    denoiser = Denoiser(network, data.event_shape, "x0", "edm", data_std=data.spread("an energy"))
    model = EnergyModel.of(Diffusion(schedule, denoiser).to(options.place))
    times = tuple(TimeGrid.heard(LEVELS - 1, schedule, *few_steps.ENDS).times.tolist())
    for method, steps, lr in (
        (DenoisingScoreMatching(times=times), options.steps, 2e-3),
        (RatioChain(times), options.ratio_steps, 5e-4),
    ):
        if not steps:
            continue
        config = EnergyConfig(steps=steps, batch_size=128, lr=lr, warmup=20, ema=0.98, clip=100.0, seed=options.seed)
        model = EnergyTrainer(model.requires_grad_(True), data, method, config).fit()
    time = schedule.time(torch.tensor(options.log_snr, dtype=torch.float64))
    alpha = float(schedule.alpha(time))

    def score(x: Tensor) -> Tensor:
        with torch.no_grad():
            return model.energy(alpha * x.to(options.place), float(time)).cpu()

    return score


def fitted_pca(data: Dataset, options: AnomalyBenchOptions) -> Callable[[Tensor], Tensor]:
    """The squared error of what the leading components of ``data`` give back."""
    from sklearn.decomposition import PCA

    learned = PCA(min(options.components, *data.x.shape), random_state=0).fit(data.x.numpy())

    def score(x: Tensor) -> Tensor:
        back = torch.as_tensor(learned.inverse_transform(learned.transform(x.numpy())))
        return (x - back).square().sum(1)

    return score


def fitted_svm(data: Dataset, options: AnomalyBenchOptions, times: float = 1.0) -> Callable[[Tensor], Tensor]:
    """How far outside a one-class SVM of ``data`` puts an image; its γ is ``times`` 1/(D var x), the default."""
    from sklearn.svm import OneClassSVM

    x = data.x.numpy()
    learned = OneClassSVM(kernel="rbf", gamma=float(times / (x.shape[1] * x.var())), nu=options.nu).fit(x)  # pyright: ignore
    return lambda x: -torch.as_tensor(learned.decision_function(x.numpy()))


FITTED: dict[str, Callable[[Dataset, AnomalyBenchOptions], Callable[[Tensor], Tensor]]] = {
    "energy": fitted_energy,
    "pca": fitted_pca,
    "svm": fitted_svm,
    "narrow svm": lambda data, options: fitted_svm(data, options, options.narrow),
}


def measure(options: AnomalyBenchOptions, console: Console) -> tuple[dict[int, dict[str, float]], dict[str, float]]:
    """The area under the ROC curve of each class left out and each score, and each score's seconds in all."""
    from sklearn.metrics import roc_auc_score

    data = load_data(options.data, dtype=torch.float32)
    classes = data.num_classes
    if data.labels is None or classes is None or data.image_shape is None:
        raise ValueError(f"data must be labelled images, got {options.data!r} of shape {list(data.x.shape[1:])}")
    for label in options.classes:
        if label >= classes:
            raise ValueError(f"classes must lie in 0 … {classes - 1}, got {label}")
    learned, judged = halves(data.flatten(), options.seed)
    assert learned.labels is not None
    assert judged.labels is not None
    found: dict[int, dict[str, float]] = {}
    spent = dict.fromkeys(FITTED, 0.0)
    for label in track(options.classes or range(classes), "classes", console=console, transient=True):
        normal = learned.labels != label
        part = dataclasses.replace(learned, x=learned.x[normal], labels=learned.labels[normal])
        strange = (judged.labels == label).numpy()
        if not 0 < strange.sum() < len(strange) or not normal.any():
            raise ValueError(f"data must hold images of class {label} and of others, in both halves")
        found[label] = {}
        for name, fitted in FITTED.items():
            kept: list[Tensor] = []
            spent[name] += seconds(lambda f=fitted, p=part, k=kept: k.append(f(p, options)(judged.x)), options.place)
            found[label][name] = float(roc_auc_score(strange, kept[0].numpy()))
    return found, spent


def mean(found: dict[int, dict[str, float]], name: str) -> float:
    """Over the classes."""
    return sum(row[name] for row in found.values()) / len(found)


def table(options: AnomalyBenchOptions, found: dict[int, dict[str, float]], spent: dict[str, float]) -> Table:
    """A line for each class."""
    shown = Table(
        title=f"{options.data}, area under the ROC curve; {machine.named(options.place)}, torch {torch.__version__}"
    )
    shown.add_column("left out")
    for name in FITTED:
        shown.add_column(name, justify="right")
    for label, row in found.items():
        shown.add_row(str(label), *(f"{row[name]:.3f}" for name in FITTED))
    shown.add_section()
    shown.add_row("mean", *(f"{mean(found, name):.3f}" for name in FITTED))
    shown.add_row("seconds", *(f"{spent[name]:.1f}" for name in FITTED))
    return shown


def run(options: AnomalyBenchOptions) -> dict[str, Any]:
    """Measure, print, and write ``anomaly.json``; returns the document."""
    console = Console(stderr=options.json)
    found, spent = measure(options, console)
    told = dataclasses.asdict(options) | {"device": str(options.place), "classes": list(found)}
    document = {
        "options": {name: str(v) if isinstance(v, Path) else v for name, v in told.items() if name != "json"},
        "rows": [{"left_out": label} | row for label, row in found.items()],
        "mean": {name: mean(found, name) for name in FITTED},
        "seconds": spent,
    }
    text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "anomaly.json").write_text(text, encoding="utf-8")
    if options.json:
        sys.stdout.write(text)
    else:
        console.print(table(options, found, spent))
        console.print(f"{options.out}: anomaly.json", style="dim")
    return document
