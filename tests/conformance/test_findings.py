"""What the suite says of other libraries, confirmed: each violation by a derivation in float64 that shares nothing with it.

``CONFIRMED`` is the whole of what is accused; the slow tests run the suites and compare. A version in which a fault is
mended makes the derivation fail, and the accusation must then be gone.
"""

from __future__ import annotations

import math
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.interop.peers import need
from unidiff.conformance import conformance
from unidiff.conformance.azula import SCHEDULES
from unidiff.conformance.checks import Schedules
from unidiff.conformance.tables import azula_table

CONFIRMED = {
    "diffusers": {
        ("diffusers.DDPMScheduler", "schedule"): "laplace",
        ("diffusers.DDPMScheduler", "variance"): "fixed_large_log, and the last step of fixed_large",
        ("diffusers.DDPMScheduler", "order"): "fixed_large_log",
        ("diffusers.DDIMScheduler", "point"): "the stride",
        ("diffusers.DDIMScheduler", "variance"): "the stride",
        ("diffusers.DDIMScheduler", "order"): "the stride",
        ("diffusers.PNDMScheduler", "point"): "the stride, and v",
        ("diffusers.PNDMScheduler", "order"): "the stride, and v",
        ("diffusers.UniPCMultistepScheduler", "point"): "bh1",
    },
    "azula": {("azula.REABSampler", "order"): "σ_t for σ_s"},
    "k-diffusion": {},
}
STRIDES = (("linspace", 10), ("trailing", 3))
"""Spacings and steps with which T//N is not the distance of the timesteps listed, T = 1000."""


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("library", CONFIRMED)
def test_nothing_is_accused_but_what_is_confirmed_here(library) -> None:
    need(library.replace("-", "_"))
    report = conformance(library, workers=2)
    accused = {(c.target, c.identity) for c in report.checks if c.verdict == "fail"}
    assert accused == set(CONFIRMED[library])
    assert not [c for c in report.checks if c.verdict == "inconclusive"]
    for check in report.checks:
        if check.verdict != "fail":
            continue
        told = check.schedule
        if check.target == "diffusers.DDIMScheduler":
            assert "linspace" in told or ("trailing" in told and check.identity != "order")
        if check.target == "diffusers.PNDMScheduler":
            assert "linspace" in told or "v_prediction" in told or ("trailing" in told and check.identity == "point")
        if check.identity == "variance" and check.target == "diffusers.DDPMScheduler":
            assert "fixed_large_log" in told or told == "epsilon, trailing, variance_type fixed_large"
        if check.identity == "schedule":
            assert told == "laplace"
        if check.target == "diffusers.UniPCMultistepScheduler":
            assert "bh1" in told


def wide(scheduler):
    """The scheduler with its tables in float64."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    scheduler.betas, scheduler.alphas = betas, 1 - betas
    scheduler.alphas_cumprod = torch.cumprod(1 - betas, 0)
    scheduler.one = scheduler.final_alpha_cumprod = torch.ones((), dtype=torch.float64)
    return scheduler


@pytest.mark.parametrize(("spacing", "steps"), STRIDES)
@pytest.mark.parametrize("name", ["DDIMScheduler", "PNDMScheduler"])
def test_ddim_and_plms_step_by_t_over_n_whatever_their_list_says(name, spacing, steps) -> None:
    diffusers = need("diffusers")
    options = {"clip_sample": False} if name == "DDIMScheduler" else {"skip_prk_steps": True, "set_alpha_to_one": True}
    scheduler = wide(getattr(diffusers, name)(timestep_spacing=spacing, **options))
    scheduler.set_timesteps(steps)
    times = list(dict.fromkeys(scheduler.timesteps.tolist()))
    k = next(k for k in range(1, steps) if times[k - 1] - times[k] != 1000 // steps)
    x, eps = torch.tensor([[1.3]], dtype=torch.float64), torch.tensor([[-0.4]], dtype=torch.float64)
    if name == "PNDMScheduler":
        scheduler.ets, scheduler.counter = [eps] * 3, 4  # past its first steps, on a constant ε̂, where PLMS is DDIM
    got = scheduler.step(eps, times[k - 1], x).prev_sample

    def to(n: int) -> torch.Tensor:
        now, then = scheduler.alphas_cumprod[times[k - 1]], scheduler.alphas_cumprod[n]
        return (then / now).sqrt() * (x - (1 - now).sqrt() * eps) + (1 - then).sqrt() * eps  # Song et al. 2021, eq. 12

    assert torch.allclose(got, to(times[k - 1] - 1000 // steps), rtol=1e-10)
    assert (got - to(times[k])).abs().item() > 1e-4
    found = conformance(f"diffusers.{name}", only=["point"]).checks
    accused = [c for c in found if c.verdict == "fail" and spacing in c.schedule]
    assert accused
    assert not [c for c in found if c.verdict == "fail" and "epsilon, leading" in c.schedule]


def test_plms_means_vs_of_different_times_before_it_converts_them() -> None:
    scheduler = wide(need("diffusers").PNDMScheduler(prediction_type="v_prediction", skip_prk_steps=True))
    scheduler.set_timesteps(2)
    t, s = scheduler.timesteps[0], scheduler.timesteps[1]
    alpha, sigma = scheduler.alphas_cumprod.sqrt(), (1 - scheduler.alphas_cumprod).sqrt()
    x0, eps = torch.tensor([[1.0]], dtype=torch.float64), torch.tensor([[0.7]], dtype=torch.float64)
    x = alpha[t] * x0 + sigma[t] * eps
    first = scheduler.step(alpha[t] * eps - sigma[t] * x0, t, x).prev_sample
    assert torch.allclose(first, alpha[s] * x0 + sigma[s] * eps, rtol=1e-10)  # exact: one point, one ε
    got = scheduler.step(alpha[s] * eps - sigma[s] * x0, s, first).prev_sample
    # Heun's mean of both ε̂ would be ε, and the state the same. Its mean of both v̂, converted at t, is not ε:
    mean_v = 0.5 * (alpha[t] * eps - sigma[t] * x0 + alpha[s] * eps - sigma[s] * x0)
    converted = alpha[t] * mean_v + sigma[t] * x
    assert (converted - eps).abs().item() > 0.1
    then = (alpha[s] / alpha[t]) * (x - sigma[t] * converted) + sigma[s] * converted
    assert torch.allclose(got, then, rtol=1e-10)
    assert (got - first).abs().item() > 0.1
    found = {c.schedule: c.verdict for c in conformance("diffusers.PNDMScheduler", only=["point"]).checks}
    assert found["v_prediction, leading"] == "fail"
    assert found["epsilon, leading"] == "pass"


def test_fixed_large_log_takes_the_root_of_a_logarithm() -> None:
    diffusers = need("diffusers")
    scheduler = diffusers.DDPMScheduler(variance_type="fixed_large_log")
    scheduler.set_timesteps(10)
    t = scheduler.timesteps[3]
    kept = scheduler.alphas_cumprod[t] / scheduler.alphas_cumprod[scheduler.timesteps[4]]
    told = scheduler._get_variance(t)
    assert torch.allclose(told, (1 - kept).log(), rtol=1e-3)  # log β, below 0
    assert told < 0
    assert scheduler.step(torch.zeros(1, 2), t, torch.ones(1, 2)).prev_sample.isnan().all()
    found = conformance("diffusers.DDPMScheduler", only=["variance"]).checks
    assert {c.verdict for c in found if "fixed_large_log" in c.schedule} == {"fail"}
    assert {c.verdict for c in found if "variance_type" not in c.schedule} == {"pass"}


def test_fixed_large_draws_in_the_last_step_where_it_is_not_from_timestep_0() -> None:
    scheduler = wide(
        need("diffusers").DDPMScheduler(variance_type="fixed_large", timestep_spacing="trailing", clip_sample=False)
    )
    scheduler.set_timesteps(10)
    last = scheduler.timesteps[-1]
    assert int(last) == 99
    x, out = torch.zeros(200_000, dtype=torch.float64)[:, None], torch.zeros(200_000, 1, dtype=torch.float64)
    end = scheduler.step(out, last, x, generator=torch.Generator().manual_seed(0)).prev_sample
    # β of a step from ᾱ_99 to 1; a sample variance of 2e5 draws is within 1.6% of it but once in a million.
    assert math.isclose(float(end.var()), 1 - float(scheduler.alphas_cumprod[99]), rel_tol=0.016)
    found = {c.schedule: c for c in conformance("diffusers.DDPMScheduler", only=["variance"]).checks}
    assert "the last step" in found["epsilon, trailing, variance_type fixed_large"].detail
    assert found["epsilon, leading, variance_type fixed_large"].verdict == "pass"


def test_laplaces_alpha_bar_is_an_alpha() -> None:
    got = need("diffusers").DDPMScheduler(beta_schedule="laplace").alphas_cumprod.double()
    log_snr = [-0.5 * math.copysign(1, 0.5 - t) * math.log(1 - 2 * abs(0.5 - t) + 1e-6) for t in (0.0, 0.301)]
    bar = [1 / (1 + math.exp(-value)) for value in log_snr]
    assert math.isclose(float(got[300]), math.sqrt(bar[1] / bar[0]), rel_tol=1e-4)
    assert not math.isclose(float(got[300]), bar[1] / bar[0], rel_tol=0.1)
    found = {c.schedule: c.verdict for c in conformance("diffusers.DDPMScheduler", only=["schedule"]).checks}
    assert found == {"linear": "pass", "scaled_linear": "pass", "cosine": "pass", "laplace": "fail"}


def test_bh1_multiplies_infinity_by_zero_in_the_step_to_the_data() -> None:
    diffusers = need("diffusers")
    ends = {}
    for kind in ("bh1", "bh2"):
        scheduler = diffusers.UniPCMultistepScheduler(solver_type=kind)
        scheduler.set_timesteps(4)
        assert scheduler.sigmas[-1] == 0  # h = ∞; B(h) is h for bh1, e^h − 1 for bh2
        x = torch.ones(1, 2)
        for t in scheduler.timesteps:
            assert x.isfinite().all()
            x = scheduler.step(torch.zeros(1, 2), t, x).prev_sample
        ends[kind] = x
    assert ends["bh1"].isnan().all()
    assert ends["bh2"].isfinite().all()
    found = conformance("diffusers.UniPCMultistepScheduler", only=["point"]).checks
    assert {"bh1" in c.schedule for c in found if c.verdict == "fail"} == {True}


def stand_in(schedule, variance: float) -> Any:
    """What azula's samplers ask of a denoiser: the exact one of N(0, variance)."""

    class Denoiser:
        def __init__(self) -> None:
            self.schedule = schedule

        def __call__(self, x, t):
            a, s = schedule(t)
            return SimpleNamespace(mean=variance * a / (variance * a * a + s * s) * x)

    return Denoiser()


def reab(alpha, sigma, order: int, mend: bool):
    """azula's REAB on N(0, 1/2), written anew from its docstring; ``mend``: √(α_s² + σ_s²), else √(α_s² + σ_t²)."""
    u, x, kept = (sigma / alpha).log(), torch.ones((), dtype=torch.float64), []
    for i in range(len(alpha) - 1):
        a, s, b, r = alpha[i], sigma[i], alpha[i + 1], sigma[i + 1]
        norm = (a * a + s * s).sqrt()
        x0 = 0.5 * a / (0.5 * a * a + s * s) * x
        kept = [*kept, (a / norm**2 * x - x0) * norm / s][-order:]
        nodes = u[i + 1 - len(kept) : i + 1]
        v = torch.linspace(float(u[i]), float(u[i + 1]), 257, dtype=torch.float64)
        total = torch.zeros_like(x)
        for j, f in enumerate(kept):
            basis = torch.ones_like(v)
            for k in range(len(kept)):
                basis = basis if k == j else basis * (v - nodes[k]) / (nodes[j] - nodes[k])
            total = total + f * torch.trapezoid(v.exp() / (1 + (2 * v).exp()) * basis, v)
        last = b * b + (r * r if mend else s * s)
        x = ((b * b + r * r) / (a * a + s * s)).sqrt() * x + last.sqrt() * total
    return x


def test_reab_is_of_order_one_and_of_order_two_with_the_later_sigma() -> None:
    sample = need("azula.sample")
    schedule = need("azula.noise").VPSchedule()
    errors: dict[bool, list[float]] = {True: [], False: []}
    for steps in (32, 64, 128):
        times = torch.linspace(0.8, 0.3, steps + 1, dtype=torch.float64)
        alpha, sigma = schedule(times)
        std = (0.5 * alpha**2 + sigma**2).sqrt()
        for mend, found in errors.items():
            found.append(abs(float(reab(alpha, sigma, 2, mend) / (std[-1] / std[0])) - 1))
        sampler = sample.REABSampler(
            stand_in(schedule, 0.5), order=2, start=0.8, stop=0.3, steps=steps, silent=True, dtype=torch.float64
        )
        theirs = sampler(torch.ones(1, dtype=torch.float64))
        assert torch.allclose(theirs, reab(alpha, sigma, 2, False), rtol=1e-9)
    slopes = {mend: math.log2(found[0] / found[-1]) / 2 for mend, found in errors.items()}
    assert abs(slopes[False] - 1) < 0.2
    assert slopes[True] > 1.8


def test_azulas_eta_scales_the_variance_and_says_so() -> None:
    sample = need("azula.sample")
    schedule = need("azula.noise").VESchedule()
    x = torch.zeros(200_000, dtype=torch.float64)
    t, s = torch.tensor([0.8, 0.6], dtype=torch.float64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        end = sample.DDIMSampler(stand_in(schedule, 0.0), eta=0.5).step(x, t, s)
    (_, now), (_, then) = schedule(t), schedule(s)
    song = 0.25 * float(then**2 * (1 - then**2 / now**2))
    # 2e5 draws: within 1.6% but once in a million.
    assert math.isclose(float(end.var()), 2 * song, rel_tol=0.016)
    found = {c.schedule: c for c in conformance("azula.DDIMSampler", only=["variance"]).checks}
    assert found["VESchedule, eta 0.5"].verdict == "convention"
    assert found["VESchedule, eta 1"].verdict == "pass"


def test_azulas_schedules_are_what_their_docstrings_say() -> None:
    noise = need("azula.noise")
    found = conformance("azula", only=["schedule"]).checks
    assert [(c.target, c.verdict) for c in found] == [(f"azula.{kind}", "pass") for kind in SCHEDULES]
    for kind in SCHEDULES:
        schedule = getattr(noise, kind)()
        off = azula_table(kind, lambda t, schedule=schedule: (schedule(t)[0], schedule(t)[1] * (1 + 1e-6)))
        assert Schedules().check(off).verdict == "fail"


def test_versions_outside_the_tested_range_warn(monkeypatch) -> None:
    need("azula")
    from unidiff.conformance import azula

    monkeypatch.setattr(azula, "TESTED", ("0.1", "0.2"))
    with pytest.warns(UserWarning, match=r"was tested with azula >= 0.1 and < 0.2"):
        conformance("azula.EulerSampler", only=["levels"])


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", message="pkg_resources")
        yield
