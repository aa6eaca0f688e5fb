"""Small models of other libraries, and where those are not installed, why a test is skipped."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import unidiff as ud

T = 100
DTYPES = {torch.float32: 1e-5, torch.float64: 1e-10}


def need(name: str) -> Any:
    """The module of a peer; what it warns of while it is imported is its own business. Without it the test is skipped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            pytest.skip(f"needs {name}: {error.name} is not installed", allow_module_level=True)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def unet(channels: int = 1, size: int = 4, learned: bool = False, **options: Any) -> Any:
    """A UNet2DModel of random weights that is not zero anywhere."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return (
            need("diffusers")
            .UNet2DModel(
                sample_size=size,
                in_channels=channels,
                out_channels=channels * (2 if learned else 1),
                block_out_channels=(8, 8),
                layers_per_block=1,
                norm_num_groups=4,
                down_block_types=("DownBlock2D", "DownBlock2D"),
                up_block_types=("UpBlock2D", "UpBlock2D"),
                attention_head_dim=4,
                **options,
            )
            .eval()
        )


def text_unet(**options: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return (
            need("diffusers")
            .UNet2DConditionModel(
                sample_size=4,
                in_channels=1,
                out_channels=1,
                block_out_channels=(8, 8),
                layers_per_block=1,
                norm_num_groups=4,
                cross_attention_dim=6,
                attention_head_dim=4,
                down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
                **options,
            )
            .eval()
        )


def embeddings(prompts: int = 3) -> Tensor:
    return torch.randn(prompts + 1, 2, 6, generator=seeded(3))


def scheduler(kind: str = "DDPMScheduler", **options: Any) -> Any:
    own = {"num_train_timesteps": T, "beta_end": 0.05} | options
    if kind in ("DDPMScheduler", "DDIMScheduler"):
        own = {"clip_sample": False} | own
    return getattr(need("diffusers"), kind)(**own)


def in_float64(scheduler: Any) -> Any:
    """The scheduler with its tables in float64, so that its own steps are; else they have float32's digits."""
    scheduler.betas = scheduler.betas.double()
    scheduler.alphas = 1 - scheduler.betas
    scheduler.alphas_cumprod = scheduler.alphas.cumprod(0)
    scheduler.one = torch.tensor(1.0, dtype=torch.float64)
    if hasattr(scheduler, "final_alpha_cumprod"):
        held = not scheduler.config.set_alpha_to_one
        scheduler.final_alpha_cumprod = scheduler.alphas_cumprod[0] if held else scheduler.one
    return scheduler


class Native(nn.Module):
    """What a user would write by hand: timesteps read off a schedule's times, and the UNet asked there."""

    def __init__(self, schedule: ud.Schedule, model: nn.Module, name: str | None = None) -> None:
        super().__init__()
        self.schedule, self.model, self.name = schedule, model, name

    def forward(self, x: Tensor, log_snr: Tensor, condition: Tensor | None = None) -> Tensor:
        least = self.schedule.log_snr(1.0).item()  # its float32 may lie below
        n = (T * self.schedule.time(log_snr.double().clamp(min=least)) - 1).clamp(min=0)
        whole = n.round()
        n = torch.where((n - whole).abs() < 1e-3, whole, n)
        labels = {} if self.name is None else {self.name: condition}
        return self.model(x, n.to(x.dtype), **labels, return_dict=False)[0]
