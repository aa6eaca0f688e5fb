"""Every view reads a diffusers UNet: unconditional, of classes, of prompts."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import gymnasium
import pytest
import torch

import unidiff as ud
from tests.interop.peers import T, embeddings, need, scheduler, seeded, text_unet, unet
from unidiff.core.tables import METHODS

need("diffusers")
GRID = ud.TimeGrid(torch.tensor([1, 20, 51, 100], dtype=torch.float64) / T)


def plain() -> ud.Diffusion:
    return ud.interop.diffusers.core(unet(), scheduler())


def classes() -> ud.Diffusion:
    return ud.interop.diffusers.core(unet(num_class_embeds=4), scheduler(prediction_type="sample"), num_classes=3)


def prompts() -> ud.Diffusion:
    table = embeddings()
    sched = scheduler(prediction_type="v_prediction")
    return ud.interop.diffusers.core(text_unet(), sched, prompts=table[:3], null=table[3])


CORES = pytest.mark.parametrize("make", [plain, classes, prompts])
X = 0.5 * torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def labels(core: ud.Diffusion) -> torch.Tensor | None:
    return None if getattr(core.denoiser, "num_classes", None) is None else torch.tensor([0, 2, 1])


@CORES
def test_the_score_view(make: Callable[[], ud.Diffusion]) -> None:
    core = make()
    model, given = ud.ScoreModel(core), labels(core)
    score = model.score(X, 0.4, condition=given)
    level = core.schedule.level(0.4, X)
    torch.testing.assert_close(level.sigma**2 * score, level.alpha * model.denoise(X, 0.4, condition=given) - X)
    assert model.covariance(X, 0.4, condition=given).shape == (3, 16, 16)
    told = model.likelihood(X, steps=4, first=0.05, solver="heun", estimate=False, condition=given)
    assert torch.isfinite(told.log_prob).all()
    implicit = model.loss(X, "implicit", torch.full((3,), 0.4), condition=given)
    assert torch.isfinite(implicit).all()


@CORES
def test_the_vae_view(make: Callable[[], ud.Diffusion]) -> None:
    core = make()
    vae, given = ud.HierarchicalVAE(core), labels(core)
    bound = vae.elbo(X, GRID, condition=given, generator=seeded())
    assert bound.diffusion.shape == (3, 3)
    assert (bound.diffusion >= 0).all()
    limit = vae.continuous_elbo(X, first=0.01, draws=2, repeats=2, condition=given, generator=seeded())
    assert torch.isfinite(limit.total).all()


@CORES
@pytest.mark.parametrize("method", METHODS)
def test_every_sampler(method: Any, make: Callable[[], ud.Diffusion]) -> None:
    core = make()
    given = labels(core)
    guidance = 1.0 if given is None else 2.0
    options: dict[str, Any] = {"grid": GRID, "condition": given, "guidance": guidance}
    once, again = (ud.sample(core, 3, method=method, generator=seeded(), **options) for _ in range(2))
    assert once.shape == (3, 1, 4, 4)
    assert torch.equal(once, again)


def test_an_ordinary_unet_has_no_energy_and_the_view_says_so() -> None:
    with pytest.raises((TypeError, ValueError), match="GradientField"):
        ud.EnergyModel(plain()).energy(X, 0.4)


@CORES
def test_the_policy_and_its_environment(make: Callable[[], ud.Diffusion]) -> None:
    core = make()
    given = labels(core)
    mdp = ud.rl.DenoisingMDP(core.chain(GRID), lambda x0: x0.flatten(1).mean(1), beta=0.1)
    walk = ud.rl.Policy(mdp, core).walk(3, seeded(), given)
    assert walk.kl.abs().max() < 1e-8  # the policy is its own reference
    told: dict[str, Any] = {} if given is None else {"condition": 1}
    reward = lambda x0: x0.flatten(1).mean(1)  # noqa: E731
    env: Any = gymnasium.make(ud.rl.ID, core=core, grid=GRID, reward=reward, **told).unwrapped
    env.reset(seed=0)
    ended, steps = False, 0
    while not ended:
        _, _, ended, _, _ = env.step(env.action_space.sample())
        steps += 1
    assert steps == GRID.steps


def test_the_thermodynamic_view() -> None:
    thermo = ud.Thermodynamics(plain())
    for told in (
        thermo.entropy_production(0.5, X, draws=16, generator=seeded()),
        thermo.fisher_information(0.5, X, draws=16, generator=seeded()),
    ):
        assert torch.isfinite(told.value)


def test_search_path() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ud.paths.RankWarning)
        grid = ud.search_path(plain(), X.repeat(3, 1, 1, 1), steps=3, candidates=ud.TimeGrid.uniform(10, first=0.01))
    assert grid.steps == 3


STRUCTURAL = ["conversions-define", "conversions-round-trip", "vp-ve", "ancestral-is-chain", "chain-mean"]


def test_what_holds_for_any_core_holds_for_a_unet() -> None:
    report = ud.verify(plain(), only=STRUCTURAL, dtype="float64")
    assert report.exit_status == 0
    assert sorted(check.identity for check in report.checks) == sorted(STRUCTURAL)


def test_what_holds_for_a_schedule_holds_for_a_schedulers() -> None:
    own = ud.interop.diffusers.schedule(scheduler())
    names = ["log-snr-decreases", "log-snr-inverse", "log-snr-derivative", "ddpm-closed-form", "bayes-posterior"]
    assert ud.verify(own, only=names, dtype="float64").exit_status == 0
