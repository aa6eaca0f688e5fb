"""azula's denoisers as cores, cores as azula's denoisers, and azula's schedules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import unidiff as ud
from tests.interop.peers import DTYPES, need, seeded
from unidiff.core.tables import METHODS

denoise: Any = need("azula.denoise")
noise: Any = need("azula.noise")
SCHEDULES = {
    "VESchedule": {"sigma_min": 0.01, "sigma_max": 20.0},
    "VPSchedule": {"alpha_min": 0.01},
    "CosineSchedule": {"alpha_min": 0.01},
    "RectifiedSchedule": {"sigma_min": 0.01},
    "DecaySchedule": {"sigma_min": 0.01},
}
ALL = pytest.mark.parametrize("name", SCHEDULES)
GRID = ud.TimeGrid(torch.tensor([0.05, 0.3, 0.6, 1.0], dtype=torch.float64))


def theirs(name: str) -> Any:
    return getattr(noise, name)(**SCHEDULES[name])


class Backbone(nn.Module):
    """b(x, c) of a state and log σ/α, with labels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 16), nn.SiLU(), nn.Linear(16, 3))
        self.labels = nn.Embedding(5, 3)

    def forward(self, x: Tensor, c: Tensor, label: Tensor | None = None) -> Tensor:
        out = self.net(torch.cat([x, c.expand(len(x))[:, None]], 1))
        return out if label is None else out + self.labels(label)


@ALL
def test_a_schedule_is_theirs_and_obeys_what_every_schedule_does(name: str) -> None:
    own, t = ud.interop.azula.schedule(theirs(name)), torch.linspace(0, 1, 41, dtype=torch.float64)
    alpha, sigma = theirs(name)(t)
    torch.testing.assert_close(own.log_snr(t), 2 * (alpha / sigma).log(), rtol=1e-12, atol=1e-12)
    assert own.variance_preserving is (name != "VESchedule")
    torch.testing.assert_close(own.time(own.log_snr(t)), t, rtol=0, atol=1e-12)
    names = ["log-snr-decreases", "log-snr-derivative", "forward-sde", "bayes-posterior"]
    # Their σ² = 1 − α² + σ_min² cancels near the data: too few digits for the inverse's tolerance, 1.4e-14.
    names += [] if name in ("VPSchedule", "CosineSchedule") else ["log-snr-inverse"]
    assert ud.verify(own, only=names, dtype="float64").exit_status == 0


@ALL
def test_the_inverse_is_differentiable(name: str) -> None:
    own = ud.interop.azula.schedule(theirs(name))
    log_snr = own.log_snr(torch.tensor([0.2, 0.7], dtype=torch.float64)).requires_grad_()
    (slope,) = torch.autograd.grad(own.time(log_snr).sum(), log_snr)
    torch.testing.assert_close(slope, 1 / own.log_snr_derivative(torch.tensor([0.2, 0.7], dtype=torch.float64)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["SimpleDenoiser", "KarrasDenoiser"])
@ALL
def test_a_core_says_what_the_denoiser_says(name: str, kind: str, dtype: torch.dtype) -> None:
    denoiser = getattr(denoise, kind)(Backbone(), theirs(name)).to(dtype)
    core = ud.interop.azula.core(denoiser, (3,))
    x0, e = torch.randn(2, 5, 3, generator=seeded(), dtype=torch.float64).to(dtype)
    for t in (torch.tensor(0.4, dtype=dtype), torch.linspace(0.05, 1, 5, dtype=dtype)):
        alpha, sigma = (v[..., None] if v.ndim else v for v in theirs(name)(t))
        xt = alpha * x0 + sigma * e
        with torch.no_grad():
            expected = denoiser(xt, t).mean
        level = core.schedule.level(t.double(), xt)
        own = level.alpha[..., None] * x0 + level.sigma[..., None] * e
        gap = ((core.predict(own, t.double()).x0 - expected).abs().max() / expected.abs().max().clamp(min=1)).item()
        assert gap <= DTYPES[dtype]


def test_every_reading_of_such_a_core() -> None:
    core = ud.interop.azula.core(denoise.KarrasDenoiser(Backbone(), theirs("RectifiedSchedule")).double(), (3,))
    x = 0.5 * torch.randn(4, 3, generator=seeded(), dtype=torch.float64)
    assert (ud.HierarchicalVAE(core).elbo(x, GRID, generator=seeded()).diffusion >= 0).all()
    assert torch.isfinite(ud.ScoreModel(core).likelihood(x, steps=8, solver="heun", estimate=False).log_prob).all()
    for method in METHODS:
        assert ud.sample(core, 2, steps=4, method=method, generator=seeded(), dtype=torch.float64).shape == (2, 3)
    assert ud.search_path(core, x.repeat(4, 1), steps=2, candidates=GRID).steps == 2


def test_labels_go_by_their_keyword() -> None:
    denoiser = denoise.SimpleDenoiser(Backbone(), theirs("VPSchedule")).double()
    core = ud.interop.azula.core(denoiser, (3,), num_classes=4)
    x, label = torch.ones(2, 3, dtype=torch.float64), torch.tensor([0, 3])
    none = torch.tensor([4, 4])
    free, given = core.predict(x, 0.5).x0, core.predict(x, 0.5, label).x0
    shift = denoiser.backbone.labels(label) - denoiser.backbone.labels(none)
    torch.testing.assert_close(given - free, shift)
    torch.testing.assert_close(core.predict(x, 0.5, label, 3.0).x0 - free, 3 * shift)


def test_a_core_is_azulas_denoiser_and_its_samplers_sample_it() -> None:
    world = ud.worlds.library.mixture_2d()
    core = ud.Diffusion(ud.Schedule.cosine(8.0, -8.0), ud.worlds.OracleDenoiser(world))
    denoiser = ud.interop.azula.denoiser(core)
    x, t = (
        torch.randn(3, 2, generator=seeded(), dtype=torch.float64),
        torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64),
    )
    assert torch.equal(denoiser(x, t).mean, core.predict(x, t).x0)
    alpha, sigma = denoiser.schedule(t)
    assert torch.equal(alpha, core.schedule.alpha(t))
    assert torch.equal(sigma, core.schedule.sigma(t))
    start = torch.randn(64, 2, generator=seeded(), dtype=torch.float64)
    sampler = need("azula.sample").DDIMSampler(denoiser, steps=16, silent=True)
    ours = ud.Sampler(core, ud.TimeGrid.uniform(16), "ddim")(start)
    # Their times are float32's.
    torch.testing.assert_close(sampler(start), ours, rtol=1e-4, atol=1e-4)


def test_there_and_back_again() -> None:
    first = denoise.KarrasDenoiser(Backbone(), theirs("VPSchedule")).double()
    core = ud.interop.azula.core(first, (3,))
    again = ud.interop.azula.core(ud.interop.azula.denoiser(core), (3,))
    x = torch.randn(4, 3, generator=seeded(), dtype=torch.float64)
    torch.testing.assert_close(again.predict(x, 0.4).x0, core.predict(x, 0.4).x0, rtol=1e-10, atol=1e-10)


def test_what_is_none_of_theirs_is_refused() -> None:
    class Flat(noise.Schedule):
        def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
            return torch.ones_like(t), torch.ones_like(t)

    class Zero(noise.Schedule):
        def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
            return 1 - t, t

    denoiser = denoise.SimpleDenoiser(Backbone(), theirs("VPSchedule"))
    with pytest.raises(ValueError, match="alpha/sigma that falls strictly, got one that does not from t = 0"):
        ud.interop.azula.schedule(Flat())
    with pytest.raises(ValueError, match="finite and positive alpha"):
        ud.interop.azula.schedule(Zero())
    with pytest.raises(TypeError, match="schedule must be an azula Schedule, got Cosine"):
        ud.interop.azula.schedule(ud.Schedule.cosine())
    with pytest.raises(TypeError, match="denoiser must be an azula Denoiser, got Backbone"):
        ud.interop.azula.core(Backbone(), (3,))
    with pytest.raises(ValueError, match="event_shape must be a tuple"):
        ud.interop.azula.core(denoiser, 3)  # pyright: ignore
    with pytest.raises(ValueError, match="num_classes must be an integer of at least 1"):
        ud.interop.azula.core(denoiser, (3,), num_classes=0)
    with pytest.raises(TypeError, match="keyword must be a str"):
        ud.interop.azula.core(denoiser, (3,), keyword=3)  # pyright: ignore
    with pytest.raises(TypeError, match="core must be a Diffusion"):
        ud.interop.azula.denoiser(denoiser)
    with pytest.raises(ValueError, match="to be saved"):
        ud.interop.azula.schedule(theirs("VPSchedule")).config()
    with pytest.raises(ValueError, match="config must be of a schedule of unidiff's"):
        ud.Schedule.from_config({"kind": "foreign"})


def test_dropout_that_is_on_warns() -> None:
    backbone = Backbone()
    backbone.net.append(nn.Dropout(0.2))
    denoiser = denoise.SimpleDenoiser(backbone, theirs("VPSchedule"))
    with pytest.warns(UserWarning, match="denoiser is in training mode and drops with p = 0.2 in backbone.net.3"):
        ud.interop.azula.core(denoiser, (3,))
    ud.interop.azula.core(denoiser.eval(), (3,))
