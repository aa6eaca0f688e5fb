"""verify: what it judges, what it refuses, and that it would notice."""

from __future__ import annotations

import json
import math

import pytest
import torch

import unidiff as ud
from unidiff.core import networks
from unidiff.core.networks import MLP, GradientField
from unidiff.core.schedule_kinds import Polynomial
from unidiff.identities import VIEWS
from unidiff.train.config import DType
from unidiff.worlds import Gaussian, GaussianMixture, OracleDenoiser, PointCloud, library

pytestmark = pytest.mark.timeout(900)  # a quick run of one process, on a machine that has other work


@pytest.fixture(scope="module", params=["float64", pytest.param("float32", marks=pytest.mark.slow)])
def quick(request) -> ud.identities.Report:
    return ud.verify(quick=True, dtype=request.param)


def test_a_quick_run_holds(quick) -> None:
    bad = [
        (c.identity, c.world, c.schedule, c.dtype, c.detail)
        for c in quick.checks
        if c.verdict in ("fail", "inconclusive")
    ]
    assert bad == []
    assert quick.exit_status == 0


def test_a_quick_run_measures_every_identity(quick) -> None:
    measured = {(c.identity, c.dtype) for c in quick.checks}
    names = {identity.name for identity in ud.identities.all()}
    # The orders, rates, the prior's cost and what a dtype does not change are told from rounding in float64 alone.
    only64 = {i.name for i in ud.identities.all() if i.law == "order"}
    only64 |= {"antithetic-times", "prior-cost", "entropy-estimate", "mixture-draws", "probe-error", "order-conditions"}
    only64 |= {"student-interval", "bits-of-raw-data", "step-to-data-is-told", "entropy-of-coinciding"}
    # The trainer of these has a dtype of its own; the metrics are float64's whatever was sampled.
    only64 |= {"trainer-steps", "epochs-are-shuffled", "sliced-w1-of-shift", "uniform-directions", "mmd-of-gaussians"}
    # What is a quadrature in float64, whatever the world's dtype.
    only64 |= {"i-mmse", "i-mmse-plane", "de-bruijn", "entropy-production", "relative-entropy-decay"}
    only64 |= {"girsanov-of-a-law", "girsanov-bound", "integral-fluctuation", "detailed-fluctuation", "work-is-bound"}
    only64 |= {"information-by-draws", "rates-by-draws"}
    only64 |= {"nll-is-entropy", "dual-averaging"}
    only64 |= {"sampled-bound", "bound-gap", "importance-is-likelihood"}
    only64 |= {"weighted-elbo-gradients", "hybrid-step", "schedule-step", "optimal-variance-table"}
    only64 |= {"guided-runs", "entry-error-of-gaussian", "step-control"}
    only64 |= {"dual-averaging-is-closed", "chains-are-steps", "warm-up-is-search", "nan-is-told"}
    # A gap that is small beside its terms, and a gradient of responsibilities.
    only64 |= {"steady-gap", "guidance-is-control"}
    only64 |= {"steady-reach", "steering-normaliser", "steering-parents", "resampling-means"}
    only64 |= {"guidance-cost", "guidance-weights", "best-of-n"}
    # What is held against a linear chain's formulas, or to density ratios in units of a small σ.
    only64 |= {"score-function-gradient", "baseline-keeps-the-mean", "charged-gradient", "pathwise-gradient"}
    only64 |= {"truncated-gradient-bias", "clipped-ratio", "adjoint-is-control", "adjoint-fixed-point"}
    only64 |= {"implicit-reward", "dpo-at-reference", "diffusion-dpo-weight", "dpo-bound-of-walks", "dpo-is-jensens"}
    only64 |= {"gathered-experience", "d3po-loss", "dpo-draws", "policy-is-control", "run-through-is-walk"}
    # Solved by Newton's method to the last digit.
    only64 |= {"regulariser-bias"}
    only64 |= {"ends-set-the-bound", "inside-sets-the-variance", "fitted-inside"}
    # Draws of q_θ, and chains.
    only64 |= {"normaliser-gradient", "normaliser-rate", "normaliser-flow", "annealed-importance", "nce-optimum"}
    only64 |= {"chains-keep-the-product"}
    # A table of costs is float64's, whatever the core.
    only64 |= {"shortest-path", "euler-width", "euler-optimum", "bound-optimum", "every-path-ties", "step-price"}
    only64 |= {
        "step-deviation",
        "held-guess-bound",
        "energy-step-price",
        "descent-walk",
        "walk-reward",
        "energy-distance",
    }
    only64 |= {"tilted-paths", "path-policy-gradient"}
    assert measured in (
        {(n, "float64") for n in names},
        {(n, "float32") for n in names - only64},
    )


def test_the_json_document_is_the_issues(quick) -> None:
    document = json.loads(json.dumps(quick.to_dict(), allow_nan=False))
    assert set(document) == {"checks", "summary"}
    keys = ["identity", "views", "world", "schedule", "dtype", "device", "law", "residual", "tolerance", "verdict"]
    assert all(list(row) == keys for row in document["checks"])
    assert set(document["summary"]) == {"identities", "checks", "pass", "fail", "inconclusive", "gaps", "seconds"}
    assert all(set(row["views"]) <= set(VIEWS) for row in document["checks"])


def test_a_seed_is_a_run_whatever_else_runs() -> None:
    one = ud.verify(library.gaussian(), only=["stein", "tweedie"], seed=3, dtype="float64")
    two = ud.verify(library.gaussian(), only="stein", seed=3, dtype="float64")
    other = ud.verify(library.gaussian(), only="stein", seed=4, dtype="float64")
    assert one.checks[0].residual == two.checks[0].residual != other.checks[0].residual


def test_views_and_names_choose() -> None:
    report = ud.verify(library.gaussian(), view="ebm", dtype="float64")
    assert report.checks
    assert all("ebm" in c.views for c in report.checks)
    assert {c.dtype for c in report.checks} == {"float64"}


def test_a_schedule_is_judged_on_the_closed_form_worlds() -> None:
    report = ud.verify(ud.Schedule.polynomial(2.0), only=["log-snr-inverse", "chapman-kolmogorov"])
    assert {c.world for c in report.checks} == {"mixture-2d", "mixture-8d", "gaussian"}
    assert report.exit_status == 0


def test_a_schedule_with_a_wrong_derivative_is_caught() -> None:
    class Wrong(Polynomial):
        kind = "wrong-test"

        def _log_snr_derivative(self, t):
            return 1.001 * super()._log_snr_derivative(t)

    report = ud.verify(Wrong(), only="log-snr-derivative")
    assert report.exit_status == 1


WORLDS = {
    "standard": Gaussian([0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]]),
    "diagonal": Gaussian([0.0, 0.0], [[1.0, 0.0], [0.0, 4.0]]),
    "narrow": Gaussian([0.3, 0.1], [[1e-6, 0.0], [0.0, 1.0]]),
    "far": Gaussian([1e3, 0.1], [[1.0, 0.0], [0.0, 1.0]]),
    "line": Gaussian([0.3], [[0.5]]),
    "mixture on a line": GaussianMixture([0.3, 0.7], [[-1.0], [0.8]], [[[0.2]], [[0.05]]]),
    "one point": PointCloud([[0.3, -1.0]]),
}
SCHEDULES = {
    "cosine, no ends": ud.Schedule.cosine(math.inf, -math.inf),
    "cosine, high": ud.Schedule.cosine(20.0, 9.0),
    "cosine, low": ud.Schedule.cosine(-9.0, -20.0),
    "karras, narrow": ud.Schedule.karras(0.5, 2.0),
    "polynomial, narrow": ud.Schedule.polynomial(1.0, 3.0, -3.0),
    "sigmoid, steep": ud.Schedule.sigmoid(-3.0, 3.0, tau=0.7),
    "ten betas": ud.Schedule.from_betas(torch.linspace(0.01, 0.6, 10, dtype=torch.float64)),
}


@pytest.mark.parametrize("world", WORLDS.values(), ids=list(WORLDS))
def test_what_probes_find_exactly_is_no_violation(world) -> None:
    # Rademacher probes are exact on a diagonal Jacobian: what is left there is rounding, and is no violation.
    for seed in range(3):
        assert ud.verify(world, only="hutchinson", seed=seed).exit_status == 0


@pytest.mark.parametrize(
    "world",
    [
        pytest.param(world, id=name, marks=[] if name == "one point" else pytest.mark.slow)
        for name, world in WORLDS.items()
    ],
)
def test_no_true_world_is_violated(world) -> None:
    assert [c for c in ud.verify(world).checks if c.verdict == "fail"] == []


@pytest.mark.parametrize(
    ("schedule", "world"), [("cosine, no ends", library.mixture_2d()), ("ten betas", library.mixture_8d())]
)
def test_no_true_schedule_is_violated_on_one_world(schedule: str, world) -> None:
    checks = ud.verify(ud.Diffusion(SCHEDULES[schedule], OracleDenoiser(world)), dtype="float64").checks
    assert [(c.identity, c.detail) for c in checks if c.verdict == "fail"] == []


@pytest.mark.slow
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=list(SCHEDULES))
def test_no_true_schedule_is_violated(schedule) -> None:
    checks = ud.verify(schedule, dtype="float64").checks
    assert [(c.identity, c.world, c.detail) for c in checks if c.verdict == "fail"] == []


def test_constant_variances_are_biased_on_gaussian_data_and_the_optimal_is_not() -> None:
    # Item 11 on N(0, 0.7²) at 100 steps of the cosine schedule, the chain's law carried exactly from N(0, 1).
    data = 0.49
    core = ud.Diffusion(ud.Schedule.cosine(20.0, -20.0), OracleDenoiser(Gaussian([0.0], [[data]])))
    one = torch.ones(1, 1, dtype=torch.float64)
    share = {}
    for rule in ("posterior", "prior", "optimal"):
        chain, var = core.chain(ud.TimeGrid.uniform(100), rule), 1.0
        for k in range(100, 0, -1):
            step = chain.step(one, k)
            var = float(step.mean) ** 2 * var + float(step.var.flatten()[0])
        share[rule] = var / data
    assert share["posterior"] < 0.95 < share["optimal"] < 1.0 + 1e-8 < 1.005 < share["prior"]
    assert share["optimal"] == pytest.approx(1.0, abs=1e-8)


def test_a_networks_core_is_judged_by_structure_alone() -> None:
    torch.manual_seed(0)
    core = ud.Diffusion(ud.Schedule.cosine(), ud.Denoiser(networks.MLP(3, width=8, depth=1), (3,), "v"))
    report = ud.verify(core)
    assert report.exit_status == 0
    assert {ud.identities.get(c.identity).subject for c in report.checks} == {"core"}
    with_world = ud.verify(core, world=library.gaussian(), only="tweedie")
    assert {c.verdict for c in with_world.checks} == {"gap"}


def test_a_denoiser_that_is_not_the_worlds_is_caught() -> None:
    class Biased(OracleDenoiser):
        def __call__(self, xt, level, condition=None, guidance=1.0):
            p = super().__call__(xt, level, condition, guidance)
            return ud.Prediction(xt, level, {"x0": p.x0 * (1 + 1e-6), "score": p.score}, guarded=False)

    core = ud.Diffusion(ud.Schedule.cosine(), Biased(library.gaussian()))
    from unidiff.identities.case import Case

    subject = Case(core, library.gaussian(), "gaussian", "cosine", torch.float64, torch.device("cpu"), 0)
    assert ud.identities.get("tweedie").check(subject).verdict == "fail"


def test_progress_is_told() -> None:
    seen: list[tuple[int, int]] = []
    report = ud.verify(library.gaussian(), only="tweedie", on_check=lambda c, done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]
    assert len(report.checks) == 2


def trained(folder, dtype: DType = "float32", data=None, **options) -> None:
    config = ud.train.TrainConfig(
        network="mlp", width=8, depth=1, steps=3, batch_size=16, out=str(folder), dtype=dtype, device="cpu", **options
    )
    if data is None:
        data = ud.train.load_data("moons", n=64, generator=torch.Generator().manual_seed(0), dtype=config.torch_dtype)
    ud.train.Trainer.start(config, data).fit()


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
def test_a_checkpoint_is_a_subject(tmp_path, dtype: DType) -> None:
    trained(tmp_path, dtype)
    report = ud.verify(checkpoint=tmp_path, only=["tweedie", "chain-mean"], dtype="float32")
    assert {c.identity: c.verdict for c in report.checks} == {"tweedie": "gap", "chain-mean": "pass"}
    assert "samples" in report.figures


def test_a_gap_is_measured_on_the_data_of_the_run_or_not_at_all(tmp_path) -> None:
    # They call themselves moons; they are other draws.
    other = ud.train.load_data("moons", n=64, generator=torch.Generator().manual_seed(5))
    trained(tmp_path, data=other)
    with pytest.warns(UserWarning, match="not asked: tweedie"):
        report = ud.verify(checkpoint=tmp_path, only=["tweedie", "chain-mean"], dtype="float32")
    assert {c.identity: c.verdict for c in report.checks} == {"chain-mean": "pass"}
    with pytest.raises(ValueError, match="no identity is left: for a checkpoint .* got tweedie"):
        ud.verify(checkpoint=tmp_path, only="tweedie")


def test_nothing_checked_is_no_pass() -> None:
    network = ud.Diffusion(ud.Schedule.cosine(), ud.Denoiser(networks.MLP(2, 8, 1), (2,)))
    with pytest.raises(ValueError, match="no identity is left: for a network without world="):
        ud.verify(network, only="tweedie")
    with pytest.raises(ValueError, match="nothing was checked: .* betas-left-slope"):
        ud.verify(library.gaussian(), only="betas-left-slope")


def test_a_world_is_that_of_a_network() -> None:
    network = ud.Diffusion(ud.Schedule.cosine(), ud.Denoiser(networks.MLP(2, 8, 1), (2,)))
    with pytest.raises(ValueError, match=r"world must have the core's shape \[2\], got 8 numbers"):
        ud.verify(network, world=library.mixture_8d(), only="tweedie")
    exact = ud.Diffusion(ud.Schedule.cosine(), OracleDenoiser(library.gaussian()))
    with pytest.raises(ValueError, match="world is for a network's core"):
        ud.verify(exact, world=library.mixture_2d(), only="tweedie")


def test_whatever_a_subject_raises_is_a_violation() -> None:
    class Broken(torch.nn.Module):
        def forward(self, *arguments):
            raise IndexError("list index out of range")

    core = ud.Diffusion(ud.Schedule.cosine(), ud.Denoiser(Broken(), (2,)))
    report = ud.verify(core, only="chain-mean", dtype="float64")
    assert [c.verdict for c in report.checks] == ["fail"]
    assert report.checks[0].detail.startswith("IndexError")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": "tweedi"}, "unknown identity 'tweedi'; did you mean 'tweedie'"),
        ({"view": "termo"}, "unknown view 'termo'; did you mean 'thermo'"),
        ({"dtype": "float16"}, "unknown dtype 'float16'"),
        ({"device": "cuad"}, "device must be cpu, cuda or cuda:N"),
        ({"seed": -1}, r"seed must be an integer in 0 … 2\^63 - 1, got -1"),
        ({"workers": 0}, "workers must be an integer of at least 1"),
        ({"only": "tweedie", "view": "paths"}, "no identity is left"),
        ({"checkpoint": "nowhere.safetensors"}, "nowhere.safetensors: no such checkpoint"),
    ],
)
def test_bad_requests_are_refused_before_any_work(options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ud.verify(**options)


def test_a_subject_of_another_kind_is_refused() -> None:
    with pytest.raises(TypeError, match="subject must be a Diffusion, a World or a Schedule, got int"):
        ud.verify(3)  # pyright: ignore
    with pytest.raises(ValueError, match="a subject or a checkpoint, not both"):
        ud.verify(library.gaussian(), checkpoint="x")


@pytest.mark.gpu
def test_a_quick_run_holds_on_a_gpu() -> None:
    report = ud.verify(quick=True, device="cuda")
    bad = [
        (c.identity, c.world, c.schedule, c.dtype, c.detail)
        for c in report.checks
        if c.verdict in ("fail", "inconclusive")
    ]
    assert bad == []


def test_what_was_named_and_says_nothing_is_told() -> None:
    with pytest.warns(UserWarning, match="say nothing, and were not asked: ends-set-the-bound"):
        report = ud.verify(ud.worlds.library.gaussian(), only=["tweedie", "ends-set-the-bound"], dtype="float64")
    assert {check.identity for check in report.checks} == {"tweedie"}


@pytest.mark.parametrize("form", ["inner", "scalar"])
def test_a_gradient_field_of_ones_own_is_asked_under_its_own_schedule(form) -> None:
    torch.manual_seed(0)
    network = GradientField(MLP(2, 16, 2) if form == "inner" else MLP(2, 16, 2, outputs=1), form=form)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    core = ud.Diffusion(ud.Schedule.cosine(8.0, -8.0), ud.Denoiser(network, (2,), "x0", "edm"))
    names = ["gradient-field-energy", "gradient-field-symmetric"]
    report = ud.verify(core, world=ud.worlds.library.mixture_2d(), only=names)
    assert [check.verdict for check in report.checks] == ["pass"] * 4
