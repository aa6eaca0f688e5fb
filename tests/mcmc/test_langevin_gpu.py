"""On a GPU: a captured run is the eager run, on the same draws, and follows the parameters that it was captured with."""

from __future__ import annotations

import warnings

import pytest
import torch

import unidiff as ud
from unidiff.core import networks
from unidiff.score import (
    BAOAB,
    HMC,
    MALA,
    ULA,
    AnnealedLangevin,
    Divergence,
    Kernel,
    Langevin,
    PredictorCorrector,
    Target,
    annealed_langevin,
    langevin,
    predictor_corrector,
)
from unidiff.worlds import OracleDenoiser, library

pytestmark = pytest.mark.gpu

KERNELS: tuple[Kernel, ...] = (ULA(0.01), MALA(0.02), HMC(0.1, leapfrog=3), BAOAB(0.1))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator("cuda").manual_seed(seed)


def start(n: int = 256) -> torch.Tensor:
    return torch.randn(n, 2, generator=seeded(), device="cuda", dtype=torch.float64)


def targets() -> dict[str, Target]:
    world = library.mixture_2d().to(device="cuda")
    core = ud.Diffusion(ud.Schedule.cosine(), OracleDenoiser(world))
    return {
        "world": Target.of(world),
        "energy": Target.from_energy(lambda x: -world.log_prob(x)),
        "score": Target.from_score(world.score),
        "core": Target.from_core(core, 0.3),
    }


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", ["world", "energy", "score", "core"])
def test_a_captured_run_is_the_eager_run(kernel: Kernel, kind: str) -> None:
    # 45 = 2 × 16 + 13 steps, kept every 9: several lengths of block.
    one, two = (
        langevin(targets()[kind], start(), 45, kernel=kernel, keep_every=9, generator=seeded(1), graph=graph)
        for graph in (None, False)
    )
    torch.testing.assert_close(one.x, two.x, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(one.trace, two.trace, rtol=1e-7, atol=1e-7)
    if kernel.metropolis:
        torch.testing.assert_close(one.acceptance, two.acceptance)
        torch.testing.assert_close(one.energy_error, two.energy_error, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_trace_changes_no_draw_of_a_captured_run(kernel: Kernel) -> None:
    run = Langevin(targets()["energy"], kernel)
    whole = run(start(), 45, generator=seeded(1))
    path = run(start(), 45, generator=seeded(1), keep_every=1).trace
    nine = run(start(), 45, generator=seeded(1), keep_every=9)
    assert path is not None
    assert nine.trace is not None
    assert torch.equal(nine.x, whole.x)
    assert torch.equal(path[-1], whole.x)
    assert torch.equal(nine.trace, path[8::9])


@pytest.mark.parametrize("kernel", [MALA(1e-3), HMC(1.0, leapfrog=3)])
def test_a_captured_warm_up_finds_the_same_step_size(kernel: Kernel) -> None:
    one, two = (
        langevin(targets()["world"], start(), 32, kernel=kernel, warmup=150, generator=seeded(1), graph=graph)
        for graph in (None, False)
    )
    assert one.step_size == pytest.approx(two.step_size, rel=1e-6)
    torch.testing.assert_close(one.x, two.x, rtol=1e-5, atol=1e-5)


def test_one_capture_serves_many_runs_and_the_generator_goes_on() -> None:
    run = Langevin(targets()["energy"], ULA(0.01))
    generator = seeded(1)
    first, second = (run(start(), 40, generator=generator).x for _ in range(2))
    again = run(start(), 40, generator=seeded(1)).x
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    eager = seeded(1)
    for _ in range(2):
        last = Langevin(targets()["energy"], ULA(0.01), graph=False)(start(), 40, generator=eager).x
    torch.testing.assert_close(second, last, rtol=1e-7, atol=1e-7)


def test_a_capture_sees_new_weights() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)).cuda().double()
    run = Langevin(Target.from_energy(lambda x: network(x)[:, 0] + x.square().sum(1)), MALA(0.05))
    before = run(start(), 20, generator=seeded(1)).x
    with torch.no_grad():
        for p in network.parameters():
            p.mul_(3)
    after = run(start(), 20, generator=seeded(1)).x
    eager = Langevin(run.target, MALA(0.05), graph=False)(start(), 20, generator=seeded(1)).x
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, eager, rtol=1e-6, atol=1e-6)


def test_divergent_chains_on_a_gpu_come_back_finite() -> None:
    x = torch.cat([torch.zeros(3, 2), torch.full((2, 2), 30.0)]).cuda()
    with pytest.raises(Divergence, match="2 of 5 chains are not finite after step 128") as caught:
        langevin(Target.from_score(lambda x: -x.pow(3)), x, 1000, kernel=ULA(0.01), generator=seeded())
    assert torch.isfinite(caught.value.x).all()
    assert caught.value.x.shape == (3, 2)


@pytest.mark.parametrize("kernel", [MALA(0.5), HMC(0.4, leapfrog=5)])
def test_a_nan_of_the_law_stops_a_captured_run_and_a_later_one_counts_anew(kernel: Kernel) -> None:
    bad = torch.full((), torch.nan, device="cuda", dtype=torch.float64)
    law = Target.from_energy(lambda x: torch.where(x.abs().amax(1) > 3, bad, 0.5 * x.square().sum(1)))
    run, said = Langevin(law, kernel), []
    for graph in (run, run, Langevin(law, kernel, graph=False)):
        with pytest.raises(FloatingPointError, match="energy must not be NaN .* after step 128;") as caught:
            graph(start().clamp(-1, 1), 1000, generator=seeded(1))
        said.append(str(caught.value))
    assert len(set(said)) == 1
    # The same captures, of a law that has become sound: zero beyond the wall.
    bad.fill_(torch.inf)
    found = run(start().clamp(-1, 1), 300, generator=seeded(1))
    assert found.divergent is not None and int(found.divergent.sum()) > 0
    assert float(found.x.abs().max()) <= 3


@pytest.mark.parametrize("run", [annealed_langevin, predictor_corrector])
@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_a_captured_anneal_is_the_eager_one(run, schedule: str) -> None:
    torch.manual_seed(0)
    network = networks.MLP(2, width=16, depth=2)
    core = ud.Diffusion(ud.Schedule.named(schedule), ud.Denoiser(network, (2,), "v")).cuda().double().eval()
    one, two = (
        run(core, 64, steps=6, generator=seeded(1), dtype=torch.float64, graph=graph) for graph in (None, False)
    )
    torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["annealed", "pc"])
def test_one_capture_of_an_anneal_serves_many_runs(kind: str) -> None:
    torch.manual_seed(0)
    network = networks.MLP(2, width=16, depth=2, num_classes=3)
    denoiser = ud.Denoiser(network, (2,), "v", num_classes=3)
    core = ud.Diffusion(ud.Schedule.cosine(), denoiser).cuda().double().eval()
    with torch.no_grad():
        for p in core.parameters():
            p.add_(0.05)

    def make(graph: bool | None) -> AnnealedLangevin | PredictorCorrector:
        if kind == "annealed":
            return AnnealedLangevin(core, levels=4, steps=2, guidance=1.5, graph=graph)
        return PredictorCorrector(core, ud.TimeGrid.uniform(6), guidance=1.5, graph=graph)

    kept, found = make(None), []
    for labels in (torch.arange(64) % 3, torch.zeros(64, dtype=torch.long)):
        for scale in (1.0, 0.7):
            with torch.no_grad():
                for p in core.parameters():
                    p.mul_(scale)
            one, two = (run(start(64), seeded(1), condition=labels.cuda(), on_row=None) for run in (kept, make(False)))
            torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-6)
            found.append(one)
    assert not any(torch.equal(found[0], other) for other in found[1:])


@pytest.mark.parametrize("kernel", KERNELS)
def test_longer_runs_wait_no_more_for_the_gpu(kernel: Kernel) -> None:
    # Between two looks at the chains, 128 steps apart, nothing waits: 48 steps and 112 make as many synchronisations.
    # (Both are enough proposals for the run's end to ask whether all were accepted.)
    run = Langevin(targets()["energy"], kernel)
    generator, x = seeded(), start()
    waits = []
    for steps in (48, 112):
        run(x, steps, generator=generator)
        # Turning the mode on warns too, that it is a prototype; left on by an error it would spoil every later test.
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                torch.cuda.set_sync_debug_mode("warn")
                run(x, steps, generator=generator)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        waits.append(sum("called a synchronizing" in str(w.message) for w in caught))
    assert waits[0] == waits[1]
