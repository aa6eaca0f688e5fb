"""What cannot be a core, and what is no argument, is refused by name."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

import unidiff as ud
from tests.interop.peers import T, embeddings, need, scheduler, text_unet, unet

need("diffusers")


def core(*args: Any, **options: Any) -> ud.Diffusion:
    return ud.interop.diffusers.core(*args, **options)


def test_a_scheduler_that_has_no_alphas_says_which_attribute_it_lacks() -> None:
    flow = need("diffusers").FlowMatchEulerDiscreteScheduler()
    with pytest.raises(TypeError, match="scheduler must have alphas_cumprod, got FlowMatchEulerDiscreteScheduler"):
        ud.interop.diffusers.schedule(flow)
    with pytest.raises(TypeError, match="scheduler must have prediction_type, got FrozenDict"):
        core(unet(), flow)
    with pytest.raises(TypeError, match="scheduler must have timesteps, got SimpleNamespace"):
        ud.interop.diffusers.grid(SimpleNamespace(alphas_cumprod=torch.ones(3)))


def test_zero_snr_and_tables_that_do_not_fall() -> None:
    with pytest.raises(ValueError, match="got 0 at its last timestep"):
        ud.interop.diffusers.schedule(scheduler(rescale_betas_zero_snr=True))
    for table in ([0.9, 0.9], [1.0, 0.5], [0.5, -0.1], []):
        with pytest.raises(ValueError, match=r"alphas_cumprod must fall strictly within \(0, 1\)"):
            ud.interop.diffusers.schedule(SimpleNamespace(alphas_cumprod=torch.tensor(table)))


def test_predictions_variances_and_channels() -> None:
    with pytest.raises(ValueError, match=r"unknown scheduler.config.prediction_type 'flow'"):
        core(unet(), scheduler(prediction_type="flow"))
    with pytest.raises(ValueError, match="'learned_range', got 'learned'"):
        core(unet(learned=True), scheduler(variance_type="learned"))
    with pytest.raises(ValueError, match="unet must return its 1 channels"):
        core(unet(learned=True), scheduler())
    with pytest.raises(ValueError, match="unet must return twice its 1 channels"):
        core(unet(), scheduler(variance_type="learned_range"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"event_shape": (2, 4, 4)}, r"event_shape must be \[1, H, W\]"),
        ({"event_shape": (1, 4)}, r"event_shape must be \[1, H, W\]"),
        ({"event_shape": 4}, "event_shape must be a tuple"),
        ({"num_classes": 3}, "num_classes must be left out"),
        ({"prompts": torch.zeros(1, 2, 6)}, "prompts must be left out"),
        ({"null": torch.zeros(2, 6)}, "null must be left out"),
    ],
)
def test_options_of_a_plain_unet(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        core(unet(), scheduler(), **options)


def test_a_size_that_is_not_told_is_asked_for() -> None:
    model = unet(size=None)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="event_shape must be given"):
        core(model, scheduler())
    assert core(model, scheduler(), event_shape=(1, 8, 6)).event_shape == (1, 8, 6)
    assert core(unet(size=(4, 6)), scheduler()).event_shape == (1, 4, 6)  # pyright: ignore[reportArgumentType]


def test_labels() -> None:
    with pytest.raises(ValueError, match="num_classes must be 4, or 3"):
        core(unet(num_class_embeds=4), scheduler(), num_classes=2)
    with pytest.raises(ValueError, match="class_embed_type must be None for a core, got 'timestep'"):
        core(unet(class_embed_type="timestep"), scheduler())
    with pytest.raises(TypeError, match="unet must be a Module"):
        core(lambda x, t: x, scheduler())


def test_prompts() -> None:
    table, model = embeddings(), text_unet()
    for options, message in (
        ({}, "prompts must be given"),
        ({"prompts": table}, "null must be given"),
        ({"prompts": table[0], "null": table[0]}, r"prompts must have shape \[K, L, 6\], got \[2, 6\]"),
        ({"prompts": table[:, :, :4], "null": table[0, :, :4]}, r"prompts must have shape \[K, L, 6\]"),
        ({"prompts": table, "null": table[0, :1]}, r"null must have shape \[2, 6\], as one of prompts, got \[1, 6\]"),
        ({"prompts": table * torch.nan, "null": table[0]}, "prompts must be finite"),
        ({"prompts": table, "null": table[0], "num_classes": 2}, "num_classes must be left out"),
    ):
        with pytest.raises(ValueError, match=message):
            core(model, scheduler(), **options)
    for name, value in (("num_class_embeds", 3), ("addition_embed_type", "text_time")):
        more = {"addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 8} if "add" in name else {}
        with pytest.raises(ValueError, match=f"unet.config.{name} must be"):
            core(text_unet(**{name: value}, **more), scheduler(), prompts=table, null=table[0])


def test_timesteps_that_are_no_grid() -> None:
    sched = scheduler()
    for steps in ([3, 3, 1], [1, 2], [T, 0], [5, -1], []):
        sched.timesteps = torch.tensor(steps)
        with pytest.raises(ValueError, match=f"timesteps must fall strictly within {T - 1} … 0"):
            ud.interop.diffusers.grid(sched)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' own business
@pytest.mark.parametrize("kind", ["PNDMScheduler", "HeunDiscreteScheduler"])
def test_timesteps_that_repeat_are_told(kind: str) -> None:
    sched = scheduler(kind)
    sched.set_timesteps(5)
    with pytest.raises(ValueError, match="which repeat: more than one call a step"):
        ud.interop.diffusers.grid(sched)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' own business
def test_schedulers_of_other_conventions() -> None:
    with pytest.raises(
        ValueError, match="scheduler.config.timestep_type must be None or 'discrete' for a core, got 'con"
    ):
        core(unet(), scheduler("EulerDiscreteScheduler", timestep_type="continuous", prediction_type="v_prediction"))
    for kind in ("EulerDiscreteScheduler", "UniPCMultistepScheduler"):
        with pytest.raises(ValueError, match=r"above zero, got .* for zero SNR \(rescale_betas_zero_snr=True\)"):
            core(unet(), scheduler(kind, rescale_betas_zero_snr=True))
    for kind in ("UniPCMultistepScheduler", "DPMSolverMultistepScheduler", "DEISMultistepScheduler"):
        flow = scheduler(kind, use_flow_sigmas=True)
        flow.set_timesteps(5)
        for read in (ud.interop.diffusers.schedule, ud.interop.diffusers.grid, lambda own: core(unet(), own)):
            with pytest.raises(ValueError, match=f"use_flow_sigmas must be False, got True: {kind}"):
                read(flow)


def test_models_of_other_conventions() -> None:
    table = embeddings()
    text: Any = {"prompts": table[:3], "null": table[3]}
    for kind in ("learned", "fourier"):
        model = unet(time_embedding_type=kind, num_train_timesteps=T)
        with pytest.raises(
            ValueError, match=f"unet.config.time_embedding_type must be None or 'positional'.* got '{kind}'"
        ):
            core(model, scheduler())
    with pytest.raises(ValueError, match="unet.config.time_cond_proj_dim must be None for a core, got 4"):
        core(text_unet(time_cond_proj_dim=4), scheduler(), **text)
    with pytest.raises(ValueError, match="addition_embed_type_num_heads must divide .*, 6, got 4"):
        core(text_unet(addition_embed_type="text", addition_embed_type_num_heads=4), scheduler(), **text)
    pooled = core(text_unet(addition_embed_type="text", addition_embed_type_num_heads=3), scheduler(), **text)
    assert pooled.predict(torch.ones(1, 1, 4, 4), 0.5, torch.tensor([1])).eps.shape == (1, 1, 4, 4)
    transformer = need("diffusers").DiTTransformer2DModel(
        num_attention_heads=1, attention_head_dim=8, in_channels=1, num_layers=1, sample_size=4, num_embeds_ada_norm=10
    )
    with pytest.raises(
        TypeError, match="unet must be a UNet2DModel or UNet2DConditionModel, got DiTTransformer2DModel"
    ):
        core(transformer, scheduler())


def test_num_classes_that_is_no_number() -> None:
    with pytest.raises(ValueError, match="num_classes must be an integer of at least 1, got '3'"):
        core(unet(num_class_embeds=4), scheduler(), num_classes="3")


def test_dropout_that_is_on_warns() -> None:
    model = unet(dropout=0.1).train()
    with pytest.warns(UserWarning, match=r"unet is in training mode and drops with p = 0.1 in .*\.eval\(\)") as told:
        core(model, scheduler())
    assert len(told) == 1
    core(model.eval(), scheduler())
    core(unet().train(), scheduler())


def test_a_network_of_timesteps_needs_levels_that_it_is_told_of() -> None:
    from unidiff.interop.timesteps import TimestepNetwork

    with pytest.raises(ValueError, match="at least two timesteps, got 1"):
        TimestepNetwork(torch.nn.Identity(), ud.Schedule.from_betas([0.5]))  # pyright: ignore
    with pytest.raises(ValueError, match="within ±30 at its timesteps"):
        TimestepNetwork(torch.nn.Identity(), ud.Schedule.from_betas([1e-14, 0.5]))  # pyright: ignore
    with pytest.raises(TypeError, match="schedule must be a FromBetas"):
        TimestepNetwork(torch.nn.Identity(), ud.Schedule.cosine())  # pyright: ignore
