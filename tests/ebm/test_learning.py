"""What an objective of an energy does to its chains, data and options; and what is asked of it in vain is refused."""

from __future__ import annotations

import math

import pytest
import torch

import unidiff as ud
from tests.ebm.families import Quadratic, model, seeded
from unidiff.ebm import (
    ContrastiveDivergence,
    DenoisingScoreMatching,
    EnergyModel,
    NoiseContrastive,
    PersistentCD,
    RatioChain,
    RecoveryLikelihood,
)
from unidiff.ebm.learning import contrastive_loss
from unidiff.mcmc import BAOAB, HMC, MALA, ULA
from unidiff.worlds import Gaussian

PLANE = Gaussian([0.4, -0.3], [[1.0, 0.5], [0.5, 0.8]])
LINE = Gaussian([0.5], [[0.6]])
WIDE = Gaussian([0.0, 0.0], [[2.0, 0.0], [0.0, 2.0]])


def test_the_contrast_by_hand() -> None:
    at_data = torch.tensor([1.0, 3.0], dtype=torch.float64, requires_grad=True)
    at_model = torch.tensor([2.0, -1.0, 0.5, 4.0], dtype=torch.float64, requires_grad=True)
    loss = contrastive_loss(at_data, at_model, tau=0.5, regulariser=0.1)
    squares = 5.0 + (4 + 1 + 0.25 + 16) / 4
    assert float(loss.detach()) == pytest.approx((2.0 - 5.5 / 4 + 0.1 * squares) / 0.5)
    on_data, on_model = torch.autograd.grad(loss, [at_data, at_model])
    torch.testing.assert_close(on_data, (1 + 0.2 * at_data.detach()) / 2 / 0.5)
    torch.testing.assert_close(on_model, (-1 + 0.2 * at_model.detach()) / 4 / 0.5)


def test_an_inverted_energy_is_worse_for_every_method() -> None:
    # Losses of the true energy and of its negative, on one set of draws: what is minimised prefers the true one.
    x = PLANE.sample(4000, seeded())
    for method in (DenoisingScoreMatching(sigma=0.3), NoiseContrastive(WIDE)):
        right, wrong = (
            float(method.loss(EnergyModel(lambda z, s=s: -s * PLANE.log_prob(z), (2,)), x, seeded(1)).detach())
            for s in (1, -1)
        )
        assert right < wrong


def test_the_regulariser_falls_to_nothing() -> None:
    energy = Quadratic(2)
    x = PLANE.sample(64, seeded())
    losses = [
        float(
            ContrastiveDivergence(1, ULA(0.01), regulariser=g).learner(model(energy, 2)).loss(x, seeded(1), p).detach()
        )
        for g, p in ((0.4, 0.0), (0.2, 0.0), (0.4, 0.5), (0.4, 1.0), (0.0, 0.0))
    ]
    assert losses[0] > losses[1] == losses[2] > losses[3] == losses[4]


@pytest.mark.parametrize("kernel", [ULA(0.05), MALA(0.3), HMC(0.3, 2), BAOAB(0.2)])
def test_chains_are_held_and_data_are_as_they_were(kernel) -> None:
    energy = Quadratic(2)
    learner = PersistentCD(2, kernel, capacity=50).learner(model(energy, 2))
    x = PLANE.sample(20, seeded())
    kept = x.clone()
    learner.loss(x, seeded(1)).backward()
    assert learner.negatives is not None and not learner.negatives.requires_grad
    assert learner.buffer is not None and not learner.buffer.requires_grad
    assert torch.equal(x, kept)
    assert energy.precision.grad is not None


def test_one_seed_is_one_run_under_no_grad_too() -> None:
    x = PLANE.sample(20, seeded())
    losses = []
    for _ in range(2):
        learner = PersistentCD(2, MALA(0.3), capacity=30).learner(model(Quadratic(2), 2))
        generator = seeded(3)
        losses.append([float(learner.loss(x, generator).detach()) for _ in range(3)])
    assert losses[0] == losses[1] and len(set(losses[0])) == 3
    with torch.no_grad():
        learner = PersistentCD(2, MALA(0.3), capacity=30).learner(model(Quadratic(2), 2))
        assert float(learner.loss(x, seeded(3))) == losses[0][0]


def test_a_buffer_keeps_its_chains_and_goes_on_from_them() -> None:
    method = PersistentCD(3, ULA(0.02), capacity=40, restart=0.0)
    first, x = method.learner(model(Quadratic(2), 2)), PLANE.sample(40, seeded())
    first.loss(x, seeded(1))
    assert first.buffer is not None and first.negatives is not None
    # All forty were taken, and all forty put back, each once.
    torch.testing.assert_close(first.buffer.sort(0).values, first.negatives.sort(0).values)
    second = method.learner(model(Quadratic(2), 2))
    second.restore(first.state())
    assert torch.equal(first.loss(x, seeded(2)), second.loss(x, seeded(2)))
    with pytest.raises(ValueError, match=r"state must hold buffer, of shape \[40, 2\], got"):
        second.restore({"buffer": torch.zeros(3, 2)})
    with pytest.raises(ValueError, match="state must be empty for a method that remembers nothing"):
        ContrastiveDivergence().learner(model(Quadratic(2), 2)).restore({"buffer": torch.zeros(3, 2)})


@pytest.mark.statistical
def test_a_share_of_the_chains_starts_anew() -> None:
    # Chains that hardly move, far from the starts: 2000 taken once, 300 restarts expected, ± 16; 6.2 deviations are allowed
    # (false alarm below 1e-9), a share of 0.21 or 0.09 is caught with probability 0.999.
    start = Gaussian([50.0, 50.0], [[1.0, 0.0], [0.0, 1.0]])
    learner = PersistentCD(1, ULA(1e-8), capacity=2000, restart=0.15, start=start).learner(model(Quadratic(2), 2))
    learner.restore({"buffer": torch.zeros(2000, 2, dtype=torch.float64)})
    learner.loss(PLANE.sample(2000, seeded()), seeded(1))
    assert learner.buffer is not None
    assert abs(int((learner.buffer[:, 0] > 25).sum()) - 300) < 100


# -- refusals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ContrastiveDivergence(steps=0), ValueError, "steps must be an integer of at least 1, got 0"),
        (lambda: ContrastiveDivergence(kernel=0.1), TypeError, "kernel must be a Kernel, got 0.1"),  # pyright: ignore
        (lambda: ContrastiveDivergence(regulariser=-1.0), ValueError, "regulariser must be at least 0 and finite, got -1.0"),
        (lambda: ContrastiveDivergence(t=1.5), ValueError, r"t must lie in \[0, 1\]"),
        (lambda: ContrastiveDivergence(graph=1), TypeError, "graph must be True or False, got 1"),  # pyright: ignore
        (lambda: RecoveryLikelihood(graph=None), TypeError, "graph must be True or False, got None"),  # pyright: ignore
        (lambda: PersistentCD(capacity=0), ValueError, "capacity must be an integer of at least 1, got 0"),
        (lambda: PersistentCD(restart=1.2), ValueError, r"restart must lie in \[0, 1\], got 1.2"),
        (lambda: PersistentCD(start=3), TypeError, "start must be a World, got 3"),  # pyright: ignore
        (lambda: DenoisingScoreMatching(sigma=0.0), ValueError, "sigma must be positive and finite, got 0.0"),
        (lambda: DenoisingScoreMatching(0.1, (0.2,)), ValueError, "sigma and times must not both be given"),
        (lambda: NoiseContrastive(3), TypeError, "noise must be a World, got 3"),  # pyright: ignore
        (lambda: NoiseContrastive(PLANE, 0.0), ValueError, "ratio must be positive and finite, got 0.0"),
        (lambda: RatioChain((0.5,)), ValueError, r"times must be at least 2, .* in \[0, 1\], got \(0.5,\)"),
        (lambda: RatioChain((0.5, 0.5)), ValueError, "times must be at least 2, strictly increasing"),
        (lambda: RecoveryLikelihood((0.5, 0.2)), ValueError, "times must be at least 2, strictly increasing"),
        (lambda: RecoveryLikelihood(steps=0), ValueError, "steps must be an integer of at least 1, got 0"),
        (lambda: EnergyModel(Quadratic(2), (2,), tau=0.0), ValueError, "tau must be positive and finite, got 0.0"),
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused(make, error, message) -> None:
    with pytest.raises(error, match=message):
        make()


def test_models_of_another_kind_are_refused() -> None:
    plain, timed = model(Quadratic(2), 2), model(Quadratic(2), 2, schedule=ud.Schedule.cosine())
    core = EnergyModel.of(ud.Diffusion(ud.Schedule.cosine(math.inf, -math.inf), ud.worlds.OracleDenoiser(PLANE)))
    many = ud.worlds.library.mixture_2d().given(torch.tensor([0, 1, 2, 0]))
    cloud = ud.worlds.PointCloud(PLANE.sample(3, seeded()))
    for method, own, message in (
        (ContrastiveDivergence(t=0.3), plain, "t must be left out for an energy without a schedule, got t = 0.3"),
        (ContrastiveDivergence(), timed, "t must be given for one with a schedule, got t = None"),
        (PersistentCD(start=LINE), plain, r"start must have the model's event shape \[2\], got \[1\]"),
        (DenoisingScoreMatching(sigma=0.1), timed, "model must be an energy without a schedule for sigma"),
        (DenoisingScoreMatching(), plain, "model must be an energy with a schedule for levels of noise; give sigma"),
        (NoiseContrastive(PLANE), timed, "model must be an energy without a schedule for nce"),
        (NoiseContrastive(LINE), plain, r"noise must have the model's event shape \[2\], got \[1\]"),
        (NoiseContrastive(many), plain, "noise must be one law, got a batch of 4"),
        (NoiseContrastive(cloud), plain, "a data set without noise has no density"),
        (PersistentCD(start=many), plain, "start must be one law, got a batch of 4"),
        (RatioChain(), plain, "model must be an energy with a schedule for ratio-chain"),
        (RecoveryLikelihood(), plain, "model must be an energy with a schedule for recovery"),
        (RecoveryLikelihood((0.2, 1.0)), core, "times must have alpha > 0, where x_t still knows of x_s"),
    ):
        with pytest.raises(ValueError, match=message):
            method.learner(own)
    with pytest.raises(ValueError, match="times must have noise"):
        RatioChain((0.0, 0.5)).learner(core).loss(PLANE.sample(4, seeded()), seeded())
    with pytest.raises(TypeError, match="model must be a EnergyModel"):
        ContrastiveDivergence().learner(Quadratic(2))  # pyright: ignore


@pytest.mark.parametrize(
    ("x", "options", "error", "message"),
    [
        (torch.zeros(3, 3), {}, ValueError, r"x must have shape \[B, 2\], got \[3, 3\]"),
        (torch.zeros(0, 2), {}, ValueError, "x must hold at least one datum"),
        (torch.zeros(3, 2, dtype=torch.float16), {}, ValueError, "x must be float32 or wider"),
        (torch.zeros(3, 2, dtype=torch.long), {}, TypeError, "x must be a floating-point tensor"),
        (torch.full((3, 2), math.nan), {}, ValueError, "x must be finite; 6 of its 6 values"),
        (torch.zeros(3, 2), {"generator": 3}, TypeError, "generator must be a Generator"),
        (torch.zeros(3, 2), {"progress": 1.5}, ValueError, r"progress must lie in \[0, 1\], got 1.5"),
    ],
)
def test_data_of_another_kind_are_refused(x, options, error, message) -> None:
    learner = ContrastiveDivergence().learner(model(Quadratic(2), 2))
    with pytest.raises(error, match=message):
        learner.loss(x, **options)
    with pytest.raises(ValueError, match="capacity must be at least the batch's 5, got 4"):
        PersistentCD(capacity=4).learner(model(Quadratic(2), 2)).loss(torch.zeros(5, 2, dtype=torch.float64))
    plain = PersistentCD(1).learner(EnergyModel(lambda x: x.square().sum(1), (2,)))
    plain.loss(torch.zeros(3, 2), seeded())
    with pytest.raises(
        ValueError, match="x must be torch.float32 on cpu, as the chains in the buffer, got torch.float64"
    ):
        plain.loss(torch.zeros(3, 2, dtype=torch.float64), seeded())


def test_energies_that_are_not_finite_are_counted() -> None:
    def broken(x: torch.Tensor) -> torch.Tensor:
        return torch.where(x[:, 0] > 1, math.inf, 1.0) * x.square().sum(1)

    x = torch.tensor([[0.0, 0.0], [2.0, 0.0], [3.0, 1.0]], dtype=torch.float64)
    with pytest.raises(FloatingPointError, match=r"got NaN or infinity at 2 of 3 data, \d of 3 chains"):
        ContrastiveDivergence(1, ULA(1e-6)).loss(EnergyModel(broken, (2,)), x, seeded())
    with pytest.raises(FloatingPointError, match=r"got NaN or infinity at 2 of 3 data, \d of 3 noise"):
        NoiseContrastive(Gaussian([0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]])).loss(EnergyModel(broken, (2,)), x, seeded())
    with pytest.raises(FloatingPointError, match="2 of 3 data: their gradient"):
        DenoisingScoreMatching(sigma=1e-3).loss(EnergyModel(broken, (2,)), x, seeded())


@pytest.mark.gpu
@pytest.mark.parametrize("kernel", [ULA(0.05), MALA(0.3), BAOAB(0.2)])
def test_a_captured_run_is_the_eager_one(kernel) -> None:
    from unidiff.ebm.learning.chains import ShortRun

    weight = torch.tensor(2.0, device="cuda")
    run = ShortRun(lambda x, c: 0.5 * weight * ((x - c).square().sum(1)), kernel, 5)
    x, centre = torch.randn(64, 2, device="cuda"), torch.randn(64, 2, device="cuda")
    for k in range(3):
        weight.fill_(1.0 + k)
        mine, eager = torch.Generator("cuda").manual_seed(k), torch.Generator("cuda").manual_seed(k)
        found = run(x, mine, centre + k)
        torch.testing.assert_close(found, run.walk(run.law(centre + k), x, eager)[0], rtol=1e-4, atol=1e-5)
