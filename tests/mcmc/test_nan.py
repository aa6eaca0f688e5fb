"""A law that becomes NaN stops the run of a kernel that rejects; a density of zero and an unstable step do not."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from unidiff.ebm import EnergyModel, annealed_importance
from unidiff.mcmc import HMC, MALA, ULA, Divergence, Kernel, Noise, State, Target, langevin
from unidiff.mcmc.blocks import Eager

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
