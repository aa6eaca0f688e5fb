"""One step of diffusers' own loop is one step of the chain, or of DDIM, on the same core at the same timesteps.

In float64, diffusers' tables included. Left out because they are not right there: DDIM with spacing "linspace", and with
a number of steps that does not divide T, whose step goes to n − T//N whatever its list says (the last test). In its last
step DDPM holds the variance at 1e-20 where it is 0, and draws, unless the timestep is 0: that noise is allowed for.
"""

from __future__ import annotations

import pytest
import torch

import unidiff as ud
from tests.interop.peers import T, in_float64, need, scheduler, seeded, unet

need("diffusers")
KINDS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
CUSTOM = [99, 71, 40, 12, 3, 0]


@pytest.mark.parametrize("prediction", KINDS)
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace", "custom"])
def test_ddpm_steps_are_the_chains(spacing, prediction) -> None:
    options = {} if spacing == "custom" else {"timestep_spacing": spacing}
    sched = in_float64(scheduler(prediction_type=prediction, **options))
    sched.set_timesteps(**({"timesteps": CUSTOM} if spacing == "custom" else {"num_inference_steps": 7}))
    model = unet().double()
    core, grid = ud.interop.diffusers.core(model, sched), ud.interop.diffusers.grid(sched)
    chain = core.chain(grid, "posterior")
    x, generator = torch.randn(2, 1, 4, 4, generator=seeded(5), dtype=torch.float64), seeded(6)
    down = len(sched.timesteps)
    for k, n in zip(range(down, 0, -1), sched.timesteps, strict=True):
        noise_of = torch.Generator().manual_seed(0)
        noise_of.set_state(generator.get_state())
        with torch.no_grad():
            theirs = sched.step(model(x, n).sample, n, x, generator=generator).prev_sample
            own = chain.step(x, k)
        noise = torch.randn(x.shape, generator=noise_of, dtype=x.dtype)
        floor = 1e-10 if k == 1 and int(n) > 0 else 0.0  # √1e-20
        ours = own.mean + (own.log_var / 2).exp() * noise + floor * noise
        gap = ((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1)).item()
        assert gap <= 1e-10, (k, int(n), gap)
        x = theirs


@pytest.mark.parametrize("prediction", KINDS)
@pytest.mark.parametrize("to_one", [True, False])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_ddim_steps_are_the_samplers(eta, spacing, to_one, prediction) -> None:
    sched = in_float64(
        scheduler(
            "DDIMScheduler",
            prediction_type=prediction,
            timestep_spacing=spacing,
            set_alpha_to_one=to_one,
            steps_offset=1,
        )
    )
    sched.set_timesteps(10)
    model = unet().double()
    core, grid = ud.interop.diffusers.core(model, sched), ud.interop.diffusers.grid(sched)
    sampler = ud.Sampler(core, grid, "ddim", eta=eta)
    table, first = sampler.table, sampler.table.rows - len(sched.timesteps)
    noise = torch.randn(10, 2, 1, 4, 4, generator=seeded(6), dtype=torch.float64)
    x = torch.randn(2, 1, 4, 4, generator=seeded(5), dtype=torch.float64)
    for row, n in enumerate(sched.timesteps):
        with torch.no_grad():
            drawn = noise[row] if eta else None
            theirs = sched.step(model(x, n).sample, n, x, eta=eta, variance_noise=drawn).prev_sample
            at = first + row
            x0 = core.predict(x, table.t[at]).x0
        ours = table.on_xt[at] * x + table.on_x0[at] * x0 + table.noise[at] * noise[row]
        gap = ((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1)).item()
        assert gap <= 1e-10, (row, int(n), gap)
        x = theirs
    if spacing == "trailing":  # begins at t = 1: the whole walk is the sampler's
        start = torch.randn(2, 1, 4, 4, generator=seeded(5), dtype=torch.float64)
        ours = sampler(start, noise=noise)
        assert ((ours - x).abs().max() / x.abs().max()).item() <= 1e-10


def test_a_ddim_step_with_spacing_linspace_is_not_to_what_its_list_says() -> None:
    sched = in_float64(scheduler("DDIMScheduler", timestep_spacing="linspace"))
    sched.set_timesteps(10)
    listed = sched.timesteps.tolist()
    assert listed[:2] == [99, 88]
    model = unet().double()
    x = torch.randn(2, 1, 4, 4, generator=seeded(5), dtype=torch.float64)
    with torch.no_grad():
        output = model(x, 99).sample
    theirs = sched.step(output, 99, x).prev_sample
    core = ud.interop.diffusers.core(model, sched)

    def to(n: int) -> torch.Tensor:
        grid = ud.TimeGrid(torch.tensor([(n + 1) / T, 1.0], dtype=torch.float64))
        return ud.Sampler(core, grid, "ddim")(x)

    assert (to(89) - theirs).abs().max().item() < 1e-9 * theirs.abs().max().item()
    assert (to(88) - theirs).abs().max().item() > 1e-4 * theirs.abs().max().item()
