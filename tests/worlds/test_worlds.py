"""The worlds against torch.distributions, quadrature and loops: two sides that share no code."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from unidiff.worlds import Gaussian, GaussianMixture, OracleDenoiser, PointCloud, World, library, rewards
from unidiff.worlds import cloud as cloud_module
from unidiff.worlds.estimate import monte_carlo

NAMES = ("mixture-2d", "mixture-8d", "gaussian", "eight-gaussians")


def as_torch(world: World) -> torch.distributions.Distribution:
    if isinstance(world, Gaussian):
        return torch.distributions.MultivariateNormal(world.mean, world.covariance)
    assert isinstance(world, GaussianMixture)
    return torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(probs=world.weights),
        torch.distributions.MultivariateNormal(world.means, world.covariances),
    )


def draws(world: World, n: int, seed: int = 0) -> torch.Tensor:
    return world.sample(n, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_log_density_is_torchs(name: str, dtype: torch.dtype) -> None:
    world = library.get(name)
    x = draws(world, 50)
    own = world.to(dtype).log_prob(x.to(dtype))
    assert own.dtype == dtype
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(own.double(), as_torch(world).log_prob(x), rtol=200 * eps, atol=200 * eps)


@pytest.mark.parametrize("name", NAMES)
def test_noised_law_is_the_convolution(name: str) -> None:
    world, alpha, sigma = library.get(name), 0.7, 0.4
    noised = world.diffuse(alpha, sigma)
    x = draws(noised, 20)
    # The convolution as an average over the posterior's own definition: p(x_0) N(z; αx_0, σ²) / p(x_0|z) = q(z).
    x0 = draws(world, 20, 1)
    forward = torch.distributions.Normal(alpha * x0, sigma).log_prob(x).sum(1)
    bayes = world.log_prob(x0) + forward - world.posterior(x, alpha, sigma).log_prob(x0)
    torch.testing.assert_close(noised.log_prob(x), bayes, rtol=1e-10, atol=1e-10)


def test_posterior_is_bayes_on_a_grid() -> None:
    world = GaussianMixture([0.3, 0.7], [[-1.0], [0.8]], [[[0.2]], [[0.05]]])
    alpha, sigma, z = 0.6, 0.5, torch.tensor([[0.3]], dtype=torch.float64)
    x = torch.linspace(-6, 6, 24001, dtype=torch.float64)
    joint = (
        as_torch(world).log_prob(x[:, None]) + torch.distributions.Normal(alpha * x, sigma).log_prob(z[0, 0])
    ).exp()
    mass = torch.trapezoid(joint, x)
    mean = torch.trapezoid(joint * x, x) / mass
    variance = torch.trapezoid(joint * (x - mean) ** 2, x) / mass
    posterior = world.posterior(z, alpha, sigma)
    torch.testing.assert_close(posterior.mean[0, 0], mean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(posterior.variance[0, 0], variance, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(posterior.covariance[0, 0, 0], variance, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(world.diffuse(alpha, sigma).log_prob(z)[0], mass.log(), rtol=1e-9, atol=1e-9)


@given(st.integers(0, 1000))
def test_a_tilt_is_an_integral_on_a_grid(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.rand(1, 1, generator=generator).double(), torch.randn(1, generator=generator).double()
    world = GaussianMixture([0.3, 0.7], [[-1.0], [0.8]], [[[0.2]], [[0.05]]])
    beta = 0.7
    x = torch.linspace(-8, 8, 16001, dtype=torch.float64)
    weight = (as_torch(world).log_prob(x[:, None]) + (-0.5 * a * x * x + b * x)[0] / beta).exp()
    z = torch.trapezoid(weight, x)
    tilted, log_z = world.tilt(a, b, beta)
    torch.testing.assert_close(log_z, z.log(), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(tilted.mean[0], torch.trapezoid(weight * x, x) / z, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(tilted.log_prob(x[7000:7010, None]), (weight / z).log()[7000:7010], rtol=1e-8, atol=1e-8)


def test_a_log_density_reward_tilts_by_that_density() -> None:
    world, beta = library.mixture_2d(), 2.0
    reward = rewards.LogDensity(Gaussian([0.3, 0.1], [[0.5, 0.1], [0.1, 0.4]]))
    tilted, log_z = world.tilt_by(reward, beta)
    x = draws(world, 30)
    expected = world.log_prob(x) + reward(x) / beta - log_z
    torch.testing.assert_close(tilted.log_prob(x), expected, rtol=1e-10, atol=1e-10)


def test_a_point_cloud_is_a_loop_over_its_points() -> None:
    points = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights = torch.tensor([0.1, 0.2, 0.1, 0.15, 0.15, 0.2, 0.1], dtype=torch.float64)
    world, alpha, sigma = PointCloud(points, weights), 0.8, 0.3
    z = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for k in range(5):
        joint = [
            float(w * torch.exp(-((z[k] - alpha * p) ** 2).sum() / (2 * sigma**2)))
            for w, p in zip(weights, points, strict=True)
        ]
        total = sum(joint)
        share = torch.tensor(joint, dtype=torch.float64) / total
        mean = torch.stack([w * p for w, p in zip(share, points, strict=True)]).sum(0)
        parts = [w * torch.outer(p - mean, p - mean) for w, p in zip(share, points, strict=True)]
        covariance = torch.stack(parts).sum(0)
        posterior = world.posterior(z[k : k + 1], alpha, sigma)
        torch.testing.assert_close(posterior.mean[0], mean)
        torch.testing.assert_close(posterior.covariance[0], covariance)
        torch.testing.assert_close(posterior.variance[0], covariance.diagonal())
        density = math.log(total) - 1.5 * math.log(2 * math.pi * sigma**2)
        assert float(world.diffuse(alpha, sigma).log_prob(z[k : k + 1])) == pytest.approx(density, rel=1e-12)


def test_a_point_cloud_is_a_mixture_of_points() -> None:
    points = library.digits(20).points[:, :10]
    cloud = PointCloud(points).diffuse(0.9, 0.2)
    mixture = GaussianMixture(
        [1 / 20] * 20, 0.9 * points, (0.2**2 * torch.eye(10, dtype=torch.float64)).expand(20, 10, 10)
    )
    z = draws(cloud, 8)
    torch.testing.assert_close(cloud.log_prob(z), mixture.log_prob(z))
    torch.testing.assert_close(cloud.score(z), mixture.score(z))
    torch.testing.assert_close(cloud.mean, mixture.mean)
    torch.testing.assert_close(cloud.covariance, mixture.covariance)


def test_a_cloud_in_blocks_of_rows_is_the_cloud_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    cloud = library.digits(20)
    alpha, sigma = torch.linspace(0.2, 0.9, 7).double(), torch.linspace(2.0, 0.3, 7).double()
    z = alpha[:, None] * cloud.points[:7] + 0.1
    tilted = cloud.posterior(z, 0.5, 3.0)  # seven laws, each with weights of its own
    monkeypatch.setitem(cloud_module._BLOCK, "cpu", 40)  # two rows of weights
    mean, score = cloud.posterior_mean(z, alpha, sigma), cloud.diffuse(alpha, sigma).score(z)
    own_score = tilted.diffuse(alpha, sigma).score(z)
    for k in range(7):
        one, level = z[k : k + 1], (float(alpha[k]), float(sigma[k]))
        torch.testing.assert_close(mean[k], cloud.posterior(one, *level).mean[0])
        torch.testing.assert_close(score[k], cloud.diffuse(*level).score(one)[0])
        alone = PointCloud(cloud.points, tilted.weights[k]).diffuse(*level)
        torch.testing.assert_close(own_score[k], alone.score(one)[0])
    with pytest.raises(ValueError, match="xt"):
        cloud.posterior_mean(z[:, :3], alpha, sigma)


def test_a_clouds_density_in_blocks_is_that_at_once_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    law, sizes, whole_joint = library.digits(50).diffuse(0.8, 0.6), [], PointCloud._joint
    z = draws(law, 33)

    def joint(self: PointCloud, z: torch.Tensor, *others: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        sizes.append(len(z) * len(self.points))
        return whole_joint(self, z, *others)

    monkeypatch.setattr(PointCloud, "_joint", joint)
    once = law.log_prob(z)
    assert sizes == [33 * 50]
    monkeypatch.setitem(cloud_module._BLOCK, "cpu", 200)  # four rows of weights
    assert torch.equal(law.log_prob(z), once)
    assert max(sizes[1:]) == 200
    assert torch.equal(law.entropy(33, torch.Generator().manual_seed(0)).value, -law.log_prob(z).mean())


def test_a_cloud_noised_twice_is_noised_once() -> None:
    points = library.digits(20).points[:, :10]
    twice, once = PointCloud(points).diffuse(0.9, 0.2).diffuse(0.5, 0.3), PointCloud(points).diffuse(0.45, 0.1**0.5)
    z = draws(once, 8)
    torch.testing.assert_close(twice.log_prob(z), once.log_prob(z))
    torch.testing.assert_close(twice.variance, once.covariance.diagonal())


def test_a_cloud_tilts_by_a_quadratic_as_by_the_function() -> None:
    world, A, b = library.digits(20), 0.01 * torch.eye(64).double(), 0.1 * torch.ones(64).double()
    by_matrix, by_function = world.tilt(A, b, 0.5), world.tilt_by(rewards.Quadratic(A, b), 0.5)
    torch.testing.assert_close(by_matrix[1], by_function[1])
    torch.testing.assert_close(by_matrix[0].weights, by_function[0].weights)


def test_a_cloud_keeps_the_shape_of_its_data() -> None:
    images = library.digits(30).points.reshape(30, 1, 8, 8)
    world = PointCloud(images)
    z = world.diffuse(0.7, 0.7).sample(4, torch.Generator().manual_seed(0))
    posterior = world.posterior(z, 0.7, 0.7)
    assert z.shape == posterior.mean.shape == posterior.variance.shape == (4, 1, 8, 8)
    assert world.diffuse(0.7, 0.7).score(z).shape == z.shape
    assert posterior.covariance.shape == (4, 64, 64)


def test_a_cloud_tilts_by_any_function() -> None:
    world = library.digits(50)
    tilted, log_z = world.tilt_by(lambda x: x.flatten(1).abs().sum(1), 5.0)
    gain = world.points.abs().sum(1) / 5.0
    assert float(log_z) == pytest.approx(math.log(float(gain.exp().mean())), rel=1e-12)
    torch.testing.assert_close(tilted.weights, torch.softmax(gain, 0))


@pytest.mark.parametrize("name", [*NAMES, "digits"])
@pytest.mark.parametrize("log_snr", [-20.0, -5.0, 0.0, 5.0, 20.0])
def test_float32_answers_to_float32_accuracy_at_every_level(name: str, log_snr: float) -> None:
    wide = library.get(name) if name != "digits" else library.digits(200)
    narrow = wide.to(torch.float32)
    alpha = math.sqrt(1 / (1 + math.exp(-log_snr)))
    sigma = math.sqrt(1 / (1 + math.exp(log_snr)))
    x = narrow.diffuse(alpha, sigma).sample(16, torch.Generator().manual_seed(0))
    one = narrow.posterior(x, alpha, sigma).mean.double()
    two = wide.posterior(x.double(), alpha, sigma).mean
    # The rounding of the state moves a logit by ‖z‖√D/σ parts in eps, and a logit moves the mean by a deviation.
    std = wide.posterior(x.double(), alpha, sigma).variance.clamp(min=0).sum(1).sqrt()
    allowed = 64 * 1.2e-7 * (two.norm(dim=1) + std * (wide.dim + x.double().norm(dim=1) * wide.dim**0.5 / sigma))
    assert ((one - two).norm(dim=1) <= allowed).all()


@pytest.mark.parametrize("name", NAMES)
def test_rows_with_their_own_levels_are_the_rows_alone(name: str) -> None:
    world = library.get(name)
    z = draws(world, 3)
    alpha, sigma = torch.tensor([0.9, 0.5, 0.1]).double(), torch.tensor([0.3, 0.8, 1.0]).double()
    law = world.diffuse(alpha, sigma)
    for k in range(3):
        one = world.diffuse(float(alpha[k]), float(sigma[k]))
        torch.testing.assert_close(law.log_prob(z)[k], one.log_prob(z[k : k + 1])[0])
        torch.testing.assert_close(law.score(z)[k], one.score(z[k : k + 1])[0])


@pytest.mark.parametrize("name", NAMES)
def test_the_law_is_differentiable_in_its_level(name: str) -> None:
    world, z = library.get(name), draws(library.get(name), 4)
    alpha = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    sigma = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, s: world.diffuse(a, s).log_prob(z), (alpha, sigma))


@pytest.mark.statistical
@pytest.mark.parametrize("name", [*NAMES, "digits"])
def test_samples_have_the_worlds_moments(name: str) -> None:
    # z-tests of each mean and each second moment, Bonferroni at 1e-6 for the world; with 20000 draws a mean off by
    # 6 % of a deviation would be seen with probability 0.999.
    world, n = library.get(name), 20_000
    x = draws(world, n).flatten(1)
    # A pixel that is dark but for a few digits has no normal mean at this n.
    kept = world.variance.flatten() > 1e-2
    centred = (x - world.mean.flatten())[:, kept]
    square = centred.square() - world.variance.flatten()[kept]
    values = torch.cat([centred, square], 1)
    score = values.mean(0) / (values.std(0) / math.sqrt(n))
    assert score.abs().max() < norm.isf(0.5e-6 / values.shape[1])


@pytest.mark.parametrize("name", ["mixture-2d", "eight-gaussians"])
@pytest.mark.statistical
def test_entropy_by_quadrature_is_that_by_monte_carlo(name: str) -> None:
    # One z-test at 5 standard errors (false alarm 6e-7); at 40000 draws it would see 0.03 nats.
    world = library.get(name)
    exact = world.entropy()
    assert exact.law == "quadrature"
    assert exact.standard_error < 1e-10
    surprise = -world.log_prob(draws(world, 40_000))
    assert abs(surprise.mean() - exact.value) < 5 * surprise.std() / 200


def test_entropy_of_a_gaussian_and_of_a_data_set_are_exact() -> None:
    world = library.gaussian()
    torch.testing.assert_close(world.entropy().value, as_torch(world).entropy())
    assert float(library.digits(100).entropy().value) == pytest.approx(math.log(100))


def test_the_oracle_asks_the_component_it_is_told() -> None:
    world = library.mixture_2d()
    oracle = OracleDenoiser(world)
    assert oracle.num_classes == 3
    with pytest.raises(ValueError, match="guidance needs a condition"):
        oracle(torch.zeros(2, 2).double(), _level(), guidance=2.0)
    with pytest.raises(ValueError, match="condition needs a world with classes"):
        OracleDenoiser(library.gaussian())(torch.zeros(2, 3).double(), _level(), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"condition must lie in 0 … 3 .*got \[4\]"):
        oracle(torch.zeros(1, 2).double(), _level(), torch.tensor([4]))


@pytest.mark.parametrize("guidance", [0.4, 1.0, 2.5])
def test_the_guided_oracle_is_affine_from_none_to_the_component(guidance: float) -> None:
    world, z = library.mixture_2d(), draws(library.mixture_2d(), 6)
    label, oracle, level = torch.arange(6) % 3, OracleDenoiser(world), _level()
    parts = [GaussianMixture([1.0], world.means[k : k + 1], world.covariances[k : k + 1]) for k in range(3)]
    one = torch.cat(
        [OracleDenoiser(parts[k % 3])(z[k : k + 1], level).x0 for k in range(6)],
    )
    none = oracle(z, level).x0
    torch.testing.assert_close(oracle(z, level, label, guidance).x0, none + guidance * (one - none))
    torch.testing.assert_close(oracle(z, level, torch.full_like(label, 3), guidance).x0, none)


@pytest.mark.statistical
def test_a_standard_error_is_the_deviation_of_the_estimate() -> None:
    # 400 estimates of 50 draws: the deviation of their spread is 3.5 %, so a factor of 1.25 is seen at 6 of them.
    values = torch.randn(400, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    estimates = [monte_carlo(row) for row in values]
    spread = torch.stack([e.value for e in estimates]).std()
    claimed = torch.stack([e.standard_error for e in estimates]).mean()
    assert 0.8 < float(spread / claimed) < 1.25


def _level():
    from unidiff import Schedule

    return Schedule.cosine().level(0.5)


@pytest.mark.gpu
@pytest.mark.parametrize("name", [*NAMES, "digits"])
def test_a_gpu_agrees_with_the_cpu(name: str) -> None:
    world = library.get(name)
    z = world.diffuse(0.7, 0.7).sample(64, torch.Generator().manual_seed(0))
    there = world.to(device="cuda")
    for ask in ("log_prob", "score"):
        one = getattr(world.diffuse(0.7, 0.7), ask)(z)
        two = getattr(there.diffuse(0.7, 0.7), ask)(z.cuda()).cpu()
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-10)
    one, two = world.posterior(z, 0.7, 0.7).mean, there.posterior(z.cuda(), 0.7, 0.7).mean.cpu()
    torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", [*NAMES, "digits"])
def test_a_world_moved_nowhere_is_itself(name: str) -> None:
    world = library.get(name)
    for same in (world.to(), world.to(torch.float64), world.to(device="cpu"), world.to(torch.float64, "cpu")):
        assert same is world
    assert world.to(torch.float32) is not world


def test_draws_of_a_noised_data_set_have_its_moments_and_its_seed() -> None:
    cloud = PointCloud([[-1.0, 0.5], [2.0, 0.0], [0.5, -1.5]], [0.2, 0.5, 0.3]).diffuse(0.8, 0.4)
    n = 200_000
    x = draws(cloud, n)
    assert x.shape == (n, 2)
    assert torch.equal(x, draws(cloud, n))
    assert not torch.equal(x, draws(cloud, n, 1))
    # Six standard errors; a square's spread is at most that of a fourth moment of 3² here.
    assert ((x.mean(0) - cloud.mean).abs() < 6 * (cloud.variance / n).sqrt()).all()
    assert ((torch.cov(x.T) - cloud.covariance).abs() < 6 * 3 / math.sqrt(n)).all()
    batch = PointCloud([[1.0, 1.0]]).diffuse(torch.tensor([0.5, 2.0]), torch.tensor([0.0, 1e-9]))
    torch.testing.assert_close(batch.sample(), torch.tensor([[0.5, 0.5], [2.0, 2.0]], dtype=torch.float64))
