"""The loop and its parts: losses, times, metrics, options, errors."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from PIL import Image

import unidiff as ud
from unidiff.core import networks
from unidiff.core.schedule_kinds import STANDARD
from unidiff.train import (
    WEIGHTINGS,
    TrainConfig,
    Trainer,
    antithetic_times,
    build_core,
    denoising_loss,
    journal,
    load_data,
    metrics,
    presets,
)
from unidiff.train.data import names
from unidiff.worlds import OracleDenoiser, library

SMALL = TrainConfig(network="mlp", width=16, depth=1, steps=20, batch_size=64, warmup=2, log_every=5, device="cpu")


def moons() -> ud.train.Dataset:
    return load_data("moons", n=500, generator=torch.Generator().manual_seed(0))


def test_training_lowers_the_loss() -> None:
    trainer = Trainer.start(dataclasses.replace(SMALL, prediction="eps", steps=400, log_every=4), moons())
    losses: list[float] = []
    trainer.fit(lambda t, line: losses.append(line["loss"]))
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("prediction", ["eps", "x0", "v", "score"])
def test_every_weighting_trains_every_prediction(weighting, prediction) -> None:
    config = dataclasses.replace(SMALL, weighting=weighting, prediction=prediction, steps=3)
    core = Trainer.start(config, moons()).fit()
    assert all(p.isfinite().all() for p in core.parameters())


@pytest.mark.parametrize("factor", [1.05, 0.95])
def test_the_exact_denoiser_has_the_least_loss(factor: float) -> None:
    # The loss of the oracle beside that of it scaled by 5 %: the same draws, so one z-test at 5 standard errors. The
    # difference is 14 of them or more for a right oracle, so it is refused with probability Φ(5 − 14) < 1e-18. One that
    # is itself 2.5 % off, towards the scaled one, has the same loss as that: it passes with probability 3e-7.
    world = library.mixture_2d()
    core = ud.Diffusion(ud.Schedule.cosine(), OracleDenoiser(world))

    class Moved(OracleDenoiser):
        def __call__(self, xt, level, condition=None, guidance=1.0):
            p = super().__call__(xt, level)
            return ud.Prediction(xt, level, {"x0": factor * p.x0}, guarded=False)

    moved = ud.Diffusion(ud.Schedule.cosine(), Moved(world))
    x0 = world.sample(20_000, torch.Generator().manual_seed(0))
    losses = [
        denoising_loss(c, x0, weighting="sigmoid", generator=torch.Generator().manual_seed(1)) for c in (core, moved)
    ]
    difference = losses[1] - losses[0]
    assert difference.mean() > 5 * difference.std() / len(x0) ** 0.5


def test_antithetic_times_fall_one_to_each_interval() -> None:
    t = antithetic_times(64, torch.Generator().manual_seed(0))
    assert sorted((t * 64).floor().long().tolist()) == list(range(64))
    inside = antithetic_times(64, torch.Generator().manual_seed(0), span=(0.25, 0.75))
    torch.testing.assert_close(inside, 0.25 + 0.5 * t)
    with pytest.raises(ValueError, match="span must be"):
        antithetic_times(4, span=(0.5, 0.5))


def test_metrics_are_logged_as_json_lines(tmp_path) -> None:
    config = dataclasses.replace(SMALL, out=str(tmp_path))
    Trainer.start(config, moons()).fit()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [5, 10, 15, 20]
    assert all(math.isfinite(line["loss"]) for line in lines)
    assert journal.read(tmp_path / "metrics.jsonl") == lines


def test_a_loss_that_explodes_stops_the_run() -> None:
    trainer = Trainer.start(dataclasses.replace(SMALL, lr=1e30, warmup=0, steps=50), moons())
    with pytest.raises(FloatingPointError, match="loss"):
        trainer.fit()


def test_wasserstein_2_is_that_of_the_best_of_all_pairings() -> None:
    generator = torch.Generator().manual_seed(3)
    x, y = (torch.randn(6, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    best = min(float((x - y[list(p)]).square().sum(1).mean()) for p in itertools.permutations(range(6)))
    assert metrics.wasserstein2(x, y) == pytest.approx(best**0.5, rel=1e-12)
    assert metrics.wasserstein2(x, y.flip(0)) == pytest.approx(best**0.5, rel=1e-12)
    shift = torch.tensor([3.0, 0.0, -4.0], dtype=torch.float64)
    assert metrics.wasserstein2(x, x.flip(0) + shift) == pytest.approx(5.0, rel=1e-12)
    # Of more points than are used the first count.
    assert metrics.wasserstein2(torch.cat([x, x + 9]), y, most=6) == pytest.approx(best**0.5, rel=1e-12)
    with pytest.raises(ValueError, match="most must be an integer of at least 1, got 0"):
        metrics.wasserstein2(x, y, most=0)
    with pytest.raises(ValueError, match="one event shape"):
        metrics.wasserstein2(x, y[:, :2])
    with pytest.raises(ValueError, match="x"):
        metrics.wasserstein2(x * torch.nan, y)


def test_sliced_wasserstein_of_a_shift_is_its_mean_projection() -> None:
    x = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shift = torch.tensor([3.0, 0.0], dtype=torch.float64)
    theta = metrics.directions(2, 64, torch.Generator().manual_seed(1))
    found = metrics.sliced_wasserstein(x, x + shift, theta)
    assert found == pytest.approx(float((theta @ shift).abs().mean()), rel=1e-12)
    assert metrics.sliced_wasserstein(x, x, theta) == 0


def test_mmd_is_a_double_loop() -> None:
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.randn(5, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 1

    def kernel(a: torch.Tensor, b: torch.Tensor) -> float:
        return float(torch.exp(-(a - b).square().sum() / (2 * 0.7**2)))

    within = sum(kernel(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j) / 30
    within += sum(kernel(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j) / 20
    between = sum(kernel(a, b) for a in x for b in y) / 30
    assert metrics.mmd2(x, y, bandwidth=0.7) == pytest.approx(within - 2 * between, rel=1e-12)


def test_nll_under_the_own_law_is_the_entropy() -> None:
    world = library.gaussian()
    value, error = metrics.nll(world, world.sample(20_000, torch.Generator().manual_seed(0)))
    # At 5 standard errors (false alarm 6e-7), it would see 0.06 nats.
    assert abs(value - float(world.entropy().value)) < 5 * error


def test_metrics_refuse_what_is_no_sample() -> None:
    x = torch.zeros(3, 2)
    with pytest.raises(ValueError, match="y must be finite"):
        metrics.sliced_wasserstein(x, torch.full((3, 2), torch.nan))
    with pytest.raises(ValueError, match="one event shape"):
        metrics.sliced_wasserstein(x, torch.zeros(3, 4))
    with pytest.raises(ValueError, match="bandwidth must be positive"):
        metrics.mmd2(x, x, bandwidth=0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "cosin"}, "unknown schedule 'cosin'; did you mean 'cosine'"),
        ({"weighting": "simpel"}, "unknown weighting 'simpel'; did you mean 'simple'"),
        ({"prediction": "epss"}, "unknown prediction 'epss'; did you mean 'eps'"),
        ({"network": "unt"}, "unknown network 'unt'; did you mean 'unet'"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"lr": float("nan")}, "lr must be positive"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
        ({"ema": 1.0}, r"ema must lie in \[0, 1\), got 1.0"),
        ({"steps": None}, "give either steps or minutes"),
        ({"minutes": 1.0}, "give either steps or minutes"),
        ({"preconditioning": "edm", "prediction": "v"}, "prediction must be 'x0' with EDM"),
        ({"amp": "bf16", "dtype": "float64"}, "dtype must be 'float32' with amp 'bf16'.* got 'float64'"),
        ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
        ({"multipliers": ()}, r"multipliers must be a tuple of at least one positive integer, got \(\)"),
        ({"multipliers": 2}, "multipliers must be a tuple of at least one positive integer, got 2"),
        ({"multipliers": (1, -1)}, r"multipliers\[1\] must be an integer of at least 1, got -1"),
        ({"attention": (0,)}, r"attention\[0\] must be an integer of at least 1, got 0"),
        ({"conditional": "yes"}, "conditional must be True or False, got 'yes'"),
        ({"compile": 1}, "compile must be True or False, got 1"),
        ({"device": "gpu"}, "device must be cpu, cuda or cuda:N, and be there, got 'gpu'"),
        ({"device": "meta"}, "device must be cpu, cuda or cuda:N, and be there, got 'meta'"),
        ({"seed": 2**63}, r"seed must lie in 0 … 2\*\*63 - 1, got 9223372036854775808"),
    ],
)
def test_bad_options_are_refused(options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **options)


def test_the_last_seed_trains_and_every_schedule_has_its_name() -> None:
    Trainer.start(dataclasses.replace(SMALL, seed=2**63 - 1, steps=1), moons()).fit()
    assert get_args(get_type_hints(TrainConfig)["schedule"]) == tuple(STANDARD)


def test_a_gpu_that_is_not_there_is_missed_only_when_it_is_needed() -> None:
    config = TrainConfig(steps=1, device="cuda:99")
    with pytest.raises(ValueError, match="device must be .* and be there, got 'cuda:99'"):
        _ = config.torch_device


def test_options_survive_json() -> None:
    assert TrainConfig.from_dict(json.loads(json.dumps(SMALL.to_dict()))) == SMALL
    with pytest.raises(ValueError, match="unknown option 'learning_rate'"):
        TrainConfig.from_dict({"learning_rate": 1.0})


def test_data_that_do_not_fit_the_network_are_refused() -> None:
    with pytest.raises(ValueError, match="network 'unet' takes square images"):
        build_core(dataclasses.replace(SMALL, network="unet"), moons())
    with pytest.raises(ValueError, match="conditional needs labels"):
        build_core(dataclasses.replace(SMALL, conditional=True), ud.train.Dataset(torch.zeros(3, 2)))
    core = build_core(SMALL, moons())
    with pytest.raises(ValueError, match="data must have the core's event shape"):
        Trainer(core, load_data("digits"), SMALL)


def test_every_named_data_set_has_a_preset() -> None:
    assert all(presets.for_data(name) for name in names())


@pytest.mark.parametrize(
    ("shape", "levels"),
    [
        ((5, 3), 0), ((5, 30, 30), 2), ((5, 1, 28, 28), 3), ((5, 32, 32, 3), 3), ((5, 7, 7), 1), ((5, 8, 8), 2),
        ((5, 4, 9), 0), ((5, 2, 2, 2, 2), 0),
    ],
)  # fmt: skip
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_file_s_preset_fits_what_it_holds(shape, levels: int, dtype, tmp_path) -> None:
    np.savez(tmp_path / "d.npz", pixels=np.random.default_rng(0).integers(0, 9, shape).astype(dtype))
    preset = presets.for_data(str(tmp_path / "d.npz"))
    assert (preset.network, len(preset.multipliers)) == ("unet", levels) if levels else preset.network == "mlp"
    config = dataclasses.replace(preset, width=8, device="cpu")
    Trainer.start(config, load_data(tmp_path / "d.npz"))


def test_a_folder_s_preset_fits_its_images_and_one_that_cannot_be_read_is_left_to_load_data(tmp_path) -> None:
    assert presets.for_data(tmp_path).network == presets.for_data("no such file").network == "unet"
    Image.new("RGB", (30, 30)).save(tmp_path / "a.png")
    assert presets.for_data(tmp_path).multipliers == (1, 2)


@pytest.mark.parametrize(("amp", "inside"), [("none", torch.float32), ("bf16", torch.bfloat16)])
def test_bf16_runs_inside_the_network_alone(amp, inside: torch.dtype) -> None:
    seen: list[torch.dtype] = []
    trainer = Trainer.start(dataclasses.replace(SMALL, amp=amp, steps=2), moons())
    trainer.network.register_forward_hook(lambda m, i, o: seen.append(o.dtype))
    core = trainer.fit()
    assert set(seen) == {inside}
    assert all(p.dtype == torch.float32 for p in core.parameters())


def test_a_gradient_longer_than_clip_is_cut_to_it() -> None:
    norms = {}
    for clip in (1e3, 1e-3):
        trainer = Trainer.start(dataclasses.replace(SMALL, clip=clip), moons())
        trainer.advance()
        norms[clip] = float(torch.nn.utils.get_total_norm([p.grad for p in trainer.trained if p.grad is not None]))
        # What is logged is the norm before it is cut.
        assert float(trainer.window[1]) == pytest.approx(norms[1e3], rel=1e-5)
    assert norms[1e-3] == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_the_share_of_labels_asked_for_is_replaced_by_the_null_class(share: float) -> None:
    seen: list[torch.Tensor] = []
    config = dataclasses.replace(SMALL, conditional=True, label_dropout=share, steps=50)
    trainer = Trainer.start(config, ud.train.Dataset(moons().x, torch.arange(500) % 3))
    trainer.network.register_forward_hook(lambda m, i, o: seen.append(i[2]))
    trainer.fit()
    found = float((torch.cat(seen) == 3).double().mean())
    # 3200 labels: one z-test at 5 standard errors (false alarm 6e-7); a share off by 0.09 passes with 3e-7.
    assert abs(found - share) <= 5 * (share * (1 - share) / 3200) ** 0.5


def test_a_learned_schedule_may_be_left_as_it_is_and_gathers_no_gradient() -> None:
    trainer = Trainer.start(dataclasses.replace(SMALL, schedule="learned", learn_schedule="none", steps=3), moons())
    schedule = trainer.core.schedule
    assert isinstance(schedule, torch.nn.Module)
    before = [p.clone() for p in schedule.parameters()]
    trainer.fit()
    assert all(p.grad is None for p in schedule.parameters())
    assert all(torch.equal(p, q) for p, q in zip(schedule.parameters(), before, strict=True))
    # The loss itself is for those who train the schedule too.
    denoising_loss(trainer.core, moons().x, weighting="elbo").mean().backward()
    assert all(p.grad is not None for p in schedule.parameters())


def test_a_core_with_fewer_classes_than_the_data_is_refused() -> None:
    data = ud.train.Dataset(moons().x, torch.arange(500) % 3)
    core = build_core(dataclasses.replace(SMALL, conditional=True), data)
    with pytest.raises(ValueError, match="at most the core's 3 classes, data has 4"):
        Trainer(core, ud.train.Dataset(data.x, torch.arange(500) % 4), SMALL)


@pytest.mark.slow
def test_a_compiled_network_trains_to_the_same_loss() -> None:
    losses = []
    for compile in (False, True):
        trainer = Trainer.start(dataclasses.replace(SMALL, compile=compile), moons())
        trainer.fit(lambda t, line: losses.append(line["loss"]))
    assert losses[:4] == pytest.approx(losses[4:], rel=1e-3)


@pytest.mark.gpu
def test_a_gpu_trains_and_resumes_to_the_same_bits(tmp_path) -> None:
    config = dataclasses.replace(SMALL, device="cuda", out=str(tmp_path), checkpoint_every=10)
    whole = Trainer.start(dataclasses.replace(config, out=None), moons())
    whole.fit()

    class Stop(Exception):
        pass

    def stop(trainer: Trainer, line: dict[str, float]) -> None:
        if trainer.step == 15:
            raise Stop

    with pytest.raises(Stop):
        Trainer.start(config, moons()).fit(stop)
    again = Trainer.resume(tmp_path, moons())
    again.fit()
    for one, two in zip(whole.network.parameters(), again.network.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (networks.MLP(3, width=8, depth=2, num_classes=4), (5, 3)),
        (networks.UNet(1, 8, width=8, multipliers=(1, 2), blocks=1, attention=(4,), num_classes=4), (5, 1, 8, 8)),
        (networks.UNet(3, 28, width=8, multipliers=(1, 2, 2), blocks=1, attention=(7,), num_classes=4), (2, 3, 28, 28)),
    ],
    ids=["mlp", "unet 8", "unet 28"],
)
def test_networks_embed_apart_reach_every_parameter_and_come_back(network, shape) -> None:
    generator = torch.Generator().manual_seed(0)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.1, generator=generator)
    x = torch.randn(shape, generator=generator)
    noise, labels = torch.linspace(-5, 5, shape[0]), torch.arange(shape[0]) % 5
    out = network(x, noise, labels)
    assert out.shape == x.shape
    torch.testing.assert_close(network.body(x, network.embed(noise), labels), out)
    out.square().sum().backward()
    untouched = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert untouched == []
    again = networks.build(json.loads(json.dumps(network.config())))
    again.load_state_dict(network.state_dict())
    torch.testing.assert_close(again(x, noise, labels), out)


def test_networks_refuse_what_they_cannot_be() -> None:
    with pytest.raises(ValueError, match="unknown network 'mpl'; did you mean 'mlp'"):
        networks.build({"kind": "mpl"})
    with pytest.raises(ValueError, match="does not describe a network of kind 'mlp'"):
        networks.build({"kind": "mlp", "sides": 3})
