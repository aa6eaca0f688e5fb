"""Walks of a policy, however they are run, are the process's own, draw for draw; a replayed decision is the eager one."""

from __future__ import annotations

import copy
from dataclasses import fields
from typing import Any

import pytest
import torch

import unidiff as ud
from unidiff.core import networks
from unidiff.rl import DenoisingMDP, Policy, State, Walk, corrected, trainable, walking
from unidiff.rl.replay import Chains


def network(
    schedule: ud.Schedule, prediction: Any = "v", num_classes: int | None = None, learned: bool = False
) -> ud.Diffusion:
    torch.manual_seed(0)
    module = networks.MLP(2, 32, 2, num_classes=num_classes, learned_variance=learned)
    torch.nn.init.normal_(module.last.weight, std=0.2)
    denoiser = ud.Denoiser(module, (2,), prediction, num_classes=num_classes, learned_variance=learned)
    return ud.Diffusion(schedule, denoiser).eval().double()


def world(device: str = "cpu") -> ud.Diffusion:
    mixture = ud.worlds.library.mixture_2d().to(device=device, dtype=torch.float64)
    return ud.Diffusion(ud.Schedule.cosine(), ud.worlds.OracleDenoiser(mixture))


def first(x0: torch.Tensor) -> torch.Tensor:
    return x0[:, 0]


def path(xt: torch.Tensor, xs: torch.Tensor, t: float, s: float) -> torch.Tensor:
    return (t - s + t * t) * (xs - xt).square().sum(1)


def seeded(seed: int = 3, device: str = "cpu") -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


# (core, rule, options, labels): a last step with noise and one without, variances that are the reference's own word.
CASES: list[tuple[str, ud.Diffusion, str, dict[str, Any], bool]] = [
    ("plain", network(ud.Schedule.cosine()), "posterior", {"beta": 0.3}, False),
    ("decodes", network(ud.Schedule.linear()), "prior", {"beta": 0.3, "step_reward": path}, False),
    ("x0", network(ud.Schedule.cosine(), "x0"), "posterior", {"step_reward": path}, False),
    ("labels", network(ud.Schedule.cosine(), num_classes=3), "posterior", {"beta": 0.3, "guidance": 1.5}, True),
    ("learned", network(ud.Schedule.linear(), learned=True), "learned", {"step_reward": path}, False),
    ("world", world(), "optimal", {"beta": 0.3}, True),
]
ALL = pytest.mark.parametrize(
    ("core", "variance", "options", "labelled"), [case[1:] for case in CASES], ids=[name for name, *_ in CASES]
)


def process(core: ud.Diffusion, variance: Any = "posterior", **options: Any) -> DenoisingMDP:
    return DenoisingMDP(core.chain(ud.TimeGrid.uniform(6), variance), first, **options)


def moved(mdp: DenoisingMDP, graph: bool | None = None) -> Policy:
    """A policy that has left the reference."""
    whole = isinstance(mdp.chain.core.denoiser, ud.Denoiser)
    core = trainable(mdp.chain.core) if whole else corrected(mdp.chain.core, networks.MLP(2, 32, 2, 3).double())
    with torch.no_grad():
        for p in core.parameters():
            p.add_(0.05)
    return Policy(mdp, core, graph)


def by_hand(
    policy: Policy, n: int, generator: torch.Generator, labels: torch.Tensor | None, start: torch.Tensor | None = None
) -> Walk:
    """A walk by the process's own words: its law and its step, and the policy's mean beside the law's."""
    mdp, chain = policy.mdp, policy.mdp.chain
    like = torch.empty(0, dtype=torch.float64, device=generator.device)
    state, rows = mdp.start(n, generator, labels, like), []
    if start is not None:
        state = State(start, state.k, state.condition)
    with torch.no_grad():
        for _ in range(mdp.horizon):
            law, level = mdp.reference(state), chain.levels[state.k].to(state.x)
            known, own = (
                core.denoiser(state.x, level, state.condition, mdp.guidance).x0 for core in (chain.core, policy.core)
            )
            u = (chain.mean(state.x, state.k, own) - law.mean) / law.std
            a = u + torch.randn(u.shape, generator=generator, dtype=u.dtype, device=u.device)
            outcome = mdp.step(state, a)
            k = torch.tensor(state.k, device=u.device)
            rows.append((state.x, k, known, law.std.expand_as(u), a, u, outcome.paid))
            state = outcome.state
    x, k, known, std, a, u, paid = (torch.stack(column) for column in zip(*rows, strict=True))
    return Walk(x, k, known, std, a, u, paid, state.x, state.condition)


def same(found: Walk, expected: Walk, tolerance: float = 1e-11) -> None:
    """float64: the same sums in another order, carried on by six steps."""
    for field in fields(Walk):
        a, b = getattr(found, field.name), getattr(expected, field.name)
        assert (a is None) == (b is None), field.name
        if a is not None:
            torch.testing.assert_close(
                a, b, msg=lambda m, name=field.name: f"{name}: {m}", rtol=tolerance, atol=tolerance
            )


@ALL
def test_a_walk_is_the_processs_own_draw_for_draw_and_again_from_the_same_seed(
    core, variance, options, labelled
) -> None:
    mdp = process(core, variance, **options)
    policy = moved(mdp)
    labels = torch.arange(16) % 3 if labelled else None
    expected = by_hand(policy, 16, seeded(), labels)
    assert float(expected.control.abs().max(1).values.min()) > 1e-3
    chains = Chains(mdp, 16, policy.control, like=expected.x)
    for walk in (policy.walk, lambda _, *given: chains.walk(*given)):
        found, again = (walk(16, seeded(), labels) for _ in range(2))
        same(found, expected)
        same(again, found, 0.0)
        kept = found.x.clone()
        other = walk(16, seeded(4), labels)
        assert torch.equal(found.x, kept), "a walk is no view of the next one"
        assert not torch.equal(other.x0, found.x0)


@pytest.mark.parametrize("core", [network(ud.Schedule.cosine()), world()], ids=["network", "correction"])
def test_a_walk_goes_on_with_the_generator_and_starts_where_it_is_told(core) -> None:
    policy = moved(process(core))
    start = torch.full((8, 2), 0.5, dtype=torch.float64)
    one, two = seeded(), seeded()
    for given in (None, start):
        found = policy.walk(8, one, start=given)
        same(found, by_hand(policy, 8, two, None, given))
    assert torch.equal(found.x[0], start)


def test_a_walk_asks_of_the_reference_what_fits_and_of_every_state(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = moved(process(network(ud.Schedule.linear(), num_classes=3)))
    labels, rows = torch.arange(16) % 3, []
    expected = by_hand(policy, 16, seeded(), labels)
    policy.mdp.chain.core.denoiser.register_forward_hook(lambda _, inside, __: rows.append(len(inside[0])))  # pyright: ignore
    for most, asked in ((2**13, [80, 16]), (64, [32, 32, 16, 16]), (1, [16] * 6)):
        monkeypatch.setattr(walking, "MOST_ASKED", most)
        rows.clear()
        same(policy.walk(16, seeded(), labels), expected)
        assert rows == asked


def test_rows_of_all_steps_have_the_controls_and_gradients_of_rows_alone() -> None:
    policy = moved(process(network(ud.Schedule.cosine(), num_classes=3), guidance=1.5))
    at = policy.walk(4, seeded(), torch.arange(4) % 3).decisions()
    rows = [at[torch.tensor([i])] for i in range(len(at))]
    found, expected = policy.control(at), torch.cat([policy.control(row) for row in rows])
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    parameters = list(policy.core.parameters())
    one, two = (torch.autograd.grad(v.square().sum(), parameters, allow_unused=True) for v in (found, expected))
    for a, b in zip(one, two, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9 * float(b.abs().max()))


def test_a_correction_is_its_own_control_and_asks_no_reference() -> None:
    reference = network(ud.Schedule.cosine())
    policy = Policy(process(reference), corrected(reference, networks.MLP(2, 32, 2).double()))
    with torch.no_grad():
        for p in policy.core.parameters():
            p.add_(0.05)
    at, asked = policy.walk(8, seeded()).decisions(), []
    reference.denoiser.register_forward_hook(lambda *_: asked.append(1))  # pyright: ignore
    found = policy.control(at)
    assert asked == []
    chain = policy.mdp.chain
    own = policy.core.denoiser(at.x, chain.levels[at.k].to(at.x)).x0
    assert len(asked) == 1
    expected = (chain.mean(at.x, at.k, own) - chain.mean(at.x, at.k, at.guess)) / at.std
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("variance", ["posterior", "prior"])
@pytest.mark.parametrize("kind", [("residual", 0.3), ("state", 0.3), ("state", 0.0)])
@pytest.mark.parametrize("schedule", [ud.Schedule.cosine(), ud.Schedule.linear()], ids=["cosine", "linear"])
def test_a_step_is_the_processs_own_bit_for_bit(schedule, kind, variance) -> None:
    action, beta = kind
    mdp = process(network(schedule), variance, action=action, beta=beta, step_reward=path)
    chains, draws = Chains(mdp, 8), seeded(5)
    for _ in range(2):
        state = mdp.start(8, seeded(), like=chains.x)
        assert torch.equal(chains.start(seeded()).x, state.x)
        for h in range(mdp.horizon):
            taken = torch.randn(8, 2, generator=draws, dtype=torch.float64)
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
    state, asked = mdp.start(4, seeded(), like=torch.empty(0, dtype=torch.float64)), []
    core.denoiser.register_forward_hook(lambda *_: asked.append(1))  # pyright: ignore
    charged = DenoisingMDP(mdp.chain, first, action="state", beta=0.1)
    free, paid = (process.step(state, state.x + 1) for process in (mdp, charged))
    assert len(asked) == 1
    assert torch.equal(free.state.x, paid.state.x)
    assert torch.equal(free.charge, torch.zeros(4, dtype=torch.float64))
    assert torch.equal(
        paid.charge, 0.05 * ((state.x + 1 - mdp.reference(state).mean) / mdp.reference(state).std).square().sum(1)
    )


def test_a_walk_on_fixed_tensors_asks_the_reference_once_a_decision() -> None:
    mdp = process(network(ud.Schedule.cosine()))
    alone, asked = Chains(mdp, 4), []
    mdp.chain.core.denoiser.register_forward_hook(lambda *_: asked.append(1))  # pyright: ignore
    alone.walk(seeded())
    assert len(asked) == mdp.chain.steps


def test_one_level_of_a_batch_is_embedded_once_and_changes_nothing() -> None:
    core = network(ud.Schedule.cosine())
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
        (lambda: Chains(mdp, 4).step(torch.zeros(4, 2, dtype=torch.float64)), ValueError, "never started"),
        (lambda: Chains(process(mdp.chain.core, action="state"), 4).walk(), ValueError, "mdp must have residuals"),
        (lambda: Chains(mdp, 4).walk(start=torch.zeros(3, 2, dtype=torch.float64)), ValueError, "start"),
        (lambda: Chains(mdp, 4).start(x=torch.zeros(3, 2, dtype=torch.float64)), ValueError, "x"),
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
        chains.step(torch.zeros(4, 2, dtype=torch.float64))
    with pytest.raises(ValueError, match="have ended"):
        chains.step()


def test_a_control_that_breaks_late_is_told_by_its_step() -> None:
    mdp = process(network(ud.Schedule.cosine()))

    def late(at: Any) -> torch.Tensor:
        return torch.where(at.k[:, None] <= 2, torch.nan, 0.0).expand_as(at.x).clone()

    with pytest.raises(FloatingPointError, match="not finite at step 2 of 6"):
        Chains(mdp, 4, late).walk(seeded())


@pytest.mark.gpu
@ALL
def test_replayed_walks_are_eager_walks_on_the_same_draws(core, variance, options, labelled) -> None:
    core = copy.deepcopy(core).to("cuda") if isinstance(core.denoiser, ud.Denoiser) else world("cuda")
    policy = moved(process(core, variance, **options))
    policy.core.to("cuda")
    labels = torch.arange(16, device="cuda") % 3 if labelled else None
    own, eager = seeded(3, "cuda"), seeded(3, "cuda")
    for shift in (0, 1):  # one capture, other labels, a generator that goes on
        asked = None if labels is None else (labels + shift) % 3
        same(policy.walk(16, own, asked), by_hand(policy, 16, eager, asked), 1e-9)
    with torch.no_grad():
        for p in policy.core.parameters():
            p.mul_(1.1)
    same(policy.walk(16, own, labels), by_hand(policy, 16, eager, labels), 1e-9)
    uncaptured = Policy(policy.mdp, policy.core, graph=False)
    same(uncaptured.walk(16, own, labels), by_hand(policy, 16, eager, labels), 1e-9)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", [("residual", 0.3), ("state", 0.3), ("state", 0.0)])
@pytest.mark.parametrize("schedule", [ud.Schedule.cosine(), ud.Schedule.linear()], ids=["cosine", "linear"])
def test_replayed_steps_are_the_processs_own(schedule, kind) -> None:
    action, beta = kind
    mdp = process(network(schedule).to("cuda"), action=action, beta=beta, step_reward=path)
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
