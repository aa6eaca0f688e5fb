r"""A training run against the same run written out, from the loss to the average; and the order of its data."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from unidiff.core.diffusion import Diffusion
from unidiff.identities.case import Case
from unidiff.identities.laws import Algebraic, MonteCarlo, Sides
from unidiff.identities.registry import register
from unidiff.train.config import TrainConfig
from unidiff.train.data import Dataset
from unidiff.train.order import DataOrder
from unidiff.train.trainer import Trainer

_STEPS, _BATCH, _CLASSES = 6, 12, 3
_RUNS: tuple[dict[str, Any], ...] = (
    {"weighting": "min-snr", "min_snr_gamma": 0.7, "prediction": "v"},
    {"weighting": "sigmoid", "sigmoid_bias": -1.0, "prediction": "eps"},
    {"weighting": "edm", "prediction": "x0", "preconditioning": "edm"},
)


def _here(case: Case) -> bool:
    # The run has a schedule, data and parameters of its own: once is enough.
    return case.world_name == "mixture-2d" and case.schedule_name == "linear" and case.device.type == "cpu"


@register
class TrainerSteps(Algebraic):
    """Six steps of a trainer, through two epochs, against AdamW written out on the weighted loss: log, parameters, average.

    Written: the error by the core's ε̂, each weighting from its paper, the gradient scaled to the clip (torch adds 1e-6 to
    the norm), the moments, the decay of weights, warm-up and cosine, classes dropped to the null one, the average in time.
    Shared: the draws, by the seeds that the documentation names. κ: θ and the distance walked, at the condition of m/√v.
    """

    name = "trainer-steps"
    statement = (
        r"\theta\leftarrow(1-\eta_n\omega)\theta-\eta_n\frac{\hat m}{\sqrt{\hat v}+\epsilon},\quad "
        r"g=\min\left(1,\frac{c}{\|\nabla L\|}\right)\nabla L,\quad \eta_n=\eta\min\left(1,\tfrac{n+1}{W}\right)"
        r"\tfrac{1+\cos\pi n/N}{2}"
    )
    views = ("core", "vae", "score")
    source = "Loshchilov & Hutter 2019, algorithm 2; Loshchilov & Hutter 2017, eq. 5; Ho & Salimans 2022, algorithm 1"
    conditions = "trainers of their own, in float64: a weighting and an output each"
    subject = "schedule"

    def applies(self, case: Case) -> bool:
        return _here(case) and case.dtype == torch.float64

    def sides(self, case: Case) -> Iterable[Sides]:
        # Not centred, and few enough that the run meets each twice.
        x = 1.5 + case.x0[: _STEPS * _BATCH // 2].cpu()
        labels = torch.arange(len(x)) % _CLASSES
        for options in _RUNS:
            config = TrainConfig(
                network="mlp", width=6, depth=1, steps=_STEPS, batch_size=_BATCH, lr=0.05, warmup=3, weight_decay=0.3,
                clip=0.02, ema=0.2, conditional=True, label_dropout=0.4, log_every=1, dtype="float64", device="cpu",
                seed=case.seed % 2**31, **options,
            )  # fmt: skip
            trainer = Trainer.start(config, Dataset(x, labels, "drawn"))
            written = _Written(trainer.core, config, x, labels)
            if config.preconditioning == "edm":
                own = torch.tensor([trainer.core.denoiser.data_std], dtype=torch.float64)  # pyright: ignore
                yield Sides(own, torch.tensor([written.std], dtype=torch.float64), own + x.abs().max())
            told: list[dict[str, float]] = []
            averaged = trainer.fit(lambda _, line, told=told: told.append(line))
            lines = [written.step() for _ in range(_STEPS)]
            own = torch.tensor(
                [[line[name] for name in ("loss", "grad_norm", "lr")] for line in told], dtype=torch.float64
            )
            theirs = torch.tensor(lines, dtype=torch.float64)
            yield Sides(own, theirs, theirs.abs() * (1 + written.walked()))
            pairs = ((trainer.core, written.parameters), (averaged, written.average))
            for core, values in pairs:
                own = torch.cat([p.detach().flatten() for p in core.denoiser.parameters()])  # pyright: ignore
                theirs = torch.cat([v.flatten() for v in values])
                yield Sides(own, theirs, theirs.abs() + written.walked())


class _Written:
    """The run of ``config`` from the parameters of ``core`` as they are now."""

    def __init__(self, core: Diffusion, config: TrainConfig, x: Tensor, labels: Tensor) -> None:
        self.core, self.config, self.x, self.labels = copy.deepcopy(core), config, x, labels
        self.parameters = [p.detach().clone() for p in self.core.denoiser.parameters()]  # pyright: ignore
        self.average = [p.clone() for p in self.parameters]
        self.first = [torch.zeros_like(p) for p in self.parameters]
        self.second = [torch.zeros_like(p) for p in self.parameters]
        self.order = DataOrder(len(x), config.seed)
        self.noise = torch.Generator().manual_seed(config.seed)
        self.times = torch.Generator().manual_seed(config.seed + 1)
        self.std = float((x - x.mean(0)).square().mean().sqrt())
        self.n, self.paths, self.steepest = 0, 0.0, 1.0

    def step(self) -> tuple[float, float, float]:
        """One step; its loss, the norm of its gradient and its rate."""
        config, n = self.config, self.n
        loss = self._loss()
        gradient = torch.autograd.grad(loss, list(self.core.denoiser.parameters()))  # pyright: ignore
        norm = math.sqrt(sum(float(g.square().sum()) for g in gradient))
        rate = config.lr * min(1.0, (n + 1) / config.warmup) * math.cos(math.pi * n / (2 * config.steps)) ** 2  # pyright: ignore
        keep = min(config.ema, (n + 1) / (n + 10)) if n else 0.0
        for k, g in enumerate(gradient):
            shrunk = g * min(1.0, config.clip / (norm + 1e-6))
            self.first[k] = 0.9 * self.first[k] + 0.1 * shrunk
            self.second[k] = 0.999 * self.second[k] + 0.001 * shrunk.square()
            mean, square = self.first[k] / (1 - 0.9 ** (n + 1)), self.second[k] / (1 - 0.999 ** (n + 1))
            old = self.parameters[k]
            self.parameters[k] = old - rate * config.weight_decay * old - rate * mean / (square.sqrt() + 1e-8)
            self.average[k] = keep * self.average[k] + (1 - keep) * self.parameters[k]
            least = float(square.sqrt().min()) + 1e-8
            self.steepest = max(self.steepest, float(square.sqrt().max()) / least)
        self.paths += rate
        self.n += 1
        with torch.no_grad():
            for p, value in zip(self.core.denoiser.parameters(), self.parameters, strict=True):  # pyright: ignore
                p.copy_(value)
        return float(loss.detach()), norm, rate

    def walked(self) -> float:
        """Each step moves a parameter by about the rate, however small its gradient, whose rounding is the largest's."""
        return self.paths * self.steepest * self.n

    def _loss(self) -> Tensor:
        index = self.order.next(_BATCH)
        x0 = self.x[index]
        start = torch.rand((), generator=self.times, dtype=torch.float64)
        t = (start + torch.arange(_BATCH, dtype=torch.float64) / _BATCH) % 1.0
        dropped = torch.rand(_BATCH, generator=self.noise) < self.config.label_dropout
        label = self.labels[index] * ~dropped + _CLASSES * dropped
        eps = torch.randn(x0.shape, generator=self.noise, dtype=torch.float64)
        schedule = self.core.schedule
        alpha, sigma, log_snr = schedule.alpha(t), schedule.sigma(t), schedule.log_snr(t)
        xt = alpha[:, None] * x0 + sigma[:, None] * eps
        x0_hat = self.core.predict(xt, t, label).x0
        error = (alpha / sigma).square() * (x0 - x0_hat).square().sum(1)
        return (self._weight(log_snr, -schedule.log_snr_derivative(t)).detach() * error).mean() / x0.shape[1]

    def _weight(self, log_snr: Tensor, rate: Tensor) -> Tensor:
        """On ‖ε − ε̂‖², a density of t: Hang et al. 2023, eq. 7; Kingma & Gao 2023, table 1; Karras et al. 2022, table 1."""
        config, snr = self.config, log_snr.exp()
        if config.weighting == "min-snr":
            return snr.clamp(max=config.min_snr_gamma) / snr
        if config.weighting == "sigmoid":
            return 0.5 * rate / (1 + (log_snr - config.sigmoid_bias).exp())
        # Their σ is (α/σ)⁻¹, ln σ ~ N(−1.2, 1.2²), and their λ(σ) = (σ² + σ_d²)/(σσ_d)² multiplies ‖x_0 − x̂_0‖².
        spread = (-0.5 * log_snr).exp()
        log_sigma = -0.5 * log_snr
        density = torch.exp(-0.5 * ((log_sigma + 1.2) / 1.2) ** 2) / (1.2 * math.sqrt(2 * math.pi))
        scale = (spread.square() + self.std**2) / (spread * self.std) ** 2
        return density * 0.5 * rate * scale / snr


@register
class DataOrderEpochs(Algebraic):
    """Each epoch of the data's order holds each datum once, whatever the batch. κ: the indices."""

    name = "epoch-is-permutation"
    statement = r"\{i_{en},\ldots,i_{en+n-1}\}=\{0,\ldots,n-1\}"
    views = ("core",)
    source = "Bottou 2009 (random shuffling)"
    conditions = "the trainer's order of 37 data in batches of 5"
    subject = "schedule"

    def applies(self, case: Case) -> bool:
        return _here(case)

    def sides(self, case: Case) -> Iterable[Sides]:
        n, size = 37, 5
        order = DataOrder(n, case.seed % 2**31)
        stream = torch.cat([order.next(size) for _ in range(n)]).reshape(size, n)
        own, every = stream.sort(1).values.to(case.dtype), torch.arange(n).expand(size, n).to(case.dtype)
        yield Sides(own, every, 1 + every)


@register
class DataOrderWhite(MonteCarlo):
    """A datum's places in an epoch tell nothing: not of the datum, nor of its place in the next. Size: their variance."""

    name = "epochs-are-shuffled"
    statement = (
        r"E\left[(i-\bar\imath)(\pi_e(i)-\bar\imath)\right]=0="
        r"E\left[(\pi_e(i)-\bar\imath)(\pi_{e+1}(i)-\bar\imath)\right]"
    )
    views = ("core",)
    source = "Bottou 2009 (random shuffling)"
    conditions = "the trainer's order of 37 data, 512 pairs of epochs"
    subject = "schedule"

    def applies(self, case: Case) -> bool:
        return _here(case) and case.dtype == torch.float64

    def differences(self, case: Case) -> tuple[Tensor, Tensor]:
        n = 37
        order = DataOrder(n, case.seed % 2**31)
        places = torch.stack([order.next(n).argsort() for _ in range(1024)]).to(torch.float64)
        centred = places - (n - 1) / 2
        datum = torch.arange(n, dtype=torch.float64) - (n - 1) / 2
        pairs = centred.reshape(512, 2, n)
        found = torch.stack([(pairs[:, 0] * datum).mean(1), (pairs[:, 0] * pairs[:, 1]).mean(1)], 1)
        return found, torch.full((2,), (n**2 - 1) / 12, dtype=torch.float64)
