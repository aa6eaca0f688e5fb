"""A policy is its control: densities, walks and rows against the chain's own Gaussians; and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

import unidiff as ud
from tests.rl.cores import classes, images, mlp, plane, stirred
from unidiff.rl import DenoisingMDP, Policy, State, corrected, trainable
from unidiff.rl.policy import Decisions, log_ratio

TABLE = torch.tensor([0.1, 0.4, 0.2, 0.6], dtype=torch.float64)
LINEAR, COSINE, KARRAS = ud.Schedule.linear(), ud.Schedule.cosine(), ud.Schedule.karras(0.05, 20.0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def first(x0: Tensor) -> Tensor:
    return x0[:, 0]


def moved(core: ud.Diffusion, steps: int = 4, rule: Any = "posterior", **options: Any) -> Policy:
    """A policy that has left its reference."""
    chain = core.chain(ud.TimeGrid.uniform(steps), rule, options.pop("x0_variance", None))
    return Policy(DenoisingMDP(chain, options.pop("reward", first), **options), stirred(trainable(core)))


def laws(policy: Policy, x: Tensor, k: int, condition: Tensor | None = None) -> tuple[Normal, Normal]:
    """π_θ and π_ref of the next state, by two chains that know nothing of a policy."""
    mdp, found = policy.mdp, []
    for core in (policy.core, mdp.chain.core):
        chain = core.chain(mdp.chain.grid, mdp.chain.variance, mdp.chain.x0_variance)
        law = chain.step(x, k, condition, mdp.guidance)
        found.append(Normal(law.mean, law.std.expand_as(x)))
    return found[0], found[1]


CASES: list[tuple[str, ud.Diffusion, dict[str, Any], bool]] = [
    ("posterior", mlp(), {}, False),
    ("prior", mlp(KARRAS), {"rule": "prior"}, False),
    ("table", mlp(), {"rule": "optimal", "x0_variance": TABLE}, False),
    ("decodes", mlp(LINEAR), {"rule": "prior", "beta": 0.3}, False),
    ("guided", mlp(num_classes=3), {"guidance": 1.7}, True),
]


@pytest.mark.parametrize(("name", "core", "options", "labelled"), CASES, ids=[c[0] for c in CASES])
def test_control_and_log_ratio_are_those_of_the_chains_gaussians(name, core, options, labelled) -> None:
    policy = moved(core, **options)
    labels = torch.arange(12) % 3 if labelled else None
    with torch.no_grad():
        walk = policy.walk(12, seeded(), labels)
        after = [*walk.x[1:], walk.x0 if policy.mdp.last == 1 else None]
        told, costs = [], []
        for h, k in enumerate(walk.k.tolist()):
            own, reference = laws(policy, walk.x[h], k, labels)
            u = (own.mean - reference.mean) / reference.stddev
            torch.testing.assert_close(walk.control[h], u, rtol=1e-9, atol=1e-9)
            to = reference.mean + reference.stddev * walk.action[h]
            if after[h] is not None:
                torch.testing.assert_close(after[h], to, rtol=1e-10, atol=1e-10)
            told.append((own.log_prob(to) - reference.log_prob(to)).sum(1))
            costs.append(torch.distributions.kl_divergence(own, reference).sum(1))
        rows = log_ratio(policy.control(walk.decisions()), walk.taken().action)
    assert float(walk.control.abs().max()) > 0.05  # it has left the reference
    torch.testing.assert_close(rows.view(walk.kl.shape), torch.stack(told), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(walk.kl, torch.stack(costs), rtol=1e-8, atol=1e-9)


def test_a_walk_ends_where_the_reference_decodes_it() -> None:
    policy = moved(mlp(LINEAR))
    walk = policy.walk(5, seeded())
    assert policy.mdp.last == 2 and walk.k.tolist() == [4, 3, 2]
    _, step = laws(policy, walk.x[-1], 2)
    last = step.mean + step.stddev * walk.action[-1]
    decoded = policy.mdp.chain.step(last.detach(), 1)
    assert not decoded.var.any()
    torch.testing.assert_close(walk.x0, decoded.mean.detach(), rtol=1e-10, atol=1e-10)


def test_a_walk_is_paid_for_steps_and_data_and_never_charged() -> None:
    def path(xt: Tensor, xs: Tensor, t: float, s: float) -> Tensor:
        return (t - s + t * t) * (xs - xt).square().sum(1)

    policy = moved(mlp(), beta=0.8, step_reward=path)
    walk = policy.walk(6, seeded())
    times = policy.mdp.chain.grid.times.tolist()
    after = [*walk.x[1:], walk.x0]
    paid = [path(walk.x[h], after[h], times[4 - h], times[3 - h]) for h in range(4)]
    torch.testing.assert_close(walk.paid, torch.stack([*paid[:-1], paid[-1] + first(walk.x0)]))
    torch.testing.assert_close(walk.reward, torch.stack(paid).sum(0) + first(walk.x0))


def test_at_the_reference_a_walk_is_the_process_s_own_draw_for_draw() -> None:
    core = mlp()
    mdp = DenoisingMDP(core.chain(ud.TimeGrid.uniform(4)), first)
    walk = Policy(mdp, trainable(core)).walk(7, seeded(3))
    generator = seeded(3)
    state = mdp.start(7, generator, like=torch.empty(0, dtype=torch.float64))
    for h in range(mdp.horizon):
        assert torch.equal(state.x, walk.x[h])
        state = mdp.step(state, torch.randn(7, 2, generator=generator, dtype=torch.float64)).state
    assert torch.equal(state.x, walk.x0) and not walk.control.any() and not walk.kl.any()


def test_one_seed_walks_the_same_way_from_a_start_that_is_given() -> None:
    policy = moved(mlp())
    start = torch.tensor([[0.5, -1.0], [2.0, 0.1]], dtype=torch.float64)
    one, two, other = (policy.walk(2, seeded(s), start=start) for s in (0, 0, 1))
    assert torch.equal(one.x[0], start) and torch.equal(one.x0, two.x0) and not torch.equal(one.x0, other.x0)
    before = torch.get_rng_state()
    policy.walk(2, seeded())
    assert torch.equal(before, torch.get_rng_state())


def test_rows_of_a_walk_keep_step_and_chain_together() -> None:
    labels = torch.tensor([2, 0, 1])
    walk = moved(mlp(num_classes=3)).walk(3, seeded(), labels)
    rows = walk.taken()
    assert len(rows) == 4 * 3 and len(rows.at) == 12 and rows.at.condition is not None
    some = rows[torch.tensor([7, 0, 11])]
    assert some.at.k.tolist() == [2, 4, 1] and some.at.condition is not None
    assert some.at.condition.tolist() == [0, 2, 1]
    for i, (h, b) in enumerate([(2, 1), (0, 0), (3, 2)]):
        for one, other in ((some.at.x, walk.x), (some.at.guess, walk.guess), (some.at.std, walk.std)):
            assert torch.equal(one[i], other[h, b])
        assert torch.equal(some.action[i], walk.action[h, b]) and torch.equal(some.control[i], walk.control[h, b])
    assert moved(mlp()).walk(3, seeded()).taken()[torch.tensor([1])].at.condition is None


def test_a_look_says_of_each_chain_what_a_walk_kept() -> None:
    policy = moved(mlp())
    walk = policy.walk(3, seeded())
    seen = policy.look(State(walk.x[1], 3))
    assert seen.k.tolist() == [3, 3, 3]
    assert torch.equal(seen.guess, walk.guess[1]) and torch.equal(seen.std, walk.std[1])
    torch.testing.assert_close(policy.control(seen), walk.control[1])


def test_images_have_controls_of_images() -> None:
    core = images()
    policy = Policy(DenoisingMDP(core.chain(ud.TimeGrid.uniform(3)), lambda x: x.flatten(1).sum(1)), core)
    walk = policy.walk(2, seeded())
    assert walk.control.shape == walk.std.shape == (3, 2, 1, 4, 4) and walk.kl.shape == (3, 2)


def test_states_are_like_the_parameters_that_are_trained() -> None:
    world = plane()
    mdp = DenoisingMDP(world.chain(ud.TimeGrid.uniform(3)), first)
    wide = corrected(world, torch.nn.Linear(2, 2).double())
    assert Policy(mdp, wide).like.dtype == torch.float64
    assert (
        Policy(mdp, world).like.dtype == torch.float32 and Policy(mdp, world).walk(2, seeded()).x.dtype == torch.float32
    )


def test_a_control_carries_its_gradient_and_a_walk_none() -> None:
    policy = moved(mlp())
    walk = policy.walk(4, seeded())
    assert not any(v.requires_grad for v in (walk.x, walk.control, walk.action, walk.paid, walk.x0))
    control = policy.control(walk.decisions())
    (gradient,) = torch.autograd.grad(control.sum(), policy.core.denoiser.network.last.weight)  # pyright: ignore
    assert float(gradient.abs().sum()) > 0


def mdp_of(core: ud.Diffusion, **options: Any) -> DenoisingMDP:
    return DenoisingMDP(core.chain(ud.TimeGrid.uniform(4)), first, **options)


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: Policy(mlp().chain(ud.TimeGrid.uniform(4)), mlp()), TypeError, "mdp must be a DenoisingMDP"),  # pyright: ignore
        (lambda: Policy(mdp_of(mlp()), mlp().denoiser), TypeError, "core must be a Diffusion"),  # pyright: ignore
        (lambda: Policy(mdp_of(mlp(), action="state"), mlp()), ValueError, "residuals for actions, got action = 'state'"),
        (lambda: Policy(mdp_of(mlp()), mlp(dim=3)), ValueError, r"event shape, \[2\], got \[3\]"),
        (lambda: Policy(mdp_of(mlp()), mlp(LINEAR)), ValueError, "core must have the reference's schedule"),
        (lambda: Policy(mdp_of(mlp(KARRAS)), mlp(COSINE)), ValueError, "core must have the reference's schedule"),
        (lambda: moved(mlp()).walk(0), ValueError, "n must be an integer of at least 1, got 0"),
        (lambda: moved(mlp()).walk(2, start=torch.zeros(3, 2).double()), ValueError, "start and like must have one shape"),
        (lambda: moved(mlp()).walk(2, start=torch.zeros(2, 2)), ValueError, "start and like must have one dtype"),
        (lambda: moved(mlp()).walk(2, condition=torch.tensor([0, 1])), ValueError, "condition must be left out"),
    ],
)  # fmt: skip
def test_what_is_no_policy_is_refused(make, kind, message) -> None:
    with pytest.raises(kind, match=message):
        make()


def test_a_chain_none_of_whose_steps_has_noise_is_refused_with_the_cure() -> None:
    chain = mlp(LINEAR).chain(ud.TimeGrid([0.0, 1.0]))
    with pytest.raises(ValueError, match="chain must have a step with noise.*start the grid a little later"):
        DenoisingMDP(chain, first)


def test_an_eps_network_is_refused_where_there_is_no_signal() -> None:
    # The reference says x̂_0 there; a network that says ε cannot.
    network = mlp().denoiser.network  # pyright: ignore
    silent = ud.Schedule.cosine(20.0, -math.inf)
    assert float(silent.alpha(1.0)) == 0
    speaks, mute = (ud.Diffusion(silent, ud.Denoiser(network, (2,), kind)) for kind in ("v", "eps"))
    with pytest.raises(ValueError, match="eps"):
        Policy(mdp_of(speaks), mute)


def test_a_control_that_is_not_finite_stops_with_its_step() -> None:
    policy = moved(mlp())
    with torch.no_grad():
        policy.core.denoiser.network.last.bias.fill_(torch.inf)  # pyright: ignore
    with pytest.raises(FloatingPointError, match="control is not finite at step 4 of 4"):
        policy.walk(3, seeded())


def test_rewards_that_are_not_finite_stop_with_their_count() -> None:
    def broken(x0: Tensor) -> Tensor:
        return torch.where(torch.arange(len(x0)) < 3, torch.nan, x0[:, 0])

    with pytest.raises(FloatingPointError, match="reward returned 3 of 8 values that are not finite"):
        moved(mlp(), reward=broken).walk(8, seeded())


def test_a_mixture_is_steered_to_the_class_of_each_row() -> None:
    core = classes()
    mdp = DenoisingMDP(core.chain(ud.TimeGrid.uniform(4)), first)
    policy = Policy(mdp, core)
    x, labels = torch.randn(4, 2, generator=seeded()), torch.tensor([0, 1, 0, 1])
    seen = policy.look(State(x, 3, labels))
    alone = [policy.look(State(x[i : i + 1], 3, labels[i : i + 1])).guess for i in range(4)]
    torch.testing.assert_close(seen.guess, torch.cat(alone))
    swapped = Decisions(seen.x, seen.k, seen.guess, seen.std, 1 - labels)
    assert not policy.control(seen).any() and float(policy.control(swapped).abs().max()) > 0.01
