"""A law that becomes NaN stops the run of a kernel that rejects; a density of zero and an unstable step do not."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import unidiff as ud
from unidiff.ebm import ContrastiveDivergence, EnergyModel, PersistentCD, RecoveryLikelihood, annealed_importance
from unidiff.ebm.learning import EnergyMethod
from unidiff.ebm.learning.chains import ShortRun
from unidiff.mcmc import HMC, MALA, ULA, Divergence, Kernel, Noise, State, Target, langevin
from unidiff.mcmc.blocks import Eager
from unidiff.train import EnergyConfig, EnergyTrainer

KERNELS: tuple[Kernel, ...] = (MALA(0.5), HMC(0.4, leapfrog=5))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bowl(x: Tensor) -> Tensor:
    return 0.5 * x.square().sum(1)


def far(x: Tensor) -> Tensor:
    return x.abs().amax(1) > 3


def beyond_three(value: float) -> Target:
    return Target.from_energy(lambda x: torch.where(far(x), value, bowl(x)))


def told(message: object) -> list[int]:
    """(proposals, chains, of all, after step) of the error's message."""
    found = re.search(r"NaN in (\d+) proposals of (\d+) of (\d+) chains, after (?:warm-up )?step (\d+)", str(message))
    assert found is not None, message
    return [int(v) for v in found.groups()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kernel", KERNELS)
def test_an_energy_that_becomes_nan_stops_the_run_at_the_next_look(kernel: Kernel, dtype: torch.dtype) -> None:
    # In 128 steps of 100 chains some thousand proposals come near |x| = 3; it would be walked 10 000 steps.
    with pytest.raises(FloatingPointError, match="energy must not be NaN at a finite position") as caught:
        langevin(beyond_three(torch.nan), torch.zeros(100, 2, dtype=dtype), 10_000, kernel=kernel, generator=seeded())
    proposals, chains, of, step = told(caught.value)
    assert (of, step) == (100, 128)
    assert proposals >= chains > 0
    assert "the energy is +inf" in str(caught.value)


def test_the_count_is_that_of_the_proposals_one_by_one() -> None:
    xi, u = torch.randn(40, 9, 2, generator=seeded(3)).double(), torch.rand(40, 9, generator=seeded(4)).double()
    kernel = MALA(0.6)
    law, state = beyond_three(torch.nan), kernel.start(beyond_three(torch.nan), torch.zeros(9, 2).double())
    met = []
    for k in range(40):
        move = kernel.step(law, state, kernel.step_size, xi[k], u[k])
        state = move.state
        met.append(far(move.proposal))
    lost = torch.stack(met).sum(0)
    assert 0 < int((lost > 0).sum()) < 9
    with pytest.raises(FloatingPointError) as caught:
        langevin(law, torch.zeros(9, 2).double(), 40, kernel=kernel, noise=Noise(xi, u))
    assert told(caught.value) == [int(lost.sum()), int((lost > 0).sum()), 9, 40]


@pytest.mark.parametrize("adapt", [True, False])
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_warm_up_is_stopped_as_well(kernel: Kernel, adapt: bool) -> None:
    x = torch.zeros(100, 2)
    with pytest.raises(FloatingPointError, match=r"of 100 chains, after warm-up step 90") as caught:
        langevin(beyond_three(torch.nan), x, 5, kernel=kernel, warmup=90, adapt=adapt, generator=seeded())
    assert told(caught.value)[3] == 90


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_density_of_zero_never_stops_a_run_and_keeps_it_in_its_box(kernel: Kernel) -> None:
    found = langevin(beyond_three(torch.inf), torch.zeros(100, 2), 300, kernel=kernel, warmup=100, generator=seeded())
    assert found.divergent is not None and int(found.divergent.sum()) > 0
    assert not bool(far(found.x).any())


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_density_of_zero_may_have_a_slope_that_is_nan(kernel: Kernel) -> None:
    # The root's slope out there is 0 · NaN, which a trajectory of HMC also meets on its way.
    box = Target.from_energy(lambda x: torch.where(far(x), torch.inf, bowl(x) + (3 - x.abs().amax(1)).sqrt()))
    score, log_prob = box.evaluate(torch.full((1, 2), 4.0))
    assert bool(score.isnan().any()) and bool((log_prob == -torch.inf).all())  # pyright: ignore
    found = langevin(box, torch.zeros(100, 2), 300, kernel=kernel, generator=seeded())
    assert found.divergent is not None and int(found.divergent.sum()) > 0
    assert not bool(far(found.x).any())


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_slope_that_is_nan_where_the_energy_is_finite_stops_the_run(kernel: Kernel) -> None:
    def lame(x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.where(far(x)[:, None], torch.nan, -x), -bowl(x)

    laws = {
        "target": Target(lambda x: lame(x)[0], lame, joint=True),
        "score": Target.from_score(lambda x: lame(x)[0]),
    }
    for name, law in laws.items():
        with pytest.raises(FloatingPointError, match=f"{name} must not be NaN"):
            langevin(law, torch.zeros(100, 2), 128, kernel=kernel, generator=seeded())


def test_a_nan_on_the_way_of_a_trajectory_counts_though_its_end_is_nan() -> None:
    # The root has no slope beyond 3: the position after it is NaN, and says nothing of where the law was at fault.
    kernel = HMC(0.4, leapfrog=5)
    law = Target.from_energy(lambda x: bowl(x) - (3 - x.abs().amax(1)).sqrt())
    move = kernel.step(law, kernel.start(law, torch.zeros(1, 2)), 0.4, torch.full((1, 2), 5.0), torch.zeros(1))
    assert bool(move.proposal.isnan().all())
    assert move.lost is not None and 3 < float(move.lost) < 5


@pytest.mark.parametrize("kernel", [MALA(5e3), HMC(20.0, leapfrog=8)])
def test_an_unstable_step_is_a_rejection_though_the_law_is_nan_where_it_ends(kernel: Kernel) -> None:
    # ∞ − ∞: x⁶ overflows in float32, and so does its rival.
    law = Target.from_energy(lambda x: (x.pow(6) - 0.5 * x.pow(6) + 0.5 * x.square()).sum(1))
    assert bool(law.evaluate(torch.full((1, 2), 1e16))[0].isnan().all())
    x = torch.full((10, 2), 400.0)
    found = langevin(law, x, 15, kernel=kernel, generator=seeded())
    assert found.divergent is not None and bool((found.divergent == 15).all())
    assert torch.equal(found.x, x)


def test_how_far_out_a_nan_counts_is_where_a_chain_has_run_away() -> None:
    # From |x| ≤ 1 that is 2·10¹². The law is flat, δ = ½ reach², and ξ = 1: the proposal is 1 + reach.
    def run(reach: float) -> None:
        law = Target.from_energy(lambda x: torch.where(x[:, 0].abs() > 2, torch.nan, 0 * x[:, 0]))
        noise = Noise(torch.ones(1, 3, 1).double(), torch.zeros(1, 3).double())
        langevin(law, torch.ones(3, 1).double(), 1, kernel=MALA(0.5 * reach**2), noise=noise)

    run(2.1e12)
    with pytest.raises(FloatingPointError, match="NaN in 3 proposals of 3 of 3 chains, after step 1;"):
        run(1.9e12)


def test_chains_without_rejection_say_what_they_always_said() -> None:
    with pytest.raises(Divergence, match="are not finite"):
        langevin(
            Target.from_energy(lambda x: bowl(x) - (3 - x.abs().amax(1)).sqrt()),
            torch.zeros(50, 2),
            128,
            kernel=ULA(0.5),
        )


@pytest.mark.parametrize("kernel", KERNELS)
def test_counting_reads_nothing_on_the_host(kernel: Kernel) -> None:
    # On the meta device there is nothing to read: .item(), bool() or a mask as an index would be an error.
    law = Target.from_energy(bowl)
    x = torch.zeros(5, 2, device="meta")
    chains = Eager(law, kernel, State(x, x, x[:, 0]), torch.zeros((), device="meta"), None)
    with torch.no_grad():
        chains.block(3)
    assert chains.tally.shape == (5, 5)
    with pytest.raises(RuntimeError):
        bool(chains.tally[4].any())


def test_a_broken_network_stops_whatever_walks_on_its_energy() -> None:
    torch.manual_seed(0)
    network = torch.nn.Linear(2, 1)

    def energy(x: Tensor) -> Tensor:
        return torch.where(far(x), torch.nan, bowl(x) + 0.01 * network(x)[:, 0])

    model = EnergyModel(energy, event_shape=(2,))
    walks: tuple[Callable[[], object], ...] = (
        lambda: model.langevin(torch.zeros(100, 2), 200, warmup=100, generator=seeded()),
        lambda: model.hmc(torch.zeros(100, 2), 200, step_size=0.4, generator=seeded()),
        lambda: annealed_importance(model, 100, levels=4, steps=40, start=0.3, generator=seeded()),
    )
    for walk in walks:
        with pytest.raises(FloatingPointError, match="energy must not be NaN"):
            walk()


class Broken(torch.nn.Module):
    """A bowl with a weight to train, of another value further out than 3; a function of time too."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.weight, self.value = torch.nn.Parameter(torch.ones(())), value

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        return self.weight * torch.where(far(x), self.value, bowl(x))


def learned(kind: str, kernel: Kernel, value: float) -> tuple[EnergyModel, EnergyMethod]:
    plain = EnergyModel(Broken(value), (2,))
    if kind == "recovery":
        timed = EnergyModel(Broken(value), (2,), schedule=ud.Schedule.cosine())
        return timed, RecoveryLikelihood((0.3, 0.95), 4, kernel)
    if kind == "cd":
        return plain, ContrastiveDivergence(4, kernel)
    return plain, PersistentCD(4, kernel, capacity=200, start=ud.worlds.Gaussian([0.0, 0.0], [[0.2, 0.0], [0.0, 0.2]]))


@pytest.mark.parametrize("kernel", [MALA(1.5), HMC(1.0, leapfrog=3)])
@pytest.mark.parametrize("kind", ["cd", "pcd", "recovery"])
def test_training_stops_at_an_energy_that_is_nan_where_chains_propose(kind: str, kernel: Kernel) -> None:
    # The data lie within 1, so that every energy that the loss reads is finite; +∞ is a wall, and holds nobody up.
    x = 2 * torch.rand(100, 2, generator=seeded()) - 1
    for value in (torch.inf, torch.nan):
        model, method = learned(kind, kernel, value)
        trainer = EnergyTrainer(model, x, method, EnergyConfig(steps=2, batch_size=100))
        if value == torch.inf:
            trainer.fit()
            continue
        met = r"energy must not be NaN at a finite position, got NaN in \d+ starts and proposals of \d+ of 100 chains"
        with pytest.raises(FloatingPointError, match=met + r", in a run of 4 steps.*, in step 1; lower lr"):
            trainer.fit()


def test_a_short_run_counts_its_starts_and_its_proposals() -> None:
    law = beyond_three(torch.nan)
    x = torch.tensor([[0.0, 0.0], [4.0, 0.0], [1.0, 1.0]]).double()
    run = ShortRun(lambda y: torch.where(far(y), torch.nan, bowl(y)), MALA(2.0), 6)
    _, lost = run.walk(law, x, seeded(5))
    again = seeded(5)
    normal = torch.randn((6, 3, 2), generator=again, dtype=torch.float64)
    uniform = torch.rand((6, 3), generator=again, dtype=torch.float64)
    state, met = State(x, *law.evaluate(x)), far(x).double()
    for xi, u in zip(normal, uniform, strict=True):
        move = MALA(2.0).step(law, state, 2.0, xi, u)
        state, met = move.state, met + far(move.proposal)
    assert torch.equal(lost, met)
    assert met[0] > 0
    assert met[1] > 0
    with pytest.raises(
        FloatingPointError, match=f"{int(met.sum())} starts and proposals of {int((met > 0).sum())} of 3"
    ):
        run(x, seeded(5))


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_start_without_a_slope_is_counted_though_it_proposes_nothing(kernel: Kernel) -> None:
    # The root is finite at the start, its slope there is 0 · NaN: every proposal is NaN, and rejected.
    def energy(y: Tensor) -> Tensor:
        return bowl(y) + torch.where(far(y), (3 - y.abs().amax(1)).sqrt(), 0.0).nan_to_num()

    x = torch.tensor([[0.0, 0.0], [4.0, 0.0]])
    run = ShortRun(energy, kernel, 3)
    assert bool(torch.isfinite(energy(x)).all())
    with pytest.raises(FloatingPointError, match="NaN in 1 starts and proposals of 1 of 2 chains"):
        run(x, seeded())


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_short_run_counts_nothing_on_the_host(kernel: Kernel) -> None:
    x = torch.zeros(5, 2, device="meta")
    run = ShortRun(bowl, kernel, 3)
    end, lost = run.walk(Target.from_energy(bowl), x, None)
    assert (end.shape, lost.shape) == ((5, 2), (5,))


@pytest.mark.gpu
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_captured_short_run_counts_as_an_eager_one(kernel: Kernel) -> None:
    x = torch.zeros(64, 2, device="cuda")
    wall = torch.tensor(torch.inf, device="cuda")
    run = ShortRun(lambda y: torch.where(far(y), wall, bowl(y)), kernel, 20)
    # Captured on a wall, then replayed on what it has become, and on the wall again.
    run(x, torch.Generator("cuda").manual_seed(0))
    wall.fill_(torch.nan)
    _, lost = run.walk(run.law(), x, torch.Generator("cuda").manual_seed(1))
    met = f"{int(lost.sum())} starts and proposals of {int((lost > 0).sum())} of 64"
    with pytest.raises(FloatingPointError, match=met):
        run(x, torch.Generator("cuda").manual_seed(1))
    wall.fill_(torch.inf)
    run(x, torch.Generator("cuda").manual_seed(2))
