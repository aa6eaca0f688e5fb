"""A diffusers UNet as a core is the core that its user would write by hand, in every reading."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import unidiff as ud
from tests.interop.peers import DTYPES, Native, T, embeddings, in_float64, need, scheduler, seeded, text_unet, unet
from unidiff.core.tables import METHODS

need("diffusers")
GRID = ud.TimeGrid(torch.tensor([1, 4, 20, 51, 100], dtype=torch.float64) / T)  # timesteps 0, 3, 19, 50, 99


def pair(prediction: str = "epsilon", dtype: torch.dtype = torch.float64, **options: Any) -> tuple[Any, Any]:
    """The adapter's core, and one by hand, of the same weights."""
    model, sched = unet(**options), scheduler(prediction_type=prediction)
    adapted = ud.interop.diffusers.core(model, sched).to(dtype)
    kind: Any = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}[prediction]
    schedule = ud.Schedule.from_betas(sched.betas.double())
    return adapted, ud.Diffusion(schedule, ud.Denoiser(Native(schedule, model), adapted.event_shape, kind))


def data(dtype: torch.dtype = torch.float64, n: int = 2) -> torch.Tensor:
    return 0.5 * torch.randn(n, 1, 4, 4, generator=seeded(1), dtype=torch.float64).to(dtype)


def near(a: torch.Tensor, b: torch.Tensor, bar: float) -> None:
    gap = ((a - b).abs().max() / b.abs().max().clamp(min=1)).item()
    assert gap <= bar, gap


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_samples_bounds_and_log_probabilities_are_the_native_ones(prediction, dtype) -> None:
    cores, bar = pair(prediction, dtype), DTYPES[dtype]
    x = data(dtype)
    for method in METHODS:
        drawn = [ud.sample(c, 2, method=method, grid=GRID, generator=seeded(), dtype=dtype) for c in cores]
        near(drawn[0], drawn[1], bar)
    bounds = [ud.HierarchicalVAE(c).elbo(x, GRID, generator=seeded()) for c in cores]
    for term in ("prior", "diffusion", "reconstruction"):
        near(getattr(bounds[0], term), getattr(bounds[1], term), bar)
    chains = [c.chain(GRID, "prior") for c in cores]
    for k in range(1, GRID.steps + 1):
        near(chains[0].step(x, k).log_prob(0.9 * x), chains[1].step(x, k).log_prob(0.9 * x), bar)
    flows = [ud.ScoreModel(c).likelihood(x, steps=4, first=0.05, solver="heun", estimate=False) for c in cores]
    near(flows[0].log_prob, flows[1].log_prob, bar)


def test_the_unet_is_asked_at_whole_timesteps_at_the_nodes_and_between_them_between() -> None:
    asked = []
    model = unet()
    core = ud.interop.diffusers.core(model, scheduler())
    model.register_forward_pre_hook(lambda _, args: asked.append(args[1]))
    x = data(torch.float32)
    for n in range(T):
        core.predict(x, (n + 1) / T)
    assert torch.equal(torch.stack(asked), torch.arange(T).float()[:, None].expand(T, 2))
    asked.clear()
    core.predict(x, torch.tensor([0.305, 0.002]))
    torch.testing.assert_close(asked[0], torch.tensor([29.5, 0.0]), rtol=0, atol=2e-4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_a_thousand_timesteps_are_whole_in_either_dtype(beta_schedule, dtype) -> None:
    sched = scheduler(num_train_timesteps=1000, beta_schedule=beta_schedule, beta_end=0.02)
    core = ud.interop.diffusers.core(unet(), sched)
    own = core.schedule.log_snr(torch.arange(1, 1001, dtype=torch.float64) / 1000).to(dtype)
    network: Any = core.denoiser.network  # pyright: ignore[reportAttributeAccessIssue]
    assert torch.equal(network.timestep(own), torch.arange(1000, dtype=dtype))


def test_the_schedule_is_the_schedulers_own() -> None:
    sched = scheduler()
    t = torch.arange(1, T + 1, dtype=torch.float64) / T
    alpha2 = ud.interop.diffusers.schedule(sched).alpha(t) ** 2
    torch.testing.assert_close(alpha2, (1 - sched.betas.double()).cumprod(0), rtol=1e-13, atol=0)
    sched.alphas_cumprod = torch.linspace(0.99, 0.01, T, dtype=torch.float64)  # no longer that of its betas
    alpha2 = ud.interop.diffusers.schedule(sched).alpha(t) ** 2
    torch.testing.assert_close(alpha2, sched.alphas_cumprod, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "DDIMScheduler"])
def test_any_scheduler_of_the_same_betas_gives_the_same_core(kind) -> None:
    model, x = unet().double(), data()
    first, other = (ud.interop.diffusers.core(model, scheduler(k)) for k in ("DDPMScheduler", kind))
    near(first.predict(x, 0.3).x0, other.predict(x, 0.3).x0, 1e-12)


def test_a_learned_variance_is_diffusers_own() -> None:
    sched = in_float64(scheduler(variance_type="learned_range"))
    model = unet(learned=True).double()
    core, x, n = ud.interop.diffusers.core(model, sched), data(), 40
    step = core.chain(ud.TimeGrid.uniform(T), "learned").step(x, n + 1)
    with torch.no_grad():
        theirs = sched.step(model(x, n).sample, n, x, generator=seeded()).prev_sample
    near(step.mean + step.std * torch.randn(x.shape, generator=seeded(), dtype=x.dtype), theirs, 1e-10)
    with pytest.raises(ValueError, match="learned_variance=True"):
        ud.interop.diffusers.core(unet(), scheduler()).chain(GRID, "learned")


def test_classes_and_their_guidance() -> None:
    model, x = unet(num_class_embeds=4).double(), data()
    with_null = ud.interop.diffusers.core(model, scheduler(), num_classes=3)
    given, none = torch.tensor([0, 2]), torch.tensor([3, 3])
    with torch.no_grad():
        for labels, core_says in ((given, with_null.predict(x, 0.5, given).eps), (none, with_null.predict(x, 0.5).eps)):
            near(core_says, model(x, 49, class_labels=labels).sample, 1e-12)
        guided = with_null.predict(x, 0.5, given, 2.5).eps
        free, bound = (model(x, 49, class_labels=labels).sample for labels in (none, given))
    near(guided, free + 2.5 * (bound - free), 1e-12)
    all_classes = ud.interop.diffusers.core(model, scheduler())
    near(all_classes.predict(x, 0.5, none).eps, with_null.predict(x, 0.5).eps, 1e-12)
    refusals: tuple[dict[str, Any], ...] = (
        {},
        {"condition": given, "guidance": 2.0},
        {"condition": torch.tensor([4, 0])},
    )
    for refused in refusals:
        with pytest.raises(ValueError, match="condition must be a class, 0 … 3"):
            all_classes.predict(x, 0.5, **refused)


def test_prompts_are_conditions_and_the_empty_one_guides() -> None:
    model, x, table = text_unet().double(), data(), embeddings().double()
    core = ud.interop.diffusers.core(model, scheduler(prediction_type="v_prediction"), prompts=table[:3], null=table[3])
    which = torch.tensor([2, 0])
    with torch.no_grad():
        free, bound = (model(x, 49, encoder_hidden_states=table[w]).sample for w in (torch.tensor([3, 3]), which))
        near(core.predict(x, 0.5, which).v, bound, 1e-12)
        near(core.predict(x, 0.5).v, free, 1e-12)
        near(core.predict(x, 0.5, which, 3.0).v, free + 3.0 * (bound - free), 1e-12)
    assert not torch.allclose(free, bound)
    drawn = ud.sample(core, 2, grid=GRID, condition=which, guidance=3.0, generator=seeded(), dtype=torch.float64)
    other = ud.sample(
        core, 2, grid=GRID, condition=which.flip(0), guidance=3.0, generator=seeded(), dtype=torch.float64
    )
    assert not torch.allclose(drawn, other)


def test_gradients_move_the_unets_own_parameters() -> None:
    model = unet()
    core = ud.interop.diffusers.core(model, scheduler())
    t = torch.tensor([0.2, 0.8])
    ud.ScoreModel(core).loss(data(torch.float32), "denoising", t, generator=seeded()).sum().backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in model.parameters())
