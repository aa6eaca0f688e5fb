"""A fine-tuning run: the same bits however it is stopped, gradients that do not depend on how rows are dealt out, and what
it leaves alone."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import unidiff as ud
from unidiff.core.networks import MLP
from unidiff.rl import (
    D3PO,
    DDPO,
    DPO,
    DPOK,
    AdjointMatching,
    Backprop,
    DenoisingMDP,
    Method,
    Preferences,
    corrected,
    estimated_optimum,
    path_kl,
    trainable,
)
from unidiff.train import CheckpointError, FineTuneConfig, FineTuner, journal, load_core, save_core
from unidiff.train import checkpoint as checkpoints
from unidiff.train.checkpoint import Checkpoint
from unidiff.worlds.rewards import Linear

GRID = ud.TimeGrid.uniform(4)
SMALL = FineTuneConfig(rounds=4, chains=6, rows=16, epochs=2, log_every=2, checkpoint_every=1, lr=1e-2)


def seeded(make: Callable[[], Any], seed: int = 0) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def oracle() -> ud.Diffusion:
    world = ud.worlds.library.mixture_2d().to(torch.float32)
    return ud.Diffusion(ud.Schedule.cosine(), ud.worlds.OracleDenoiser(world))


def network(seed: int = 0, num_classes: int | None = 3) -> ud.Diffusion:
    def make() -> ud.Diffusion:
        net = MLP(2, 16, 2, num_classes)
        torch.nn.init.normal_(net.last.weight, std=0.1)  # a new network is zero: any change of it would look alike
        return ud.Diffusion(ud.Schedule.cosine(), ud.Denoiser(net, (2,), "v", num_classes=num_classes))

    return seeded(make, seed).eval()


def process(core: ud.Diffusion, beta: float = 0.5, variance: Any = "prior", grid: ud.TimeGrid = GRID) -> DenoisingMDP:
    return DenoisingMDP(core.chain(grid, variance), Linear(torch.tensor([1.0, 0.5])), beta=beta)


def pairs(condition: bool = False, seed: int = 0) -> Preferences:
    generator = torch.Generator().manual_seed(seed)
    winner, loser = torch.randn((2, 40, 2), generator=generator)
    labels = torch.randint(3, (40,), generator=generator) if condition else None
    return Preferences(winner + 1.0, loser, labels)


METHODS: dict[str, Method] = {
    "ddpo": DDPO(),
    "dpok": DPOK(width=8, depth=1),  # with a value, learned besides
    "backprop": Backprop(last=3, random=True),  # which draws within its loss
    "adjoint": AdjointMatching(),
    "dpo": DPO(draws=2).on(pairs()),
    "dpo-walks": DPO(draws=None, walks=True).on(pairs()),
    "d3po": D3PO(),
}
CORES = ("corrected", "low rank", "whole")


def tuner(method: Method, kind: str = "corrected", config: FineTuneConfig = SMALL, **changes: Any) -> FineTuner:
    reference, core = made(kind)
    return FineTuner(process(reference), core, method, dataclasses.replace(config, **changes))


def made(kind: str) -> tuple[ud.Diffusion, ud.Diffusion]:
    """A reference, and what is trained from it."""
    if kind == "corrected":
        reference = oracle()
        return reference, corrected(reference, seeded(lambda: MLP(2, 16, 2, 3)))
    reference = network()
    return reference, trainable(reference, 2 if kind == "low rank" else None)


def state(run: FineTuner) -> dict[str, Tensor]:
    from unidiff.train.finetune_state import collect

    return dict(collect(run).tensors)


def differing(one: dict[str, Tensor], two: dict[str, Tensor]) -> list[str]:
    assert one.keys() == two.keys()
    return [name for name, t in one.items() if not torch.equal(t, two[name])]


def lines(folder: Path) -> list[dict[str, float]]:
    """The log, less the clock."""
    return [{k: v for k, v in line.items() if k != "seconds"} for line in journal.read(folder / journal.NAME)]


class Stop(Exception):
    pass


def stopped(folder: Path, method: Method, kind: str, at: int, config: FineTuneConfig) -> FineTuner:
    """A run that broke off within round ``at`` + 1, resumed to its end."""
    run = tuner(method, kind, config, out=str(folder))
    step = run.optimizer.step

    def break_off(*arguments: Any, **options: Any) -> Any:
        if run.round == at:
            raise Stop
        return step(*arguments, **options)

    run.optimizer.step = break_off
    with pytest.raises(Stop):
        run.fit()
    reference, core = made(kind)
    again = FineTuner.resume(folder, process(reference), core, method)
    assert again.round == at - at % config.checkpoint_every
    again.fit()
    return again


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        # Each method once and each kind of core twice or more; the whole square in the slow run.
        pytest.param(name, kind, marks=[] if j == i % len(CORES) else pytest.mark.slow)
        for i, name in enumerate(METHODS)
        for j, kind in enumerate(CORES)
    ],
)
def test_a_run_broken_off_and_resumed_ends_in_the_same_bits(name: str, kind: str, tmp_path: Path) -> None:
    whole = tuner(METHODS[name], kind, out=str(tmp_path / "whole"))
    first = state(whole)
    whole.fit()
    again = stopped(tmp_path / "stopped", METHODS[name], kind, 2, SMALL)
    assert differing(state(whole), state(again)) == []
    assert lines(tmp_path / "whole") == lines(tmp_path / "stopped")
    assert [line["step"] for line in lines(tmp_path / "whole")] == [2, 4]
    assert all({"loss", "grad_norm", "reward", "kl", "lr"} <= line.keys() for line in lines(tmp_path / "whole"))
    assert any(name.startswith("tuned.") for name in differing(first, {n: state(whole)[n] for n in first}))


@pytest.mark.parametrize(
    "changes",
    [
        {"accumulate": 3, "rows": 8, "checkpoint_every": 2, "log_every": 3},
        {"condition": "random", "warmup": 3, "decay": "constant"},
        {"condition": 1, "ema": 0.0, "weight_decay": 0.1, "clip": 1e-2},
    ],
    ids=["accumulated, from a checkpoint two rounds old", "random classes", "one class"],
)
@pytest.mark.parametrize("name", ["dpok", *(pytest.param(s, marks=pytest.mark.slow) for s in ("ddpo", "dpo"))])
def test_so_does_one_with_other_options(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, **changes)
    whole = tuner(METHODS[name], "low rank", config, out=str(tmp_path / "whole"))
    whole.fit()
    again = stopped(tmp_path / "stopped", METHODS[name], "low rank", 3, config)
    assert differing(state(whole), state(again)) == []
    assert lines(tmp_path / "whole") == lines(tmp_path / "stopped")


def test_pairs_with_classes_are_trained_on_and_logged_under_their_own(tmp_path: Path) -> None:
    method = DPO().on(pairs(condition=True))
    whole = tuner(method, "whole", out=str(tmp_path / "whole"))
    whole.fit()
    again = stopped(tmp_path / "stopped", method, "whole", 3, SMALL)
    assert differing(state(whole), state(again)) == []
    run, seen = tuner(method, "whole", rounds=1, chains=60), list[Tensor]()
    walk = run.policy.walk
    run.policy.walk = lambda *given: (seen.append(given[2]), walk(*given))[1]  # pyright: ignore
    run.fit()
    assert [sorted(set(labels.tolist())) for labels in seen] == [[0, 1, 2]]
    with pytest.raises(ValueError, match="condition must be left out where the pairs have their own, got 1"):
        tuner(method, "whole", condition=1)
    wrong = dataclasses.replace(method.pairs, condition=torch.full((40,), 7))
    with pytest.raises(ValueError, match="condition must lie in 0 … 3"):
        tuner(DPO().on(wrong), "whole")


def test_how_often_is_logged_changes_no_bit_of_the_run() -> None:
    runs = [tuner(METHODS["dpo"], log_every=every) for every in (1, 5)]
    for run in runs:
        run.fit()
        run.window.clear()
    assert differing(state(runs[0]), state(runs[1])) == []


def test_a_run_is_a_function_of_its_seed_and_not_of_what_was_drawn_before_it() -> None:
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.random.get_rng_state()
        run = tuner(METHODS["dpok"])
        run.fit()
        assert torch.equal(torch.random.get_rng_state(), before)
        found.append(state(run))
    assert differing(*found) == []
    other = tuner(METHODS["dpok"], seed=1)
    other.fit()
    assert {"tuned.0", "besides.first.weight"} <= set(differing(found[0], state(other)))


RUN = """
import sys
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[3])
from tests.train.test_finetune import *
folder, rounds = sys.argv[1], int(sys.argv[2])
config = dataclasses.replace(SMALL, rounds=rounds, out=folder, log_every=7, checkpoint_every=3)
reference, core = made("low rank")
if (Path(folder) / checkpoints.NAME).exists():
    run = FineTuner.resume(folder, process(reference), core, METHODS["dpok"])
else:
    run = FineTuner(process(reference), core, METHODS["dpok"], config)
print("ready", flush=True)
run.fit()
"""


def start(folder: Path, rounds: int) -> subprocess.Popen[str]:
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", RUN, str(folder), str(rounds), root]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    assert run.stdout.readline() == "ready\n"
    return run


@pytest.mark.slow
def test_kills_at_any_moment_change_no_bit(tmp_path: Path) -> None:
    rounds, rng, codes = 60, random.Random(0), []
    for _ in range(5):
        with start(tmp_path / "killed", rounds) as run:
            time.sleep(rng.uniform(0.0, 0.4))
            run.send_signal(signal.SIGKILL)
        codes.append(run.returncode)
    assert codes.count(-signal.SIGKILL) >= 3, f"most runs ended before they were killed: {codes}"
    for name in ("killed", "whole"):
        with start(tmp_path / name, rounds) as run:
            assert run.wait(timeout=120) == 0
    one, two = (dict(checkpoints.read(tmp_path / name).tensors) for name in ("killed", "whole"))
    assert differing(one, two) == []
    assert lines(tmp_path / "killed") == lines(tmp_path / "whole")


def test_ctrl_c_within_a_round_ends_the_run_after_it_and_loses_nothing(tmp_path: Path) -> None:
    whole = tuner(METHODS["dpok"])
    whole.fit()
    run = tuner(METHODS["dpok"], out=str(tmp_path), checkpoint_every=100)

    pressed: list[int] = []

    def interrupt(*_: object) -> None:
        if run.round == 2 and not pressed:
            pressed.append(run.step)
            os.kill(os.getpid(), signal.SIGINT)

    hook = run.optimizer.register_step_post_hook(interrupt)  # the parameters have moved, their average has not
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            run.fit()
    finally:
        signal.signal(signal.SIGINT, before)
        hook.remove()
    reference, core = made("corrected")
    again = FineTuner.resume(tmp_path, process(reference), core, METHODS["dpok"])
    assert again.round == 3
    again.fit()
    assert differing(state(whole), state(again)) == []


@pytest.mark.parametrize("name", [n for n in METHODS if n != "backprop"])  # whose loss draws, for each minibatch anew
@pytest.mark.parametrize("kind", ["corrected", "low rank"])
def test_accumulated_minibatches_make_the_step_of_one_batch(name: str, kind: str) -> None:
    gradients = []
    for rows, accumulate in ((10**6, 1), (5, 10**6)):
        run = tuner(METHODS[name], kind, rows=rows, accumulate=accumulate, epochs=1, rounds=1, clip=1e9, chains=13)
        for p in run.trained:
            torch.nn.init.normal_(p, std=0.1, generator=torch.Generator().manual_seed(p.numel()))
        run.advance()
        assert run.step == 1
        besides = [] if run.learner.module is None else list(run.learner.module.parameters())
        given = [p.grad for p in (*run.trained, *besides) if p.grad is not None]
        assert given
        gradients.append(torch.cat([g.flatten() for g in given]).double())
    one, many = gradients
    # Float32 sums of some hundred rows in another order: a few hundred roundings of the largest entry. A minibatch
    # forgotten, or a mean of unequal ones, would be off by parts in ten.
    assert (one - many).abs().max() < 2e-5 * one.abs().max()
    assert one.abs().max() > 1e-4


def test_a_step_is_clipped_and_what_is_learned_besides_has_a_rate_of_its_own() -> None:
    run = tuner(METHODS["dpok"], rounds=1, epochs=1, rows=10**6, clip=1e-3, lr=1e-2, value_lr=1e-4, weight_decay=0.0)
    besides = list(run.learner.module.parameters())  # pyright: ignore
    parts = (run.trained, besides)
    before = [[p.detach().clone() for p in part] for part in parts]
    run.advance()
    norm = torch.stack([p.grad.norm() for p in run.trained if p.grad is not None]).norm()
    assert 0.99e-3 < float(norm) < 1.01e-3
    # AdamW's first step moves each number that has a gradient by its rate.
    moved = [
        max(float((p - q).detach().abs().max()) for p, q in zip(*two, strict=True))
        for two in zip(parts, before, strict=True)
    ]
    assert moved == pytest.approx([1e-2, 1e-4], rel=1e-2)


def test_a_last_short_accumulation_is_weighed_by_its_own_rows() -> None:
    # 13 pairs in minibatches of 4, two of them a step: steps of 8 and of 5.
    run = tuner(METHODS["dpo"], rows=4, accumulate=2, epochs=1, chains=13, rounds=1)
    seen: list[int] = []
    loss, run.learner.loss = run.learner.loss, lambda rows: (seen.append(len(rows)), loss(rows))[1]  # pyright: ignore
    run.advance()
    assert (seen, run.step) == ([4, 4, 4, 1], 2)


def test_the_average_is_the_ramped_mean_of_the_parameters_after_each_step() -> None:
    run = tuner(METHODS["ddpo"], epochs=1, rows=10**6, ema=0.3)
    kept: list[Tensor] = []
    run.optimizer.register_step_post_hook(lambda *_: kept.append(run.trained[-1].detach().clone()))
    averaged = run.fit()
    mean = kept[0]
    for n, now in enumerate(kept[1:], 1):
        decay = min(0.3, (1 + n) / (10 + n))
        mean = decay * mean + (1 - decay) * now
    found = list(averaged.parameters())[-1]
    assert (found - mean).abs().max() < 8 * torch.finfo(torch.float32).eps * mean.abs().max()
    assert not torch.equal(found, kept[-1])
    assert averaged.denoiser is not run.ema.module


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", ["low rank", "whole"])
def test_the_reference_keeps_every_bit_and_gets_no_gradient(name: str, kind: str) -> None:
    reference, core = made(kind)
    before = {n: t.clone() for n, t in reference.state_dict().items()}
    run = FineTuner(process(reference), core, METHODS[name], dataclasses.replace(SMALL, weight_decay=0.5))
    run.fit()
    assert differing(before, dict(reference.state_dict())) == []
    assert all(p.grad is None for p in reference.parameters())
    # Its law too: a change of low rank must not have been hung on the reference's own layers.
    x = torch.randn((4, 2), generator=torch.Generator().manual_seed(0))
    assert torch.equal(reference.predict(x, 0.5).x0, network().predict(x, 0.5).x0)
    assert not torch.equal(core.predict(x, 0.5).x0, reference.predict(x, 0.5).x0)


@pytest.mark.parametrize("name", ["ddpo", "dpok", "backprop", "adjoint", "d3po"])
def test_a_reward_that_is_not_finite_stops_the_run_and_leaves_the_checkpoint(name: str, tmp_path: Path) -> None:
    reference, core = made("corrected")
    calls: list[int] = []

    def reward(x: Tensor) -> Tensor:
        r = x.sum(1)
        if broken and len(x) > 1:
            return torch.where(torch.arange(len(x)) < 3, torch.nan * r, r)
        return r

    broken = False
    mdp = DenoisingMDP(reference.chain(GRID, "prior"), reward, beta=0.5)
    run = FineTuner(mdp, core, METHODS[name], dataclasses.replace(SMALL, out=str(tmp_path), rows=10**6))
    advance = run.advance

    def third() -> None:
        nonlocal broken
        calls.append(run.round)
        broken = run.round == 2
        advance()

    run.advance = third
    with pytest.raises(FloatingPointError, match=r"reward returned 3 of \d+ values that are not finite"):
        run.fit()
    assert calls == [0, 1, 2]
    kept = checkpoints.read(tmp_path)
    assert kept.about["progress"]["round"] == 2
    assert all(torch.isfinite(t).all() for t in kept.tensors.values() if t.is_floating_point())


def test_a_loss_that_is_not_finite_stops_the_run_before_its_step(tmp_path: Path) -> None:
    run = tuner(METHODS["dpo"], out=str(tmp_path))
    loss, kept = run.learner.loss, []

    def broken(rows: Any) -> Tensor:
        kept[:] = [p.detach().clone() for p in run.trained]
        return loss(rows) * (float("inf") if run.round == 3 else 1.0)

    run.learner.loss = broken
    with pytest.raises(
        FloatingPointError, match=r"the loss \(inf\) or its gradient \(.*\) is not finite in round 4; lower lr"
    ):
        run.fit()
    assert all(torch.equal(p, before) for p, before in zip(run.trained, kept, strict=True))
    assert checkpoints.read(tmp_path).about["progress"]["round"] == 3


@pytest.mark.parametrize(
    "fault",
    ["beta", "method", "option", "grid", "schedule", "variance", "table", "pay", "guidance", "reference", "pairs"],
)
def test_resuming_what_is_another_run_is_refused(fault: str, tmp_path: Path) -> None:
    reference = network()
    method: Method = DPO().on(pairs())
    config = dataclasses.replace(SMALL, rounds=1, out=str(tmp_path))

    def tabled(spread: float) -> DenoisingMDP:
        table = torch.full((GRID.steps,), spread, dtype=torch.float64)
        return DenoisingMDP(reference.chain(GRID, "optimal", table), Linear(torch.tensor([1.0, 0.5])), beta=0.5)

    mdp = tabled(1.0) if fault == "table" else process(reference)
    FineTuner(mdp, trainable(reference, 2), method, config).fit()
    if fault == "beta":
        mdp, message = process(reference, beta=0.25), "mdp must be the run's: its beta is 0.5, got 0.25"
    elif fault == "method":
        method, message = DDPO(), "method must be the run's: its name is 'dpo', got 'ddpo'"
    elif fault == "option":
        method, message = (
            DPO(reduction="mean").on(pairs()),
            "method must be the run's: its reduction is 'sum', got 'mean'",
        )
    elif fault == "pairs":
        method, message = DPO().on(pairs(seed=1)), "method must be the run's: its digest of the pairs is"
    elif fault == "grid":
        mdp, message = process(reference, grid=ud.TimeGrid.uniform(6)), "mdp must be the run's: its times is"
    elif fault == "schedule":
        reference = ud.Diffusion(ud.Schedule.linear(), reference.denoiser)
        mdp, message = process(reference), "mdp must be the run's: its schedule is"
    elif fault == "variance":
        mdp, message = process(reference, variance="posterior"), "its variance is 'prior', got 'posterior'"
    elif fault == "table":
        mdp, message = tabled(5.0), "mdp must be the run's: its x0_variance is"
    elif fault == "pay":
        mdp, message = DenoisingMDP(mdp.chain, beta=0.5), "mdp must be the run's: its reward is True, got False"
    elif fault == "guidance":
        mdp.guidance, message = 2.0, "mdp must be the run's: its guidance is 1.0, got 2.0"
    else:
        reference = network(seed=1)
        mdp, message = process(reference), "mdp must be the run's: the parameters of its reference are others"
    with pytest.raises(ValueError, match=message):
        FineTuner.resume(tmp_path, mdp, trainable(reference, 2), method)


def test_resuming_from_what_is_no_such_run_is_refused(tmp_path: Path) -> None:
    reference = network()
    method, mdp = DDPO(), process(reference)
    config = dataclasses.replace(SMALL, rounds=1, out=str(tmp_path))
    FineTuner(mdp, trainable(reference, 2), method, config).fit()
    with pytest.raises(CheckpointError, match=r"does not hold the fine-tuning run that it describes: .*shape"):
        FineTuner.resume(tmp_path, mdp, trainable(reference, 3), method)
    with pytest.raises(CheckpointError, match="does not hold the fine-tuning run that it describes"):
        FineTuner.resume(tmp_path, mdp, trainable(reference), method)
    with pytest.raises(ValueError, match="unknown change 'lr'"):
        FineTuner.resume(tmp_path, mdp, trainable(reference, 2), method, lr=1.0)
    path = save_core(tmp_path / "core.safetensors", reference)
    with pytest.raises(CheckpointError, match="holds no fine-tuning run to resume"):
        FineTuner.resume(path, mdp, trainable(reference, 2), method)
    kept = checkpoints.read(tmp_path)
    for lost in ("tuned.0", "tuned_ema.network.last.bias", "optimizer.0.exp_avg", "random.generator"):
        tensors = {n: t for n, t in kept.tensors.items() if n != lost}
        bad = checkpoints.write(tmp_path / "bad.safetensors", Checkpoint(tensors, kept.about))
        with pytest.raises(CheckpointError, match=r"bad\.safetensors does not hold the fine-tuning run") as found:
            FineTuner.resume(bad, mdp, trainable(reference, 2), method)
        assert "\n" not in str(found.value)
    assert FineTuner.resume(tmp_path, mdp, trainable(reference, 2), method, rounds=3).config.rounds == 3


@pytest.mark.parametrize("kind", CORES)
@pytest.mark.parametrize("ema", [True, False])
def test_its_checkpoint_is_a_cores_like_any_other(kind: str, ema: bool, tmp_path: Path) -> None:
    run = tuner(METHODS["ddpo"], kind, out=str(tmp_path))
    averaged = run.fit()
    loaded = load_core(tmp_path, ema=ema)
    own = averaged if ema else run.policy.core
    x = torch.randn((7, 2), generator=torch.Generator().manual_seed(0))
    for condition in (None, torch.tensor([0, 1, 2, 3, 0, 1, 2])):
        expected = own.predict(x, 0.4, condition).x0
        assert torch.allclose(loaded.predict(x, 0.4, condition).x0, expected, rtol=1e-5, atol=1e-6)
    reference, _ = made(kind)
    assert not torch.allclose(loaded.predict(x, 0.4).x0, reference.predict(x, 0.4).x0, atol=1e-3)
    assert not any("parametrizations" in name for name in loaded.state_dict())
    again = load_core(save_core(tmp_path / "again.safetensors", loaded))
    assert torch.equal(again.predict(x, 0.4).x0, loaded.predict(x, 0.4).x0)


@pytest.mark.parametrize("name", ["gaussian", "mixture-8d", "digits"])
def test_a_correction_is_kept_with_the_world_that_it_corrects_to_the_bit(name: str, tmp_path: Path) -> None:
    reference = ud.Diffusion(ud.Schedule.cosine(), ud.worlds.OracleDenoiser(ud.worlds.library.get(name)))
    dim = reference.event_shape[0]
    core = corrected(reference, seeded(lambda: MLP(dim, 8, 1)).to(torch.float64))
    torch.nn.init.normal_(core.denoiser.network.last.weight, generator=torch.Generator().manual_seed(0))  # pyright: ignore
    loaded = load_core(save_core(tmp_path / "core.safetensors", core))
    x = torch.randn((5, dim), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.equal(loaded.predict(x, 0.3).x0, core.predict(x, 0.3).x0)
    assert torch.equal(loaded.denoiser.reference.world.mean, reference.denoiser.world.mean)  # pyright: ignore


def test_a_core_that_cannot_be_described_is_trained_and_resumed_all_the_same(tmp_path: Path) -> None:
    class Shift(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.by = torch.nn.Parameter(torch.zeros(2))

        def forward(self, x: Tensor, noise: Tensor, condition: Tensor | None = None) -> Tensor:
            return self.by.expand_as(x)

    reference = oracle()
    run = FineTuner(
        process(reference), corrected(reference, Shift()), DDPO(), dataclasses.replace(SMALL, out=str(tmp_path))
    )
    run.fit()
    again = FineTuner.resume(tmp_path, process(reference), corrected(reference, Shift()), DDPO())
    assert differing(state(run), state(again)) == []
    with pytest.raises(CheckpointError, match="does not hold the core that it describes"):
        load_core(tmp_path)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        *(
            (n, v)
            for n in ("rounds", "chains", "epochs", "rows", "accumulate", "log_every", "checkpoint_every")
            for v in (0, 1.5)
        ),
        ("warmup", -1),
        *((n, v) for n in ("lr", "value_lr", "clip") for v in (0.0, -1.0, float("nan"), float("inf"), "1")),
        ("decay", "cosin"),
        *(("weight_decay", v) for v in (-1.0, float("nan"), "0")),
        *(("ema", v) for v in (1.0, -0.1, float("nan"), "0.9", True)),
        *(("condition", v) for v in (-1, True, 1.5, "all")),
        *(("seed", v) for v in (-1, 2**63, 0.5)),
        ("out", 3),
    ],
)
def test_every_option_out_of_range_is_refused_by_name(name: str, wrong: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=rf"\b{name}\b"):
        FineTuneConfig(**{name: wrong})


def test_what_cannot_be_trained_is_refused_before_any_work() -> None:
    reference, core = made("low rank")
    with pytest.raises(ValueError, match="core must have parameters of its own to train"):
        FineTuner(process(reference), reference, DDPO(), SMALL)
    with pytest.raises(TypeError, match="method must be a Method"):
        FineTuner(process(reference), core, "ddpo", SMALL)  # pyright: ignore
    with pytest.raises(TypeError, match="config must be a FineTuneConfig"):
        FineTuner(process(reference), core, DDPO(), {"rounds": 3})  # pyright: ignore
    with pytest.raises(ValueError, match=r"condition must be a class in 0 … 2 or 'random', got 3"):
        tuner(DDPO(), "low rank", condition=3)
    plain = network(num_classes=None)
    with pytest.raises(ValueError, match="condition needs a core with classes, got 'random'"):
        FineTuner(process(plain), trainable(plain), DDPO(), dataclasses.replace(SMALL, condition="random"))
    for method in (DPOK(), AdjointMatching(), D3PO(), DPO().on(pairs())):
        with pytest.raises(ValueError, match=f"beta must be positive for {method.name}"):
            FineTuner(process(reference, beta=0.0), core, method, SMALL)


def test_a_run_comes_nearer_to_the_optimum() -> None:
    """KL to it at least halved, by six standard errors of each side: with the mean as it is, a false alarm in 10⁹ runs."""
    reference, core = made("corrected")
    grid = ud.TimeGrid.uniform(10)
    mdp = process(reference, beta=1.0, grid=grid)
    config = FineTuneConfig(rounds=60, chains=256, rows=1024, lr=1e-2)
    done = FineTuner(mdp, core, Backprop(), config).fit()
    generator = torch.Generator().manual_seed(1)
    best = estimated_optimum(mdp, 2**15, generator)
    left = path_kl(mdp, done.chain(grid, "prior"), best.log_z, 2**15, generator)
    at_first = path_kl(mdp, mdp.chain, best.log_z, 2**15, generator)
    assert float(left.value + 6 * left.standard_error) < 0.5 * float(at_first.value - 6 * at_first.standard_error)
