"""What the core refuses, before any work, and what it does not let end in NaN."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import Tensor

import unidiff as ud
from unidiff.core import networks
from unidiff.core.prediction import Kind
from unidiff.worlds import Gaussian, OracleDenoiser, library

WIDE = torch.float64
X = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
NAN, INF = (X.index_fill(0, torch.tensor([1]), v) for v in (math.nan, math.inf))
Q = ud.ForwardProcess(ud.Schedule.cosine())


def core(num_classes: int | None = None, prediction: Kind = "v", schedule: ud.Schedule | None = None) -> ud.Diffusion:
    torch.manual_seed(0)
    network = networks.MLP(2, width=8, depth=1, num_classes=num_classes)
    torch.nn.init.normal_(network.last.weight, std=0.3)
    denoiser = ud.Denoiser(network, (2,), prediction, num_classes=num_classes)
    return ud.Diffusion(schedule or ud.Schedule.cosine(), denoiser).eval()


class Rising(ud.Schedule):
    """Somebody's schedule, upside down."""

    kind = "rising"

    def _log_snr(self, t: Tensor) -> Tensor:
        return 10 * t - 5

    def _log_snr_derivative(self, t: Tensor) -> Tensor:
        return torch.full_like(t, 10.0)

    def _time(self, log_snr: Tensor) -> Tensor:
        return (log_snr + 5) / 10

    def _options(self) -> dict[str, object]:
        return {}


@pytest.mark.parametrize("bad", [NAN, INF], ids=["nan", "inf"])
@pytest.mark.parametrize(
    "use",
    [
        lambda x: Q.marginal(x, 0.5),
        lambda x: Q.transition(x, 0.2, 0.5),
        lambda x: Q.posterior(X, x, 0.2, 0.5),
        lambda x: Q.posterior(x, X, 0.2, 0.5),
        lambda x: core().predict(x, 0.5),
        lambda x: core().chain(ud.TimeGrid.uniform(3)).step(x, 2),
        ud.Sampler(core(), ud.TimeGrid.uniform(3)),
        lambda x: ud.Sampler(core(), ud.TimeGrid.uniform(1), "ancestral")(X, noise=x[None]),
        lambda x: library.mixture_2d().to(torch.float32).score(x),
        lambda x: library.mixture_2d().to(torch.float32).posterior(x, 0.5, 0.5),
        lambda x: ud.train.denoising_loss(core(), x),
    ],
)
def test_values_that_are_not_finite_are_refused_where_they_enter(use, bad: Tensor) -> None:
    with pytest.raises(ValueError, match="must be finite; 2 of its 8 values"):
        use(bad)


def test_a_run_that_ends_in_nan_says_so() -> None:
    broken = core()
    with torch.no_grad():
        next(broken.parameters()).fill_(math.nan)
    with pytest.raises(FloatingPointError, match="not finite in 3 of 3 samples"):
        ud.sample(broken, 3, steps=2)


def test_a_log_snr_that_rises_is_refused_at_its_first_use() -> None:
    message = r"schedule must have a log-SNR that decreases from s to t, got -3 at s = 0.2"
    for use in (
        lambda q: q.transition(X, 0.2, 0.5),
        lambda q: q.posterior(X, X, 0.2, 0.5),
    ):
        with pytest.raises(ValueError, match=message):
            use(ud.ForwardProcess(Rising()))
    with pytest.raises(ValueError, match="schedule must have a log-SNR that decreases"):
        core(schedule=Rising()).chain(ud.TimeGrid.uniform(3))
    with pytest.raises(ValueError, match="betas must move the log-SNR, got 1e-18 at index 1"):
        ud.Schedule.from_betas([0.5, 1e-18, 0.5])


@pytest.mark.parametrize(
    ("condition", "guidance", "classes", "error", "message"),
    [
        (None, 3.0, None, ValueError, "guidance needs a conditional network"),
        (None, 3.0, 3, ValueError, "guidance needs a condition, got guidance = 3.0"),
        (None, math.nan, None, ValueError, "guidance must be finite, got nan"),
        (torch.zeros(4, dtype=torch.long), 1.0, None, ValueError, "condition must be left out"),
        (torch.zeros(4), 1.0, 3, TypeError, "condition must be a tensor of integers, got torch.float32"),
        (1, 1.0, 3, TypeError, "condition must be a tensor of integers, got int"),
        (torch.zeros(3, dtype=torch.long), 1.0, 3, ValueError, r"condition must have shape \[4\] or \[\], got \[3\]"),
        (torch.tensor([0, 1, 9, 0]), 1.0, 3, ValueError, r"condition must lie in 0 … 3 .* got \[0, 1, 9, 0\]"),
        (torch.tensor(-1), 1.0, 3, ValueError, "condition must lie in 0 … 3"),
    ],
)
def test_conditions_and_guidance_that_a_denoiser_cannot_take(condition, guidance, classes, error, message) -> None:
    grid = ud.TimeGrid.uniform(2)
    for use in (
        lambda c: c.predict(X, 0.5, condition, guidance),
        lambda c: c.chain(grid).step(X, 1, condition, guidance),
        lambda c: ud.Sampler(c, grid, guidance=guidance)(X, condition=condition),
    ):
        with pytest.raises(error, match=message):
            use(core(classes))


def test_one_label_serves_all_and_one_time_in_a_list_too() -> None:
    both = core(3)
    one = both.predict(X, torch.tensor([0.5]), torch.tensor(2), 1.5).x0
    each = both.predict(X, torch.full((4,), 0.5), torch.full((4,), 2), 1.5).x0
    torch.testing.assert_close(one, each)


def test_dtypes_and_shapes_that_do_not_go_together() -> None:
    with pytest.raises(ValueError, match=r"xt must have the network's dtype, torch.float32, got torch.float64"):
        core().predict(X.double(), 0.5)
    with pytest.raises(ValueError, match="x and noise must have one dtype"):
        ud.Sampler(core(), ud.TimeGrid.uniform(2))(X, noise=torch.zeros(2, 4, 2, dtype=WIDE))
    with pytest.raises(ValueError, match=re.escape("dtype must be torch.float32 or torch.float64, got torch.int64")):
        ud.sample(core(), 2, dtype=torch.int64)
    law = ud.Gaussian(X, torch.zeros(2))
    for other in (X[:1], X[0], X.double()):
        with pytest.raises(ValueError, match="mean and x must have one"):
            law.log_prob(other)
    with pytest.raises(ValueError, match="mean and other_mean must have one shape"):
        law.kl(ud.Gaussian(X[:1], torch.zeros(2)))
    narrow = ud.Diffusion(ud.Schedule.cosine(), ud.Denoiser(lambda x, noise, c: x[:, :1], (2,), "v"))
    with pytest.raises(ValueError, match=r"network must return shape \[4, 2\], got \[4, 1\]"):
        narrow.predict(X, 0.5)
    with pytest.raises(ValueError, match="event_shape must be a tuple of positive integers, got 3"):
        ud.Denoiser(lambda x, noise, c: x, 3)  # pyright: ignore


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ud.Sampler(core(), ud.TimeGrid.uniform(2), eta=-0.5), r"eta must lie in \[0, 1\], got -0.5"),
        (lambda: ud.Schedule.sigmoid(tau=1e-3), "must be at most 1400, got 6000"),
        (lambda: ud.Schedule.sigmoid(start=-math.inf), "end must exceed start, both finite"),
        (lambda: ud.TimeGrid.quadratic(3, first=-0.1), r"first must lie in \[0, 1\]"),
        (lambda: ud.TimeGrid(torch.linspace(0, 1, 4).reshape(2, 2)), r"times must be a sequence of numbers \[N\]"),
        (lambda: ud.TimeGrid(["a"]), "times must be a sequence of numbers, got"),  # pyright: ignore
        (lambda: ud.Schedule.from_betas(["a"]), "betas must be a sequence of numbers"),  # pyright: ignore
        (lambda: core().chain(ud.TimeGrid.uniform(2)).step(X, 1.5), "k must be an integer in 1 … 2"),  # pyright: ignore
        (lambda: core().chain(ud.TimeGrid.uniform(2)).step(X, True), "k must be an integer in 1 … 2"),
        (
            lambda: core().chain(ud.TimeGrid.uniform(2), "optimal", torch.tensor([-1.0, 0.0])),
            "x0_variance must be finite and at least 0",
        ),
        (lambda: library.digits(9).diffuse(1.0, 0.1).entropy(n=1), "n must be an integer of at least 2"),
    ],
)
def test_numbers_out_of_range(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("log_snr_min", [-180.0, -300.0])
def test_eps_where_its_division_overflows_is_zero_snr(log_snr_min: float) -> None:
    eps = core(prediction="eps", schedule=ud.Schedule.polynomial(1.0, 10.0, log_snr_min))
    with pytest.raises(ValueError, match="eps-prediction at zero SNR"):
        eps.predict(X, 1.0)
    with pytest.raises(ValueError, match=r"coefficients overflow in torch.float32|eps-prediction at zero SNR"):
        ud.sample(eps, 3, steps=4)


def test_float32_densities_hold_at_tiny_variances() -> None:
    log_var = torch.full((2,), -150.0)
    at_mean = ud.Gaussian(X, log_var).log_prob(X)
    torch.testing.assert_close(at_mean, torch.full((4,), 150.0 - math.log(2 * math.pi)))
    assert torch.equal(ud.Gaussian(X, log_var).kl(ud.Gaussian(X, log_var)), torch.zeros(4))
    cloud = library.digits(5).to(torch.float32)
    law = cloud.diffuse(1.0, 1e-25)
    assert torch.isfinite(law.log_prob(cloud.points)).all()
    assert torch.equal(cloud.posterior(cloud.points, 1.0, 1e-25).weights.argmax(1), torch.arange(5))


def test_drift_and_diffusion_have_their_limits_at_infinite_log_snr() -> None:
    linear = ud.Schedule.linear(0.1, 20.0)
    assert linear.drift(0.0).item() == pytest.approx(-0.05)
    assert linear.diffusion2(0.0).item() == pytest.approx(0.1)
    assert linear.as_ve().diffusion2(0.0).item() == pytest.approx(0.1)
    assert ud.Schedule.from_betas([0.5, 0.5]).diffusion2(0.0).item() == pytest.approx(2 * math.log(2))
    whole = ud.Schedule.cosine(math.inf, -math.inf)
    assert whole.drift(0.0).item() == 0.0
    assert whole.drift(0.5).item() == pytest.approx(-math.pi / 2)
    with pytest.raises(ValueError, match=r"has no value at t = \[0.0\]"):
        ud.Schedule.sigmoid(log_snr_max=math.inf).drift(0.0)


def test_inverses_hold_far_below_and_knots_are_met_only_where_they_are() -> None:
    far = ud.Schedule.linear(0.1, 60.0)
    t = torch.linspace(0.05, 1.0, 50, dtype=WIDE)
    torch.testing.assert_close(far.time(far.log_snr(t)), t, rtol=1e-12, atol=0)
    ddpm = ud.Schedule.named("ddpm")
    assert ddpm.log_snr(1e-13).item() == pytest.approx(-math.log(1e-10 * -math.log1p(-1e-4)), rel=1e-9)
    assert torch.isfinite(ud.ForwardProcess(ddpm).transition(X.double(), 0.5, 0.5 + 5e-13).log_var)


def test_a_learned_schedule_keeps_every_bit_through_casts() -> None:
    t = torch.linspace(0, 1, 7, dtype=WIDE)
    schedule = ud.Schedule.learned()
    before = schedule.log_snr(t).detach()
    schedule.log_snr(t).sum().backward()  # pyright: ignore
    for cast in ("half", "float"):
        getattr(schedule, cast)()
        assert torch.equal(schedule.log_snr(t).detach(), before)
    assert all(p.grad is not None and p.grad.dtype == WIDE for p in schedule.parameters())  # pyright: ignore
    torch.optim.Adam(schedule.parameters()).step()  # pyright: ignore


def test_the_decoder_step_of_a_learned_variance_has_gradients() -> None:
    network = networks.MLP(2, width=8, depth=1, learned_variance=True)
    denoiser = ud.Denoiser(network, (2,), "x0", learned_variance=True)
    chain = ud.Diffusion(ud.Schedule.linear(), denoiser).chain(ud.TimeGrid.uniform(4), "learned")
    for k in (1, 2):
        network.zero_grad()
        step = chain.step(X, k)
        (step.mean.sum() + step.log_var[torch.isfinite(step.log_var)].sum()).backward()
        assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


def test_the_oracle_takes_the_same_conditions() -> None:
    world = Gaussian([0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]])
    plain = ud.Diffusion(ud.Schedule.cosine(), OracleDenoiser(world))
    with pytest.raises(ValueError, match="condition must be left out"):
        plain.predict(X.double(), 0.5, torch.zeros(4, dtype=torch.long))
    mixture = ud.Diffusion(ud.Schedule.cosine(), OracleDenoiser(library.mixture_2d()))
    with pytest.raises(ValueError, match=r"condition must have shape \[4\]"):
        mixture.predict(X.double(), 0.5, torch.zeros(2, dtype=torch.long))


@pytest.mark.parametrize("bad", [NAN, INF], ids=["nan", "inf"])
def test_a_gaussian_of_values_that_are_not_finite_says_so_when_asked(bad: Tensor) -> None:
    law = ud.Gaussian(X, torch.zeros_like(X))
    with pytest.raises(ValueError, match="x must be finite; 2 of its 8 values"):
        law.log_prob(bad)
    with pytest.raises(ValueError, match="noise must be finite"):
        law.sample(noise=bad)
    for ask in (lambda g: g.sample(), lambda g: g.log_prob(X), lambda g: g.entropy(), law.kl):
        with pytest.raises(ValueError, match="mean must be finite"):
            ask(ud.Gaussian(bad, X))
        with pytest.raises(ValueError, match=r"log_var must be below \+inf and not NaN"):
            ask(ud.Gaussian(X, bad))


@pytest.mark.parametrize(
    ("mean", "log_var", "error", "message"),
    [
        (1.0, 2.0, TypeError, "mean must be a floating-point tensor, got float"),
        (X, 2.0, TypeError, "log_var must be a floating-point tensor, got float"),
        (X.long(), X, TypeError, r"mean must be a floating-point tensor, got torch.int64"),
        (X[0], X[0], ValueError, r"mean must have shape \[B, \*event\], batch first, got \[2\]"),
        (X[0, 0], X[0, 0], ValueError, r"mean must have shape \[B, \*event\], batch first, got \[\]"),
    ],
)
def test_a_gaussian_is_of_a_floating_batch(mean, log_var, error, message: str) -> None:
    with pytest.raises(error, match=message):
        ud.Gaussian(mean, log_var)


def test_a_network_that_answers_nan_is_told_where_its_answer_is_read() -> None:
    broken = core()
    with torch.no_grad():
        next(broken.parameters()).fill_(math.nan)
    answer = broken.predict(X, 0.5)
    for kind in ("x0", "eps", "v", "score"):
        with pytest.raises(FloatingPointError, match=f"the denoiser's {kind} must be finite, .* in 4 of 4 rows"):
            getattr(answer, kind)
    far = torch.full((1, 2), 1e20)
    exact = ud.Diffusion(ud.Schedule.cosine(), OracleDenoiser(library.mixture_2d()))
    for kind in ("x0", "score"):
        with pytest.raises(FloatingPointError, match=f"the denoiser's {kind} must be finite"):
            getattr(exact.predict(far, 0.5), kind)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ud.Denoiser(3, (2,)), TypeError, "network must be callable.* got int"),  # pyright: ignore
        (lambda: core(num_classes=-1), ValueError, "num_classes must be an integer of at least 1, got -1"),
        (lambda: ud.Denoiser(lambda *a: a[0], (2,), num_classes=0), ValueError, "num_classes must be .* got 0"),
        (lambda: ud.Schedule.learned(seed=-1), ValueError, r"seed must be an integer in 0 … 2\^63 - 1, got -1"),
        (lambda: ud.Schedule.cosine(2000.0), ValueError, "log_snr_max must be within.* got 2000.0, .* out as inf"),
        (lambda: ud.Schedule.cosine(15.0, -2000.0), ValueError, "log_snr_min must be within.* got -2000.0"),
        (lambda: ud.Schedule.sigmoid(log_snr_min=-2000.0), ValueError, "log_snr_min must be within.* as -inf"),
        (
            lambda: ud.Schedule.cosine().log_snr(torch.tensor(0.3 + 1j)),
            TypeError,
            r"t must be real, got torch.complex64",
        ),
        (lambda: ud.Schedule.cosine().log_snr(0.3 + 1j), TypeError, r"t must be real, got \(0.3\+1j\)"),  # pyright: ignore
        (
            lambda: core().chain(ud.TimeGrid.uniform(2), "posterior", x0_variance=torch.ones(2)),
            ValueError,
            "x0_variance is for variance 'optimal', got it with variance 'posterior'",
        ),
        (
            lambda: ud.Sampler(core(), ud.TimeGrid.uniform(2), graph=True)(X),
            ValueError,
            "x must be on a GPU .* got cpu",
        ),
        (lambda: ud.sample(core(), 3, device="gpu"), ValueError, "device must be cpu, cuda or cuda:N, .* got 'gpu'"),
        (lambda: ud.sample(core(), 3, device="cuda:99"), ValueError, "device must be .* got 'cuda:99'"),
        (lambda: ud.sample(core(), 3, generator=5), TypeError, "generator must be a Generator, got 5"),  # pyright: ignore
        (lambda: ud.sample(core(), 3, grid="u"), TypeError, "grid must be a TimeGrid, got 'u'"),  # pyright: ignore
        (lambda: ud.sample("core", 3), TypeError, "core must be a Diffusion, got 'core'"),  # pyright: ignore
        (lambda: ud.sample(core(), 3, on_row=3), TypeError, "on_row must be callable.* got int"),  # pyright: ignore
    ],
)
def test_arguments_that_were_taken_and_ignored_or_failed_deep_inside(make, error, message: str) -> None:
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("what", ["drift", "diffusion2", "log_snr_derivative"])
@pytest.mark.parametrize(
    ("schedule", "t"),
    [
        (ud.Schedule.polynomial(0.5), 0.0),
        (ud.Schedule.cosine(math.inf, -math.inf), 1.0),
        (ud.Schedule.sigmoid(log_snr_max=math.inf, log_snr_min=-math.inf), 1.0),
    ],
)
def test_a_rate_without_a_limit_is_an_error_that_names_the_time(what: str, schedule: ud.Schedule, t: float) -> None:
    with pytest.raises(ValueError, match=rf"{what} has no value at t = \[{t}\]"):
        getattr(schedule, what)(torch.tensor([t, 0.5], dtype=WIDE))
    assert torch.isfinite(getattr(schedule, what)(0.5))


def test_the_slope_of_an_infinite_log_snr_is_an_error_too() -> None:
    with pytest.raises(ValueError, match=r"log_snr_derivative has no value at t = \[0.0\]"):
        ud.Schedule.linear().log_snr_derivative(0.0)


@pytest.mark.parametrize("content", [bytes(range(256)), b"[1, 2]", b'{"times": ["a"]}', b'{"times": [0.5]}', b"{}"])
def test_a_file_that_holds_no_grid_is_named(content: bytes, tmp_path) -> None:
    path = tmp_path / "grid.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"path must hold a time grid .*grid\.json does not: "):
        ud.TimeGrid.load(path)


def test_the_prior_variance_is_the_optimal_one_in_vp_alone_and_in_ve_for_wide_data() -> None:
    def worst(schedule: ud.Schedule, std: float) -> float:
        world = Gaussian([0.0], [[std**2]])
        exact, grid = ud.Diffusion(schedule, OracleDenoiser(world)), ud.TimeGrid.uniform(4)
        prior, optimal = exact.chain(grid, "prior"), exact.chain(grid, "optimal")
        x = torch.zeros(1, 1, dtype=WIDE)
        return max(float((prior.step(x, k).var / optimal.step(x, k).var - 1).abs().max()) for k in range(1, 5))

    vp = ud.Schedule.polynomial(1.0, 6.0, -6.0)
    assert worst(vp, 1.0) < 1e-10
    assert worst(vp.as_ve(), 1.0) > 10.0
    assert worst(vp.as_ve(), 1e6) < 1e-6
