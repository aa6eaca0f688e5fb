"""A gradient field: its potential, its symmetric Jacobian, and the energy of a denoiser around one."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import unidiff as ud
from unidiff.core import networks
from unidiff.core.networks.gradient import FORMS, Form, GradientField, descent
from unidiff.core.prediction import KINDS
from unidiff.train.checkpoint import load_core, save_core

CLASSES = 3
FIELD: Any = GradientField  # asked for what no type checker would let through
LEVELS = [(kind, "none") for kind in KINDS] + [("x0", "edm")]


def scattered(network: nn.Module, seed: int = 0) -> nn.Module:
    """``network`` in float64, with parameters that are not at their start (where the last layer is zero)."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.double().parameters():
        parameter.data.copy_(0.4 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return network


def field(form: Form, classes: int | None = None, dim: int = 2, seed: int = 0) -> GradientField:
    outputs = 1 if form == "scalar" else None
    return GradientField(scattered(networks.MLP(dim, 8, 2, classes, outputs=outputs), seed), form)


def core(form: Form, kind: Any = "v", how: Any = "none", classes: int | None = None) -> ud.Diffusion:
    denoiser = ud.Denoiser(field(form, classes), (2,), kind, how, data_std=0.7, num_classes=classes)
    return ud.Diffusion(ud.Schedule.cosine(), denoiser)


def states(n: int = 6, seed: int = 1) -> Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slope(value: Tensor, x: Tensor) -> Tensor:
    return torch.autograd.grad(value.sum(), x)[0]


class Curved(nn.Module):
    """f(u) = A tanh(Bu + c), whose Jacobian A diag(1 − f²/…) B is a formula."""

    def __init__(self, dim: int = 3) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(4)
        a, b = (torch.randn(dim, dim, generator=generator, dtype=torch.float64) for _ in range(2))
        self.a, self.b = nn.Parameter(0.5 * a), nn.Parameter(0.5 * b)

    def forward(self, x: Tensor, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        return torch.tanh(x @ self.b.mT + 0.1 * noise[:, None]) @ self.a.mT

    def jacobian(self, x: Tensor, noise: Tensor) -> Tensor:
        inner = torch.tanh(x @ self.b.mT + 0.1 * noise[:, None])
        return torch.einsum("ij,bj,jk->bik", self.a, 1 - inner.square(), self.b)


@given(form=st.sampled_from(FORMS), seed=st.integers(0, 1000))
def test_the_field_is_minus_the_gradient_of_its_potential(form: Form, seed: int) -> None:
    own, x, noise = field(form, seed=seed), states(seed=seed).requires_grad_(), torch.linspace(-5, 5, 6).double()
    torch.testing.assert_close(own(x, noise), -slope(own.potential(x, noise), x), rtol=1e-12, atol=1e-12)
    embedding = own.embed(noise)
    assert embedding is not None
    torch.testing.assert_close(own.body(x, embedding), own(x, noise), rtol=1e-12, atol=1e-12)


def test_the_forms_are_their_formulas() -> None:
    network, noise = Curved(), torch.linspace(-2, 2, 5).double()
    u = torch.randn(5, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    f, jacobian = network(u, noise).detach(), network.jacobian(u, noise).detach()
    pulled = torch.einsum("bij,bi->bj", jacobian, f - u)
    residual = GradientField(network, "residual")(u, noise).detach()
    torch.testing.assert_close(residual, f - u - pulled, rtol=1e-12, atol=1e-12)
    # What is often written for it, f − u, is another field, and no gradient: its Jacobian is not symmetric.
    assert float((residual - (f - u)).norm(dim=1).min()) > 0.05
    assert float((jacobian - jacobian.mT).abs().amax((1, 2)).min()) > 0.05
    inner = GradientField(network, "inner")(u, noise).detach()
    torch.testing.assert_close(inner, f + torch.einsum("bij,bi->bj", jacobian, u), rtol=1e-12, atol=1e-12)


@given(form=st.sampled_from(FORMS), where=st.sampled_from(LEVELS), seed=st.integers(0, 1000))
def test_its_jacobian_is_symmetric_and_a_networks_is_not(form: Form, where: tuple[Any, Any], seed: int) -> None:
    jacobian = derivative(core(form, *where), states(1, seed))
    torch.testing.assert_close(jacobian, jacobian.mT, rtol=1e-10, atol=1e-10)
    plain = ud.Denoiser(scattered(networks.MLP(2, 8, 2), seed), (2,))
    free = derivative(ud.Diffusion(ud.Schedule.cosine(), plain), states(1, seed))
    assert float((free - free.mT).abs().max()) > 1e-6


def derivative(own: ud.Diffusion, x: Tensor) -> Tensor:
    """∂x̂_0/∂x at the one state ``x``, ``[D, D]``."""
    x = x.clone().requires_grad_()
    return torch.stack([slope(own.predict(x, 0.4).x0[:, i], x)[0] for i in range(x.shape[1])])


@given(form=st.sampled_from(FORMS), where=st.sampled_from(LEVELS), t=st.floats(0.05, 0.95), seed=st.integers(0, 99))
def test_the_score_is_minus_the_gradient_of_the_energy(form: Form, where: tuple[Any, Any], t: float, seed: int) -> None:
    own, x = core(form, *where), states(seed=seed).requires_grad_()
    each = torch.linspace(t, 0.5, 6, dtype=torch.float64)
    for times in (torch.tensor(t), each):
        energy = own.denoiser.energy(x, own.schedule.level(times, x))  # pyright: ignore
        assert energy.shape == (6,)
        torch.testing.assert_close(own.predict(x, times).score, -slope(energy, x), rtol=1e-10, atol=1e-10)


@given(form=st.sampled_from(FORMS), where=st.sampled_from(LEVELS), guidance=st.floats(-1.0, 4.0))
def test_a_guided_score_is_minus_the_gradient_of_the_guided_energy(form: Form, where: Any, guidance: float) -> None:
    own, x, labels = core(form, *where, classes=CLASSES), states().requires_grad_(), torch.tensor([0, 1, 2, 3, 0, 1])
    level = own.schedule.level(0.3, x)
    energy = own.denoiser.energy(x, level, labels, guidance)  # pyright: ignore
    torch.testing.assert_close(own.predict(x, 0.3, labels, guidance).score, -slope(energy, x), rtol=1e-9, atol=1e-9)
    free, given_ = (own.denoiser.energy(x, level, c) for c in (None, labels))  # pyright: ignore
    torch.testing.assert_close(energy, free + guidance * (given_ - free), rtol=1e-10, atol=1e-10)
    assert float((given_ - free)[labels == CLASSES].detach().abs().max()) == 0


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("classes", [None, CLASSES])
def test_it_answers_alike_with_and_without_gradients(form: Form, classes: int | None) -> None:
    own, x = core(form, classes=classes), states()
    labels, guidance = (None, 1.0) if classes is None else (torch.tensor([0, 1, 2, 3, 0, 1]), 2.0)

    def ask() -> tuple[Tensor, Tensor]:
        # Made where they are asked for: what is made in inference mode cannot be recorded.
        given_, seeds = None if labels is None else labels.clone(), torch.Generator().manual_seed(0)
        each = torch.linspace(0.2, 0.8, 6, dtype=torch.float64)
        answer = own.predict(x.clone(), each, given_, guidance).score
        # A sampler embeds its levels once.
        return answer, ud.sample(own, 3, steps=4, dtype=torch.float64, generator=seeds)

    found = [value.detach() for value in ask()]
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            for one, other in zip(found, ask(), strict=True):
                assert not other.requires_grad
                torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_it_can_be_trained_through(form: Form) -> None:
    own, x = core(form), states()
    loss = own.predict(x, 0.5).score.square().sum()
    found = torch.autograd.grad(loss, [p for p in own.parameters() if p.requires_grad], allow_unused=True)
    parameter = own.denoiser.network.network.first.weight  # pyright: ignore
    index = [p is parameter for p in own.parameters()].index(True)
    step = 1e-6
    sides = []
    for sign in (1, -1):
        moved = copy.deepcopy(own)
        with torch.no_grad():
            moved.denoiser.network.network.first.weight[1, 0] += sign * step  # pyright: ignore
        sides.append(float(moved.predict(x, 0.5).score.square().sum().detach()))
    grad = found[index]
    assert grad is not None
    assert float(grad[1, 0]) == pytest.approx((sides[0] - sides[1]) / (2 * step), rel=1e-4)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("classes", [None, CLASSES])
def test_it_is_described_copied_and_saved(form: Form, classes: int | None, tmp_path) -> None:
    own = core(form, classes=classes)
    config = own.denoiser.network.config()  # pyright: ignore
    assert networks.build(json.loads(json.dumps(config))).config() == config  # pyright: ignore
    save_core(tmp_path / "core.safetensors", own)
    for other in (copy.deepcopy(own), load_core(tmp_path / "core.safetensors")):
        torch.testing.assert_close(other.predict(states(), 0.3).score, own.predict(states(), 0.3).score, rtol=0, atol=0)
        one, two = (c.denoiser.energy(states(), c.schedule.level(0.3, states())) for c in (own, other))  # pyright: ignore
        torch.testing.assert_close(one, two, rtol=0, atol=0)
    assert ud.EnergyModel(load_core(tmp_path / "core.safetensors")).energy(states(), 0.3).shape == (6,)


def test_images_have_energies() -> None:
    unet = scattered(networks.UNet(1, 8, width=8, multipliers=(1,), attention=(8,), num_classes=2))
    own = ud.Diffusion(ud.Schedule.cosine(), ud.Denoiser(GradientField(unet, "inner"), (1, 8, 8), num_classes=2))
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    energy = own.denoiser.energy(x, own.schedule.level(0.3, x))  # pyright: ignore
    torch.testing.assert_close(own.predict(x, 0.3).score, -slope(energy, x), rtol=1e-8, atol=1e-8)
    with torch.inference_mode():
        assert own.predict(x.detach().clone(), 0.3, torch.tensor([0, 1]), 2.0).score.shape == x.shape


class Answers(nn.Module):
    """A network that answers whatever it was made with."""

    def __init__(self, answer) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.answer(x)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: FIELD(Answers(None), "skalar"), ValueError, "unknown form 'skalar'; did you mean 'scalar'"),
        (lambda: FIELD(lambda x, n, c: x), TypeError, "network must be an nn.Module, got function"),
        (lambda: GradientField(Answers(None)).config(), ValueError, r"config\(\) to be saved, Answers has none"),
        (lambda: networks.build({"kind": "gradient", "form": "scalar"}), ValueError, "missing 1 required.*'network'"),
        (
            lambda: GradientField(Answers(lambda x: x))(states(), torch.zeros(6)),
            ValueError,
            r"the network's answer must have shape \[6\] or \[6, 1\], one number for each row, got \[6, 2\]",
        ),
        (
            lambda: GradientField(Answers(lambda x: x.sum(1)[None]))(states(), torch.zeros(6)),
            ValueError,
            r"got \[1, 6\]",
        ),
        (
            lambda: GradientField(Answers(lambda x: x.sum(1)), "inner")(states(), torch.zeros(6)),
            ValueError,
            r"network must return shape \[6, 2\] for the form 'inner', got \[6\]",
        ),
        (lambda: descent(lambda x: x.detach().sum(1), states()), ValueError, "got a constant of x"),
        (lambda: descent(lambda x: nn.Parameter(torch.ones(6)), states()), ValueError, "got a constant of x"),
        (
            lambda: ud.Denoiser(field("scalar"), (2,), learned_variance=True),
            ValueError,
            "learned_variance must be left out for a GradientField",
        ),
        (
            lambda: core("scalar").denoiser.energy(states(), core("scalar").schedule.level(0.3, states()), None, 2.0),  # pyright: ignore
            ValueError,
            "guidance needs a conditional network, got guidance = 2.0",
        ),
    ],
)
def test_bad_input_is_refused_by_name(make, error, message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_an_ordinary_network_has_no_energy() -> None:
    denoiser = ud.Denoiser(networks.MLP(2, 8, 1), (2,))
    with pytest.raises(TypeError, match="network must be a GradientField .* got MLP"):
        denoiser.energy(states().float(), ud.Schedule.cosine().level(0.3, states().float()))
