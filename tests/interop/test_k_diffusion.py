"""Models in k-diffusion's convention as cores, and cores under its samplers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import unidiff as ud
from tests.interop.peers import DTYPES, need, seeded

WORLD = ud.worlds.library.mixture_2d()


def exact(schedule: ud.Schedule | None = None) -> ud.Diffusion:
    return ud.Diffusion(schedule or ud.Schedule.karras(0.02, 30.0), ud.worlds.OracleDenoiser(WORLD))


def denoised(x: Tensor, sigma: Tensor) -> Tensor:
    """E[x_0|x] of data N(0, 4 I), in closed form."""
    return x * (4 / (4 + sigma[:, None] ** 2))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_core_of_a_model_is_the_native_one(dtype: torch.dtype) -> None:
    core = ud.interop.k_diffusion.core(denoised, (2,), sigma_min=0.02, sigma_max=30.0)
    schedule = ud.Schedule.karras(0.02, 30.0)
    network = lambda x, log_snr, c: denoised(x, (-log_snr / 2).exp())  # noqa: E731
    native = ud.Diffusion(schedule, ud.Denoiser(network, (2,), "x0"))
    grid, x = ud.TimeGrid.uniform(6), torch.randn(4, 2, generator=seeded(), dtype=torch.float64).to(dtype)
    for method in ("ancestral", "ddim", "dpm++2m", "heun"):
        drawn = [ud.sample(c, 3, method=method, grid=grid, generator=seeded(), dtype=dtype) for c in (core, native)]
        torch.testing.assert_close(*drawn, rtol=DTYPES[dtype], atol=DTYPES[dtype])
    bounds = [ud.HierarchicalVAE(c).elbo(x, grid, generator=seeded()).total for c in (core, native)]
    torch.testing.assert_close(*bounds, rtol=DTYPES[dtype], atol=DTYPES[dtype])


def test_its_likelihood_is_the_gaussians() -> None:
    core = ud.interop.k_diffusion.core(denoised, (2,), sigma_min=1e-3, sigma_max=300.0)
    x = torch.randn(4, 2, generator=seeded(), dtype=torch.float64)
    law = torch.distributions.Normal(0.0, 2.0)
    torch.testing.assert_close(ud.ScoreModel(core).log_prob(x), law.log_prob(x).sum(1), rtol=0, atol=2e-3)


@pytest.mark.parametrize("schedule", [ud.Schedule.karras(0.02, 30.0), ud.Schedule.cosine(8.0, -7.0)])
def test_a_core_as_a_model_is_the_exact_denoiser(schedule: ud.Schedule) -> None:
    model = ud.interop.k_diffusion.model(exact(schedule))
    x, sigma = torch.randn(3, 2, generator=seeded(), dtype=torch.float64), torch.tensor([0.1, 1.0, 20.0]).double()
    one = torch.ones((), dtype=torch.float64)
    for i in range(3):
        expected = WORLD.posterior(x[i : i + 1], one, sigma[i]).mean
        torch.testing.assert_close(model(x, sigma)[i : i + 1], expected, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(model(x[i : i + 1], sigma[i]), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("schedule", [ud.Schedule.karras(0.02, 30.0), ud.Schedule.cosine(8.0, -7.0)])
def test_its_samplers_take_a_core(schedule: ud.Schedule) -> None:
    sampling = need("k_diffusion.sampling")
    core, model = exact(schedule), ud.interop.k_diffusion.model(exact(schedule))
    sigmas = sampling.get_sigmas_karras(12, model.sigma_min, model.sigma_max).double()
    start = torch.randn(16, 2, generator=seeded(), dtype=torch.float64)
    theirs = sampling.sample_euler(model, start * sigmas[0], sigmas[:-1], disable=True)
    ends = core.schedule.log_snr(torch.tensor([1.0, 0.0], dtype=torch.float64)).tolist()
    inner = core.schedule.time((-2 * sigmas[:-1].log()).flip(0).clamp(*ends))
    grid = ud.TimeGrid(torch.cat([inner[:-1], inner.new_ones(1)]))
    ours = ud.Sampler(core, grid, "ddim")(start * core.schedule.sigma(1.0))
    scale = core.schedule.alpha(grid.times[0])
    torch.testing.assert_close(scale * theirs, ours, rtol=1e-4, atol=1e-4)


def test_k_diffusions_wrapper_of_a_discrete_model_brings_its_own_ends() -> None:
    external = need("k_diffusion.external")
    alphas = (1 - torch.linspace(1e-3, 0.05, 60)).cumprod(0)
    wrapper = external.DiscreteEpsDDPMDenoiser(lambda x, n: 0.1 * x, alphas, quantize=False)
    core = ud.interop.k_diffusion.core(wrapper, (2,))
    assert core.schedule.prior_std == pytest.approx(float(wrapper.sigma_max))
    x = torch.randn(3, 2, generator=seeded())
    sigma = core.schedule.sigma(0.4).float()
    torch.testing.assert_close(core.predict(x, 0.4).x0, wrapper(x, sigma.expand(3)))


def test_labels_go_by_their_keyword() -> None:
    def model(x: Tensor, sigma: Tensor, class_cond: Tensor) -> Tensor:
        return torch.zeros_like(x) + class_cond[:, None]

    core = ud.interop.k_diffusion.core(model, (2,), sigma_min=0.1, sigma_max=10.0, num_classes=7)
    x, label = torch.ones(2, 2), torch.tensor([1, 3])
    assert core.predict(x, 0.5, label).x0[:, 0].tolist() == [1.0, 3.0]
    assert core.predict(x, 0.5, label, 2.0).x0[:, 0].tolist() == [-5.0, -1.0]  # 7 + 2(c − 7)
    back = ud.interop.k_diffusion.model(core)
    assert back(x, torch.tensor([1.0, 2.0]), condition=label, guidance=2.0)[:, 0].tolist() == [-5.0, -1.0]


@pytest.mark.parametrize(("output", "name"), [(None, "NoneType"), ((torch.ones(2, 2),), "tuple")])
def test_a_model_that_returns_no_tensor_is_told(output: Any, name: str) -> None:
    core = ud.interop.k_diffusion.core(lambda x, sigma: output, (2,), sigma_min=0.1, sigma_max=1.0)
    with pytest.raises(TypeError, match=f"model must return a Tensor, the denoised state, got {name}"):
        core.predict(torch.ones(2, 2), 0.5)


def test_dropout_that_is_on_warns() -> None:
    ends: Any = {"sigma_min": 0.1, "sigma_max": 1.0}
    dropping = torch.nn.Dropout(0.5)
    with pytest.warns(UserWarning, match="model is in training mode and drops with p = 0.5 in itself"):
        ud.interop.k_diffusion.core(dropping, (2,), **ends)
    ud.interop.k_diffusion.core(dropping.eval(), (2,), **ends)


@pytest.mark.parametrize("end", ["sigma_min", "sigma_max"])
@pytest.mark.parametrize("schedule", [ud.Schedule.karras(0.02, 30.1), ud.Schedule.karras(0.0201, 30.3)])
def test_an_end_rounded_to_float32_is_the_end(schedule: ud.Schedule, end: str) -> None:
    model = ud.interop.k_diffusion.model(exact(schedule))
    own, toward = getattr(model, end), {"sigma_min": 0.0, "sigma_max": float("inf")}[end]
    outer = torch.nextafter(torch.tensor(own), torch.tensor(toward))  # beyond by one float32 at most
    assert outer.item() < own if end == "sigma_min" else outer.item() > own
    x = torch.ones(2, 2, dtype=torch.float64)
    torch.testing.assert_close(model(x, outer), model(x, torch.tensor(own).double()), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="sigma must lie in"):
        model(x, outer * (1 - 1e-5 if end == "sigma_min" else 1 + 1e-5))


def test_refusals() -> None:
    k = ud.interop.k_diffusion
    model, x = k.model(exact()), torch.ones(2, 2, dtype=torch.float64)
    for arguments, error, message in (
        ((3, (2,)), TypeError, "model must be callable"),
        ((denoised, (2,)), ValueError, "sigma_min must be given"),
        ((denoised, (2,), 0.0, 1.0), ValueError, r"sigma_min must lie in \[1e-06, 1e\+06\], got 0"),
        ((denoised, (2,), 1.0, 1.0), ValueError, "sigma_max must exceed sigma_min"),
        ((denoised, (2,), "a", 1.0), TypeError, "sigma_min must be a number, got 'a'"),
        ((denoised, 2, 0.1, 1.0), ValueError, "event_shape must be a tuple"),
    ):
        names = dict(zip(("model", "event_shape", "sigma_min", "sigma_max"), arguments, strict=False))
        with pytest.raises(error, match=message):
            k.core(**names)  # pyright: ignore
    ends: Any = {"sigma_min": 0.1, "sigma_max": 1.0}
    with pytest.raises(ValueError, match="num_classes must be an integer"):
        k.core(denoised, (2,), num_classes=0, **ends)
    with pytest.raises(TypeError, match="keyword must be a str"):
        k.core(denoised, (2,), keyword=1, **ends)  # pyright: ignore
    with pytest.raises(TypeError, match="core must be a Diffusion"):
        k.model(denoised)  # pyright: ignore
    for sigma, error, message in (
        (torch.tensor([0.001, 1.0]), ValueError, r"sigma must lie in \[0.02, 30\], this core's"),
        (torch.tensor(31.0), ValueError, "sigma must lie in"),
        (torch.tensor([1.0, torch.nan]), ValueError, "sigma must lie in"),
        (torch.ones(3), ValueError, r"sigma must have shape \[2\] or \[\], got \[3\]"),
        (1.0, TypeError, "sigma must be a Tensor"),
    ):
        with pytest.raises(error, match=message):
            model(x, sigma)
    with pytest.raises(TypeError, match="extra_args must be condition and guidance, got 'y'"):
        model(x, torch.ones(2), y=3)
