"""Chains on fixed tensors are the process's own, draw for draw; on a GPU a replayed decision is the eager one."""

from __future__ import annotations

import copy
from dataclasses import fields
from typing import Any

import pytest
import torch

import unidiff as ud
from tests.rl.cores import classes
from unidiff.core import networks
from unidiff.rl import DenoisingMDP, Policy, Walk, corrected, trainable
from unidiff.rl.replay import Chains


def network(schedule: ud.Schedule, prediction: Any = "v", num_classes: int | None = None) -> ud.Diffusion:
    torch.manual_seed(0)
    module = networks.MLP(2, 32, 2, num_classes=num_classes)
    torch.nn.init.normal_(module.last.weight, std=0.2)
    return ud.Diffusion(schedule, ud.Denoiser(module, (2,), prediction, num_classes=num_classes)).eval()


def first(x0: torch.Tensor) -> torch.Tensor:
    return x0[:, 0]


def path(xt: torch.Tensor, xs: torch.Tensor, t: float, s: float) -> torch.Tensor:
    return (t - s + t * t) * (xs - xt).square().sum(1)


def seeded(seed: int = 3, device: str = "cpu") -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


# (core, options of the process, labels): a last step with noise and one without, both kinds of action, every rule.
CASES: list[tuple[str, ud.Diffusion, dict[str, Any], bool]] = [
    ("plain", network(ud.Schedule.cosine()), {"beta": 0.3}, False),
    ("decodes", network(ud.Schedule.linear()), {"beta": 0.3, "step_reward": path}, False),
    ("x0", network(ud.Schedule.cosine(), "x0"), {"step_reward": path}, False),
    ("labels", network(ud.Schedule.cosine(), num_classes=3), {"beta": 0.3, "guidance": 1.5}, True),
    ("world", classes(), {"beta": 0.3}, True),
]
NAMES = [name for name, *_ in CASES]


def process(core: ud.Diffusion, variance: Any = "posterior", **options: Any) -> DenoisingMDP:
    return DenoisingMDP(core.chain(ud.TimeGrid.uniform(6), variance), first, **options)


def moved(mdp: DenoisingMDP) -> Policy:
    """A policy that has left the reference."""
    whole = isinstance(mdp.chain.core.denoiser, ud.Denoiser)
    core = trainable(mdp.chain.core) if whole else corrected(mdp.chain.core, networks.MLP(2, 32, 2))
    with torch.no_grad():
        for p in core.parameters():
            p.add_(0.05)
    return Policy(mdp, core)


def same(found: Walk, expected: Walk, tolerance: float = 0.0) -> None:
    for field in fields(Walk):
        a, b = getattr(found, field.name), getattr(expected, field.name)
        assert (a is None) == (b is None), field.name
        if a is not None:
            torch.testing.assert_close(
                a, b, msg=lambda m, name=field.name: f"{name}: {m}", rtol=tolerance, atol=tolerance
            )


@pytest.mark.parametrize(("core", "options", "labelled"), [case[1:] for case in CASES], ids=NAMES)
def test_a_walk_is_the_policys_own_bit_for_bit_and_again_from_the_same_seed(core, options, labelled) -> None:
    mdp = process(core, **options)
    policy = moved(mdp)
    labels = torch.arange(16) % 3 if labelled else None
    chains = Chains(mdp, 16, policy.control)
    expected = policy.walk(16, seeded(), labels)
    for _ in range(2):
        found = chains.walk(seeded(), labels)
        same(found, expected)
    assert float(expected.control.abs().min(0).values.max()) > 0
    kept = found.x.clone()
    other = chains.walk(seeded(4), labels)
    assert torch.equal(found.x, kept), "a walk is no view of the next one"
    assert not torch.equal(other.x0, found.x0)


def test_a_walk_goes_on_with_the_generator_and_starts_where_it_is_told() -> None:
    mdp = process(network(ud.Schedule.cosine()))
    policy, start = moved(mdp), torch.full((8, 2), 0.5)
    chains, one, two = Chains(mdp, 8, policy.control), seeded(), seeded()
    for given in (None, start):
        same(chains.walk(one, start=given), policy.walk(8, two, start=given))
    assert torch.equal(chains.walk(one, start=start).x[0], start)


@pytest.mark.parametrize("variance", ["posterior", "prior"])
@pytest.mark.parametrize("kind", [("residual", 0.3), ("state", 0.3), ("state", 0.0)])
@pytest.mark.parametrize("schedule", [ud.Schedule.cosine(), ud.Schedule.linear()], ids=["cosine", "linear"])
def test_a_step_is_the_processs_own_bit_for_bit(schedule, kind, variance) -> None:
    action, beta = kind
    mdp = process(network(schedule), variance, action=action, beta=beta, step_reward=path)
    chains, draws = Chains(mdp, 8), seeded(5)
    for _ in range(2):
        state = mdp.start(8, seeded())
        assert torch.equal(chains.start(seeded()).x, state.x)
        for h in range(mdp.horizon):
            taken = torch.randn(8, 2, generator=draws)
            expected = mdp.step(state, taken)
            chains.action.copy_(taken)
            found = chains.step(taken if h % 2 else None)
            assert torch.equal(found.state.x, expected.state.x)
            assert torch.equal(found.reward, expected.reward)
            assert torch.equal(found.charge, expected.charge)
            assert (found.done, found.state.k) == (expected.done, expected.state.k)
            state = expected.state
        assert found.done
        assert found.state.k == 0


def test_a_state_that_is_not_charged_for_asks_no_reference() -> None:
    core = network(ud.Schedule.cosine())
    mdp = DenoisingMDP(core.chain(ud.TimeGrid.uniform(3, 0.1)), first, action="state")
    state, asked = mdp.start(4, seeded()), []
    core.denoiser.register_forward_hook(lambda *_: asked.append(1))  # pyright: ignore
    charged = DenoisingMDP(mdp.chain, first, action="state", beta=0.1)
    free, paid = (process.step(state, state.x + 1) for process in (mdp, charged))
    assert len(asked) == 1
    assert torch.equal(free.state.x, paid.state.x)
    assert torch.equal(free.charge, torch.zeros(4))
    assert torch.equal(
        paid.charge, 0.05 * ((state.x + 1 - mdp.reference(state).mean) / mdp.reference(state).std).square().sum(1)
    )


def test_a_walk_asks_the_reference_once_a_decision() -> None:
    mdp = process(network(ud.Schedule.cosine()))
    policy, alone = moved(mdp), Chains(mdp, 4)
    asked: list[int] = []
    mdp.chain.core.denoiser.register_forward_hook(lambda *_: asked.append(1))  # pyright: ignore
    for walk in (lambda: policy.walk(4, seeded()), lambda: alone.walk(seeded())):
        asked.clear()
        walk()
        assert len(asked) == mdp.chain.steps


def test_one_level_of_a_batch_is_embedded_once_and_changes_nothing() -> None:
    core = network(ud.Schedule.cosine()).double()
    x, level = (
        torch.randn(16, 2, generator=seeded(), dtype=torch.float64),
        core.schedule.level(torch.tensor(0.3, dtype=torch.float64)),
    )
    rows: list[int] = []
    core.denoiser.network.noise.register_forward_hook(lambda _, inside, __: rows.append(len(inside[0])))  # pyright: ignore
    alone = core.denoiser(x, level).x0
    each = core.denoiser(x, core.schedule.level(torch.full((16,), 0.3, dtype=torch.float64))).x0
    assert rows == [1, 16]
    # One product of [16, ·] and one of [1, ·] sum 64 and 32 terms in some order or other.
    torch.testing.assert_close(alone, each, rtol=1e-13, atol=1e-13)


def test_what_is_no_argument_is_refused_by_name() -> None:
    mdp = process(network(ud.Schedule.cosine()))
    rows: list[tuple[Any, type[Exception], str]] = [
        (lambda: Chains(3, 4), TypeError, "mdp must be a DenoisingMDP"),  # pyright: ignore
        (lambda: Chains(mdp, 0), ValueError, "n must be an integer of at least 1, got 0"),
        (lambda: Chains(mdp, 4, 3), TypeError, "control must be callable, got int"),  # pyright: ignore
        (lambda: Chains(mdp, 4, graph=True), ValueError, r"like must be on a GPU with graph=True .* got cpu"),
        (
            lambda: Chains(mdp, 4, like=torch.empty(0, dtype=torch.float16)),
            ValueError,
            "like must be float32 or float64",
        ),
        (lambda: Chains(mdp, 4).step(torch.zeros(4, 2)), ValueError, "never started"),
        (lambda: Chains(process(mdp.chain.core, action="state"), 4).walk(), ValueError, "mdp must have residuals"),
        (lambda: Chains(mdp, 4).walk(start=torch.zeros(3, 2)), ValueError, "x"),
        (lambda: Chains(mdp, 4, lambda at: at.x / 0).walk(seeded()), FloatingPointError, "not finite at step 6 of 6"),
    ]
    for work, error, message in rows:
        with pytest.raises(error, match=message):
            work()
    chains = Chains(mdp, 4)
    chains.start(seeded())
    with pytest.raises(ValueError, match="action"):
        chains.step(torch.zeros(4, 3))
    for _ in range(mdp.horizon):
        chains.step(torch.zeros(4, 2))
    with pytest.raises(ValueError, match="have ended"):
        chains.step()


def test_a_control_that_breaks_late_is_told_by_its_step() -> None:
    mdp = process(network(ud.Schedule.cosine()))

    def late(at: Any) -> torch.Tensor:
        return torch.where(at.k[:, None] <= 2, torch.nan, 0.0).expand_as(at.x).clone()

    with pytest.raises(FloatingPointError, match="not finite at step 2 of 6"):
        Chains(mdp, 4, late).walk(seeded())


@pytest.mark.gpu
@pytest.mark.parametrize(("core", "options", "labelled"), [case[1:] for case in CASES], ids=NAMES)
def test_replayed_walks_are_eager_walks_on_the_same_draws(core, options, labelled) -> None:
    # float64: the same kernels, whose sums a capture may take in another order.
    if isinstance(core.denoiser, ud.Denoiser):
        core = copy.deepcopy(core).to("cuda", torch.float64)
    else:
        world = ud.worlds.library.mixture_2d().to(device="cuda", dtype=torch.float64)
        core = ud.Diffusion(core.schedule, ud.worlds.OracleDenoiser(world))
    like = torch.empty(0, dtype=torch.float64, device="cuda")
    mdp = process(core, **options)
    policy = moved(mdp)
    policy.core.to("cuda", torch.float64)
    labels = torch.arange(16, device="cuda") % 3 if labelled else None
    chains, own, eager = Chains(mdp, 16, policy.control, like=like), seeded(3, "cuda"), seeded(3, "cuda")
    for shift in (0, 1):  # one capture, other labels, a generator that goes on
        asked = None if labels is None else (labels + shift) % 3
        same(chains.walk(own, asked), policy.walk(16, eager, asked, like=like), 1e-9)
    with torch.no_grad():
        for p in policy.core.parameters():
            p.mul_(1.1)
    same(chains.walk(own, labels), policy.walk(16, eager, labels, like=like), 1e-9)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", [("residual", 0.3), ("state", 0.3), ("state", 0.0)])
@pytest.mark.parametrize("schedule", [ud.Schedule.cosine(), ud.Schedule.linear()], ids=["cosine", "linear"])
def test_replayed_steps_are_the_processs_own(schedule, kind) -> None:
    action, beta = kind
    mdp = process(network(schedule).to("cuda", torch.float64), action=action, beta=beta, step_reward=path)
    chains, draws = Chains(mdp, 8), seeded(5, "cuda")
    for _ in range(2):
        state = mdp.start(8, seeded(3, "cuda"), like=chains.x)
        chains.start(seeded(3, "cuda"))
        for _ in range(mdp.horizon):
            taken = torch.randn(8, 2, generator=draws, dtype=torch.float64, device="cuda")
            expected, found = mdp.step(state, taken), chains.step(taken)
            for one, two in (
                (found.state.x, expected.state.x), (found.reward, expected.reward), (found.charge, expected.charge),
            ):  # fmt: skip
                torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)
            assert (found.done, found.state.k) == (expected.done, expected.state.k)
            state = expected.state
