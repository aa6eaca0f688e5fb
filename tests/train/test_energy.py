"""Learning an energy: a run is the same bits however it is stopped, ends on a known law, and says what went wrong."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import nn

import unidiff as ud
from unidiff.core.networks import MLP, GradientField
from unidiff.ebm import (
    ContrastiveDivergence,
    DenoisingScoreMatching,
    EnergyMethod,
    EnergyModel,
    NoiseContrastive,
    PersistentCD,
    RatioChain,
    RecoveryLikelihood,
)
from unidiff.mcmc import MALA, ULA
from unidiff.train import CheckpointError, Dataset, EnergyConfig, EnergyTrainer, TrainConfig, Trainer, load_core
from unidiff.worlds import Gaussian

LAW = Gaussian([0.4, -0.3], [[1.0, 0.5], [0.5, 0.8]])
WIDE = Gaussian([0.0, 0.0], [[2.0, 0.0], [0.0, 2.0]])
SMALL = EnergyConfig(steps=6, batch_size=16, log_every=2, checkpoint_every=3, lr=1e-2)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def data(n: int = 200) -> torch.Tensor:
    return LAW.to(torch.float32).sample(n, seeded())


class Net(nn.Module):
    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.body = MLP(2, 16, 2, outputs=1)
        self.scale = scale

    def forward(self, x: torch.Tensor, t: torch.Tensor | None = None) -> torch.Tensor:
        noise = torch.zeros(len(x)) if t is None else 4 - 8 * t
        return self.scale * (self.body(x, noise).reshape(-1) + 0.5 * x.square().sum(1))


def plain() -> EnergyModel:
    return EnergyModel(Net(), (2,))


def timed() -> EnergyModel:
    return EnergyModel(Net(), (2,), schedule=ud.Schedule.cosine())


def cored() -> EnergyModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        core = ud.Diffusion(
            ud.Schedule.cosine(), ud.Denoiser(GradientField(MLP(2, 16, 2), "inner"), (2,), "x0", preconditioning="edm")
        )
    return EnergyModel.of(core)


EACH: list[tuple[EnergyMethod, Any]] = [
    (ContrastiveDivergence(2, ULA(0.05), regulariser=0.1), plain),
    (PersistentCD(2, MALA(0.2), capacity=40, start=WIDE), plain),
    (DenoisingScoreMatching(sigma=0.3), plain),
    (DenoisingScoreMatching(), cored),
    (NoiseContrastive(WIDE, 2.0), plain),
    (RatioChain((0.2, 0.6, 1.0)), timed),
    (RecoveryLikelihood((0.2, 0.5, 0.8), 2), cored),
]
NAMES = [method.name for method, _ in EACH]


@pytest.mark.parametrize(("method", "make"), EACH, ids=NAMES)
def test_a_resumed_run_ends_in_the_same_bits(tmp_path, method, make) -> None:
    whole = EnergyTrainer(make(), data(), method, SMALL)
    whole.fit()
    part = EnergyTrainer(make(), data(), method, EnergyConfig(**{**vars(SMALL), "out": str(tmp_path)}))
    for _ in range(3):
        part.advance()
    part.save(tmp_path / "checkpoint.safetensors")
    again = EnergyTrainer.resume(tmp_path, make(), data(), method)
    assert again.step == 3
    again.fit()
    for mine, theirs in ((again.whole, whole.whole), (again.ema.module, whole.ema.module)):
        kept = theirs.state_dict()
        assert all(torch.equal(t, kept[name]) for name, t in mine.state_dict().items())
    assert torch.equal(again.generator.get_state(), whole.generator.get_state())
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 6]
    assert all(math.isfinite(line["loss"]) and line["grad_norm"] > 0 for line in lines)


@pytest.mark.parametrize(("method", "make"), EACH, ids=NAMES)
def test_another_seed_is_another_run(method, make) -> None:
    ends = []
    for seed in (0, 1):
        trainer = EnergyTrainer(make(), data(), method, EnergyConfig(**{**vars(SMALL), "seed": seed}))
        trainer.fit()
        ends.append(torch.cat([p.detach().flatten() for p in trainer.trained]))
    assert not torch.equal(*ends)


def test_a_core_that_was_trained_is_loaded_as_any_other(tmp_path) -> None:
    trainer = EnergyTrainer(
        cored(), data(), DenoisingScoreMatching(), EnergyConfig(**{**vars(SMALL), "out": str(tmp_path)})
    )
    model = trainer.fit()
    loaded = EnergyModel.of(load_core(tmp_path))
    x = data(5)
    torch.testing.assert_close(loaded.energy(x, 0.3), model.energy(x, 0.3), rtol=0, atol=0)


class Quadratic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.root = nn.Parameter(torch.eye(2))
        self.mean = nn.Parameter(torch.zeros(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0.5 * ((x - self.mean) @ self.root).square().sum(1)


@pytest.mark.statistical
@pytest.mark.parametrize(
    "method",
    [pytest.param(PersistentCD(3, MALA(0.3), capacity=500), marks=pytest.mark.slow), NoiseContrastive(WIDE, 2.0)],
    ids=["pcd", "nce"],
)
def test_a_run_ends_on_the_datas_law(method) -> None:
    # KL(data's own Gaussian ‖ model): the fit of the 4000 data themselves, up to the noise of batches of 500 averaged over
    # the last tenth. Untrained it is 0.32 nats; five parameters off by one standard error of a single batch cost 0.005.
    energy = Quadratic()
    x = LAW.to(torch.float32).sample(4000, seeded())
    EnergyTrainer(
        EnergyModel(energy, (2,)), x, method, EnergyConfig(steps=400, batch_size=500, lr=3e-2, warmup=10)
    ).fit()
    own = Gaussian(x.mean(0).double(), torch.cov(x.T).double())
    root, mean = energy.root.detach().double(), energy.mean.detach().double()
    precision, off = root @ root.T, own.mean - mean
    kl = 0.5 * (
        (precision @ own.covariance).trace() - 2 - torch.logdet(precision @ own.covariance) + off @ precision @ off
    )
    assert float(kl) < 0.01


@pytest.mark.slow
def test_the_denoisers_trainer_learns_an_energy_as_it_is() -> None:
    # The same loop, a network that is a gradient field: what comes out has an energy whose gradient is its score.
    config = TrainConfig(steps=300, batch_size=256, lr=3e-3, device="cpu", warmup=10, log_every=100)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        field = GradientField(MLP(2, 32, 2), "inner")
    core = ud.Diffusion(ud.Schedule.cosine(), ud.Denoiser(field, (2,), "x0", preconditioning="edm"))
    law = ud.worlds.library.mixture_2d().to(torch.float32)
    trained = EnergyModel.of(Trainer(core, Dataset(law.sample(4000, seeded())), config).fit())
    t = 0.4
    level = core.schedule.level(t)
    noised = law.diffuse(float(level.alpha), float(level.sigma))
    x = noised.sample(2000, seeded(1))
    error = (trained.score(x, t).detach() - noised.score(x)).square().sum(1).mean()
    gaussian = Gaussian(noised.mean, noised.covariance).score(x)
    assert float(error) < 0.25 * float((gaussian - noised.score(x)).square().sum(1).mean())
    # The energy is −log q_t up to one constant: their difference hardly varies where the law is.
    apart = trained.energy(x, t).detach() + noised.log_prob(x)
    assert float(apart.std()) < 0.25


def test_progress_is_told_and_interrupts_are_kept(tmp_path) -> None:
    seen: list[float] = []
    config = EnergyConfig(**{**vars(SMALL), "out": str(tmp_path)})
    trainer = EnergyTrainer(plain(), data(), DenoisingScoreMatching(sigma=0.3), config)
    trainer.fit(lambda own, line: seen.append(line["step"]))
    assert seen == [2, 4, 6]
    with pytest.raises(TypeError, match="on_log must be callable"):
        trainer.fit(3)  # pyright: ignore


def test_energies_that_are_not_finite_stop_the_run_and_say_where(tmp_path) -> None:
    calls: list[int] = []

    class Breaks(Net):
        def forward(self, x: torch.Tensor, t: torch.Tensor | None = None) -> torch.Tensor:
            calls.append(1)
            value = super().forward(x, t)
            return torch.where(torch.arange(len(x)) < 2, math.nan, value) if len(calls) > 12 else value

    config = EnergyConfig(**{**vars(SMALL), "out": str(tmp_path)})
    trainer = EnergyTrainer(EnergyModel(Breaks(), (2,)), data(), ContrastiveDivergence(2, ULA(1e-3)), config)
    with pytest.raises(
        FloatingPointError, match=r"NaN or infinity at 2 of 16 data, \d+ of 16 chains, in step 5; lower lr"
    ):
        trainer.fit()
    # The checkpoint of step 3 is as it was.
    assert EnergyTrainer.resume(tmp_path, plain(), data(), ContrastiveDivergence(2, ULA(1e-3))).step == 3


def test_what_is_not_the_runs_is_refused(tmp_path) -> None:
    method = ContrastiveDivergence(2, ULA(0.05))
    EnergyTrainer(plain(), data(), method, EnergyConfig(**{**vars(SMALL), "out": str(tmp_path)})).fit()
    for own, message in (
        (ContrastiveDivergence(3, ULA(0.05)), "method must be the run's: its steps is 2, got 3"),
        (ContrastiveDivergence(2, MALA(0.05)), "method must be the run's: its kernel is .*ULA.*, got .*MALA"),
        (DenoisingScoreMatching(sigma=0.1), "method must be the run's: its name is 'cd', got 'dsm'"),
    ):
        with pytest.raises(ValueError, match=message):
            EnergyTrainer.resume(tmp_path, plain(), data(), own)
    with pytest.raises(ValueError, match="data must be what the run trained on"):
        EnergyTrainer.resume(tmp_path, plain(), data() + 1, method)
    with pytest.raises(ValueError, match="model must have the run's tau, 1, got 2"):
        EnergyTrainer.resume(tmp_path, EnergyModel(Net(), (2,), tau=2.0), data(), method)
    with pytest.raises(ValueError, match="unknown change 'lr'"):
        EnergyTrainer.resume(tmp_path, plain(), data(), method, lr=1.0)
    with pytest.raises(CheckpointError, match="does not hold the run that it describes"):
        EnergyTrainer.resume(tmp_path, EnergyModel(Quadratic(), (2,)), data(), method)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        EnergyTrainer.resume(tmp_path / "nowhere", plain(), data(), method)
    Trainer.start(
        TrainConfig(network="mlp", width=8, depth=1, steps=1, batch_size=4, out=str(tmp_path / "other"), device="cpu"),
        Dataset(data()),
    ).fit()
    with pytest.raises(CheckpointError, match="holds no run of an energy to resume"):
        EnergyTrainer.resume(tmp_path / "other", plain(), data(), method)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be an integer of at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
        ({"lr": 0.0}, "lr must be positive and finite, got 0.0"),
        ({"ema": 1.0}, r"ema must lie in \[0, 1\), got 1.0"),
        ({"decay": "linear"}, "unknown decay 'linear'"),
        ({"warmup": -1}, "warmup must be an integer of at least 0, got -1"),
        ({"seed": -1}, "seed must be an integer"),
    ],
)
def test_options_out_of_range_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        EnergyConfig(**options)


def test_a_trainer_of_nothing_is_refused() -> None:
    method = ContrastiveDivergence()
    with pytest.raises(ValueError, match="model must have parameters to train"):
        EnergyTrainer(EnergyModel(lambda x: x.square().sum(1), (2,)), data(), method)
    with pytest.raises(ValueError, match=r"data must have the model's event shape \[2\], data has \[3\]"):
        EnergyTrainer(plain(), torch.zeros(4, 3), method)
    with pytest.raises(TypeError, match="method must be a EnergyMethod"):
        EnergyTrainer(plain(), data(), "cd")  # pyright: ignore
    with pytest.raises(TypeError, match="model must be a EnergyModel"):
        EnergyTrainer(Net(), data(), method)  # pyright: ignore
