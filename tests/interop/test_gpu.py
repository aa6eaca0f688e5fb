"""Adapted cores on a GPU are those on the CPU: samples by every method (captured too), bounds, log-probabilities."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import unidiff as ud
from tests.interop.peers import T, embeddings, need, scheduler, seeded, text_unet, unet
from unidiff.core.tables import METHODS

need("diffusers")
pytestmark = pytest.mark.gpu
GRID = ud.TimeGrid(torch.tensor([1, 4, 20, 51, 100], dtype=torch.float64) / T)
START = 0.5 * torch.randn(2, 1, 4, 4, generator=seeded(1), dtype=torch.float64)


class Waves(torch.nn.Module):
    """A time embedding in the times' own dtype. That of diffusers is in float32 always, whose sines differ by 1e-8 from
    device to device: nothing of an adapter's."""

    def forward(self, times: torch.Tensor) -> torch.Tensor:
        phases = times[:, None] * 10.0 ** -torch.arange(4, device=times.device, dtype=times.dtype)
        return torch.cat([phases.sin(), phases.cos()], dim=1)


def near(gpu: torch.Tensor, cpu: torch.Tensor) -> None:
    assert gpu.is_cuda
    gap = ((gpu.cpu() - cpu).abs().max() / cpu.abs().max().clamp(min=1)).item()
    assert gap <= 1e-10, gap


@pytest.mark.parametrize("graph", [False, None], ids=["eager", "captured"])
@pytest.mark.parametrize("text", [False, True], ids=["unet", "text"])
def test_a_unet_on_a_gpu_is_the_unet_on_the_cpu(text, graph) -> None:
    def made(device: str) -> Any:
        prompts: Any = {"prompts": embeddings()[:3].to(device), "null": embeddings()[3].to(device)} if text else {}
        model = (text_unet() if text else unet()).to(device)
        model.time_proj = Waves()
        return ud.interop.diffusers.core(model, scheduler("DDIMScheduler"), **prompts).to(torch.float64)

    cores, condition = [made("cuda"), made("cpu")], torch.tensor([0, 2]) if text else None
    noise = torch.randn(32, 2, 1, 4, 4, generator=seeded(2), dtype=torch.float64)
    for method in METHODS:
        ends = []
        for core, device in zip(cores, ("cuda", "cpu"), strict=True):
            captured = graph if device == "cuda" else False
            sampler = ud.Sampler(core, GRID, method, guidance=2.0 if text else 1.0, graph=captured)
            labels = None if condition is None else condition.to(device)
            ends.append(sampler(START.to(device), condition=labels, noise=noise[: sampler.table.rows].to(device)))
        near(*ends)
    if not text:
        chains = [core.chain(GRID, "prior") for core in cores]
        for k in range(1, GRID.steps + 1):
            near(chains[0].step(START.cuda(), k).log_prob(START.cuda()), chains[1].step(START, k).log_prob(START))
        draws = torch.randn(6, 2, 1, 4, 4, generator=seeded(3), dtype=torch.float64)
        grid = ud.TimeGrid.uniform(5, first=0.01)
        bounds = [
            ud.HierarchicalVAE(core).elbo(START.to(device), grid, noise=draws.to(device))
            for core, device in zip(cores, ("cuda", "cpu"), strict=True)
        ]
        for term in ("prior", "diffusion"):
            near(getattr(bounds[0], term), getattr(bounds[1], term))


def test_structural_identities_hold_on_a_gpu() -> None:
    core = ud.interop.diffusers.core(unet().cuda(), scheduler(prediction_type="v_prediction"))
    report = ud.verify(core, only=["conversions-round-trip", "ancestral-is-chain"], device="cuda")
    assert report.exit_status == 0, [c for c in report.checks if c.verdict == "fail"]
