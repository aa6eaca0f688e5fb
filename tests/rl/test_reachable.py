"""What a policy with the reference's σ can reach: against matrices, by brute force, and by draws of the policy found."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

import unidiff as ud
from tests.rl.cores import classes
from unidiff.core.chain import Variance
from unidiff.rl import DenoisingMDP, LinearChain, Reachable, State, linear_optimum, path_kl, reachable, walk
from unidiff.rl.envelope import envelope
from unidiff.rl.lattice import Lattice
from unidiff.worlds import Estimate, Gaussian, GaussianMixture, OracleDenoiser, library
from unidiff.worlds.rewards import Linear, Quadratic

LIKE = torch.empty(0, dtype=torch.float64)
BETA = 0.5
ONE = Quadratic([[1.0]], [0.5])  # pyright: ignore
TWO = Quadratic([[1.0, 0.3], [0.3, 0.5]], [0.5, -0.5])  # pyright: ignore
LINE = GaussianMixture([0.4, 0.6], [[-1.2], [0.8]], [[[0.1]], [[0.3]]])


def process(world, reward, steps: int = 8, first: float = 0.0, variance: Variance = "prior", beta: float = BETA):
    core = ud.Diffusion(ud.Schedule.linear(), OracleDenoiser(world))
    return DenoisingMDP(core.chain(ud.TimeGrid.uniform(steps, first), variance), reward, beta=beta)


@pytest.mark.parametrize("first", [0.0, 0.05])
@pytest.mark.parametrize("variance", ["prior", "posterior"])
@pytest.mark.parametrize(
    ("world", "reward", "points"),
    [
        (Gaussian([0.5], [[0.8]]), ONE, 97),
        (Gaussian([0.5, -0.3], [[0.8, 0.3], [0.3, 0.5]]), TWO, 48),
        pytest.param(Gaussian([0.5, -0.3], [[0.8, 0.3], [0.3, 0.5]]), Linear([1.0, -0.5]), 48, marks=pytest.mark.slow),  # pyright: ignore
    ],
)
def test_on_a_linear_chain_it_finds_what_the_matrices_say(world, reward, points, variance, first) -> None:
    # A quadratic is its own spline, and nothing is lost but what lies 6 deviations out: 1e-4 is asked, 1e-6 is had.
    mdp = process(world, reward, 5, first, variance)
    assert mdp.last == (2 if first == 0 else 1)
    found = reachable(mdp, points=points)
    best = linear_optimum(LinearChain.of(mdp.chain), reward, BETA, "kept")
    known = (best.steady_objective, best.expected_reward(best.steady), best.log_z, best.steady_gap)
    for own, truth in zip((found.value, found.reward, found.log_z, found.gap), known, strict=True):
        assert own == pytest.approx(float(truth), abs=1e-6)
    assert found.kl == pytest.approx(float(best.steady.kl(best.reference)), abs=1e-6)
    assert found.error < 1e-5
    x = torch.linspace(-1, 1, 3 * mdp.chain.core.event_shape[0], dtype=torch.float64).reshape(3, -1)
    for k in range(mdp.last, 6):
        torch.testing.assert_close(found.control(x, k), best.control(x, k), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.law(State(x, k)).mean, best.steady.step_mean(x, k), rtol=1e-4, atol=1e-5)


def ridge(x: torch.Tensor) -> torch.Tensor:
    """A reward with two hills, no polynomial."""
    return 0.8 * torch.cos(2.5 * x[:, 0]) + 0.3 * x[:, 0]


def test_one_decision_is_the_best_of_all_means_tried() -> None:
    # From two levels of a chain: by brute force over 4001 means, each state's Gaussian mean of r by 400 midpoints.
    mdp = process(LINE, ridge, 1, 0.1)
    found = reachable(mdp)
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    law = mdp.chain.step(x, 1)
    u = torch.linspace(-4, 4, 4001, dtype=torch.float64)
    at = torch.special.ndtri((torch.arange(400, dtype=torch.float64) + 0.5) / 400)
    gain = torch.stack(
        [ridge((m + law.std * (u[:, None] + at)).reshape(-1, 1)).reshape(4001, 400).mean(1) for m in law.mean]
    )
    best = u[(gain / BETA - 0.5 * u.square()).argmax(1)]
    torch.testing.assert_close(found.control(x, 1)[:, 0], best, rtol=0, atol=5e-3)


@pytest.mark.parametrize("first", [0.05, pytest.param(0.0, marks=pytest.mark.slow)])
def test_its_error_is_that_of_a_finer_lattice(first) -> None:
    mdp = process(LINE, ridge, 6, first)
    # Two hills make kinks in V: the error falls as the spacing's square there, and its constant is luck.
    rough, fine = reachable(mdp, points=40), reachable(mdp, points=200)
    assert fine.error < 2e-3 < rough.error
    assert abs(rough.gap - fine.gap) < 3 * rough.error
    assert abs(rough.value - fine.value) < 3 * BETA * rough.error


@pytest.mark.slow
def test_any_other_policy_that_keeps_sigma_reaches_less() -> None:
    # Paired by their noise. Of 40 moves the least loss is 20 standard errors: a false alarm is beyond reach.
    mdp = process(LINE, ridge, 6, 0.05)
    found = reachable(mdp)

    def worth(scale: float, shift: float) -> torch.Tensor:
        def law(state: State):
            own, reference = found.law(state), mdp.reference(state)
            mean = reference.mean + scale * (own.mean - reference.mean) + shift * reference.std
            return type(own)(mean, own.log_var)

        w = walk(mdp, 20_000, torch.Generator().manual_seed(3), law, like=LIKE)
        return w.reward - BETA * w.kl

    best = worth(1.0, 0.0)
    for scale, shift in ((0.6, 0.0), (1.4, 0.0), (1.0, 0.3), (1.0, -0.3)):
        loss = best - worth(scale, shift)
        assert float(loss.mean()) > 6 * float(loss.std()) / 20_000**0.5


@pytest.mark.slow
@pytest.mark.statistical
@pytest.mark.parametrize(
    ("world", "reward", "first", "points"),
    [
        (LINE, ridge, 0.0, None),
        (library.mixture_2d(), Quadratic([[1.0, 0.0], [0.0, 0.5]], [0.5, -0.5]), 0.05, 80),  # pyright: ignore
    ],
)
def test_draws_of_the_policy_found_earn_what_was_said(world, reward, first, points) -> None:
    # Four z-tests at 6: a false alarm once in 1e8. A lost ½ of the KL, or a gap off by its own size, is 10 errors or more.
    mdp = process(world, reward, 8, first, beta=0.3)
    found = reachable(mdp, points=points)
    w = walk(mdp, 60_000, torch.Generator().manual_seed(0), found.law, like=LIKE)
    for draws, told in ((w.reward, found.reward), (w.kl, found.kl), (w.reward - 0.3 * w.kl, found.value)):
        error = float(draws.std()) / len(draws) ** 0.5
        assert abs(float(draws.mean()) - told) < 6 * error + 2 * found.error
    assert float(w.kl.std()) / len(w.kl) ** 0.5 < 0.05 * found.kl
    exact = Estimate.exact(torch.tensor(found.log_z))
    far = path_kl(mdp, found.law, exact, 60_000, torch.Generator().manual_seed(1), like=LIKE)
    assert abs(float(far.value) - found.gap) < 6 * float(far.standard_error) < 0.6 * found.gap
    assert found.error < 3e-3


def test_a_class_is_asked_for_by_its_label() -> None:
    core, reward = classes(), Linear([1.0] * 2)  # pyright: ignore
    mdp = DenoisingMDP(core.chain(ud.TimeGrid.uniform(3, 0.2)), reward, beta=1.0)
    label = torch.tensor(1)
    plain, own = (reachable(mdp, points=40, condition=c) for c in (None, label))
    w = walk(mdp, 4096, torch.Generator().manual_seed(0), condition=label, like=mdp_like(mdp))
    tilted = torch.logsumexp(w.reward, 0) - np.log(4096)
    assert abs(own.log_z - float(tilted)) < 0.1
    assert own.log_z != plain.log_z


def mdp_like(mdp: DenoisingMDP) -> torch.Tensor:
    first = mdp.chain.core.first_parameter()
    return LIKE if first is None else torch.empty(0, dtype=first.dtype)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: reachable("mdp"), TypeError, "mdp must be a DenoisingMDP"),  # pyright: ignore
        (lambda: reachable(process(library.gaussian(), Linear([1.0] * 3))), ValueError, "data of shape [1] or [2]"),  # pyright: ignore
        (lambda: reachable(process(LINE, None)), ValueError, "a reward of its data"),
        (lambda: reachable(process(LINE, ONE, beta=0.0)), ValueError, "mdp.beta must be positive"),
        (lambda: reachable(process(LINE, ONE), points=9), ValueError, "points must be an integer of at least 24"),
        (lambda: reachable(process(LINE, ONE), reach=1.0), ValueError, "reach must be above 1"),
        (lambda: reachable(process(LINE, ONE, variance="optimal")), ValueError, "variance does not move with the state"),
        (
            lambda: reachable(process(LINE, lambda x: x[:, 0] / 0), points=24),
            FloatingPointError,
            "reward returned 16 of 16 values that are not finite",
        ),
    ],
)  # fmt: skip
def test_what_is_refused_is_named(make, error, message) -> None:
    with pytest.raises(error, match=re.escape(message)):
        make()


def test_a_control_is_of_a_decision() -> None:
    found = reachable(process(LINE, ONE, 3), points=24)
    assert isinstance(found, Reachable)
    x = torch.zeros(2, 1)
    assert found.control(x, 2).dtype == torch.float32
    for k in (0, 1, 4, True):
        with pytest.raises(ValueError, match="k must be an integer in 2 … 3, a decision's"):
            found.control(x, k)


# -- the lattice -------------------------------------------------------------------------------------------------------


def test_a_spline_and_its_slopes_converge_at_their_orders() -> None:
    inside = np.random.default_rng(0).uniform(-1.5, 1.5, (500, 2))

    def f(x):
        return np.sin(2 * x[:, 0] + 0.3) * np.cos(x[:, 1])

    off = []
    for points in (25, 49):
        lattice = Lattice(np.array([-2.0, -3.0]), np.array([2.0, 3.0]), points)
        spline = lattice.spline(f(lattice.every()))
        slope = 2 * np.cos(2 * inside[:, 0] + 0.3) * np.cos(inside[:, 1])
        bend = -2 * np.cos(2 * inside[:, 0] + 0.3) * np.sin(inside[:, 1])
        hessian = spline.hessian(inside)
        off.append(
            [
                np.abs(spline(inside) - f(inside)).max(),
                np.abs(spline.gradient(inside)[:, 0] - slope).max(),
                np.abs(hessian[:, 0, 1] - bend).max(),
            ]
        )
        assert np.array_equal(hessian[:, 0, 1], hessian[:, 1, 0])
    order = np.log2(np.array(off[0]) / np.array(off[1]))
    assert (order > [3.5, 2.5, 1.5]).all(), order


def test_gaussian_means_on_a_lattice_are_those_in_closed_form() -> None:
    lattice = Lattice(np.array([-9.0, -9.0]), np.array([9.0, 9.0]), 91)
    x, std = lattice.every(), np.array([0.7])[0]
    inside = (np.abs(x) < 3).all(1)
    square = (x**2).sum(1)
    mean = lattice.mean(np.stack([square, x[:, 0]], -1), std)
    np.testing.assert_allclose(mean[inside], np.stack([square + 2 * std**2, x[:, 0]], -1)[inside], atol=1e-5)
    # log E e^{−½‖x + sξ‖²} = −½‖x‖²/(1 + s²) − log(1 + s²) in two dimensions.
    log_mean = lattice.log_mean(-0.5 * square, std)
    known = -0.5 * square / (1 + std**2) - np.log(1 + std**2)
    np.testing.assert_allclose(log_mean[inside], known[inside], atol=1e-5)


def test_beyond_its_edge_a_function_stays_what_it_is_there() -> None:
    lattice = Lattice(np.array([-1.0]), np.array([1.0]), 25)
    spline = lattice.spline(lattice.every()[:, 0] ** 3)
    np.testing.assert_allclose(spline(np.array([[-5.0], [1.5]])), [-1.0, 1.0], atol=1e-12)


def test_of_two_hills_the_envelope_takes_the_higher() -> None:
    lattice = Lattice(np.array([-4.0, -4.0]), np.array([4.0, 4.0]), 97)

    def hills(x):
        low, high = (np.exp(-((x - at) ** 2).sum(1) / 0.3) for at in ([1.0, 0.0], [-1.0, -0.5]))
        return 2 * low + 5 * high

    values, mean = hills(lattice.every()), np.array([[0.9, 0.1], [0.2, 0.0], [3.0, 3.0]])
    best, worth, open_ = envelope(lattice.spline(values), values, mean, 1.0)
    every = np.stack(np.meshgrid(*[np.linspace(-4, 4, 801)] * 2, indexing="ij"), -1).reshape(-1, 2)
    for i, mu in enumerate(mean):
        known = hills(every) - 0.5 * ((every - mu) ** 2).sum(1)
        assert worth[i] == pytest.approx(known.max(), abs=1e-3)
        np.testing.assert_allclose(best[i], every[known.argmax()], atol=0.02)
    assert not open_.any()
    assert best[0, 0] < 0


def test_where_there_is_no_best_mean_it_says_so() -> None:
    # A bowl steeper than the charge has no maximum but the edge.
    mdp = process(Gaussian([0.0], [[1.0]]), Quadratic([[-30.0]]), 3, 0.3, beta=1.0)  # pyright: ignore
    with pytest.raises(FloatingPointError, match="decisions where no best mean was found"):
        reachable(mdp, points=60)


@pytest.mark.parametrize("reach", [1.0, 21.0, float("inf"), float("nan")])
def test_a_lattice_that_no_path_fills_is_refused(reach: float) -> None:
    mdp = process(Gaussian([0.0], [[1.0]]), Linear([1.0]), 3, 0.3, beta=1.0)  # pyright: ignore
    with pytest.raises(ValueError, match="reach must be above 1 and at most 20"):
        reachable(mdp, points=36, reach=reach)


def test_a_control_is_asked_at_states_alone() -> None:
    mdp = process(Gaussian([0.0], [[1.0]]), Linear([1.0]), 3, 0.3, beta=1.0)  # pyright: ignore
    found = reachable(mdp, points=40)
    with pytest.raises(ValueError, match=r"x must have shape \[B, 1\], got \[4, 2\]"):
        found.control(torch.zeros(4, 2), 1)
    with pytest.raises(ValueError, match="x must be finite"):
        found.control(torch.full((4, 1), float("nan")), 1)
