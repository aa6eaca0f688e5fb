"""What worlds refuse, each with the argument, its value and what was expected."""

from __future__ import annotations

import pytest
import torch

from unidiff.worlds import Gaussian, GaussianMixture, OracleDenoiser, PointCloud, library, rewards

EYE = torch.eye(2, dtype=torch.float64)
ZERO = torch.zeros(2, dtype=torch.float64)


@pytest.mark.parametrize(
    ("covariance", "message"),
    [
        (-EYE, "covariance must be positive definite, got smallest eigenvalue -1"),
        (EYE * torch.tensor([1.0, 0.0]), "covariance must be positive definite"),
        (torch.tensor([[1.0, 0.5], [0.0, 1.0]], dtype=torch.float64), "covariance must be symmetric"),
        (torch.full((2, 2), torch.nan, dtype=torch.float64), "covariance must be finite"),
        (torch.eye(3, dtype=torch.float64), r"covariance must have shape \[2, 2\]"),
        (torch.eye(2), "must be torch.float64"),
        (torch.eye(2, dtype=torch.float64, device="meta"), "on cpu"),
    ],
)
def test_covariances(covariance: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Gaussian(ZERO, covariance)


@pytest.mark.parametrize("mean", [[0.0, float("nan")], [float("inf"), 0.0]])
def test_means_that_are_not_finite(mean: list[float]) -> None:
    with pytest.raises(ValueError, match="mean must be finite"):
        Gaussian(mean, EYE)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([0.5, 0.4], "sum to 1.*sum of 0.9"),
        ([1.5, -0.5], "at least 0.*smallest of -0.5"),
        ([1.0], r"weights must have shape \[2\], got \[1\]"),
        ([float("nan"), 1.0], "weights must be at least 0"),
    ],
)
def test_weights(weights: list[float], message: str) -> None:
    means, covariances = torch.zeros(2, 2, dtype=torch.float64), EYE.expand(2, 2, 2)
    with pytest.raises(ValueError, match=message):
        GaussianMixture(weights, means, covariances)
    with pytest.raises(ValueError, match=message):
        PointCloud(torch.zeros(2, 3, dtype=torch.float64), weights)


def test_points() -> None:
    with pytest.raises(ValueError, match="points must be finite; 1 of its 4 values"):
        PointCloud([[0.0, 1.0], [2.0, float("nan")]])
    with pytest.raises(ValueError, match=r"points must have shape \[N, \*event\]"):
        PointCloud(torch.zeros(3))
    with pytest.raises(ValueError, match="none empty"):
        PointCloud(torch.zeros(0, 3))
    with pytest.raises(TypeError, match=r"points must be a floating-point tensor, got torch.int64"):
        PointCloud(torch.zeros(3, 2, dtype=torch.long))


def test_queries_of_another_shape_dtype_or_device() -> None:
    world = library.mixture_2d()
    with pytest.raises(ValueError, match=r"x must have shape \[B, 2\], got \[4, 3\]"):
        world.log_prob(torch.zeros(4, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match="x must be torch.float64 on cpu"):
        world.score(torch.zeros(4, 2))
    with pytest.raises(ValueError, match="x must be torch.float64 on cpu"):
        world.score(torch.zeros(4, 2, dtype=torch.float64, device="meta"))
    with pytest.raises(ValueError, match="must hold 3 rows"):
        world.diffuse(torch.full((3,), 0.5), torch.full((3,), 0.5)).log_prob(torch.zeros(4, 2, dtype=torch.float64))


@pytest.mark.parametrize(
    ("alpha", "sigma"), [(-0.1, 0.5), (0.5, -0.1), (0.0, 0.0), (float("nan"), 0.5), (float("inf"), 1)]
)
def test_levels_that_are_none(alpha: float, sigma: float) -> None:
    with pytest.raises(ValueError, match="alpha and sigma must be finite, at least 0 and not both 0"):
        library.gaussian().diffuse(alpha, sigma)


def test_levels_of_another_shape() -> None:
    world, z = library.gaussian(), torch.zeros(4, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"alpha must be a number or have shape \[4\], got shape \[3\]"):
        world.posterior(z, torch.full((3,), 0.5), 0.5)


def test_a_data_set_without_noise_has_no_density() -> None:
    world = library.digits(10)
    for ask in (world.log_prob, world.score):
        with pytest.raises(ValueError, match="a data set without noise has no density"):
            ask(world.points)
    with pytest.raises(ValueError, match="sigma must be positive"):
        world.posterior(world.points, 1.0, 0.0)
    with pytest.raises(ValueError, match="posterior is of the data set itself"):
        world.diffuse(0.5, 0.5).posterior(world.points, 0.5, 0.5)


def test_tilts_that_do_not_exist() -> None:
    world = library.mixture_2d()
    with pytest.raises(ValueError, match="A must leave the tilted precision .* positive definite"):
        world.tilt(-100 * EYE, None, 1.0)
    with pytest.raises(ValueError, match="beta must be positive and finite, got 0"):
        world.tilt(EYE, None, 0.0)
    with pytest.raises(ValueError, match=r"A must have shape \[2, 2\], got \[3, 3\]"):
        world.tilt(torch.eye(3), None, 1.0)
    with pytest.raises(ValueError, match="b must have 2 entries"):
        world.tilt(None, torch.zeros(3), 1.0)
    with pytest.raises(TypeError, match="only a PointCloud tilts by any function"):
        world.tilt_by(lambda x: x.sum(1), 1.0)
    with pytest.raises(ValueError, match="A must be symmetric"):
        rewards.Quadratic(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
    with pytest.raises(ValueError, match=r"reward must return \[10\]"):
        library.digits(10).tilt_by(lambda x: x.sum(), 1.0)


def test_unknown_worlds_name_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown world 'mixtur-2d'; did you mean 'mixture-2d'"):
        library.get("mixtur-2d")
    with pytest.raises(ValueError, match="n must be at most 1797, got 2000"):
        library.digits(2000)


def test_an_oracle_is_of_one_world() -> None:
    with pytest.raises(TypeError, match="world must be a unidiff World, got str"):
        OracleDenoiser("gaussian")  # pyright: ignore
    with pytest.raises(ValueError, match="world must be one law, got a batch of 2"):
        OracleDenoiser(library.gaussian().diffuse(torch.tensor([0.5, 0.6]), 0.5))


def test_draws_of_a_batch_are_one_each() -> None:
    batch = library.gaussian().diffuse(torch.tensor([0.5, 0.6]), 0.5)
    assert batch.sample().shape == (2, 3)
    with pytest.raises(ValueError, match="n must be left out for a batch of 2 laws"):
        batch.sample(5)
    with pytest.raises(ValueError, match="n must be an integer of at least 1"):
        library.gaussian().sample(0)


FAR = [(torch.float32, 1e20), (torch.float64, 1e200)]


@pytest.mark.parametrize(("dtype", "size"), FAR)
@pytest.mark.parametrize("world", [library.mixture_2d(), library.digits(9).diffuse(1.0, 0.5)], ids=["mixture", "cloud"])
def test_a_point_out_of_the_dtype_s_reach_has_no_density_and_no_score(world, dtype: torch.dtype, size: float) -> None:
    world = world.to(dtype)
    x = torch.full((1, *world.event_shape), size, dtype=dtype)
    assert world.log_prob(x).item() == -float("inf")
    with pytest.raises(
        ValueError, match=r"x must be so near that its squares fit float.*, got entries of size up to 1e\+"
    ):
        world.score(x)


@pytest.mark.parametrize(("dtype", "size"), FAR)
@pytest.mark.parametrize("world", [library.mixture_2d(), library.digits(9)], ids=["mixture", "cloud"])
def test_a_point_out_of_the_dtype_s_reach_has_no_posterior(world, dtype: torch.dtype, size: float) -> None:
    world = world.to(dtype)
    with pytest.raises(ValueError, match=r"xt must be so near .* of size up to 1e\+"):
        world.posterior(torch.full((1, *world.event_shape), size, dtype=dtype), 0.5, 0.5)


def test_a_gaussian_reaches_as_far_as_its_dtype() -> None:
    world = library.gaussian().to(torch.float32)
    assert torch.isfinite(world.score(torch.full((1, 3), 1e20))).all()
    with pytest.raises(ValueError, match=r"x must be so near .* of size up to 3e\+38"):
        world.score(torch.full((1, 3), 3e38))


def test_tilts_and_rewards_take_sequences() -> None:
    world, x = library.mixture_2d(), torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    for A, b in ((None, [1.0, 2.0]), ([[2.0, 0.5], [0.5, 1.0]], [1, 2])):
        tensors = [None if v is None else torch.tensor(v, dtype=torch.float64) for v in (A, b)]
        assert torch.equal(world.tilt(A, b, 1.0)[1], world.tilt(*tensors, 1.0)[1])  # pyright: ignore
    assert rewards.Linear([1.0, 2.0])(x).item() == 5.0  # pyright: ignore
    assert rewards.Quadratic([[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0])(x).item() == -2.5  # pyright: ignore


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (lambda w: w.tilt(None, "ab", 1.0), ValueError, "b must be a sequence of numbers, got 'ab'"),
        (lambda w: w.tilt("ab", None, 1.0), ValueError, "A must be a tensor or rows of numbers"),
        (lambda w: w.tilt(None, [1.0], 1.0), ValueError, "b must have 2 entries"),
        (lambda w: rewards.Linear("b"), ValueError, "b must be a sequence of numbers, got 'b'"),  # pyright: ignore
        (lambda w: rewards.Quadratic(3), ValueError, r"A must be a floating-point tensor of shape"),  # pyright: ignore
        (lambda w: rewards.LogDensity(3), TypeError, "gaussian must be a world N.m, C., got int"),  # pyright: ignore
        (
            lambda w: rewards.Linear(torch.ones(3))(w.means),
            ValueError,
            r"x must have 3 numbers a row.* got shape \[3, 2\]",
        ),
        (lambda w: rewards.Quadratic(torch.eye(3))(w.means), ValueError, "x must have 3 numbers a row"),
    ],
)
def test_rewards_that_do_not_fit(use, error, message: str) -> None:
    with pytest.raises(error, match=message):
        use(library.mixture_2d())
