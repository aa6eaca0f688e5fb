"""Score matching: one gradient in expectation, one optimum, and what each objective refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import unidiff as ud
from tests.score.conftest import draws, exact, network
from unidiff.score import OBJECTIVES, score_matching_loss
from unidiff.train import LOSSES, TrainConfig, Trainer, load_data, training_loss
from unidiff.worlds import OracleDenoiser, library

IMPLICIT = ("implicit", "hutchinson", "sliced")


def test_the_explicit_loss_of_the_exact_denoiser_is_zero_and_the_implicit_is_minus_the_fisher_information(
    mixture,
) -> None:
    x, n = draws(mixture, 20000), 20000
    core = exact(mixture)
    t = torch.full((n,), 0.4, dtype=torch.float64)
    options: dict[str, Any] = {
        "noise": torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    }
    assert float(score_matching_loss(core, x, "explicit", t, world=mixture, **options).max()) < 1e-20
    level = core.schedule.level(0.4)
    z = level.alpha * x + level.sigma * options["noise"]
    square = level.sigma**2 * mixture.diffuse(level.alpha, level.sigma).score(z).square().sum(1)
    for kind in IMPLICIT:
        found = score_matching_loss(core, x, kind, t, generator=torch.Generator().manual_seed(1), **options)
        off = found.detach() + square
        assert abs(float(off.mean() / (off.std() / n**0.5))) < 5  # E = −σ²R; false alarm 6e-7


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_weights_multiply_and_gradients_reach_the_network(kind: str, mixture) -> None:
    core, x = network(), draws(mixture, 8)
    t = torch.linspace(0.1, 0.9, 8, dtype=torch.float64)
    options: dict[str, Any] = {"noise": torch.ones_like(x), "world": mixture}
    one = score_matching_loss(core, x, kind, t, generator=torch.Generator().manual_seed(0), **options)
    weight = torch.arange(1, 9, dtype=torch.float64)
    other = score_matching_loss(core, x, kind, t, weight=weight, generator=torch.Generator().manual_seed(0), **options)
    torch.testing.assert_close(other, weight * one)
    one.sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in core.parameters())


def test_the_denoising_objective_is_the_written_one(mixture) -> None:
    core, x = exact(mixture), draws(mixture, 16)
    t = torch.linspace(0.2, 0.8, 16, dtype=torch.float64)
    noise = torch.randn(16, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weight = torch.arange(16, dtype=torch.float64)
    own = ud.ScoreModel(core).loss(x, "denoising", t, noise=noise, weight=weight)
    level = core.schedule.level(t)
    z = level.alpha[:, None] * x + level.sigma[:, None] * noise
    gap = core.predict(z, t).score + noise / level.sigma[:, None]
    torch.testing.assert_close(own, weight * level.sigma**2 * gap.square().sum(1))


@pytest.mark.parametrize("loss", LOSSES)
def test_one_direction_of_descent(loss, mixture) -> None:
    """The gradient of 40 000 draws against the explicit one: parallel to within what so many draws can tell."""
    core, x = network(), draws(mixture, 40000)
    t = torch.rand(40000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.6 + 0.3
    gradients = []
    for name in ("explicit", loss):
        value = training_loss(core, x, t, name, world=mixture, probes=4, generator=torch.Generator().manual_seed(1))
        found = torch.autograd.grad(value.mean(), list(core.parameters()), allow_unused=True, materialize_grads=True)
        gradients.append(torch.cat([g.flatten() for g in found]))
    one, other = gradients
    assert float((one - other).norm() / one.norm()) < 0.1


@pytest.mark.parametrize("kind", IMPLICIT)
def test_probes_may_be_many_and_an_exact_core_has_no_gradient_to_lose(kind: str, mixture) -> None:
    loss = score_matching_loss(exact(mixture), draws(mixture, 4), kind, torch.tensor(0.5), probes=3)
    assert loss.shape == (4,)


def test_images_and_conditions() -> None:
    points = library.digits(10).points.reshape(10, 1, 8, 8)
    core = ud.Diffusion(ud.Schedule.cosine(), OracleDenoiser(ud.worlds.PointCloud(points)))
    for kind in ("hutchinson", "sliced"):
        assert score_matching_loss(core, points[:3], kind, torch.tensor(0.5)).shape == (3,)
    own = network(num_classes=3)
    x, label = draws(library.mixture_2d(), 3), torch.tensor([0, 1, 3])
    noise = torch.zeros_like(x)
    whole = score_matching_loss(own, x, "implicit", torch.tensor(0.5), noise=noise, condition=label)
    alone = score_matching_loss(own, x[1:2], "implicit", torch.tensor(0.5), noise=noise[:1], condition=label[1:2])
    torch.testing.assert_close(whole[1:2], alone)


def test_the_explicit_loss_of_a_conditional_denoiser_is_of_the_law_given_the_label() -> None:
    law = library.eight_gaussians()
    core, x = exact(law), draws(law, 64)
    t = torch.linspace(0.05, 0.95, 64, dtype=torch.float64)
    # Each class, and the null class of a dropped label, whose law is the whole.
    label = torch.arange(64) % 9
    noise = torch.randn(64, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for condition in (label, None, torch.tensor(2)):
        loss = score_matching_loss(core, x, "explicit", t, world=law, noise=noise, condition=condition)
        assert float(loss.max()) < 1e-20
    whole = score_matching_loss(core, x, "explicit", t, world=law, noise=noise)
    null = score_matching_loss(core, x, "explicit", t, world=law, noise=noise, condition=torch.tensor(8))
    assert torch.equal(whole, null)
    with pytest.raises(
        ValueError, match="loss 'explicit' with a condition needs a world whose components are the classes"
    ):
        score_matching_loss(core, x, "explicit", t, world=library.mixture_2d(), condition=label)


@pytest.mark.slow
def test_an_explicit_run_with_labels_learns_the_conditional_law() -> None:
    law = library.mixture_2d()
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(3, (2000,), generator=generator)
    data = ud.train.Dataset(law.given(label).sample(generator=generator).float(), labels=label)
    config = TrainConfig(
        loss="explicit", conditional=True, label_dropout=0.2, width=32, depth=3, steps=400, batch_size=256, lr=5e-3,
        warmup=20, ema=0.98, device="cpu",
    )  # fmt: skip
    core = Trainer.start(config, data, world=law).fit()
    t = 0.05 + 0.9 * torch.rand(2000, generator=generator, dtype=torch.float64)
    for condition in (label, torch.full((2000,), 3)):
        options = {"world": law, "condition": condition, "generator": torch.Generator().manual_seed(1)}
        assert float(score_matching_loss(core, data.x, "explicit", t, **options).mean().detach()) < 0.3


def test_what_has_no_objective_is_refused(mixture) -> None:
    core, x = exact(mixture, "linear"), draws(mixture, 3)
    t = torch.tensor(0.5)
    bad: tuple[tuple[str, torch.Tensor, dict[str, Any], str], ...] = (
        ("implict", t, {}, "unknown loss 'implict'; did you mean 'implicit'"),
        ("explicit", t, {}, "loss 'explicit' needs data with a known law"),
        ("implicit", torch.tensor(0.0), {}, "t must be where the log-SNR is finite"),
        ("implicit", torch.tensor(1.5), {}, r"t must lie in \[0, 1\]"),
        ("sliced", t, {"probes": 0}, "probes must be an integer of at least 1, got 0"),
        ("sliced", t, {"weight": torch.tensor(float("inf"))}, "weight must be finite"),
        ("denoising", t, {"weight": torch.tensor(-1.0)}, "weight must be 0 or more, got -1"),
        ("sliced", t, {"noise": x[:2]}, "x0 and noise must have one shape"),
    )
    for kind, at, options, message in bad:
        with pytest.raises(ValueError, match=message):
            score_matching_loss(core, x, kind, at, **options)


@pytest.mark.parametrize("loss", [s if s == "sliced" else pytest.param(s, marks=pytest.mark.slow) for s in LOSSES])
def test_a_small_network_reaches_the_explicit_optimum(loss) -> None:
    """E‖ε̂ + σs‖² on fresh data, of the explicit optimum 0, whatever the loss; a network that says nothing has 1 and more."""
    law = library.eight_gaussians()
    config = TrainConfig(
        loss=loss, probes=2, width=32, depth=3, steps=400, batch_size=256, lr=5e-3, warmup=20, ema=0.98, device="cpu"
    )
    core = Trainer.start(config, load_data("eight-gaussians", generator=torch.Generator().manual_seed(0))).fit()
    generator = torch.Generator().manual_seed(1)
    x = law.sample(4000, generator).float()
    t = 0.05 + 0.9 * torch.rand(4000, generator=generator, dtype=torch.float64)
    gap = score_matching_loss(core, x, "explicit", t, world=law, generator=generator).mean()
    assert float(gap.detach()) < 0.3


def test_an_explicit_run_needs_a_known_law_and_derivatives_need_full_precision() -> None:
    config = TrainConfig(loss="explicit", steps=2, width=8, device="cpu")
    with pytest.raises(ValueError, match="loss 'explicit' needs data of a known law"):
        Trainer.start(config, load_data("moons", n=100))
    law = library.mixture_2d()
    data = ud.train.Dataset(law.sample(100, torch.Generator().manual_seed(0)).float())
    assert Trainer.start(config, data, world=law).fit() is not None
    with pytest.raises(ValueError, match="amp must be 'none' and compile False, got amp = 'bf16'"):
        TrainConfig(loss="implicit", steps=2, amp="bf16")
    with pytest.raises(ValueError, match="unknown loss 'slice'; did you mean 'sliced'"):
        TrainConfig(loss="slice", steps=2)  # pyright: ignore


def test_a_run_with_probes_is_a_function_of_its_configuration(tmp_path) -> None:
    config = TrainConfig(
        loss="sliced", steps=6, width=8, batch_size=16, device="cpu", checkpoint_every=3, out=str(tmp_path)
    )
    data = load_data("eight-gaussians", n=200, generator=torch.Generator().manual_seed(0))
    whole = Trainer.start(config, data).fit()
    again = Trainer.start(config, data).fit()
    for p, q in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(p, q)
