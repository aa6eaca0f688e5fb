"""What is trained begins at the reference, leaves it as it is, and is a plain network again in the end."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import unidiff as ud
from tests.rl.cores import classes, mlp, plane, stirred
from unidiff.core import networks
from unidiff.rl import corrected, merged, trainable
from unidiff.rl.trainable import trained_parameters


def asked(
    core: ud.Diffusion, t: float = 0.6, condition: torch.Tensor | None = None, guidance: float = 1.0
) -> torch.Tensor:
    first = core.first_parameter()
    x = torch.randn(5, *core.event_shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return core.predict(x.to(torch.float64 if first is None else first.dtype), t, condition, guidance).x0.detach()


def image_core() -> ud.Diffusion:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = networks.UNet(1, 8, 8, (1, 2), 1, attention=(4,), dropout=0.5)
    return ud.Diffusion(ud.Schedule.cosine(), ud.Denoiser(network, (1, 8, 8), "v"))


def descend(core: ud.Diffusion, reference: ud.Diffusion, steps: int = 3) -> None:
    """A few gradient steps on anything."""
    optimizer = torch.optim.SGD(trained_parameters(core, reference), lr=0.1)
    for _ in range(steps):
        first = core.first_parameter()
        assert first is not None
        x = torch.randn(8, *core.event_shape, generator=torch.Generator().manual_seed(1), dtype=first.dtype)
        loss = (core.predict(x, 0.5).x0 - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("rank", [None, 1, 3])
@pytest.mark.parametrize("make", [mlp, image_core])
def test_training_begins_at_the_reference_and_leaves_it_as_it_is(make, rank) -> None:
    reference = stirred(make(), 0.05).eval()
    before = copy.deepcopy(reference.state_dict())
    core = trainable(reference, rank)
    assert torch.equal(asked(core), asked(reference))
    descend(core, reference)
    assert not torch.allclose(asked(core), asked(reference))
    after = reference.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_a_change_of_low_rank_lives_on_the_reference_s_memory() -> None:
    reference = mlp()
    core, whole = trainable(reference, 2), trainable(reference)
    theirs = {p.data_ptr() for p in reference.parameters()}
    shared = [p for p in core.parameters() if p.data_ptr() in theirs]
    assert len(shared) == len(list(reference.parameters()))
    own = trained_parameters(core, reference)
    layers = [m for m in reference.modules() if isinstance(m, nn.Linear)]
    assert sum(p.numel() for p in own) == sum(2 * (m.in_features + m.out_features) for m in layers)
    assert not any(p.data_ptr() in theirs for p in [*own, *whole.parameters()])
    assert len(trained_parameters(whole, reference)) == len(list(reference.denoiser.parameters()))  # pyright: ignore


@pytest.mark.parametrize("make", [mlp, image_core])
@pytest.mark.parametrize(("rank", "scale"), [(1, None), (2, 3.0)])
def test_the_change_is_alpha_over_r_times_b_a_and_merged_is_that_in_plain_weights(make, rank, scale) -> None:
    reference = make()
    core = trainable(reference, rank, scale)
    for p in trained_parameters(core, reference):
        with torch.no_grad():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()), dtype=p.dtype))
    plain = merged(core)
    assert plain.state_dict().keys() == reference.state_dict().keys()
    torch.testing.assert_close(asked(plain), asked(core), rtol=0, atol=0)
    assert type(plain.denoiser) is ud.Denoiser and core.state_dict().keys() != reference.state_dict().keys()
    pairs = [v for name, v in core.named_parameters() if name.endswith((".a", ".b"))]
    found, i = 0, 0
    kinds = nn.Linear, nn.Conv1d, nn.Conv2d
    for one, other in zip(plain.modules(), reference.modules(), strict=True):
        assert type(one) is type(other)
        if isinstance(one, kinds) and isinstance(other, kinds):
            a, b = pairs[i], pairs[i + 1]
            i, change = i + 2, (one.weight - other.weight).flatten(1)
            torch.testing.assert_close(change, (1 if scale is None else scale / rank) * b @ a, rtol=1e-4, atol=1e-5)
            assert int(torch.linalg.matrix_rank(change.double(), atol=1e-5)) <= rank
            found += 1
    assert found > 3 and i == len(pairs)


def test_a_merged_core_shares_nothing_and_a_plain_one_is_copied() -> None:
    reference = mlp()
    core = trainable(reference, 2)
    plain = merged(core)
    stirred(plain)
    assert torch.equal(asked(core), asked(reference))
    again = merged(reference)
    assert torch.equal(asked(again), asked(reference))
    assert not {p.data_ptr() for p in again.parameters()} & {p.data_ptr() for p in reference.parameters()}


def test_a_seed_draws_a_and_b_begins_at_zero() -> None:
    reference, before = mlp(), torch.get_rng_state()
    one, two, other = (dict(trainable(reference, 2, seed=s).named_parameters()) for s in (0, 0, 1))
    a = [name for name in one if name.endswith(".a")]
    assert a and all(torch.equal(one[name], two[name]) and not torch.equal(one[name], other[name]) for name in a)
    assert not any(one[name].any() for name in one if name.endswith(".b"))
    assert torch.equal(before, torch.get_rng_state())


def test_a_trained_copy_has_no_dropout_and_its_schedule_stays() -> None:
    for rank in (None, 2):
        assert not trainable(image_core().train(), rank).training
        reference = ud.Diffusion(ud.Schedule.learned(10.0, -10.0), mlp().denoiser)
        core = trainable(reference, rank)
        own = {id(p) for p in trained_parameters(core, reference)}
        names = [name for name, p in core.named_parameters() if id(p) in own]
        assert names and all(name.startswith("denoiser") for name in names)
        assert any(name.startswith("schedule") for name, _ in core.named_parameters())
        frozen = mlp().requires_grad_(False)
        core = trainable(frozen, rank)
        assert trained_parameters(core, frozen)
        descend(core, frozen, 1)


def test_a_correction_is_by_the_noise_s_share_of_the_variance() -> None:
    reference = plane()
    network = nn.Linear(2, 2)

    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = network

        def forward(self, x: torch.Tensor, noise: torch.Tensor, condition: torch.Tensor | None) -> torch.Tensor:
            assert noise.shape == x.shape[:1]
            return self.part(x) + noise[:, None]

    core, x = corrected(reference, Fixed()), torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    assert {id(p) for p in core.parameters()} == {id(p) for p in network.parameters()}
    for t in (0.1, 0.6, 1.0):
        level = reference.schedule.level(t)
        share = float(level.sigma**2 / (level.alpha**2 + level.sigma**2))
        known = reference.predict(x, t).x0 + share * (network(x) + float(level.log_snr.clamp(-30, 30)))
        torch.testing.assert_close(core.predict(x, t).x0, known, rtol=1e-5, atol=1e-5)


def test_a_correction_of_zero_is_the_reference_guidance_and_classes_too() -> None:
    reference, labels = classes(), torch.tensor([0, 1, 0, 1, 1])
    core = corrected(reference, networks.MLP(2, 8, 2, num_classes=2))
    assert core.denoiser.num_classes == reference.denoiser.num_classes  # pyright: ignore
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    for condition, guidance in ((None, 1.0), (labels, 1.0), (labels, 2.5)):
        one, other = (c.predict(x, 0.5, condition, guidance).x0 for c in (core, reference))
        assert torch.equal(one, other)


def test_a_correction_s_reference_is_no_part_of_it() -> None:
    reference = mlp()
    core = corrected(reference, networks.MLP(2, 8, 2).double())
    assert not {id(p) for p in core.parameters()} & {id(p) for p in reference.parameters()}
    before = copy.deepcopy(reference.state_dict())
    descend(stirred(core), reference)
    assert all(torch.equal(v, before[name]) for name, v in reference.state_dict().items())


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: trainable(plane()), ValueError, "got OracleDenoiser; a closed-form denoiser can be corrected"),
        (lambda: trainable(mlp().denoiser), TypeError, "core must be a Diffusion"),  # pyright: ignore
        (lambda: trainable(mlp(), 0), ValueError, "rank must be an integer of at least 1, got 0"),
        (lambda: trainable(mlp(), True), ValueError, "rank must be an integer of at least 1, got True"),
        (lambda: trainable(mlp(), 2, 0.0), ValueError, "scale must be positive and finite, got 0.0"),
        (lambda: trainable(mlp(), None, 2.0), ValueError, "give rank too, got scale = 2.0"),
        (lambda: corrected(mlp().denoiser, nn.Identity()), TypeError, "core must be a Diffusion"),  # pyright: ignore
        (lambda: corrected(mlp(), lambda x, noise, condition: x), TypeError, "network must be a Module"),  # pyright: ignore
        (lambda: merged(nn.Linear(2, 2)), TypeError, "core must be a Diffusion"),  # pyright: ignore
    ],
)
def test_what_cannot_be_trained_is_refused(make, kind, message) -> None:
    with pytest.raises(kind, match=message):
        make()
