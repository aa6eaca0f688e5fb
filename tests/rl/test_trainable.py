"""What is trained begins at its reference, and leaves it as it is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import unidiff as ud
from tests.rl.policies import F64, draws, gradients, network, process, seeded
from unidiff.core.denoiser import Denoiser
from unidiff.core.networks import MLP
from unidiff.rl import DenoisingMDP, Policy, corrected, merged, trainable
from unidiff.rl.trainable import trained_parameters
from unidiff.worlds import OracleDenoiser, library
from unidiff.worlds.rewards import Linear

EPS = torch.finfo(torch.float64).eps
EXACT: dict[str, Any] = {"rtol": 0, "atol": 0}
CLOSE: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-10}


class Small(nn.Module):
    """A convolution, a 1×1 one, dropout and a linear layer, on images ``[1, 4, 4]``."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 1, 1)
        self.drop, self.noise = nn.Dropout(0.5), nn.Linear(1, 3)
        self.register_buffer("count", torch.ones(1))

    def forward(self, x: torch.Tensor, log_snr: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
        h = self.first(x) + self.noise(log_snr[:, None] / 10)[:, :, None, None]
        return self.second(self.drop(torch.tanh(h)))


def flat(schedule: ud.Schedule | None = None, classes: int | None = None) -> ud.Diffusion:
    return ud.Diffusion(
        schedule or ud.Schedule.linear(), Denoiser(network(1.0, classes), (2,), "x0", num_classes=classes)
    )


def images() -> ud.Diffusion:
    torch.manual_seed(0)
    return ud.Diffusion(ud.Schedule.linear(), Denoiser(Small().double(), (1, 4, 4), "v"))


def oracle() -> ud.Diffusion:
    return ud.Diffusion(ud.Schedule.linear(), OracleDenoiser(library.mixture_2d()))


def said(core: ud.Diffusion, condition: torch.Tensor | None = None, guidance: float = 1.0) -> torch.Tensor:
    x = draws(1, 6, *core.event_shape)
    t = torch.linspace(0.1, 1, 6, dtype=torch.float64)
    return core.predict(x, t, condition, guidance).x0.detach()


def low_rank(core: ud.Diffusion) -> ud.Diffusion:
    return trainable(core, rank=2)


def by_correction(core: ud.Diffusion) -> ud.Diffusion:
    return corrected(core, MLP(2, 8, 2).double())


def mixed(core: ud.Diffusion, size: float = 0.5) -> None:
    """Move every low-rank B away from 0."""
    for name, p in core.named_parameters():
        if name.endswith(".b"):
            p.data = size * torch.randn(p.shape, generator=seeded(7), dtype=p.dtype)


KINDS = [trainable, low_rank, by_correction]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", [None, 3])
def test_what_is_trained_begins_at_the_reference(kind, classes) -> None:
    core = flat(classes=classes)
    labels = None if classes is None else torch.tensor([0, 1, 2, 3, 2, 1])
    for guidance in (1.0,) if labels is None else (1.0, 1.8):
        torch.testing.assert_close(said(kind(core), labels, guidance), said(core, labels, guidance), **EXACT)
    mdp = DenoisingMDP(core.chain(ud.TimeGrid.uniform(3, 0.05)), Linear(torch.ones(2)), beta=1.0)
    # A walk asks the reference of many rows and the policy of few: what is summed in another order rounds otherwise.
    assert float(Policy(mdp, kind(core)).walk(3, seeded(), like=F64).control.abs().max()) <= 64 * EPS


@pytest.mark.parametrize("rank", [None, 1, 5])
def test_convolutions_too(rank) -> None:
    core = images().eval()
    own = trainable(core, rank)
    torch.testing.assert_close(said(own), said(core), **EXACT)
    if rank is not None:
        assert len(trained_parameters(own, core)) == 6  # A and B of three layers
        mixed(own)
        assert float((said(own) - said(core)).abs().max()) > 1e-3
        torch.testing.assert_close(said(merged(own)), said(own), **EXACT)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("frozen", [False, True])
def test_a_step_moves_the_policy_and_leaves_every_tensor_of_the_reference(kind, frozen) -> None:
    core = flat().requires_grad_(not frozen)
    before = {name: v.clone() for name, v in core.state_dict().items()}
    spoke = said(core)
    own = kind(core)
    parameters = trained_parameters(own, core)
    assert parameters and all(p.requires_grad for p in parameters)
    for _ in range(3):  # the first moves B alone: A's gradient is a multiple of B
        loss = own.predict(draws(3, 8, 2), 0.5).x0.square().sum()
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        with torch.no_grad():
            for p, g in zip(parameters, found, strict=True):
                if g is not None:
                    p.sub_(g, alpha=0.05)
    assert {n: v.tolist() for n, v in core.state_dict().items()} == {n: v.tolist() for n, v in before.items()}
    torch.testing.assert_close(said(core), spoke, **EXACT)
    assert float((said(own) - spoke).abs().max()) > 1e-3
    assert all(p.requires_grad is not frozen and p.grad is None for p in core.parameters())


def test_a_low_rank_change_shares_the_references_memory_and_trains_the_change_alone() -> None:
    core = flat()
    own = low_rank(core)
    theirs = {p.data_ptr() for p in core.parameters()}
    parts = [p.data_ptr() for p in own.parameters()]
    assert theirs <= set(parts)
    trained = trained_parameters(own, core)
    layers = [m for m in core.denoiser.modules() if isinstance(m, nn.Linear)]  # pyright: ignore
    assert len(trained) == 2 * len(layers) and len(parts) == len(theirs) + len(trained)
    assert not {p.data_ptr() for p in trained} & theirs
    shapes = {tuple(p.shape) for p in trained}
    assert shapes == {s for m in layers for s in ((2, m.in_features), (m.out_features, 2))}
    # A word put into the reference is heard by the policy: it is one memory.
    with torch.no_grad():
        layers[-1].weight.mul_(2)
    torch.testing.assert_close(said(own), said(core), **EXACT)


@pytest.mark.parametrize("scale", [None, 6.0])
def test_a_change_is_alpha_over_r_times_a_product_of_that_rank(scale) -> None:
    core = flat()
    own = trainable(core, rank=2, scale=scale)
    mixed(own)
    theirs = dict(core.denoiser.named_modules())  # pyright: ignore
    seen = 0
    for name, layer in own.denoiser.named_modules():  # pyright: ignore
        if parametrize.is_parametrized(layer, "weight"):
            change = layer.weight - theirs[name].weight
            [part] = layer.parametrizations.weight
            torch.testing.assert_close(change, (1 if scale is None else scale / 2) * part.b @ part.a, **CLOSE)
            assert int(torch.linalg.matrix_rank(change, atol=1e-9)) == 2
            seen += 1
    assert seen == 5


def test_merged_is_the_policy_in_plain_weights_of_its_own() -> None:
    core = flat(classes=3)
    own = low_rank(core)
    mixed(own)
    labels = torch.tensor([0, 1, 2, 3, 2, 1])
    spoke = said(own, labels)
    plain = merged(own)
    torch.testing.assert_close(said(plain, labels, 1.4), said(own, labels, 1.4), **EXACT)
    assert float((said(plain, labels) - said(core, labels)).abs().max()) > 1e-3
    assert {n: v.shape for n, v in plain.state_dict().items()} == {n: v.shape for n, v in core.state_dict().items()}
    assert not {p.data_ptr() for p in plain.parameters()} & {p.data_ptr() for p in own.parameters()}
    # The policy itself stays as it was, and can go on.
    torch.testing.assert_close(said(own, labels), spoke, **EXACT)
    assert any(parametrize.is_parametrized(m, "weight") for m in own.modules())
    fresh = flat(classes=3)
    fresh.load_state_dict(plain.state_dict())
    torch.testing.assert_close(said(fresh, labels), said(own, labels), **EXACT)
    torch.testing.assert_close(said(merged(core), labels), said(core, labels), **EXACT)


def test_what_was_merged_can_be_a_reference_again_and_so_can_a_change() -> None:
    core = flat()
    first = low_rank(core)
    mixed(first)
    for reference in (merged(first), first):
        for kind in KINDS:
            own = kind(reference)
            torch.testing.assert_close(said(own), said(first), **EXACT)
            assert trained_parameters(own, reference)


@pytest.mark.parametrize("rank", [None, 2])
def test_a_learned_schedule_is_the_processs_and_is_not_trained(rank) -> None:
    core = flat(ud.Schedule.learned())
    schedule = sum(p.numel() for p in core.schedule.parameters())  # pyright: ignore
    assert schedule > 0
    own = trainable(core, rank)
    trained = {id(p) for p in trained_parameters(own, core)}
    assert trained and not trained & {id(p) for p in own.schedule.parameters()}  # pyright: ignore
    if rank is None:
        assert trained == {id(p) for p in own.denoiser.parameters()}  # pyright: ignore


@pytest.mark.parametrize("rank", [None, 2])
def test_the_policy_has_no_dropout_and_the_reference_keeps_its_mode(rank) -> None:
    core = images().train()
    own = trainable(core, rank)
    assert not any(m.training for m in own.modules()) and all(m.training for m in core.modules())
    torch.testing.assert_close(said(own), said(own), **EXACT)
    torch.testing.assert_close(said(own), said(copy.deepcopy(core).eval()), **EXACT)


def test_one_seed_is_one_a_and_torch_is_left_alone() -> None:
    core, before = flat(), torch.get_rng_state()
    one, two, other = (trainable(core, rank=2, seed=s) for s in (3, 3, 4))
    assert torch.equal(before, torch.get_rng_state())
    mine, same, others = (dict(v.named_parameters()) for v in (one, two, other))
    for name in mine:
        if name.endswith(".a"):
            assert torch.equal(mine[name], same[name]) and not torch.equal(mine[name], others[name])


def test_a_correction_is_of_x0_and_shrinks_with_the_noise() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.value = nn.Parameter(torch.tensor([2.0, -1.0], dtype=torch.float64))
            self.heard: list[tuple[torch.Tensor, torch.Tensor | None]] = []

        def forward(self, x: torch.Tensor, log_snr: torch.Tensor, condition: torch.Tensor | None) -> torch.Tensor:
            self.heard.append((log_snr, condition))
            return self.value.expand_as(x)

    core, change = oracle(), Constant()
    own = corrected(core, change)
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    found = said(own, labels, 1.5) - said(core, labels, 1.5)
    level = core.schedule.level(torch.linspace(0.1, 1, 6, dtype=torch.float64))
    share = level.sigma**2 / (level.alpha**2 + level.sigma**2)
    torch.testing.assert_close(found, share[:, None] * change.value.detach(), **CLOSE)
    [(log_snr, condition)] = change.heard
    torch.testing.assert_close(log_snr, level.log_snr, **CLOSE)
    assert condition is not None and condition.tolist() == labels.tolist()
    assert list(own.parameters()) == [change.value] and own.event_shape == (2,)
    assert getattr(own.denoiser, "num_classes", None) == 3


def test_a_corrections_network_alone_is_trained_and_never_the_network_under_it() -> None:
    core, change = flat(), MLP(2, 8, 2).double()
    own = corrected(core, change)
    assert {id(p) for p in own.parameters()} == {id(p) for p in change.parameters()}
    assert {id(p) for p in trained_parameters(own, core)} == {id(p) for p in change.parameters()}
    policy = Policy(DenoisingMDP(core.chain(ud.TimeGrid.uniform(3, 0.05)), beta=1.0), own)
    rows = policy.walk(4, seeded()).decisions()
    found = gradients(policy, policy.control(rows).sum())  # at the reference, and yet with a way to leave it
    assert float(found.abs().max()) > 0


CLOSED = oracle()
BAD: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: trainable(CLOSED), ValueError, r"core must hold a Denoiser .* got OracleDenoiser; .*unidiff.rl.corrected"),
    (lambda: trainable(CLOSED, rank=2), ValueError, "core must hold a Denoiser"),
    (lambda: trainable(corrected(CLOSED, network(1.0))), ValueError, "got CorrectedDenoiser"),
    (
        lambda: trainable(ud.Diffusion(CLOSED.schedule, Denoiser(lambda x, n, c: x, (2,)))),
        ValueError,
        "with a network to be trained",
    ),
    (lambda: trainable(flat(), scale=2.0), ValueError, "scale is for a change of low rank: .* got scale = 2.0"),
    (lambda: trainable(flat(), rank=0), ValueError, "rank must be an integer of at least 1, got 0"),
    (lambda: trainable(flat(), rank=True), ValueError, "rank must be an integer"),
    (lambda: trainable(flat(), rank=2, scale=0.0), ValueError, "scale must be positive and finite, got 0.0"),
    (lambda: trainable(flat(), rank=2, scale=float("nan")), ValueError, "scale must be positive"),
    (lambda: trainable(flat().denoiser), TypeError, "core must be a Diffusion"),  # pyright: ignore
    (lambda: merged(flat().denoiser), TypeError, "core must be a Diffusion"),  # pyright: ignore
    (lambda: corrected(flat().denoiser, network(1.0)), TypeError, "core must be a Diffusion"),  # pyright: ignore
    (lambda: corrected(CLOSED, lambda x, n, c: x), TypeError, "network must be a Module"),  # pyright: ignore
]


@pytest.mark.parametrize("index", range(len(BAD)))
def test_what_cannot_be_trained_is_refused(index) -> None:
    make, error, message = BAD[index]
    with pytest.raises(error, match=message):
        make()


def test_the_process_that_tests_walk_on_has_no_parameters() -> None:
    assert not list(process().chain.core.parameters())
