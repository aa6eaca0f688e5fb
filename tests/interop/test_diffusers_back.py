"""A core's levels as a diffusers scheduler, and a saved pipeline's folder as a core."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import unidiff as ud
from tests.interop.peers import embeddings, need, scheduler, seeded, text_unet, unet

need("diffusers")


@pytest.mark.parametrize("kind", ["ddpm", "ddim"])
def test_there_and_back_is_the_same_scheduler(kind: Any) -> None:
    first = scheduler(prediction_type="v_prediction")
    core = ud.interop.diffusers.core(unet(), first)
    back = ud.interop.diffusers.scheduler(core, kind)
    assert type(back).__name__ == {"ddpm": "DDPMScheduler", "ddim": "DDIMScheduler"}[kind]
    assert torch.equal(back.betas, first.betas.double())
    assert back.config.prediction_type == "v_prediction"
    assert not back.config.clip_sample


def test_other_schedules_are_read_at_the_times_given() -> None:
    world = ud.worlds.OracleDenoiser(ud.worlds.library.mixture_2d())
    core = ud.Diffusion(ud.Schedule.cosine(), world)
    times = torch.linspace(0.02, 1.0, 50, dtype=torch.float64)
    back = ud.interop.diffusers.scheduler(core, times=times)
    assert back.config.num_train_timesteps == 50
    assert back.config.prediction_type == "epsilon"
    theirs = ud.interop.diffusers.schedule(back)
    own = torch.arange(1, 51, dtype=torch.float64) / 50
    torch.testing.assert_close(theirs.log_snr(own[:-1]), core.schedule.log_snr(times[:-1]), rtol=1e-5, atol=1e-5)


STEEP = ud.Diffusion(ud.Schedule.cosine(15.0, -20.0), ud.worlds.OracleDenoiser(ud.worlds.library.mixture_2d()))


@pytest.mark.parametrize("kind", ["ddpm", "ddim"])
@pytest.mark.parametrize("steps", [10, 20, 50, 200])
def test_its_levels_are_the_cores_at_every_timestep(kind: Any, steps: int) -> None:
    times = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        back = ud.interop.diffusers.scheduler(STEEP, kind, times=times)
    level = STEEP.schedule.level(times)
    torch.testing.assert_close(back.alphas_cumprod, level.alpha**2, rtol=1e-13, atol=0)
    torch.testing.assert_close(back.alphas.cumprod(0), back.alphas_cumprod, rtol=1e-12, atol=0)
    torch.testing.assert_close(1 - back.betas, back.alphas, rtol=1e-7, atol=0)  # of 1 − β no more is left
    x, e = torch.randn(2, 3, 2, generator=seeded(), dtype=torch.float64)
    noised = back.add_noise(x, e, torch.full((3,), steps - 1))
    torch.testing.assert_close(noised, level.alpha[-1] * x + level.sigma[-1] * e, rtol=1e-12, atol=1e-12)


def test_levels_that_a_config_cannot_hold_are_refused_or_told() -> None:
    for times, n, fall in (([1 / 3, 2 / 3, 1.0], 2, "8.25e-09"), ([0.1, 0.3, 1.0], 2, "2.6e-09")):
        with pytest.raises(ValueError, match=f"times must have betas below 1 in float32.* 1 - {fall} at timestep {n}"):
            ud.interop.diffusers.scheduler(STEEP, times=times)
    with pytest.raises(ValueError, match="core must have betas below 1 in float32"):
        ud.interop.diffusers.scheduler(ud.Diffusion(ud.Schedule.from_betas([0.1, 1 - 1e-9]), STEEP.denoiser))
    with pytest.warns(UserWarning, match="its config keeps beta in float32.* SNR 29% off at timestep 9") as told:
        back = ud.interop.diffusers.scheduler(STEEP, times=torch.arange(1, 11, dtype=torch.float64) / 10)
    assert len(told) == 1
    anew = type(back).from_config(back.config).alphas_cumprod.double()
    assert ((anew / back.alphas_cumprod)[-1] - 1).abs().item() == pytest.approx(0.29, abs=0.01)
    # ᾱ of 1 − 3e-9 is 1 in float32, without noise.
    with pytest.warns(UserWarning, match="SNR inf% off at timestep 0"):
        ud.interop.diffusers.scheduler(
            ud.Diffusion(ud.Schedule.cosine(25.0, -5.0), STEEP.denoiser), times=[1e-5, 0.5, 1.0]
        )


def test_diffusers_own_loop_with_it_samples_the_core() -> None:
    world = ud.worlds.OracleDenoiser(ud.worlds.library.mixture_2d().to(torch.float32))
    core = ud.Diffusion(ud.Schedule.cosine(8.0, -8.0), world)
    times = torch.linspace(0.05, 1.0, 20, dtype=torch.float64)
    back = ud.interop.diffusers.scheduler(core, "ddim", times=times)
    back.set_timesteps(20)
    x = start = torch.randn(64, 2, generator=seeded())
    for n in back.timesteps:
        x = back.step(core.predict(x, times[n]).eps, n, x).prev_sample
    first = core.schedule.time(core.schedule.log_snr(0.0))
    grid = ud.TimeGrid(torch.cat([first.reshape(1), times]))
    ours = ud.Sampler(core, grid, "ddim")(start)
    # Their last step goes to no noise at all, ours to that of t = 0, e^{-4}.
    assert (x - ours).abs().max() < 0.15
    assert (x - ours).abs().mean() < 0.03


def test_a_learned_variance_goes_back_too() -> None:
    core = ud.interop.diffusers.core(unet(learned=True), scheduler(variance_type="learned_range"))
    assert ud.interop.diffusers.scheduler(core).config.variance_type == "learned_range"


def test_what_has_no_scheduler_is_refused() -> None:
    world = ud.worlds.OracleDenoiser(ud.worlds.library.mixture_2d())
    core, wide = (ud.Diffusion(s, world) for s in (ud.Schedule.cosine(), ud.Schedule.karras()))
    with pytest.raises(ValueError, match="core must have a variance-preserving schedule"):
        ud.interop.diffusers.scheduler(wide, times=[0.5, 1.0])
    with pytest.raises(ValueError, match="times must be given"):
        ud.interop.diffusers.scheduler(core)
    for times in ([0.0, 1.0], [0.5, 0.5], [0.5, 1.5], []):
        with pytest.raises(ValueError, match=r"times must increase strictly within \(0, 1\]"):
            ud.interop.diffusers.scheduler(core, times=times)
    with pytest.raises(ValueError, match="unknown kind 'euler'"):
        ud.interop.diffusers.scheduler(core, "euler", times=[0.5, 1.0])  # pyright: ignore
    with pytest.raises(ValueError, match="unknown prediction 'score'"):
        ud.interop.diffusers.scheduler(core, times=[0.5, 1.0], prediction="score")
    with pytest.raises(TypeError, match="core must be a Diffusion"):
        ud.interop.diffusers.scheduler(world, times=[0.5, 1.0])  # pyright: ignore


def saved(folder: Path, model: Any, sched: Any, **options: Any) -> Path:
    model.save_pretrained(folder / "unet", **options)
    sched.save_pretrained(folder / "scheduler")
    return folder


def test_a_folder_is_the_core_that_was_saved(tmp_path: Path) -> None:
    model, sched = unet(), scheduler(prediction_type="sample")
    loaded = ud.interop.diffusers.load(saved(tmp_path, model, sched))
    x = torch.randn(2, 1, 4, 4, generator=seeded())
    assert torch.equal(loaded.predict(x, 0.5).x0, ud.interop.diffusers.core(model, sched).predict(x, 0.5).x0)
    assert not loaded.training
    wide = ud.interop.diffusers.load(tmp_path, dtype=torch.float64)
    assert next(wide.parameters()).dtype == torch.float64


def test_a_folder_of_a_text_conditional_unet(tmp_path: Path) -> None:
    table = embeddings()
    saved(tmp_path, text_unet(), scheduler("DDIMScheduler"))
    loaded = ud.interop.diffusers.load(tmp_path, prompts=table[:3], null=table[3])
    assert ud.sample(loaded, 2, steps=3, condition=torch.tensor(1), guidance=2.0).shape == (2, 1, 4, 4)


def test_pickled_weights_are_never_read(tmp_path: Path) -> None:
    saved(tmp_path, unet(), scheduler())
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"must hold the weights unet/diffusion_pytorch_model.safetensors"):
        ud.interop.diffusers.load(tmp_path)
    torch.save({}, tmp_path / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match=r"got diffusion_pytorch_model.bin in .*, which would have to be unpickled"):
        ud.interop.diffusers.load(tmp_path)


def test_weights_that_are_not_the_unets_are_refused(tmp_path: Path) -> None:
    files = need("safetensors.torch")
    saved(tmp_path, unet(), scheduler())
    path = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    whole = files.load_file(path)
    lacking = {key: value for key, value in whole.items() if key != "conv_out.weight"}
    for weights, message in (
        (lacking, r"missing conv_out.weight \(1\)"),
        (whole | {"other": torch.ones(1)}, r"unexpected other \(1\)"),
        (whole | {"conv_out.weight": torch.ones(1, 8, 1, 1)}, r"mismatched conv_out.weight \(1\)"),
        (lacking | {"other": torch.ones(1)}, r"missing conv_out.weight \(1\); unexpected other \(1\)"),
    ):
        files.save_file(weights, path)
        with pytest.raises(ValueError, match=f"folder must hold the UNet's weights.*{tmp_path / 'unet'}.*{message}"):
            ud.interop.diffusers.load(tmp_path)


@pytest.mark.parametrize("folder", [3, None])
def test_a_folder_that_is_no_path(folder: Any) -> None:
    with pytest.raises(TypeError, match=f"folder must be a str or a Path, got {folder}"):
        ud.interop.diffusers.load(folder)


@pytest.mark.parametrize(("preconditioning", "name"), [("edm", "epsilon"), ("none", "sample")])
def test_a_preconditioned_networks_prediction_is_not_its_output(preconditioning: Any, name: str) -> None:
    network = ud.Denoiser(lambda x, log_snr, c: x, (2,), "x0", preconditioning=preconditioning)
    core = ud.Diffusion(ud.Schedule.cosine(8.0, -8.0), network)
    assert ud.interop.diffusers.scheduler(core, times=[0.5, 1.0]).config.prediction_type == name


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no .*config.json"):
        ud.interop.diffusers.load(tmp_path / "nowhere")
    saved(tmp_path, unet(), scheduler())
    with pytest.raises(ValueError, match="dtype must be"):
        ud.interop.diffusers.load(tmp_path, dtype=torch.float16)
    configuration = tmp_path / "scheduler" / "scheduler_config.json"
    kept = json.loads(configuration.read_text())
    for name, message in (
        ("UNet2DModel", "folder must hold a scheduler of diffusers', got 'UNet2DModel'"),
        ("load_image", "folder must hold a scheduler of diffusers', got 'load_image'"),
    ):
        configuration.write_text(json.dumps(kept | {"_class_name": name}))
        with pytest.raises(ValueError, match=message):
            ud.interop.diffusers.load(tmp_path)
    configuration.write_text("[]")
    with pytest.raises(ValueError, match="must hold configurations that name their class"):
        ud.interop.diffusers.load(tmp_path)
    other = tmp_path / "unet" / "config.json"
    other.write_text(json.dumps(json.loads(other.read_text()) | {"_class_name": "AutoencoderKL"}))
    with pytest.raises(ValueError, match="unknown class in unet/config.json 'AutoencoderKL'"):
        ud.interop.diffusers.load(tmp_path)
