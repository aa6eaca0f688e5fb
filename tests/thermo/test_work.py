"""The work of paths, and the fluctuation theorems: parts and wholes, blocks, labels, and verdicts that can be wrong."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import unidiff as ud
from tests.thermo.conftest import draws, exact, network, of, seeded
from tests.thermo.test_free_energy import log_model
from unidiff.core.decoders import ContinuousDecoder
from unidiff.identities.window import Window
from unidiff.thermo import Fluctuation, Work
from unidiff.worlds import OracleDenoiser, library

INSIDE = Window.between(ud.Schedule.cosine(), -1.5, 1.5)
GRID = ud.TimeGrid.uniform_log_snr(5, INSIDE)
LAW = library.gaussian()


def test_the_works_parts_are_the_path_by_hand() -> None:
    # One path, its densities by torch's normal law and the forward kernels of the textbook.
    core, x0 = exact(LAW, INSIDE), draws(LAW, 6)
    paths = ud.Thermodynamics(core).paths(GRID)
    ladder = paths.draw(x0, seeded(0))
    states, chain = ladder.states, core.chain(GRID)
    done = ud.Thermodynamics(core).work(x0, GRID, generator=seeded(0))

    def log_prob(law: ud.Gaussian, x: Tensor) -> Tensor:
        return torch.distributions.Normal(law.mean, law.log_var.mul(0.5).exp().expand_as(law.mean)).log_prob(x).sum(1)

    times = GRID.times
    prior = log_prob(core.process.marginal(x0, times[-1]), states[-1])
    prior = prior - torch.distributions.Normal(0.0, core.schedule.prior_std).log_prob(states[-1]).sum(1)
    steps = torch.zeros(6, dtype=torch.float64)
    for k in range(5, 0, -1):
        back = core.process.posterior(states[k], x0, times[k - 1], times[k])
        steps = steps + log_prob(back, states[k - 1]) - log_prob(chain.step(states[k], k), states[k - 1])
    first = core.schedule.level(times[0])
    guess = core.predict(states[0], times[0]).x0
    end = -torch.distributions.Normal(guess, first.sigma / first.alpha).log_prob(x0).sum(1)
    for found, due in ((done.prior[0], prior), (done.diffusion[0], steps), (done.reconstruction[0], end)):
        torch.testing.assert_close(found, due, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(done.total, done.prior + done.diffusion + done.reconstruction)


def test_work_says_what_it_knows_of_its_mean_and_what_is_dissipated() -> None:
    parts = [torch.randn(50, 4, generator=seeded(k), dtype=torch.float64) for k in range(3)]
    done, total = Work(*parts), parts[0] + parts[1] + parts[2]
    torch.testing.assert_close(done.mean, total.mean(0))
    torch.testing.assert_close(done.standard_error, total.std(0) / math.sqrt(50))
    torch.testing.assert_close(done.dissipated, total.mean(0) + (-total).exp().mean(0).log())
    assert (done.dissipated >= 0).all()
    single = Work(*(v[:1] for v in parts))
    assert torch.isinf(single.standard_error).all() and (single.dissipated.abs() < 1e-12).all()


@pytest.mark.statistical
def test_what_is_dissipated_is_the_mean_work_above_the_free_energy() -> None:
    # ⟨W⟩ − F against F in closed form, 4000 paths: |z| < 5 (false alarm 6e-7) at errors under 2% of a nat.
    core, x0 = exact(LAW, INSIDE), draws(LAW, 3, 1)
    done = ud.Thermodynamics(core).work(x0, GRID, 4000, seeded(1))
    excess = done.mean + log_model(core, GRID, x0)
    assert (excess > 0).all() and (done.standard_error < 0.02).all()
    assert ((done.dissipated - excess).abs() < 5 * done.standard_error).all()


def test_blocks_and_labels_change_nothing() -> None:
    world = library.mixture_2d()
    core, x0 = ud.Diffusion(INSIDE, OracleDenoiser(world)), draws(world, 3)
    view, label = ud.Thermodynamics(core), torch.tensor([0, 1, 2])
    each = view.work(x0, GRID, 8, seeded(0), condition=label)
    assert each.total.shape == (8, 3)
    # Each datum by itself with its label, on the same noise.
    ladder = view.paths(GRID).draw(x0.repeat(8, 1), seeded(0))
    for i in range(3):
        own = view.paths(GRID, condition=label[i : i + 1])
        rows = torch.arange(8) * 3 + i
        alone = type(ladder)(ladder.x0[rows], ladder.eps[:, rows], ladder.jumps[:, rows], ladder.levels)
        torch.testing.assert_close(-own.weigh(alone, 8).total, each.total[:, i])


@pytest.mark.statistical
def test_the_fluctuation_theorems_hold_of_a_network_that_has_learned_nothing() -> None:
    # Any core: the chain's law is normalised. 20 000 paths near the noise; |z| < 5, false alarm 6e-7 each; errors under 3%.
    core = ud.Diffusion(Window.between(ud.Schedule.cosine(), -4.0, -2.0), network(3, "v").denoiser)
    x0 = draws(LAW, 20_000).float()
    found = ud.Thermodynamics(core).fluctuation(x0, ud.TimeGrid.uniform(3), generator=seeded(3))
    mean = found.integral
    assert float(mean.standard_error) < 0.03 and abs(float(mean.value - 1)) < 5 * float(mean.standard_error)
    left, right = found.acceptance
    error = math.hypot(float(left.standard_error), float(right.standard_error))
    assert error < 0.03 * float(left.value) and abs(float(left.value - right.value)) < 5 * error
    gap = found.forward - found.divergence
    assert abs(float(gap.mean())) < 5 * float(gap.std()) / math.sqrt(len(gap))
    assert float(found.mean.value) > 0
    assert found.conclusion() == "holds"


@pytest.mark.statistical
def test_crooks_gap_is_above_zero_and_the_free_energy_lies_between() -> None:
    core = exact(LAW, INSIDE)
    like = torch.empty(0, dtype=torch.float64)
    found = ud.Thermodynamics(core).crooks(4000, GRID, like, seeded(4))
    x0 = ud.Thermodynamics(core).paths(GRID).model(4000, like, seeded(4)).x0
    free = -log_model(core, GRID, x0)
    for above in (found.forward - free, free - found.reverse):  # KLs: 5 standard errors above 0 at the least
        assert float(above.mean()) > 5 * float(above.std()) / math.sqrt(4000)
    total = found.forward - found.reverse
    assert float(found.gap.value) == pytest.approx(float(total.mean()))


def fluctuating(sigma: Tensor) -> Fluctuation:
    return Fluctuation(sigma, sigma, sigma)


def test_a_conclusion_is_drawn_only_where_a_violation_would_have_been_seen() -> None:
    # Σ ~ N(s²/2, s²) has E e^{−Σ} = 1.
    z = torch.randn(4096, generator=seeded(5), dtype=torch.float64)
    tight, wide = (fluctuating(0.5 * s * s + s * z) for s in (0.3, 3.0))
    assert tight.conclusion() == "holds"
    assert fluctuating(tight.forward + 0.3).conclusion() == "violated"
    assert wide.conclusion() == "inconclusive"
    assert fluctuating(wide.forward + 1.0).conclusion() == "inconclusive"
    assert fluctuating(tight.forward[:128]).conclusion(0.01) == "inconclusive"
    assert tight.conclusion(1e-4) == "inconclusive"


@pytest.mark.slow
@pytest.mark.statistical
def test_a_true_theorem_is_seldom_called_violated_and_a_false_one_seldom_held() -> None:
    # 1000 conclusions each of 2000 paths. False alarms have a rate of 1e-6: none is allowed (P = 1e-3 of one or more, of all
    # seeds). Of violations of the bound's size, 0.2, at most 1e-3 are held: 10 are allowed (P < 1e-8), and of twice none.
    generator = seeded(6)
    counts = {"true": 0, "false": 0}
    for _ in range(1000):
        sigma = 0.5 * 0.8**2 + 0.8 * torch.randn(2000, generator=generator, dtype=torch.float64)
        counts["true"] += fluctuating(sigma).conclusion() == "violated"
        counts["false"] += fluctuating(sigma - math.log(1.2)).conclusion(0.2) == "holds"
    assert counts["true"] == 0 and counts["false"] <= 10, counts


def test_joint_paths_reach_from_the_datas_law_to_the_priors() -> None:
    view = of(LAW, INSIDE)
    found = view.fluctuation(64, GRID, joint=True, generator=seeded(7), decoder=ContinuousDecoder(std=0.7))
    assert found.forward.shape == found.reverse.shape == found.divergence.shape == (64,)
    assert torch.isfinite(found.forward).all() and torch.isfinite(found.reverse).all()
