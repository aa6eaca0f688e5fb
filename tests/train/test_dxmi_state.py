"""A run of DxMI stopped anywhere and resumed is the same bits; what it leaves is loaded; what is not its is refused."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import unidiff as ud
from tests.train.dxmi_runs import (
    GRID,
    KINDS,
    LAW,
    OPTIONS,
    SCHEDULE,
    SMALL,
    SQUARE,
    Head,
    bits,
    data,
    energy_core,
    grid_value,
    moved_levels,
    policy_core,
    same,
    seeded,
    small,
    with_cores,
    with_one_core,
)
from unidiff import DxMITrainer
from unidiff.core.networks import MLP
from unidiff.ebm import EnergyModel
from unidiff.train import CheckpointError, load_chain, load_core, load_value
from unidiff.train import checkpoint as checkpoints
from unidiff.train.checkpoint import Checkpoint
from unidiff.train.journal import read


def lines(folder: Path) -> list[dict[str, float]]:
    """The log, less the clock."""
    return [{k: v for k, v in line.items() if k != "seconds"} for line in read(folder / "metrics.jsonl")]


def check_same(one: Path, two: Path) -> None:
    """Every tensor and the log."""
    mine, yours = checkpoints.read(one), checkpoints.read(two)
    assert mine.tensors.keys() == yours.tensors.keys()
    assert [name for name, t in mine.tensors.items() if not torch.equal(t, yours.tensors[name])] == []
    assert lines(one) == lines(two)


class Stop(Exception):
    pass


def stop_at(at: int) -> Any:
    def stop(trainer: DxMITrainer, line: dict[str, float]) -> None:
        if trainer.round == at:
            raise Stop

    return stop


@pytest.mark.parametrize(("kind", "option"), SQUARE)
@moved_levels
def test_a_stop_in_the_middle_changes_no_bit(kind: str, option: str, tmp_path: Path) -> None:
    config = small(kind, **OPTIONS[option])
    whole = DxMITrainer(*KINDS[kind](), data(), dataclasses.replace(config, out=str(tmp_path / "whole")))
    whole.fit()
    # Stopped at 4, so resumed from 3: the line at 4 is made of rounds before the stop and after it.
    part = DxMITrainer(*KINDS[kind](), data(), dataclasses.replace(config, out=str(tmp_path / "part")))
    with pytest.raises(Stop):
        part.fit(stop_at(4))
    again = DxMITrainer.resume(tmp_path / "part", *KINDS[kind](), data())
    assert again.round == 3
    again.fit()
    check_same(tmp_path / "whole", tmp_path / "part")
    assert [line["step"] for line in lines(tmp_path / "whole")] == [2, 4, 6, 8]
    assert same(bits(whole.value), bits(again.value))
    assert same(bits(whole.chain.core), bits(again.chain.core))
    assert torch.equal(whole.generator.get_state(), again.generator.get_state())


def test_a_stop_within_the_start_changes_no_bit(tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, start=5, out=str(tmp_path / "whole"))
    DxMITrainer(*with_cores(), data(), config).fit()
    part = DxMITrainer(*with_cores(), data(), dataclasses.replace(config, out=str(tmp_path / "part")))
    with pytest.raises(Stop):
        part.fit(stop_at(4))
    DxMITrainer.resume(tmp_path / "part", *with_cores(), data()).fit()
    check_same(tmp_path / "whole", tmp_path / "part")


def test_ctrl_c_ends_the_run_after_its_round_and_loses_nothing(tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, checkpoint_every=100)
    DxMITrainer(*with_cores(), data(), dataclasses.replace(config, out=str(tmp_path / "whole"))).fit()
    trainer = DxMITrainer(*with_cores(), data(), dataclasses.replace(config, out=str(tmp_path / "part")))

    def interrupt(*_: object) -> None:
        if trainer.round == 4:
            os.kill(os.getpid(), signal.SIGINT)

    trainer.work.value_optimizer.register_step_post_hook(interrupt)  # the value has moved, the policy has not
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            trainer.fit()
    finally:
        signal.signal(signal.SIGINT, before)
    again = DxMITrainer.resume(tmp_path / "part", *with_cores(), data())
    assert again.round == 5
    again.fit()
    check_same(tmp_path / "whole", tmp_path / "part")


@pytest.mark.parametrize("kind", ["cores", "one core"])
def test_what_a_run_leaves_is_what_the_trainer_had(kind: str, tmp_path: Path) -> None:
    trainer = DxMITrainer(*KINDS[kind](), data(), small(kind, out=str(tmp_path)))
    chain = trainer.fit()
    loaded, x = load_chain(tmp_path), data(5, seed=3)
    assert loaded.grid == chain.grid == GRID
    assert chain.given is not None and loaded.given is not None
    assert torch.equal(loaded.given, chain.given)
    for k in range(1, GRID.steps + 1):
        torch.testing.assert_close(loaded.step(x, k).mean, chain.step(x, k).mean, rtol=0, atol=0)
    value = load_value(tmp_path)
    assert value.tau == trainer.value.tau
    torch.testing.assert_close(value.energy(x, 0.3), trainer.value.energy(x, 0.3), rtol=0, atol=0)
    own = load_core(tmp_path).predict(x, 0.4).x0
    torch.testing.assert_close(own, chain.core.predict(x, 0.4).x0, rtol=0, atol=0)
    live = load_core(tmp_path, ema=False).predict(x, 0.4).x0
    assert not torch.equal(own, live)
    torch.testing.assert_close(live, trainer.work.policy.core.predict(x, 0.4).x0, rtol=0, atol=0)


def test_what_a_trainer_hands_out_is_a_copy_in_evaluation_mode() -> None:
    trainer = DxMITrainer(*with_cores(), data(), SMALL)
    trainer.advance()
    chain, value = trainer.chain, trainer.value
    kept = bits(chain.core), bits(value)
    assert chain.given is not None
    table = chain.given.clone()
    trainer.fit()
    assert same(kept[0], bits(chain.core)) and same(kept[1], bits(value)) and torch.equal(chain.given, table)
    assert not same(kept[0], bits(trainer.chain.core)) and not same(kept[1], bits(trainer.value))
    assert not chain.core.training and not value.training


@moved_levels
def test_a_run_whose_value_is_no_core_leaves_its_chain_alone(tmp_path: Path) -> None:
    DxMITrainer(*KINDS["a grid"](), data(), dataclasses.replace(SMALL, out=str(tmp_path))).fit()
    assert load_chain(tmp_path).steps == GRID.steps
    with pytest.raises(CheckpointError, match="does not hold a value of DxMI"):
        load_value(tmp_path)


@moved_levels
def test_what_is_not_the_runs_is_refused(tmp_path: Path) -> None:
    DxMITrainer(*with_cores(), data(), dataclasses.replace(SMALL, out=str(tmp_path))).fit()
    chain, value = with_cores()
    other = ud.Schedule.cosine(6.0, -5.0)
    for arguments, message in (
        ((chain, value, data() + 1), "data must be the run's, to the bit"),
        ((chain, value, data()[:5]), "data must be the run's, to the bit"),
        ((chain, EnergyModel.of(energy_core(), 2.0), data()), "value must be the run's, with its temperature"),
        ((policy_core().chain(ud.TimeGrid.uniform(4)), value, data()), "chain must have the run's grid, of 3 steps"),
        ((policy_core(other).chain(GRID), EnergyModel.of(energy_core(other)), data()), "chain must be the run's, with"),
        ((*with_one_core(), data()), "velocity must be 'schedule' where the value is the chain's own"),
    ):
        with pytest.raises(ValueError, match=message):
            DxMITrainer.resume(tmp_path, *arguments)
    with pytest.raises(CheckpointError, match="does not hold the DxMI run that it describes"):
        DxMITrainer.resume(tmp_path, chain, grid_value(), data())
    with pytest.raises(ValueError, match="unknown change 'batch'"):
        DxMITrainer.resume(tmp_path, chain, value, data(), batch=3)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        DxMITrainer.resume(tmp_path / "nowhere", chain, value, data())
    assert DxMITrainer.resume(tmp_path, *with_cores(), data(), log_every=7).config.log_every == 7


@pytest.mark.parametrize("fault", ["dxmi", "run", "progress", "optimizer", "one slot", "index", "law", "random"])
def test_a_state_with_a_part_missing_or_misshapen_is_refused(fault: str, tmp_path: Path) -> None:
    DxMITrainer(*with_cores(), data(), dataclasses.replace(SMALL, out=str(tmp_path))).fit()
    kept = checkpoints.read(tmp_path)
    tensors, about = dict(kept.tensors), dict(kept.about)
    if fault in about:
        del about[fault]
    elif fault == "optimizer":
        tensors = {name: t for name, t in tensors.items() if not name.startswith("optimizer.policy")}
    elif fault == "one slot":
        del tensors["optimizer.value.1.exp_avg"]
    elif fault == "index":
        tensors["optimizer.policy.99.exp_avg"] = tensors["optimizer.policy.1.exp_avg"].clone()
    elif fault == "law":
        tensors["law.log_var"] = tensors["law.log_var"][:1]
    else:
        tensors["random.generator"] = tensors["random.generator"][:7]
    path = checkpoints.write(tmp_path / "bad.safetensors", Checkpoint(tensors, about))
    with pytest.raises(CheckpointError, match=r"bad\.safetensors .*holds? .*DxMI run") as found:
        DxMITrainer.resume(path, *with_cores(), data())
    assert "\n" not in str(found.value)


class Breaking(Head):
    """NaN at two of its states from the n-th call on; or a gradient that is infinite there."""

    def __init__(self, calls: int, kind: str) -> None:
        super().__init__()
        self.calls, self.kind = calls, kind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value = super().forward(x).reshape(-1)
        self.calls -= 1
        if self.calls >= 0:
            return value
        if self.kind == "energy":
            return torch.where(torch.arange(len(x)) < 2, math.nan, value)
        return value + (value - value.detach()).abs().sqrt()  # of slope 1/0


@pytest.mark.parametrize("kind", ["energy", "gradient"])
@pytest.mark.parametrize("start", [0, 6])
@moved_levels
def test_what_is_not_finite_stops_the_run_says_where_and_leaves_the_checkpoint(
    kind: str, start: int, tmp_path: Path
) -> None:
    config = dataclasses.replace(SMALL, start=start, checkpoint_every=1, out=str(tmp_path), batch=16)
    breaking = seeded(lambda: Breaking(10**9, kind), 2)

    class Timed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = breaking

        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return self.head(x).reshape(-1)

    value = EnergyModel(Timed(), (2,), schedule=SCHEDULE)
    trainer = DxMITrainer(policy_core().chain(GRID), value, data(), config)

    def arm(own: DxMITrainer, line: dict[str, float]) -> None:
        if own.round == 4:
            breaking.calls = 0

    count = r"[1-9]\d* energies" if kind == "energy" and not start else r"\d+ energies and [1-9]\d* numbers"
    with pytest.raises(FloatingPointError, match=rf"NaN or infinity in {count}.* in round 5; lower value_lr"):
        trainer.fit(arm)
    kept = checkpoints.read(tmp_path)
    assert kept.about["progress"]["round"] == 4
    assert all(bool(torch.isfinite(t).all()) for t in kept.tensors.values() if t.is_floating_point())


def test_a_policy_that_is_not_finite_is_found_in_its_own_round(tmp_path: Path) -> None:
    trainer = DxMITrainer(*with_cores(), data(), dataclasses.replace(SMALL, start=0, iterations=3, out=str(tmp_path)))
    seen: list[int] = []

    def spoil(optimizer: Any, *_: object) -> None:
        seen.append(1)
        if len(seen) == 3:  # in the last round: no other would find it
            for p in trainer.work.policy_parameters:
                p.register_hook(lambda slope: slope * math.nan)

    trainer.work.value_optimizer.register_step_post_hook(spoil)
    with pytest.raises(FloatingPointError, match=r"0 energies and [1-9]\d* numbers of losses and gradients in round 3"):
        trainer.fit()
    assert not (tmp_path / checkpoints.NAME).exists()


def test_a_core_that_cannot_be_described_is_trained_and_resumed_all_the_same(tmp_path: Path) -> None:
    def make() -> tuple[Any, EnergyModel]:
        denoiser = ud.Denoiser(seeded(Plain, 0), (2,), "x0", "edm")
        return ud.Diffusion(SCHEDULE, denoiser).chain(GRID), EnergyModel.of(energy_core())

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = MLP(2, 8, 1)

        def forward(self, x: torch.Tensor, noise: torch.Tensor, condition: object = None) -> torch.Tensor:
            return self.body(x, noise)

    whole = DxMITrainer(*make(), data(), SMALL)
    whole.fit()
    with pytest.raises(Stop):
        DxMITrainer(*make(), data(), dataclasses.replace(SMALL, out=str(tmp_path))).fit(stop_at(4))
    again = DxMITrainer.resume(tmp_path, *make(), data())
    again.fit()
    assert same(bits(whole.chain.core), bits(again.chain.core))
    with pytest.raises(CheckpointError, match="does not hold a chain of DxMI"):
        load_chain(tmp_path)


def test_a_world_is_drawn_of_by_the_seed() -> None:
    law = LAW.to(torch.float32)
    config = dataclasses.replace(SMALL, iterations=1, start=0)
    ends = [DxMITrainer(*with_cores(), law, dataclasses.replace(config, seed=s)).work.data for s in (0, 0, 1)]
    assert torch.equal(ends[0], ends[1]) and not torch.equal(ends[0], ends[2])
    assert torch.equal(ends[0], law.sample(2**17, torch.Generator().manual_seed(0)))
